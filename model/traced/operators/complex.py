"""Complex numbers as pairs of arrays, and the Fourier transform as a product: no runtime here has both otherwise."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from . import operator
from .create import count


class Pair(NamedTuple):
    """The real and the imaginary part."""

    real: Array
    imaginary: Array

    @property
    def ndim(self) -> int:
        """Count the axes, as of an array."""
        return self.real.ndim

    @property
    def shape(self) -> tuple[Any, ...]:
        """Give the shape, as of an array."""
        return self.real.shape


def _pair(x: Any) -> Pair:
    return x if isinstance(x, Pair) else Pair(x, jnp.zeros_like(x))


def _transformed(x: Any, axis: int) -> Pair:
    """Transform along one axis: sums over cosines and sines of whole turns, whose angles are reduced before."""
    real, imaginary = _pair(x)
    size = real.shape[axis]
    places = count(size)
    turns = (places[:, None] * places) % size
    angle = turns.astype(jnp.float32) * (2 * jnp.pi / _number(size))
    cosine, sine = jnp.cos(angle), jnp.sin(angle)

    def along(array: Array, matrix: Array) -> Array:
        return jnp.moveaxis(jnp.tensordot(array, matrix, axes=[[axis], [0]]), -1, axis)

    return Pair(
        along(real, cosine) + along(imaginary, sine),
        along(imaginary, cosine) - along(real, sine),
    )


def _number(size: Any) -> Any:
    return float(size) if isinstance(size, int) else jnp.asarray(size, jnp.float32)


@operator("aten.fft_fftn")
def fft_fftn(self: Any, s: Any = None, dim: Sequence[int] | None = None, norm: str | None = None) -> Pair:
    """Transform along several axes, all by default; without a norm."""
    if s is not None or norm not in (None, "backward"):
        raise NotImplementedError("a Fourier transform that is cut, padded or scaled")
    x = _pair(self)
    for axis in range(x.ndim) if dim is None else dim:
        x = _transformed(x, axis % x.ndim)
    return x


@operator("aten.fft_fft2")
def fft_fft2(self: Any, s: Any = None, dim: Sequence[int] = (-2, -1), norm: str | None = None) -> Pair:
    """Transform along two axes, the last ones by default."""
    return fft_fftn(self, s, dim, norm)


@operator("aten.fft_fft")
def fft_fft(self: Any, n: Any = None, dim: int = -1, norm: str | None = None) -> Pair:
    """Transform along an axis."""
    return fft_fftn(self, None if n is None else [n], [dim], norm)


@operator("aten.view_as_real")
def view_as_real(self: Pair) -> Array:
    """Give the two parts on an axis of their own at the end."""
    return jnp.stack(self, axis=-1)


@operator("aten.view_as_complex")
def view_as_complex(self: Array) -> Pair:
    """Take the two places of the last axis as parts."""
    return Pair(self[..., 0], self[..., 1])


@operator("aten.real")
def real(self: Any) -> Array:
    """Give the real part."""
    return _pair(self).real


@operator("aten.imag")
def imag(self: Pair) -> Array:
    """Give the imaginary part."""
    return self.imaginary


@operator("aten.polar")
def polar(abs: Array, angle: Array) -> Pair:  # noqa: A002 - ATen's name
    """Give the number of a length at an angle."""
    return Pair(abs * jnp.cos(angle), abs * jnp.sin(angle))


@operator("aten.complex")
def complex_(real: Array, imag: Array) -> Pair:
    """Give the number of two parts."""
    return Pair(real, imag)

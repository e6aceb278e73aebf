"""Arrays made of nothing, and other types."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ....validation.sizes import Size
from . import operator

Number = Any


def count(end: Size) -> Array:
    """0, 1, ... as many as asked for."""
    return jax.lax.broadcasted_iota(jnp.int32, (end,), 0)


@operator("aten.arange.default")
def arange(end: Size, *, dtype: Any = None) -> Array:
    """0, 1, ... below an end."""
    return arange_start(0, end)


@operator("aten.arange.start", "aten.arange.start_step")
def arange_start(start: Number, end: Number, step: Number = 1, *, dtype: Any = None) -> Array:
    """From a start, by steps, below an end."""
    if all(isinstance(each, int | float) for each in (start, end, step)):
        return jnp.arange(start, end, step)
    whole = int(step) if isinstance(step, float) and step.is_integer() else step
    places = -((end - start) // -whole) if whole > 0 else (start - end + -whole - 1) // -whole
    return start + count(places) * step


@operator("aten.full")
def full(size: Sequence[Size], fill_value: Number, *, dtype: Any = None) -> Array:
    """The same number everywhere."""
    return jnp.broadcast_to(jnp.asarray(fill_value), tuple(size))


@operator("aten.zeros", "aten.empty", "aten.empty_permuted")
def zeros(size: Sequence[Size], *rest: Any, dtype: Any = None) -> Array:
    """Zeros; what torch leaves unset is zero too."""
    return jnp.zeros(tuple(size))


@operator("aten.ones")
def ones(size: Sequence[Size], *, dtype: Any = None) -> Array:
    """Ones."""
    return jnp.ones(tuple(size))


@operator("aten.zeros_like", "aten.empty_like")
def zeros_like(self: Array, *, dtype: Any = None) -> Array:
    """Zeros in another's shape."""
    return jnp.zeros(self.shape, self.dtype)


@operator("aten.ones_like")
def ones_like(self: Array, *, dtype: Any = None) -> Array:
    """Ones in another's shape."""
    return jnp.ones(self.shape, self.dtype)


@operator("aten.full_like")
def full_like(self: Array, fill_value: Number, *, dtype: Any = None) -> Array:
    """The same number, in another's shape."""
    return jnp.broadcast_to(jnp.asarray(fill_value), self.shape)


@operator("aten.new_zeros", "aten.new_empty")
def new_zeros(self: Array, size: Sequence[Size], *, dtype: Any = None) -> Array:
    """Zeros of another's type."""
    return jnp.zeros(tuple(size), self.dtype)


@operator("aten.new_ones")
def new_ones(self: Array, size: Sequence[Size], *, dtype: Any = None) -> Array:
    """Ones of another's type."""
    return jnp.ones(tuple(size), self.dtype)


@operator("aten.new_full")
def new_full(self: Array, size: Sequence[Size], fill_value: Number, *, dtype: Any = None) -> Array:
    """The same number, of another's type."""
    return jnp.broadcast_to(jnp.asarray(fill_value), tuple(size))


@operator("aten.fill", "aten.fill_")
def fill(self: Array, value: Number) -> Array:
    """The same number, in another's shape."""
    return jnp.broadcast_to(jnp.asarray(value, self.dtype), self.shape)


@operator("aten.scalar_tensor")
def scalar_tensor(s: Number, *, dtype: Any = None) -> Array:
    """A number alone."""
    return jnp.asarray(s)


@operator("aten.eye.default", "aten.eye.m")
def eye(n: Size, m: Size = None, *, dtype: Any = None) -> Array:
    """Ones on the diagonal."""
    return (count(n)[:, None] == count(n if m is None else m)).astype(jnp.float32)


@operator("aten.linspace")
def linspace(start: Number, end: Number, steps: Size, *, dtype: Any = None) -> Array:
    """So many numbers at equal distances."""
    if isinstance(steps, int):
        return jnp.linspace(start, end, steps)
    return start + count(steps) * ((end - start) / (jnp.asarray(steps, jnp.float32) - 1))


@operator("aten._to_copy", "aten.to", "aten.type_as", "aten.float", "aten._cast_Float", "prims.convert_element_type")
def to(self: Array, *rest: Any, **kwargs: Any) -> Array:
    """Another type: the interpreter gives the result the one that torch says."""
    return self


@operator("aten.copy")
def copy(self: Array, src: Array, non_blocking: bool = False) -> Array:
    """Another's numbers, in one's own shape and type."""
    return jnp.broadcast_to(src, self.shape)

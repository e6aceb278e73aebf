"""Along axes: sums, extremes, softmax, cumulative sums, order."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from . import operator

Axes = Any
"""An axis, several, or none: all."""


def _axes(dim: Axes) -> Any:
    if isinstance(dim, list | tuple):
        return tuple(dim) or None
    return dim


@operator("aten.sum", "aten.nansum")
def sum_(self: Array, dim: Axes = None, keepdim: bool = False, *, dtype: Any = None) -> Array:
    """Add up."""
    return jnp.sum(_number(self), axis=_axes(dim), keepdims=keepdim)


@operator("aten.mean")
def mean(self: Array, dim: Axes = None, keepdim: bool = False, *, dtype: Any = None) -> Array:
    """Give the mean."""
    return jnp.mean(self, axis=_axes(dim), keepdims=keepdim)


@operator("aten.prod", "aten.prod.dim_int")
def prod(self: Array, dim: Axes = None, keepdim: bool = False, *, dtype: Any = None) -> Array:
    """Multiply."""
    return jnp.prod(_number(self), axis=_axes(dim), keepdims=keepdim)


def _number(x: Array) -> Array:
    return x.astype(jnp.int32) if x.dtype == jnp.bool_ else x


@operator("aten.amax")
def amax(self: Array, dim: Axes = (), keepdim: bool = False) -> Array:
    """Give the largest."""
    return jnp.max(self, axis=_axes(dim), keepdims=keepdim)


@operator("aten.amin")
def amin(self: Array, dim: Axes = (), keepdim: bool = False) -> Array:
    """Give the smallest."""
    return jnp.min(self, axis=_axes(dim), keepdims=keepdim)


@operator("aten.max.default")
def max_(self: Array) -> Array:
    """Give the largest of all."""
    return jnp.max(self)


@operator("aten.min.default")
def min_(self: Array) -> Array:
    """Give the smallest of all."""
    return jnp.min(self)


@operator("aten.max.other")
def max_other(self: Array, other: Array) -> Array:
    """Give the larger of two."""
    return jnp.maximum(self, other)


@operator("aten.min.other")
def min_other(self: Array, other: Array) -> Array:
    """Give the smaller of two."""
    return jnp.minimum(self, other)


@operator("aten.max.dim")
def max_dim(self: Array, dim: int, keepdim: bool = False) -> tuple[Array, Array]:
    """Give the largest along an axis, and where it is."""
    return jnp.max(self, axis=dim, keepdims=keepdim), jnp.argmax(self, axis=dim, keepdims=keepdim)


@operator("aten.min.dim")
def min_dim(self: Array, dim: int, keepdim: bool = False) -> tuple[Array, Array]:
    """Give the smallest along an axis, and where it is."""
    return jnp.min(self, axis=dim, keepdims=keepdim), jnp.argmin(self, axis=dim, keepdims=keepdim)


@operator("aten.argmax")
def argmax(self: Array, dim: int | None = None, keepdim: bool = False) -> Array:
    """Say where the largest is."""
    return jnp.argmax(_number(self), axis=dim, keepdims=keepdim)


@operator("aten.argmin")
def argmin(self: Array, dim: int | None = None, keepdim: bool = False) -> Array:
    """Say where the smallest is."""
    return jnp.argmin(_number(self), axis=dim, keepdims=keepdim)


@operator("aten.any")
def any_(self: Array, dim: Axes = None, keepdim: bool = False) -> Array:
    """Say whether one is not 0."""
    return jnp.any(self != 0, axis=_axes(dim), keepdims=keepdim)


@operator("aten.all")
def all_(self: Array, dim: Axes = None, keepdim: bool = False) -> Array:
    """Say whether none is 0."""
    return jnp.all(self != 0, axis=_axes(dim), keepdims=keepdim)


@operator("aten.count_nonzero")
def count_nonzero(self: Array, dim: Axes = None) -> Array:
    """Count what is not 0."""
    return jnp.sum((self != 0).astype(jnp.int32), axis=_axes(dim))


@operator("aten.var.correction", "aten.var.dim", "aten.var.default")
def var(
    self: Array, dim: Axes = None, *rest: Any, correction: Any = 1, unbiased: Any = None, keepdim: bool = False
) -> Array:
    """Give the variance."""
    return var_mean(self, dim, *rest, correction=correction, unbiased=unbiased, keepdim=keepdim)[0]


@operator("aten.std.correction", "aten.std.dim", "aten.std.default")
def std(
    self: Array, dim: Axes = None, *rest: Any, correction: Any = 1, unbiased: Any = None, keepdim: bool = False
) -> Array:
    """Give the deviation."""
    return jnp.sqrt(var(self, dim, *rest, correction=correction, unbiased=unbiased, keepdim=keepdim))


@operator("aten.var_mean.correction", "aten.var_mean.dim", "aten.var_mean.default")
def var_mean(
    self: Array, dim: Axes = None, *rest: Any, correction: Any = 1, unbiased: Any = None, keepdim: bool = False
) -> tuple[Array, Array]:
    """Give variance and mean."""
    if isinstance(dim, bool):  # the older overload: (self, unbiased)
        dim, unbiased = None, dim
    if rest:  # the older overload: (self, dim, unbiased, keepdim)
        unbiased, keepdim = (*rest, keepdim)[:2]
    if unbiased is not None:
        correction = int(unbiased)
    correction = 1 if correction is None else correction
    axes = _axes(dim)
    average = jnp.mean(self, axis=axes, keepdims=True)
    squares = jnp.sum(jnp.square(self - average), axis=axes, keepdims=keepdim)
    counted = range(self.ndim) if axes is None else axes if isinstance(axes, tuple) else (axes,)
    count: Any = 1
    for axis in counted:
        count = count * self.shape[axis]
    places = (count - correction) if isinstance(count, int) else jnp.asarray(count, self.dtype) - correction
    kept = average if keepdim else jnp.squeeze(average, axis=axes)
    return squares / places, kept


@operator("aten.logsumexp")
def logsumexp(self: Array, dim: Axes, keepdim: bool = False) -> Array:
    """Log of the sum of exponentials."""
    return jax.nn.logsumexp(self, axis=_axes(dim), keepdims=keepdim)


@operator("aten.linalg_vector_norm")
def linalg_vector_norm(
    self: Array, order: Any = 2, dim: Axes = None, keepdim: bool = False, *, dtype: Any = None
) -> Array:
    """Give the norm of an order."""
    axes = _axes(dim)
    if order == 2:
        return jnp.sqrt(jnp.sum(jnp.square(self), axis=axes, keepdims=keepdim))
    size = jnp.abs(self)
    if order == float("inf"):
        return jnp.max(size, axis=axes, keepdims=keepdim)
    if order == float("-inf"):
        return jnp.min(size, axis=axes, keepdims=keepdim)
    if order == 0:
        return jnp.sum((self != 0).astype(self.dtype), axis=axes, keepdims=keepdim)
    if order == 1:
        return jnp.sum(size, axis=axes, keepdims=keepdim)
    return jnp.sum(size**order, axis=axes, keepdims=keepdim) ** (1.0 / order)


@operator("aten.norm")
def norm(self: Array, p: Any = 2, dim: Axes = None, keepdim: bool = False, *, dtype: Any = None) -> Array:
    """Give the norm of an order, 2 by default."""
    return linalg_vector_norm(self, 2 if p is None else p, dim, keepdim)


@operator("aten.softmax", "aten._softmax", "aten._safe_softmax")
def softmax(self: Array, dim: int, half_to_float: Any = None, *, dtype: Any = None) -> Array:
    """Exponentials that sum to 1 along an axis."""
    shifted = self - jax.lax.stop_gradient(jnp.max(self, axis=dim, keepdims=True))
    exponentials = jnp.exp(shifted)
    return exponentials / jnp.sum(exponentials, axis=dim, keepdims=True)


@operator("aten.log_softmax", "aten._log_softmax")
def log_softmax(self: Array, dim: int, half_to_float: Any = None, *, dtype: Any = None) -> Array:
    """Log of softmax."""
    shifted = self - jax.lax.stop_gradient(jnp.max(self, axis=dim, keepdims=True))
    return shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis=dim, keepdims=True))


@operator("aten.cumsum")
def cumsum(self: Array, dim: int, *, dtype: Any = None) -> Array:
    """Add up to each place."""
    return jnp.cumsum(_number(self), axis=dim)


@operator("aten.cumprod")
def cumprod(self: Array, dim: int, *, dtype: Any = None) -> Array:
    """Multiply up to each place."""
    return jnp.cumprod(_number(self), axis=dim)


@operator("aten.topk")
def topk(self: Array, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Array, Array]:  # noqa: A002
    """Give the k largest in order, and where they are."""
    moved = jnp.moveaxis(self, dim, -1)
    values, places = jax.lax.top_k(moved if largest else -moved, k)
    return jnp.moveaxis(values if largest else -values, -1, dim), jnp.moveaxis(places, -1, dim)


@operator("aten.sort", "aten.sort.stable")
def sort(
    self: Array, *arguments: Any, stable: Any = None, dim: int = -1, descending: bool = False
) -> tuple[Array, Array]:
    """Order along an axis; equal ones stay in their order."""
    if stable is None and len(arguments) == 2:
        dim, descending = arguments
    elif arguments:
        dim = arguments[0]
    order = jnp.argsort(self, axis=dim, stable=True, descending=descending)
    return jnp.sort(self, axis=dim, stable=True, descending=descending), order


@operator("aten.argsort", "aten.argsort.stable")
def argsort(self: Array, *arguments: Any, stable: Any = None, dim: int = -1, descending: bool = False) -> Array:
    """Say what the order along an axis is."""
    return sort(self, *arguments, stable=stable, dim=dim, descending=descending)[1]


@operator("aten.diff")
def diff(self: Array, n: int = 1, dim: int = -1) -> Array:
    """Give the differences of neighbours."""
    return jnp.diff(self, n, axis=dim)

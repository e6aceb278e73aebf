"""Taking from and putting at places. What is written row by row here is what StableHLO 1.0 has a word for."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from . import operator


def _counted(shape: Sequence[Any], axis: int) -> Array:
    """Give the place along an axis, for each place of a shape, with all other axes of size one."""
    short = [size if i == axis else 1 for i, size in enumerate(shape)]
    return jax.lax.broadcasted_iota(jnp.int32, tuple(short), axis)


@operator("aten.embedding")
def embedding(
    weight: Array, indices: Array, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Array:
    """Look rows up. An id outside the table gives NaN, never another row; torch raises."""
    return weight.at[indices].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


@operator("aten.index")
def index(self: Array, indices: Sequence[Array | None]) -> Array:
    """Take by arrays of places for some axes, as numpy does; negative ones count from the end."""
    return self[tuple(_places(self, indices))]


def _places(x: Array, indices: Sequence[Array | None]) -> list[Any]:
    for place in indices:
        if place is not None and place.dtype == jnp.bool_:
            raise NotImplementedError("a mask as an index: how much it takes depends on the values")
    return [slice(None) if place is None else _from_start(place, x.shape[i]) for i, place in enumerate(indices)]


def _from_start(place: Array, size: Any) -> Array:
    return jnp.where(place < 0, place + size, place)


@operator("aten.index_put", "aten._unsafe_index_put", "aten._index_put_impl")
def index_put(self: Array, indices: Sequence[Array | None], values: Array, accumulate: bool = False) -> Array:
    """Put values at places, or add them there. A mask puts one number."""
    if len(indices) == 1 and indices[0] is not None and indices[0].dtype == jnp.bool_:
        if values.ndim or accumulate:
            raise NotImplementedError("values put where a mask says: how many depends on the mask")
        mask = indices[0].reshape(*indices[0].shape, *[1] * (self.ndim - indices[0].ndim))
        return jnp.where(mask, values.astype(self.dtype), self)
    at = self.at[tuple(_places(self, indices))]
    return at.add(values.astype(self.dtype)) if accumulate else at.set(values.astype(self.dtype))


operator("aten._unsafe_index")(index)


@operator("aten.index_select")
def index_select(self: Array, dim: int, index: Array) -> Array:
    """Take places of an axis."""
    return jnp.take(self, index, axis=dim)


@operator("aten.gather")
def gather(self: Array, dim: int, index: Array, *, sparse_grad: bool = False) -> Array:
    """Take one element per place along an axis; `index` may be shorter along the others."""
    if not self.ndim:
        return jnp.broadcast_to(self, index.shape)
    return self[_grid(index, dim % self.ndim)]


def _grid(index: Array, dim: int) -> tuple[Array, ...]:
    """Give places for all axes: those of `index` along one, counted along the others."""
    places = [index if i == dim else _counted(index.shape, i) for i in range(index.ndim)]
    return tuple(jnp.broadcast_arrays(*places))


@operator("aten.take_along_dim")
def take_along_dim(self: Array, indices: Array, dim: int | None = None) -> Array:
    """Take one element per place along an axis, the others repeated to match."""
    if dim is None:
        return gather(self.reshape(-1), 0, indices.reshape(-1))
    dim %= self.ndim
    shape = [
        size if i == dim else jnp.broadcast_shapes((size,), (self.shape[i],))[0] for i, size in enumerate(indices.shape)
    ]
    whole = [self.shape[i] if i == dim else size for i, size in enumerate(shape)]
    return gather(jnp.broadcast_to(self, whole), dim, jnp.broadcast_to(indices, shape))


@operator("aten.scatter.src", "aten.scatter.value")
def scatter(self: Array, dim: int, index: Array, src: Any) -> Array:
    """Put elements, or one number, at places along an axis."""
    return self.at[_grid(index, dim % self.ndim)].set(_matching(src, index, self))


@operator("aten.scatter_add")
def scatter_add(self: Array, dim: int, index: Array, src: Array) -> Array:
    """Add elements at places along an axis."""
    return self.at[_grid(index, dim % self.ndim)].add(_matching(src, index, self))


def _matching(src: Any, index: Array, like: Array) -> Any:
    """Give as much of the source as there are places."""
    if not isinstance(src, jax.Array) or src.ndim == 0:
        return jnp.asarray(src, like.dtype)
    return src[tuple(slice(0, size) for size in index.shape)].astype(like.dtype)


@operator("aten.index_add")
def index_add(self: Array, dim: int, index: Array, source: Array, *, alpha: Any = 1) -> Array:
    """Add slices at places of an axis."""
    moved = jnp.moveaxis(self, dim, 0).at[index].add(alpha * jnp.moveaxis(source, dim, 0))
    return jnp.moveaxis(moved, 0, dim)


@operator("aten.index_fill")
def index_fill(self: Array, dim: int, index: Array, value: Any) -> Array:
    """Put a number at places of an axis."""
    moved = jnp.moveaxis(self, dim, 0).at[index].set(jnp.asarray(value, self.dtype))
    return jnp.moveaxis(moved, 0, dim)


@operator("aten.take")
def take(self: Array, index: Array) -> Array:
    """Take by places in the order of memory."""
    return self.reshape(-1)[index]


@operator("aten.one_hot")
def one_hot(self: Array, num_classes: int) -> Array:
    """Give 1 at the place of each number, 0 elsewhere."""
    return (self[..., None] == jnp.arange(num_classes)).astype(jnp.int32)


def _below(numbers: Array, boundaries: Array, right: bool) -> Array:
    compare = jnp.greater_equal if right else jnp.greater
    return jnp.sum(compare(numbers[..., None], boundaries).astype(jnp.int32), axis=-1)


@operator("aten.bucketize.Tensor")
def bucketize_tensor(self: Array, boundaries: Array, *, out_int32: bool = False, right: bool = False) -> Array:
    """Say how many boundaries lie below each number."""
    return _below(self, boundaries, right)


@operator("aten.searchsorted.Tensor")
def searchsorted(
    sorted_sequence: Array,
    self: Array,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: Any = None,
    sorter: Any = None,
) -> Array:
    """Say where each number belongs in an order."""
    if sorter is not None:
        raise NotImplementedError("searchsorted with a sorter")
    return _below(self, sorted_sequence[..., None, :], right or side == "right")


@operator("aten.isin.Tensor_Tensor")
def isin(elements: Array, test_elements: Array, *, assume_unique: bool = False, invert: bool = False) -> Array:
    """Say which elements are among others."""
    return jnp.any(elements[..., None] == test_elements.reshape(-1), axis=-1) != invert

"""
gather, dynamic_slice: taking by computed places.

An index outside the array makes onnxruntime raise, where JAX's "fill" mode gives NaN.
"""

from collections.abc import Sequence

import numpy as np
from jax.extend.core import JaxprEqn
from jax.lax import GatherScatterMode

from ..dims import INT64
from ..graph import Dim, Shape, Value
from ..lower import Lowering
from ..registry import primitive


@primitive("gather", emits="Gather GatherElements GatherND Slice Squeeze Min Max")
def gather(c: Lowering, eqn: JaxprEqn) -> Value:
    """Recognise what the gather is for: a slice, rows, elements or points."""
    value, numbers, sizes = c.full(eqn.invars[0]), eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    result = eqn.outvars[0].aval.shape
    if eqn.invars[1].aval.ndim == 1 and not numbers.operand_batching_dims:
        return _window(c, eqn, value)
    indices = _clipped(c, eqn, value)
    for pattern in (_rows, _elements, _points):
        found = pattern(c, value, indices, numbers, sizes, result)
        if found is not None:
            return found
    raise c.refusal(eqn, f"gather with {numbers} and slices of {sizes}")


def _clipped(c: Lowering, eqn: JaxprEqn, value: Value) -> Value:
    """Give the indices, brought into range if JAX's mode says so."""
    indices = c.index(eqn.invars[1])
    indices = c.expand(indices, eqn.invars[1].aval.shape)
    if eqn.params["mode"] != GatherScatterMode.CLIP:
        return indices
    limits = _limits(c, value.shape, eqn)
    indices = c.elementwise("Max", c.cast(indices, INT64), c.constant(0, INT64))
    return c.elementwise("Min", indices, limits)


def _limits(c: Lowering, shape: Shape, eqn: JaxprEqn) -> Value:
    """Give the last start of a slice that fits, per indexed axis."""
    sizes = eqn.params["slice_sizes"]
    return c.sizes.vector([shape[axis] - sizes[axis] for axis in eqn.params["dimension_numbers"].start_index_map])


def _window(c: Lowering, eqn: JaxprEqn, value: Value) -> Value:
    """One slice, at places that are a vector: x[:, 0], x[i:i + 3]."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    places = c.expand(c.index(eqn.invars[1]), eqn.invars[1].aval.shape)
    collapsed, result = numbers.collapsed_slice_dims, eqn.outvars[0].aval.shape
    if tuple(collapsed) == tuple(numbers.start_index_map) and len(collapsed) == 1:
        if all(size == dim for i, (size, dim) in enumerate(zip(sizes, value.shape, strict=True)) if i not in collapsed):
            index = c.reshape(_clipped(c, eqn, value), ())
            return c.emit("Gather", value, index, shape=result, dtype=value.dtype, axis=collapsed[0])
    if places.array is not None:
        at = dict(zip(numbers.start_index_map, places.array.tolist(), strict=True))
        start = [at.get(axis, 0) for axis in range(len(sizes))]
        cut = c.slice(value, start, [a + size for a, size in zip(start, sizes, strict=True)])
    else:
        cut = _cut(c, value, _clipped(c, eqn, value), numbers.start_index_map, sizes)
    return c.reshape(cut, result)


def _cut(c: Lowering, value: Value, places: Value, axes: Sequence[int], sizes: Sequence[Dim]) -> Value:
    """Slice from computed places."""
    places = c.cast(places, INT64)
    ends = c.elementwise("Add", places, c.sizes.vector([sizes[axis] for axis in axes]))
    shape = [sizes[axis] if axis in axes else dim for axis, dim in enumerate(value.shape)]
    cut = c.emit("Slice", value, places, ends, c.constant(axes, INT64), shape=shape, dtype=value.dtype)
    return c.slice(cut, [0] * len(sizes), sizes)


def _rows(c: Lowering, value: Value, indices: Value, numbers, sizes: Shape, result: Shape) -> Value | None:
    """Whole slices along one axis, as from an embedding table."""
    if len(numbers.start_index_map) != 1 or numbers.operand_batching_dims:
        return None
    (axis,) = numbers.start_index_map
    places = range(axis, axis + len(indices.shape) - 1)
    whole = all(size == dim for i, (size, dim) in enumerate(zip(sizes, value.shape, strict=True)) if i != axis)
    offset = tuple(i for i in range(len(result)) if i not in places)
    if not whole or tuple(numbers.collapsed_slice_dims) != (axis,) or tuple(numbers.offset_dims) != offset:
        return None
    indices = c.reshape(indices, indices.shape[:-1])
    return c.emit("Gather", value, indices, shape=result, dtype=value.dtype, axis=axis)


def _elements(c: Lowering, value: Value, indices: Value, numbers, sizes: Shape, result: Shape) -> Value | None:
    """One element per place along an axis, the other axes in step: take_along_axis."""
    axes = (*numbers.operand_batching_dims, *numbers.start_index_map)
    rank = len(value.shape)
    if len(numbers.start_index_map) != 1 or sorted(axes) != list(range(rank)) or numbers.offset_dims:
        return None
    (axis,) = numbers.start_index_map
    others = tuple(i for i in range(rank) if i != axis)
    if tuple(numbers.operand_batching_dims) != others or tuple(numbers.start_indices_batching_dims) != others:
        return None
    indices = c.reshape(indices, indices.shape[:-1])
    return c.emit("GatherElements", value, indices, shape=result, dtype=value.dtype, axis=axis)


def _points(c: Lowering, value: Value, indices: Value, numbers, sizes: Shape, result: Shape) -> Value | None:
    """Slices at points of the leading axes: x[i, j]."""
    axes = tuple(range(len(numbers.start_index_map)))
    whole = tuple(sizes[len(axes) :]) == tuple(value.shape[len(axes) :])
    offset = tuple(range(len(indices.shape) - 1, len(result)))
    leading = tuple(numbers.start_index_map) == tuple(numbers.collapsed_slice_dims) == axes
    if numbers.operand_batching_dims or not whole or not leading or tuple(numbers.offset_dims) != offset:
        return None
    return c.emit("GatherND", value, c.cast(indices, INT64), shape=result, dtype=value.dtype)


@primitive("dynamic_slice", emits="Slice Max Min Concat")
def dynamic_slice(c: Lowering, eqn: JaxprEqn) -> Value:
    """Take a range of every axis, moved so that it fits."""
    value, sizes = c.full(eqn.invars[0]), eqn.params["slice_sizes"]
    axes = [i for i, (size, dim) in enumerate(zip(sizes, value.shape, strict=True)) if size != dim]
    if not axes:
        return value
    starts = [c.index(eqn.invars[1 + axis]) for axis in axes]
    starts = c.concat([c.reshape(c.cast(start, INT64), (1,)) for start in starts], axis=0)
    limits = c.sizes.vector([value.shape[axis] - sizes[axis] for axis in axes])
    places = c.elementwise("Min", c.elementwise("Max", starts, c.constant(0, np.int64)), limits)
    return _cut(c, value, places, axes, sizes)

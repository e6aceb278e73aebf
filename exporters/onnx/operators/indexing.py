"""
gather, dynamic_slice: taking by computed places.

An index outside the array makes onnxruntime raise where JAX's "fill" mode gives NaN, also a negative one, which
ONNX by itself would count from the end.
"""

from collections.abc import Sequence

from jax.extend.core import JaxprEqn
from jax.lax import GatherDimensionNumbers, GatherScatterMode

from ...lowering.shapes import Dim, Shape
from ...lowering.walk import shape_of
from ..build import BOOL, END
from ..dims import INT64
from ..graph import Value
from ..lower import Lowering
from ..registry import primitive


@primitive("gather", emits="Gather GatherElements GatherND Slice Less Where Min Max")
def gather(c: Lowering, eqn: JaxprEqn) -> Value:
    """Recognise what the gather is for: a slice, rows, elements or points."""
    value, numbers, sizes = c.full(eqn.invars[0]), eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    result = shape_of(eqn.outvars[0])
    if len(shape_of(eqn.invars[1])) == 1 and not numbers.operand_batching_dims:
        return _window(c, eqn, value)
    indices = _clipped(c, eqn, value)
    for pattern in (_rows, _elements, _points):
        found = pattern(c, value, indices, numbers, sizes, result)
        if found is not None:
            return found
    raise c.refusal(eqn, f"gather with {numbers} and slices of {sizes}")


def _clipped(c: Lowering, eqn: JaxprEqn, value: Value) -> Value:
    """Give the indices, brought into range or, where JAX would give NaN, kept from counting from the end."""
    axes, mode = eqn.params["dimension_numbers"].start_index_map, eqn.params["mode"]
    indices = c.expand(c.index(eqn.invars[1]), shape_of(eqn.invars[1]))
    zero = c.constant(0, indices.dtype)
    if mode == GatherScatterMode.CLIP:
        limits = c.sizes.vector([value.shape[axis] - eqn.params["slice_sizes"][axis] for axis in axes])
        return c.elementwise("Min", c.elementwise("Max", indices, zero), c.cast(limits, indices.dtype))
    if mode != GatherScatterMode.FILL_OR_DROP or (indices.array is not None and (indices.array >= 0).all()):
        return indices
    outside = c.cast(c.sizes.vector([value.shape[axis] for axis in axes]), indices.dtype)
    negative = c.elementwise("Less", indices, zero, dtype=BOOL)
    return c.elementwise("Where", negative, outside, indices, dtype=indices.dtype)


def _window(c: Lowering, eqn: JaxprEqn, value: Value) -> Value:
    """One slice, at places that are a vector: x[:, 0], x[i:i + 3]."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    places = c.expand(c.index(eqn.invars[1]), shape_of(eqn.invars[1]))
    collapsed, result = numbers.collapsed_slice_dims, shape_of(eqn.outvars[0])
    whole = all(size == dim or i in collapsed for i, (size, dim) in enumerate(zip(sizes, value.shape, strict=True)))
    if whole and len(collapsed) == 1 and tuple(collapsed) == tuple(numbers.start_index_map):
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


def _rows(
    c: Lowering, value: Value, indices: Value, numbers: GatherDimensionNumbers, sizes: Shape, result: Shape
) -> Value | None:
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


def _elements(
    c: Lowering, value: Value, indices: Value, numbers: GatherDimensionNumbers, sizes: Shape, result: Shape
) -> Value | None:
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


def _points(
    c: Lowering, value: Value, indices: Value, numbers: GatherDimensionNumbers, sizes: Shape, result: Shape
) -> Value | None:
    """Slices at points of the leading axes: x[i, j]."""
    axes = tuple(range(len(numbers.start_index_map)))
    whole = tuple(sizes[len(axes) :]) == tuple(value.shape[len(axes) :])
    offset = tuple(range(len(indices.shape) - 1, len(result)))
    leading = tuple(numbers.start_index_map) == tuple(numbers.collapsed_slice_dims) == axes
    if numbers.operand_batching_dims or not whole or not leading or tuple(numbers.offset_dims) != offset:
        return None
    return c.emit("GatherND", value, c.cast(indices, INT64), shape=result, dtype=value.dtype)


def _start(c: Lowering, value: Value, starts: Sequence[Value], sizes: Shape, axes: Sequence[int]) -> Value:
    """Give the start of a slice per axis, moved so that it fits."""
    start = c.concat([c.reshape(c.cast(starts[axis], INT64), (1,)) for axis in axes], axis=0)
    limits = c.sizes.vector([value.shape[axis] - sizes[axis] for axis in axes])
    return c.elementwise("Min", c.elementwise("Max", start, c.constant(0, INT64)), limits)


@primitive("dynamic_slice", emits="Slice Max Min Concat")
def dynamic_slice(c: Lowering, eqn: JaxprEqn) -> Value:
    """Take a range of every axis, moved so that it fits."""
    value, sizes = c.full(eqn.invars[0]), eqn.params["slice_sizes"]
    axes = [i for i, (size, dim) in enumerate(zip(sizes, value.shape, strict=True)) if size != dim]
    if not axes:
        return value
    start = _start(c, value, list(map(c.index, eqn.invars[1:])), sizes, axes)
    return _cut(c, value, start, axes, sizes)


@primitive("dynamic_update_slice", emits="Slice Max Min Concat Add")
def dynamic_update_slice(c: Lowering, eqn: JaxprEqn) -> Value:
    """Put a piece in place along one axis: what is before it, the piece, what is after it."""
    value, piece = c.full(eqn.invars[0]), c.full(eqn.invars[1])
    axes = [i for i, (size, dim) in enumerate(zip(piece.shape, value.shape, strict=True)) if size != dim]
    if len(axes) > 1:
        raise c.refusal(eqn, f"dynamic_update_slice of {piece.shape} in {value.shape}, along several axes")
    if not axes:
        return piece
    start = _start(c, value, list(map(c.index, eqn.invars[2:])), piece.shape, axes)
    end = c.elementwise("Add", start, c.sizes.vector([piece.shape[axes[0]]]))
    axis, unknown = c.constant(axes, INT64), [None if i in axes else dim for i, dim in enumerate(value.shape)]
    before = c.emit("Slice", value, c.constant([0], INT64), start, axis, shape=unknown, dtype=value.dtype)
    after = c.emit("Slice", value, end, c.constant([END], INT64), axis, shape=unknown, dtype=value.dtype)
    return c.emit("Concat", before, piece, after, shape=value.shape, dtype=value.dtype, axis=axes[0])

"""
gather, scatter, dynamic_slice: taking from and putting at computed places.

An index outside the array makes onnxruntime raise where JAX's "fill" mode gives NaN, also a negative one, which
ONNX by itself would count from the end.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jax.extend.core import JaxprEqn
from jax.lax import GatherScatterMode

from ...lowering.gathers import Elements, Place, Points, Rows, Window, pattern
from ...lowering.shapes import Dim, Shape, inverse
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
    found = pattern(eqn)
    if isinstance(found, Window):
        return _window(c, eqn, value)
    indices = _clipped(c, eqn, value)
    match found:
        case Place(axis) | Rows(axis):
            indices = c.reshape(indices, indices.shape[:-1])
            return c.emit("Gather", value, indices, shape=result, dtype=value.dtype, axis=axis)
        case Elements(axis):
            indices = c.reshape(indices, indices.shape[:-1])
            return c.emit("GatherElements", value, indices, shape=result, dtype=value.dtype, axis=axis)
        case Points():
            return c.emit("GatherND", value, c.cast(indices, INT64), shape=result, dtype=value.dtype)
    raise c.refusal(eqn, f"gather with {numbers} and slices of {sizes}")


def _clipped(c: Lowering, eqn: JaxprEqn, value: Value) -> Value:
    """Give the indices of a gather."""
    indices = c.expand(c.index(eqn.invars[1]), shape_of(eqn.invars[1]))
    axes = eqn.params["dimension_numbers"].start_index_map
    return _inside(c, eqn, indices, value, eqn.params["slice_sizes"], axes)


def _inside(
    c: Lowering, eqn: JaxprEqn, indices: Value, value: Value, sizes: Sequence[Dim], axes: Sequence[int]
) -> Value:
    """Bring indices into range or, where JAX gives NaN or leaves out, keep them from counting from the end."""
    mode, zero = eqn.params["mode"], c.constant(0, indices.dtype)
    if mode == GatherScatterMode.CLIP:
        limits = c.sizes.vector([value.shape[axis] - sizes[axis] for axis in axes])
        return c.elementwise("Min", c.elementwise("Max", indices, zero), c.cast(limits, indices.dtype))
    if mode != GatherScatterMode.FILL_OR_DROP or (indices.array is not None and (indices.array >= 0).all()):
        return indices
    outside = c.cast(c.sizes.vector([value.shape[axis] for axis in axes]), indices.dtype)
    negative = c.elementwise("Less", indices, zero, dtype=BOOL)
    return c.elementwise("Where", negative, outside, indices, dtype=indices.dtype)


def _window(c: Lowering, eqn: JaxprEqn, value: Value) -> Value:
    """Slice; at places that are known, by numbers."""
    axes, sizes = eqn.params["dimension_numbers"].start_index_map, eqn.params["slice_sizes"]
    places = c.expand(c.index(eqn.invars[1]), shape_of(eqn.invars[1]))
    if places.array is not None:
        at = dict(zip(axes, places.array.tolist(), strict=True))
        start = [at.get(axis, 0) for axis in range(len(sizes))]
        cut = c.slice(value, start, [a + size for a, size in zip(start, sizes, strict=True)])
    else:
        cut = _cut(c, value, _clipped(c, eqn, value), axes, sizes)
    return c.reshape(cut, shape_of(eqn.outvars[0]))


def _cut(c: Lowering, value: Value, places: Value, axes: Sequence[int], sizes: Sequence[Dim]) -> Value:
    """Slice from computed places."""
    places = c.cast(places, INT64)
    ends = c.elementwise("Add", places, c.sizes.vector([sizes[axis] for axis in axes]))
    shape = [sizes[axis] if axis in axes else dim for axis, dim in enumerate(value.shape)]
    cut = c.emit("Slice", value, places, ends, c.constant(axes, INT64), shape=shape, dtype=value.dtype)
    return c.slice(cut, [0] * len(sizes), sizes)


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
    """Put a piece in place, moved so that it fits."""
    value, piece = c.full(eqn.invars[0]), c.full(eqn.invars[1])
    axes = [i for i, (size, dim) in enumerate(zip(piece.shape, value.shape, strict=True)) if size != dim]
    if not axes:
        return piece
    start = _start(c, value, list(map(c.index, eqn.invars[2:])), piece.shape, axes)
    return _put(c, value, piece, {axis: c.slice(start, [i], [i + 1]) for i, axis in enumerate(axes)})


def _put(c: Lowering, value: Value, piece: Value, start: Mapping[int, Value]) -> Value:
    """Put a piece in place axis by axis: what is before it, the piece, what is after it."""
    if not start:
        return piece
    axis, *others = start
    first, size = start[axis], c.sizes.vector([piece.shape[axis]])
    end, along = c.elementwise("Add", first, size), c.constant([axis], INT64)
    unknown = [None if i == axis else dim for i, dim in enumerate(value.shape)]
    slab = [piece.shape[axis] if i == axis else dim for i, dim in enumerate(value.shape)]
    before = c.emit("Slice", value, c.constant([0], INT64), first, along, shape=unknown, dtype=value.dtype)
    after = c.emit("Slice", value, end, c.constant([END], INT64), along, shape=unknown, dtype=value.dtype)
    within = c.emit("Slice", value, first, end, along, shape=slab, dtype=value.dtype) if others else piece
    inner = _put(c, within, piece, {other: start[other] for other in others})
    return c.emit("Concat", before, inner, after, shape=value.shape, dtype=value.dtype, axis=axis)


COMBINE = {
    "scatter": ("none", 16, ""),
    "scatter-add": ("add", 16, "Add"),
    "scatter-mul": ("mul", 16, "Mul"),
    "scatter-max": ("max", 18, "Max"),
    "scatter-min": ("min", 18, "Min"),
}
"""How ScatterND combines what was there with what comes, since which opset, and the operator that does it alone."""


@primitive(*COMBINE, emits="ScatterND Transpose Slice Concat Add Mul Max Min Less Where")
def scatter(c: Lowering, eqn: JaxprEqn) -> Value:
    """Put slices at points of some axes, or one window at a known place. A place outside raises."""
    value, updates = c.full(eqn.invars[0]), c.full(eqn.invars[2])
    numbers, (how, since, alone) = eqn.params["dimension_numbers"], COMBINE[eqn.primitive.name]
    axes, rank = tuple(numbers.scatter_dims_to_operand_dims), len(value.shape)
    if c.opset < since:
        raise c.refusal(eqn, f"{eqn.primitive.name} needs opset {since}, this is opset {c.opset}")
    if numbers.operand_batching_dims:
        raise c.refusal(eqn, f"{eqn.primitive.name} with batched axes")
    if sorted(axes) != sorted(numbers.inserted_window_dims):
        return _scatter_window(c, eqn, value, updates, alone)
    window = tuple(numbers.update_window_dims)
    points = [i for i in range(len(updates.shape)) if i not in window]
    indices = _inside(c, eqn, c.expand(c.index(eqn.invars[1]), shape_of(eqn.invars[1])), value, [1] * rank, axes)
    order = [*axes, *(i for i in range(rank) if i not in axes)]
    moved, news = c.transpose(value, order), c.transpose(updates, [*points, *window])
    if value.dtype.kind == "b":
        moved, news = c.cast(moved, np.int32), c.cast(news, np.int32)
    operands = [moved, c.cast(indices, INT64), news]
    result = c.emit("ScatterND", *operands, shape=moved.shape, dtype=moved.dtype, reduction=how)
    return c.transpose(c.cast(result, value.dtype), inverse(order))


def _scatter_window(c: Lowering, eqn: JaxprEqn, value: Value, updates: Value, alone: str) -> Value:
    """Put one window at a place that is known: x.at[:, 1:3].set."""
    numbers = eqn.params["dimension_numbers"]
    place = c.expand(c.index(eqn.invars[1]), shape_of(eqn.invars[1])).array
    if place is None or place.ndim != 1:
        raise c.refusal(eqn, f"{eqn.primitive.name} of windows at computed places, with {numbers}")
    kept = iter(updates.shape)
    piece = c.reshape(
        updates, [1 if i in numbers.inserted_window_dims else next(kept) for i in range(len(value.shape))]
    )
    start = [0] * len(value.shape)
    for axis, at in zip(numbers.scatter_dims_to_operand_dims, place.tolist(), strict=True):
        start[axis] = at
    if alone:
        old = c.slice(value, start, [a + size for a, size in zip(start, piece.shape, strict=True)])
        piece = c.elementwise(alone, old, piece)
    axes = [i for i, (size, dim) in enumerate(zip(piece.shape, value.shape, strict=True)) if size != dim]
    return _put(c, value, piece, {axis: c.constant([start[axis]], INT64) for axis in axes})

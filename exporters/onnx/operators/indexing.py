"""
gather, dynamic_slice: taking by computed places.

An index outside the array makes onnxruntime raise where JAX's "fill" mode gives NaN, also a negative one, which
ONNX by itself would count from the end.
"""

from collections.abc import Sequence

from jax.extend.core import JaxprEqn
from jax.lax import GatherScatterMode

from ...lowering.gathers import Elements, Place, Points, Rows, Window, pattern
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

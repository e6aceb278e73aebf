"""gather, dynamic_slice: taking by computed places. TensorFlow raises where JAX's "fill" mode gives NaN."""

from collections.abc import Sequence

from jax.extend.core import JaxprEqn
from jax.lax import GatherScatterMode

from ...lowering.gathers import Elements, Place, Points, Rows, Window, pattern
from ...lowering.shapes import Shape, inverse
from ...lowering.walk import shape_of
from ..lower import INT32, Lowering, Value
from ..registry import primitive


@primitive("gather", emits="GatherV2 GatherNd Slice StridedSlice ConcatV2 Minimum Maximum Transpose")
def gather(c: Lowering, eqn: JaxprEqn) -> Value:
    """Take what the gather is for: a slice, rows, elements or points."""
    value, places = c.full(eqn.invars[0]), _clipped(c, eqn)
    result, numbers, sizes = shape_of(eqn.outvars[0]), eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    match pattern(eqn):
        case Rows(axis) | Place(axis):
            places = c.reshape(places, shape_of(eqn.invars[1])[:-1])
            return c.emit("GatherV2", value, places, c.constant(axis, INT32), shape=result)
        case Elements(axis):
            return along(c, value, c.reshape(places, places.shape[:-1]), axis)
        case Points():
            return c.emit("GatherNd", value, places, shape=result)
        case Window():
            start = {axis: i for i, axis in enumerate(numbers.start_index_map)}
            at = [
                c.slice(places, (start[i],), (start[i] + 1,)) if i in start else c.constant([0], INT32)
                for i in range(len(sizes))
            ]
            return c.reshape(_cut(c, value, c.concat(at, 0), sizes), result)
    raise c.refusal(eqn, f"gather with {numbers} and slices of {sizes}")


def _clipped(c: Lowering, eqn: JaxprEqn) -> Value:
    """Give the indices, brought into range where JAX would."""
    indices, shape, sizes = c.full(eqn.invars[1]), shape_of(eqn.invars[0]), eqn.params["slice_sizes"]
    if eqn.params["mode"] != GatherScatterMode.CLIP:
        return indices
    limits = c.vector([shape[axis] - sizes[axis] for axis in eqn.params["dimension_numbers"].start_index_map])
    raised = c.elementwise("Maximum", indices, c.constant(0, indices.dtype))
    return c.elementwise("Minimum", raised, c.cast(limits, indices.dtype))


def along(c: Lowering, value: Value, places: Value, axis: int) -> Value:
    """Take one element per place along an axis, the other axes in step."""
    others = [i for i in range(len(value.shape)) if i != axis]
    order, last = [*others, axis], len(others)
    value, places = c.transpose(value, order), c.transpose(places, order)
    taken = c.emit("GatherV2", value, places, c.constant(last, INT32), shape=places.shape, batch_dims=last)
    return c.transpose(taken, inverse(order))


def _cut(c: Lowering, value: Value, start: Value, sizes: Shape) -> Value:
    return c.emit("Slice", value, start, c.vector(sizes), shape=sizes)


def _start(c: Lowering, value: Value, starts: Sequence[Value], sizes: Shape) -> Value:
    """Give the start of a slice, moved so that it fits."""
    start = c.concat([c.reshape(c.cast(place, INT32), (1,)) for place in starts], 0)
    limits = c.vector([dim - size for dim, size in zip(value.shape, sizes, strict=True)])
    return c.elementwise("Minimum", c.elementwise("Maximum", start, c.constant(0, INT32)), limits)


@primitive("dynamic_slice", emits="Slice Maximum Minimum ConcatV2")
def dynamic_slice(c: Lowering, eqn: JaxprEqn) -> Value:
    """Take a range of every axis, moved so that it fits."""
    value, sizes = c.full(eqn.invars[0]), eqn.params["slice_sizes"]
    return _cut(c, value, _start(c, value, list(map(c.full, eqn.invars[1:])), sizes), sizes)


@primitive("dynamic_update_slice", emits="Slice StridedSlice Maximum Minimum ConcatV2 AddV2")
def dynamic_update_slice(c: Lowering, eqn: JaxprEqn) -> Value:
    """Put a piece in place, axis by axis: what is before it, the piece, what is after it."""
    value, piece = c.full(eqn.invars[0]), c.full(eqn.invars[1])
    start = _start(c, value, list(map(c.full, eqn.invars[2:])), piece.shape)
    return _put(c, value, piece, start, 0)


def _put(c: Lowering, value: Value, piece: Value, start: Value, axis: int) -> Value:
    """Put a piece in place along the axes from `axis` on; it has the size of the value along those before."""
    if value.shape == piece.shape:
        return piece
    if value.shape[axis] == piece.shape[axis]:
        return _put(c, value, piece, start, axis + 1)
    rank = len(value.shape)
    first, past = c.slice(start, (axis,), (axis + 1,)), [0] * (rank - axis - 1)
    end = c.elementwise("AddV2", first, c.vector([piece.shape[axis]]))
    length = piece.shape[axis]
    zeros, rest = c.constant([0] * axis, INT32), c.constant(past, INT32)
    unknown = (*value.shape[:axis], None, *value.shape[axis + 1 :])
    low, high = (c.concat([zeros, place, rest], 0) for place in (first, end))
    steps, others = c.constant([1] * rank, INT32), sum(1 << i for i in range(rank) if i != axis)
    nought = c.constant([0] * rank, INT32)
    before = c.emit("StridedSlice", value, nought, low, steps, shape=unknown, end_mask=others)
    after = c.emit("StridedSlice", value, high, nought, steps, shape=unknown, end_mask=(1 << rank) - 1)
    slab = (*value.shape[:axis], length, *value.shape[axis + 1 :])
    inner = _put(c, _cut(c, value, low, slab), piece, start, axis + 1)
    return c.emit("ConcatV2", [before, inner, after], c.constant(axis, INT32), shape=value.shape)

"""Operators that move elements without computing: reshape, broadcast, transpose, join, cut."""

from collections.abc import Sequence

import numpy as np
from jax.extend.core import JaxprEqn

from ...lowering import rules
from ...lowering.shapes import is_zero
from ...lowering.walk import shape_of
from ..lower import INT32, Lowering, Value
from ..registry import primitive

primitive("broadcast_in_dim", emits="Reshape")(rules.broadcast_in_dim)
primitive("transpose", emits="Transpose")(rules.transpose)
primitive("concatenate", emits="ConcatV2")(rules.concatenate)
primitive("slice", emits="StridedSlice")(rules.slice_)


@primitive("reshape", "squeeze", "expand_dims", emits="Reshape")
def reshape(c: Lowering, eqn: JaxprEqn) -> Value:
    """Give the elements another shape."""
    if eqn.params.get("dimensions") is not None and eqn.primitive.name == "reshape":
        raise c.refusal(eqn, "reshape with dimensions")
    return c.reshape(c.full(eqn.invars[0]), shape_of(eqn.outvars[0]))


@primitive("split", emits="SplitV")
def split(c: Lowering, eqn: JaxprEqn) -> Sequence[Value]:
    """Cut an axis into pieces."""
    sizes, axis = c.vector(eqn.params["sizes"]), c.constant(eqn.params["axis"], INT32)
    pieces = c.raw("SplitV", c.full(eqn.invars[0]), sizes, axis, num_split=len(eqn.outvars))
    return c.values(pieces, [shape_of(var) for var in eqn.outvars])


@primitive("rev", emits="ReverseV2")
def rev(c: Lowering, eqn: JaxprEqn) -> Value:
    """Reverse axes."""
    value = c.full(eqn.invars[0])
    return c.emit("ReverseV2", value, c.constant(eqn.params["dimensions"], INT32), shape=value.shape)


@primitive("pad", emits="PadV2 StridedSlice")
def pad(c: Lowering, eqn: JaxprEqn) -> Value:
    """Add elements at the ends of axes; a negative number takes some away."""
    value, filler = c.full(eqn.invars[0]), c.full(eqn.invars[1])
    low, high, interior = zip(*eqn.params["padding_config"], strict=True)
    if any(not is_zero(dim) for dim in interior):
        raise c.refusal(eqn, "pad between elements")
    cut = [-min(n, 0) for n in low], [dim + min(n, 0) for dim, n in zip(value.shape, high, strict=True)]
    value = c.slice(value, *cut)
    amounts = [max(n, 0) for pair in zip(low, high, strict=True) for n in pair]
    if all(map(is_zero, amounts)):
        return value
    pairs = c.reshape(c.vector(amounts), (len(low), 2))
    return c.emit("PadV2", value, pairs, filler, shape=shape_of(eqn.outvars[0]))


@primitive("iota", emits="Range")
def iota(c: Lowering, eqn: JaxprEqn) -> Value:
    """Count along an axis; the other axes stay unexpanded."""
    shape, axis = eqn.params["shape"], eqn.params["dimension"]
    dims = [dim if i == axis else 1 for i, dim in enumerate(shape)][axis:]
    return c.reshape(c.cast(c.count(shape[axis]), np.dtype(eqn.params["dtype"])), dims)


@primitive("dim_as_value", emits="Shape")
def dim_as_value(c: Lowering, eqn: JaxprEqn) -> Value:
    """Give a size as a number."""
    dim = eqn.params["dim"]
    return c.constant(dim, INT32) if isinstance(dim, int) else Value((), INT32, c.size(dim))


@primitive("stack", emits="Pack")
def stack(c: Lowering, eqn: JaxprEqn) -> Value:
    """Join along a new axis."""
    values = [c.full(atom) for atom in eqn.invars]
    return c.emit("Pack", values, shape=shape_of(eqn.outvars[0]), axis=eqn.params["axis"])


@primitive("unstack", emits="Unpack")
def unstack(c: Lowering, eqn: JaxprEqn) -> Sequence[Value]:
    """Cut an axis into single places, and drop it."""
    pieces = c.raw("Unpack", c.full(eqn.invars[0]), num=len(eqn.outvars), axis=eqn.params["axis"])
    return c.values(pieces, [shape_of(var) for var in eqn.outvars])


@primitive("tile", emits="Tile")
def tile(c: Lowering, eqn: JaxprEqn) -> Value:
    """Repeat the whole."""
    return c.emit("Tile", c.full(eqn.invars[0]), c.vector(eqn.params["reps"]), shape=shape_of(eqn.outvars[0]))

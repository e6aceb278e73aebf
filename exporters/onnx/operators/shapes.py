"""Operators that move elements without computing: reshape, broadcast, transpose, join, cut."""

from collections.abc import Sequence

import numpy as np
from jax.extend.core import JaxprEqn

from ...lowering import rules
from ...lowering.shapes import is_zero
from ...lowering.walk import shape_of
from ..build import END
from ..dims import INT64
from ..graph import Value
from ..lower import Lowering
from ..registry import primitive

primitive("broadcast_in_dim", emits="Unsqueeze")(rules.broadcast_in_dim)
primitive("transpose", emits="Transpose")(rules.transpose)
primitive("concatenate", emits="Concat")(rules.concatenate)
primitive("slice", emits="Slice")(rules.slice_)


@primitive("reshape", emits="Reshape Squeeze Unsqueeze")
def reshape(c: Lowering, eqn: JaxprEqn) -> Value:
    """Give the elements another shape."""
    if eqn.params["dimensions"] is not None:
        raise c.refusal(eqn, "reshape with dimensions")
    return c.reshape(c.full(eqn.invars[0]), shape_of(eqn.outvars[0]))


@primitive("squeeze", "expand_dims", emits="Squeeze Unsqueeze")
def squeeze(c: Lowering, eqn: JaxprEqn) -> Value:
    """Drop or add axes of size one."""
    return c.reshape(c.full(eqn.invars[0]), shape_of(eqn.outvars[0]))


@primitive("split", emits="Split")
def split(c: Lowering, eqn: JaxprEqn) -> Sequence[Value]:
    """Cut an axis into pieces."""
    value, axis = c.full(eqn.invars[0]), eqn.params["axis"]
    results = [(shape_of(var), value.dtype) for var in eqn.outvars]
    return c.graph.emit("Split", [value, c.sizes.vector(eqn.params["sizes"])], results, {"axis": axis})


@primitive("rev", emits="Slice")
def rev(c: Lowering, eqn: JaxprEqn) -> Value:
    """Reverse axes: from the last element, by steps of -1, past the first."""
    value, axes = c.full(eqn.invars[0]), eqn.params["dimensions"]
    operands = [c.constant([number] * len(axes), INT64) for number in (-1, -END, -1)]
    operands.insert(2, c.constant(axes, INT64))
    return c.emit("Slice", value, *operands, shape=value.shape, dtype=value.dtype)


@primitive("pad", emits="Pad Slice")
def pad(c: Lowering, eqn: JaxprEqn) -> Value:
    """Add elements at the ends of axes; a negative number takes some away."""
    value, filler = c.full(eqn.invars[0]), c.full(eqn.invars[1])
    low, high, interior = zip(*eqn.params["padding_config"], strict=True)
    if any(not is_zero(dim) for dim in interior):
        raise c.refusal(eqn, "pad between elements")
    cut = [-min(n, 0) for n in low], [dim + min(n, 0) for dim, n in zip(value.shape, high, strict=True)]
    value = c.slice(value, *cut)
    amounts = [max(n, 0) for n in (*low, *high)]
    if all(map(is_zero, amounts)):
        return value
    operands = [value, c.sizes.vector(amounts), filler]
    return c.emit("Pad", *operands, shape=shape_of(eqn.outvars[0]), dtype=value.dtype)


@primitive("iota", emits="Range")
def iota(c: Lowering, eqn: JaxprEqn) -> Value:
    """Count along an axis; the other axes stay unexpanded."""
    shape, axis, dtype = eqn.params["shape"], eqn.params["dimension"], np.dtype(eqn.params["dtype"])
    dims = [dim if i == axis else 1 for i, dim in enumerate(shape)][axis:]
    if isinstance(shape[axis], int):
        return c.constant(np.arange(shape[axis], dtype=dtype).reshape(dims))
    count = c.count(shape[axis])
    integer = dtype in (np.dtype(np.int32), INT64)
    return c.reshape(count if integer else c.cast(count, dtype), dims)


@primitive("dim_as_value", emits="Shape")
def dim_as_value(c: Lowering, eqn: JaxprEqn) -> Value:
    """Give a size as a number."""
    dim = eqn.params["dim"]
    return c.constant(dim, np.int32) if isinstance(dim, int) else c.reshape(c.sizes.size(dim), ())


@primitive("stack", emits="Unsqueeze Concat")
def stack(c: Lowering, eqn: JaxprEqn) -> Value:
    """Join along a new axis."""
    axis = eqn.params["axis"]
    values = [c.full(atom) for atom in eqn.invars]
    return c.concat([c.reshape(v, (*v.shape[:axis], 1, *v.shape[axis:])) for v in values], axis)


@primitive("unstack", emits="Split Squeeze")
def unstack(c: Lowering, eqn: JaxprEqn) -> Sequence[Value]:
    """Cut an axis into single places, and drop it."""
    value, axis = c.full(eqn.invars[0]), eqn.params["axis"]
    shape = (*value.shape[:axis], 1, *value.shape[axis + 1 :])
    sizes, results = c.constant([1] * len(eqn.outvars), INT64), [(shape, value.dtype)] * len(eqn.outvars)
    pieces = c.graph.emit("Split", [value, sizes], results, {"axis": axis})
    return [c.reshape(piece, shape_of(var)) for piece, var in zip(pieces, eqn.outvars, strict=True)]


@primitive("tile", emits="Tile")
def tile(c: Lowering, eqn: JaxprEqn) -> Value:
    """Repeat the whole."""
    value, shape = c.full(eqn.invars[0]), shape_of(eqn.outvars[0])
    return c.emit("Tile", value, c.sizes.vector(eqn.params["reps"]), shape=shape, dtype=value.dtype)

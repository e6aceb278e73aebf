"""Reductions, running sums, and order."""

from collections.abc import Sequence

import numpy as np
from jax.extend.core import JaxprEqn

from ...lowering.walk import shape_of
from ..build import BOOL
from ..dims import INT64
from ..graph import Value
from ..lower import Lowering
from ..registry import primitive

NUMERIC = {
    "reduce_sum": "ReduceSum",
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_prod": "ReduceProd",
}


def _numeric(name: str, op: str) -> None:
    @primitive(name, emits=op)
    def reduce(c: Lowering, eqn: JaxprEqn) -> Value:
        return c.reduce(op, c.full(eqn.invars[0]), eqn.params["axes"])


for _name, _op in NUMERIC.items():
    _numeric(_name, _op)


@primitive("reduce_and", emits="Cast ReduceMin")
def reduce_and(c: Lowering, eqn: JaxprEqn) -> Value:
    """Take the least, as numbers."""
    return _of_bools(c, eqn, "ReduceMin")


@primitive("reduce_or", emits="Cast ReduceMax")
def reduce_or(c: Lowering, eqn: JaxprEqn) -> Value:
    """Take the greatest, as numbers."""
    return _of_bools(c, eqn, "ReduceMax")


def _of_bools(c: Lowering, eqn: JaxprEqn, op: str) -> Value:
    value = c.full(eqn.invars[0])
    if value.dtype != BOOL:
        raise c.refusal(eqn, f"{eqn.primitive.name} of integers has no ONNX operator")
    return c.cast(c.reduce(op, c.cast(value, np.int32), eqn.params["axes"]), BOOL)


@primitive("argmax", emits="ArgMax")
def argmax(c: Lowering, eqn: JaxprEqn) -> Value:
    """Find the first greatest."""
    return _arg(c, eqn, "ArgMax")


@primitive("argmin", emits="ArgMin")
def argmin(c: Lowering, eqn: JaxprEqn) -> Value:
    """Find the first least."""
    return _arg(c, eqn, "ArgMin")


def _arg(c: Lowering, eqn: JaxprEqn, op: str) -> Value:
    value, (axis,) = c.full(eqn.invars[0]), eqn.params["axes"]
    return c.emit(op, value, shape=shape_of(eqn.outvars[0]), dtype=INT64, axis=axis, keepdims=0)


@primitive("cumsum", emits="CumSum")
def cumsum(c: Lowering, eqn: JaxprEqn) -> Value:
    """Sum up to here, or from here on."""
    value = c.full(eqn.invars[0])
    axis = c.constant(eqn.params["axis"], INT64)
    return c.emit("CumSum", value, axis, shape=value.shape, dtype=value.dtype, reverse=int(eqn.params["reverse"]))


@primitive("top_k", emits="TopK")
def top_k(c: Lowering, eqn: JaxprEqn) -> Sequence[Value]:
    """Take the k greatest along an axis, and their places."""
    value = c.full(eqn.invars[0])
    axis = eqn.params.get("axis", -1) % len(value.shape)
    return _top_k(c, value, eqn.params["k"], axis, largest=1)


def _top_k(c: Lowering, value: Value, k: object, axis: int, largest: int) -> Sequence[Value]:
    shape = tuple(k if i == axis else dim for i, dim in enumerate(value.shape))
    results = [(shape, value.dtype), (shape, INT64)]
    attributes = {"axis": axis, "largest": largest, "sorted": 1}
    return c.graph.emit("TopK", [value, c.sizes.vector([k])], results, attributes)


@primitive("sort", emits="TopK GatherElements")
def sort(c: Lowering, eqn: JaxprEqn) -> Sequence[Value]:
    """Sort by the first operand; TopK breaks ties by place, so the order is stable."""
    first, *others = map(c.full, eqn.invars)
    if eqn.params["num_keys"] != 1:
        raise c.refusal(eqn, "sort by several keys")
    axis = eqn.params["dimension"]
    ordered, places = _top_k(c, first, first.shape[axis], axis, largest=0)
    moved = [
        c.emit("GatherElements", other, places, shape=other.shape, dtype=other.dtype, axis=axis) for other in others
    ]
    return [ordered, *moved]

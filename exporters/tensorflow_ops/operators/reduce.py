"""Reductions, running sums, and order."""

from collections.abc import Sequence

import tensorflow as tf
from jax.extend.core import JaxprEqn

from ...lowering.shapes import Dim, inverse
from ...lowering.walk import shape_of
from ..lower import BOOL, INT32, Lowering, Value
from ..registry import primitive
from .indexing import along

REDUCE = {
    "reduce_sum": "Sum",
    "reduce_max": "Max",
    "reduce_min": "Min",
    "reduce_prod": "Prod",
    "reduce_and": "All",
    "reduce_or": "Any",
}
ARG = {"argmax": "ArgMax", "argmin": "ArgMin"}
RUNNING = {"cumsum": "Cumsum", "cumprod": "Cumprod", "cumlogsumexp": "CumulativeLogsumexp"}


def _reduce(name: str, op: str) -> None:
    @primitive(name, emits=op)
    def reduce(c: Lowering, eqn: JaxprEqn) -> Value:
        value, axes = c.full(eqn.invars[0]), eqn.params["axes"]
        if op in ("All", "Any") and value.dtype != BOOL:
            raise c.refusal(eqn, f"{name} of integers has no TensorFlow operator")
        return c.emit(op, value, c.constant(axes, INT32), shape=shape_of(eqn.outvars[0]))


def _arg(name: str, op: str) -> None:
    @primitive(name, emits=op)
    def arg(c: Lowering, eqn: JaxprEqn) -> Value:
        (axis,), dtype = eqn.params["axes"], tf.as_dtype(eqn.params["index_dtype"])
        operands = c.full(eqn.invars[0]), c.constant(axis, INT32)
        return c.emit(op, *operands, shape=shape_of(eqn.outvars[0]), output_type=dtype)


def _running(name: str, op: str) -> None:
    @primitive(name, emits=op)
    def running(c: Lowering, eqn: JaxprEqn) -> Value:
        value, axis = c.full(eqn.invars[0]), c.constant(eqn.params["axis"], INT32)
        return c.emit(op, value, axis, shape=value.shape, reverse=eqn.params["reverse"])


for _name, _op in REDUCE.items():
    _reduce(_name, _op)
for _name, _op in ARG.items():
    _arg(_name, _op)
for _name, _op in RUNNING.items():
    _running(_name, _op)


@primitive("top_k", emits="TopKV2 Transpose")
def top_k(c: Lowering, eqn: JaxprEqn) -> Sequence[Value]:
    """Take the k greatest along an axis, and their places."""
    value = c.full(eqn.invars[0])
    axis = eqn.params.get("axis", -1) % len(value.shape)
    return _top_k(c, value, eqn.params["k"], axis)


def _top_k(c: Lowering, value: Value, k: Dim, axis: int) -> list[Value]:
    """Take the k greatest of any axis: TensorFlow knows only the last."""
    order = [*(i for i in range(len(value.shape)) if i != axis), axis]
    shape = (*(value.shape[i] for i in order[:-1]), k)
    size = c.reshape(c.vector([k]), ()) if isinstance(k, int) else Value((), INT32, c.size(k))
    results = c.values(c.raw("TopKV2", c.transpose(value, order), size), [shape, shape])
    return [c.transpose(result, inverse(order)) for result in results]


@primitive("sort", emits="Neg Invert TopKV2 GatherV2 Transpose")
def sort(c: Lowering, eqn: JaxprEqn) -> Sequence[Value]:
    """Sort by the first operand: the greatest of its opposites. TopKV2 breaks ties by place, so the order is stable."""
    values = [c.full(atom) for atom in eqn.invars]
    if eqn.params["num_keys"] != 1:
        raise c.refusal(eqn, "sort by several keys")
    axis = eqn.params["dimension"]
    opposite = c.elementwise("Neg" if values[0].dtype.kind == "f" else "Invert", values[0])
    _, places = _top_k(c, opposite, opposite.shape[axis], axis)
    return [along(c, value, places, axis) for value in values]

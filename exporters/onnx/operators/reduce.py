"""Reductions, running sums, and order."""

from collections.abc import Sequence

import numpy as np
from jax.extend.core import JaxprEqn

from ...lowering.shapes import Shape, inverse
from ...lowering.walk import shape_of
from ..build import BOOL
from ..dims import INT64, elements
from ..graph import Attribute, Value
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


@primitive("argmax", emits="ArgMax Cast")
def argmax(c: Lowering, eqn: JaxprEqn) -> Value:
    """Find the first greatest."""
    return _arg(c, eqn, "ArgMax")


@primitive("argmin", emits="ArgMin Cast")
def argmin(c: Lowering, eqn: JaxprEqn) -> Value:
    """Find the first least."""
    return _arg(c, eqn, "ArgMin")


def _arg(c: Lowering, eqn: JaxprEqn, op: str) -> Value:
    value, (axis,) = c.full(eqn.invars[0]), eqn.params["axes"]
    value = c.cast(value, np.int32) if value.dtype == BOOL else value  # no runtime orders bools
    return c.emit(op, value, shape=shape_of(eqn.outvars[0]), dtype=INT64, axis=axis, keepdims=0)


@primitive("cumsum", emits="CumSum")
def cumsum(c: Lowering, eqn: JaxprEqn) -> Value:
    """Sum up to here, or from here on."""
    value = c.full(eqn.invars[0])
    axis = c.constant(eqn.params["axis"], INT64)
    return c.emit("CumSum", value, axis, shape=value.shape, dtype=value.dtype, reverse=int(eqn.params["reverse"]))


RUNNING = {"cummax": "ReduceMax", "cummin": "ReduceMin", "cumprod": "ReduceProd", "cumlogsumexp": "ReduceLogSumExp"}


def _running(name: str, op: str) -> None:
    @primitive(name, emits=f"{op} Where GreaterOrEqual LessOrEqual Range Unsqueeze")
    def running(c: Lowering, eqn: JaxprEqn) -> Value:
        """Reduce for each place what is up to it: ONNX has no operator, so it takes the square of the axis."""
        value, axis = c.full(eqn.invars[0]), eqn.params["axis"]
        size, after = value.shape[axis], len(value.shape) - axis - 1
        row, column = c.reshape(c.count(size), (size, 1)), c.count(size)
        counted = c.elementwise("LessOrEqual" if eqn.params["reverse"] else "GreaterOrEqual", row, column, dtype=BOOL)
        square = c.reshape(value, (*value.shape[:axis], 1, *value.shape[axis:]))
        mask = c.reshape(counted, (size, size, *(1,) * after))
        nothing = c.constant(_neutral(name, value.dtype), value.dtype)
        return c.reduce(op, c.elementwise("Where", mask, square, nothing, dtype=value.dtype), [axis + 1])


def _neutral(name: str, dtype: np.dtype) -> float:
    """Give what changes nothing."""
    if name == "cumprod":
        return 1
    if dtype.kind == "f":
        return np.inf if name == "cummin" else -np.inf
    limits = np.iinfo(dtype)
    return limits.max if name == "cummin" else limits.min


for _name, _op in RUNNING.items():
    _running(_name, _op)


@primitive("reduce_window_max", "reduce_window_min", "reduce_window_sum", emits="MaxPool AveragePool Neg Mul Transpose")
def reduce_window(c: Lowering, eqn: JaxprEqn) -> Value:
    """Pool: the axes that have windows come last, the others become one."""
    p, value = eqn.params, c.full(eqn.invars[0])
    if any(n != 1 for n in (*p["base_dilation"], *p["window_dilation"])) or value.dtype != np.float32:
        raise c.refusal(eqn, "pooling with dilation, or of other than float32")
    spec = list(zip(p["window_dimensions"], p["window_strides"], p["padding"], strict=True))
    windowed = [i for i, (size, stride, pad) in enumerate(spec) if size != 1 or stride != 1 or any(pad)]
    if not 1 <= len(windowed) <= 3:
        raise c.refusal(eqn, f"pooling of {len(windowed)} axes")
    others = [i for i in range(len(value.shape)) if i not in windowed]
    order = [*others, *windowed]
    moved = c.transpose(value, order)
    flat = c.reshape(moved, (elements(moved.shape[: len(others)]), 1, *moved.shape[len(others) :]))
    sizes, strides, pads = zip(*(spec[i] for i in windowed), strict=True)
    result = tuple(shape_of(eqn.outvars[0])[i] for i in order)
    attributes: dict[str, Attribute] = {"kernel_shape": tuple(sizes), "strides": tuple(strides)}
    attributes |= {"pads": (*(low for low, _ in pads), *(high for _, high in pads))}
    pooled = _pooled(c, eqn.primitive.name, flat, (flat.shape[0], 1, *result[len(others) :]), attributes)
    return c.transpose(c.reshape(pooled, result), inverse(order))


def _pooled(c: Lowering, name: str, value: Value, shape: Shape, attributes: dict[str, Attribute]) -> Value:
    if name == "reduce_window_sum":
        mean = c.emit("AveragePool", value, shape=shape, dtype=value.dtype, count_include_pad=1, **attributes)
        return c.elementwise("Mul", mean, c.constant(np.prod(attributes["kernel_shape"]), value.dtype))
    if name == "reduce_window_max":
        return c.emit("MaxPool", value, shape=shape, dtype=value.dtype, **attributes)
    least = c.emit("MaxPool", c.elementwise("Neg", value), shape=shape, dtype=value.dtype, **attributes)
    return c.elementwise("Neg", least)


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

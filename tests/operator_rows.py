"""How each operator of the table is called, to be held against torch: arrays by shape, over the axes b and t.

F, I, B draw numbers, whole numbers below a bound, truths; a text in the place of a size is one: "b", "b*t".
"""

import dataclasses
import math
from typing import Any

import numpy as np

from bgevis.model.traced.operators.elementwise import BINARY, UNARY


@dataclasses.dataclass(frozen=True)
class Draw:
    """An array that is drawn."""

    shape: tuple[int | str, ...]
    kind: str
    low: float = -2.0
    high: float = 2.0

    def of(self, sizes: dict[str, int], rng: np.random.Generator) -> np.ndarray:
        shape = tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in self.shape)
        if self.kind == "F":
            return np.asarray(rng.uniform(self.low, self.high, shape), np.float32)
        if self.kind == "B":
            return rng.random(shape) < 0.5
        return rng.integers(int(self.low), int(self.high), shape)


def F(*shape: int | str, low: float = -2.0, high: float = 2.0) -> Draw:
    return Draw(shape, "F", low, high)


def I(*shape: int | str, high: int = 5, low: int = 0) -> Draw:  # noqa: E743
    return Draw(shape, "I", low, high)


def B(*shape: int | str) -> Draw:
    return Draw(shape, "B")


@dataclasses.dataclass(frozen=True)
class S:
    """A size."""

    text: str


@dataclasses.dataclass(frozen=True)
class Row:
    """One way to call an operator; `fixed`: sizes must be numbers."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    fixed: bool = False
    exactly: tuple[str, ...] = ()


def row(*args: Any, fixed: bool = False, **kwargs: Any) -> Row:
    return Row(args, kwargs, fixed)


X = F("b", "t", 4)
POSITIVE = {"log", "log2", "log10", "sqrt", "rsqrt", "reciprocal"}
WITHIN = {"asin", "acos", "atanh"}
ABOVE = {"log1p": (-0.9, 3), "acosh": (1.1, 3), "expm1": (-2, 2)}
WHOLE = {"bitwise_not"}


def unary(name: str) -> Row:
    if name in POSITIVE:
        return row(F("b", "t", low=0.1))
    if name in WITHIN:
        return row(F("b", "t", low=-0.9, high=0.9))
    if name in ABOVE:
        return row(F("b", "t", low=ABOVE[name][0], high=ABOVE[name][1]))
    return row(I("b", "t") if name in WHOLE else F("b", "t"))


def binary(name: str) -> list[Row]:
    if name.startswith(("bitwise_left", "bitwise_right", "__lshift", "__rshift")):
        return [row(I("b", "t"), I("t", high=3))]
    if name.startswith(("bitwise_", "__")):
        return [row(I("b", "t"), I("t")), row(B("b", "t"), B("t"))]
    if name.startswith("logical_"):
        return [row(B("b", "t"), B("t"))]
    if name in ("remainder", "fmod", "floor_divide"):
        return [row(I("b", "t", low=-9, high=9), I("t", low=1, high=4)), row(F("b", "t"), F("t", low=0.5))]
    return [row(F("b", "t"), F("t"))]


def alone(name: str) -> bool:
    """Say whether the only overload of an operator has no name."""
    several = "atan2 maximum minimum fmax fmin hypot logaddexp floor_divide"
    return name in several.split() or name.startswith("logical")


GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def small(*shape: int | str) -> Draw:
    return F(*shape, low=-0.5, high=0.5)


def recurrent(name: str, gates: int) -> list[Row]:
    """Call a layer in one direction, and two layers in both, rows first and without biases."""

    def weights(inputs: int, biases: bool) -> list[Draw]:
        n = 5 * gates
        return [small(n, inputs), small(n, 5), *([small(n), small(n)] if biases else [])]

    def states(count: int) -> Draw | list[Draw]:
        return [small(count, "b", 5), small(count, "b", 5)] if name == "lstm" else small(count, "b", 5)

    deep = [w for inputs in (3, 3, 10, 10) for w in weights(inputs, False)]
    return [
        row(F("t", "b", 3), states(1), weights(3, True), True, 1, 0.0, False, False, False),
        row(F("b", "t", 3), states(4), deep, False, 2, 0.5, False, True, True),
    ]


def cell(name: str, gates: int) -> Row:
    """Call one step."""
    state = [small("b", 5), small("b", 5)] if name == "lstm" else small("b", 5)
    return row(F("b", 3), state, small(5 * gates, 3), small(5 * gates, 5), small(5 * gates), small(5 * gates))


ROWS: dict[str, list[Row]] = {
    **{f"aten.{name}.default": [unary(name)] for name in UNARY if name not in ("isposinf", "isneginf")},
    **{f"aten.{name}.default": [row(F("b"))] for name in ("isposinf", "isneginf")},
    **{f"aten.{name}.{'default' if alone(name) else 'Tensor'}": binary(name) for name in BINARY},
    "aten.add.Tensor": [row(X, F(4)), row(X, 2.5), row(X, F(4), alpha=3), row(I("b"), I("b")), row(I("b"), F("b"))],
    "aten.sub.Tensor": [row(X, F("t", 1)), row(X, 1, alpha=2)],
    "aten.rsub.Scalar": [row(X, 1.5), row(X, 1.5, 2)],
    "aten.div.Tensor": [row(X, F(4, low=0.5)), row(I("b"), I("b", low=1))],
    "aten.div.Tensor_mode": [
        row(I("b", "t", low=-9, high=9), I("t", low=1), rounding_mode="floor"),
        row(I("b", "t", low=-9, high=9), I("t", low=1), rounding_mode="trunc"),
        row(X, F(4, low=0.5), rounding_mode="trunc"),
    ],
    "aten.pow.Tensor_Scalar": [row(X, 2), row(X, 3), row(F("b", low=0.1), 0.5), row(F("b", low=0.1), 1.7), row(X, -2)],
    "aten.pow.Tensor_Tensor": [row(F("b", low=0.1), F("b"))],
    "aten.pow.Scalar": [row(2.0, F("b"))],
    "aten.round.default": [row(X)],
    "aten.round.decimals": [row(X, decimals=1)],
    "aten.frac.default": [row(X)],
    "aten.gelu.default": [row(X), row(X, approximate="tanh")],
    "aten.where.self": [row(B("b", "t"), F("b", "t"), F("t"))],
    "aten.masked_fill.Scalar": [row(X, B("t", 1), -1e9), row(I("b"), B("b"), 3)],
    "aten.clamp.default": [row(X, -1, 1), row(X, -0.5), row(X, None, 0.5)],
    "aten.clamp_min.default": [row(X, 0.1)],
    "aten.clamp_max.default": [row(X, 0.1)],
    "aten.hardtanh.default": [row(X), row(X, -0.5, 0.25)],
    "aten.lerp.Scalar": [row(X, F(4), 0.3)],
    "aten.addcmul.default": [row(X, F(4), X, value=0.5)],
    "aten.addcdiv.default": [row(X, F(4), F("t", 4, low=0.5), value=2)],
    "aten.xlogy.Tensor": [row(X, F(4, low=0.1))],
    "aten.softplus.default": [row(X), row(F("b", low=-30, high=30)), row(X, 2, 1)],
    "aten.leaky_relu.default": [row(X), row(X, 0.2)],
    "aten.elu.default": [row(X), row(X, 1.5), row(X, 1.5, 2, 0.5)],
    "aten.selu.default": [row(X)],
    "aten.celu.default": [row(X), row(X, 2.0)],
    "aten.hardsigmoid.default": [row(F("b", low=-5, high=5))],
    "aten.hardswish.default": [row(F("b", low=-5, high=5))],
    "aten.mish.default": [row(X)],
    "aten.threshold.default": [row(X, 0.2, -7)],
    "aten.hardshrink.default": [row(X)],
    "aten.softshrink.default": [row(X)],
    "aten.prelu.default": [row(F("b", 3, "t"), F(3)), row(X, F(1))],
    "aten.glu.default": [row(X), row(F("b", 6, "t"), 1)],
    "aten.logit.default": [row(F("b", low=0.1, high=0.9)), row(F("b", low=0, high=1), 0.1)],
    "aten.nan_to_num.default": [row(X), row(X, 1.0)],
    "aten.erfinv.default": [row(F("b", low=-0.9, high=0.9))],
    "aten.sinc.default": [row(X)],
    # along axes
    "aten.sum.default": [row(X), row(B("b", "t"))],
    "aten.sum.dim_IntList": [row(X, [1]), row(X, [0, -1], True), row(I("b", "t"), [1])],
    "aten.nansum.default": [row(X)],
    "aten.mean.default": [row(X)],
    "aten.mean.dim": [row(X, [-1], True), row(X, [0, 1])],
    "aten.prod.default": [row(X)],
    "aten.prod.dim_int": [row(X, 1)],
    "aten.amax.default": [row(X, [1]), row(X, [0, 2], True), row(X)],
    "aten.amin.default": [row(X, [1])],
    "aten.max.default": [row(X)],
    "aten.min.default": [row(X)],
    "aten.max.other": [row(X, F(4))],
    "aten.min.other": [row(X, F(4))],
    "aten.max.dim": [row(X, 1), row(X, -1, True)],
    "aten.min.dim": [row(X, 1)],
    "aten.argmax.default": [row(X, 1), row(X, -1, True), row(X)],
    "aten.argmin.default": [row(X, 1)],
    "aten.any.default": [row(B("b", "t"))],
    "aten.any.dim": [row(B("b", "t"), 1, True)],
    "aten.all.default": [row(B("b", "t"))],
    "aten.all.dim": [row(I("b", "t"), -1)],
    "aten.count_nonzero.default": [row(I("b", "t"))],
    "aten.var.correction": [row(F("b", 5, "t"), [1], correction=1), row(X, [-1], correction=0, keepdim=True)],
    "aten.var.dim": [row(F("b", 5), [1], False)],
    "aten.std.correction": [row(F("b", 5), [1], correction=1)],
    "aten.var_mean.correction": [row(F("b", 5), [1], correction=0, keepdim=True)],
    "aten.logsumexp.default": [row(X, [1]), row(X, [-1], True)],
    "aten.linalg_vector_norm.default": [
        row(X, 2, [-1], True),
        row(X, 1, [1]),
        row(X, float("inf"), [1]),
        row(X, 3, [1]),
        row(X, 0, [1]),
    ],
    "aten.norm.ScalarOpt_dim": [row(X, 2, [-1], True), row(X, None, [1])],
    "aten.softmax.int": [row(X, -1), row(X, 1)],
    "aten._softmax.default": [row(X, -1, False)],
    "aten._safe_softmax.default": [row(X, -1)],
    "aten.log_softmax.int": [row(X, -1)],
    "aten._log_softmax.default": [row(X, 1, False)],
    "aten.cumsum.default": [row(X, 1), row(I("b", "t"), -1), row(B("b", "t"), -1)],
    "aten.cumprod.default": [row(X, 1)],
    "aten.topk.default": [row(X, 2), row(X, 3, -1, False), row(F("b", 5, "t"), 2, 1)],
    "aten.sort.default": [row(X), row(X, 2, True)],
    "aten.sort.stable": [row(I("b", 6), stable=True, dim=1, descending=False)],
    "aten.argsort.default": [row(F("b", 5), 1, True)],
    "aten.diff.default": [row(X)],
    # shapes
    "aten.view.default": [row(X, [S("b*t"), 4]), row(X, [S("b"), S("t"), 2, 2]), row(X, [S("b"), -1])],
    "aten.reshape.default": [row(X, [S("b"), S("t*4")])],
    "aten._unsafe_view.default": [row(X, [S("b*t"), 4])],
    "aten.flatten.using_ints": [row(X, 1), row(X, 0, 1)],
    "aten.unflatten.int": [row(X, 2, [2, 2])],
    "aten.squeeze.default": [row(F("b", 1, 4), fixed=True)],
    "aten.squeeze.dim": [row(F("b", 1, 4), 1), row(X, 2)],
    "aten.squeeze.dims": [row(F("b", 1, 4, 1), [1, 3])],
    "aten.unsqueeze.default": [row(X, 0), row(X, -1), row(X, 1)],
    "aten.permute.default": [row(X, [2, 0, 1])],
    "aten.transpose.int": [row(X, 1, 2), row(X, -1, 0)],
    "aten.t.default": [row(F("b", "t"))],
    "aten.mT.default": [row(F("b", "t"))],
    "aten.numpy_T.default": [row(F("b", "t"))],
    "aten.swapaxes.default": [row(X, 0, 1)],
    "aten.swapdims.default": [row(X, 0, 1)],
    "aten.movedim.int": [row(X, 0, 2)],
    "aten.moveaxis.int": [row(X, 2, 0)],
    "aten.expand.default": [
        row(F("b", 1), [S("b"), S("t")]),
        row(F("b", 1, 4), [-1, S("t"), -1]),
        row(F(4), [S("b"), 4]),
    ],
    "aten.expand_as.default": [row(F("b", 1, 4), X)],
    "aten.view_as.default": [row(F("b", "t", 4), F("b", "t", 4))],
    "aten.reshape_as.default": [row(X, F("b", "t", 2, 2))],
    "aten.broadcast_to.default": [row(F(1, 4), [S("t"), 4])],
    "aten.broadcast_tensors.default": [row([F("b", 1), F("t")])],
    "aten.repeat.default": [row(X, [1, 2, 1]), row(F("t"), [S("b"), 1]), row(X, [2, 1, 1, 3])],
    "aten.tile.default": [row(X, [2]), row(X, [1, 2, 1])],
    "aten.repeat_interleave.self_int": [row(X, 3, 1), row(F("b"), 2)],
    "aten.cat.default": [row([X, F("b", 3, 4)], 1), row([X, X], -1), row([F(0), F("b")])],
    "aten.concat.default": [row([X, X], 0)],
    "aten.concatenate.default": [row([X, X], 0)],
    "aten.stack.default": [row([X, X], 1), row([X, X], -1)],
    "aten.split.Tensor": [row(F("b", 7), 3, 1), row(F("b", 6), 3, -1)],
    "aten.split_with_sizes.default": [row(F("b", 7), [3, 4], 1)],
    "aten.chunk.default": [row(F("b", 7), 3, 1)],
    "aten.unbind.int": [row(X, 2)],
    "aten.narrow.default": [row(X, 2, 1, 2)],
    "aten.slice.Tensor": [
        row(X, 1, 0, 9223372036854775807),
        row(X, 2, 1, 3),
        row(X, 2, -2, 9223372036854775807),
        row(X, 2, 0, -1),
        row(X, 2, 0, 4, 2),
        row(F(9, "t"), 0, 0, S("b")),
        row(F("b", 7), 1, 2, 100),
        row(X, 1, None, S("t")),
        row(F("b", 8, "t"), 1, 1, None, 3),
    ],
    "aten.select.int": [row(X, 2, 1), row(X, 1, -1), row(X, 0, 0)],
    "aten.select_scatter.default": [row(X, F("b", "t"), 2, 1), row(X, F("b", "t"), 2, -1)],
    "aten.slice_scatter.default": [row(X, F("b", "t", 2), 2, 1, 3), row(X, F("b", "t", 2), 2, 0, 4, 2)],
    "aten.flip.default": [row(X, [1]), row(X, [0, 2])],
    "aten.roll.default": [row(X, [1], [2]), row(X, [-1, 1], [2, 1]), row(F("b", 3), [2])],
    "aten.constant_pad_nd.default": [row(X, [1, 2]), row(X, [0, 1, 2, 0], 3.0), row(X, [-1, 1])],
    "aten.pad.default": [row(X, [1, 2]), row(F("b", 4, 5), [1, 2], "reflect"), row(F("b", 4, 5), [1, 2], "replicate")],
    "aten.reflection_pad1d.default": [row(F("b", 2, 5), [1, 2])],
    "aten.reflection_pad2d.default": [row(F("b", 2, 5, 4), [1, 2, 0, 1])],
    "aten.replication_pad1d.default": [row(F("b", 2, 5), [1, 2])],
    "aten.replication_pad2d.default": [row(F("b", 2, 5, 4), [1, 2, 0, 1])],
    "aten.tril.default": [row(F("t", "t")), row(X, 1)],
    "aten.triu.default": [row(F("t", "t")), row(X, -1)],
    "aten.diagonal.default": [row(F(4, 4)), row(F(4, 5), 1)],
    "aten.unfold.default": [row(F("b", 8), 1, 3, 2)],
    "aten.meshgrid.indexing": [row([F(3), F("t")], indexing="ij"), row([F(3), F("t")], indexing="xy")],
    "aten.pixel_shuffle.default": [row(F("b", 8, 3, "t"), 2)],
    "aten.pixel_unshuffle.default": [row(F("b", 2, 4, 6), 2)],
    "aten.im2col.default": [
        row(F("b", 2, 6, 7), [2, 3], [1, 1], [1, 0], [2, 2]),
        row(F("b", 2, 6, 7), [2, 2], [2, 1], [0, 0], [1, 1]),
    ],
    "aten.col2im.default": [
        row(F("b", 8, 6), [4, 6], [2, 2], [1, 1], [0, 0], [2, 2]),
        row(F("b", 12, 6), [5, 4], [3, 2], [1, 2], [1, 1], [2, 2]),
        row(F(12, 6), [5, 4], [3, 2], [1, 2], [1, 1], [2, 2]),
    ],
    # places
    "aten.embedding.default": [row(F(7, 3), I("b", "t", high=7)), row(F(7, 3), I("b", high=7), 0)],
    "aten.index.Tensor": [
        row(F(7, 3), [I("b", high=7)]),
        row(F("b", 7), [None, I("t", high=7)]),
        row(F(5, 6, 3), [I("b", 1), I("t")]),
        row(F(7, 3), [I("b", low=-7, high=7)]),
    ],
    "aten._unsafe_index.Tensor": [row(F("b", 7), [None, I("t", high=7)])],
    "aten.index_put.default": [
        row(F(5, 6), [I("b", high=1), None], F(6)),
        row(F("b", "t"), [B("b", "t")], F()),
        row(F(5, 6), [I("b"), None], F("b", 6), True),
    ],
    "aten._unsafe_index_put.default": [row(F(5, 6), [I("b", high=1), None], F(6))],
    "aten._index_put_impl.default": [row(F(5, 6), [I("b", high=1), None], F(6))],
    "aten.index_select.default": [row(F("b", 7), 1, I("t", high=7))],
    "aten.gather.default": [row(F("b", 7), 1, I("b", "t", high=7)), row(F("b", 7, 3), 1, I("b", 2, 3, high=7))],
    "aten.take_along_dim.default": [row(F("b", 7), I("b", "t", high=7), 1)],
    "aten.scatter.src": [row(F("b", 7), 1, I("b", 1, high=7), F("b", 1))],
    "aten.scatter.value": [row(F("b", 7), 1, I("b", 1, high=7), 2.0)],
    "aten.scatter_add.default": [row(F("b", 7), 1, I("b", 4, high=7), F("b", 4))],
    "aten.index_add.default": [
        row(F("b", 7), 1, I("t", high=7), F("b", "t")),
        row(F("b", 7), 1, I("t", high=7), F("b", "t"), alpha=2),
    ],
    "aten.index_fill.int_Scalar": [row(F("b", 7), 1, I("t", high=7), 2.0)],
    "aten.take.default": [row(F("b", 7), I("t", high=7))],
    "aten.one_hot.default": [row(I("b", "t"), 6)],
    "aten.bucketize.Tensor": [row(F("b", "t"), F(1), right=True), row(I("b", "t"), I(1))],
    "aten.searchsorted.Tensor": [row(F(1), F("b"))],
    "aten.isin.Tensor_Tensor": [row(I("b", "t"), I(2)), row(I("b"), I(2), invert=True)],
    # products
    "aten.linear.default": [row(X, F(5, 4), F(5)), row(X, F(5, 4)), row(F(4), F(5, 4))],
    "aten.matmul.default": [row(X, F(4, 3)), row(F("b", 2, "t", 3), F("b", 2, 3, "t")), row(F(4), F(4)), row(X, F(4))],
    "aten.mm.default": [row(F("b", 4), F(4, "t"))],
    "aten.bmm.default": [row(X, F("b", 4, 3))],
    "aten.mv.default": [row(F("b", 4), F(4))],
    "aten.dot.default": [row(F("b"), F("b"))],
    "aten.linalg_matmul.default": [row(X, F(4, 3))],
    "aten.addmm.default": [row(F(3), F("b", 4), F(4, 3)), row(F("b", 3), F("b", 4), F(4, 3), beta=0.5, alpha=2)],
    "aten.baddbmm.default": [row(F("b", "t", 3), X, F("b", 4, 3), beta=0.5, alpha=2), row(F(1, 1, 3), X, F("b", 4, 3))],
    "aten.addmv.default": [row(F("b"), F("b", 4), F(4))],
    "aten.outer.default": [row(F("b"), F("t"))],
    "aten.ger.default": [row(F("b"), F("t"))],
    "aten.einsum.default": [row("bte,he->bth", [X, F(3, 4)]), row("bte,bse->bts", [X, X])],
    "aten.bilinear.default": [row(F("b", 3), F("b", 4), F(2, 3, 4), F(2))],
    "aten.cosine_similarity.default": [row(X, X, -1)],
    "aten.scaled_dot_product_attention.default": [
        row(F("b", 2, "t", 4), F("b", 2, 5, 4), F("b", 2, 5, 4)),
        row(F("b", 2, "t", 4), F("b", 2, "t", 4), F("b", 2, "t", 4), None, 0.0, True),
        row(F("b", 2, "t", 4), F("b", 2, 5, 4), F("b", 2, 5, 4), F("b", 1, "t", 5), scale=0.3),
        row(F("b", 4, "t", 4), F("b", 2, "t", 4), F("b", 2, "t", 4), enable_gqa=True),
        row(F("b", 2, "t", 4), F("b", 2, 5, 4), F("b", 2, 5, 3)),
        row(F("b", "t", 4), F("b", 5, 4), F("b", 5, 4)),
    ],
    # norms
    "aten.layer_norm.default": [
        row(X, [4], F(4), F(4)),
        row(X, [4]),
        row(F("b", 3, 4), [3, 4], F(3, 4), F(3, 4), 1e-3),
    ],
    "aten.native_layer_norm.default": [row(X, [4], F(4), F(4), 1e-5)],
    "aten.rms_norm.default": [row(X, [4], F(4), 1e-6), row(X, [4])],
    "aten.batch_norm.default": [row(F("b", 3, "t"), F(3), F(3), F(3), F(3, low=0.1), False, 0.1, 1e-5, False)],
    "aten._native_batch_norm_legit.no_stats": [row(F(1, 3, 5), F(3), F(3), True, 0.0, 1e-5)],
    "aten._native_batch_norm_legit_no_training.default": [
        row(F("b", 3, "t", 2), F(3), F(3), F(3), F(3, low=0.1), 0.1, 1e-5),
        row(F("b", 3), None, None, F(3), F(3, low=0.1), 0.1, 1e-5),
    ],
    "aten.group_norm.default": [row(F("b", 6, "t"), 3, F(6), F(6)), row(F("b", 6, "t", 2), 2)],
    "aten.native_group_norm.default": [row(F("b", 6, 5), F(6), F(6), S("b"), 6, 5, 3, 1e-5)],
    "aten._weight_norm.default": [row(F(3, 4, 2), F(1, 1, 2), 2), row(F(3, 4), F(3, 1))],
    # convolutions
    "aten.convolution.default": [
        row(F("b", 4, 9), F(6, 2, 3), F(6), [2], [1], [1], False, [0], 2),
        row(F("b", 4, 5), F(4, 3, 3), F(6), [2], [1], [1], True, [1], 2),
        row(F("b", 2, 5, 6), F(2, 3, 3, 2), None, [2, 1], [1, 0], [1, 2], True, [1, 0], 1),
    ],
    "aten.conv1d.default": [row(F("b", 4, 9), F(6, 4, 3), F(6), [2], [1]), row(F("b", 4, 9), F(6, 4, 2))],
    "aten.conv1d.padding": [
        row(F("b", 4, 9), F(6, 4, 4), None, [1], "same"),
        row(F("b", 4, 9), F(6, 4, 4), None, [2], "valid"),
    ],
    "aten.conv2d.default": [
        row(F("b", 3, 8, "t"), F(5, 3, 2, 1), F(5), [2, 1]),
        row(F("b", 4, 5, 6), F(4, 1, 3, 3), None, [1, 1], [1, 1], [1, 1], 4),
    ],
    "aten.conv3d.default": [row(F("b", 2, 4, 4, 5), F(3, 2, 2, 2, 2), F(3))],
    "aten.conv_transpose1d.default": [row(F("b", 4, 5), F(4, 3, 4), F(3), [2], [1])],
    "aten.conv_transpose2d.input": [row(F("b", 4, 5, 3), F(4, 3, 2, 2), F(3), [2, 2])],
    "aten.max_pool1d.default": [row(F("b", 3, 9), [3], [2], [1])],
    "aten.max_pool2d.default": [
        row(F("b", 3, 9, 8), [3, 3], [2, 2], [1, 1]),
        row(F("b", 3, 8, 6), [2]),
        row(F("b", 3, 7, 8), [3], [2], [0], [1], True),
    ],
    "aten.avg_pool1d.default": [row(F("b", 3, 9), [3], [2], [1]), row(F("b", 3, 9), [3], [2], [1], False, False)],
    "aten.avg_pool2d.default": [
        row(F("b", 3, 9, 8), [3, 2], [2, 2]),
        row(F("b", 3, 9, 8), [2], [2], [1], False, False),
        row(F("b", 3, 3, 2), [40], [40], [0], True),
    ],
    "aten.adaptive_avg_pool1d.default": [row(F("b", 3, 9), [4])],
    "aten.adaptive_avg_pool2d.default": [row(F("b", 3, 9, 8), [1, 1]), row(F("b", 3, 9, 8), [3, 5])],
    "aten._adaptive_avg_pool2d.default": [row(F("b", 3, 9, 8), [2, 2])],
    "aten.upsample_nearest1d.default": [row(F("b", 3, 5), [10])],
    "aten.upsample_nearest2d.default": [row(F("b", 3, 5, 4), [10, 7])],
    "aten.upsample_nearest2d.vec": [row(F("b", 3, 5, 4), None, [2.0, 2.0])],
    "aten.upsample_linear1d.default": [row(F("b", 3, 5), [9], False)],
    "aten.upsample_bilinear2d.default": [row(F("b", 3, 5, 4), [9, 3], False), row(F("b", 3, 5, 4), [9, 3], True)],
    "aten.upsample_bilinear2d.vec": [row(F("b", 3, 5, 4), None, False, [1.5, 2.0])],
    "aten.upsample_bicubic2d.default": [row(F("b", 3, 5, 4), [9, 3], False), row(F("b", 3, 5, 4), [9, 7], True)],
    "aten.upsample_bicubic2d.vec": [row(F("b", 3, 5, 4), None, False, [1.5, 2.0])],
    # made of nothing
    "aten.arange.default": [row(S("t"))],
    "aten.arange.start": [row(2, S("t + 3"))],
    "aten.arange.start_step": [row(0, S("t + 5"), 2), row(S("t"), -1, -1), row(0, 1, 0.25)],
    "aten.full.default": [row([S("b"), 2], 1.5), row([S("b")], 3)],
    "aten.zeros.default": [row([S("b"), 2])],
    "aten.ones.default": [row([S("b"), 2])],
    "aten.zeros_like.default": [row(X)],
    "aten.ones_like.default": [row(X)],
    "aten.full_like.default": [row(X, 2.0), row(I("b"), 2)],
    "aten.new_zeros.default": [row(X, [S("b"), 3])],
    "aten.new_ones.default": [row(X, [S("b"), 3])],
    "aten.new_full.default": [row(X, [S("b")], 2.0)],
    "aten.fill.Scalar": [row(X, 2.0)],
    "aten.scalar_tensor.default": [row(1.5), row(S("t"))],
    "aten.eye.default": [row(S("t"))],
    "aten.eye.m": [row(S("t"), 3)],
    "aten.linspace.default": [row(0.0, 1.0, 7), row(0.0, math.pi, S("t + 1"))],
    "aten.type_as.default": [row(I("b"), F(1)), row(F("b"), I(1))],
    "aten.copy.default": [row(X, F(4)), row(I("b"), F("b"))],
    # by other names, and older overloads
    "aten.subtract.Tensor": [row(X, F(4))],
    "aten.divide.Tensor": [row(X, F(4, low=0.5))],
    "aten.clip.default": [row(X, -1, 1)],
    "aten._prelu_kernel.default": [row(F("b", 3), F(1, 3))],
    "aten._convolution.default": [
        row(F("b", 4, 9), F(6, 2, 3), F(6), [2], [1], [1], False, [0], 2, False, False, False, False)
    ],
    "aten.conv_transpose3d.input": [row(F("b", 2, 3, 3, 2), F(2, 3, 2, 2, 2), F(3), [2, 1, 1])],
    "aten.max_pool2d_with_indices.default": [row(F("b", 3, 8, 6), [2])],
    "aten.adaptive_avg_pool3d.default": [row(F("b", 3, 4, 5, 6), [2, 1, 3])],
    "aten.adaptive_max_pool1d.default": [row(F("b", 3, 9), [4])],
    "aten.adaptive_max_pool2d.default": [row(F("b", 3, 9, 8), [3, 5])],
    "aten.instance_norm.default": [
        row(F("b", 3, 4, 5), F(3), F(3), None, None, True, 0.1, 1e-5, False),
        row(F("b", 3, 4), F(3), F(3), F(3), F(3, low=0.1), False, 0.1, 1e-5, False),
    ],
    "aten.var.default": [row(F(2, 3)), row(F(2, 3), False)],
    "aten.std.dim": [row(F("b", 5), [1], True, True)],
    "aten.std.default": [row(F(2, 3))],
    "aten.var_mean.dim": [row(F("b", 5), [1], False, True)],
    "aten.var_mean.default": [row(F(2, 3))],
    "aten.argsort.stable": [row(I("b", 6), stable=True, dim=1, descending=False)],
    "aten.reflection_pad3d.default": [row(F("b", 2, 4, 5, 4), [1, 2, 0, 1, 1, 1])],
    "aten.replication_pad3d.default": [row(F("b", 2, 4, 5, 4), [1, 2, 0, 1, 1, 1])],
    **{f"aten.{name}.input": recurrent(name, gates) for name, gates in GATES.items()},
    **{f"aten.{name}_cell.default": [cell(name, gates)] for name, gates in GATES.items()},
}
"""Overload -> ways to call it."""

ELSEWHERE = {
    "aten.split.default": "the operator of the shorter name, copied",
    **dict.fromkeys(
        ("aten.fft_fftn", "aten.fft_fft2", "aten.fft_fft", "aten.view_as_real", "aten.view_as_complex", "aten.real"),
        "complex numbers are pairs here: in the tests of whole modules",
    ),
    **dict.fromkeys(
        ("aten.imag", "aten.polar", "aten.complex"),
        "complex numbers are pairs here: in the tests of whole modules",
    ),
    "aten.empty": "unset numbers have no value to compare",
    "aten.empty_like": "unset numbers have no value to compare",
    "aten.empty_permuted": "unset numbers have no value to compare",
    "aten.new_empty": "unset numbers have no value to compare",
    "aten.to": "types: in the tests of whole modules",
    "aten._to_copy": "types: in the tests of whole modules",
    "aten.float": "types: in the tests of whole modules",
    "aten._cast_Float": "types: in the tests of whole modules",
    "prims.convert_element_type": "types: in the tests of whole modules",
    "getitem": "takes results apart: in the tests of whole modules",
    "aten.fill_": "fill by another name",
    **dict.fromkeys(
        ("aten.view_copy", "aten._reshape_alias", "aten.squeeze_copy", "aten.unsqueeze_copy", "aten.permute_copy"),
        "the operator of the shorter name, copied",
    ),
    **dict.fromkeys(
        ("aten.transpose_copy", "aten.t_copy", "aten.expand_copy", "aten.split_copy", "aten.slice_copy"),
        "the operator of the shorter name, copied",
    ),
    **dict.fromkeys(
        ("aten.split_with_sizes_copy", "aten.select_copy", "aten.diagonal_copy", "aten.unfold_copy"),
        "the operator of the shorter name, copied",
    ),
}  # fmt: skip
"""Operators without a row, and why."""

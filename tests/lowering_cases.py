"""What the lowerings are tried on: functions of every primitive, with arguments of dynamic sizes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax
from jax.extend.core import ClosedJaxpr, Jaxpr

from bgevis.exporters.lowering.walk import CALLS, NOTHING
from bgevis.model import ops
from bgevis.model.attention import causal, mask_bias

SIZES = {"b": 2, "t": 3}


@dataclass(frozen=True)
class Arg:
    """An argument: axes as "b t 4", letters being dynamic; integers are drawn from low..high-1."""

    axes: str
    dtype: str = "float32"
    low: float = -3
    high: float = 3

    def shape(self, sizes: Mapping[str, object]) -> tuple:
        return tuple(int(axis) if axis.isdigit() else sizes[axis] for axis in self.axes.split())

    def draw(self, rng: np.random.Generator, sizes: Mapping[str, int]) -> np.ndarray:
        shape = self.shape(sizes)
        if self.dtype == "bool":
            return rng.integers(0, 2, shape).astype(bool)
        if self.dtype.startswith(("int", "uint")):
            return rng.integers(int(self.low), int(self.high), shape).astype(self.dtype)
        return rng.uniform(self.low, self.high, shape).astype(self.dtype)


def trace(function: Callable, args: tuple[Arg, ...], sizes: Mapping[str, int] | None = None) -> ClosedJaxpr:
    """Trace with symbolic sizes, or with `sizes`."""
    symbols = dict(zip("bt", export.symbolic_shape("b, t"), strict=True))
    return jax.jit(function).trace(*(jax.ShapeDtypeStruct(a.shape(sizes or symbols), a.dtype) for a in args)).jaxpr


X, Y = Arg("b t 4"), Arg("b t 4")
POSITIVE, UNIT = Arg("b t 4", low=0.2), Arg("b t 4", low=-0.9, high=0.9)
N, M = Arg("b t", "int32"), Arg("b t", "int32", 1, 5)
P, Q = Arg("b t", "bool"), Arg("b t", "bool")
IDS = Arg("b t", "int32", 0, 4)
PLACE = Arg("", "int32", 0, 6)
IMAGE = Arg("b 8 8 6")


def conv(strides=(1, 1), padding="SAME", kernel=(3, 3, 6, 4), layout=("NHWC", "HWIO", "NHWC"), **options):
    def function(x):
        weights = jnp.asarray(np.random.default_rng(1).standard_normal(kernel), jnp.float32)
        return lax.conv_general_dilated(x, weights, strides, padding, dimension_numbers=layout, **options)

    return function


PATCHES = "Reshape:b,2,4,2,4,6 Transpose:b,2,2,4,4,6 Reshape:b,2,2,96"


def heads(x):
    return x.reshape(*x.shape[:2], 2, 2)


CASES = {
    # elementwise
    "add": (lambda x, y: x + y, X, Y),
    "sub scalar": (lambda x: 1.0 - x, X),
    "mul broadcast": (lambda x, y: x * y, X, Arg("4")),
    "div": (lambda x, y: x / y, X, POSITIVE),
    "div int": (lambda n, m: lax.div(n, m), N, M),
    "rem": (lambda x, y: lax.rem(x, y), X, POSITIVE),
    "rem int": (lambda n, m: lax.rem(n, m), N, M),
    "floor divide": (lambda n, m: n // m, N, M),
    "max min": (lambda x, y: jnp.maximum(x, y) + jnp.minimum(x, 0), X, Y),
    "neg abs sign": (lambda x: -x + abs(x) * jnp.sign(x), X),
    "floor ceil round": (lambda x: (jnp.floor(x), jnp.ceil(x), jnp.round(x), lax.round(x)), X),
    "exp log": (lambda x: jnp.log(jnp.exp(x)), X),
    "log1p expm1": (lambda x: (jnp.log1p(x), jnp.expm1(x)), UNIT),
    "expm1 log1p of small": (lambda x: (1e6 * jnp.log1p(x * 1e-6), 1e6 * jnp.expm1(x * 1e-6)), UNIT),
    "expm1 of large": (lambda x: jnp.expm1(x * 5), X),
    "sqrt rsqrt cbrt": (lambda x: (jnp.sqrt(x), lax.rsqrt(x), jnp.cbrt(x)), POSITIVE),
    "trigonometry": (lambda x: (jnp.sin(x), jnp.cos(x), jnp.tan(x)), UNIT),
    "inverse trigonometry": (lambda x: (jnp.arcsin(x), jnp.arccos(x), jnp.arctan(x)), UNIT),
    "hyperbolic": (lambda x: (jnp.sinh(x), jnp.cosh(x), jnp.tanh(x)), UNIT),
    "inverse hyperbolic": (lambda x: (jnp.arcsinh(x), jnp.arccosh(x + 2), jnp.arctanh(x)), UNIT),
    "erf": (lambda x: (lax.erf(x), lax.erfc(x)), X),
    "logistic": (jax.nn.sigmoid, X),
    "softplus": (jax.nn.softplus, X),
    "pow": (lambda x, y: x**y, POSITIVE, Y),
    "integer_pow": (lambda x: (x**2, x**3, x**-1, x**4, x**7), POSITIVE),
    "square": (jnp.square, X),
    "exp2": (jnp.exp2, X),
    "clamp": (lambda x, y: (jnp.clip(x, -1, 1), lax.clamp(-1.0, x, 2.0), lax.clamp(y, x, y + 1)), X, Y),
    "compare": (lambda x, y: (x < y, x <= y, x > y, x >= y, x == y, x != y), X, Y),
    "compare int": (lambda n, m: (n < m, n == m, n != 1), N, M),
    "logic": (lambda p, q: (p & q, p | q, p ^ q, ~p), P, Q),
    "bits": (lambda n, m: (n & m, n | m, n ^ m, ~n), N, M),
    "where": (lambda p, n: jnp.where(p, n, 0), P, N),
    "select_n of three": (lambda n, x, y: lax.select_n(n, x, y, x + y), Arg("b t", "int32", 0, 3), N, M),
    "is_finite": (lambda x: jnp.isfinite(jnp.log(x)), X),
    "casts": (lambda n, p: (n.astype(jnp.float32), p.astype(jnp.int32), p.astype(jnp.float32), n.astype(bool)), N, P),
    "truncate": (lambda x: x.astype(jnp.int32), X),
    "half": (lambda x: (jnp.round(x).astype(jnp.float16) + 1).astype(jnp.float32), X),
    "where of bools": (lambda p, q: jnp.where(p, q, ~q), P, Q),
    "overflow wraps": (lambda n: n * 1_500_000_000, N),
    "stop_gradient": (lambda x: lax.stop_gradient(x) + 1, X),
    "identity": (lambda x: (x, x + 1, x + 1), X),
    "atan2": (lambda x, y: jnp.arctan2(x, y), X, Y),
    "special": (lambda x: (lax.erf_inv(x), lax.lgamma(x + 2), lax.digamma(x + 2)), UNIT),
    "nextafter": (lambda x, y: lax.nextafter(x, y), X, Y),
    "shifts": (lambda n, m: (n << m, n >> m, n << m + 30, n >> m + 30), N, M),
    "shift_right_logical": (lambda n, m: (lax.shift_right_logical(n, m), lax.shift_right_logical(n, m + 30)), N, M),
    # reductions
    "sum": (lambda x: (x.sum(), x.sum(0), x.sum((0, 2)), x.sum(-1, keepdims=True)), X),
    "mean var": (lambda x: (x.mean(-1), x.var(-1), x.mean((0, 1), keepdims=True)), X),
    "max min prod": (lambda x: (x.max(1), x.min(), x.prod(2)), X),
    "all any": (lambda p: (p.all(), p.any(1)), P),
    "sum int": (lambda n: (n.sum(), n.max(1), n.min(0)), N),
    "argmax argmin": (lambda x: (x.argmax(-1), x.argmin(1)), X),
    "argmax argmin of bools": (lambda x: ((x > 0).argmax(-1), (x > 0).argmin(1)), X),
    "cumsum": (lambda x, n: (jnp.cumsum(x, 1), lax.cumsum(n, 1, reverse=True)), X, N),
    "cumprod": (lambda x: (jnp.cumprod(x, 1), lax.cumprod(x, 2, reverse=True)), X),
    "cumlogsumexp": (lambda x: (lax.cumlogsumexp(x, 1), lax.cumlogsumexp(x, 0, reverse=True)), X),
    "cummax cummin": (lambda x, n: (lax.cummax(x, 1), lax.cummin(x, 0, reverse=True), lax.cummax(n, 1)), X, N),
    "max_pool": (
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 3, 1), (1, 2, 1, 1), ((0, 0), (0, 0), (1, 1), (0, 0))),
        IMAGE,
    ),
    "min_pool sum_pool": (
        lambda x: (
            lax.reduce_window(x, jnp.inf, lax.min, (1, 3, 3, 1), (1, 2, 2, 1), "VALID"),
            lax.reduce_window(x, 0.0, lax.add, (1, 1, 2, 1), (1, 1, 2, 1), "SAME"),
        ),
        IMAGE,
    ),
    "softmax": (lambda x: (jax.nn.softmax(x), jax.nn.log_softmax(x, axis=1)), X),
    "logsumexp": (lambda x: jax.nn.logsumexp(x, axis=1), X),
    "norm": (lambda x: jnp.linalg.norm(x, axis=-1), X),
    "top_k": (lambda x: lax.top_k(x, 2), X),
    "sort": (lambda x: jnp.sort(x, axis=1), X),
    "argsort": (lambda x: jnp.argsort(x, axis=-1), X),
    # shapes
    "reshape": (lambda x: x.reshape(x.shape[0], -1), X),
    "flatten": (lambda x: x.reshape(-1), X),
    "split heads": (lambda x: x.reshape(*x.shape[:2], 2, 2).transpose(0, 2, 1, 3), X),
    "reshape there and back": (lambda x: (x.reshape(-1, 4) * 2).reshape(x.shape), X),
    "ones": (lambda x: x[:, None, :, None] + x[None, ..., None].reshape(x.shape[0], 1, x.shape[1], 1, 4) + 1, X),
    "transpose": (lambda x: (x.T, x.transpose(1, 0, 2)), X),
    "broadcast": (lambda x: (jnp.broadcast_to(x, (3, *x.shape)), jnp.broadcast_to(x[:, :1], x.shape)), X),
    "broadcast then reduce": (lambda x: jnp.broadcast_to(x[..., None], (*x.shape, 5)).sum(-1), X),
    "broadcast then concat": (lambda x: jnp.concatenate([x, jnp.zeros_like(x), x[:, :1] * 0 + x], axis=1), X),
    "broadcast then reshape": (lambda x: jnp.broadcast_to(x[:, None], (x.shape[0], 2, *x.shape[1:])).reshape(-1, 4), X),
    "stack unstack tile": (lambda x: (jnp.stack([x, x + 1], 1), jnp.unstack(x, axis=2)[1], jnp.tile(x, (1, 2, 3))), X),
    "repeat": (lambda x: jnp.repeat(x, 2, axis=2), X),
    "slice": (lambda x: (x[:, 1:], x[..., :2], x[..., ::2], x[:, :-1, 1:3]), X),
    "first": (lambda x: (x[:, 0], x[:, -1], x[..., 1]), X),
    "split": (lambda x: jnp.split(x, 2, axis=-1), X),
    "reverse": (lambda x: (x[:, ::-1], jnp.flip(x)), X),
    "roll": (lambda x: jnp.roll(x, 1, axis=-1), X),
    "pad": (lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 1)), constant_values=7), X),
    "pad by less than nothing": (lambda x: lax.pad(x, 0.0, ((0, 0, 0), (-1, 1, 0), (0, 0, 0))), X),
    "iota": (lambda x: (jnp.arange(4) + x, jnp.arange(x.shape[1])[:, None] + x), X),
    "broadcasted iota": (lambda x: lax.broadcasted_iota(jnp.int32, x.shape, 1), X),
    "sizes": (lambda x: x.sum(1) / x.shape[1] + x.shape[0] * 2, X),
    "size arithmetic": (lambda x: jnp.zeros((x.shape[0] * 2 + 1, (x.shape[1] + 5) // 2, x.shape[1] % 2 + 1)), X),
    "causal mask": (lambda x: jnp.where(jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool)), 0.0, -1e9), X),
    # indexing
    "take": (lambda x, n: x[n], Arg("5 4"), IDS),
    "take along last": (lambda x, n: jnp.take(x, n, axis=2), X, IDS),
    "take clipped": (lambda x, n: jnp.take(x, n * 5, axis=0, mode="clip"), Arg("5 4"), N),
    "take from the end": (lambda x, n: x[n], Arg("4 4"), N),
    "take_along_axis": (lambda x, n: jnp.take_along_axis(x, n, axis=1), Arg("b 4"), IDS),
    "put rows": (lambda x, n, y: (x.at[n].set(1.0), x.at[:, 1].set(7.0), x.at[n].add(y)), Arg("5 4"), IDS, X),
    "put points": (lambda x, n: (x.at[n, n + 1].add(2.0), x.at[n, n + 1].multiply(2.0)), Arg("5 6 3"), IDS),
    "put extremes": (lambda x, n, y: (x.at[n].max(y), x.at[n].min(y)), Arg("5 4"), IDS, X),
    "put a window": (lambda x: (x.at[:, 1:3].set(0.0), x.at[1:3, :2].add(1.0)), Arg("4 5")),
    "put one row": (lambda x, i: x.at[i].set(0.0), Arg("7 t"), PLACE),
    "points": (lambda x, n: x[n, n + 1], Arg("5 6 7"), IDS),
    "dynamic index": (lambda x, i: (x[i], lax.dynamic_index_in_dim(x, i, 1)), Arg("7 9"), PLACE),
    "dynamic_slice": (lambda x, i: lax.dynamic_slice(x, (i, 0, i), (2, x.shape[1], 3)), Arg("7 t 4"), PLACE),
    "dynamic_update_slice of several axes": (
        lambda x, y, i: lax.dynamic_update_slice(x, y, (0, i, i)), Arg("b 7 9"), Arg("b 2 3"), PLACE
    ),
    "dynamic_update_slice": (lambda x, i: lax.dynamic_update_slice_in_dim(x, x[:, :2] * 0, i, 1), Arg("b 7 4"), PLACE),
    # products
    "dot": (lambda x, y: x @ y, X, Arg("4 5")),
    "dot transposed": (lambda x, y: jnp.einsum("btd,ed->bte", x, y), X, Arg("5 4")),
    "dot vectors": (lambda x, y: (jnp.dot(x, y), jnp.dot(x, y) * 2), Arg("4"), Arg("4")),
    "dot matrix vector": (lambda x, y: (x @ y, y @ y), X, Arg("4")),
    "batched": (lambda x, y: jnp.einsum("btd,bsd->bts", x, y), X, Y),
    "heads": (lambda x, y: jnp.einsum("bthd,bshd->bhts", heads(x), heads(y)), X, Y),
    "two summed axes": (lambda x, y: jnp.einsum("btd,tde->be", x, y), Arg("b 3 4"), Arg("3 4 5")),
    "outer": (lambda x, y: jnp.einsum("btd,e->tdbe", x, y), X, Arg("3")),
    "conv": (conv(), IMAGE),
    "conv strided": (conv((2, 2), "VALID"), IMAGE),
    "conv of patches": (conv((2, 4), "VALID", (2, 4, 6, 5)), IMAGE),
    "conv of single pixels": (conv(kernel=(1, 1, 6, 5)), IMAGE),
    "dense": (lambda x: jnp.tensordot(heads(x), jnp.arange(20.0).reshape(2, 2, 5), 2), X),
    "conv padded": (conv((1, 2), ((1, 2), (0, 1))), IMAGE),
    "conv grouped": (conv(kernel=(3, 3, 2, 9), feature_group_count=3), IMAGE),
    "conv dilated": (conv(rhs_dilation=(2, 1)), IMAGE),
    "conv channels first": (conv(kernel=(4, 8, 3, 3), layout=("NCHW", "OIHW", "NCHW")), Arg("b 8 6 6")),
    "conv 1d": (conv((1,), "SAME", (3, 6, 4), ("NWC", "WIO", "NWC")), Arg("b 8 6")),
    # control
    "scan": (lambda x: lax.scan(lambda c, y: (c + y, c * y), x[0] * 0, x), Arg("4 b t")),
    "scan reversed": (lambda x: lax.scan(lambda c, y: (c * 0.5 + y.sum(), c), 0.0, x, reverse=True), Arg("3 b")),
    "fori_loop": (lambda x: lax.fori_loop(0, 3, lambda i, y: y * 0.5 + i, x), X),
    "cond": (lambda x, i: lax.cond(i > 2, lambda y: (y + 1, y > 0), lambda y: (y * 2, y < 0), x), X, PLACE),
    "switch": (lambda x, i: lax.switch(i - 1, [jnp.sin, jnp.cos, jnp.tanh], x), X, PLACE),
    # calls
    "jit": (lambda x: jax.jit(lambda y: y + 1)(x) * jax.nn.relu(x) + jax.nn.silu(x), X),
    "gelu": (lambda x: jax.nn.gelu(x, approximate=False), X),
    "remat": (lambda x: jax.checkpoint(jnp.sin)(x), X),
}  # fmt: skip


def steps(operator, gates, states=1, **attributes):
    """Call a recurrent operator on t steps of b rows; `gates` of 5 numbers each."""
    weights = [Arg(shape, low=-0.5, high=0.5) for shape in (f"{gates * 5} 4", f"{gates * 5} 5", *[f"{gates * 5}"] * 2)]
    return lambda *arrays: operator(*arrays, **attributes), Arg("t b 4"), *[Arg("b 5")] * states, *weights


def transposed(strides, padding, output_padding, dilations, groups):
    given = {"strides": strides, "padding": padding, "output_padding": output_padding, "dilations": dilations}
    return lambda x, kernel: ops.conv_transpose(x, kernel, groups=groups, **given)


HEADS, GROUPS = Arg("b t 4 6"), Arg("b t 2 6")
NATIVE = {
    "layer_norm": (lambda x, s, b: ops.layer_norm(x, s, b, epsilon=1e-3), X, Arg("4"), Arg("4")),
    "rms_norm": (lambda x, s: ops.rms_norm(x, s, epsilon=1e-3), X, Arg("4")),
    "gelu": (ops.gelu, X),
    "gelu_tanh": (ops.gelu_tanh, X),
    "silu": (ops.silu, X),
    "softmax": (lambda x: ops.softmax(40 * x), X),
    "quick_gelu": (ops.quick_gelu, X),
    "attention": (lambda q, k, v: ops.attention(q, k, v, scale=0.4), HEADS, HEADS, HEADS),
    "attention of causal rows": (
        lambda q, k, v: ops.attention(q, k, v, mask_bias(causal(q.shape[1]), -1e9), scale=0.4), HEADS, HEADS, HEADS
    ),
    "attention with a bias of each head": (
        lambda q, k, v, b: ops.attention(q, k, v, b, scale=0.4), HEADS, HEADS, HEADS, Arg("1 4 t t")
    ),
    "attention to another sequence": (
        lambda q, k, v: ops.attention(q, k, v, scale=0.4), HEADS, Arg("b 5 4 6"), Arg("b 5 4 6")
    ),
    "attention to what lies with the heads first": (
        lambda q, k, v: ops.attention(q, k.swapaxes(1, 2), v.swapaxes(1, 2), scale=0.4),
        *(HEADS, Arg("b 4 5 6"), Arg("b 4 5 6")),
    ),
    "attention with a bias to what lies with the heads first": (
        lambda q, k, v: ops.attention(
            q, k.swapaxes(1, 2), v.swapaxes(1, 2), mask_bias(causal(q.shape[1]), -1e9), scale=0.4
        ),
        *(HEADS, Arg("b 4 t 6"), Arg("b 4 t 6")),
    ),
    "attention with shared keys and values": (
        lambda q, k, v: ops.attention(q, k, v, scale=0.4), HEADS, GROUPS, GROUPS
    ),
    "rotary pairs": (lambda x, c, s: ops.rotary_embedding(x, c, s, interleaved=True), HEADS, Arg("t 3"), Arg("t 3")),
    "rotary halves": (lambda x, c, s: ops.rotary_embedding(x, c, s, interleaved=False), HEADS, Arg("t 3"), Arg("t 3")),
    "rotary rows": (
        lambda x, c, s: ops.rotary_embedding(x, c, s, interleaved=False), HEADS, Arg("b t 3"), Arg("b t 3")
    ),
    "l2_normalize": (lambda x: ops.l2_normalize(x, epsilon=1e-3), X),
    "conv_transpose": (transposed((2, 2), (1, 0), (0, 1), (1, 1), 1), Arg("b 4 t 5"), Arg("4 3 3 2")),
    "conv_transpose in groups": (transposed((3,), (2,), (0,), (2,), 2), Arg("b 4 t"), Arg("4 3 4")),
    "lstm": steps(ops.lstm, 4, 2, reverse=False),
    "lstm from the last step": steps(ops.lstm, 4, 2, reverse=True),
    "gru": steps(ops.gru, 3, reverse=False),
    "gru from the last step": steps(ops.gru, 3, reverse=True),
    "rnn": steps(ops.rnn, 1, reverse=False, relu=False),
    "rnn with relu": steps(ops.rnn, 1, reverse=True, relu=True),
    "conv_transpose cut at both ends": (transposed((2,), (3,), (1,), (1,), 1), Arg("b 4 t"), Arg("4 3 3")),
}  # fmt: skip
"""The operators of `model/ops.py`, each way that they can be called."""


def primitives(jaxpr):
    """Name the primitives of a jaxpr and of those inside it."""
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        for parameter in eqn.params.values():
            for inner in parameter if isinstance(parameter, tuple) else (parameter,):
                if isinstance(inner, (ClosedJaxpr, Jaxpr)):
                    yield from primitives(getattr(inner, "jaxpr", inner))


def used(function, args):
    """Name the primitives of a function, traced with symbolic sizes and without."""
    named = {p for sizes in (None, SIZES) for p in primitives(trace(function, args, sizes).jaxpr)}
    return named - {*CALLS, *NOTHING}


def same(
    function: Callable,
    args: tuple[Arg, ...],
    run: Callable[[list[np.ndarray]], list[np.ndarray]],
    sizes: Mapping[str, int],
    tolerance: float = 3e-6,
) -> None:
    """Compare with JAX on drawn arguments: shapes, types, values."""
    arrays = [arg.draw(np.random.default_rng(0), sizes) for arg in args]
    want = jax.tree.leaves(jax.jit(function)(*arrays))
    got = run(arrays)
    assert len(want) == len(got)
    for one, other in zip(want, got, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        np.testing.assert_allclose(other, np.asarray(one), rtol=tolerance, atol=tolerance)

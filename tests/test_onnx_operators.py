import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr

from bgevis.exporters.lowering.walk import CALLS, NOTHING
from bgevis.exporters.onnx.registry import TABLE
from bgevis.validation.errors import GateError

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode leaves it out
from onnx_lowering import SIZES, Arg, agree, run, summary, to_onnx, trace

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
    # reductions
    "sum": (lambda x: (x.sum(), x.sum(0), x.sum((0, 2)), x.sum(-1, keepdims=True)), X),
    "mean var": (lambda x: (x.mean(-1), x.var(-1), x.mean((0, 1), keepdims=True)), X),
    "max min prod": (lambda x: (x.max(1), x.min(), x.prod(2)), X),
    "all any": (lambda p: (p.all(), p.any(1)), P),
    "sum int": (lambda n: (n.sum(), n.max(1), n.min(0)), N),
    "argmax argmin": (lambda x: (x.argmax(-1), x.argmin(1)), X),
    "cumsum": (lambda x, n: (jnp.cumsum(x, 1), lax.cumsum(n, 1, reverse=True)), X, N),
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
    "points": (lambda x, n: x[n, n + 1], Arg("5 6 7"), IDS),
    "dynamic index": (lambda x, i: (x[i], lax.dynamic_index_in_dim(x, i, 1)), Arg("7 9"), PLACE),
    "dynamic_slice": (lambda x, i: lax.dynamic_slice(x, (i, 0, i), (2, x.shape[1], 3)), Arg("7 t 4"), PLACE),
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
    # calls
    "jit": (lambda x: jax.jit(lambda y: y + 1)(x) * jax.nn.relu(x) + jax.nn.silu(x), X),
    "gelu": (lambda x: jax.nn.gelu(x, approximate=False), X),
    "remat": (lambda x: jax.checkpoint(jnp.sin)(x), X),
}  # fmt: skip


STRUCTURAL = {"Reshape", "Squeeze", "Unsqueeze", "Expand", "Shape", "Concat", "Cast", "Identity", "Sum"}
"""What sizes, broadcasting and types may add to what the rules emit."""

ALIASES = {"add_any", "expand_dims", "reduce_precision"}
"""Primitives with a rule that another primitive's case exercises, or whose rule is to give what came."""


def primitives(jaxpr):
    """Name the primitives of a jaxpr and of those inside it."""
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        for inner in eqn.params.values():
            if isinstance(inner, (ClosedJaxpr, Jaxpr)):
                yield from primitives(getattr(inner, "jaxpr", inner))


def used(function, args):
    """Name the primitives of a function, traced with symbolic sizes and without."""
    named = {p for sizes in (None, SIZES) for p in primitives(trace(function, args, sizes).jaxpr)}
    return named - {*CALLS, *NOTHING}


@pytest.mark.parametrize("name", CASES)
def test_operator(name):
    function, *args = CASES[name]
    symbolic = to_onnx(function, args)
    agree(function, args, symbolic, SIZES)
    agree(function, args, symbolic, {"b": 1, "t": 5})
    agree(function, args, to_onnx(function, args, SIZES), SIZES)
    agree(function, args, to_onnx(function, args, SIZES, opset=18), SIZES)
    emitted = {node.op_type for node in symbolic.graph.node if "." in node.name}  # the others compute sizes
    stated = {op for primitive in used(function, args) for op in TABLE.primitives[primitive].emits}
    assert emitted <= stated | STRUCTURAL


def test_every_rule_has_a_case():
    TABLE.load()
    seen = {primitive for function, *args in CASES.values() for primitive in used(function, args)}
    assert set(TABLE.primitives) - seen - ALIASES == set()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_any_product(shape, data):
    """Any axes may be summed over or shared."""
    letters = "abcd"[: len(shape)]
    right = data.draw(st.permutations([*letters, "e"]))[: data.draw(st.integers(1, len(shape) + 1))]
    kept = data.draw(st.permutations(sorted({*letters, *right})))[: data.draw(st.integers(0, 4))]
    sizes = {**dict(zip(letters, shape, strict=True)), "e": 3}
    args = [Arg(" ".join(str(sizes[axis]) for axis in axes)) for axes in (letters, right)]

    def product(x, y):
        return jnp.einsum(f"{letters},{''.join(right)}->{''.join(kept)}", x, y)

    agree(product, args, to_onnx(product, args), {})


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.data())
def test_any_reshape(shape, data):
    """Elementwise operators move across reshapes only where that changes nothing."""
    factors = [f for n in shape for f in ((2, n // 2) if n % 2 == 0 else (n, 1))]
    other = Arg(" ".join(str(n if data.draw(st.booleans()) else 1) for n in factors))

    def function(x, y):
        return (x.reshape(factors) + y).reshape(-1) * 2

    args = [Arg(" ".join(map(str, shape))), other]
    agree(function, args, to_onnx(function, args), {})


def test_unknown_primitive_names_itself_and_the_line():
    with pytest.raises(GateError, match=r"'cummax'.*test_onnx_operators\.py:\d+"):
        to_onnx(lambda x: lax.cummax(x, 1), [X])


def test_registering_twice_is_an_error():
    TABLE.load()
    with pytest.raises(ValueError, match="add is lowered twice"):
        TABLE.primitive("add", emits="Add")(lambda c, eqn: None)


def test_ids_outside_the_table_raise():
    def look_up(table, ids):
        return table.at[ids].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)

    proto = to_onnx(look_up, [Arg("5 4"), IDS])
    table = np.zeros((5, 4), np.float32)
    for bad in (5, -1):
        with pytest.raises(Exception, match="out of data bounds"):
            run(proto, [table, np.array([[0, bad]])])


@pytest.mark.parametrize(
    ("function", "args", "want"),
    [
        (lambda x: x.reshape(*x.shape[:2], 2, 2).reshape(x.shape).transpose(0, 1, 2) + 0, [X], "Add:b,t,4"),
        (lambda x: (x.reshape(*x.shape[:2], 2, 2) + jnp.ones((2, 2))).reshape(x.shape), [X], "Add:b,t,4"),
        (lambda x: x.sum(-1), [X], "ReduceSum:b,t"),
        (lambda x: x - x.mean(-1, keepdims=True), [X], "ReduceSum:b,t,1 Div:b,t,1 Sub:b,t,4"),
        (lambda n: n.astype(jnp.float32), [N], "Cast:b,t"),
        (lambda x: x.T.T.transpose(1, 0, 2), [X], "Transpose:t,b,4"),
        (lambda x, y: (x + y, x + y), [X, Arg("4")], "Add:b,t,4 Identity:b,t,4"),
        (lambda x, y: jnp.where(y[..., None] > 0, x, 0.0), [X, N], "Greater:b,t Unsqueeze:b,t,1 Where:b,t,4"),
        (lambda x: jnp.broadcast_to(jnp.arange(4.0), x.shape) + x, [X], "Add:b,t,4"),
        (lambda x, y: x + y + x, [X, Arg("4")], "Sum:b,t,4"),
        (lambda x: jnp.tensordot(heads(x), jnp.ones((2, 2, 5)), 2), [X], "MatMul:b,t,5"),
        (lambda x: jnp.tanh(x + 1)[:, 0], [X], "Slice:b,1,4 Add:b,1,4 Tanh:b,1,4 Squeeze:b,4"),
        (lambda x: (jnp.tanh(x)[:, 0], jnp.tanh(x)[:, 1]), [X], "Tanh:b,t,4 Gather:b,4 Gather:b,4"),
        (conv((4, 4), "VALID", (4, 4, 6, 5)), [IMAGE], f"{PATCHES} MatMul:b,2,2,5"),
    ],
)
def test_nothing_superfluous(function, args, want):
    assert summary(to_onnx(function, args)) == want

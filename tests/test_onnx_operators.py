import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from bgevis.exporters.onnx import OPSETS
from bgevis.exporters.onnx.registry import TABLE
from bgevis.exporters.onnx.write import OPSET
from bgevis.model.ops import native_operators
from bgevis.validation.errors import GateError

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode leaves it out
from lowering_cases import CASES, IDS, IMAGE, NATIVE, PATCHES, SIZES, Arg, N, X, conv, heads, used
from onnx_lowering import agree, run, summary, to_onnx

STRUCTURAL = {"Reshape", "Squeeze", "Unsqueeze", "Expand", "Shape", "Concat", "Cast", "Identity", "Sum"}
"""What sizes, broadcasting and types may add to what the rules emit."""

ALIASES = {"add_any", "expand_dims", "reduce_precision"}
"""Primitives with a rule that another primitive's case exercises, or whose rule is to give what came."""


ABSENT = {"erf_inv", "lgamma", "digamma", "nextafter"}
"""Primitives of the TensorFlow table that ONNX has no operators for."""


@pytest.mark.parametrize("name", CASES)
def test_operator(name):
    function, *args = CASES[name]
    if used(function, args) & ABSENT:
        with pytest.raises(GateError, match=r"no rule for the JAX primitive .*lowering_cases\.py:\d+"):
            to_onnx(function, args)
        return
    symbolic = to_onnx(function, args)
    agree(function, args, symbolic, SIZES)
    agree(function, args, symbolic, {"b": 1, "t": 5})
    agree(function, args, to_onnx(function, args, SIZES), SIZES)
    agree(function, args, to_onnx(function, args, SIZES, opset=18), SIZES)
    emitted = {node.op_type for node in symbolic.graph.node if "." in node.name}  # the others compute sizes
    stated = {op for primitive in used(function, args) for op in TABLE.primitives[primitive].emits}
    assert emitted <= stated | STRUCTURAL


@pytest.mark.parametrize("opset", [17, OPSET, OPSETS[-1]])
@pytest.mark.parametrize("name", NATIVE)
def test_native_operator(name, opset):
    function, *args = NATIVE[name]
    with native_operators():
        symbolic, static = (to_onnx(function, args, sizes, opset) for sizes in (None, SIZES))
    agree(function, args, symbolic, SIZES)
    agree(function, args, symbolic, {"b": 1, "t": 5})
    agree(function, args, static, SIZES)


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


AXES = st.integers(0, 2)
SMALL = st.lists(st.integers(1, 5), min_size=3, max_size=3)


def dims(shape) -> str:
    return " ".join(map(str, shape))


@settings(max_examples=15, deadline=None)
@given(SMALL, AXES, st.booleans(), st.sampled_from([lax.cumsum, lax.cumprod, lax.cummax, lax.cummin]))
def test_any_running_reduction(shape, axis, reverse, operation):
    function, args = lambda x: operation(x, axis, reverse), [Arg(dims(shape))]
    agree(function, args, to_onnx(function, args), {})


@settings(max_examples=15, deadline=None)
@given(SMALL, AXES, st.lists(st.integers(0, 20), min_size=1, max_size=4), st.sampled_from(["add", "max", "min", "set"]))
def test_any_scatter(shape, axis, rows, method):
    """Places are computed at run time; where one is written twice, only what does not depend on the order."""
    rows = [row % shape[axis] for row in (set(rows) if method == "set" else rows)]
    rows = list(dict.fromkeys(rows)) if method == "set" else rows

    def function(x, n):
        at = (slice(None),) * axis + (n,)
        return getattr(x.at[at], method)(jnp.arange(float(x[at].size)).reshape(x[at].shape))

    args = [Arg(dims(shape)), Arg(str(len(rows)), "int32")]
    proto, x = to_onnx(function, args), args[0].draw(np.random.default_rng(0), {})
    (got,) = run(proto, [x, np.array(rows, np.int32)])
    np.testing.assert_allclose(got, jax.jit(function)(x, np.array(rows, np.int32)), rtol=1e-6)


@settings(max_examples=15, deadline=None)
@given(SMALL, st.data(), st.sampled_from([(lax.max, -np.inf), (lax.min, np.inf), (lax.add, 0.0)]))
def test_any_pooling(shape, data, how):
    window = [data.draw(st.integers(1, n)) for n in shape]
    strides = [data.draw(st.integers(1, 2)) for _ in shape]
    padding = [(data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))) for n in window]
    if all(n == 1 for n in (*window, *strides)):
        return

    def function(x):
        return lax.reduce_window(x, how[1], how[0], window, strides, padding)

    agree(function, [Arg(dims(shape))], to_onnx(function, [Arg(dims(shape))]), {})


@settings(max_examples=15, deadline=None)
@given(SMALL, st.data())
def test_any_dynamic_update_slice(shape, data):
    piece = [data.draw(st.integers(1, n)) for n in shape]

    def function(x, y, i):
        return lax.dynamic_update_slice(x, y, (i, i + 1, i - 1))

    args = [Arg(dims(shape)), Arg(dims(piece)), Arg("", "int32", 0, 6)]
    agree(function, args, to_onnx(function, args), {})


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(0, 40)), min_size=1, max_size=5))
def test_any_shift(pairs):
    x, places = (np.array(column, np.int32) for column in zip(*pairs, strict=True))

    def function(n, m):
        return n << m, n >> m, lax.shift_right_logical(n, m)

    got = run(to_onnx(function, [Arg(str(len(x)), "int32")] * 2), [x, places])
    for one, other in zip(got, jax.jit(function)(x, places), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_loop_that_is_too_long_to_unroll_is_refused():
    with pytest.raises(GateError, match=r"a loop of 1000 steps: only 1 to 256 are unrolled, used at .*\.py:\d+"):
        to_onnx(lambda x: lax.fori_loop(0, 1000, lambda i, y: y + 1, x), [X])


def test_unknown_primitive_names_itself_and_the_line():
    with pytest.raises(GateError, match=r"'erf_inv'.*test_onnx_operators\.py:\d+"):
        to_onnx(lambda x: lax.erf_inv(x), [X])


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

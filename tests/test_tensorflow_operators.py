"""Every rule of the TensorFlow table against JAX, in TensorFlow."""

import importlib.util
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
# ruff: noqa: E402 - what follows needs TensorFlow
from jax import lax

from bgevis.exporters.lowering.trace import Program
from bgevis.exporters.tensorflow_ops.lower import lower
from bgevis.exporters.tensorflow_ops.registry import TABLE
from bgevis.model.ops import native_operators
from bgevis.validation.errors import GateError

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode leaves it out
from lowering_cases import CASES, NATIVE, SIZES, Arg, X, same, trace, used

STRUCTURAL = {"Reshape", "BroadcastTo", "Cast", "Identity", "Const", "Placeholder", "NoOp"}
"""What broadcasting, types and signatures may add to what the rules emit."""


def to_tensorflow(function, args, sizes=None):
    """Lower with symbolic sizes, or with `sizes`; give the graph and a function of arrays that runs it."""
    closed = trace(function, args, sizes)
    inputs = {f"x{i}": jax.ShapeDtypeStruct(a.shape, a.dtype) for i, a in enumerate(closed.in_avals)}
    program = Program(closed, {}, inputs, {f"y{i}": a for i, a in enumerate(closed.out_avals)})
    specs = [
        tf.TensorSpec([d if isinstance(d, int) else None for d in spec.shape], spec.dtype) for spec in inputs.values()
    ]
    traced = tf.function(lambda *tensors: lower(program, {}, tensors), autograph=False).get_concrete_function(*specs)

    def run(arrays):
        outputs = traced(*map(tf.constant, arrays))
        return [outputs[name].numpy() for name in program.outputs]

    return traced.graph, run


def operators(graph):
    """Name the operators of a graph and of the functions in it, but not those that compute sizes."""
    nodes = [*graph.as_graph_def().node]
    nodes += [node for function in graph.as_graph_def().library.function for node in function.node_def]
    return {node.op for node in nodes if not node.name.startswith("sizes/")}


@pytest.mark.parametrize("name", CASES)
def test_operator(name):
    TABLE.load()
    function, *args = CASES[name]
    missing = used(function, args) - {*TABLE.primitives}
    if missing:
        with pytest.raises(GateError, match=rf"no rule for the JAX primitive .*{Path(__file__).parent.name}"):
            to_tensorflow(function, args)
        return
    graph, run = to_tensorflow(function, args)
    same(function, args, run, SIZES)
    same(function, args, run, {"b": 1, "t": 5})
    same(function, args, to_tensorflow(function, args, SIZES)[1], SIZES)
    stated = {op for primitive in used(function, args) for op in TABLE.primitives[primitive].emits}
    assert operators(graph) <= stated | STRUCTURAL


LOOPS = {
    "as many steps as come": (lambda x: lax.scan(lambda c, y: (c + y, c * y), x[0] * 0, x, reverse=True), Arg("t b")),
    "many steps": (lambda x: lax.scan(lambda c, y: (c * 0.9 + y, c), x[0] * 0, x), Arg("300 b")),
}


@pytest.mark.parametrize("name", LOOPS)
def test_loop(name):
    """Those that are not unrolled, as ONNX's are."""
    function, *args = LOOPS[name]
    graph, run = to_tensorflow(function, args)
    for sizes in (SIZES, {"b": 1, "t": 1}):
        same(function, args, run, sizes)
    stated = {op for primitive in used(function, args) for op in TABLE.primitives[primitive].emits}
    assert "StatelessWhile" in operators(graph) <= stated | STRUCTURAL


@pytest.mark.parametrize("name", NATIVE)
def test_native_operator(name):
    TABLE.load()
    function, *args = NATIVE[name]
    with native_operators():
        (_, symbolic), (_, static) = (to_tensorflow(function, args, sizes) for sizes in (None, SIZES))
    same(function, args, symbolic, SIZES)
    same(function, args, symbolic, {"b": 1, "t": 5})
    same(function, args, static, SIZES)


def test_every_rule_has_a_case():
    TABLE.load()
    seen = {primitive for function, *args in CASES.values() for primitive in used(function, args)}
    assert set(TABLE.primitives) - seen - {"add_any", "expand_dims", "reduce_precision"} == set()


def test_the_table_in_the_docs_is_the_tables_of_rules():
    path = Path(__file__).parents[1] / "docs" / "make_operators.py"
    spec = importlib.util.spec_from_file_location("make_operators", path)
    make_operators = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_operators)
    assert make_operators.PAGE.read_text() == make_operators.page(), "run python docs/make_operators.py"


def test_unknown_primitive_names_itself_and_the_line():
    with pytest.raises(GateError, match=r"to TensorFlow operators: .*'cummax'.*test_tensorflow_operators\.py:\d+"):
        to_tensorflow(lambda x: lax.cummax(x, 1), [X])


def test_ids_outside_the_table_raise():
    _, run = to_tensorflow(*[CASES["take"][0], CASES["take"][1:]])
    with pytest.raises(tf.errors.InvalidArgumentError):
        run([np.zeros((5, 4), np.float32), np.array([[0, 5]], np.int32)])

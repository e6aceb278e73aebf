"""The SavedModel as TensorFlow's tools see it: signatures, variables, and what is not in the graph."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import jax
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
# ruff: noqa: E402 - what follows needs TensorFlow
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo
from tensorflow.core.protobuf import saved_model_pb2

from bgevis.exporters.base import Request
from bgevis.exporters.saved_model import EXPORTER
from bgevis.model.visualized_bge import FAMILY
from bgevis.validation.errors import EnvironmentFailure

SPEC = spec_from_file_location("tiny_exports", Path(__file__).parent / "tiny_exports.py")
tiny = module_from_spec(SPEC)
SPEC.loader.exec_module(tiny)

NETWORK = FAMILY.network(FAMILY.sizes["tiny"])


@pytest.fixture(scope="module", params=["xla", "tensorflow"])
def artifact(request, tmp_path_factory):
    return tiny.export(EXPORTER, NETWORK, tmp_path_factory.mktemp("saved_model") / "run", ops=request.param)


@pytest.fixture(scope="module")
def weights(artifact):
    return tiny.WeightsFile(artifact.directory / tiny.WEIGHTS)


@pytest.fixture(scope="module")
def loaded(artifact):
    return tf.saved_model.load(str(artifact.directory / "saved_model"))


@pytest.fixture(scope="module")
def graph(artifact):
    data = (artifact.directory / "saved_model" / "saved_model.pb").read_bytes()
    return saved_model_pb2.SavedModel.FromString(data).meta_graphs[0]


def test_one_signature_per_entry_point_with_its_names_and_axes(loaded):
    assert set(loaded.signatures) == set(NETWORK.entry_points)
    for name, entry in NETWORK.entry_points.items():
        signature = loaded.signatures[name]
        inputs = signature.structured_input_signature[1]
        assert {n: (s.dtype.name, s.shape.as_list()) for n, s in inputs.items()} == {
            s.name: (s.dtype, [d if isinstance(d, int) else None for d in s.shape]) for s in entry.inputs
        }
        assert set(signature.structured_outputs) == {s.name for s in entry.outputs}


def test_signatures_of_the_graph_are_what_serving_reads(graph):
    assert {*graph.signature_def} == {*NETWORK.entry_points, "__saved_model_init_op"}
    for name in NETWORK.entry_points:
        assert graph.signature_def[name].method_name == "tensorflow/serving/predict"


def test_variables_are_the_leaves_shared_by_all_signatures(loaded, weights):
    variables = {variable.name.removesuffix(":0"): variable for variable in loaded.signatures["encode_text"].variables}
    both = {v.name.removesuffix(":0") for v in loaded.signatures["encode_multimodal"].variables}
    assert set(variables) == set(NETWORK.used_weights("encode_text"))
    assert both == set(NETWORK.used_weights("encode_multimodal"))
    nested = loaded.weights["text"]["layers"]["0"]["up"]["kernel"]
    np.testing.assert_array_equal(nested.numpy(), weights["text.layers.0.up.kernel"])


def test_every_leaf_is_one_variable(graph, weights):
    names = [node.variable.name for node in graph.object_graph_def.nodes if node.HasField("variable")]
    assert sorted(names) == sorted(weights.tensors)


def test_runs_in_a_session_through_the_graph_alone(artifact, loaded, graph):
    """The way of TensorFlow Serving and of the C API: the graph's own restore operation, no Python objects."""
    entry = NETWORK.entry_points["encode_multimodal"]
    case, signature = tiny.inputs(entry, batch=2, tokens=4), graph.signature_def[entry.name]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.loader.load(session, ["serve"], str(artifact.directory / "saved_model"))
        feed = {signature.inputs[name].name: array for name, array in case.items()}
        got = session.run(signature.outputs["embeddings"].name, feed)
    want = loaded.signatures[entry.name](**{name: tf.constant(array) for name, array in case.items()})["embeddings"]
    np.testing.assert_array_equal(got, want)


def test_no_weight_is_a_constant_of_the_graph(artifact, weights):
    data = (artifact.directory / "saved_model" / "saved_model.pb").read_bytes()
    for leaf in weights.tensors:
        if weights[leaf].nbytes >= 64:
            assert weights[leaf].tobytes()[:64] not in data, leaf


def test_the_operator_holds_what_the_oldest_promised_tensorflow_reads(artifact, graph):
    """One operator per signature, of StableHLO 1.0.0 without composites, its arguments the weights and the inputs."""
    functions = {function.signature.name: function.node_def for function in graph.graph_def.library.function}
    found = {name: [node for node in nodes if node.op == "XlaCallModule"] for name, nodes in functions.items()}
    for name, program in artifact.programs.items():
        calls = [node for function, nodes in found.items() if f"inference_{name}_" in function for node in nodes]
        assert len(calls) == (program["ops"] == "xla")
        for call in calls:
            assert call.attr["version"].i == 9
            assert list(call.attr["platforms"].list.s) == [b"CPU"]
            assert list(call.attr["disabled_checks"].list.s) == [b"platform"]
            assert call.attr["module"].s.startswith(b"ML\xefR\x0dStableHLO_v1.0.0\0")
            arguments = len(NETWORK.used_weights(name)) + len(NETWORK.entry_points[name].inputs)
            assert len(call.attr["Tin"].list.type) == arguments
            with ir.Context() as context:
                stablehlo.register_dialect(context)
                module = stablehlo.deserialize_portable_artifact(context, call.attr["module"].s)
                defined = {ir.StringAttr(op.attributes["sym_name"]).value: op for op in module.body.operations}
                assert len(defined["main"].regions[0].blocks[0].arguments) == arguments
                assert f"call_exported_{name}" in defined  # the program that StableHLO is written from
                assert "stablehlo.composite" not in str(module)


def test_longer_than_legal_is_refused(loaded):
    highest = NETWORK.entry_points["encode_text"].axes["tokens"].high
    ids = tf.ones((1, highest + 1), tf.int32)
    with pytest.raises(tf.errors.InvalidArgumentError):
        loaded.signatures["encode_text"](input_ids=ids, attention_mask=ids)


def test_functions_are_counted_from_nought_and_no_argument_is_a_handle(graph):
    functions = graph.graph_def.library.function
    assert [f.signature.name.rpartition("_")[2] for f in functions] == [str(i) for i in range(len(functions))]
    names = [a.attr["_user_specified_name"].s for f in functions for a in f.arg_attr.values()]
    assert not any(name.isdigit() for name in names)


def test_nothing_but_what_loading_needs(artifact):
    folder = artifact.directory / "saved_model"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {"saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"}


def test_the_description_states_the_versions(artifact):
    for name, program in artifact.programs.items():
        assert program["path"] == "saved_model"
        assert program["signature"] == name
        assert program["tensorflow"] == tf.__version__
        if program["ops"] == "xla":
            assert program["xla_call_module"] >= 9
        else:
            assert {"BatchMatMulV2", "Softmax", "ReadVariableOp"} <= {*program["operators"]}
            assert not any("xla" in operator.lower() for operator in program["operators"])


def test_the_description_names_what_a_session_feeds_and_fetches(artifact, graph):
    for name, program in artifact.programs.items():
        signature = graph.signature_def[name]
        assert program["feeds"] == {tensor: info.name for tensor, info in signature.inputs.items()}
        assert program["fetches"] == {tensor: info.name for tensor, info in signature.outputs.items()}
        assert list(program["feeds"]) == sorted(spec.name for spec in artifact.entry_points[name].inputs)


def test_ordinary_operators_are_named_after_their_modules(artifact, graph):
    names = {node.name for function in graph.graph_def.library.function for node in function.node_def}
    ordinary = artifact.programs["encode_text"]["ops"] == "tensorflow"
    assert ("text.layers.0.attention.query/MatMul" in names) == ordinary


def test_every_signature_agrees_with_jax(loaded, weights):
    leaves = {leaf: np.array(weights[leaf]) for leaf in weights.tensors}
    for entry, case in tiny.cases(NETWORK):
        got = loaded.signatures[entry.name](**{name: tf.constant(array) for name, array in case.items()})["embeddings"]
        want = jax.jit(NETWORK.function(entry.name))(leaves, *case.values())["embeddings"]
        np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=2e-6)


def test_the_same_bytes_again(artifact, tmp_path):
    again = tiny.export(EXPORTER, NETWORK, tmp_path / "run", ops=artifact.programs["encode_text"]["ops"])
    one, other = ((a.directory / "saved_model" / "saved_model.pb").read_bytes() for a in (artifact, again))
    assert one == other


@pytest.mark.prove
@pytest.mark.filterwarnings("ignore")  # the converter's and the interpreter's own
def test_litert_runs_the_ordinary_operators_but_holds_not_every_weight(artifact, weights):
    """What docs/operators.md says of LiteRT."""
    if artifact.programs["encode_text"]["ops"] == "xla":
        pytest.skip("LiteRT has no XLA")
    signatures = list(NETWORK.entry_points)
    folder = str(artifact.directory / "saved_model")
    data = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=signatures).convert()
    interpreter = tf.lite.Interpreter(model_content=data)
    leaves = {leaf: np.array(weights[leaf]) for leaf in weights.tensors}
    for entry, case in tiny.cases(NETWORK):
        got = interpreter.get_signature_runner(entry.name)(**case)["embeddings"]
        want = jax.jit(NETWORK.function(entry.name))(leaves, *case.values())["embeddings"]
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)
    table = leaves["text.embeddings.token_type.embedding"]
    assert table[0].tobytes() in data
    assert table.tobytes() not in data


def test_a_full_disk_is_an_environment_failure(weights, tmp_path, monkeypatch):
    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", full)
    with pytest.raises(EnvironmentFailure, match=r"could not write .*No space left"):
        EXPORTER.write(Request(NETWORK, weights, tmp_path))


def test_variables_that_are_written_to_leave_the_weights_file_alone(artifact, weights, tmp_path):
    """While saving, the variables lie on a private mapping of the file."""
    from bgevis.exporters.saved_model import _fill, _variables

    before = weights.path.read_bytes()
    variables = _variables(NETWORK)
    _fill(variables, weights)
    variable = variables["text.layers.0.up.kernel"]
    np.testing.assert_array_equal(variable.numpy(), weights["text.layers.0.up.kernel"])
    variable.assign_add(tf.ones_like(variable))
    assert weights.path.read_bytes() == before

"""ONNX in smaller numbers: near enough, the same bytes again, and a mistake is found although rounding is allowed."""

import itertools
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import onnx
import pytest
from flax import nnx

from bgevis.converter.proof.programs import float32_runners
from bgevis.exporters.base import PROGRAMS, WEIGHTS, Artifact, Request, exporters
from bgevis.exporters.onnx.precision import quantise
from bgevis.exporters.precisions import FLOORS, PRECISIONS
from bgevis.exporters.weights import WeightsFile, plan, write
from bgevis.model.network import Network
from bgevis.model.runner import NNXRunner
from bgevis.validation.cases import cases, neighbour_batches
from bgevis.validation.entry_point import Axis, EntryPoint, PaddingMask, TensorSpec
from bgevis.validation.goldens import golden
from bgevis.validation.report import Report
from bgevis.validation.rounded import compare_rounded, cosines, shared_neighbours

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode leaves it out
import tiny_decoder
import tiny_exports as tiny
from variants import LATER, VARIANTS

ROUNDED = PRECISIONS[1:]
FAST = {
    *itertools.product(VARIANTS[:1], ROUNDED),
    *itertools.product(set(VARIANTS[1:]) - set(LATER), ("float16", "int8")),
}
"""What is tried of which network when time is short: of the first, everything."""
BITS = {"float16": 16, "bfloat16": 16, "int8": 8, "int8-reduced": 8, "int4": 4}


def trained_looking(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw a leaf of the size that training gives it: neighbours mean nothing if all vectors are alike."""
    numbers = rng.standard_normal(shape)
    match name.rpartition(".")[2]:
        case "kernel":
            into_heads = name.rpartition(".")[0].endswith(("query", "key", "value"))
            numbers *= 1.5 / np.sqrt(shape[0] if into_heads else np.prod(shape[:-1]))
        case "query" | "key" | "value" | "out":
            numbers /= np.sqrt(shape[0])
        case "scale":
            numbers = 1 + 0.1 * numbers
        case "bias":
            numbers *= 0.02
    return numbers.astype(np.float32)


def export(precision: str, network, folder: Path, dtype=np.float32, **options) -> Artifact:
    """Write random weights that `dtype` can hold, and the programs over them."""
    out = folder / PROGRAMS
    out.mkdir(parents=True)
    rng = np.random.default_rng(3)
    leaves = {name: (np.dtype(np.float32), spec.shape) for name, spec in network.leaves.items()}
    _, order = plan(leaves, {})
    with (out / WEIGHTS).open("wb") as file:
        drawn = ((name, trained_looking(name, leaves[name][1], rng)) for name in order)
        write(file, leaves, ((name, array.astype(dtype).astype(np.float32)) for name, array in drawn), {})
    request = Request(network, WeightsFile(out / WEIGHTS), out, **options)
    return Artifact(folder, network.entry_points, exporter_of(precision).write(request), lambda: network)


def exporter_of(precision: str):
    return exporters()[f"onnx-{precision}"]


class Written(dict[tuple[str, str], Artifact]):
    """Network and precision -> its programs, written when they are first asked for."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __missing__(self, key: tuple[str, str]) -> Artifact:
        name, precision = key
        self[key] = export(precision, tiny.networks()[name], self.folder / name / precision)
        return self[key]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Written:
    return Written(tmp_path_factory.mktemp("precisions"))


def judge(artifact: Artifact, precision: str, clean: Artifact | None = None) -> Report:
    """Hold the first program of `artifact` to the gate; the rounded weights are those of `clean`.

    The floors are those of trained networks; the image towers that are drawn here lie below them.
    """
    network, exporter = artifact.network(), exporter_of(precision)
    file = WeightsFile(artifact.directory / PROGRAMS / WEIGHTS)
    rounded = dict(exporter.read_weights(clean or artifact))
    float32 = float32_runners(NNXRunner(network, file), file, rounded, precision)
    first = next(iter(network.entry_points.values()))
    inputs = {first.name: neighbour_batches(first)[:2]}
    return compare_rounded(exporter.open(artifact), *float32, network.entry_points, [], inputs, FLOORS[precision])


EVERY = [
    pytest.param(*each, marks=[] if each in FAST else pytest.mark.prove)
    for each in itertools.product(VARIANTS, ROUNDED)
]


@pytest.mark.parametrize(("name", "precision"), EVERY)
def test_every_network_passes_in_every_precision(written, name, precision):
    report = judge(written[name, precision], precision)
    assert report.passed, list(report.failures)
    assert {row.entry_point for row in report.rows} == {next(iter(written[name, precision].entry_points))}


def judge_decoder(artifact: Artifact, precision: str, clean: Artifact) -> Report:
    """Hold a decoder to the gate: logits, ids, caches, on goldens too."""
    network, exporter = artifact.network(), exporter_of(precision)
    file = WeightsFile(clean.directory / PROGRAMS / WEIGHTS)
    float32 = float32_runners(NNXRunner(network, file), file, dict(exporter.read_weights(clean)), precision)
    weights = {name: file[name] for name in file.tensors}
    references = tiny_decoder.Reference(weights, np.float64), tiny_decoder.Reference(weights, np.float32)
    entries = network.entry_points
    made = [
        golden(entry, case, *(each.run(entry.name, case.inputs) for each in references))
        for entry in entries.values()
        for case in cases(entry)
    ]
    inputs = {name: neighbour_batches(entry) for name, entry in entries.items()}
    return compare_rounded(exporter.open(artifact), *float32, entries, made, inputs, FLOORS[precision])


@pytest.mark.parametrize("precision", ROUNDED)
def test_a_decoder_passes_and_its_mistakes_do_not(tmp_path, precision):
    clean = export(precision, tiny_decoder.network(), tmp_path / "run")
    report = judge_decoder(clean, precision, clean)
    assert report.passed, [(row.entry_point, row.case, row.output, row.error, row.allowed) for row in report.failures]
    said = {row.case.partition(": ")[2].partition(" of ")[0] for row in report.rows}
    assert said == {"error", "rounded activations", "same among the 5 best", "the same"}

    def other_scale(graph: onnx.GraphProto) -> None:
        exp = next(node for node in graph.node if node.op_type in ("Softmax", "Exp"))
        twice = onnx.helper.make_node("Add", [exp.input[0]] * 2, ["twice"])
        exp.input[0] = "twice"
        graph.node.insert(list(graph.node).index(exp), twice)

    wrong = edited(clean, tmp_path, other_scale, "prefill")
    failed = {row.output for row in judge_decoder(wrong, precision, clean).failures if row.entry_point == "prefill"}
    assert "logits" in failed


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_weights_that_are_of_that_precision_already(tmp_path, precision):
    """Rounding them costs nothing; rounding the activations still does, and a mistake still costs more."""
    dtype = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[precision]
    artifact = export(precision, tiny.networks()["bert"], tmp_path / "run", dtype)
    assert judge(artifact, precision).passed
    wrong = edited(artifact, tmp_path, exchanged_heads)
    assert not judge(wrong, precision, artifact).passed


class Halves(nnx.Module):
    """One half of a product gates the other; the largest of it are put in order."""

    def __init__(self, rngs: nnx.Rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (4, 8)))

    def halves(self, x):
        one, other = jnp.split(x @ self.kernel[...], 2, axis=-1)
        return jax.lax.top_k(one * jax.nn.sigmoid(other), 3)[0]


@pytest.mark.parametrize("precision", ROUNDED)
def test_operators_of_several_results(tmp_path, precision):
    x, y = (TensorSpec(name, "float32", ("batch", size)) for name, size in (("x", 4), ("y", 3)))
    network = Network(Halves, (EntryPoint("halves", (x,), (y,), {"batch": Axis()}, rows="batch"),))
    artifact = export(precision, network, tmp_path / "run")
    given = {"x": np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)}
    want = NNXRunner(network, WeightsFile(artifact.directory / PROGRAMS / WEIGHTS)).run("halves", given)["y"]
    np.testing.assert_allclose(
        exporter_of(precision).open(artifact).run("halves", given)["y"], want, atol=0.05 * np.abs(want).max()
    )


class Head(nnx.Module):
    """A vector of each row times a kernel, and a bias."""

    def __init__(self, rngs: nnx.Rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (16, 8)))
        self.bias = nnx.Param(jnp.zeros(8))

    def head(self, x):
        return x @ self.kernel[...] + self.bias[...]


@pytest.mark.parametrize("precision", ROUNDED)
def test_a_bias_is_not_scaled_with_the_row_that_it_is_added_to(tmp_path, precision):
    """As onnxruntime does where it takes the bias of a quantised product into its own operator."""
    x, y = (TensorSpec(name, "float32", ("batch", size)) for name, size in (("x", 16), ("y", 8)))
    network = Network(Head, (EntryPoint("head", (x,), (y,), {"batch": Axis()}, rows="batch"),))
    artifact = export(precision, network, tmp_path / "run")
    given = {"x": np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32) / 8}
    want = NNXRunner(network, WeightsFile(artifact.directory / PROGRAMS / WEIGHTS)).run("head", given)["y"]
    got = exporter_of(precision).open(artifact).run("head", given)["y"]
    np.testing.assert_allclose(got, want, atol={4: 0.1}.get(BITS[precision], 0.02) * np.abs(want).max())


OPSETS = [*itertools.product([17, 20, 26], set(ROUNDED) - {"int4"}), *itertools.product([21, 26], ["int4"])]


@pytest.mark.parametrize(("opset", "precision"), sorted(OPSETS))
def test_every_opset(tmp_path, precision, opset):
    artifact = export(precision, tiny.networks()["bert"], tmp_path / "run", opset=opset)
    assert judge(artifact, precision).passed


@pytest.mark.parametrize(("name", "precision"), EVERY)
def test_every_weight_is_the_leaf_rounded(written, name, precision):
    artifact = written[name, precision]
    said = dict(exporter_of(precision).rounding(artifact))
    assert set(said) == {leaf for entry in artifact.programs for leaf in artifact.network().used_weights(entry)}
    assert not any(said.values())


@pytest.mark.parametrize("precision", ROUNDED)
def test_a_changed_number_is_named(written, tmp_path, precision):
    artifact = copied(written["bert", precision], tmp_path)
    file = WeightsFile(artifact.directory / artifact.programs["encode_text"]["weights"])
    name = "text.layers.0.up.kernel" + {8: ".int8", 4: ".int4"}.get(BITS[precision], "")
    with file.path.open("r+b") as handle:
        handle.seek(file.tensors[name].offset)
        byte = handle.read(1)[0]
        handle.seek(file.tensors[name].offset)
        handle.write(bytes([byte ^ 1]))
    said = dict(exporter_of(precision).rounding(artifact))
    assert [leaf for leaf, problem in said.items() if problem] == ["text.layers.0.up.kernel"]


def copied(artifact: Artifact, folder: Path) -> Artifact:
    shutil.copytree(artifact.directory, folder / "copy")
    return replace(artifact, directory=folder / "copy")


def edited(artifact: Artifact, folder: Path, change, entry: str = "encode_text") -> Artifact:
    """Give the artifact with a mistake in one program."""
    again = copied(artifact, folder)
    path = again.directory / again.programs[entry]["path"]
    proto = onnx.load(path, load_external_data=False)
    change(proto.graph)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return again


def exchanged_heads(graph: onnx.GraphProto) -> None:
    """Exchange the first two heads of the first layer's queries."""
    node = next(node for node in graph.node if node.op_type == "Attention")
    heads = next(a.i for a in node.attribute if a.name == "q_num_heads")
    width = next(i for i in graph.output if i.name == "embeddings").type.tensor_type.shape.dim[1].dim_value // heads
    order = np.arange(heads * width).reshape(heads, width)[[1, 0, *range(2, heads)]].reshape(-1)
    graph.initializer.append(onnx.numpy_helper.from_array(order, "order"))
    swap = onnx.helper.make_node("Gather", [node.input[0], "order"], ["swapped"], "swap", axis=2)
    node.input[0] = "swapped"
    graph.node.insert(list(graph.node).index(node), swap)


def wrong_scale_of_scores(graph: onnx.GraphProto) -> None:
    node = next(node for node in graph.node if node.op_type == "Attention")
    next(a for a in node.attribute if a.name == "scale").f *= 2


def another_layers_scales(graph: onnx.GraphProto) -> None:
    """Read the scales, or the kernel itself, of one layer from the other's."""
    by_name = {tensor.name: tensor for tensor in graph.initializer}
    form = ".scale" if "text.layers.0.up.kernel.scale" in by_name else ""
    source, target = (by_name[f"text.layers.{i}.up.kernel{form}"] for i in (1, 0))
    target.external_data[1].value = source.external_data[1].value


def a_lost_residual(graph: onnx.GraphProto) -> None:
    """Normalise what a layer gives without the layer's input added."""
    by_output = {name: node for node in graph.node for name in node.output}
    norm = [node for node in graph.node if node.op_type == "LayerNormalization"][1]
    norm.input[0] = by_output[norm.input[0]].input[0]


MISTAKES = (exchanged_heads, wrong_scale_of_scores, another_layers_scales, a_lost_residual)


@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(written, tmp_path, precision, mistake):
    clean = written["bert", precision]
    report = judge(edited(clean, tmp_path, mistake), precision, clean)
    assert not report.passed


@pytest.mark.parametrize("precision", ["int8", "int8-reduced"])
def test_a_row_does_not_depend_on_the_rows_beside_it(written, precision):
    artifact = written["bert", precision]
    runner = exporter_of(precision).open(artifact)
    (batch,) = neighbour_batches(artifact.network().entry_points["encode_text"])[:1]
    together = runner.run("encode_text", batch)["embeddings"]
    alone = np.concatenate(
        [runner.run("encode_text", {k: v[i : i + 1] for k, v in batch.items()})["embeddings"] for i in range(8)]
    )
    assert cosines(alone, together[:8]).min() > 1 - 1e-5


@pytest.mark.parametrize("precision", ROUNDED)
def test_size_and_place(written, precision):
    artifact = written["bert", precision]
    program = artifact.programs["encode_text"]
    assert program["path"] == f"programs/encode_text.{precision}.onnx"
    assert program["weights"] == f"programs/weights.{precision}.safetensors"
    assert program["precision"] == precision
    whole = (artifact.directory / PROGRAMS / WEIGHTS).stat().st_size
    assert (artifact.directory / program["weights"]).stat().st_size < whole * {16: 0.6, 8: 0.7, 4: 0.7}[BITS[precision]]


def test_onnxruntime_makes_one_operator_of_a_quantised_product(written, tmp_path):
    import onnxruntime

    artifact = written["bert", "int8"]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    path = str(artifact.directory / artifact.programs["encode_text"]["path"])
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph.node]
    layers = 2
    assert found.count("MatMulIntegerToFloat") == 7 * layers  # the values twice, for what rounding leaves over
    assert "MatMul" not in found
    assert "MatMulInteger" not in found


def test_quantise_rounds_to_the_nearest_and_spares_columns_of_zeros():
    matrix = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    matrix[:, 2] = 0
    numbers, scales = quantise(matrix, 0, 127)
    assert np.abs(numbers * scales - matrix).max() <= scales.max() / 2 * (1 + 1e-6)
    assert np.abs(numbers).max(axis=0).tolist() == [127, 127, 0, 127, 127, 127]


def test_cosines_see_a_wrong_length_and_what_is_not_finite():
    want = np.eye(3)
    np.testing.assert_allclose(cosines(want * [[1], [2], [np.nan]], want), [1, 0.5, -1])
    assert shared_neighbours(want, want) == 1


def test_neighbour_inputs_are_legal_and_the_same_every_time():
    for name in VARIANTS:
        for entry in tiny.networks()[name].entry_points.values():
            one, other = neighbour_batches(entry), neighbour_batches(entry)
            if entry.rows is not None:
                assert sum(entry.sizes(batch)[entry.rows] for batch in one) in (64, 256)
            for a, b in zip(one, other, strict=True):
                assert all(np.array_equal(a[name], b[name]) for name in a)
                masks = [spec for spec in entry.inputs if isinstance(spec.domain, PaddingMask)]
                assert all((a[spec.name].astype(bool) != spec.domain.inverted).any(axis=-1).all() for spec in masks)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "bgevis.converter", *arguments], capture_output=True, text=True)


def test_the_command_line_makes_and_proves_what_was_asked_for(tmp_path):
    checkpoint, out = str(tmp_path / "ckpt.safetensors"), tmp_path / "run"
    assert run("fixture", "bert", "--size", "tiny", "--out", checkpoint).returncode == 0
    done = run("all", checkpoint, "--out", str(out), "--format", "onnx", "--precision", "float32,int8", "--json")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    assert set(manifest["entry_points"]["encode_text"]["programs"]) == {"onnx", "onnx_int8"}
    assert manifest["verdicts"]["validate-onnx-int8"] == "pass"
    said = json.loads((out / "reports/validate.json").read_text())["onnx_int8"]
    assert any("weights are the source's, rounded" in check["case"] for check in said["checks"])
    refused = run("restore", str(out), "--from", "onnx-int8", "--out", str(tmp_path / "back.safetensors"))
    assert (refused.returncode, "holds rounded weights" in refused.stderr) == (3, True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            *(["--precision", "int2"], 2),
            "there is no precision 'int2' (float32, float16, bfloat16, int8, int8-reduced, int4)",
        ),
        (["--precision", "int8", "--format", "orbax"], 2, "--precision is for the format onnx; orbax was asked for"),
    ],
)
def test_what_is_asked_for_wrongly(tmp_path, arguments, code, message):
    done = run("all", "missing.pth", "--out", str(tmp_path / "run"), *arguments)
    assert (done.returncode, message in " ".join(done.stderr.split())) == (code, True), done.stderr

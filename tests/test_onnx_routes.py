"""The route to ONNX through tf2onnx: the same network as our own route, on every family and oracle."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("tf2onnx")

from bgevis.converter.directory import RunDirectory
from bgevis.converter.manifest import WEIGHTS_PATH, network
from bgevis.converter.options import Options
from bgevis.converter.stages import build, load, remap, verify
from bgevis.exporters.base import PROGRAMS, WEIGHTS, Artifact, Request
from bgevis.exporters.onnx import EXPORTER
from bgevis.exporters.onnx.write import where_routes_part
from bgevis.exporters.tensorflow_ops.registry import TABLE
from bgevis.exporters.weights import WeightsFile
from bgevis.validation import dims
from bgevis.validation.cases import cases
from bgevis.validation.errors import EnvironmentFailure, GateError, InputError

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode leaves it out
import tiny_exports as tiny
from variants import MOST

ORACLES = (
    "visualized_bge/base/*.pth",
    pytest.param("visualized_bge/[!b]*/*.pth", marks=pytest.mark.prove),
    "huggingface/bert/model.safetensors",
    "huggingface/xlmr/model.safetensors",
)


class Quiet:
    """A Progress that says nothing."""

    def begin(self, total):
        pass

    def advance(self, nbytes):
        pass

    def note(self, text):
        pass


def write(network, folder: Path, **options) -> Artifact:
    (folder / PROGRAMS).mkdir(parents=True)
    weights = tiny.random_weights(network, folder / PROGRAMS / WEIGHTS)
    programs = EXPORTER.write(Request(network, weights, folder / PROGRAMS, via="tf2onnx", **options))
    return Artifact(folder, network.entry_points, programs, lambda: network)


@pytest.fixture(scope="module", params=MOST)
def artifact(request, tmp_path_factory) -> Artifact:
    return write(tiny.networks()[request.param], tmp_path_factory.mktemp("routes") / request.param)


def test_every_entry_point_agrees_with_our_own_route(artifact, tmp_path):
    other = tiny.export(EXPORTER, artifact.network(), tmp_path)
    ours, theirs = EXPORTER.open(tiny.reopen(other.directory, artifact.network())), EXPORTER.open(artifact)
    for entry, inputs in tiny.cases(artifact.network()):
        want, got = (runner.run(entry.name, inputs) for runner in (ours, theirs))
        assert want.keys() == got.keys()
        for name in want:
            atol = 2e-6 * max(1.0, float(np.abs(want[name]).max()))
            np.testing.assert_allclose(got[name], want[name], rtol=0, atol=atol)


def test_the_weights_are_references_that_lead_back(artifact):
    weights = WeightsFile(artifact.directory / PROGRAMS / WEIGHTS)
    read = dict(EXPORTER.read_weights(artifact))
    assert set(read) == set(artifact.network().leaves)
    for name, array in read.items():
        np.testing.assert_array_equal(array, weights[name])
    reading = {
        name for name in artifact.programs if artifact.network().used_weights(name)
    }  # others hold constants alone
    assert all((artifact.directory / artifact.programs[name]["path"]).stat().st_size < 1 << 17 for name in reading)


def test_what_the_ecosystem_sees_is_the_same(artifact):
    for name, program in artifact.programs.items():
        graph = onnx.load(artifact.directory / program["path"], load_external_data=False).graph
        inputs = {value.name: value.type.tensor_type for value in graph.input}
        for spec in artifact.entry_points[name].inputs:
            wanted = getattr(onnx.TensorProto, {"int32": "INT64", "bool": "BOOL"}.get(spec.dtype, "FLOAT"))
            assert inputs[spec.name].elem_type == wanted
            found = [d.dim_param or d.dim_value for d in inputs[spec.name].shape.dim]
            assert [sorted(dims.terms(dim)) for dim in found] == [sorted(dims.terms(dim)) for dim in spec.shape]
        assert program["via"] == "tf2onnx"
        assert program["opset"] == 18


def test_a_rule_that_is_wrong_is_named_by_module_and_operator(tmp_path, monkeypatch):
    """The first layer's attention is what parts, not what comes after it."""
    network = tiny.networks()["bert"]
    weights = tiny.random_weights(network, tmp_path / WEIGHTS)
    request = Request(network, weights, tmp_path, via="tf2onnx")
    assert where_routes_part(request, network.entry_points["encode_text"], 18).endswith(
        "when every module is an output"
    )
    right = TABLE.composites["attention"]

    def wrong(c, eqn):
        result = right.rule(c, eqn)
        return c.elementwise("Mul", result, c.constant(1.001, result.dtype))

    monkeypatch.setitem(TABLE.composites, "attention", replace(right, rule=wrong))
    named = (
        r"disagree first at text\.layers\.0\.attention\.out, .*attention\.out\.\w+ \(\w+\).*attention\.out/\w+ \(\w+\)"
    )
    with pytest.raises(GateError, match=named):
        EXPORTER.write(request)


def test_an_opset_that_tf2onnx_has_not_is_named(tmp_path):
    with pytest.raises(InputError, match="opset 23 is not supported via tf2onnx: choose 17 to 18"):
        write(tiny.networks()["bert"], tmp_path, opset=23)


def test_a_missing_tf2onnx_is_named_with_its_remedy(monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else found(name))
    EXPORTER.require()
    with pytest.raises(EnvironmentFailure, match=r"tf2onnx.*pip install 'bgevis-convert\[tf2onnx\]'"):
        EXPORTER.require("tf2onnx")


@pytest.mark.parametrize("pattern", ORACLES)
def test_the_routes_agree_on_every_oracle(oracles, tmp_path, pattern):
    checkpoints = sorted(oracles.glob(pattern))
    if not checkpoints:
        pytest.skip(f"no {pattern} in {oracles}")
    for i, checkpoint in enumerate(checkpoints):
        run = RunDirectory(converted(checkpoint, tmp_path / f"run {i}"))
        net = network(run)
        weights = WeightsFile(run.path / WEIGHTS_PATH)
        runners = []
        for via in ("", "tf2onnx"):
            out = tmp_path / f"{i}{via or 'own'}"
            (out / PROGRAMS).mkdir(parents=True)
            shutil.copyfile(weights.path, out / PROGRAMS / WEIGHTS)
            programs = EXPORTER.write(Request(net, weights, out / PROGRAMS, via=via))
            runners.append(EXPORTER.open(Artifact(out, net.entry_points, programs, lambda net=net: net)))
        for entry in net.entry_points.values():
            for case in cases(entry):
                want, got = (runner.run(entry.name, case.inputs)["embeddings"] for runner in runners)
                np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)


def converted(checkpoint: Path, out: Path) -> Path:
    """Take a checkpoint to its weights file."""
    stated = {} if checkpoint.suffix == ".pth" else {"pooling": "cls", "normalize": True}  # no file beside it says so
    options = Options(checkpoint=str(checkpoint), **stated)
    run = load.perform(out, options, Quiet())
    for stage in (remap.perform, verify.perform, build.perform):
        stage(run, options, Quiet())
    return out

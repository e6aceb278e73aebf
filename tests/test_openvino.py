"""OpenVINO: our ONNX programs in its own format, and as they are; the same bytes, the same weights, every hint."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bgevis.exporters.base import PROGRAMS, WEIGHTS, Artifact, exporters
from bgevis.exporters.precisions import BFLOAT16_COMPUTED, FLOAT32
from bgevis.exporters.weights import WeightsFile
from bgevis.model.family import families
from bgevis.model.runner import NNXRunner
from bgevis.validation.errors import GateError
from bgevis.validation.kept import kept

pytest.importorskip("openvino", reason="the extra openvino is not installed")

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode leaves it out
import tiny_exports as tiny

EXPORTER = exporters()["openvino"]
NETWORKS = tuple(families())


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("openvino")
    return {name: tiny.export(EXPORTER, tiny.networks()[name], folder / name) for name in NETWORKS}


@pytest.mark.parametrize("name", NETWORKS)
def test_it_computes_what_the_model_computes(written, name):
    artifact, network = written[name], tiny.networks()[name]
    exact = NNXRunner(network, WeightsFile(artifact.directory / WEIGHTS))
    runner = EXPORTER.open(artifact)
    assert runner.name.startswith("OpenVINO 2")
    assert runner.name.endswith(" f32, IR")
    for entry, inputs in tiny.cases(network):
        want, got = (kept(entry, inputs, each.run(entry.name, inputs)) for each in (exact, runner))
        for output in entry.outputs:
            noise = 2e-6 * max(1, np.abs(want[output.name]).max())
            np.testing.assert_allclose(got[output.name], want[output.name], rtol=0, atol=noise)


def test_every_weight_is_read_back_bit_for_bit(written):
    artifact = written["visualized_bge"]
    file, read = WeightsFile(artifact.directory / WEIGHTS), list(EXPORTER.read_weights(artifact))
    assert sorted(leaf for leaf, _ in read) == sorted(artifact.network().leaves)
    assert all(array.tobytes() == file[leaf].tobytes() for leaf, array in read)


def test_the_same_bytes_again(written, tmp_path):
    again = tiny.export(EXPORTER, tiny.networks()["visualized_bge"], tmp_path / "again")
    one, other = written["visualized_bge"].directory / "openvino", again.directory / "openvino"
    files = sorted(file.name for file in one.iterdir())
    assert files == sorted(f"{entry}.{kind}" for entry in again.programs for kind in ("bin", "xml"))
    for name in files:
        assert (one / name).read_bytes() == (other / name).read_bytes()
        assert str(tmp_path).encode() not in (other / name).read_bytes()


def test_every_way_that_this_machine_has_is_offered(written, tmp_path):
    import openvino

    onnx = tiny.export(exporters()["onnx"], tiny.networks()["bert"], tmp_path / "run")
    shutil.copytree(written["bert"].directory / "openvino", onnx.directory / "openvino")
    artifact = Artifact(onnx.directory, onnx.entry_points, written["bert"].programs, onnx.network)
    assert (onnx.directory / PROGRAMS / WEIGHTS).exists()
    ways = list(EXPORTER.more(artifact, {"onnx": onnx.programs}))
    half = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    said = [(runner.name.partition(" f32, ")[2] or runner.name[-10:], precision) for runner, precision in ways]
    floats = [entry for entry in said if entry[1] == FLOAT32]
    assert floats == [("ONNX", FLOAT32)]
    assert [p for _, p in said].count(BFLOAT16_COMPUTED) == (2 if half else 0)
    inputs = tiny.inputs(onnx.entry_points["encode_text"], batch=2, tokens=5)
    want = EXPORTER.open(artifact).run("encode_text", inputs)["embeddings"]
    for runner, precision in ways:
        got = runner.run("encode_text", inputs)["embeddings"]
        np.testing.assert_allclose(got, want, atol=2e-6 if precision == FLOAT32 else 0.1)


def test_openvino_does_not_report_to_anybody(tmp_path):
    """Its telemetry forks a process, asks a web service, and leaves a number of the user in the home folder."""
    program = "from bgevis.exporters.base import exporters; exporters(); import openvino; openvino.Core()"
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    subprocess.run([sys.executable, "-c", program], env=environment | {"HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_program_is_refused(written, tmp_path):
    shutil.copytree(written["bert"].directory, tmp_path / "run")
    artifact = Artifact(
        tmp_path / "run", written["bert"].entry_points, written["bert"].programs, written["bert"].network
    )
    path = artifact.directory / artifact.programs["encode_text"]["path"]
    path.write_text(path.read_text().replace("</net>", ""))
    with pytest.raises(GateError, match=r"encode_text\.xml cannot be read by OpenVINO"):
        EXPORTER.open(artifact)

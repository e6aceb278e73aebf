"""The shape that TensorFlow Serving wants: versions, signatures, warm-up requests that run."""

import shutil
import subprocess
import sys

import corruptions
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
# ruff: noqa: E402 - what follows needs TensorFlow
from tensorflow.core.framework.tensor_pb2 import TensorProto

from bgevis.converter.directory import RunDirectory
from bgevis.converter.options import Options
from bgevis.converter.progress import Silent
from bgevis.converter.run import worker
from bgevis.converter.stages import PREPARE, export, reference
from bgevis.converter.use import serving
from bgevis.converter.use.fixture import write_fixture
from bgevis.exporters.saved_model import EXPORTER
from bgevis.exporters.serving import at_sizes, record
from bgevis.validation.errors import GateError, InputError
from bgevis.validation.goldens import Goldens

ENTRIES = ["encode_text"]


@pytest.fixture(scope="module")
def unproved(tmp_path_factory):
    """A run with a SavedModel and goldens that has not been validated."""
    folder = tmp_path_factory.mktemp("serving")
    write_fixture("bert", "tiny", 5, "float32", folder / "tiny.safetensors")
    options = Options(checkpoint=str(folder / "tiny.safetensors"))
    for task in (PREPARE, "pack"):
        worker.perform(task, folder / "run", options, Silent())
    run = RunDirectory(folder / "run")
    reference.perform(run, options, Silent())
    export.perform(run, options, Silent(), EXPORTER)
    return run.path


@pytest.fixture(scope="module")
def proved(unproved, tmp_path_factory):
    """The same with the verdict; how that is reached is other tests' matter."""
    path = shutil.copytree(unproved, tmp_path_factory.mktemp("proved") / "run")
    corruptions.Run(path, "").manifest(lambda manifest: manifest["verdicts"].update({serving.PROOF: "pass"}))
    corruptions.seal(path)
    return path


def serve(run, models, version=None, warm=()):
    return serving.serve(RunDirectory(run), models, "bge", version, warm, Silent())


@pytest.fixture(scope="module")
def served(proved, tmp_path_factory):
    return serve(proved, tmp_path_factory.mktemp("models"))


def requests(folder):
    """Parse the requests with the messages of TensorFlow Serving itself."""
    logs = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    for data in tf.data.TFRecordDataset(str(folder / serving.FILE)):
        log = logs.PredictionLog.FromString(data.numpy())
        assert log.SerializeToString(deterministic=True) == data.numpy()  # no field that the server does not know
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        yield request.model_spec, {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}


def test_the_folder_is_what_a_server_looks_for(proved, served):
    assert served.name == "1"
    assert served.parent.name == "bge"
    source = {p.relative_to(proved / "saved_model") for p in (proved / "saved_model").rglob("*") if p.is_file()}
    made = {p.relative_to(served) for p in served.rglob("*") if p.is_file()}
    assert {str(path) for path in made - source} == {"assets.extra/tf_serving_warmup_requests"}
    assert all((served / path).read_bytes() == (proved / "saved_model" / path).read_bytes() for path in source)
    assert [p.name for p in served.parent.iterdir()] == ["1"]


def test_saved_model_cli_shows_every_signature(served):
    command = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "show", "--dir", served, "--all"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for entry in ENTRIES:
        assert f"signature_def['{entry}']" in done.stdout
    assert done.stdout.count("Method name is: tensorflow/serving/predict") == len(ENTRIES)


def test_one_request_for_each_signature_gives_what_the_goldens_say(proved, served):
    goldens, loaded = Goldens(proved / "goldens").cases(), tf.saved_model.load(str(served))
    asked = list(requests(served))
    assert [spec.signature_name for spec, _ in asked] == ENTRIES
    assert {spec.name for spec, _ in asked} == {"bge"}
    for spec, inputs in asked:
        (golden,) = [
            g
            for g in goldens
            if g.case.entry_point == spec.signature_name
            and all(np.array_equal(g.case.inputs[name], array) for name, array in inputs.items())
        ]
        got = loaded.signatures[spec.signature_name](**{k: tf.constant(v) for k, v in inputs.items()})["embeddings"]
        assert np.abs(got.numpy() - golden.outputs["embeddings"]).max() <= golden.budgets["embeddings"].allowed


def test_sizes_to_warm_up(proved, tmp_path):
    warm = ({"batch": 1, "tokens": 8}, {"batch": 5, "tokens": 3}, {"batch": 1, "tokens": 8})
    asked = list(requests(serve(proved, tmp_path, warm=warm)))
    assert [spec.signature_name for spec, _ in asked] == 2 * ENTRIES
    shapes = [{name: array.shape for name, array in inputs.items()} for _, inputs in asked]
    assert shapes == [{"input_ids": size, "attention_mask": size} for size in ((1, 8), (5, 3))]


def test_versions_count_on_and_have_the_same_bytes(proved, served):
    second = serve(proved, served.parents[1])
    try:
        assert second.name == "2"
        assert (second / serving.FILE).read_bytes() == (served / serving.FILE).read_bytes()
    finally:
        shutil.rmtree(second)


def test_a_version_that_exists_is_left_alone(proved, served):
    with pytest.raises(InputError, match="exists; a server may be reading it"):
        serve(proved, served.parents[1], version=1)


def test_what_was_not_proved_is_not_served(unproved, tmp_path):
    with pytest.raises(InputError, match=r"has not been proved; run `bgevis-convert validate .* --format saved-model`"):
        serve(unproved, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", ["saved_model/saved_model.pb", "goldens/index.json", "manifest.json"])
def test_what_was_altered_is_not_served(proved, tmp_path, file):
    copied = shutil.copytree(proved, tmp_path / "run")
    (copied / file).write_bytes((copied / file).read_bytes().replace(b"encode_text", b"encode_texs"))
    with pytest.raises((GateError, InputError)):
        serve(copied, tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("sizes", [{"batch": 1}, {"batch": 0, "tokens": 4}, {"batch": 1, "tokens": 10_000}])
def test_illegal_sizes_are_refused(proved, tmp_path, sizes):
    with pytest.raises(InputError, match=r"takes (batch|tokens) "):
        serve(proved, tmp_path, warm=(sizes,))
    assert not list(tmp_path.iterdir())


def test_an_interruption_leaves_nothing(proved, tmp_path, monkeypatch):
    monkeypatch.setattr(serving.os, "fsync", lambda handle: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        serve(proved, tmp_path)
    assert not list((tmp_path / "bge").iterdir())


@pytest.mark.parametrize("name", ["..", "a/b", ""])
def test_a_name_that_is_no_folder_is_a_matter_of_usage(proved, tmp_path, name):
    command = [sys.executable, "-m", "bgevis.converter", "serving", proved, "--out", tmp_path, "--name", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "cannot be a folder's name" in done.stderr


def test_tensors_and_checksums_are_tensorflows(tmp_path):
    """A record longer than one byte of length, of each type; TensorFlow refuses one with a wrong checksum."""
    inputs = {"x": np.arange(300, dtype=np.int64).reshape(3, 100), "y": np.float32([[1.5]]), "z": np.int32([[-1]])}
    (tmp_path / "file").write_bytes(record("m", "s", inputs))
    ((data),) = [r.numpy() for r in tf.data.TFRecordDataset(str(tmp_path / "file"))]
    for name, array in inputs.items():
        tensor = TensorProto(dtype=tf.as_dtype(array.dtype).as_datatype_enum, tensor_content=array.tobytes())
        tensor.tensor_shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
        assert tensor.SerializeToString(deterministic=True) in data, name


def test_repeated_or_cut():
    array = np.arange(6).reshape(2, 3)
    assert at_sizes({"x": array}, {"x": (3, 2)})["x"].tolist() == [[0, 1], [3, 4], [0, 1]]
    assert at_sizes({"x": array}, {"x": (1, 5)})["x"].tolist() == [[0, 1, 2, 0, 1]]

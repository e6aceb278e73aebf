"""Leaves stored as the checkpoint has them: same network, half the bytes, every bit led back."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from bgevis.converter.certificate.ledger import Ledger
from bgevis.converter.cli import main
from bgevis.converter.directory import RunDirectory
from bgevis.converter.manifest import WEIGHTS_PATH, artifact, network
from bgevis.converter.options import Options
from bgevis.converter.progress import Silent
from bgevis.converter.proof.weights import weight_rows
from bgevis.converter.run import tasks as pipeline
from bgevis.converter.stages import build, export, load, remap, verify
from bgevis.converter.use.artifacts import load_module
from bgevis.converter.use.fixture import write_fixture
from bgevis.converter.use.restore import restore
from bgevis.exporters.base import exporters
from bgevis.exporters.weights import WeightsFile
from bgevis.validation.cases import tap_case
from bgevis.validation.errors import EnvironmentFailure

from .in_process import convert, in_this_process

KNOWN = exporters()
FORMATS = ("onnx", "orbax", "saved-model", "stablehlo")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("source") / "model.safetensors"
    write_fixture("bert", "tiny", 3, "bfloat16", path)
    return path


@pytest.fixture(scope="module")
def proven(checkpoint, tmp_path_factory) -> RunDirectory:
    """What `all --dtype source` makes, in every format."""
    with in_this_process():
        return RunDirectory(convert(checkpoint, tmp_path_factory.mktemp("run") / "run", FORMATS, dtype="source"))


@pytest.fixture(scope="module")
def plain(checkpoint, tmp_path_factory) -> RunDirectory:
    """The same in float32, exported and not proven."""
    return exported(checkpoint, tmp_path_factory.mktemp("plain") / "run", FORMATS, "float32")


def exported(checkpoint: Path, out: Path, formats, dtype: str) -> RunDirectory:
    run = load.perform(out, Options(checkpoint=str(checkpoint), dtype=dtype), Silent())
    for stage in (remap, verify, build):
        stage.perform(run, Options(), Silent())
    for name in formats:
        export.perform(run, Options(), Silent(), KNOWN[name])
    return run


def outputs(run: RunDirectory, name: str) -> np.ndarray:
    return KNOWN[name].open(artifact(run, KNOWN[name])).run("encode_text", inputs(run))["embeddings"]


def inputs(run: RunDirectory):
    return tap_case(network(run).entry_points["encode_text"]).inputs


def test_all_passes_in_every_format_and_says_what_it_stores(proven):
    manifest = proven.manifest()
    assert set(manifest["verdicts"].values()) == {"pass"}
    assert {f"validate-{name}" for name in FORMATS} <= set(manifest["verdicts"])
    assert manifest["stored"]["dtype"] == json.loads((proven.path / "ledger.json").read_text())["stored"] == "source"
    leaves = network(proven).leaves
    assert manifest["stored"]["leaves"] == dict.fromkeys(leaves, "bfloat16")
    assert {leaf.dtype for leaf in leaves.values()} == {BFLOAT16}
    assert {location.dtype for location in WeightsFile(proven.path / WEIGHTS_PATH).tensors.values()} == {BFLOAT16}


@pytest.mark.parametrize("name", FORMATS)
def test_every_weight_leads_back_bit_for_bit(proven, checkpoint, tmp_path, name):
    ledger = Ledger.read(proven.path / "ledger.json")
    read = dict(KNOWN[name].read_weights(artifact(proven, KNOWN[name])))
    assert {array.dtype for array in read.values()} == {BFLOAT16}
    assert set(read) == set(ledger.leaves)
    restore(proven, KNOWN[name], tmp_path / "back.safetensors", Silent())
    wanted = load_file(checkpoint)
    got = load_file(tmp_path / "back.safetensors")
    assert all(got[tensor].tobytes() == wanted[tensor].tobytes() for tensor in got)


@pytest.mark.parametrize("folder", ["programs/weights.safetensors", "orbax", "saved_model/variables"])
def test_the_weights_take_half_the_bytes(proven, plain, folder):
    numbers = sum(leaf.size for leaf in network(plain).leaves.values())
    half, whole = (weighed(run.path / folder) for run in (proven, plain))
    assert whole - half == pytest.approx(2 * numbers, rel=0.02)


def weighed(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_computed_is_the_same(proven, plain, name):
    """The numbers are the same ones; only the order of sums may be another."""
    assert np.allclose(outputs(proven, name), outputs(plain, name), rtol=0, atol=2e-7)


def test_a_leaf_in_another_type_than_the_run_states_is_found(proven, plain):
    """float32 that leads back to bfloat16 is twice the size that was promised, and the other way round half a proof."""
    for ledger_of, weights_of in ((proven, plain), (plain, proven)):
        ledger = Ledger.read(ledger_of.path / "ledger.json")
        rows = weight_rows(KNOWN["stablehlo"], artifact(weights_of, KNOWN["stablehlo"]), ledger)
        assert {row.output for row in rows if not row.passed} == set(ledger.leaves)


def test_a_changed_choice_makes_the_weights_anew(proven, tmp_path, checkpoint):
    shutil.copytree(proven.path, tmp_path / "run")
    run = load.perform(tmp_path / "run", Options(checkpoint=str(checkpoint)), Silent())
    assert run.manifest()["stored"] == {"dtype": "float32"}
    assert set(run.manifest()["verdicts"]) == {"load"}


def test_the_module_computes_in_float32(proven):
    """Whoever takes the NNX module gets parameters that it can compute with."""
    import jax
    from flax import nnx

    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(load_module(proven.path)))} == {np.dtype(np.float32)}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """Kernels in bfloat16, tables in float16, norms and biases in float32."""
    path = tmp_path_factory.mktemp("mixed") / "model.safetensors"
    write_fixture("bert", "tiny", 4, "float32", path)
    tensors = load_file(path)
    for name, array in tensors.items():
        if array.ndim == 2:
            tensors[name] = array.astype(np.float16 if "embeddings" in name else BFLOAT16)
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def mixed_run(mixed, tmp_path_factory) -> RunDirectory:
    return exported(
        mixed, tmp_path_factory.mktemp("mixed_run") / "run", (*FORMATS, "onnx-int8", "onnx-float16"), "source"
    )


@pytest.mark.parametrize("name", FORMATS)
def test_each_leaf_keeps_its_own_type(mixed_run, mixed, name):
    ledger, tensors = Ledger.read(mixed_run.path / "ledger.json"), load_file(mixed)
    assert [r.problem for r in weight_rows(KNOWN[name], artifact(mixed_run, KNOWN[name]), ledger) if not r.passed] == []
    read = {leaf: array.dtype for leaf, array in KNOWN[name].read_weights(artifact(mixed_run, KNOWN[name]))}
    assert read == {leaf: tensors[source].dtype for leaf, source in ledger.leaves.items()}
    assert len(set(read.values())) == 3


@pytest.mark.parametrize("name", ["onnx-int8", "onnx-float16"])
def test_smaller_numbers_are_rounded_from_what_is_stored(mixed_run, name):
    found = list(KNOWN[name].rounding(artifact(mixed_run, KNOWN[name])))
    assert len(found) == len(network(mixed_run).leaves)
    assert [problem for _, problem in found if problem] == []


def test_onnx_probes_multiply_in_float32(mixed, mixed_run, tmp_path):
    """2^-24 of a float16 number is no float16 number any more."""
    plain = exported(mixed, tmp_path / "run", ("onnx",), "float32")
    factors = {"text.embeddings.word.embedding": 2.0**-24, "text.layers.0.attention.query.kernel": 4.0}
    got, wanted = (
        KNOWN["onnx"].probe(artifact(run, KNOWN["onnx"]), factors).run("encode_text", inputs(run))["embeddings"]
        for run in (mixed_run, plain)
    )
    assert np.allclose(got, wanted, rtol=0, atol=2e-7)
    assert not np.allclose(got, outputs(plain, "onnx"), rtol=0, atol=1e-3)


def test_the_other_route_to_onnx_converts_as_well(mixed, tmp_path):
    pytest.importorskip("tf2onnx")
    run = exported(mixed, tmp_path / "run", (), "source")
    export.perform(run, Options(via="tf2onnx"), Silent(), KNOWN["onnx"])
    ledger = Ledger.read(run.path / "ledger.json")
    assert [r.problem for r in weight_rows(KNOWN["onnx"], artifact(run, KNOWN["onnx"]), ledger) if not r.passed] == []


# Disk


def needed(path: Path, tmp_path: Path, monkeypatch, dtype: str, formats: tuple[str, ...]) -> int:
    """Give the least number of free bytes that is enough."""
    low, high = 0, 1 << 40
    while low < high:
        free = (low + high) // 2
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        try:
            pipeline.check_space(path, tmp_path / "run", [KNOWN[name] for name in formats], dtype)
            high = free
        except EnvironmentFailure:
            low = free + 1
    return low


def test_the_disk_is_measured_by_what_is_written(checkpoint, tmp_path, monkeypatch):
    numbers = sum(math.prod(array.shape) for array in load_file(checkpoint).values())

    def copies(path: Path, dtype: str, *formats: str) -> float:
        return needed(path, tmp_path, monkeypatch, dtype, formats) / numbers

    assert copies(checkpoint, "source", *FORMATS) == pytest.approx(2 * 3.3, rel=0.01)
    assert copies(checkpoint, "float32", *FORMATS) == pytest.approx(4 * 3.3, rel=0.01)
    assert copies(checkpoint, "source", "onnx", "stablehlo") == pytest.approx(2 * 1.3, rel=0.01)
    assert copies(checkpoint.parent, "float32", "onnx") == pytest.approx(4 * 1.3, rel=0.01)
    assert copies(tmp_path / "nothing", "float32", "onnx") == 0


def test_shards_are_counted_together(checkpoint, tmp_path, monkeypatch):
    tensors = load_file(checkpoint)
    shards = {name: f"model-{i % 2 + 1:05}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for shard in set(shards.values()):
        save_file({n: a for n, a in tensors.items() if shards[n] == shard}, tmp_path / shard)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    sizes = [needed(path, tmp_path, monkeypatch, "source", FORMATS) for path in (tmp_path, checkpoint)]
    assert sizes[0] == sizes[1] > 0


def test_tied_tensors_are_counted_once(tmp_path):
    write_fixture("visualized_bge", "tiny", 0, "float32", tmp_path / "tied.pth")
    write_fixture("visualized_bge", "tiny", 0, "float32", tmp_path / "copied.safetensors")
    tied, copied = (pipeline.weight_bytes(tmp_path / n, "float32") for n in ("tied.pth", "copied.safetensors"))
    assert 0 < tied < copied


def test_the_command_line_has_the_choice(checkpoint, tmp_path):
    said = CliRunner().invoke(main, ["load", str(checkpoint), "--out", str(tmp_path / "run"), "--dtype", "source"])
    assert said.exit_code == 0, said.output
    assert RunDirectory(tmp_path / "run").manifest()["stored"]["dtype"] == "source"
    assert CliRunner().invoke(main, ["load", str(checkpoint), "--out", "x", "--dtype", "int8"]).exit_code == 2

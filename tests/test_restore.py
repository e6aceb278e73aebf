"""The way back: from every format to the state dict of the checkpoint, bit for bit, or a message naming the tensor."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bgevis.converter.certificate.ledger import Ledger
from bgevis.converter.directory import RunDirectory
from bgevis.converter.options import Options
from bgevis.converter.progress import Silent
from bgevis.converter.stages import build, export, load, remap, verify
from bgevis.converter.use.fixture import write_fixture
from bgevis.converter.use.restore import restore
from bgevis.exporters.base import exporters
from bgevis.model.family import families
from bgevis.validation.errors import GateError, InputError

FORMATS = {name: exporter for name, exporter in exporters().items() if not (exporter.optional or exporter.layout)}
CHEAP = ("onnx", "orbax", "stablehlo")
SOURCES = [
    source
    for family in families()
    for source in (
        (family, "float32", "pth", tuple(FORMATS)),
        (family, "float16", "safetensors", CHEAP),
        (family, "bfloat16", "pth", CHEAP),
    )
]
BERT, TIED = ("bert", "float32", "pth"), ("visualized_bge", "float32", "pth")
CASES = [pytest.param(source[:3], name, id="-".join((*source[:3], name))) for source in SOURCES for name in source[3]]


class Runs:
    """Exported run directories, each made when it is first asked for."""

    def __init__(self, folder: Path):
        self.folder = folder

    def checkpoint(self, source) -> Path:
        folder = self.folder / "-".join(source[:2])
        folder.mkdir(exist_ok=True)  # its documents are its own
        return folder / f"tiny.{source[2]}"

    def exported(self, source, name: str) -> RunDirectory:
        out, silent = self.checkpoint(source).parent / "run", Silent()
        if not out.exists():
            family, dtype, _ = source
            write_fixture(family, "tiny", 3, dtype, self.checkpoint(source))
            run = load.perform(out, Options(checkpoint=str(self.checkpoint(source))), silent)
            for stage in (remap.perform, verify.perform, build.perform):
                stage(run, Options(), silent)
        run = RunDirectory(out)
        if f"export-{name}" not in run.manifest()["stages"]:
            export.perform(run, Options(), silent, FORMATS[name])
        return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


def state(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    raw = [t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other)]
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*raw)


@pytest.mark.parametrize(("source", "name"), CASES)
def test_every_format_leads_back_to_the_checkpoint(runs, tmp_path, source, name):
    run = runs.exported(source, name)
    wanted = state(runs.checkpoint(source))
    for file in (tmp_path / "back.safetensors", tmp_path / "back.pth"):
        restored = restore(run, FORMATS[name], file, Silent())
        got = state(file)
        assert set(got) | set(restored.dropped) == set(wanted)
        assert not set(got) & set(restored.dropped)
        assert [n for n in got if not same_bits(got[n], wanted[n])] == []
        assert restored.tensors == len(got)
    assert list(got) == [n for n in Ledger.read(run.path / "ledger.json").entries if n in got]  # the .pth's order
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_tied_tensors_share_a_storage_again(runs, tmp_path):
    source = TIED
    run = runs.exported(source, "onnx")
    restored = restore(run, FORMATS["onnx"], tmp_path / "back.pth", Silent())
    wanted, got = state(runs.checkpoint(source)), state(tmp_path / "back.pth")

    def storages(tensors):
        return {name: tensor.untyped_storage().data_ptr() for name, tensor in tensors.items() if name in got}

    assert restored.ties == 4
    assert len(set(storages(got).values())) == len(set(storages(wanted).values())) == len(got) - restored.ties
    table = "model_visual.visual.rope.freqs_cos"
    assert storages(got)[table] == storages(got)["model_visual.visual.blocks.1.attn.rope.freqs_cos"]


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 4
    file.write_bytes(content)


LARGEST = "embeddings.word_embeddings.weight"


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_flipped_bit_is_found_and_its_tensor_named(runs, tmp_path, name):
    run = runs.exported(BERT, name)
    shutil.copytree(run.path, tmp_path / "damaged")
    needle = state(runs.checkpoint(BERT))[LARGEST].numpy().tobytes()[512:1024]
    files = [p for p in (tmp_path / "damaged" / FORMATS[name].folder).rglob("*") if p.is_file()]
    (file,) = [p for p in files if needle in p.read_bytes()]
    flip(file, file.read_bytes().index(needle) + 17)
    with pytest.raises(GateError, match=LARGEST):
        restore(RunDirectory(tmp_path / "damaged"), FORMATS[name], tmp_path / "back.safetensors", Silent())
    assert [p.name for p in tmp_path.iterdir()] == ["damaged"]


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_what_cannot_be_read_is_a_verdict_too(runs, tmp_path, name):
    run = runs.exported(BERT, name)
    shutil.copytree(run.path, tmp_path / "damaged")
    folder = tmp_path / "damaged" / FORMATS[name].folder
    for file in [p for p in folder.rglob("*") if p.is_file() and (name != "stablehlo" or p.suffix == ".safetensors")]:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
    with pytest.raises((GateError, InputError)):
        restore(RunDirectory(tmp_path / "damaged"), FORMATS[name], tmp_path / "back.safetensors", Silent())
    assert not (tmp_path / "back.safetensors").exists()


def test_a_lost_parameter_is_named(runs, tmp_path):
    run = runs.exported(BERT, "stablehlo")
    shutil.copytree(run.path, tmp_path / "damaged")
    manifest = json.loads((tmp_path / "damaged" / "manifest.json").read_text())
    weights = manifest["entry_points"]["encode_text"]["programs"]["stablehlo"]["weights"]
    weights.remove("text.layers.1.up.bias")
    (tmp_path / "damaged" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(GateError, match=r"does not hold tensor encoder\.layer\.1\.intermediate\.dense\.bias"):
        restore(RunDirectory(tmp_path / "damaged"), FORMATS["stablehlo"], tmp_path / "b.safetensors", Silent())


def test_the_command(runs, tmp_path):
    run = runs.exported(BERT, "orbax")

    def command(*arguments, env=None):
        whole = [sys.executable, "-m", "bgevis.converter", "restore", str(run.path), *map(str, arguments)]
        return subprocess.run(whole, capture_output=True, text=True, env=env, check=False)

    done = command("--from", "orbax", "--out", tmp_path / "back.safetensors", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["dropped"] == ["pooler.dense.weight", "pooler.dense.bias"]
    assert said["tensors"] == len(load_file(tmp_path / "back.safetensors"))
    one_line = command("--from", "orbax", "--out", tmp_path / "back.safetensors", "--force").stdout.splitlines()[-1]
    assert "2 dropped tensors are in no artifact (pooler.dense.weight, ...)" in one_line
    inside = command("--from", "orbax", "--out", run.path / "programs" / "weights.safetensors")
    assert inside.returncode == 3
    assert "inside the run directory" in inside.stderr
    missing = command("--from", "orbax", "--out", tmp_path / "no" / "back.safetensors")
    assert missing.returncode == 3
    assert "Traceback" not in missing.stderr


def test_without_torch_only_its_own_container_is_refused(runs, tmp_path, monkeypatch):
    from bgevis.validation.errors import EnvironmentFailure

    run = runs.exported(BERT, "orbax")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EnvironmentFailure, match="needs PyTorch"):
        restore(run, FORMATS["orbax"], tmp_path / "back.pth", Silent())
    restore(run, FORMATS["orbax"], tmp_path / "back.safetensors", Silent())
    tensors = load_numpy(tmp_path / "back.safetensors")
    assert all(np.isfinite(t).all() for t in tensors.values())


def load_numpy(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file as load

    return load(path)

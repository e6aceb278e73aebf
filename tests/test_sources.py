"""Every way in which a checkpoint can lie on disk leads to the same weights file and the same reference."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bgevis.converter.certificate.ledger import Ledger
from bgevis.converter.manifest import LEDGER, WEIGHTS_PATH, family_and_config, network
from bgevis.converter.options import Options
from bgevis.converter.progress import Silent
from bgevis.converter.stages import build, load, remap, verify
from bgevis.converter.stages.reference import read_original
from bgevis.converter.use.fixture import write_documents, write_fixture
from bgevis.exporters.weights import WeightsFile
from bgevis.model.family import families
from bgevis.model.runner import NNXRunner
from bgevis.validation.cases import cases
from bgevis.validation.compare import compare
from bgevis.validation.goldens import golden

State = dict[str, torch.Tensor]


def plain(state: State, folder: Path) -> Path:
    torch.save(state, folder / "model.pth")
    return folder / "model.pth"


def legacy(state: State, folder: Path) -> Path:
    torch.save(state, folder / "model.bin", _use_new_zipfile_serialization=False)
    return folder / "model.bin"


def wrapped(state: State, folder: Path) -> Path:
    parallel = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"epoch": 3, "state_dict": parallel, "optimizer": {"lr": 1e-3}}, folder / "last.ckpt")
    return folder / "last.ckpt"


def safetensors(state: State, folder: Path) -> Path:
    save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    return folder / "model.safetensors"


def sharded(state: State, folder: Path) -> Path:
    names, parts = list(state), {}
    for number in (0, 1):
        file = f"model-0000{number + 1}-of-00002.safetensors"
        save_file({n: state[n].clone().contiguous() for n in names[number::2]}, folder / file)
        parts |= dict.fromkeys(names[number::2], file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": parts}))
    return folder


def sharded_bin(state: State, folder: Path) -> Path:
    names, parts = list(state), {}
    for number in (0, 1):
        file = f"pytorch_model-0000{number + 1}-of-00002.bin"
        torch.save({n: state[n] for n in names[number::2]}, folder / file)
        parts |= dict.fromkeys(names[number::2], file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": parts}))
    return folder / "pytorch_model.bin.index.json"


def old_names(state: State, folder: Path) -> Path:
    old = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for n, t in state.items()
    }
    prefix = "bert." if "embeddings.word_embeddings.weight" in state else ""
    old = {f"{prefix}{name}": tensor for name, tensor in old.items()}
    for name in [*old]:  # the buffers that transformers wrote beside such a table
        table, _, rest = name.rpartition("position_embedding")
        if rest in (".weight", "s.weight"):
            old[f"{table}position_ids"] = torch.arange(len(old[name]))[None]
    torch.save(old, folder / "old.bin")
    return folder / "old.bin"


LAYOUTS = [plain, legacy, wrapped, safetensors, sharded, sharded_bin, old_names]


def built(path: Path, out: Path, beside):
    write_documents(path if path.is_dir() else path.parent, beside)
    run = load.perform(out, Options(checkpoint=str(path)), Silent())
    for stage in (remap.perform, verify.perform, build.perform):
        stage(run, Options(), Silent())
    return run


@pytest.fixture(scope="module", params=families())
def family(request):
    return families()[request.param]


@pytest.fixture(scope="module")
def beside(family):
    return family.documents(family.sizes["tiny"])


@pytest.fixture(scope="module")
def state(family, tmp_path_factory) -> State:
    path = tmp_path_factory.mktemp("state") / "tiny.pth"
    write_fixture(family.name, "tiny", 3, "float32", path)
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def weights(state, beside, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("weights")
    file = WeightsFile(built(plain(state, folder), folder / "run", beside).path / WEIGHTS_PATH)
    return {name: file[name].tobytes() for name in file.tensors}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_weights_and_reference(state, weights, beside, layout, tmp_path):
    run = built(layout(state, tmp_path), tmp_path / "run", beside)
    file = WeightsFile(run.path / WEIGHTS_PATH)
    assert {name: file[name].tobytes() for name in file.tensors} == weights
    family, config = family_and_config(run)
    reference = family.reference(config, read_original(run, Silent()))
    entry = family.entry_points(config)[0]
    case = cases(entry)[0]
    exact = reference.in_dtype("float64").run(entry.name, case.inputs)
    for output in entry.outputs:
        assert np.isfinite(exact[output.name]).all()
        assert exact[output.name].dtype == np.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_without_loss_and_agrees(state, beside, dtype, tmp_path):
    half = {name: tensor.to(dtype) for name, tensor in state.items()}
    run = built(plain(half, tmp_path), tmp_path / "run", beside)
    ledger, file = Ledger.read(run.path / LEDGER), WeightsFile(run.path / WEIGHTS_PATH)
    for leaf, name in ((leaf, name) for leaf, name in ledger.leaves.items() if name in half):  # not what is cut out
        want = half[name].view(torch.int16).numpy()
        assert np.array_equal(ledger.source(name, file[leaf]).view(np.int16), want)
    family, config = family_and_config(run)
    reference = family.reference(config, read_original(run, Silent()))
    exact = reference.in_dtype("float64")
    entries = {entry.name: entry for entry in family.entry_points(config)[:1]}
    drawn = [case for entry in entries.values() for case in cases(entry) if not case.same_as]
    goldens = [
        golden(entries[c.entry_point], c, exact.run(c.entry_point, c.inputs), reference.run(c.entry_point, c.inputs))
        for c in drawn
    ]
    report = compare(NNXRunner(network(run), file), entries, goldens)
    assert report.passed, report.summary()

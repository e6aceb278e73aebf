"""Checkpoints that were made so that their embeddings are nearly alike buy no room for a mistake in a program."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from in_process import convert, in_this_process
from safetensors.numpy import load_file, save_file

from bgevis.converter.directory import RunDirectory
from bgevis.converter.stages import validate
from bgevis.converter.use.fixture import write_fixture
from bgevis.exporters.base import exporters

LAST = "encoder.layer.1.output.LayerNorm.bias"
WORDS = "embeddings.word_embeddings.weight"


def alike(size: float):
    """Add a large vector to every embedding, which hides what tells them apart."""

    def change(tensors) -> None:
        signs = np.where(np.arange(len(tensors[LAST])) % 2, -1, 1)
        tensors[LAST] += (size * signs).astype(np.float32)

    return change


def far(tensors) -> None:
    """Add a number to all word vectors, which the norm takes away again, and float32's digits with it."""
    tensors[WORDS] += np.float32(400)


MADE = {"alike": alike(1000), "very alike": alike(10000), "far": far}


@pytest.fixture(scope="module", params=[pytest.param(n, marks=[] if n == "alike" else pytest.mark.prove) for n in MADE])
def run(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_fixture("bert", "tiny", 9, "float32", folder / "tiny.safetensors")
    tensors = load_file(folder / "tiny.safetensors")
    MADE[request.param](tensors)
    save_file(tensors, folder / "tiny.safetensors")
    with in_this_process():
        return convert(folder / "tiny.safetensors", folder / "run", ("onnx",))


def tanh_gelu(model) -> None:
    for node in model.graph.node:
        if node.op_type == "Gelu":
            node.ClearField("attribute")
            node.attribute.append(onnx.helper.make_attribute("approximate", "tanh"))


def scale(factor: float):
    def change(model) -> None:
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "scale":
                    attribute.f *= factor

    return change


@pytest.mark.parametrize("planted", [tanh_gelu, scale(1.01)], ids=["tanh gelu", "attention scale"])
def test_a_planted_mistake_is_seen_without_comparing_bytes(run, tmp_path, planted, request):
    file = run / "programs" / "encode_text.onnx"
    before, manifest = file.read_bytes(), (run / "manifest.json").read_bytes()
    model = onnx.load(file, load_external_data=False)
    planted(model)
    file.write_bytes(model.SerializeToString())
    assert file.read_bytes() != before
    stated = json.loads(manifest)
    from bgevis.converter.directory import sha256

    stated["files"]["programs/encode_text.onnx"] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    (run / "manifest.json").write_text(json.dumps(stated))
    try:
        with in_this_process():
            assert not validate.prove(RunDirectory(run), exporters()["onnx"]).passed
    finally:
        file.write_bytes(before)
        (run / "manifest.json").write_bytes(manifest)


def test_what_float32_costs_is_noted(run):
    (note,) = RunDirectory(run).manifest()["proof"]["network"]["notes"]
    assert note.startswith("float32 itself costs ")
    assert "inputs of encode_text apart in embeddings" in note

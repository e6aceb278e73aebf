"""Edge Glass's alignment models, held to what upstream's own program computed of checkpoints that it wrote."""

import json
import shutil

import numpy as np
import pytest
from converted import Converted, close

from bgevis.converter.options import Options
from bgevis.model.edge_glass.config import GROUPS

POOLED, SEQUENCE = 1e-6, 1e-5
CHECKPOINT = "checkpoint_best.pt"

GENERATIONS = {
    "s1_gen0_linear_cls_minilm": ("cls", False),
    "s1_simplepool_mpnet_qwen": ("simple", False),
    "s1_perceiver_cliptext": ("perceiver", True),
    "s1_trimodal_concat_trm": ("perceiver", None),
    "s1_trimodal_cross_attention_trm": ("perceiver", None),
    "s1_visiononly_cls": ("cls", False),
    "s1_visiononly_multihead": ("multihead", False),
}
"""Case -> what pools, and whether the heads are those of the newest code."""


def folder_of(oracles, case, where):
    """Lay a checkpoint out as users have it: the experiment's configuration beside it, a folder for each backbone."""
    source = oracles / "edge_glass" / case
    if not (source / CHECKPOINT).exists():
        pytest.skip(f"no conformance data in {source}")
    where.mkdir()
    shutil.copy(source / CHECKPOINT, where)
    experiment = source / "config.json"
    stated = json.loads(experiment.read_text()) if experiment.exists() else {}
    if stated:
        shutil.copy(experiment, where)
    backbones = oracles / "edge_glass" / "backbones"
    for group in GROUPS.values():
        if part := stated.get(group):
            shutil.copytree(backbones / part["model_name"].rpartition("/")[2], where / group)
    return where


def options_of(folder, sets=()):
    """Name the text encoder's own tokenizer, where there is one."""
    texts = folder / GROUPS["text"]
    return Options(sets=sets, tokenizer=str(texts) if texts.is_dir() else "", no_tokenizer=not texts.is_dir())


@pytest.fixture(scope="module")
def converted(oracles, tmp_path_factory):
    known = {}

    def convert(case):
        if case not in known:
            folder = folder_of(oracles, case, tmp_path_factory.mktemp("edge") / case)
            sets = () if (folder / "config.json").exists() else _said(oracles)
            known[case] = Converted(folder / CHECKPOINT, options_of(folder, sets))
        return known[case], np.load(oracles / "edge_glass" / case / "golden.npz")

    return convert


def _said(oracles):
    stated = json.loads((oracles / "edge_glass/backbones/tiny-clip-vision/config.json").read_text())
    fields = {f"vision.tower.{name}": stated[name] for name in ("num_attention_heads", "layer_norm_eps", "hidden_act")}
    return (*(f"{name}={value}" for name, value in fields.items()), "vision.mrl=[16,32,8]")


def held(outputs, golden, modality):
    """Hold every output of an encoder to the golden of its name."""
    for name, got in outputs.items():
        close(got, golden[f"{modality}_{name}"], SEQUENCE if name == "sequence" else POOLED)
    return set(outputs)


@pytest.mark.parametrize("case", GENERATIONS)
def test_what_upstream_computed_is_computed_here(converted, case):
    network, golden = converted(case)
    images = golden["images"].transpose(0, 2, 3, 1)
    found = held(network.run("encode_image", {"images": images}), golden, "vision")
    given = ("vision_pooled", "vision_mrl_", "vision_sequence")
    assert found == {name.removeprefix("vision_") for name in golden.files if name.startswith(given)}
    pooling, newest = GENERATIONS[case]
    assert network.config.vision.pooling == pooling
    assert newest is None or (network.config.vision.adapter > 0) == newest
    if "text_pooled" in golden:
        inputs = {name: golden[f"text_{name}"] for name in ("input_ids", "attention_mask")}
        held(network.run("encode_text", inputs), golden, "text")
    if "audio_pooled" in golden:
        held(network.run("encode_audio", {"input_features": golden["audio_features"]}), golden, "audio")
    if "fused_emb" in golden:
        pooled = {name: golden[f"{name}_pooled"] for name in network.config.modalities}
        close(network.run("fuse", pooled)["fused"], golden["fused_emb"], POOLED)
    if "fused_vision_audio_only" in golden:
        pair = {name: golden[f"{name}_pooled"] for name in ("vision", "audio")}
        close(network.run("fuse_vision_audio", pair)["fused"], golden["fused_vision_audio_only"], POOLED)
    if "prefix_tokens" in golden:
        given = golden["fused_emb"] if "fused_emb" in golden else golden["vision_pooled"]
        close(network.run("soft_prompt", {"vector": given})["prefix"], golden["prefix_tokens"], SEQUENCE)

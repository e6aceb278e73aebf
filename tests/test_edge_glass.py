"""Edge Glass's alignment models, held to what upstream's own program computed of checkpoints that it wrote."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from converted import Converted, close
from variants import some

from bgevis.converter.options import Options
from bgevis.converter.source.identify import identify
from bgevis.converter.use.fixture import write_fixture
from bgevis.model.clip.config import TextConfig
from bgevis.model.edge_glass import FAMILY, losses
from bgevis.model.edge_glass.config import GROUPS, Audio, Decoder, Fusion, Text
from bgevis.model.mpnet.config import MPNetConfig
from bgevis.model.reference import Original
from bgevis.model.steps import plain
from bgevis.model.whisper.config import BARE, WhisperConfig
from bgevis.validation.cases import cases
from bgevis.validation.errors import InputError

POOLED, SEQUENCE = 1e-6, 1e-5
CHECKPOINT = "checkpoint_best.pt"

FAST = ("s1_simplepool_mpnet_qwen", "s1_trimodal_cross_attention_trm", "multi-head pooling", "gate", "concatenation")
"""What `make test` runs of the cases and variations: each pooling and fusion once; the rest waits for `make prove`."""

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


@pytest.mark.parametrize("case", some(GENERATIONS, FAST))
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
    if network.config.decoder:
        given = {"prefix": golden["prefix_tokens"], "input_ids": golden["lm_input_ids"]}
        close(network.run("decode_text", given)["logits"], golden["lm_logits"], 2e-5)
        greedily = golden["gen_prompt"]
        for _ in range(golden["gen_prefix_every_step_tokens"].shape[1] - greedily.shape[1]):
            logits = network.run("decode_text", given | {"input_ids": greedily})["logits"]
            greedily = np.concatenate([greedily, logits[:, -1:].argmax(-1)], 1)
        assert greedily.tolist() == golden["gen_prefix_every_step_tokens"].tolist()


TINY = FAMILY.sizes["tiny"]
LINEAR = {"adapter": 0, "perceiver": None}
MPNET = MPNetConfig(60, 16, 1, 2, 24, 20, pipeline=plain(["mean"]), max_seq_length=18)
CLIP = TextConfig(16, 1, 2, 24, 1e-5, "gelu", 60, 12, 1, 58, 59, 59, 12)
WHISPER = WhisperConfig(16, 1, 2, 24, 8, 10, names=BARE)
SOUNDS = Audio(WHISPER, 12, TINY.vision.perceiver, (12, 4))

VARIATIONS = {
    "the oldest, with a perceiver": {"vision": {"adapter": 0}},
    "class token, MPNet": {"vision": {"pooling": "cls", **LINEAR}, "text": Text(None, MPNET, None, 12)},
    "simple pooling, CLIP texts": {
        "vision": {"pooling": "simple", **LINEAR},
        "text": Text(None, None, CLIP, 12, (12, 5), "encoder.text_model."),
    },
    "multi-head pooling": {"vision": {"pooling": "multihead", "projection_dim": 16, **LINEAR, "mrl": (16, 4)}},
    "gate": {"audio": SOUNDS, "fusion": Fusion("gated", 8)},
    "concatenation": {"audio": replace(SOUNDS, perceiver=None), "fusion": Fusion("concat", 8, 20)},
    "cross-attention of three": {"audio": SOUNDS},
    "no fusion": {"fusion": None},
    "its own decoder": {"decoder": Decoder(4, 2, 1, 6, 24, 1e-5, 40)},
    "pictures alone": {"text": None, "fusion": None, "prompt_dim": 0},
    "sounds and texts": {"vision": None, "audio": SOUNDS},
}
"""Name -> what is not as in the size `tiny`; of the image encoder, which of its fields."""


def varied(changes):
    vision = changes.get("vision", {})
    return replace(TINY, **{**changes, "vision": None if vision is None else replace(TINY.vision, **vision)})


def written(folder, config, monkeypatch):
    monkeypatch.setitem(FAMILY.sizes, "other", config)
    write_fixture("edge_glass", "other", 5, "float32", folder / "model.pth")
    return folder / "model.pth"


@pytest.mark.parametrize("name", some(VARIATIONS, FAST))
def test_every_generation_is_what_the_reference_computes(name, tmp_path, monkeypatch):
    config = varied(VARIATIONS[name])
    path = written(tmp_path, config, monkeypatch)
    found = Converted(path, Options(no_tokenizer=True))
    assert found.config == config
    original = Original(torch.load(path, weights_only=True), folder=tmp_path)
    reference = FAMILY.reference(config, original)
    for entry in FAMILY.entry_points(config):
        case = cases(entry)[-1]
        outputs = found.run(entry.name, case.inputs)
        wanted = reference.run(entry.name, case.inputs)
        assert outputs.keys() == wanted.keys()
        for output, want in wanted.items():
            close(outputs[output], want, SEQUENCE if output in ("sequence", "prefix", "fused", "logits") else POOLED)


def test_what_nobody_states_is_listed_at_once(tmp_path, monkeypatch):
    path = written(tmp_path, TINY, monkeypatch)
    for document in [*tmp_path.rglob("*.json")]:
        document.unlink()
    with pytest.raises(InputError) as raised:
        Converted(path, Options(no_tokenizer=True))
    missing = ("vision.tower.num_attention_heads", "vision.perceiver.num_heads", "vision.mrl", "text.bert.hidden_act")
    for field in (*missing, "text.mrl", "pooling", "normalize", "fusion.num_heads"):
        assert f"{field} (--" in str(raised.value), field


@pytest.mark.parametrize("wrapper", ["model", "module", "model_state_dict"])
def test_every_container_is_opened(wrapper, tmp_path, monkeypatch):
    path = written(tmp_path, TINY, monkeypatch)
    torch.save({wrapper: torch.load(path, weights_only=True), "epoch": 3}, path)
    assert Converted(path, Options(no_tokenizer=True)).config == TINY


def test_a_configuration_that_contradicts_the_tensors_is_refused(tmp_path, monkeypatch):
    path = written(tmp_path, TINY, monkeypatch)
    stated = json.loads((tmp_path / "config.json").read_text())
    stated["vision_encoder"]["perceiver_latent_dim"] = 512
    (tmp_path / "config.json").write_text(json.dumps(stated))
    with pytest.raises(InputError, match=r"vision_encoder\.perceiver_latent_dim is 512, but .* say 8"):
        Converted(path, Options(no_tokenizer=True))


def test_a_backbone_alone_is_still_reached_by_its_tower(tmp_path, monkeypatch):
    path = written(tmp_path, TINY, monkeypatch)
    assert identify(path, Options(no_tokenizer=True)).family is FAMILY
    (tmp_path / "alone").mkdir()
    own = shutil.copy(tmp_path / GROUPS["text"] / "config.json", tmp_path / "alone")
    tower = {"tower": "text_encoder.encoder.0.auto_model", "pooling": "mean", "normalize": True}
    found = identify(path, Options(configs=(str(own),), no_tokenizer=True, **tower))
    assert found.family.name == "bert"
    assert found.config.hidden_size == TINY.text.width


def test_clips_texts_have_one_vector(tmp_path, monkeypatch):
    config = varied(VARIATIONS["simple pooling, CLIP texts"])
    found = Converted(written(tmp_path, config, monkeypatch), Options(no_tokenizer=True))
    ids = np.array([[58, 3, 4, 59], [58, 7, 59, 1]], np.int32)
    pooled = found.run("encode_text", {"input_ids": ids, "attention_mask": np.ones_like(ids)})["pooled"]
    assert np.array_equal(pooled[0], pooled[1])


def test_losses_are_upstreams(oracles):
    """Of pairs, of their beginnings, of three modalities, and of texts behind a soft prompt or a picture."""
    folder = oracles / "edge_glass"
    if not folder.exists():
        pytest.skip(f"no conformance data in {folder}")

    def golden(case):
        return {name: jnp.asarray(array) for name, array in np.load(folder / case / "golden.npz").items()}

    def same(got, want):
        assert abs(float(got) - float(want)) < 2e-6 * max(1.0, float(want))

    pair = golden("s1_simplepool_mpnet_qwen")
    one, other = pair["vision_pooled"], pair["text_pooled"]
    same(losses.pair_loss(one, other), pair["loss_contrastive_loss"])
    for width in (48, 32, 16, 8):
        same(losses.matryoshka_loss(one, other, [width]), pair[f"pair_vt_loss_dim_{width}"])
    three = golden("s1_trimodal_concat_trm")
    pooled = {name: three[f"{name}_pooled"] for name in ("vision", "text", "audio")}
    same(losses.three_way_loss(pooled), three["loss_total_loss"])
    script = golden("s1_perceiver_v3_script")
    made = [script[name] / jnp.linalg.norm(script[name], axis=1, keepdims=True) for name in ("z_vision", "z_text")]
    begun = losses.matryoshka_loss(*made, (4, 8, 16, 32)) / 4
    same(0.25 * losses.pair_loss(*made) + begun, script["loss_total"])
    for case in ("s1_simplepool_mpnet_qwen", "s1_trimodal_concat_trm"):
        found = golden(case)
        same(losses.next_token_loss(found["lm_logits"], found["lm_labels"]), found["lm_loss"])
    for case in ("s2_vlm_lora", "s2_vlm_trm_proj"):
        found = golden(case)
        question = jnp.full_like(found["question_ids"], losses.IGNORED)
        labels = jnp.concatenate([question, found["answer_ids"]], 1)
        same(losses.next_token_loss(found["train_logits"], labels), found["train_loss"])


@pytest.mark.parametrize("file", ["pytorch_model.bin", "checkpoint-best/pytorch_model/mp_rank_00_model_states.pt"])
def test_the_script_s_own_class_is_computed_here(oracles, file, tmp_path):
    """From features that others computed; the trainer's own container holds it in bfloat16."""
    folder = oracles / "edge_glass" / "s1_perceiver_v3_script"
    if not folder.exists():
        pytest.skip(f"no conformance data in {folder}")
    network = Converted(folder / file, Options(configs=(str(folder / "config.json"),)))
    golden = np.load(folder / "golden.npz")
    for kind in ("vision", "text"):
        found = network.run(f"align_{kind}", {"features": golden[f"{kind}_features"]})
        want = golden[f"z_{kind}"]
        if file.endswith(".bin"):
            close(found["z"], want, 2e-6 * max(1.0, float(np.abs(want).max())))
        assert np.abs(found["z"] - want).max() < 0.05
        assert network.config.mrl == (4, 8, 16, 32)
        for width in network.config.mrl:
            begun = found["z"][:, :width]
            close(found[f"mrl_{width}"], begun / np.linalg.norm(begun, axis=1, keepdims=True), POOLED)
    with pytest.raises(InputError, match=r"num_heads \(--set num_heads=.* and mrl \(--set mrl="):
        identify(Path(shutil.copy(folder / file, tmp_path / "alone.bin")), Options())

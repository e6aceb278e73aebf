"""The converted networks against outputs that the upstream programs computed, on checkpoints in their layouts."""

import dataclasses
import functools
import json
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx

from bgevis.converter.certificate.assign import assign
from bgevis.converter.checkpoint import open_checkpoint
from bgevis.converter.options import Options
from bgevis.model.family import families
from bgevis.model.losses import contrastive_loss
from bgevis.model.steps import plain

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode leaves it out
from converted import EMBEDDING, Converted, as_input, close


def visualized_folders() -> list[str]:
    named = os.environ.get("BGEVIS_ORACLES")
    root = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "oracles"
    found = sorted(str(p.parent.relative_to(root)) for p in root.glob("visualized_bge/*/goldens.npz"))
    return found or ["visualized_bge/base"]


@pytest.fixture(scope="module", params=visualized_folders())
def folder(request, oracles) -> Path:
    return oracles / request.param


@pytest.fixture(scope="module")
def goldens(folder):
    return np.load(folder / "goldens.npz")


@functools.cache
def converted(folder: Path, pooling: str = "cls", normalize: bool = True) -> Converted:
    checkpoint = next(folder.glob("*.pth"))
    stated = Converted(checkpoint)
    text = dataclasses.replace(stated.config.text, pipeline=plain([pooling], normalize=normalize))
    return stated if text == stated.config.text else Converted(checkpoint, text=text)


def test_every_embedding_agrees(folder, goldens):
    model = converted(folder)
    close(model("encode_image", goldens["images/pixels"]), goldens["images/emb_batch"])
    texts = (goldens["text/batch_input_ids"], goldens["text/batch_attention_mask"])
    close(model("encode_text", *texts), goldens["text/batch_emb"])
    for case in ("text/long", "mm_long"):
        ids = goldens[f"{case}_input_ids" if case == "text/long" else f"{case}/input_ids"]
        want = goldens[f"{case}_emb" if case == "text/long" else f"{case}/emb"]
        pictures = () if case == "text/long" else (goldens["img1/pixels"],)
        entry = "encode_multimodal" if pictures else "encode_text"
        close(model(entry, *pictures, ids, np.ones_like(ids)), want)


@pytest.mark.parametrize("suffix", ["emb", "emb_unnormalized", "emb_mean", "emb_mean_unnormalized"])
def test_pooling_and_normalisation_agree(folder, goldens, suffix):
    model = converted(folder, "mean" if "mean" in suffix else "cls", "unnormalized" not in suffix)
    tolerance = 2 * EMBEDDING if "unnormalized" in suffix else EMBEDDING  # which shares nothing of the length's error
    text = (goldens["text3/input_ids"], goldens["text3/attention_mask"])
    close(model("encode_text", *text), goldens[f"text3/{suffix}"], tolerance)
    fused = (goldens["mm2/pixels"], goldens["mm2/input_ids"], goldens["mm2/attention_mask"])
    close(model("encode_multimodal", *fused), goldens[f"mm2/{suffix}"], tolerance)


def test_low_variance_inputs_agree(folder, goldens):
    """Where a wrong epsilon moves the embedding by 0.1 and more."""
    extra, model = np.load(folder / "goldens_extra.npz"), converted(folder)
    tables = ("text.embeddings.word", "text.embeddings.position", "text.embeddings.token_type", "visual_projection")
    tower = ("vision.patch_embed", "vision.cls_token", "vision.position_embedding")

    def scale(leaf: str) -> float:
        if leaf.startswith(tables):
            return float(extra["lowvar/bert_scale"])
        return float(extra["lowvar/eva_scale"]) if leaf.startswith(tower) else 1.0

    weights = {leaf: array * scale(leaf) for leaf, array in model.weights.items()}
    text = (goldens["text3/input_ids"], goldens["text3/attention_mask"])
    # Normalising numbers of 1e-6 amplifies the rounding of their sums; a wrong epsilon shows at 1e-1.
    close(model("encode_text", *text, weights=weights), extra["lowvar/text3_emb"], 2e-5)
    fused = (goldens["mm2/pixels"], goldens["mm2/input_ids"], goldens["mm2/attention_mask"])
    close(model("encode_multimodal", *fused, weights=weights), extra["lowvar/mm2_emb"], 2e-5)


def heads_first(array: np.ndarray) -> np.ndarray:
    """(batch, tokens, heads, width) without the class token -> upstream's (batch, heads, patches, width)."""
    return array[:, 1:].transpose(0, 2, 1, 3)


ACTIVATIONS = {
    "eva.patch_embed": ("vision.patch_embed", lambda a: a),
    "eva.b0.norm1": ("vision.blocks.0.norm1", lambda a: a),
    "eva.b0.rope_q": ("vision.blocks.0.attention.rotary_query", heads_first),
    "eva.b0.rope_k": ("vision.blocks.0.attention.rotary_key", heads_first),
    "eva.b0.inner_attn_ln": ("vision.blocks.0.attention.norm", lambda a: a),
    "eva.b0.attn_out": ("vision.blocks.0.attention.out", lambda a: a),
    "eva.b0.ffn_ln": ("vision.blocks.0.mlp.norm", lambda a: a),
    "eva.b0.mlp_out": ("vision.blocks.0.mlp.down", lambda a: a),
    "visual_proj_out": ("visual_projection", lambda a: a),
    "bge_embeddings_out": ("text.embeddings.norm", lambda a: a),
    "bert.input": ("text.input", lambda a: a),
    "bert.l0.attention_out": ("text.layers.0.attention_norm", lambda a: a),
}


@pytest.mark.parametrize("case", ["text3", "mm2", "img1"])
def test_stored_activations_agree(folder, goldens, case):
    names = (f"{case}/{what}" for what in ("pixels", "input_ids", "attention_mask"))
    inputs = [goldens[name] for name in names if name in goldens]
    entry = {"text3": "encode_text", "mm2": "encode_multimodal", "img1": "encode_image"}[case]
    taps = converted(folder).taps(entry, *inputs)
    compared = 0
    for key in goldens.files:
        name = key.removeprefix(f"{case}/")
        tap, shape = ACTIVATIONS.get(name, (None, None))
        for prefix, module in (("eva.block", "vision.blocks.{}.output"), ("bert.layer", "text.layers.{}.down_norm")):
            if name.startswith(prefix) and name.removeprefix(prefix).isdigit():
                tap, shape = module.format(name.removeprefix(prefix)), lambda a: a
        if key != name and tap in taps:
            close(shape(taps[tap]), goldens[key], 5e-6)
            compared += 1
    assert compared >= (4 if case == "text3" else 12)


def test_gradients_of_the_contrastive_loss_agree(folder, goldens):
    model, wanted = converted(folder), np.load(folder / "grads_edit_image.npz")
    fused = [as_input(goldens[f"mm2/{name}"]) for name in ("pixels", "input_ids", "attention_mask")]
    candidates = as_input(goldens["train_edit/candidates"])
    module = model.network.module(model.weights)

    def loss(module):
        return contrastive_loss(module.encode_multimodal(*fused), module.encode_image(candidates))

    value, gradients = jax.jit(nnx.value_and_grad(loss))(module)
    assert abs(float(value) - float(goldens["train_edit/loss"])) < 2e-5
    got = {}
    for path, leaf in nnx.to_flat_state(gradients):
        name = model.ledger.leaves[".".join(map(str, path))]
        entry = dataclasses.replace(model.ledger.entries[name], dtype="float32", shape=wanted[name].shape)
        ledger = dataclasses.replace(model.ledger, entries={name: entry})
        got[name] = ledger.source(name, np.asarray(leaf.get_value()))
    assert set(got) == set(wanted.files)
    scale = max(float(np.abs(wanted[name]).max()) for name in wanted.files)
    padding = {"bge_embeddings.word_embeddings.weight", "bge_embeddings.position_embeddings.weight"}
    for name in wanted.files:
        difference = np.abs(got[name] - wanted[name])
        if name in padding:  # torch gives the row of the padding id no gradient; NNX has no such rule
            difference = np.delete(difference, model.config.text.pad_token_id, axis=0)
        assert difference.max() <= 2e-5 * max(scale * 0.1, float(np.abs(wanted[name]).max())), name


@pytest.mark.parametrize("folder", visualized_folders()[:1], indirect=True)
def test_rematerialisation_changes_nothing(folder, goldens):
    from bgevis.model.visualized_bge.modeling import BGEVisualized

    model = converted(folder)
    inputs = [as_input(goldens[f"text3/{name}"]) for name in ("input_ids", "attention_mask")]
    gradients = []
    for remat in (False, True):
        module = BGEVisualized(model.config, remat=remat, rngs=nnx.Rngs(0))
        gradients.append(nnx.grad(lambda m: m.encode_text(*inputs)[0].sum())(module))
    for once, again in zip(jax.tree.leaves(gradients[0]), jax.tree.leaves(gradients[1]), strict=True):
        np.testing.assert_allclose(once, again, rtol=1e-4, atol=1e-6)


@pytest.fixture
def without_shape_checks():
    """As users run it: the annotations are not executed, the module's own checks speak."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("without_shape_checks")
def test_what_upstream_refuses_is_a_value_error(folder, goldens):
    """Wrong lengths fail upstream too; here with the limit in the message."""
    from bgevis.model.visualized_bge.modeling import BGEVisualized

    assert set(json.loads((folder / "goldens_meta.json").read_text())) >= {"mm_one_longer", "text_one_longer"}
    config = converted(folder).config
    module = nnx.eval_shape(lambda: BGEVisualized(config, rngs=nnx.Rngs(0)))
    size = config.vision.image_size
    images = jnp.zeros((2, size, size, 3))

    def ids(batch: int, tokens: int):
        return jnp.zeros((batch, tokens), jnp.int32), jnp.ones((batch, tokens), jnp.int32)

    assert goldens["text/long_input_ids"].shape[1] == config.text.max_tokens
    assert goldens["mm_long/input_ids"].shape[1] == config.max_fused_tokens
    with pytest.raises(ValueError, match=f"at most {config.text.max_tokens}"):
        module(None, *ids(1, config.text.max_tokens + 1))
    with pytest.raises(ValueError, match=f"at most {config.max_fused_tokens}"):
        module(images, *ids(2, config.max_fused_tokens + 1))
    with pytest.raises(ValueError, match="nothing to embed"):
        module()
    with pytest.raises(ValueError, match="together"):
        module(images, ids(2, 3)[0])
    with pytest.raises(ValueError, match="one text per image"):
        module(images, *ids(3, 4))
    with pytest.raises(ValueError, match=r"images must be \(batch"):
        module(jnp.zeros((1, size, size + 1, 3)))
    with pytest.raises(ValueError, match=r"images must be \(batch"):
        module(images[0])
    with pytest.raises(ValueError, match=r"input_ids must be \(batch, tokens\)"):
        module(None, jnp.zeros(3, jnp.int32), jnp.ones(3, jnp.int32))
    with pytest.raises(ValueError, match="attention_mask must have the shape"):
        module(None, ids(1, 3)[0], ids(1, 4)[1])


@pytest.mark.parametrize("name", ["bert", "xlmr"])
@pytest.mark.parametrize("container", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_hugging_face_encoders_agree(oracles, name, container, pooling):
    goldens = np.load(oracles / "huggingface" / name / "golden.npz")
    options = Options(pooling=pooling, normalize=True)
    model = Converted(oracles / "huggingface" / name / container, options)
    assert model.config.pipeline == plain([pooling])
    hidden = goldens["last_hidden_tt0" if "last_hidden_tt0" in goldens else "last_hidden"]
    mask = goldens["attention_mask"][..., None]
    pooled = hidden[:, 0] if pooling == "cls" else (hidden * mask).sum(1) / mask.sum(1)
    want = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    close(model("encode_text", goldens["input_ids"], goldens["attention_mask"]), want)
    if "input_ids_left" in goldens:
        left = model("encode_text", goldens["input_ids_left"], goldens["attention_mask_left"])
        if pooling == "mean":
            close(left, want)


@pytest.mark.parametrize("container", ["model.safetensors", "pytorch_model.bin"])
def test_clip_agrees(oracles, container):
    folder = oracles / "huggingface" / "clip_quickgelu"
    goldens, model = np.load(folder / "golden.npz"), Converted(folder / container)
    images, ids = goldens["pixel_values"], goldens["input_ids"]
    close(model("encode_image", images), goldens["image_embeds"])
    temperature = float(np.exp(model.weights["logit_scale"]))  # the cosines' error is multiplied by it
    for suffix, mask in (("", goldens["attention_mask"]), ("_nomask", np.ones_like(ids))):
        close(model("encode_text", ids, mask), goldens[f"text_embeds{suffix}"])
        logits = model("similarity", images, ids, mask)
        assert np.abs(logits - goldens[f"logits_per_image{suffix}"]).max() <= EMBEDDING * temperature


def test_clip_with_an_end_that_is_the_highest_id_agrees(oracles):
    """As configurations before transformers 4.31 state it."""
    folder = oracles / "bge_vl" / "bge_vl_base_tiny"
    goldens = np.load(folder / "golden.npz")
    model = Converted(folder / "model.safetensors")
    assert model.config.text.eos_token_id == 2
    texts, images = (goldens["input_ids"], goldens["attention_mask"]), goldens["pixel_values"]
    close(model("encode_text", *texts), goldens["encode_text"])
    close(model("encode_image", images), goldens["encode_image"])
    assert model.config.multimodal
    close(model("encode_multimodal", images, *texts), goldens["encode_multimodal"])
    without = Converted(folder / "model.safetensors", Options(ignore=("config.json:auto_map",)))
    assert "encode_multimodal" not in {entry.name for entry in without.family.entry_points(without.config)}


def test_siglip_agrees(oracles):
    """Padding counts, nothing is masked, the head attends; scores are scaled and shifted."""
    folder = oracles / "siglip" / "siglip_tiny"
    goldens, model = np.load(folder / "golden.npz"), Converted(folder, Options(no_tokenizer=True))
    ids, images = goldens["input_ids"], goldens["pixel_values"]
    close(model("encode_text", ids), goldens["text_embeds"])
    close(model("encode_image", images), goldens["image_embeds"])
    scale = float(np.exp(model.weights["logit_scale"][0]))
    assert np.abs(model("similarity", images, ids) - goldens["logits_per_image"]).max() <= EMBEDDING * scale


def test_the_real_minilm_agrees(oracles, minilm):
    """Trained weights, both goldens: sentence-transformers' mean, and Visualized-BGE's text path, either pooling."""
    goldens = np.load(oracles / "real" / "minilm_l6_golden.npz")
    model = Converted(minilm / "model.safetensors")
    assert (model.config.pipeline, model.config.num_attention_heads) == (plain(["mean"]), 12)
    close(model("encode_text", goldens["input_ids"], goldens["attention_mask"]), goldens["embedding"])
    path = np.load(oracles / "real" / "minilm_visualized_text_path.npz")
    for pooling in ("cls", "mean"):
        model = Converted(minilm / "model.safetensors", pipeline=plain([pooling]))
        close(model("encode_text", path["input_ids"], path["attention_mask"]), path[f"emb_{pooling}"])


@pytest.mark.parametrize("container", ["model.safetensors", "pytorch_model.bin"])
def test_mpnet_agrees(oracles, container):
    """Short texts, padding on either side, and one so long that the distances' buckets end."""
    folder = oracles / "mpnet" / "mpnet_st"
    goldens, model = np.load(folder / "golden.npz"), Converted(folder / container)
    assert model.config.pipeline == plain(["mean"])
    close(model("encode_text", goldens["input_ids"], goldens["attention_mask"]), goldens["st_embeddings_f64"])

    def states(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        network = model.family.hugging_face(model.config).network
        function = jax.jit(network.function("token_states"))
        return np.asarray(function(model.weights, as_input(ids), as_input(mask))["last_hidden_state"])

    for side in ("short", "left"):
        ids, mask = goldens[f"{side}_input_ids"], goldens[f"{side}_attention_mask"]
        counts = mask[..., None] == 1
        close(states(ids, mask) * counts, goldens[f"{side}_last_hidden"] * counts)
    ids = goldens["long_input_ids"]
    close(states(ids, np.ones_like(ids))[0, goldens["long_rows"]], goldens["long_last_hidden_rows"])


def test_buckets_of_distances_are_upstreams():
    """At every distance, the borders of the logarithm too."""
    import torch
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    from bgevis.model.mpnet.modeling import buckets

    places = torch.arange(513)
    wanted = MPNetEncoder.relative_position_bucket(places[None, :] - places[:, None])
    np.testing.assert_array_equal(buckets(513), wanted)


def test_the_real_mpnet_agrees(oracles, mpnet):
    goldens = np.load(oracles / "real" / "all-mpnet-base-v2_golden" / "golden.npz")
    model = Converted(mpnet / "model.safetensors")
    assert (model.config.pipeline, model.config.text_limit) == (plain(["mean"]), 384)
    close(model("encode_text", goldens["input_ids"], goldens["attention_mask"]), goldens["embeddings_f64"])


@pytest.mark.parametrize("container", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("name", ["bert_crossencoder_1", "xlmr_reranker_1"])
def test_rerankers_agree(oracles, name, container):
    folder = oracles / "rerankers" / name
    goldens, model = np.load(folder / "golden.npz"), Converted(folder / container)
    (entry,) = model.network.entry_points.values()
    inputs = [goldens[spec.name] for spec in entry.inputs]
    close(model("score", *inputs), goldens["logits_f64"])
    close(model("score", inputs[0], np.ones_like(inputs[1]), *inputs[2:]), goldens["logits_no_mask"])
    if "token_type_ids" in goldens:
        close(model("score", *inputs[:2], np.zeros_like(inputs[2])), goldens["logits_types_zero"])


@pytest.mark.parametrize("container", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("batch", ["b0", "b1"])
def test_the_three_heads_of_bge_m3_agree(oracles, container, batch):
    folder = oracles / "bge_m3" / "m3_three_heads"
    goldens, model = np.load(folder / "golden.npz"), Converted(folder / container)
    ids, mask = goldens[f"{batch}_input_ids"], goldens[f"{batch}_attention_mask"]
    got = jax.jit(model.network.function("encode_text"))(model.weights, as_input(ids), as_input(mask))
    wanted = {"dense_vecs": "dense", "sparse_vecs": "token_weights", "colbert_vecs": "colbert"}
    for name, golden in wanted.items():
        close(np.asarray(got[name]), goldens[f"{batch}_forward_{golden}"])


def test_full_size_layouts_are_upstreams(oracles):
    """Names and shapes of the published sizes, against listings made by constructing the upstream modules."""
    family = families()["visualized_bge"]
    for size in ("base", "m3"):
        listing = (oracles / "visualized_bge" / f"keys_{size}_full_size.tsv").read_text().splitlines()
        wanted = {line.split("\t")[0]: line.split("\t")[1] for line in listing if line.strip()}
        layout = family.checkpoint_shapes(family.sizes[size])
        assert {name: str(shape) for name, shape in layout.items()} == wanted
        found = assign(layout, family.rules(family.sizes[size]), family.network(family.sizes[size]).leaves)
        assert found.problems == ()


def test_opening_reads_the_oracle_as_torch_does(folder):
    import torch

    path = next(folder.glob("*.pth"))
    checkpoint, wanted = open_checkpoint(path), torch.load(path, weights_only=True)
    assert list(checkpoint.tensors) == list(wanted)
    for name, tensor in wanted.items():
        assert np.array_equal(checkpoint.read(name), tensor.numpy())

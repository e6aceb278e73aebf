"""Qwen2 and Qwen3 against outputs that upstream's code computed: logits, caches, steps, greedy ids, embeddings."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bgevis.converter.options import Options
from bgevis.converter.source.identify import identify
from bgevis.converter.use.fixture import write_fixture
from bgevis.model.qwen.config import NONE, OWN, QWEN2_SIZES, QWEN3_SIZES, TIED
from bgevis.model.rotary import Rope
from bgevis.validation import procedure
from bgevis.validation.cases import cases
from bgevis.validation.errors import ConvertError, InputError
from bgevis.validation.kept import kept

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode leaves it out
from converted import Converted, close

SIZES = {"qwen2": QWEN2_SIZES, "qwen3": QWEN3_SIZES}
UNTIED = "huggingface/qwen2_untied"


def prompt(ids, mask=None):
    """Give the inputs of `prefill`."""
    mask = np.ones_like(ids) if mask is None else mask
    return {"input_ids": ids, "attention_mask": mask, "position_ids": np.maximum(np.cumsum(mask, 1) - 1, 0)}


def past(outputs):
    return {f"past_{name}": array for name, array in outputs.items() if name.startswith(("keys", "values"))}


@pytest.mark.parametrize("container", ["model.safetensors", "pytorch_model.bin"])
def test_logits_agree_with_padding_on_either_side(oracles, container):
    goldens, model = np.load(oracles / UNTIED / "golden.npz"), Converted(oracles / UNTIED / container)
    close(model.run("prefill", prompt(goldens["input_ids"]))["logits"], goldens["logits"], 5e-6)
    for side in ("right", "left"):
        mask = goldens[f"mask_{side}pad"]
        found = model.run("prefill", prompt(goldens[f"ids_{side}pad"], mask))["logits"]
        close(found * mask[..., None], goldens[f"logits_{side}pad_valid"], 5e-6)


@pytest.mark.parametrize("folder", ["huggingface/qwen2_untied_sharded", "huggingface/qwen2_untied_bf16"])
def test_shards_and_half_precision_are_the_same_network(oracles, folder):
    goldens, model = np.load(oracles / UNTIED / "golden.npz"), Converted(oracles / folder)
    found = model.run("prefill", prompt(goldens["input_ids"]))["logits"]
    assert np.abs(found - goldens["logits"]).max() < (0.1 if "bf16" in folder else 5e-6)


@pytest.mark.parametrize("folder", ["hf_cache/qwen2_tied_cache", "hf_cache/qwen3_cache"])
@pytest.mark.parametrize("side", ["", "left_"])
def test_caches_and_steps_agree(oracles, folder, side):
    """Keys as upstream keeps them, turned; each step scores as the whole text would. The window is switched off."""
    goldens, model = np.load(oracles / folder / "golden.npz"), Converted(oracles / folder)
    layers = range(model.config.num_hidden_layers)
    mask = goldens["left_attention_mask"] if side else np.ones_like(goldens["input_ids"])
    counts = mask[..., None]
    outputs = model.run("prefill", prompt(goldens[f"{side}input_ids"], mask))
    close(outputs["logits"] * counts, goldens[f"{side}prefill_logits"] * counts, 5e-6)
    for i in layers:
        for name in ("key", "value"):
            wanted = goldens[f"{side}present.{i}.{name}"] * counts[:, None]
            close(outputs[f"{name}s_{i}"] * counts[:, None], wanted, 5e-6)
    for step, ids in enumerate(goldens["decode_ids"].T):
        mask = np.concatenate([mask, np.ones((len(mask), 1), mask.dtype)], 1)
        given = {"input_ids": ids[:, None], "attention_mask": mask, "position_ids": mask.sum(1, keepdims=True) - 1}
        outputs = model.run("decode", {**given, **past(outputs)})
        close(outputs["logits"], goldens[f"{side}decode{step}_logits"], 5e-6)
    for i in layers:
        for name in ("key", "value"):
            close(outputs[f"{name}s_{i}"][:, :, -1:], goldens[f"{side}decode2_present.{i}.{name}_last"], 5e-6)


@pytest.mark.parametrize("folder", ["hf_cache/qwen2_tied_cache", "hf_cache/qwen3_cache"])
def test_tokens_may_be_read_in_pieces(oracles, folder):
    goldens, model = np.load(oracles / folder / "golden.npz"), Converted(oracles / folder)
    whole = prompt(np.concatenate([goldens["input_ids"], goldens["decode_ids"]], 1))
    first = model.run("prefill", {name: array[:, :4] for name, array in whole.items()})
    rest = {name: array[:, 4:] for name, array in whole.items()} | {"attention_mask": whole["attention_mask"]}
    close(model.run("decode", rest | past(first))["logits"], goldens["logits_11_f64"][:, 4:], 5e-6)


@pytest.mark.parametrize(
    ("folder", "given", "wanted"),
    [
        (UNTIED, "greedy_prompt", "greedy_ids"),
        ("hf_cache/qwen2_tied_cache", "input_ids", "greedy_ids"),
        ("hf_cache/qwen3_cache", "input_ids", "greedy_ids"),
        (UNTIED, "left", "greedy_leftpad_ids"),
        ("hf_cache/qwen2_tied_cache", "left", "left_greedy_ids"),
        ("hf_cache/qwen3_cache", "left", "left_greedy_ids"),
    ],
)
def test_greedy_ids_are_upstreams(oracles, folder, given, wanted):
    goldens, model = np.load(oracles / folder / "golden.npz"), Converted(oracles / folder)
    if given == "left":
        names = ("ids_leftpad", "mask_leftpad") if folder == UNTIED else ("left_input_ids", "left_attention_mask")
        inputs = prompt(*(goldens[name] for name in names))
    else:
        inputs = prompt(goldens[given])
    (greedy,) = model.family.procedures(model.config)
    long = inputs["input_ids"].shape[1]
    # upstream pads behind an end; where it went on, the golden holds what came after it
    ends = (2,) if folder == UNTIED else ()
    greedy = replace(greedy, ends=ends)
    new = goldens[wanted][:, long:]
    found = procedure.generate(model, model.network.entry_points, greedy, inputs, new.shape[1])
    assert found.ids.tolist() == new[:, : found.ids.shape[1]].tolist()
    if wanted == "greedy_ids" and "greedy_margin" in goldens:
        close(found.margins, goldens["greedy_margin"], 1e-5)


def test_an_embedding_model_pools_its_last_token(oracles):
    """Whose id is that of the padding: a mask that is made of the ids loses it."""
    folder = oracles / "qwen3_embedding" / "qwen3_embedding_st"
    goldens, model = np.load(folder / "golden.npz"), Converted(folder)
    assert (model.config.head, model.config.prefix, model.config.first_token_ids) == (NONE, "", ())
    assert model.config.last_token_ids == (model.config.pad_token_id,)
    for kind in ("", "query_"):
        found = model("encode_text", goldens[f"{kind}input_ids"], goldens[f"{kind}attention_mask"])
        close(found, goldens[f"{kind}embeddings"])


@pytest.mark.parametrize("name", ["0.5b", "1.5b", "3b", "7b"])
def test_published_sizes_have_as_many_numbers_as_they_say(name):
    """Qwen2.5 technical report: 0.49, 1.54, 3.09 and 7.61 billion."""
    from bgevis.model.family import families

    family = families()["qwen2"]
    shapes = family.checkpoint_shapes(family.sizes[name])
    count = sum(int(np.prod(shape)) for tensor, shape in shapes.items())
    assert round(count / 1e9, 2) == {"0.5b": 0.49, "1.5b": 1.54, "3b": 3.09, "7b": 7.62}[name]


def _form(tmp_path, monkeypatch, family, **changes):
    monkeypatch.setitem(SIZES[family], "form", replace(SIZES[family]["tiny"], **changes))
    write_fixture(family, "form", 0, "float32", tmp_path / "model.safetensors")
    return tmp_path


def _stated(config):
    """Give what is read of a folder that says nothing of the longest text."""
    return replace(config, max_seq_length=config.max_tokens)


FORMS = {
    "windows": ("qwen2", {"windows": (0, 5)}),
    "linear": ("qwen3", {"rope": Rope(1e4, "linear", 3.0)}),
    "yarn": ("qwen2", {"rope": Rope(1e4, "yarn", 4.0, 16, 1.1386294361119891)}),
    "llama3": ("qwen3", {"rope": Rope(1e4, "llama3", 8.0, 64)}),
    "all biases": ("qwen3", {"biased": ("query", "key", "value", "out"), "head": OWN}),
    "no head": ("qwen2", {"head": NONE, "prefix": ""}),
    "one head of keys": ("qwen2", {"num_key_value_heads": 1, "head": TIED, "hidden_act": "gelu"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_judged_by_upstream(form, tmp_path, monkeypatch):
    """What config.json says is what the fixture was made of, and upstream computes what we do."""
    family, changes = FORMS[form]
    from safetensors.torch import load_file

    from bgevis.model.reference import Original

    folder = _form(tmp_path, monkeypatch, family, **changes)
    model = Converted(folder)
    assert model.config == _stated(SIZES[family]["form"])
    documents = {name: json.loads((folder / name).read_text()) for name in ("config.json", "generation_config.json")}
    upstream = model.family.reference(model.config, Original(load_file(folder / "model.safetensors"), documents))
    for entry in model.network.entry_points.values():
        inputs = cases(entry)[0].inputs
        found, wanted = (kept(entry, inputs, each.run(entry.name, inputs)) for each in (model, upstream))
        for name in wanted:
            close(found[name], wanted[name], 1e-5)


WRONG = {
    "rope type": ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic'"),
    "rope field": (
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        "partial_rotary_factor",
    ),
    "yarn without factor": ({"rope_parameters": {"rope_type": "yarn"}}, "factor is stated nowhere"),
    "heads": ({"num_key_value_heads": 4}, "num_key_value_heads is 4, but the checkpoint's tensors say 2"),
    "no such head": ({"num_attention_heads": 5}, "does not divide"),
    "window": ({"layer_types": ["full_attention", "sliding_attention"]}, "no sliding_window is in use"),
    "types": ({"layer_types": ["full_attention"]}, "layer_types is"),
    "type": ({"model_type": "llama"}, "model_type is 'llama'"),
    "unknown": ({"logit_softcap": 30.0}, "logit_softcap"),
    "four bits": ({"quantization_config": {"bits": 4}}, "quantization_config"),
    "end": ({"eos_token_id": 5000}, "expected ids from 0 to 119"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_computed_is_refused_by_name(case, tmp_path, monkeypatch):
    changes, message = WRONG[case]
    folder = _form(tmp_path, monkeypatch, "qwen2")
    document = json.loads((folder / "config.json").read_text())
    if "rope_parameters" in changes:
        changes = {"rope_parameters": {"rope_theta": 1e4} | changes["rope_parameters"]}
    (folder / "config.json").write_text(json.dumps(document | changes))
    with pytest.raises(ConvertError, match=message.replace("(", r"\(")):
        identify(folder, Options())


def test_a_missing_head_is_not_drawn_at_random(tmp_path, monkeypatch):
    folder = _form(tmp_path, monkeypatch, "qwen3")
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(document | {"tie_word_embeddings": False}))
    with pytest.raises(InputError, match=r"lm_head\.weight, which the checkpoint has not"):
        identify(folder, Options())


@pytest.mark.parametrize("place", ["rope_theta", "rope_parameters", "rope_scaling"])
def test_the_base_is_read_wherever_it_stands(place, tmp_path, monkeypatch):
    folder = _form(tmp_path, monkeypatch, "qwen3")
    document = json.loads((folder / "config.json").read_text())
    del document["rope_parameters"]
    stated = {
        "rope_theta": {"rope_theta": 5e5, "rope_scaling": None},
        "rope_parameters": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        "rope_scaling": {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
    }
    (folder / "config.json").write_text(json.dumps(document | stated[place]))
    rope = identify(folder, Options()).config.rope
    assert (rope.theta, rope.factor) == (5e5, 2.0 if place == "rope_scaling" else 1.0)


@pytest.mark.parametrize("family", SIZES)
@pytest.mark.parametrize("wrapper", ["", "module.", "net."])
def test_wrappers_are_taken_away(family, wrapper, tmp_path, monkeypatch):
    folder = _form(tmp_path, monkeypatch, family)
    from safetensors.numpy import load_file, save_file

    arrays = load_file(folder / "model.safetensors")
    save_file({wrapper + name: x for name, x in arrays.items()}, folder / "model.safetensors")
    assert identify(folder, Options()).config == _stated(SIZES[family]["form"])


@pytest.mark.parametrize("rope", [Rope(1e6), Rope(1e4, "linear", 4.0), Rope(5e5, "llama3", 8.0, 8192)], ids=str)
@pytest.mark.parametrize("width", [64, 80, 128])
def test_frequencies_are_upstreams(rope, width):
    """But for how a device rounds powers."""
    transformers = pytest.importorskip("transformers")
    config = transformers.Qwen3Config(head_dim=width, max_position_embeddings=32768, rope_parameters=rope.to_json())
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

    wanted = Qwen3RotaryEmbedding(config).inv_freq.numpy()
    found = rope.frequencies(width)
    assert (found.dtype, found.shape) == (np.float32, (width // 2,))
    assert np.abs(found / wanted - 1).max() < 2.0**-21

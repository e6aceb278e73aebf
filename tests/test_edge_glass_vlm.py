"""Edge Glass's language models, held to what upstream's own program computed: logits, caches, steps, answers."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode leaves it out
from converted import Converted, close
from test_edge_glass import CHECKPOINT, folder_of, options_of

from bgevis.converter.options import Options
from bgevis.converter.source.identify import identify
from bgevis.converter.use.fixture import write_fixture
from bgevis.model.edge_glass_vlm import FAMILY
from bgevis.model.edge_glass_vlm.config import PLACES
from bgevis.model.qwen.config import QWEN2_SIZES, QWEN3_SIZES, TIED
from bgevis.model.reference import Original
from bgevis.validation import procedure
from bgevis.validation.cases import cases
from bgevis.validation.errors import InputError
from bgevis.validation.kept import kept

FILES = ("checkpoint_best.pt", "checkpoint_best/pytorch_model.bin", "*/pytorch_model/mp_rank_00_model_states.pt")
ORACLES = ("s2_vlm_lora", "s2_vlm_nolora_untied", "s2_vlm_lora_trm", "s2_vlm_trm_proj")


@pytest.fixture(scope="module")
def converted(oracles):
    known = {}

    def convert(case):
        folder = oracles / "edge_glass" / case
        found = [file for pattern in FILES for file in folder.glob(pattern)]
        if not found:
            pytest.skip(f"no conformance data in {folder}")
        if case not in known:
            tied = json.loads((folder / "config.json").read_text())["qwen_config"]["tie_word_embeddings"]
            tokenizer = folder.parent / "backbones" / f"tiny-qwen2-{'' if tied else 'un'}tied"
            options = Options(configs=(str(folder / "config.json"),), tokenizer=str(tokenizer))
            known[case] = Converted(found[0], options)
        return known[case], np.load(folder / "golden.npz")

    return convert


def prompt(prefix, ids, mask=None, *, counted=False):
    """Give the inputs of `forward`; places are counted as generation does, or are those of the row."""
    mask = np.ones_like(ids) if mask is None else mask
    whole = np.concatenate([np.ones(prefix.shape[:2], mask.dtype), mask], 1)
    where = np.cumsum(whole if counted else np.ones_like(whole), 1) - 1
    return {"prefix": prefix, "input_ids": ids, "attention_mask": mask, "position_ids": where}


def near(network, got, want):
    """Hold logits to goldens by their size: upstream's own float32 is some 2e-6 of it from float64."""
    close(got, want, 4e-6 * max(float(np.abs(want).max()), 1.0))


@pytest.mark.parametrize("case", ORACLES)
def test_what_upstream_computed_is_computed_here(converted, case):
    network, golden = converted(case)
    prefix = network.run("project_vision", {"sequence": golden["vision_tokens"]})["prefix"]
    close(prefix, golden["prefix_embeds"], 1e-5)
    question, answer = golden["question_ids"], golden["answer_ids"]
    texts = {
        "prompt_logits": (question, None),
        "train_logits": (np.concatenate([question, answer], 1), None),
        "leftpad_logits_forward": (golden["leftpad_question_ids"], golden["leftpad_attention_mask"]),
        "rightpad_train_logits": (np.concatenate([golden["rightpad_question_ids"], answer], 1), None),
    }
    for name, given in texts.items():
        near(network, network.run("forward", prompt(prefix, *given))["logits"], golden[name])
    if "leftpad_logits_generate_positions" in golden:
        given = prompt(prefix, golden["leftpad_question_ids"], golden["leftpad_attention_mask"], counted=True)
        real = np.concatenate([np.ones(prefix.shape[:2], int), golden["leftpad_attention_mask"]], 1)
        assert np.array_equal(given["position_ids"] * real, golden["leftpad_position_ids_generate"] * real)
        found, real = network.run("forward", given)["logits"], real[..., None]
        near(network, found * real, golden["leftpad_logits_generate_positions"] * real)


@pytest.mark.parametrize("case", ORACLES[:2])
def test_keys_values_and_steps_are_upstreams(converted, case):
    network, golden = converted(case)
    prefix, ids = golden["prefix_embeds"], golden["question_ids"]
    outputs = network.run("prefill", prompt(prefix, ids))
    near(network, outputs["logits"], golden["prefill_logits_last"])
    for layer, pair in enumerate(golden["prefill_kv"]):
        for name, want in zip(("keys", "values"), pair, strict=True):
            close(outputs[f"{name}_{layer}"], want, 1e-5)
    so_far = prefix.shape[1] + ids.shape[1]
    for step, token in enumerate(golden["decode_tokens"].T[: golden["decode_logits"].shape[1]]):
        given = {"input_ids": token[:, None], "position_ids": np.full((len(ids), 1), so_far + step)}
        given["attention_mask"] = np.ones((len(ids), so_far + step + 1), np.int32)
        outputs = network.run("decode", given | {f"past_{n}": x for n, x in outputs.items() if n != "logits"})
        near(network, outputs["logits"][:, 0], golden["decode_logits"][:, step])


@pytest.mark.parametrize("padding", ["", "leftpad_"])
@pytest.mark.parametrize("case", ORACLES)
def test_answers_are_upstreams(converted, case, padding):
    """By caches, where upstream's recursion reads everything again for each token; padding has places there."""
    network, golden = converted(case)
    (greedy,) = network.family.procedures(network.config)
    ids = golden[f"{padding}question_ids"]
    mask = golden["leftpad_attention_mask"] if padding else np.ones_like(ids)
    given = prompt(golden["prefix_embeds"], ids, mask, counted=network.config.trm is None)
    given["sequence"] = golden["vision_tokens"]
    suffix = "_leftpad" if padding else ""
    want = golden[f"gen_full{suffix}" if f"gen_full{suffix}" in golden else f"gen_upstream{suffix}"]
    found = procedure.generate(network, network.network.entry_points, greedy, given, want.shape[1])
    assert found.ids.tolist() == want[:, : found.ids.shape[1]].tolist()
    if greedy.cut:
        assert golden[f"gen_upstream{suffix}"].tolist() == want[:, ids.shape[1] :].tolist()


@pytest.mark.parametrize("eyes", ["s1_simplepool_mpnet_qwen", "s1_perceiver_cliptext"])
@pytest.mark.parametrize("case", ["s2_vlm_lora", "s2_vlm_lora_trm"])
def test_a_picture_is_answered_as_upstream_answers(oracles, converted, case, eyes, tmp_path):
    """Pixels through the first stage's image encoder, its tokens through the second stage."""
    network, _ = converted(case)
    golden = np.load(oracles / "edge_glass" / "e2e" / "golden.npz")
    folder = folder_of(oracles, eyes, tmp_path / eyes)
    seeing = Converted(folder / CHECKPOINT, options_of(folder))
    sequence = seeing.run("encode_image", {"images": golden["images"].transpose(0, 2, 3, 1)})["sequence"]
    close(sequence, golden[f"{eyes}__sequence"], 1e-5)
    prefix = network.run("project_vision", {"sequence": sequence})["prefix"]
    given = prompt(prefix, golden["question_ids"])
    near(network, network.run("forward", given)["logits"], golden[f"{eyes}__{case}__logits"])
    (greedy,) = network.family.procedures(network.config)
    want = golden[f"{eyes}__{case}__tokens"]
    entries = network.network.entry_points
    found = procedure.generate(network, entries, greedy, {**given, "sequence": sequence}, want.shape[1])
    assert found.ids.tolist() == want.tolist()


TINY = FAMILY.sizes["tiny"]
VARIATIONS = {
    "projected": {},
    "as wide": {"trm": replace(TINY.trm, width=32, num_heads=2, projected=False, num_layers=2, steps=3)},
    "no recursion, tied": {"trm": None, "qwen": replace(QWEN2_SIZES["tiny"], head=TIED), "place": PLACES[0]},
    "Qwen3": {"qwen": QWEN3_SIZES["tiny"]},
}


def written(folder, config, dtype="float32"):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILY.sizes, "form", config)
        write_fixture("edge_glass_vlm", "form", 5, dtype, folder / "model.pth")
    return folder / "model.pth"


@pytest.mark.parametrize("name", VARIATIONS)
def test_every_form_is_what_the_reference_computes(name, tmp_path):
    """Which computes upstream's latent too, and shows with it that nothing depends on it."""
    path = written(tmp_path, replace(TINY, **VARIATIONS[name]))
    found = Converted(path, Options(no_tokenizer=True))
    state = torch.load(path, weights_only=True)
    documents = {name: json.loads((tmp_path / name).read_text()) for name in ("config.json",)}
    references = [FAMILY.reference(found.config, Original(state, documents))]
    if found.config.trm:
        far = state | {"z_init": 50 * state["z_init"]}
        references.append(FAMILY.reference(found.config, Original(far, documents)))
    assert replace(found.config.qwen, max_seq_length=0) == replace(TINY, **VARIATIONS[name]).qwen
    for entry in found.network.entry_points.values():
        inputs = cases(entry)[0].inputs
        got, *wanted = (kept(entry, inputs, each.run(entry.name, inputs)) for each in (found, *references))
        for want in wanted:
            for output in want:
                close(got[output], want[output], 2e-5)


def test_half_precision_is_taken_as_it_is_stored(tmp_path):
    """The language model in bfloat16, an adapter in float32, tables of positions rounded: a trainer's mixture."""
    path = written(tmp_path, replace(TINY, place=PLACES[0]), "bfloat16")
    state = torch.load(path, weights_only=True)
    layer = f"{PLACES[0]}model.layers.0.self_attn.q_proj"
    for kind in ("weight", "bias"):
        state[f"{layer}.base_layer.{kind}"] = state.pop(f"{layer}.{kind}")
    generator = torch.Generator().manual_seed(3)
    state[f"{layer}.lora_A.default.weight"] = 0.2 * torch.randn(4, 32, generator=generator)
    state[f"{layer}.lora_B.default.weight"] = 0.2 * torch.randn(32, 4, generator=generator)
    state = {n: t.bfloat16() if "rotary_emb" in n else t for n, t in state.items()}
    torch.save({"model_state_dict": state, "step": 3}, path)
    with pytest.raises(InputError, match=r"lora_alpha \(--set lora_alpha="):
        identify(path, Options(no_tokenizer=True))
    stated = json.loads((tmp_path / "config.json").read_text()) | {"lora": {"r": 4, "alpha": 6}}
    (tmp_path / "config.json").write_text(json.dumps(stated))
    found = Converted(path, Options(no_tokenizer=True))
    table = state["trm_layers.0.attention.rotary_emb.cos_cached"].float().numpy()
    assert np.array_equal(found.weights["trm.blocks.0.attention.cosines"], table)
    base, a, b = (state[f"{layer}.{n}.weight"].double() for n in ("base_layer", "lora_A.default", "lora_B.default"))
    merged = (base + 6 / 4 * b @ a).numpy()
    kernel = np.asarray(found.weights["qwen.text.blocks.0.attention.query.kernel"]).reshape(32, 32)
    assert np.abs(kernel.T - merged).max() < 1e-6
    stated["lora"]["r"] = 8
    (tmp_path / "config.json").write_text(json.dumps(stated))
    with pytest.raises(InputError, match=r"lora\.r is 8, but the checkpoint's tensors say 4"):
        identify(path, Options(no_tokenizer=True))


def test_what_nobody_states_is_listed_at_once(tmp_path):
    path = written(tmp_path, TINY)
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match=r"shows \d fields of this network") as raised:
        identify(path, Options(no_tokenizer=True))
    listed = ("the language model's config.json (as qwen/config.json", "--set trm.steps=", "trm.layer_norm_eps (--set")
    for said in listed:
        assert said in str(raised.value), said
    shutil.rmtree(tmp_path / "qwen")
    stated = FAMILY.documents(TINY)["config.json"]["qwen_config"]
    (tmp_path / "other.json").write_text(json.dumps(stated))
    sets = ("trm.steps=2", "trm.layer_norm_eps=1e-5")
    found = identify(path, Options(configs=(str(tmp_path / "other.json"),), sets=sets, no_tokenizer=True))
    assert found.config.trm == TINY.trm


@pytest.mark.parametrize("wrapper", ["model", "module", "model_state_dict", "module."])
def test_every_container_is_opened(wrapper, tmp_path):
    path = written(tmp_path, TINY)
    state = torch.load(path, weights_only=True)
    whole = {wrapper + n: t for n, t in state.items()} if wrapper.endswith(".") else {wrapper: state, "step": 3}
    torch.save(whole, path)
    assert identify(path, Options(no_tokenizer=True)).config.trm == TINY.trm


WRONG = {
    "steps": ({"num_recursion_steps": 0}, "num_recursion_steps is 0, expected a whole number at least 1"),
    "width": ({"vision_token_dim": 13}, "vision_token_dim is 13, but the checkpoint's tensors say 12"),
    "recursion": ({"use_trm_recursion": False}, "use_trm_recursion is false, but the checkpoint's tensors say true"),
    "heads": ({"trm_config": {"num_heads": 2, "layer_norm_eps": 1e-5}}, "trm_config.num_heads is 2, but"),
    "positions": ({"trm_config": {"use_rope": False, "layer_norm_eps": 1e-5}}, "trm_config.use_rope"),
    "unknown": ({"num_vision_tokens": 5}, "num_vision_tokens"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_contradicts_the_tensors_is_refused_by_name(case, tmp_path):
    changes, message = WRONG[case]
    path = written(tmp_path, TINY)
    stated = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stated | changes))
    with pytest.raises(InputError, match=message):
        identify(path, Options(no_tokenizer=True))


def test_a_base_of_four_bits_is_refused_with_what_to_do(tmp_path):
    path = written(tmp_path, TINY)
    state = torch.load(path, weights_only=True)
    name = "qwen.model.model.layers.0.self_attn.q_proj.weight"
    state[name] = torch.zeros(512, 1, dtype=torch.uint8)
    state |= {f"{name}.absmax": torch.zeros(16), f"{name}.quant_map": torch.zeros(16)}
    state[f"{name}.quant_state.bitsandbytes__nf4"] = torch.zeros(90, dtype=torch.uint8)
    torch.save(state, path)
    with pytest.raises(InputError, match=r"q_proj\.weight is packed by bitsandbytes .*; load the base in bfloat16"):
        identify(path, Options(no_tokenizer=True))

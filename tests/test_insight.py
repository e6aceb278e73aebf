"""The Insight Engine's classes against what upstream's own code computed, in each runtime; what is asked for; training.

A case is a checkpoint as upstream saves it, with constructor arguments, inputs and outputs. Nothing here knows sizes
or values: another folder of such cases is held to in the same way.
"""

import dataclasses
import functools
import importlib.util
import json
import os
import re
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from converted import Converted
from flax import nnx
from in_process import convert, export, in_this_process
from variants import some

from bgevis.converter.checkpoint import open_checkpoint
from bgevis.converter.directory import RunDirectory
from bgevis.converter.manifest import artifact
from bgevis.converter.options import Options
from bgevis.converter.report.inspection import describe, show
from bgevis.converter.source.identify import identify
from bgevis.converter.stages import validate
from bgevis.converter.stages.validate import HTML, pictures
from bgevis.converter.use.fixture import write_fixture
from bgevis.converter.use.plot import draw
from bgevis.exporters.base import exporters
from bgevis.model.family import Source, config_to_json
from bgevis.model.insight import KINDS, attention, encoder_decoder, initialise, modeling
from bgevis.model.insight.kind import recognise
from bgevis.model.reference import Original, tensor_of
from bgevis.validation.budget import distance, measure
from bgevis.validation.cases import cases
from bgevis.validation.errors import ConvertError, InputError
from bgevis.validation.taps import closely, recording

ROOT = Path(os.environ.get("BGEVIS_ORACLES") or Path(__file__).resolve().parents[2] / "shared" / "oracles")
FOLDER = ROOT / "insight_engine"
FORMATS = ("onnx", "saved-model", "stablehlo")


def described() -> dict[str, dict]:
    """Give what is said of each case that has outputs, by name."""
    found = {}
    for file in sorted(FOLDER.glob("*.json")):
        content = json.loads(file.read_text())
        if isinstance(content, dict) and "cls" in content and file.with_suffix(".npz").exists():
            found[file.stem] = content
    return found


CASES = described()


class Io:
    """Inputs and outputs of a case, by name."""

    def __init__(self, name: str):
        arrays = np.load(FOLDER / f"{name}.npz")
        self.given = {key[3:]: arrays[key] for key in arrays.files if key.startswith("in.")}
        self.wanted = {key[4:]: arrays[key] for key in arrays.files if key.startswith("out.")}

    def mask(self, *names: str) -> np.ndarray | None:
        return next((self.given[name] for name in names if name in self.given), None)

    def suffixes(self, stem: str) -> Iterator[tuple[str, str]]:
        """Give outputs that begin so, each with what is behind it."""
        yield from (
            (name, name[len(stem) + 1 :]) for name in self.wanted if name == stem or name.startswith(f"{stem}_")
        )


def whole(mask: np.ndarray | None, batch: int, queries: int, keys: int) -> np.ndarray:
    """Give a mask as upstream broadcasts it over heads: (batch, queries, keys)."""
    if mask is None:
        return np.ones((batch, queries, keys), bool)
    mask = mask[:, 0] if mask.ndim == 4 else mask
    return np.broadcast_to(mask, (batch, queries, keys))


def by_head(mask: np.ndarray | None, batch: int, heads: int, tokens: int) -> np.ndarray:
    """Give a mask to which no axis of heads was added: (batch, heads, tokens, tokens)."""
    return np.broadcast_to(np.ones(1, bool) if mask is None else mask, (batch, heads, tokens, tokens))


Run = tuple[str, dict[str, np.ndarray], dict[str, np.ndarray]]
"""Entry point, inputs, what is wanted."""


def runs(name: str) -> Iterator[Run]:
    """Say how a case's outputs are computed here."""
    io, cls, kwargs = Io(name), CASES[name]["cls"], CASES[name]["kwargs"]
    given, wanted = io.given, io.wanted
    yield from globals()[f"of_{GROUPS[cls]}"](io, given, wanted, cls, kwargs)


def of_along(io, given, wanted, cls, kwargs):
    for source, result in (("x", "y"), ("x3", "y3")):
        if source in given:
            x, y = given[source], wanted[result]
            x, y = (a.reshape(1, -1, a.shape[-1]) if a.ndim == 2 else a for a in (x, y))
            yield "forward", {"x": x}, {"output": y}


def of_rows(io, given, wanted, cls, kwargs):
    for source, result in (("x", "y"), ("x3", "y3")):
        if source in given and result in wanted:
            x, y = (a.reshape(-1, a.shape[-1]) for a in (given[source], wanted[result]))
            yield "forward", {"x": x}, {"output": y}
    found = {"logits": ("forward", "logits"), "predict": ("predict", "classes")}
    found["predict_proba"] = ("predict_proba", "probabilities")
    for name, (entry, output) in found.items():
        if name in wanted:
            yield entry, {"x": given["x"]}, {output: wanted[name]}


def of_attention(io, given, wanted, cls, kwargs):
    """MultiHeadAttention, SimpleAttention, ScaledDotProductAttention; rotary encodings change nothing."""
    plain = "q" in given
    query = given["q" if plain else "x"]
    stem, output = ("ctx", "context") if plain else ("y", "output")
    for name, behind in io.suffixes(stem):
        if "truerope" in behind:
            continue
        behind = behind.removeprefix("rot_").removeprefix("rot")
        crossed = behind == "cross"
        source = given["mem"] if crossed else given.get("k", query)
        mask = io.mask("mem_mask") if crossed else io.mask(behind)
        shape = len(query), query.shape[1], source.shape[1]
        inputs = {"query": query, "key": source, "value": given.get("v", source), "mask": whole(mask, *shape)}
        want = {output: wanted[name]}
        if (weights := f"w{name.removeprefix(stem)}") in wanted:
            want["weights"] = wanted[weights]
        yield "forward", inputs, want


def of_heads(io, given, wanted, cls, kwargs):
    x, heads = given["x"], kwargs["num_heads"]
    fewer = kwargs.get("num_key_value_heads", heads) < heads
    for name, behind in io.suffixes("y"):
        mask = io.mask(behind) if behind else io.mask("mask3")
        inputs = {"x": x, "mask": by_head(mask, len(x), heads, x.shape[1])}
        yield "forward_as_documented" if fewer else "forward", inputs, {"output": wanted[name]}


def of_cross(io, given, wanted, cls, kwargs):
    query, key = given["q"], given["kv"]
    for name, behind in io.suffixes("y"):
        alone = "y_mask" not in wanted
        mask = whole(io.mask("mask3") if behind or alone else None, len(query), query.shape[1], key.shape[1])
        inputs = {"query_features": query, "key_features": key, "attention_mask": mask}
        yield "forward", inputs, {"output": wanted[name], "weights": wanted[f"w{name[1:]}"]}


def of_fusion(io, given, wanted, cls, kwargs):
    yield "forward", {"vision": given["vision"], "text": given["text"]}, wanted


def of_words(io, given, wanted, cls, kwargs):
    yield "forward", {"ids": given["ids"]}, {"output": wanted["y"]}


def of_positions(io, given, wanted, cls, kwargs):
    yield "forward", {"x": given["x"]}, {"output": wanted["y"]}
    yield "forward_ids", {"ids": given["x2d_ids"]}, {"output": wanted["y2d"]}


def of_rotary(io, given, wanted, cls, kwargs):
    for order, behind in (("bshd", ""), ("bhsd", "_hmajor")):
        if f"q_{order}" in given:
            inputs = {"q": given[f"q_{order}"], "k": given[f"k_{order}"]}
            yield "forward", inputs, {"query": wanted[f"q_rot{behind}"], "key": wanted[f"k_rot{behind}"]}


def of_patches(io, given, wanted, cls, kwargs):
    yield "forward", {"images": given["x"].transpose(0, 2, 3, 1)}, {"output": wanted["y"]}


def of_layer(io, given, wanted, cls, kwargs):
    x = given["x"]
    batch, tokens = x.shape[:2]
    mask = whole(io.mask("mask", "causal2"), batch, tokens, tokens)
    if "mem" not in given:
        yield "forward", {"x": x, "mask": mask}, {"output": wanted["y"]}
        return
    seen = whole(io.mask("mem_mask"), batch, tokens, given["mem"].shape[1])
    yield "forward", {"x": x, "memory": given["mem"], "tgt_mask": mask, "memory_mask": seen}, {"output": wanted["y"]}


def of_encoder(io, given, wanted, cls, kwargs):
    vectors = "x" in given
    for name, behind in io.suffixes("y"):
        embedded = behind == "emb"
        x = given["x"] if vectors else given["emb" if embedded else "ids"]
        mask = whole(None if embedded else io.mask(behind), len(x), x.shape[1], x.shape[1])
        if vectors and cls == "TransformerEncoder":
            yield "forward_embeddings", {"x": x, "mask": mask}, {"last_hidden_state": wanted[name]}
        elif vectors:
            yield "forward", {"x": x, "mask": mask}, {"output": wanted[name]}
        else:
            entry, source = ("forward_embeddings", "x") if embedded else ("forward", "ids")
            yield entry, {source: x, "mask": mask}, {"last_hidden_state": wanted[name]}


def of_decoder(io, given, wanted, cls, kwargs):
    ids, memory = given["ids"], given["mem"]
    batch, tokens = ids.shape
    for name, behind in io.suffixes("logits"):
        own = io.mask({"causal": "causal4", "causal2": "causal2", "full": "causal4"}.get(behind, ""))
        seen = io.mask("memmask4") if behind == "full" else None
        masks = {"tgt_mask": whole(own, batch, tokens, tokens)}
        masks["memory_mask"] = whole(seen, batch, tokens, memory.shape[1])
        yield "forward", {"ids": ids, "memory": memory, **masks}, {"logits": wanted[name]}


def of_both(io, given, wanted, cls, kwargs):
    src, tgt = given["src"], given["tgt"]
    batch, tokens, length = *tgt.shape, src.shape[1]
    for name, behind in io.suffixes("logits"):
        masked = behind in ("train_masks", "all_masks")
        masks = {
            "src_mask": whole(given["src_mask"] if masked else None, batch, length, length),
            "tgt_mask": whole(given["tgt_mask"] if masked else None, batch, tokens, tokens),
            "memory_mask": whole(given["src_mask"] if behind == "all_masks" else None, batch, tokens, length),
        }
        yield "forward", {"src": src, "tgt": tgt, **masks}, {"logits": wanted[name]}
    seen = whole(given["src_mask"], batch, length, length)
    yield "encode", {"src": src, "src_mask": seen}, {"memory": wanted["memory"]}
    masks = {
        "tgt_mask": whole(given["tgt_mask"], batch, tokens, tokens),
        "memory_mask": whole(given["src_mask"], batch, tokens, length),
    }
    yield "decode", {"tgt": tgt, "memory": wanted["memory"], **masks}, {"logits": wanted["decode"]}


def of_vision(io, given, wanted, cls, kwargs):
    images = {"images": given["x"].transpose(0, 2, 3, 1)}
    yield "forward", images, {"logits": wanted["logits"]}
    yield "extract_features", images, {"features": wanted["features"]}
    yield "extract_features", images, {"features": wanted["extract"]}


def of_towers(io, given, wanted, cls, kwargs):
    images, src = given["images"].transpose(0, 2, 3, 1), given.get("src", given.get("ids"))
    texts = {"src": src}
    if "src_vocab_size" in kwargs["text_model"]:
        texts["src_mask"] = whole(given.get("src_mask"), len(src), src.shape[1], src.shape[1])
    both = {"images": images, **texts}
    entries = {
        "encode_image": {"images": images},
        "encode_text": texts,
        "extract_vision_features": {"images": images},
        "extract_text_features": texts,
        "similarity": both,
        "raw_similarity": both,
        "forward": both,
    }
    for entry in KINDS[cls].entries(converted(CASES_OF[cls, json.dumps(kwargs)]).config):
        want = {spec.name: wanted[spec.name] for spec in entry.outputs if spec.name in wanted}
        if want:
            yield entry.name, entries[entry.name], want


CASES_OF = {(content["cls"], json.dumps(content["kwargs"])): name for name, content in CASES.items()}

GROUPS = {
    **dict.fromkeys(("LinearLayer", "FeedForwardBlock"), "along"),
    **dict.fromkeys(("FeedForwardNN", "FeedForwardClassifier", "MultiLayerPerceptron"), "rows"),
    **dict.fromkeys(("MultiHeadAttention", "SimpleAttention", "ScaledDotProductAttention"), "attention"),
    **dict.fromkeys(("GroupedQueryAttention", "ALiBiAttention"), "heads"),
    **dict.fromkeys(("CrossModalAttention", "GatedCrossModalAttention"), "cross"),
    **dict.fromkeys(("BidirectionalCrossAttention", "CoAttentionFusion"), "fusion"),
    "TokenEmbedding": "words",
    "PositionalEncoding": "positions",
    "RotaryPositionEncoding": "rotary",
    "PatchEmbedding": "patches",
    **dict.fromkeys(("TransformerEncoderLayer", "TransformerDecoderLayer"), "layer"),
    **dict.fromkeys(("TransformerEncoder", "Transformer"), "encoder"),
    "TransformerDecoder": "decoder",
    "EncoderDecoderTransformer": "both",
    "VisionTransformer": "vision",
    **dict.fromkeys(("DualEncoder", "MultiModalTransformer", "CrossAttentionMultiModalTransformer"), "towers"),
}
"""Class -> how its cases are run."""

FAST = {GROUPS[content["cls"]]: name for name, content in reversed(CASES.items())}.values()
"""One case of each way to run one, which is one of each kind of machinery; the others wait for `make prove`."""


DEFAULTS = {"activation": "relu", "use_residual": False}
"""Of upstream's constructors: what is asked for where a case leaves it out."""


def stated(name: str, folder: Path) -> Path:
    """Write constructor arguments as a user does who has them, upstream's defaults included: a JSON file."""
    defaults = DEFAULTS if "FeedForward" in CASES[name]["cls"] or "Perceptron" in CASES[name]["cls"] else {}
    (folder / "config.json").write_text(json.dumps(defaults | CASES[name]["kwargs"]))
    return folder / "config.json"


@functools.cache
def converted(name: str) -> Converted:
    """Give a case's checkpoint as the NNX model."""
    with tempfile.TemporaryDirectory() as folder:
        options = Options(configs=(str(stated(name, Path(folder))),))
        return Converted(FOLDER / f"{name}.pt", options)


@functools.cache
def judge(name: str):
    """Give the judge of a case."""
    model = converted(name)
    state = {n: tensor_of(np.array(model.checkpoint.read(n))) for n in model.checkpoint.tensors}
    return model.family.reference(model.config, Original(state))


def off(got: dict, exact: dict, float32: dict, want: dict, rows: dict | None = None) -> list[str]:
    """Say which outputs are farther from float64 than the budget that float32 has, upstream's own among them."""
    found = []
    for output, upstreams in want.items():
        allowed = 0.0 if exact[output].dtype.kind == "i" else measure(exact[output], float32[output]).allowed
        for whose, array in (("here", got[output]), ("upstream", upstreams)):
            if array.shape != exact[output].shape:
                found.append(f"{output}, {whose}: {array.shape}, not {exact[output].shape}")
            elif not distance(array, exact[output]) <= allowed:
                found.append(f"{output}, {whose}: {distance(array, exact[output]):.3g}, allowed {allowed:.3g}")
    return found


def wrong(name: str, runner) -> list[str]:
    """Run a case; say what is wrong."""
    model, reference, found = converted(name), judge(name), []
    exactly = reference.in_dtype("float64")
    for entry, inputs, want in runs(name):
        specs = {spec.name: spec for spec in model.network.entry_points[entry].inputs}
        typed = {n: np.asarray(a, specs[n].dtype) for n, a in inputs.items()}
        exact, float32 = exactly.run(entry, typed), reference.run(entry, typed)
        found += [f"{entry}: {what}" for what in off(runner.run(entry, typed), exact, float32, want)]
    return found


@pytest.mark.parametrize("name", some(CASES, FAST))
def test_every_case_is_computed_as_upstream_computes_it(name):
    assert set(GROUPS) == set(KINDS)
    assert wrong(name, converted(name)) == []


def opened(name: str, folder: Path, formats: tuple[str, ...]):
    """Convert a case, and give what runs it in each format."""
    made = export(FOLDER / f"{name}.pt", folder / "run", formats, configs=(str(stated(name, folder)),))
    for format_ in formats:
        exporter = exporters()[format_]
        yield exporter.open(artifact(RunDirectory(made), exporter))


@pytest.mark.prove
@pytest.mark.parametrize("name", CASES)
def test_what_is_exported_computes_it_too(name, tmp_path):
    for runner in opened(name, tmp_path, FORMATS):
        assert wrong(name, runner) == []


GENERATING = [name for name in CASES if (FOLDER / f"{name}.npz").exists() and "greedy" in Io(name).wanted]


@pytest.mark.parametrize("name", some(GENERATING, GENERATING[:1]))
def test_greedy_generation_chooses_the_same_words(name, tmp_path):
    io = Io(name)
    wanted, steps = io.wanted["greedy"], io.wanted["greedy_step_logits"]
    src = io.given["src"].astype(np.int32)
    mask = whole(io.given["src_mask"], len(src), src.shape[1], src.shape[1])
    (runner,) = opened(name, tmp_path, ("onnx",))
    memory = runner.run("encode", {"src": src, "src_mask": mask})["memory"]
    text = np.full((len(src), 1), io.given["bos"], np.int32)
    for step in range(wanted.shape[1] - 1):
        given = {"tgt": text, "memory": memory, "memory_mask": mask[:, 0]}
        logits = runner.run("next_token", given)["logits"]
        assert np.abs(logits - steps[:, step]).max() <= 1e-5 * np.abs(steps).max()
        text = np.concatenate([text, np.argmax(logits, axis=1)[:, None].astype(np.int32)], axis=1)
    assert text.tolist() == wanted.tolist()


OTHERS = sorted(file.stem for file in FOLDER.glob("*.pt") if file.stem not in CASES)
"""Checkpoints without a description: cases in other containers and types, and what upstream cannot run."""


@pytest.mark.parametrize("name", OTHERS)
def test_other_containers_hold_the_same_networks(name, tmp_path):
    shapes = {n: tuple(t.shape) for n, t in open_checkpoint(FOLDER / f"{name}.pt").tensors.items()}
    of = [n for n, c in CASES.items() if {k: tuple(v[1]) for k, v in c["state_dict"].items()} == shapes]
    if not of:
        with pytest.raises(InputError, match="cannot be converted"):
            identify(FOLDER / f"{name}.pt", Options())
        return
    options = Options(configs=(str(stated(of[0], tmp_path)),))
    model, original = Converted(FOLDER / f"{name}.pt", options), converted(of[0])
    assert model.config == original.config
    dtypes = {tensor.dtype for tensor in model.checkpoint.tensors.values()} - {"int64"}
    share = {"float32": 0.0, "float16": 2.0**-9, "bfloat16": 2.0**-6}[dtypes.pop()]
    for leaf, array in original.weights.items():
        assert np.abs(model.weights[leaf] - array).max() <= share * np.abs(array).max()


@functools.cache
def state_of(name: str) -> dict[str, torch.Tensor]:
    """Give the tensors of a class's tiny fixture."""
    with tempfile.TemporaryDirectory() as folder:
        write_fixture("insight", name, 5, "float32", Path(folder) / "fixture.pth")
        return torch.load(Path(folder) / "fixture.pth", weights_only=True)


def identified(content, folder: Path, *sets: str, legacy: bool = False):
    """Save what a trainer would, and read it."""
    torch.save(content, folder / "checkpoint.pt", _use_new_zipfile_serialization=not legacy)
    return identify(folder / "checkpoint.pt", Options(sets=sets))


CONTAINERS = {
    "BaseModel.save": lambda state, name: {"model_type": name, "model_state_dict": state, "epoch": 3, "loss": 0.5},
    "its additional_info": lambda state, name: {"model_type": name, "model_state_dict": state, "tag": "best"},
    "CheckpointManager": lambda state, name: {
        "model_state_dict": state,
        "optimizer_state_dict": {},
        "current_epoch": 1,
        "global_step": 2,
        "best_val_metric": 0.5,
        "patience_counter": 0,
        "history": {"loss": [1.0]},
    },
    "bare": lambda state, name: state,
    "DistributedDataParallel": lambda state, name: {"model_state_dict": {f"module.{n}": t for n, t in state.items()}},
}


DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("number", range(len(CONTAINERS)), ids=list(CONTAINERS))
def test_every_container_is_read(tmp_path, number):
    container, dtype, legacy = list(CONTAINERS)[number], DTYPES[number % len(DTYPES)], number % 2 == 1
    state = {n: t.to(dtype) for n, t in state_of("Transformer").items()}
    found = identified(CONTAINERS[container](state, "Transformer"), tmp_path, "num_heads=2", legacy=legacy)
    assert found.config == KINDS["Transformer"].tiny
    assert {tensor.dtype for tensor in found.checkpoint.tensors.values()} == {str(dtype).removeprefix("torch.")}


@pytest.mark.parametrize("key", ["model_config", "config"])
def test_a_trainers_own_configuration_is_used(tmp_path, key):
    state = state_of("EncoderDecoderTransformer")
    own = {"src_vocab_size": 17, "tgt_vocab_size": 13, "num_heads": 4, "d_ff": 6, "learning_rate": 1e-4}
    found = identified({key: own, "model_state_dict": state}, tmp_path)
    assert found.config.num_heads == 4
    assert (
        "the checkpoint's own" in found.configured.origins["num_heads"] or key in found.configured.origins["num_heads"]
    )
    with pytest.raises(InputError, match=r"src_vocab_size is 18, but the checkpoint says 17"):
        identified({key: own | {"src_vocab_size": 18}, "model_state_dict": state}, tmp_path)


@pytest.mark.parametrize("silent", [{"input_dim": None}, {"positional_encoding": None}, {}])
def test_null_says_nothing(tmp_path, silent):
    state = state_of("Transformer")
    (tmp_path / "config.json").write_text(json.dumps({"num_heads": 2, **silent}))
    assert identified(state, tmp_path).config == KINDS["Transformer"].tiny


def test_a_word_that_upstream_takes_for_learned_is_learned(tmp_path):
    state = state_of("TransformerEncoder")
    (tmp_path / "config.json").write_text(json.dumps({"num_heads": 2, "positional_encoding": "absolute"}))
    assert identified(state, tmp_path).config.positional_encoding == "learned"
    (tmp_path / "config.json").write_text(json.dumps({"num_heads": 2, "positional_encoding": "sinusoidal"}))
    with pytest.raises(InputError, match="positional_encoding is 'sinusoidal', but the checkpoint says 'learned'"):
        identified(state, tmp_path)


ASKED = {
    "FeedForwardNN": ("activation (relu or gelu or tanh or sigmoid)", "use_residual (true or false"),
    "GroupedQueryAttention": ("num_heads (1 or 2 or 4 or 8", "num_key_value_heads"),
    "DualEncoder": ("vision_model.num_heads (1 or 2 or 4 or 8", "text_model.num_heads (1 or 2 or 3 or 6"),
    "CrossAttentionMultiModalTransformer": ("vision_model.num_heads", "text_model.num_heads", "; num_heads (1 or 2 or"),
}
"""Class -> all that nobody states of its tiny checkpoint."""


@pytest.mark.parametrize("name", ASKED)
def test_all_that_is_missing_is_asked_for_at_once_and_by_name(tmp_path, name):
    state = state_of(name)
    with pytest.raises(InputError) as raised:
        identified({"model_type": name, "model_state_dict": state}, tmp_path)
    assert all(asked in str(raised.value) for asked in ASKED[name])
    sets = [f"{each.partition(' ')[0].strip('; ')}={value}" for each, value in SAID[name].items()]
    assert identified({"model_type": name, "model_state_dict": state}, tmp_path, *sets).config == KINDS[name].tiny


SAID = {
    "FeedForwardNN": {"activation": "gelu", "use_residual": "true"},
    "GroupedQueryAttention": {"num_heads": 4, "num_key_value_heads": 2},
    "DualEncoder": {"vision_model.num_heads": 2, "text_model.num_heads": 2},
    "CrossAttentionMultiModalTransformer": {
        "vision_model.num_heads": 2,
        "text_model.num_heads": 2,
        "num_heads": 2,
    },
}


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.telling and name != "FeedForwardNN"])
def test_a_class_is_known_by_its_tensors(tmp_path, name):
    config = json.dumps(config_to_json(KINDS[name].tiny))
    state = state_of(name)
    (tmp_path / "config.json").write_text(config)
    assert identified(state, tmp_path).config == KINDS[name].tiny
    assert recognise(Source({n: tuple(t.shape) for n, t in state.items()}), KINDS)


REFUSED = {
    "another number of heads": ("Transformer", ("num_heads=4",), r"num_heads is 4, expected 1 or 2 or 3 or 6"),
    "an unknown activation": (
        "FeedForwardBlock",
        ("activation=swish",),
        "activation is 'swish', expected 'relu' or",
    ),
    "a field that there is not": ("Transformer", ("num_heads=2", "pool=cls"), r"the family insight has no pool"),
    "a class of other tensors": ("Transformer", ("model_type=DualEncoder",), r"fits|belongs|must be there|model_type"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_said_wrongly_is_refused(tmp_path, what):
    name, sets, message = REFUSED[what]
    with pytest.raises(ConvertError, match=message):
        identified({"model_state_dict": state_of(name)}, tmp_path, *sets)


def test_what_upstream_itself_cannot_run_is_refused(tmp_path):
    tiny = dataclasses.replace(
        encoder_decoder.TINY, share_embeddings=True, positional_encoding="rotary", max_seq_length=0
    )
    shapes = KINDS["EncoderDecoderTransformer"].part(dataclasses.replace(tiny, tgt_vocab_size=17)).checkpoint_shapes
    with pytest.raises(InputError, match="upstream itself cannot run it"):
        identified({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path, "num_heads=2")


DOCUMENTED = [f"{name}-documented" for name, kind in KINDS.items() if kind.documented and kind.marks]


@pytest.mark.parametrize("size", some(DOCUMENTED, ("FeedForwardClassifier-documented",)))
def test_upstreams_own_examples_are_converted_and_proved(tmp_path, size):
    """The classifier's wide sum over one vector, which XLA adds up one by one, was taken for a mistake."""
    write_fixture("insight", size, 0, "float32", tmp_path / "example.pt")
    with in_this_process():
        run = convert(tmp_path / "example.pt", tmp_path / "run", ("onnx",))
    assert set(RunDirectory(run).manifest()["verdicts"].values()) == {"pass"}


def test_attention_without_tensors_is_converted(tmp_path):
    torch.save({"model_type": "ScaledDotProductAttention", "model_state_dict": {}}, tmp_path / "plain.pt")
    with in_this_process():
        run = convert(tmp_path / "plain.pt", tmp_path / "run", ("onnx",))
    assert set(RunDirectory(run).manifest()["verdicts"].values()) == {"pass"}
    with pytest.raises(ConvertError, match="has no weights"), in_this_process():
        convert(tmp_path / "plain.pt", tmp_path / "other", ("orbax",))


def built(name: str, seed: int = 0, **changes):
    """Make a class with weights of its own."""
    config = dataclasses.replace(KINDS[name].tiny, **changes)
    return getattr(modeling, name)(config, rngs=nnx.Rngs(seed))


def drawn(name: str) -> dict[str, jax.Array]:
    """Draw inputs of a class's first entry point."""
    (entry, *_) = KINDS[name].entries(KINDS[name].tiny)
    return {name: jnp.asarray(array) for name, array in cases(entry)[0].inputs.items()}


def test_dropout_drops_in_training_and_nowhere_else():
    x = drawn("FeedForwardBlock")["x"]
    model = built("FeedForwardBlock", dropout=0.5)
    assert np.array_equal(model.forward(x), built("FeedForwardBlock").forward(x))
    with modeling.training(nnx.Rngs(dropout=1)):
        one, other = model.forward(x), model.forward(x)
    assert not np.array_equal(one, other)
    ones = jnp.ones((200, 200))
    with modeling.training(nnx.Rngs(dropout=2)):
        kept = modeling.Drop(0.25)(ones)
    assert set(np.unique(kept)) == {0.0, np.float32(1 / 0.75)}
    assert abs(float(jnp.mean(kept)) - 1) < 0.02
    assert np.array_equal(modeling.Drop(0.25)(ones), ones)


def test_layers_drop_numbers_of_their_own():
    config = dataclasses.replace(KINDS["TransformerEncoder"].tiny, num_layers=2, dropout=0.5)
    model = modeling.TransformerEncoder(config, rngs=nnx.Rngs(0))
    given = drawn("TransformerEncoder")

    @nnx.jit
    def states(model, rngs):
        with modeling.training(rngs):
            return model.forward(given["ids"], given["mask"])

    one, other = states(model, nnx.Rngs(dropout=1)), states(model, nnx.Rngs(dropout=2))
    assert not np.allclose(one, other)


def test_batch_norms_learn_the_statistics_that_torch_learns(tmp_path):
    x = np.random.default_rng(0).normal(1, 2, (8, 5)).astype(np.float32)
    ours, torchs = modeling.BatchNorm(5), torch.nn.BatchNorm1d(5)
    with modeling.training(nnx.Rngs(0)):
        got = ours(jnp.asarray(x))
    np.testing.assert_allclose(got, torchs(torch.from_numpy(x)).detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(ours.mean[...], torchs.running_mean.numpy(), atol=1e-6)
    np.testing.assert_allclose(ours.variance[...], torchs.running_var.numpy(), atol=1e-6)
    assert set(nnx.to_flat_state(nnx.state(ours, nnx.Param)).paths) == {("scale",), ("bias",)}


@pytest.mark.parametrize(
    "name",
    some(("FeedForwardNN", "TransformerEncoder", "VisionTransformer", "CoAttentionFusion"), ("TransformerEncoder",)),
)
def test_gradients_are_torchs(tmp_path, name):
    state = state_of(name)
    config = KINDS[name].tiny
    (tmp_path / "config.json").write_text(json.dumps(config_to_json(config)))
    torch.save(state, tmp_path / "checkpoint.pt")
    model = Converted(tmp_path / "checkpoint.pt")
    (entry, *_) = model.network.entry_points.values()
    inputs = cases(entry)[0].inputs
    given = [jnp.asarray(inputs[spec.name]) for spec in entry.inputs]
    first = entry.outputs[0].name
    loss = lambda weights: jnp.mean(jnp.square(model.network.function(entry.name)(weights, *given)[first]))  # noqa: E731
    got = jax.jit(jax.grad(loss))(model.weights)
    reference = model.family.reference(model.config, Original(state))
    module = reference.module.requires_grad_(True)
    tensors = {n: torch.from_numpy(np.array(a)) for n, a in inputs.items()}
    tensors = {n: t.long() if t.dtype == torch.int32 else t for n, t in tensors.items()}
    reference.entries[entry.name](**tensors)[first].square().mean().backward()
    wanted = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    entries, sizes = model.ledger.entries, model.ledger
    for leaf, source in model.ledger.leaves.items():
        if source in wanted and not entries[source].made:
            want = sizes.leaf(source, wanted[source].numpy())
            np.testing.assert_allclose(got[leaf], want, atol=2e-5 * max(1.0, np.abs(want).max()))
    assert len(wanted) > 3


def test_the_page_says_what_there_is():
    path = Path(__file__).parents[1] / "docs" / "make_insight.py"
    spec = importlib.util.spec_from_file_location("make_insight", path)
    make_insight = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_insight)
    assert make_insight.PAGE.read_text() == make_insight.page(), "run python docs/make_insight.py"


TORCHS = {
    "kaiming_uniform": lambda weight: torch.nn.init.kaiming_uniform_(weight, nonlinearity="relu"),
    "kaiming_normal": lambda weight: torch.nn.init.kaiming_normal_(weight, nonlinearity="relu"),
    "xavier_uniform": torch.nn.init.xavier_uniform_,
    "xavier_normal": torch.nn.init.xavier_normal_,
}


@pytest.mark.parametrize("init_type", TORCHS)
def test_layers_begin_as_upstreams_do(init_type):
    """Of 30 000 numbers: deviation, and of even draws the bound, of normal ones the share beyond two deviations."""
    ours = np.asarray(initialise.kernel(init_type, 100, 300, jax.random.key(1)))
    torchs = TORCHS[init_type](torch.empty(300, 100)).numpy()
    assert ours.shape == torchs.T.shape
    assert abs(ours.mean()) < 0.02 * ours.std()
    assert abs(ours.std() / torchs.std() - 1) < 0.02
    for array in (ours, torchs):
        beyond = np.mean(np.abs(array) > 2 * torchs.std())
        assert (0.03 < beyond < 0.06) if init_type.endswith("normal") else beyond == 0
        if init_type.endswith("uniform"):
            assert abs(np.abs(array).max() / (torchs.std() * np.sqrt(3)) - 1) < 0.02
    with pytest.raises(ValueError, match="expected one of kaiming_uniform"):
        initialise.kernel("orthogonal", 2, 2, jax.random.key(0))


def test_inspect_counts_parameters_as_torch_does(tmp_path):
    """Of what is shared once, and no buffers."""
    state = state_of("DualEncoder")
    state = state | {n: t.long() for n, t in state.items() if n.endswith("num_batches_tracked")}
    torch.save({"model_type": "DualEncoder", "model_state_dict": state}, tmp_path / "dual.pt")
    said = describe(tmp_path / "dual.pt", Options(sets=("vision_model.num_heads=2", "text_model.num_heads=2")))
    buffers = [n for n in state if n.endswith(("running_mean", "running_var", "num_batches_tracked", ".pe"))]
    counted = {n: t.numel() for n, t in state.items() if n not in buffers}
    assert said["parameters"]["trained"] == sum(counted.values())
    assert said["parameters"]["buffers"] == sum(state[n].numel() for n in buffers)
    assert said["parameters"]["by_module"]["logit_scale"] == 1
    assert f"parameters {sum(counted.values()):,} (vision_model " in show(said)


def test_the_slopes_of_alibi_are_those_that_upstream_makes():
    assert attention.slopes(2) == [0.0625, 0.03125]
    assert attention.slopes(4) == [0.25, 0.125, 0.0625, 0.03125]
    assert attention.slopes(6) == [*attention.slopes(4), 0.5, 0.25]


@pytest.mark.parametrize(
    "name", ["TransformerEncoder", pytest.param("RotaryPositionEncoding", marks=pytest.mark.prove)]
)
def test_the_page_shows_tables_and_attention(tmp_path, name, monkeypatch):
    pytest.importorskip("matplotlib")
    write_fixture("insight", name, 5, "float32", tmp_path / "fixture.safetensors")
    with in_this_process():
        run = RunDirectory(convert(tmp_path / "fixture.safetensors", tmp_path / "run", ("onnx",)))
    page = (run.path / HTML).read_text()
    drawn = pictures(run)
    assert all(picture.svg in page for picture in drawn)
    assert [picture.title for picture in drawn] == SHOWN[name]
    assert len(set(re.findall(' id="([^"]+)"', page))) == len(re.findall(' id="', page))
    for picture in drawn:  # in the colour of the page's text, on its paper
        assert "currentColor" in picture.svg
        assert not re.search("#010203|#000000|black|<style", picture.svg)
    monkeypatch.setattr(validate, "installed", lambda name: False)
    assert pictures(run) is None


SHOWN = {
    "TransformerEncoder": [
        "position.embedding",
        *(f"layers.0.attention, head {head}" for head in range(KINDS["TransformerEncoder"].tiny.num_heads)),
    ],
    "RotaryPositionEncoding": ["pair 0", "pair 1"],
}


def converted_run(name: str, folder: Path) -> RunDirectory:
    """Convert a class's tiny fixture, without proof."""
    write_fixture("insight", name, 5, "float32", folder / "fixture.safetensors")
    return RunDirectory(export(folder / "fixture.safetensors", folder / "run", ("onnx",)))


@pytest.mark.parametrize(
    ("name", "what", "seen"),
    [
        ("RotaryPositionEncoding", "rotation", 2),
        ("ALiBiAttention", "attention", 2),
        pytest.param("TransformerEncoder", "position-encodings", 1, marks=pytest.mark.prove),
        pytest.param("TransformerEncoder", "attention", 2, marks=pytest.mark.prove),
    ],
)
def test_pictures_are_drawn(tmp_path, name, what, seen):
    pytest.importorskip("matplotlib")
    run = converted_run(name, tmp_path)
    for file in ("one.svg", "two.svg"):
        draw(run, what, tmp_path / file, force=False)
    picture = (tmp_path / "one.svg").read_text()
    assert picture == (tmp_path / "two.svg").read_text()
    assert picture.count('id="axes_') >= seen
    with pytest.raises(InputError, match="exists; say --force"):
        draw(run, what, tmp_path / "one.svg", force=False)


def test_what_cannot_be_drawn_is_said(tmp_path):
    pytest.importorskip("matplotlib")
    run = converted_run("FeedForwardBlock", tmp_path)
    for what, message in (("position-encodings", "no table of places"), ("rotation", "no table of rotations")):
        with pytest.raises(InputError, match=message):
            draw(run, what, tmp_path / "x.svg", force=False)
    with pytest.raises(InputError, match="shows no weights of attention"):
        draw(run, "attention", tmp_path / "x.svg", force=False)
    with pytest.raises(InputError, match=r"one of \.svg"):
        draw(run, "attention", tmp_path / "x.txt", force=False)


def test_drawn_attention_is_what_the_network_computes_with(tmp_path):
    """The weights that are drawn, of values that are drawn with them, give what the layer gives."""
    model, given = built("MultiHeadAttention"), drawn("MultiHeadAttention")
    with recording() as taps, closely():
        output = model.forward(**given)
    np.testing.assert_allclose(jnp.mean(taps["attention.weights"], axis=1), output["weights"], atol=1e-6)


LAYER = """
    import torch
    from torch import nn

    class Attention(nn.Module):
        def __init__(self, width, heads):
            super().__init__()
            self.heads = heads
            self.query_projection, self.key_projection = nn.Linear(width, width), nn.Linear(width, width)
            self.value_projection, self.output_projection = nn.Linear(width, width), nn.Linear(width, width)

        def forward(self, x, mask):
            rows, tokens, width = x.shape
            each = (self.query_projection, self.key_projection, self.value_projection)
            q, k, v = (p(x).view(rows, tokens, self.heads, -1).transpose(1, 2) for p in each)
            scores = q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5
            seen = scores.masked_fill(mask[:, None] == 0, -1e9).softmax(-1) @ v
            return self.output_projection(seen.transpose(1, 2).reshape(rows, tokens, width))

    class Linear(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.linear = nn.Linear(inputs, outputs)

        def forward(self, x):
            return self.linear(x)

    class FeedForward(nn.Module):
        def __init__(self, width, inner):
            super().__init__()
            self.linear1, self.linear2 = Linear(width, inner), Linear(inner, width)

        def forward(self, x):
            return self.linear2(torch.relu(self.linear1(x)))

    class Layer(nn.Module):
        def __init__(self, width=6, heads=2, inner=5):
            super().__init__()
            self.self_attn, self.feed_forward = Attention(width, heads), FeedForward(width, inner)
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

        def forward(self, x, mask):
            x = x + self.self_attn(self.norm1(x), mask)
            return x + self.feed_forward(self.norm2(x))

    def make():
        return Layer()
"""
"""A module of the form of a TransformerEncoderLayer, as who has upstream's package could name upstream's own."""


@pytest.mark.prove
def test_the_traced_road_leads_to_the_same_network(tmp_path, monkeypatch):
    (tmp_path / "own_layer.py").write_text(textwrap.dedent(LAYER))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    name = "TransformerEncoderLayer"
    torch.save({"model_type": name, "model_state_dict": state_of(name)}, tmp_path / "layer.pt")
    spec = "x: float32[batch, tokens, 6], mask: int64[batch, tokens, tokens] < 2"
    with in_this_process():
        traced = convert(tmp_path / "layer.pt", tmp_path / "traced", ("onnx",), module="own_layer:make", inputs=spec)
    declared = export(tmp_path / "layer.pt", tmp_path / "declared", ("onnx",), sets=("num_heads=2",))
    assert set(RunDirectory(traced).manifest()["verdicts"].values()) == {"pass"}
    assert RunDirectory(declared).manifest()["family"] == "insight"
    inputs = {n: np.array(a) for n, a in drawn(name).items()}
    one, other = (
        exporters()["onnx"].open(artifact(RunDirectory(run), exporters()["onnx"])) for run in (declared, traced)
    )
    ours = one.run("forward", inputs)["output"]
    (theirs,) = other.run("forward", {**inputs, "mask": inputs["mask"].astype(np.int64)}).values()
    np.testing.assert_allclose(theirs, ours, atol=1e-6)
    sys.modules.pop("own_layer", None)

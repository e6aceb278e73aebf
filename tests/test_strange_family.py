"""A family that nobody has seen is one file: found, converted to four formats, proved; and each of its mistakes named.

Nothing of it is like BERT: an axis of a name of its own, a sum of axes, logits, a number alone as a leaf, one tensor
for two leaves, one leaf of three tensors, a mask of truths, no tokenizer.
"""

import importlib
import json
import sys

import numpy as np
import pytest
from in_process import convert, in_this_process, judge
from safetensors.numpy import save_file

import bgevis.model
from bgevis.converter.directory import RunDirectory, sha256
from bgevis.exporters.weights import WeightsFile
from bgevis.validation.errors import ConvertError

FOUR = ("onnx", "orbax", "saved-model", "stablehlo")

SOURCE = '''
from dataclasses import dataclass
from bgevis.model.documents import Configured
from bgevis.model.family import Drop, Family, Merge, Rule, Split
from bgevis.model.parts import Part
from bgevis.validation.domains import Cache, RandomMask, TokenIds
from bgevis.validation.entry_point import Axis, EntryPoint, TensorSpec
from bgevis.validation.outputs import Logits

@dataclass(frozen=True)
class Config:
    vocabulary: int = 19
    width: int = 6
    alpha: float = 12.0

PART = lambda config: Part(
    (
        Rule("heat", "heat", ""),
        Rule("table", "table", "v w"),
        Split("packed", ("front", "back"), "(p o) w", "p"),
        Rule("{side:front|back}", "{side}", "o w -> w o"),
        Merge("out.base", "out.a", "out.b", "out.whole", ("v w", "r w", "v r"), config.alpha),
        Rule("out.whole", "out", "v w -> w v"),
        Drop("steps", "how long it was trained"),
    ),
    {"v": config.vocabulary, "w": config.width, "o": config.width, "p": 2, "r": 6},
    {},
)

def entry_points(config):
    inputs = (
        TensorSpec("pieces", "int32", ("crowd", "pieces"), TokenIds(config.vocabulary, 0)),
        TensorSpec("seen", "bool", ("crowd", "pieces"), RandomMask()),
        TensorSpec("memory", "float32", ("crowd", "past", config.width), Cache(past="past")),
    )
    logits = TensorSpec("logits", "float32", ("crowd", "past + pieces", config.vocabulary), kind=Logits())
    axes = {"crowd": Axis(), "pieces": Axis(1, 20), "past": Axis(1, 20)}
    return (EntryPoint("tally", inputs, (logits,), axes, rows="crowd"),)

def network(config):
    import jax.numpy as jnp
    from flax import nnx
    from bgevis.model.network import Network

    class Strange(nnx.Module):
        def __init__(self, rngs):
            w, v = config.width, config.vocabulary
            shapes = {"heat": (), "table": (v, w), "front": (w, w), "back": (w, w), "out": (w, v)}
            for name, shape in shapes.items():
                setattr(self, name, nnx.Param(jnp.zeros(shape)))

        def tally(self, pieces, seen, memory):
            x = jnp.where(seen[..., None], self.table[...][pieces], 0.0)
            x = jnp.concatenate([memory, x], axis=1)
            x = x + jnp.tanh(x @ self.front[...]) * (x @ self.back[...])
            return x @ self.out[...] * jnp.exp(self.heat[...])

    return Network(Strange, entry_points(config))

def reference(config, original):
    import torch
    from bgevis.model.reference import Reference, load_strict

    class Strange(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.p = torch.nn.ParameterDict({n.replace(".", "_"): torch.empty_like(t) for n, t in kept.items()})

        def tally(self, pieces, seen, memory):
            x = torch.where(seen[..., None], torch.nn.functional.embedding(pieces, self.p["table"]), 0.0)
            x = torch.cat([memory, x], 1)
            front, back = torch.nn.functional.linear(x, self.p["packed"]).chunk(2, -1)
            x = x + front.tanh() * back
            low = x @ self.p["out_a"].T @ self.p["out_b"].T * (config.alpha / len(self.p["out_a"]))
            return {"logits": (x @ self.p["out_base"].T + low) * self.p["heat"].exp()}

    kept = {n: t for n, t in original.state.items() if n != "steps"}
    module = load_strict(Strange(), {"p." + n.replace(".", "_"): t for n, t in kept.items()})
    return Reference("strange", module, {"tally": module.tally}, original.state)

FAMILY = Family(
    name="strange", summary="", config=Config, part=PART, entry_points=entry_points, network=network,
    recognise=lambda source: "it has heat" if "heat" in source.shapes else "",
    configure=lambda source: Configured(Config(), dict.fromkeys(("vocabulary", "width", "alpha"), "known")),
    reference=reference, sizes={"tiny": Config()},
)
'''  # fmt: skip

SHAPES = {"heat": (), "table": (19, 6), "packed": (12, 6), "out.base": (19, 6), "out.a": (6, 6), "out.b": (19, 6)}


@pytest.fixture
def strange(monkeypatch, tmp_path):
    """Give a function that lays the family's folder beside the others, some of its words changed."""

    def lay(old: str = "", new: str = "") -> None:
        assert old in SOURCE
        (tmp_path / "families" / "strange").mkdir(parents=True)
        (tmp_path / "families" / "strange" / "__init__.py").write_text(SOURCE.replace(old, new) if old else SOURCE)
        importlib.invalidate_caches()

    monkeypatch.setattr(bgevis.model, "__path__", [*bgevis.model.__path__, str(tmp_path / "families")])
    with in_this_process():
        yield lay
    sys.modules.pop("bgevis.model.strange", None)


def checkpoint(folder, **more):
    rng = np.random.default_rng(1)
    tensors = {name: np.asarray(rng.normal(0, 0.5, shape), np.float32) for name, shape in SHAPES.items()}
    save_file(tensors | {"steps": np.ones(3, np.float32)} | more, folder / "strange.safetensors")
    return folder / "strange.safetensors"


def test_it_is_found_and_proved_in_four_formats(strange, tmp_path):
    strange()
    run = RunDirectory(convert(checkpoint(tmp_path), tmp_path / "run", FOUR))
    manifest = run.manifest()
    assert set(manifest["verdicts"].values()) == {"pass"}
    assert manifest["family"] == "strange"
    assert manifest["proof"]["network"] == {"verdict": "pass", "judge": "strange"}
    assert manifest["entry_points"]["tally"]["outputs"][0]["shape"] == ["crowd", "past + pieces", 19]
    flip(run)
    with pytest.raises(ConvertError, match="table: differs from the checkpoint"):
        judge(run.path, formats=("onnx",))


def flip(run: RunDirectory) -> None:
    """Change one bit of a weight, and make the digests fit."""
    file = run.path / "programs/weights.safetensors"
    content = bytearray(file.read_bytes())
    content[WeightsFile(file).tensors["table"].offset] ^= 1
    file.write_bytes(content)
    manifest = json.loads((run.path / "manifest.json").read_text())
    manifest["files"]["programs/weights.safetensors"]["sha256"] = sha256(file)
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    (run.path / "provenance.json").unlink()


MISTAKES = {
    "a rule lost": ('        Rule("heat", "heat", ""),\n', "", "heat"),
    "parts exchanged": ('("front", "back"), "(p o) w"', '("back", "front"), "(p o) w"', "tally"),
    "parts interleaved": ('"(p o) w", "p"', '"(o p) w", "p"', "tally"),
    "a square adapter transposed": ('("v w", "r w", "v r")', '("v w", "w r", "v r")', "tally"),
    "another scale": ('"v r"), config.alpha)', '"v r"), 2 * config.alpha)', "tally"),
    "heat forgotten": (" * jnp.exp(self.heat[...])", " * 1.0", "heat"),
    "heat taken as it is": ("jnp.exp(self.heat[...])", "self.heat[...]", "tally"),
    "the mask not heeded": ("jnp.where(seen[..., None], ", "jnp.where(True, ", "tally"),
    "memory behind": ("jnp.concatenate([memory, x], axis=1)", "jnp.concatenate([x, memory], axis=1)", "tally"),
    "another function": ("jnp.tanh(x", "jnp.sin(x", "tally"),
    "a sum of other axes": ('"past + pieces", config', '"past + past", config', "tally"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_its_mistakes_are_found_and_named(strange, tmp_path, mistake):
    old, new, named = MISTAKES[mistake]
    strange(old, new)
    with pytest.raises(ConvertError, match=named):
        convert(checkpoint(tmp_path), tmp_path / "run", ("onnx",))


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"stranger": np.ones(2, np.float32)}, "stranger: no rule of the family knows it"),
        ({"heat": np.array(np.nan, np.float32)}, "heat: 1 of 1 values are NaN"),
        ({"out.a": np.ones((5, 6), np.float32)}, r"out\.a"),
    ],
    ids=["a tensor too many", "no number", "another rank"],
)
def test_defects_of_the_checkpoint_are_named(strange, tmp_path, more, named):
    strange()
    with pytest.raises(ConvertError, match=named):
        convert(checkpoint(tmp_path, **more), tmp_path / "run", ("onnx",))

"""A family that no one has seen, through the whole pipeline: no embeddings, no tokenizer, axes of its own names.

Entry points of numbers and truths alone, outputs of rank 0 to 3, a decoder with caches that generates, an own case.
"""

import dataclasses
import json
import pkgutil
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.numpy import load_file, save_file

from bgevis.converter.directory import RunDirectory
from bgevis.converter.manifest import GOLDENS
from bgevis.converter.proof.restated import golden_problems
from bgevis.converter.use.artifacts import open_artifacts
from bgevis.model import family as families_module
from bgevis.model.documents import Configured
from bgevis.model.family import Family, Rule
from bgevis.model.network import Network
from bgevis.model.parts import Part
from bgevis.model.reference import Reference, load_strict
from bgevis.validation import outputs
from bgevis.validation.cases import Case
from bgevis.validation.domains import Floats
from bgevis.validation.entry_point import Axis, EntryPoint, TensorSpec
from bgevis.validation.errors import ConvertError, GateError, InputError

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode leaves it out
import tiny_decoder
from in_process import convert, in_this_process, judge
from tiny_decoder import GREEDY, NAMES, SHAPES, WIDTH


@dataclasses.dataclass(frozen=True)
class Config:
    """Nothing to say."""

    width: int = WIDTH


class Model(tiny_decoder.Decoder):
    """The decoder, and what compares things with people: coupled rows, a number alone."""

    def __init__(self, rngs: nnx.Rngs):
        super().__init__(rngs)
        self.match = nnx.Param(jax.random.normal(rngs.params(), (WIDTH, WIDTH)))

    def compare(self, things, people, seen):
        """(things, width), (people, width), and who is seen -> (things, people), (people,), ()."""
        scores = things @ self.match[...] @ people.T
        best = jnp.max(jnp.where(seen[None], scores, -jnp.inf))
        return {"scores": scores, "weights": jnp.tanh(scores.sum(0)), "best": best}


class Original(torch.nn.Module):
    """The same in PyTorch."""

    def __init__(self):
        super().__init__()
        for name, shape in zip((*NAMES, "match"), (*SHAPES, (WIDTH, WIDTH)), strict=True):
            setattr(self, name, torch.nn.Parameter(torch.empty(shape)))

    def prefill(self, input_ids, attention_mask, positions):
        nothing = torch.zeros(len(input_ids), 0, WIDTH)
        return self.decode(input_ids, attention_mask, positions, nothing, nothing)

    def decode(self, input_ids, attention_mask, positions, past_keys, past_values):
        x = self.table[input_ids] + self.places[positions]
        keys = torch.cat([past_keys, x @ self.key], 1)
        values = torch.cat([past_values, x @ self.value], 1)
        scores = x @ self.query @ keys.transpose(1, 2) * WIDTH**-0.5
        seen, queries = attention_mask.shape[1], input_ids.shape[1]
        order = torch.ones(seen, seen, dtype=torch.bool).tril()[-queries:]
        weights = torch.where(order & (attention_mask[:, None] != 0), scores, -1e9).softmax(-1)
        logits = (x + weights @ values) @ self.out
        return {"logits": logits, "keys": keys, "values": values, "best": logits[:, -1].argmax(-1)}

    def compare(self, things, people, seen):
        scores = things @ self.match @ people.T
        best = torch.where(seen.bool()[None], scores, -torch.inf).max()
        return {"scores": scores, "weights": scores.sum(0).tanh(), "best": best}


def compare_entry() -> EntryPoint:
    vectors = (TensorSpec(name, "float32", (name, WIDTH), Floats(0.3)) for name in ("things", "people"))
    results = (
        TensorSpec("scores", "float32", ("things", "people"), kind=outputs.Scores()),
        TensorSpec("weights", "float32", ("people",), kind=outputs.TokenWeights()),
        TensorSpec("best", "float32", ()),
    )
    axes = {"things": Axis(), "people": Axis()}
    return EntryPoint("compare", (*vectors, TensorSpec("seen", "bool", ("people",))), results, axes)


def entry_points(config: Config) -> tuple[EntryPoint, ...]:
    return (compare_entry(), *tiny_decoder.entry_points())


OWN = Case(
    "compare",
    "alike",
    {"things": np.ones((1, WIDTH), np.float32), "people": np.ones((4, WIDTH), np.float32), "seen": np.eye(4)[1] > 0},
)


def in_order(method):
    """Call a method by the order of its inputs, whatever it calls them."""
    return lambda **inputs: method(*inputs.values())


def reference(config: Config, original) -> Reference:
    del config
    state = {name.removeprefix("made_up."): tensor for name, tensor in original.state.items()}
    module = load_strict(Original(), state)
    entries = {entry.name: in_order(getattr(module, entry.name)) for entry in entry_points(Config())}
    return Reference("made up", module, entries, original.state)


FAMILY = Family(
    name="made_up",
    summary="",
    recognise=lambda source: "holds made_up.table" if "made_up.table" in source.shapes else "",
    configure=lambda source: Configured(Config(), {"width": "known"}),
    config=Config,
    part=lambda config: Part(
        rules=(
            Rule("made_up.table", "table", "v w"),
            Rule("made_up.places", "places", "n w"),
            Rule("made_up.{name:query|key|value|match}", "{name}", "w u"),
            Rule("made_up.out", "out", "w v"),
        ),
        axis_sizes={"v": tiny_decoder.VOCABULARY, "n": tiny_decoder.LONGEST, "w": WIDTH, "u": WIDTH},
        checkpoint_shapes={},
    ),
    entry_points=entry_points,
    network=lambda config: Network(Model, entry_points(config)),
    reference=reference,
    sizes={},
    cases=lambda config: (OWN,),
    procedures=lambda config: (GREEDY,),
)


@pytest.fixture
def made_up(monkeypatch):
    """Make the family known, as if its folder lay in `model/`."""
    package = f"{families_module.__package__}.made_up"
    module = types.ModuleType(package)
    module.FAMILY = FAMILY
    monkeypatch.setitem(sys.modules, package, module)
    found = pkgutil.iter_modules

    def more(path):
        yield from found(path)
        if list(path) == list(sys.modules[families_module.__package__].__path__):
            yield pkgutil.ModuleInfo(None, "made_up", True)

    monkeypatch.setattr(families_module.pkgutil, "iter_modules", more)
    with in_this_process():
        yield


def checkpoint(folder: Path) -> Path:
    rng = np.random.default_rng(5)
    several = zip((*NAMES, "match"), (*SHAPES, (WIDTH, WIDTH)), strict=True)
    arrays = {f"made_up.{name}": rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in several}
    save_file(arrays, folder / "made_up.safetensors")
    return folder / "made_up.safetensors"


def test_the_whole_pipeline(made_up, tmp_path):
    run = convert(checkpoint(tmp_path), tmp_path / "run", ("onnx", "stablehlo", "saved-model"))
    manifest = json.loads((run / "manifest.json").read_text())
    assert set(manifest["verdicts"].values()) == {"pass"}
    stated = manifest["entry_points"]["compare"]
    assert (stated["rows"], stated["outputs"][0]["kind"]) == (None, {"is": "scores"})
    rules = json.loads((run / "preprocess.json").read_text())
    assert rules["embeddings"] is None
    assert rules["texts"]["max_tokens"]["prefill"] == 30
    assert rules["texts"]["padding"] == "before the text, to the longest of the batch"
    assert (rules["texts"]["first_id"], rules["texts"]["last_id"]) == (None, None)

    reports = json.loads((run / "reports/validate.json").read_text())
    for name in ("onnx", "stablehlo", "saved_model"):
        rows = {(check["entry_point"], check["case"], check["output"]) for check in reports[name]["checks"]}
        assert {("compare", "alike", output) for output in ("scores", "weights", "best")} <= rows
        assert any(entry == "generate" and output == "ids" for entry, _, output in rows)
        assert not any("neighbours" in case for _, case, _ in rows)
    index = json.loads((run / GOLDENS / "index.json").read_text())
    assert index["prefill"]["cases"]["ragged batch"]["flops"] > 0
    arrays = load_file(run / GOLDENS / "prefill.safetensors")
    assert arrays["ragged batch/outputs/logits"].shape == (3, 8, tiny_decoder.VOCABULARY)
    assert arrays["ragged batch/positions/logits"].shape == (3, 8)

    judge(run)
    said = r"gives no embeddings \(entry points: compare\(things, people, seen\) -> "
    with pytest.raises(InputError, match=said):
        open_artifacts(run).embed(["some text"])

    generated = run / GOLDENS / "procedures/generate.safetensors"
    other = load_file(generated)
    other["ids"][0, 1] = (other["ids"][0, 1] + 1) % tiny_decoder.VOCABULARY
    save_file(other, generated)
    with pytest.raises(ConvertError, match=r"procedures/generate\.safetensors"):
        judge(run)
    short = {**other, "ids": other["ids"][:, :0].copy(), "margins": other["margins"][:, :0].copy()}
    save_file(short, generated)
    assert any(
        "generate: no token is certain" in problem
        for problem in (text for _, text in golden_problems(RunDirectory(run), alike=True))
    )


def test_a_parameter_that_nothing_reads_is_told_at_remap(made_up, monkeypatch, tmp_path):
    entries = tiny_decoder.entry_points()
    fewer = dataclasses.replace(
        FAMILY,
        entry_points=lambda config: entries,
        network=lambda config: Network(Model, entries),
        cases=lambda config: (),
    )
    monkeypatch.setattr(sys.modules[f"{families_module.__package__}.made_up"], "FAMILY", fewer)
    with pytest.raises(
        GateError, match=r"remap: 1 problem.*\n  parameter match: no entry point reads it: drop it or add"
    ):
        convert(checkpoint(tmp_path), tmp_path / "run", ("orbax",))

"""Greedy generation through every format: the ids of the float64 original, and none that it cannot decide."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bgevis.exporters.base import WEIGHTS, exporters
from bgevis.model.runner import NNXRunner
from bgevis.validation import procedure
from bgevis.validation.cases import cases
from bgevis.validation.compare import compare
from bgevis.validation.goldens import golden

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode leaves it out
import tiny_decoder
import tiny_exports as tiny
from tiny_decoder import GREEDY, Reference

FORMATS = ("onnx", "stablehlo", "saved-model", "orbax")
STATIC = ({"batch": 2, "tokens": 3, "past": 5},)


@pytest.fixture(scope="module")
def network():
    return tiny_decoder.network()


@pytest.fixture(scope="module")
def artifacts(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    options = {"stablehlo": {"static": STATIC}}
    return {name: tiny.export(exporters()[name], network, folder / name, **options.get(name, {})) for name in FORMATS}


@pytest.fixture(scope="module")
def references(artifacts):
    file = tiny.WeightsFile(artifacts["onnx"].directory / WEIGHTS)
    weights = {name: file[name] for name in file.tensors}
    return Reference(weights, np.float64), Reference(weights, np.float32)


@pytest.fixture(scope="module")
def goldens(network, references):
    drawn = [(e, case) for e in network.entry_points.values() for case in cases(e, STATIC)]
    return [golden(e, case, *(each.run(e.name, case.inputs) for each in references)) for e, case in drawn]


@pytest.fixture(scope="module")
def generated(network, references):
    found = procedure.record(*references, network.entry_points, GREEDY)
    assert list(procedure.problems(network.entry_points, GREEDY, found)) == []
    assert found.ids.shape == found.margins.shape == (2, GREEDY.steps)
    assert len({tuple(row) for row in found.ids.tolist()}) == 2
    assert not found.inputs["attention_mask"].all()
    return found


@pytest.fixture(params=["nnx", *FORMATS])
def runner(request, network, artifacts):
    if request.param == "nnx":
        return NNXRunner(network, tiny.WeightsFile(artifacts["onnx"].directory / WEIGHTS))
    return exporters()[request.param].open(artifacts[request.param])


def test_every_runner_agrees_on_every_case_and_generates_the_same_ids(runner, network, goldens, generated):
    report = compare(runner, network.entry_points, goldens)
    assert report.passed, report.failures
    row = procedure.judge(runner, network.entry_points, GREEDY, generated, steps=3)
    assert row.passed, row.problem
    assert row.case == "greedy generation, 3 tokens"


class Wrong(Reference):
    """Takes the mask for the prompt alone, as if the padding ended with it."""

    def run(self, entry_point, inputs):
        seen = np.ones_like(inputs["attention_mask"]) if entry_point == "decode" else inputs["attention_mask"]
        return super().run(entry_point, {**inputs, "attention_mask": seen})


def test_another_choice_is_told_with_its_margin(network, references, generated):
    row = procedure.judge(Wrong(references[0].w, np.float64), network.entry_points, GREEDY, generated, GREEDY.steps)
    assert not row.passed
    assert "of row 1 is " in row.problem
    assert "which leads by " in row.problem


class Broken(Reference):
    def run(self, entry_point, inputs):
        raise RuntimeError("no such operator")


def test_what_a_runtime_raises_is_a_finding(network, references, generated):
    row = procedure.judge(Broken(references[0].w, np.float64), network.entry_points, GREEDY, generated, 2)
    assert (row.passed, row.problem) == (False, "RuntimeError: no such operator")


def test_generation_without_a_cache_is_the_same(network, references):
    """Whatever was chosen is the best token of the whole text so far, row by row and without padding."""
    exact = references[0]
    found = procedure.generate(exact, network.entry_points, GREEDY, procedure.prompt(network.entry_points, GREEDY), 5)
    for ids, mask, chosen in zip(found.inputs["input_ids"], found.inputs["attention_mask"], found.ids, strict=True):
        text = ids[mask == 1].tolist()
        for token in chosen.tolist():
            arrays = {"input_ids": np.array([text]), "positions": np.arange(len(text))[None]}
            logits = exact.run("prefill", {**arrays, "attention_mask": np.ones((1, len(text)), int)})["logits"]
            assert logits[0, -1].argmax() == token
            text.append(token)


def test_padding_behind_the_text(references):
    """Rows whose padding is behind them: the last token that counts chooses, holes stay masked."""
    entries = {entry.name: entry for entry in tiny_decoder.entry_points("after")}
    inputs = procedure.prompt(entries, GREEDY)
    assert inputs["attention_mask"][1, -1] == 0
    found = procedure.generate(references[0], entries, GREEDY, inputs, 4)
    before = {entry.name: entry for entry in tiny_decoder.entry_points("before")}
    moved = {name: array.copy() for name, array in inputs.items()}
    for name, array in inputs.items():
        moved[name][1] = np.roll(array[1], 3)
    assert np.array_equal(found.ids, procedure.generate(references[0], before, GREEDY, moved, 4).ids)


def test_a_row_ends(network, references, generated):
    end = int(generated.ids[0, 1])
    ends = replace(GREEDY, ends=(end,))
    found = procedure.generate(references[0], network.entry_points, ends, generated.inputs, GREEDY.steps)
    assert found.ids[0, :2].tolist() == generated.ids[0, :2].tolist()
    assert found.ids[0, 2:].tolist() == [0] * (found.ids.shape[1] - 2)
    assert np.isinf(found.margins[0, 2:]).all()
    every = replace(GREEDY, ends=tuple(range(tiny_decoder.VOCABULARY)))
    assert procedure.generate(references[0], network.entry_points, every, generated.inputs, 6).ids.shape == (2, 1)


def test_no_golden_has_a_token_that_float32_could_have_chosen_otherwise(network, references, generated):
    noisy = Reference(references[0].w, np.float64)
    noisy.w = {
        **noisy.w,
        "out": noisy.w["out"] * (1 + 0.02 * np.random.default_rng(0).standard_normal(noisy.w["out"].shape)),
    }
    found = procedure.record(references[0], noisy, network.entry_points, GREEDY)
    assert found.ids.shape[1] < generated.ids.shape[1]
    blind = Reference({**references[0].w, "out": -references[0].w["out"]}, np.float64)
    nothing = procedure.record(references[0], blind, network.entry_points, GREEDY)
    (problem,) = procedure.problems(network.entry_points, GREEDY, nothing)
    assert "no token is certain" in problem


def test_what_was_stored_is_read_and_held_to_the_prompts(network, generated, tmp_path):
    procedure.write(tmp_path, GREEDY, generated)
    found = procedure.read(tmp_path, GREEDY)
    assert np.array_equal(found.ids, generated.ids)
    assert np.array_equal(found.margins, generated.margins)
    assert list(procedure.problems(network.entry_points, GREEDY, found)) == []
    longer = replace(GREEDY, prompt=12)
    assert "expected int32 (2, 12)" in " ".join(procedure.problems(network.entry_points, longer, found))
    short = replace(found, ids=found.ids[:, :1])
    assert "the margins of" in " ".join(procedure.problems(network.entry_points, GREEDY, short))
    flat = replace(found, margins=0 * found.margins)
    assert "it was not chosen" in " ".join(procedure.problems(network.entry_points, GREEDY, flat))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"caches": {"past_keys": "keys"}}, "decode takes past_values, which no cache fills"),
        ({"prefill": "decode", "decode": "prefill"}, "input past_keys"),
    ],
)
def test_a_procedure_that_does_not_fit_is_told(network, references, generated, change, message):
    row = procedure.judge(references[0], network.entry_points, replace(GREEDY, **change), generated, 3)
    assert not row.passed
    assert message.split()[-1] in row.problem


class Moved(Reference):
    """Moves every weight of the head by a share, as rounding does."""

    def __init__(self, reference, share: float, seed: int = 0):
        super().__init__(reference.w, np.float64)
        noise = share * np.random.default_rng(seed).standard_normal(self.w["out"].shape)
        self.w = {**self.w, "out": self.w["out"] * (1 + noise)}


def rounded(runner, references, network, generated, share: float):
    float32 = references[1], Moved(references[0], share)
    return procedure.judge_rounded(
        runner, float32, network.entry_points, GREEDY, generated, GREEDY.steps, room=1 + 6**0.5
    )


def test_smaller_numbers_choose_every_token_that_rounding_could_not_have_chosen_otherwise(
    network, references, generated
):
    row = rounded(Moved(references[0], 1e-5, seed=1), references, network, generated, 1e-5)
    assert row.passed
    assert row.case == f"greedy generation, {generated.ids.shape[1]} tokens"
    row = rounded(Wrong(references[0].w, np.float64), references, network, generated, 1e-5)
    assert not row.passed
    assert "which leads by " in row.problem


def test_tokens_that_rounding_may_choose_otherwise_are_not_judged(network, references, generated):
    """The more it moves a logit, the fewer are certain; in the end none is."""
    counts = []
    for share in (1e-5, 0.03, 3.0):
        row = rounded(references[0], references, network, generated, share)
        counts.append(int(row.case.split()[-2]) if row else 0)
    assert counts[0] == generated.ids.shape[1]
    assert counts == sorted(counts, reverse=True)
    assert counts[1] < counts[0]
    assert counts[2] == 0

"""Wrong conversions are caught, right ones pass: a part of what `make mutants` runs, chosen to take seconds."""

import importlib
import inspect
import re
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode leaves it out
from mutants import benign, configs, programs, rules, source
from mutants.bench import VARIANTS, Bench

PARTS = {
    rules: {"bert": 1, "visualized_bge": 9, "clip": 23},
    source: {"bert": 9, "xlm-roberta": 13, "visualized_bge": 31, "clip": 17},
    configs: {"bert": 4, "xlm-roberta": 7, "visualized_bge": 11},
    programs: {"bert": 3, "xlm-roberta": 11, "visualized_bge": 29},
}
"""Maker -> variant -> every how many mutants are taken."""

CHOSEN = [
    pytest.param(maker, variant, step, id=f"{maker.__name__.rpartition('.')[2]}-{variant}")
    for maker, variants in PARTS.items()
    for variant, step in variants.items()
]


@pytest.fixture(scope="module")
def benches(tmp_path_factory) -> dict[str, Bench]:
    folder = tmp_path_factory.mktemp("mutants")
    return {variant: Bench(variant, folder) for variant in VARIANTS}


@pytest.mark.parametrize(("maker", "variant", "step"), CHOSEN)
def test_mistakes_are_caught(benches, maker, variant, step):
    some = list(maker.mutants(benches[variant]))[::step]
    assert [f"{m.group}: {m.name}" for m in some if not m.check() and not m.equivalent] == []


@pytest.mark.parametrize(
    ("variant", "module", "other"),
    [
        ("bert", "bert.modeling", np.finfo(np.float16).min),
        ("xlm-roberta", "bert.modeling", np.finfo(np.float16).min),
        ("visualized_bge", "visualized_bge.modeling", np.finfo(np.float32).min),
        ("clip", "clip.modeling", np.finfo(np.float16).min),
    ],
)
def test_what_another_family_adds_to_masked_scores_is_caught(benches, variant, module, other):
    text = inspect.getsource(importlib.import_module(f"bgevis.model.{module}"))
    text, changes = re.subn(r"^MASKED_SCORE = .*$", f"MASKED_SCORE = {float(other)}", text, flags=re.MULTILINE)
    bench = benches[variant]
    with source.mutated(module, text):
        assert bench.with_network(lambda: bench.family.network(bench.config)) == "parity: masked scores probe"
    assert changes == 1


def test_a_text_that_is_pooled_at_its_last_end_is_caught(benches):
    """No drawn text has two."""
    right, wrong = "return jnp.argmax(ends, axis=1)", "return ends.shape[1] - 1 - jnp.argmax(ends[:, ::-1], axis=1)"
    text, bench = inspect.getsource(importlib.import_module("bgevis.model.clip.modeling")), benches["clip"]
    assert text.count(right) == 1
    with source.mutated("clip.modeling", text.replace(right, wrong)):
        assert bench.with_network(lambda: bench.family.network(bench.config)) == "parity: outputs"


@pytest.mark.parametrize("variant", VARIANTS)
def test_right_reruns_pass(benches, variant):
    reruns = list(benign.reruns(benches[variant]))
    assert len(reruns) >= 20
    assert {name: check for name, rerun in reruns if (check := rerun())} == {}


@pytest.mark.parametrize("place", ["text.embeddings.norm", "text.layers.0.attention_norm", "text.layers.1.down_norm"])
def test_a_hundredth_of_an_epsilon_is_caught_by_a_probe(benches, place):
    (mutant,) = [m for m in configs.mutants(benches["bert"]) if f" {place}.epsilon 1e-12 -> 1.01e-12" in m.name]
    assert mutant.check().endswith("probe")

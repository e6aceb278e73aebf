"""Wrong conversions are caught, right ones pass: a part of what `make mutants` runs, chosen to take seconds."""

import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode leaves it out
from mutants import benign, configs, programs, rules, source
from mutants.bench import Bench
from variants import LATER as DEAR
from variants import MOST, VARIANTS, config_of, family_of

from bgevis.validation.entry_point import PaddingMask

LOWEST = (float(np.finfo(np.float16).min), float(np.finfo(np.float32).min))

MAKERS = {rules: 30, source: 3, configs: 4, programs: 12}
"""Maker -> how many mutants are taken of each variant, at equal distances; of the first one three times as many."""

LATER = {rules: VARIANTS[1:], source: DEAR, configs: DEAR, programs: DEAR}
"""Maker -> the variants that wait for `make prove`: to list the mistakes in many rules is dear by itself."""

CHOSEN = [
    pytest.param(
        maker,
        variant,
        count * (3 if variant == VARIANTS[0] else 1),
        id=f"{maker.__name__.rpartition('.')[2]}-{variant}",
        marks=[pytest.mark.prove] if variant in LATER[maker] else [],
    )
    for maker, count in MAKERS.items()
    for variant in VARIANTS
]


@pytest.fixture(scope="module")
def benches(tmp_path_factory) -> Callable[[str], Bench]:
    folder = tmp_path_factory.mktemp("mutants")
    return functools.cache(lambda variant: Bench(variant, folder))


@pytest.mark.parametrize(("maker", "variant", "count"), CHOSEN)
def test_mistakes_are_caught(benches, maker, variant, count):
    made = list(maker.mutants(benches(variant)))
    some = made[:: max(1, len(made) // count)]
    assert len(some) >= min(count, len(made))
    assert [f"{m.group}: {m.name}" for m in some if not m.check() and not m.equivalent] == []


@pytest.mark.prove
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_misread_field_is_caught(benches, variant):
    made = [m for m in configs.mutants(benches(variant)) if m.group == "configuration"]
    assert [m.name for m in made if not m.check() and not m.equivalent] == []


def masked(variant: str) -> bool:
    """Say whether a network takes a mask of padding, and has no part of another family's for it."""
    return not family_of(variant).holds and any(
        entry.input_of(PaddingMask) for entry in family_of(variant).entry_points(config_of(variant))
    )


@pytest.mark.parametrize("variant", [each for each in MOST if masked(each.values[0])])
def test_what_a_mistaken_family_adds_to_masked_scores_is_caught(benches, variant):
    """The original had the same constant once, of this project's own reading."""
    bench = benches(variant)
    module = importlib.import_module(source.root(bench.family))
    assert module.MASKED_SCORE in LOWEST
    for other in LOWEST:
        pattern, text = r"^MASKED_SCORE = .*$", inspect.getsource(module)
        text, changes = re.subn(pattern, f"MASKED_SCORE = {other}", text, flags=re.MULTILINE)
        assert changes == 1
        with source.mutated(bench.family, module.__name__, text):
            found = bench.with_network(lambda: bench.family.network(bench.config))
        assert found == ("" if other == module.MASKED_SCORE else "parity: masked scores probe")


def test_a_text_that_is_pooled_at_its_last_end_is_caught(benches):
    """No drawn text has two."""
    right, wrong = "return jnp.argmax(ends, axis=1)", "return ends.shape[1] - 1 - jnp.argmax(ends[:, ::-1], axis=1)"
    bench = benches("clip")
    name = source.root(bench.family)
    text = inspect.getsource(importlib.import_module(name))
    assert text.count(right) == 1
    with source.mutated(bench.family, name, text.replace(right, wrong)):
        assert bench.with_network(lambda: bench.family.network(bench.config)) == "parity: outputs"


@pytest.mark.parametrize("variant", [VARIANTS[0], *(pytest.param(v, marks=pytest.mark.prove) for v in VARIANTS[1:])])
def test_right_reruns_pass(benches, variant):
    reruns = list(benign.reruns(benches(variant)))
    assert len(reruns) >= 20
    assert {name: check for name, rerun in reruns if (check := rerun())} == {}


@pytest.mark.parametrize("variant", MOST)
def test_a_hundredth_of_an_epsilon_is_caught(benches, variant):
    made = [m for m in configs.mutants(benches(variant)) if re.search(r"\.epsilon (\S+) -> 1\.01e", m.name)]
    assert made
    some = made[:: max(1, len(made) // 2)]
    assert [m.name for m in some if not m.check()] == []


@pytest.mark.parametrize("variant", MOST)
def test_another_epsilon_in_the_source_is_caught(benches, variant):
    """Such as that of a division by a length, which shows once the length is below it."""
    changed = re.compile(r"\bepsilon=([\d.e-]+)\).*\[\1 -> ")
    made = [m for m in source.mutants(benches(variant)) if changed.search(m.name)]
    outputs = [spec for entry in benches(variant).net.entry_points.values() for spec in entry.outputs]
    assert bool(made) == any(spec.kind.vectors for spec in outputs)
    assert [m.name for m in made if not m.check()] == []

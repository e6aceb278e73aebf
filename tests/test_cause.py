"""Bugs, each planted in one place of a network of four layers: is the place named, and the mistake?"""

import dataclasses
import re
from collections import Counter

import jax.numpy as jnp
import numpy as np
import pytest
from mutants.bench import Bench
from variants import MOST, TINY, config_of, deepened

from bgevis.converter.certificate.cause import acting
from bgevis.converter.stages import parity
from bgevis.model.family import families
from bgevis.validation.cases import tapped_entries
from bgevis.validation.goldens import Goldens

LAYERS = 4


@pytest.fixture(scope="module", params=[each for each in MOST if each.values[0] in families()])
def bench(request, tmp_path_factory):
    """Networks of four layers in each tower."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(families()[request.param].sizes, TINY, deepened(config_of(request.param), LAYERS))
        yield Bench(request.param, tmp_path_factory.mktemp("deep"))


def other_layer(leaf: str, layer: int) -> str:
    return re.sub(r"\.\d+\.", f".{layer}.", leaf)


def transposed(rng, weights):
    square = [n for n, a in weights.items() if n.endswith(".kernel") and a.ndim == 2 and a.shape[0] == a.shape[1]]
    heads = [n for n, a in weights.items() if a.ndim == 3 and a.shape[0] == a.shape[1] * a.shape[2]]
    if not square + heads:
        return siblings_swapped(rng, weights)
    leaf = rng.choice(square + heads)
    array = weights[leaf]
    return {leaf: array.reshape(array.shape[0], -1).T.reshape(array.shape)}, "transposed"


def siblings_swapped(rng, weights):
    groups = [
        [n for n in every if n.startswith(f"{place}{inner}") and n.endswith(f".{part}") and n.split(".")[-2] in names]
        for every in (
            [n for n in weights if weights[n].shape == shape] for shape in {a.shape for a in weights.values()}
        )
        for place in {n[: n.index(".attention.") + 1] for n in every if ".attention." in n}
        for inner, part, names in (
            ("attention.", "kernel", ("query", "key", "value")),
            ("", "kernel", ("gate", "up")),
            ("", "bias", ("gate", "up")),
        )
    ]
    group = sorted(groups, key=str)[rng.integers(len(groups))]
    while len(group) < 2:
        group = sorted(groups, key=str)[rng.integers(len(groups))]
    one, other = rng.choice(group, 2, replace=False)
    return {one: weights[other], other: weights[one]}, "swapped with"


def bias_lost(rng, weights):
    biases = [n for n in weights if n.endswith(".bias")]
    if not biases:
        return wrong_layer(rng, weights)
    leaf = rng.choice(biases)
    return {leaf: jnp.zeros_like(weights[leaf])}, "is lost"


def heads_swapped(rng, weights):
    leaf = rng.choice([n for n in weights if re.search(r"attention\.(query|key|value)\.", n)])
    array = weights[leaf]
    axis = 0 if array.ndim == 2 else 1
    order = np.arange(array.shape[axis])
    one, other = rng.choice(order, 2, replace=False)
    order[[one, other]] = order[[other, one]]
    return {leaf: jnp.take(array, order, axis=axis)}, "has its heads"


def wrong_layer(rng, weights):
    leaf = rng.choice([n for n in weights if re.search(r"\.\d+\.", n)])
    own = int(re.search(r"\.(\d+)\.", leaf)[1])
    other = other_layer(leaf, (own + rng.integers(1, LAYERS)) % LAYERS)
    return {leaf: weights[other]}, "holds what"


def layers_swapped(rng, weights):
    leaf = rng.choice([n for n in weights if re.search(r"\.\d+\.", n)])
    own = int(re.search(r"\.(\d+)\.", leaf)[1])
    other = other_layer(leaf, (own + 1) % LAYERS)
    return {leaf: weights[other], other: weights[leaf]}, "swapped with"


BUGS = (transposed, siblings_swapped, bias_lost, heads_swapped, wrong_layer, layers_swapped)


def traced_by_both(bench, entry):
    """Give the intermediate values of modules that the original and the NNX model both call, as parity takes them."""
    traced = Goldens(bench.run.path / "goldens").intermediates(entry.name)
    called = bench.compiled.taps(entry.name, traced.inputs)
    return dataclasses.replace(traced, values={m: value for m, value in traced.values.items() if m in called})


def located(bench, changed) -> tuple[str, str]:
    """Judge the changed network as parity does; give what it says, and where the first changed leaf acts."""
    report = parity.judge(bench.compiled.changed(changed), bench.run.path, bench.ledger)
    assert not report.passed
    for entry in tapped_entries(bench.net.entry_points.values()):
        if set(bench.net.used_weights(entry.name)) & set(changed):
            traced = traced_by_both(bench, entry)
            acts = acting(bench.compiled, entry, traced)
            place = next(module for module in traced.values if set(acts[module]) & set(changed))
            return " ".join(report.notes), place
    raise AssertionError(f"no entry point reads {sorted(changed)}")


@pytest.mark.parametrize("planted", [len(BUGS) // 2, pytest.param(100, marks=pytest.mark.prove)])
def test_planted_bugs_are_located(bench, planted):
    """Half of the kinds in each family, the other half in the next one, when time is short."""
    rng = np.random.default_rng(2026)
    named, explained, missed = 0, Counter(), []
    first = planted * list(families()).index(bench.family.name)
    for number in range(first, first + planted):
        changed, word = BUGS[number % len(BUGS)](rng, bench.weights)
        said, place = located(bench, changed)
        right = f": {place} diverges first" in said and any(leaf in said for leaf in changed)
        named += right
        explained[BUGS[number % len(BUGS)].__name__] += right and f"{word}" in said.partition("likely cause")[2]
        if not right or word not in said:
            missed.append(f"{BUGS[number % len(BUGS)].__name__} {sorted(changed)} at {place}: {said}")
    print(f"{named} of {planted} named, {explained.total()} explained {dict(explained)}", *missed, sep="\n")
    assert min(named, explained.total()) >= 0.95 * planted


def test_what_acts_is_known_from_the_flow_of_data(bench):
    entry = max(tapped_entries(bench.net.entry_points.values()), key=lambda e: len(bench.net.used_weights(e.name)))
    acts = acting(bench.compiled, entry, traced_by_both(bench, entry))
    queries = [module for module in acts if module.endswith(".1.attention.query")]
    assert queries
    for module in queries:
        assert acts[module] == [leaf for leaf in sorted(bench.net.leaves) if leaf.rpartition(".")[0] == module]
    assert {leaf for leaves in acts.values() for leaf in leaves} == set(bench.net.used_weights(entry.name))

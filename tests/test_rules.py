"""Rules, ledger and the four-way check, for every family: whatever is wrong is found, and all of it is named."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgevis.converter.certificate.assign import assign
from bgevis.converter.certificate.check import layout_problems, verify
from bgevis.converter.certificate.ledger import Ledger
from bgevis.converter.checkpoint import open_checkpoint
from bgevis.converter.use.fixture import write_fixture
from bgevis.model.family import Drop, Rule, Tie, config_from_json, config_to_json, families
from bgevis.model.layout import parse

FAMILIES = families()
NAMES = sorted(FAMILIES)


class Tiny:
    """The tiny size of a family: its names, rules and leaves."""

    def __init__(self, name: str):
        self.family = FAMILIES[name]
        self.config = self.family.sizes["tiny"]
        self.rules = self.family.rules(self.config)
        self.shapes = self.family.checkpoint_shapes(self.config)
        self.leaves = {leaf: s.shape for leaf, s in self.family.network(self.config).leaves.items()}


TINY = {name: Tiny(name) for name in NAMES}
RULES = [(name, rule) for name in NAMES for rule in TINY[name].rules]


def mapped(tiny: Tiny) -> list[str]:
    """Name the checkpoint's tensors that fill a leaf as they are."""
    entries = assign(tiny.shapes, tiny.rules, tiny.leaves).entries
    return [name for name in tiny.shapes if entries[name].status == "mapped"]


def matched(tiny: Tiny, rule) -> list[str]:
    """Name the tensors that a rule knows: the checkpoint's, and of what is cut out of one, the parts."""
    others = assign(tiny.shapes, tuple(r for r in tiny.rules if r is not rule), tiny.leaves)
    parts = assign(tiny.shapes, tiny.rules, tiny.leaves).entries if isinstance(rule, Rule) else {}
    return [name for name in dict.fromkeys([*tiny.shapes, *parts]) if name not in others.entries]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("published", [False, True], ids=["tiny", "published"])
def test_the_upstream_layout_is_accounted_for(name, published):
    family = FAMILIES[name]
    config = next(config for size, config in family.sizes.items() if (size != "tiny") == published)
    shapes = family.checkpoint_shapes(config)
    found = assign(shapes, family.rules(config), family.network(config).leaves)
    assert found.problems == ()
    assert {name for name, entry in found.entries.items() if not entry.made} == set(shapes)


@pytest.mark.parametrize(("name", "rule"), RULES, ids=[f"{n}:{r.source}" for n, r in RULES])
def test_a_lost_rule_is_found_and_its_tensors_named(name, rule):
    tiny = TINY[name]
    found = assign(tiny.shapes, tuple(r for r in tiny.rules if r is not rule), tiny.leaves)
    lost = matched(tiny, rule)
    # A drop or a tie may wait for other checkpoints.
    assert lost or isinstance(rule, Drop | Tie) or "{:bias|beta}" in rule.source
    for tensor in lost:
        assert any(tensor in problem for problem in found.problems)
    if isinstance(rule, Rule):
        assert any(problem.startswith("parameter ") for problem in found.problems)


@pytest.mark.parametrize(("name", "rule"), RULES, ids=[f"{n}:{r.source}" for n, r in RULES])
def test_a_doubled_rule_is_found(name, rule):
    tiny = TINY[name]
    found = assign(tiny.shapes, (*tiny.rules, dataclasses.replace(rule)), tiny.leaves)
    for tensor in matched(tiny, rule):
        assert any(tensor in problem and "claimed by 2 rules" in problem for problem in found.problems)


@pytest.mark.parametrize("name", NAMES)
def test_two_tensors_for_one_leaf_are_found(name):
    """A second name for what is there already: a rule for it leads to the same leaf."""
    tiny = TINY[name]
    old = mapped(tiny)[0]
    target = assign(tiny.shapes, tiny.rules, tiny.leaves).entries[old].target
    shapes, rules = {**tiny.shapes, "another": tiny.shapes[old]}, (*tiny.rules, Rule("another", target, ""))
    problems = assign(shapes, rules, tiny.leaves).problems
    assert any("filled 2 times" in problem and old in problem and "another" in problem for problem in problems)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_ledger_inverts_bit_for_bit(name, dtype, seed):
    """Any bits that are finite, in any dtype, come back as they were."""
    tiny = TINY[name]
    entries, axes = assign(tiny.shapes, tiny.rules, tiny.leaves).entries, tiny.family.axis_sizes(tiny.config)
    rng = np.random.default_rng(seed)
    for source in mapped(tiny):
        tensor = rng.standard_normal(tiny.shapes[source]).astype(dtype)
        entry = dataclasses.replace(entries[source], dtype=str(np.dtype(dtype)), shape=tensor.shape)
        ledger = Ledger(name, axes, {source: entry})
        leaf = ledger.leaf(source, tensor)
        assert leaf.dtype == np.float32
        assert leaf.shape == tiny.leaves[entry.target]
        assert ledger.source(source, leaf).tobytes() == tensor.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_configurations_survive_the_manifest(name):
    for config in FAMILIES[name].sizes.values():
        assert config_from_json(FAMILIES[name].config, config_to_json(config)) == config


class Changed:
    """A checkpoint with some tensors replaced."""

    def __init__(self, checkpoint, **tensors):
        self.checkpoint, self.changed = checkpoint, tensors
        self.tensors = checkpoint.tensors

    def read(self, name):
        return self.changed.get(name, self.checkpoint.read(name))

    def release(self, name):
        self.checkpoint.release(name)


@pytest.fixture(scope="module", params=NAMES)
def opened(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("fixture") / "tiny.pth"
    write_fixture(request.param, "tiny", 0, "float32", path)
    return TINY[request.param], open_checkpoint(path)


def checked(tiny: Tiny, checkpoint) -> Ledger:
    found = assign(checkpoint.tensors, tiny.rules, tiny.leaves)
    ledger = Ledger(tiny.family.name, tiny.family.axis_sizes(tiny.config), found.entries, found.problems)
    return verify(ledger, checkpoint, tiny.family, tiny.config, tiny.leaves)


def test_a_good_checkpoint_is_certified(opened):
    ledger = checked(*opened)
    assert ledger.problems == ()
    assert ledger.notes == ()
    assert ledger.totals()["all"]["tensors"] == len(opened[1].tensors)
    assert all(entry.sha256 and entry.dtype == "float32" for entry in ledger.entries.values())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_found(opened, bad):
    tiny, checkpoint = opened
    name = mapped(tiny)[0]
    tensor = checkpoint.read(name).copy()
    tensor.flat[-1] = bad
    problems = checked(tiny, Changed(checkpoint, **{name: tensor})).problems
    assert len(problems) == 1
    assert name in problems[0]
    assert "1 of" in problems[0]


def test_every_wrong_shape_is_reported_at_once(opened):
    tiny, checkpoint = opened
    longer = {n: np.stack([checkpoint.read(n)] * 2) for n in mapped(tiny)}
    problems = checked(tiny, Changed(checkpoint, **longer)).problems
    assert sum("expected shape" in problem for problem in problems) == len(longer)


def test_integers_are_no_weights(opened):
    tiny, checkpoint = opened
    name = mapped(tiny)[0]
    changed = Changed(checkpoint, **{name: checkpoint.read(name).astype(np.int32)})
    assert [p for p in checked(tiny, changed).problems if name in p and "int32" in p]


def test_a_tie_that_is_none_is_found():
    tiny = TINY["visualized_bge"]
    shapes = tiny.shapes

    class Random:
        tensors = dict.fromkeys(shapes)

        def read(self, name):
            return np.random.default_rng(len(name)).standard_normal(shapes[name]).astype(np.float32)

        def release(self, name):
            pass

    problems = checked(tiny, Random()).problems
    tied = [n for n in shapes if "attn.rope" in n]
    assert sum("must equal" in problem for problem in problems) == len(tied)


@pytest.mark.parametrize("name", NAMES)
def test_fingerprints_prove_every_layout(name, monkeypatch):
    """A rearrangement that forgets a transpose moves the fingerprint, also in a square matrix."""
    from bgevis.model import layout

    tiny = TINY[name]
    entries, axes = assign(tiny.shapes, tiny.rules, tiny.leaves).entries, tiny.family.axis_sizes(tiny.config)
    assert list(layout_problems(entries, axes)) == []
    monkeypatch.setattr(layout.Layout, "apply", lambda self, array, sizes: array.reshape(self.target_shape(sizes)))
    mapped = {e.layout: parse(e.layout) for e in entries.values() if e.status == "mapped"}
    moving = {n for n, each in mapped.items() if each.permutes and min(each.source_shape(axes)) > 1}
    assert len(list(layout_problems(entries, axes))) == len(moving) > 0

"""Parts: everything that is declared by name moves with the part, and two parts cannot be taken for one another."""

import numpy as np
import pytest

from bgevis.model.bert.rules import text
from bgevis.model.family import Drop, Merge, Rule, Split, Tie, families
from bgevis.model.parts import Part, join

PART = Part(
    (
        Rule("proj.{part:q|k}", "{part}.kernel", "(heads d) 1 e -> e heads d"),
        Tie("copy.{part:q|k}", "proj.{part}", "the same"),
        Drop("ids", "a buffer"),
        Split("qkv", ("proj.q", "proj.k"), "(heads n) 1 e", "n", ("d", "d")),
        Merge("base", "a", "b", "proj.q", ("d e", "r e", "d r"), 2.0),
    ),
    {"heads": 2, "d": 3, "e": 4},
    {"proj.q": (6, 1, 4), "proj.k": (6, 1, 4)},
    {"loud": {"*.kernel": 8}},
    {"table": np.ones(2)},
    {"proj.*": (0.0, 1.0)},
)


def test_what_is_declared_moves_with_the_part():
    moved = PART.mounted("tower.", "vision.")
    assert moved.rules == (
        Rule(
            "tower.proj.{part:q|k}",
            "vision.{part}.kernel",
            "(vision.heads vision.d) 1 vision.e -> vision.e vision.heads vision.d",
        ),
        Tie("tower.copy.{part:q|k}", "tower.proj.{part}", "the same"),
        Drop("tower.ids", "a buffer"),
        Split(
            "tower.qkv",
            ("tower.proj.q", "tower.proj.k"),
            "(vision.heads vision.n) 1 vision.e",
            "vision.n",
            ("vision.d", "vision.d"),
        ),
        Merge(
            "tower.base",
            "tower.a",
            "tower.b",
            "tower.proj.q",
            ("vision.d vision.e", "vision.r vision.e", "vision.d vision.r"),
            2.0,
        ),
    )
    assert moved.axis_sizes == {"vision.heads": 2, "vision.d": 3, "vision.e": 4}
    assert set(moved.checkpoint_shapes) == {"tower.proj.q", "tower.proj.k"}
    assert moved.probes == {"loud": {"vision.*.kernel": 8}}
    assert [*moved.constants, *moved.draws] == ["tower.table", "tower.proj.*"]


def test_a_part_without_prefixes_is_itself():
    assert PART.mounted() == PART


def test_parts_of_one_kind_stand_beside_each_other():
    both = join(PART.mounted("a.", "a."), PART.mounted("b.", "b."))
    assert len(both.rules) == 10
    assert both.probes == {"loud": {"a.*.kernel": 8, "b.*.kernel": 8}}
    with pytest.raises(ValueError, match=r"two parts name a\.heads: mount them"):
        join(PART.mounted("a.", "a."), PART.mounted("b.", "a."))


def test_two_text_encoders_can_be_one_network():
    """As a composite mounts them: nothing of the one is the other's."""
    config = families()["bert"].sizes["tiny"]
    both = join(text(config).mounted("query.", "query."), text(config).mounted("passage.", "passage."))
    assert len(both.checkpoint_shapes) == 2 * len(text(config).checkpoint_shapes)
    assert {name.partition(".")[0] for name in both.axis_sizes} == {"query", "passage"}

"""Parts: what is declared about a piece of a network, by names relative to where it stands.

A composite mounts parts under prefixes, in the checkpoint and in the model, and joins them; a network of one piece is
one part. Imports no framework.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from ..validation.probe import Exponents
from .family import Drop, Merge, Rule, Rules, Shapes, Split, Tie

V = TypeVar("V")

AXIS = re.compile(r"[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Part:
    """Names of the checkpoint and of leaves, axes of layouts, and what hangs on them.

    Args:
        rules: checkpoint name -> leaf.
        axis_sizes: of the axes that the rules' layouts name. The one that counts an attention's heads is called
            `heads`, or `kv_heads` where keys and values have fewer: what exchanged heads do is looked for there.
        checkpoint_shapes: upstream's names and shapes, as `fixture` writes them.
        probes: name -> what some leaves are multiplied by, see `validation/probe.py`.
        constants: tensors that are computed rather than trained (rotary tables), by checkpoint name.
        draws: pattern of checkpoint names -> mean and deviation of what a fixture holds there, where kind and shape of
            the tensor do not say it.
        parallel: axes of the layouts along which devices may share a layer's products: heads, inner width, vocabulary.
    """

    rules: Rules
    axis_sizes: Mapping[str, int]
    checkpoint_shapes: Shapes
    probes: Mapping[str, Exponents] = field(default_factory=dict)
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    draws: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    parallel: tuple[str, ...] = ()

    def mounted(self, source: str = "", target: str = "", axes: str | None = None) -> "Part":
        """Put the part in its place.

        Args:
            source: what stands before its names in the checkpoint.
            target: what stands before its leaves.
            axes: what stands before its axes, so that two parts may call theirs the same; None: `target`.
        """
        axes = target if axes is None else axes
        return Part(
            tuple(_mounted(rule, source, target, axes) for rule in self.rules),
            _prefixed(self.axis_sizes, axes),
            _prefixed(self.checkpoint_shapes, source),
            {probe: _prefixed(exponents, target) for probe, exponents in self.probes.items()},
            _prefixed(self.constants, source),
            _prefixed(self.draws, source),
            tuple(axes + axis for axis in self.parallel),
        )


def join(*parts: Part) -> Part:
    """Make one part of several that stand beside each other; all have the same probes, or none.

    Raises:
        ValueError: two parts have an axis or a checkpoint name in common.
    """
    return Part(
        tuple(rule for part in parts for rule in part.rules),
        _joined([part.axis_sizes for part in parts]),
        _joined([part.checkpoint_shapes for part in parts]),
        {
            name: _joined([part.probes[name] for part in parts if name in part.probes])
            for name in dict.fromkeys(name for part in parts for name in part.probes)
        },
        _joined([part.constants for part in parts]),
        _joined([part.draws for part in parts]),
        tuple(axis for part in parts for axis in part.parallel),
    )


def _joined(mappings: list[Mapping[str, V]]) -> dict[str, V]:
    every = {name: value for mapping in mappings for name, value in mapping.items()}
    if len(every) < sum(map(len, mappings)):
        twice = next(n for n in every if sum(n in mapping for mapping in mappings) > 1)
        raise ValueError(f"two parts name {twice}: mount them under different prefixes")
    return every


def _prefixed(mapping: Mapping[str, V], prefix: str) -> dict[str, V]:
    return {prefix + name: value for name, value in mapping.items()}


def _mounted(
    rule: Rule | Tie | Drop | Split | Merge, source: str, target: str, axes: str
) -> Rule | Tie | Drop | Split | Merge:
    named = partial(AXIS.sub, lambda axis: axes + axis[0])
    if isinstance(rule, Rule):
        return Rule(source + rule.source, target + rule.target, named(rule.layout))
    changed: dict[str, Any] = {"source": source + rule.source}
    if isinstance(rule, Tie | Merge):
        changed["target"] = source + rule.target
    if isinstance(rule, Split):
        changed["targets"] = tuple(source + name for name in rule.targets)
        changed |= {"layout": named(rule.layout), "axis": named(rule.axis)}
        changed["extents"] = tuple(map(named, rule.extents))
    if isinstance(rule, Merge):
        changed |= {"a": source + rule.a, "b": source + rule.b, "layouts": tuple(map(named, rule.layouts))}
        if rule.magnitude:
            changed |= {"magnitude": source + rule.magnitude, "lengths": named(rule.lengths)}
    return replace(rule, **changed)

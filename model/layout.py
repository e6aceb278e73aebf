"""Layouts by axis name: "(h d) e -> e h d" is how a source tensor becomes a leaf and, read backwards, how it returns.

The notation is einops': names are axes, parentheses merge axes, 1 is an axis of size one.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Group = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """A permutation of named axes: the groups of the source's dimensions, and of the target's."""

    source: tuple[Group, ...]
    target: tuple[Group, ...]

    @property
    def inverse(self) -> "Layout":
        """Give the layout that leads back."""
        return Layout(self.target, self.source)

    @property
    def permutes(self) -> bool:
        """Say whether any element changes its place in memory."""
        return [a for group in self.source for a in group] != [a for group in self.target for a in group]

    def source_shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Give the shape that the source must have."""
        return tuple(math.prod(sizes[axis] for axis in group) for group in self.source)

    def target_shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Give the shape that the leaf must have."""
        return self.inverse.source_shape(sizes)

    def apply(self, array: np.ndarray, sizes: Mapping[str, int]) -> np.ndarray:
        """Rearrange an array of the source's shape; a view where numpy can give one."""
        before = [axis for group in self.source for axis in group]
        after = [axis for group in self.target for axis in group]
        split = array.reshape([sizes[axis] for axis in before])
        return split.transpose([before.index(axis) for axis in after]).reshape(self.target_shape(sizes))

    def positions(self, sizes: Mapping[str, int]) -> np.ndarray:
        """Say for each element of the leaf which element of the source (flat index) it is.

        Computed from the names by index arithmetic alone, without moving an array: what `apply` is held against.
        """
        strides, step = {}, 1
        for axis in reversed([axis for group in self.source for axis in group]):
            strides[axis], step = step, step * sizes[axis]
        axes = [axis for group in self.target for axis in group]
        index = np.zeros([1] * len(axes), np.int64)
        for place, axis in enumerate(axes):
            steps = np.arange(sizes[axis]) * strides[axis]
            index = index + steps.reshape([-1 if i == place else 1 for i in range(len(axes))])
        return index.reshape(self.target_shape(sizes))

    def __str__(self) -> str:
        sides = [" ".join(_write(group) for group in side) for side in (self.source, self.target)]
        return sides[0] if sides[0] == sides[1] else " -> ".join(sides)


@functools.cache
def parse(text: str) -> Layout:
    """Read a layout. Without an arrow nothing moves.

    Raises:
        ValueError: the two sides do not name the same axes, or an axis twice.
    """
    left, arrow, right = text.partition("->")
    layout = Layout(_side(left), _side(right if arrow else left))
    names = [sorted(axis for group in side for axis in group) for side in (layout.source, layout.target)]
    if names[0] != names[1] or len(set(names[0])) != len(names[0]):
        raise ValueError(f"layout {text!r} must name the same axes once on each side")
    return layout


def _side(text: str) -> tuple[Group, ...]:
    groups: list[Group] = []
    merged: list[str] | None = None
    for word in text.replace("(", " ( ").replace(")", " ) ").split():
        if word == "(":
            merged = []
        elif word == ")":
            groups.append(tuple(merged or ()))
            merged = None
        elif merged is not None:
            merged.append(word)
        else:
            groups.append(() if word == "1" else (word,))
    return tuple(groups)


def _write(group: Group) -> str:
    return group[0] if len(group) == 1 else f"({' '.join(group)})" if group else "1"

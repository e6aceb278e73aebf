"""Dimensions: a number, a dynamic axis, or a sum or difference of these such as "past + tokens" or "tokens - 1".

An output's may also be computed otherwise: "floordiv(samples - 10, 5)", see `sizes.py`.
"""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import sizes as texts

Dim = int | str

TERM = re.compile(r"(?:(\d+)\*)?([A-Za-z_]\w*)|(\d+)")


SIGNED = re.compile(r"([+-])([^+-]*)")


@functools.cache
def terms(dim: Dim) -> tuple[tuple[str, int], ...]:
    """Give a dimension as (axis, how often) in the order written, a number as ("", number).

    Raises:
        ValueError: it is no sum of axes and numbers.
    """
    if isinstance(dim, int):
        return (("", dim),)
    found: list[tuple[str, int]] = []
    for sign, term in SIGNED.findall(dim if dim.lstrip()[:1] == "-" else f"+{dim}"):
        match = TERM.fullmatch(term.strip())
        if match is None:
            raise ValueError(f"the dimension {dim!r} is no sum of axes and numbers, such as 'past + tokens'")
        axis, count = ("", int(match[3])) if match[3] else (match[2], int(match[1] or 1))
        found.append((axis, -count if sign == "-" else count))
    return tuple(found)


def axes_of(dim: Dim) -> tuple[str, ...]:
    """Name the axes that a dimension depends on."""
    try:
        return tuple(axis for axis, _ in terms(dim) if axis)
    except ValueError:
        return tuple(sorted(texts.names(dim)))


def size(dim: Dim, sizes: Mapping[str, Any]) -> Any:
    """Compute a dimension from the sizes of the axes, which may be symbolic."""
    total: Any = 0
    try:
        summands = terms(dim)
    except ValueError:
        return texts.computed(dim, sizes)
    for axis, count in summands:
        total = total + (count if not axis else sizes[axis] if count == 1 else count * sizes[axis])
    return total


def same(one: Dim, other: Dim) -> bool:
    """Say whether two dimensions are one size, in whatever order they are written."""
    try:
        return _totals(one) == _totals(other)
    except ValueError:
        return one == other


def _totals(dim: Dim) -> dict[str, int]:
    totals: dict[str, int] = {}
    for axis, count in terms(dim):
        totals[axis] = totals.get(axis, 0) + count
    return {axis: count for axis, count in totals.items() if count}


def sizes_of(shapes: Iterable[tuple[Sequence[Dim], Sequence[int]]]) -> dict[str, int]:
    """Find the sizes of the axes from arrays: pairs of a shape in dimensions, and the array's.

    Raises:
        ValueError: the arrays contradict each other.
    """
    pairs = [(dim, got) for dims, shape in shapes for dim, got in zip(dims, shape, strict=True)]
    found: dict[str, int] = {}
    known = -1
    while known < len(found):
        known = len(found)
        for dim, got in pairs:
            missing = [(axis, count) for axis, count in _totals(dim).items() if axis and axis not in found]
            if len(missing) == 1:
                axis, count = missing[0]
                found[axis] = (got - size(dim, {**found, axis: 0})) // count
    for dim, got in pairs:
        if found.keys() >= set(axes_of(dim)) and size(dim, found) != got:
            raise ValueError(f"the dimension {dim} is {size(dim, found)} in one array and {got} in another")
    return found

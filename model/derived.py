"""Derived tensors: one that is part of another, one that is merged of several, by axis name, in numpy.

The same input gives the same bytes on every machine: what is summed is summed in the order of its axis, in
float64, by operations on single elements, which no library may reorder; the result is rounded once.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import ml_dtypes
import numpy as np

from .layout import parse

BLOCK = 1 << 21
"""Numbers of a merged tensor that are computed at once: float64 of all of it need not be in memory."""

Sizes = Mapping[str, int]
Arrays = Mapping[str, np.ndarray]
"""Ingredients by name."""

Factor = float | np.ndarray
"""What a tensor is multiplied by: one number, or an array that broadcasts to its shape."""


@dataclass(frozen=True)
class Part:
    """A tensor that lies beside others in `source`, along an axis.

    Args:
        source: the packed tensor.
        index: which part this is.
        layout: axes of the packed tensor.
        axis: the one that is cut.
        extents: what stands in its place in each part, "h d"; "" is nothing, a part one thick.
    """

    source: str
    index: int
    layout: str
    axis: str
    extents: tuple[str, ...]
    kind: str = field(default="part", init=False)

    @property
    def ingredients(self) -> tuple[str, ...]:
        """Name what it is made of."""
        return (self.source,)

    @property
    def dtype(self) -> str:
        """Name the type of the result; "" is that of the first ingredient."""
        return ""

    @property
    def way(self) -> str:
        """Say what it has in common with others that are made in the same way."""
        return f"{self.layout}, {self.axis}: {' | '.join(self.extents)}"

    def formula(self, sizes: Sizes) -> str:
        """Say how it is made."""
        thick = self._thickness(sizes)
        start = sum(thick[: self.index])
        return (
            f"part {self.index + 1} of {len(thick)} of {self.source} ({self.layout}): "
            f"{start} to {start + thick[self.index]} of {sum(thick)} along {self.axis}"
        )

    def shapes(self, sizes: Sizes) -> dict[str, tuple[tuple[int, ...], str]]:
        """Give for each ingredient the shape that it must have, and why."""
        thick = " + ".join(map(str, self._thickness(sizes)))
        return {self.source: (self._whole_shape(sizes), f"{self.layout}, parts of {thick} along {self.axis}")}

    def make(self, arrays: Arrays, sizes: Sizes) -> np.ndarray:
        """Take the part out of the packed tensor; a view where numpy can give one."""
        thick = self._thickness(sizes)
        start = sum(thick[: self.index])
        cut = (*[slice(None)] * self._place, slice(start, start + thick[self.index]))
        whole = arrays[self.source].reshape(self._counts(sum(thick), sizes))
        return whole[cut].reshape(self._part_shape(self.index, sizes))

    def join(self, parts: Sequence[np.ndarray], sizes: Sizes) -> np.ndarray:
        """Pack all parts, in their order."""
        thick = self._thickness(sizes)
        cut = [part.reshape(self._counts(count, sizes)) for part, count in zip(parts, thick, strict=True)]
        return np.concatenate(cut, self._place).reshape(self._whole_shape(sizes))

    def problems(self, sizes: Sizes) -> Iterator[str]:
        """Cut a fingerprint (every element its own index) and pack it again; say what goes where no name says."""
        counts = self._counts(sum(self._thickness(sizes)), sizes)
        fingerprint = np.arange(math.prod(counts), dtype=np.int64).reshape(self._whole_shape(sizes))
        parts, start = [], 0
        for index, thick in enumerate(self._thickness(sizes)):
            part = replace(self, index=index).make({self.source: fingerprint}, sizes)
            if not np.array_equal(part, self._positions(counts, start, thick).reshape(part.shape)):
                yield f"part {index + 1} of {self.layout} along {self.axis} is not what its axis names say"
            parts.append(part)
            start += thick
        if not np.array_equal(self.join(parts, sizes), fingerprint):
            yield f"the parts of {self.layout} along {self.axis} do not lead back"

    def _positions(self, counts: Sequence[int], start: int, thick: int) -> np.ndarray:
        """Say by index arithmetic alone which elements of the packed tensor a part consists of."""
        found = np.zeros([1] * len(counts), np.int64)
        for place, count in enumerate(counts):
            steps = np.arange(start, start + thick) if place == self._place else np.arange(count)
            found = found * count + steps.reshape([-1 if i == place else 1 for i in range(len(counts))])
        return found

    def factors(self, factor: Factor, sizes: Sizes) -> dict[str, Factor]:
        """Say what to multiply the packed tensor by, so that this part is multiplied by `factor` and no other is."""
        parts = [np.ones(self._part_shape(i, sizes), np.float32) for i in range(len(self.extents))]
        parts[self.index] *= np.float32(factor)
        return {self.source: self.join(parts, sizes)}

    @property
    def _axes(self) -> list[str]:
        axes = [axis for group in parse(self.layout).source for axis in group]
        if self.axis not in axes:
            raise ValueError(f"{self.layout!r} has no axis {self.axis} to cut")
        return axes

    @property
    def _place(self) -> int:
        return self._axes.index(self.axis)

    def _thickness(self, sizes: Sizes) -> list[int]:
        """Give the size of each part along the axis that is cut."""
        return [math.prod(sizes[axis] for axis in extent.split()) for extent in self.extents]

    def _counts(self, thick: int, sizes: Sizes) -> list[int]:
        """Give the sizes of all axes where the one that is cut has `thick`."""
        return [thick if axis == self.axis else sizes[axis] for axis in self._axes]

    def _whole_shape(self, sizes: Sizes) -> tuple[int, ...]:
        return parse(self.layout).source_shape({**sizes, self.axis: sum(self._thickness(sizes))})

    def _part_shape(self, index: int, sizes: Sizes) -> tuple[int, ...]:
        """Give the shape of a part: where nothing stands in the place of the axis, it is no dimension any more."""
        shape = parse(self.layout).source_shape({**sizes, self.axis: self._thickness(sizes)[index]})
        gone = (self.axis,) if not self.extents[index].strip() else None
        return tuple(n for n, group in zip(shape, parse(self.layout).source, strict=True) if group != gone)


@dataclass(frozen=True)
class LowRank:
    """A tensor with what a low-rank adapter (LoRA) adds to it: base + scale · B · A.

    The axis that A and B have and the base has not is summed over; its size is the rank.

    Args:
        base: the tensor as it was before.
        a: leads from the input to the rank.
        b: leads from the rank to the output.
        layouts: axes of base, A and B.
        alpha: the scale is alpha / rank,
        rslora: or, if this is so, alpha / sqrt(rank).
        dtype: of the result; "" is the base's.

    Source: https://arxiv.org/abs/2106.09685 and, of the root, https://arxiv.org/abs/2312.03732
    """

    base: str
    a: str
    b: str
    layouts: tuple[str, str, str]
    alpha: float
    rslora: bool = False
    dtype: str = ""
    kind: str = field(default="low rank", init=False)

    @property
    def ingredients(self) -> tuple[str, ...]:
        """Name what it is made of."""
        return self.base, self.a, self.b

    @property
    def way(self) -> str:
        """Say what it has in common with others that are made in the same way."""
        return " + ".join(self.layouts)

    def scale(self, sizes: Sizes) -> float:
        """Give what B · A is multiplied by."""
        rank = sizes[self._rank]
        return self.alpha / (math.sqrt(rank) if self.rslora else rank)

    def formula(self, sizes: Sizes) -> str:
        """Say how it is made."""
        rank = sizes[self._rank]
        divided = f"sqrt({rank})" if self.rslora else str(rank)
        scale = f"{self.scale(sizes):g} = {self.alpha:g} / {divided}"
        rounding = f", as {self.dtype}" if self.dtype else ""
        return f"{self.base} + {scale} · B · A over {self._rank}, A {self.a}, B {self.b}{rounding}"

    def shapes(self, sizes: Sizes) -> dict[str, tuple[tuple[int, ...], str]]:
        """Give for each ingredient the shape that it must have, and why."""
        layouts = zip(self.ingredients, ("base", "A", "B"), self.layouts, strict=True)
        return {name: (parse(text).source_shape(sizes), f"{text}, {role}") for name, role, text in layouts}

    def make(self, arrays: Arrays, sizes: Sizes) -> np.ndarray:
        """Merge: in float64, in the order of the rank, rounded once."""
        base = arrays[self.base]
        dtype = np.dtype(self.dtype) if self.dtype else base.dtype
        return self._sum(base, arrays[self.a], arrays[self.b], self.scale(sizes), sizes, dtype)

    def problems(self, sizes: Sizes) -> Iterator[str]:
        """Merge fingerprints; say what goes where no name says.

        A's element (r, x) must arrive wherever B's axes are at a place whose number is r, and the other way round.
        """
        shapes = [parse(text).source_shape(sizes) for text in self.layouts]
        rank, names = sizes[self._rank], _names(self.layouts[0])
        nothing = np.zeros(shapes[0], np.float64)
        for role, one, other in (("A", 1, 2), ("B", 2, 1)):
            numbers = np.arange(math.prod(shapes[one]), dtype=np.float64).reshape(shapes[one])
            free = [sizes[axis] for axis in _names(self.layouts[other]) if axis != self._rank]
            for first in range(0, rank, math.prod(free)):
                selects = self._selects(other, first, sizes)
                a, b = (numbers, selects) if role == "A" else (selects, numbers)
                got = self._sum(nothing, a, b, 1.0, sizes, nothing.dtype)
                if not np.array_equal(got.reshape([sizes[n] for n in names]), self._wanted(one, other, first, sizes)):
                    yield f"{role} of {' + '.join(self.layouts)} does not act where its axis names say"
                    break

    def _selects(self, other: int, first: int, sizes: Sizes) -> np.ndarray:
        """Make A or B of zeros with a 1 at each place of its own axes: at the rank that the place's number gives."""
        axes, rank = _names(self.layouts[other]), sizes[self._rank]
        free = [sizes[axis] for axis in axes if axis != self._rank]
        place = axes.index(self._rank)
        chosen = np.expand_dims((np.arange(math.prod(free)) + first).reshape(free) % rank, place)
        ranks = np.arange(rank).reshape([-1 if i == place else 1 for i in range(len(axes))])
        return (chosen == ranks).astype(np.float64).reshape(parse(self.layouts[other]).source_shape(sizes))

    def _wanted(self, one: int, other: int, first: int, sizes: Sizes) -> np.ndarray:
        """Give by index arithmetic which element of a factor acts on each element of the base."""
        names, rank = _names(self.layouts[0]), sizes[self._rank]
        grid = dict(zip(names, np.indices([sizes[axis] for axis in names], np.int64, sparse=True), strict=True))
        number = np.zeros([1] * len(names), np.int64)
        for axis in _names(self.layouts[other]):
            number = number if axis == self._rank else number * sizes[axis] + grid[axis]
        found = np.zeros([1] * len(names), np.int64)
        for axis in _names(self.layouts[one]):
            found = found * sizes[axis] + ((number + first) % rank if axis == self._rank else grid[axis])
        return np.broadcast_to(found, [sizes[axis] for axis in names])

    def factors(self, factor: Factor, sizes: Sizes) -> dict[str, Factor]:
        """Say what to multiply the ingredients by, so that the merged tensor is multiplied by `factor`.

        Raises:
            ValueError: it varies along axes of A and of B.
        """
        if np.ndim(factor) == 0:
            return {self.base: factor, self.b: factor}
        names = _names(self.layouts[0])
        full = np.broadcast_to(factor, parse(self.layouts[0]).source_shape(sizes)).reshape([sizes[n] for n in names])
        for name, text in ((self.b, self.layouts[2]), (self.a, self.layouts[1])):
            axes = _names(text)
            kept = full[tuple(slice(None) if n in axes else slice(0, 1) for n in names)]
            if np.array_equal(np.broadcast_to(kept, full.shape), full):
                return {self.base: factor, name: self._spread(kept, axes, text, sizes)}
        raise ValueError(f"{self.base} cannot be multiplied by numbers that differ along axes of A and of B")

    def _spread(self, kept: np.ndarray, axes: Sequence[str], text: str, sizes: Sizes) -> np.ndarray:
        """Lay what stands along axes of the base along those of a factor."""
        names = [name for name in _names(self.layouts[0]) if name in axes]
        array = kept.reshape([sizes[name] for name in names])
        order = [axis for axis in axes if axis != self._rank]
        array = np.expand_dims(array.transpose([names.index(axis) for axis in order]), axes.index(self._rank))
        return np.broadcast_to(array, [sizes[axis] for axis in axes]).reshape(parse(text).source_shape(sizes))

    @property
    def _rank(self) -> str:
        return rank_axis(self.layouts)

    def _sum(
        self, base: np.ndarray, a: np.ndarray, b: np.ndarray, scale: float, sizes: Sizes, dtype: np.dtype
    ) -> np.ndarray:
        """Compute base + scale · B · A, some of the base's rows at a time."""
        names = _names(self.layouts[0])
        counts = [sizes[name] for name in names]
        a, b = (self._aligned(array, text, sizes) for array, text in ((a, self.layouts[1]), (b, self.layouts[2])))
        named = base.reshape(counts)
        result = np.empty(counts, dtype)
        rows = max(1, BLOCK // max(1, math.prod(counts[1:])))
        for start in range(0, counts[0], rows):
            block = slice(start, start + rows)
            ours, theirs = (x[:, block] if x.shape[1] > 1 else x for x in (a, b))
            total = np.zeros(named[block].shape, np.float64)
            for one, other in zip(ours, theirs, strict=True):
                total += other * one
            result[block] = rounded(named[block].astype(np.float64) + scale * total, dtype)
        return result.reshape(base.shape)

    def _aligned(self, array: np.ndarray, text: str, sizes: Sizes) -> np.ndarray:
        """Bring A or B to float64 with the rank first, then the base's axes, those that it lacks one thick."""
        axes, names = _names(text), [self._rank, *_names(self.layouts[0])]
        order = [axis for axis in names if axis in axes]
        moved = array.reshape([sizes[axis] for axis in axes]).transpose([axes.index(axis) for axis in order])
        return moved.reshape([sizes[name] if name in axes else 1 for name in names]).astype(np.float64)


def rank_axis(layouts: tuple[str, str, str]) -> str:
    """Name the axis that A and B are summed over.

    Raises:
        ValueError: there is not one, or the others are not the base's.
    """
    base, a, b = (set(_names(text)) for text in layouts)
    shared = a & b
    if len(shared) != 1 or shared & base or (a | b) - shared != base:
        raise ValueError(
            f"A {layouts[1]!r} and B {layouts[2]!r} must share one axis, the rank, "
            f"and have the axes of the base {layouts[0]!r} between them"
        )
    return shared.pop()


Made = Part | LowRank
KINDS: Mapping[str, Callable[..., Made]] = {"part": Part, "low rank": LowRank}
"""As a ledger calls them."""


def rounded(numbers: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Round float64 to the nearest number of a smaller type, once; what is too large becomes infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype != ml_dtypes.bfloat16:
            return numbers.astype(dtype)
        # ml_dtypes goes by way of float32 and would round twice. Rounded to odd there, nothing is lost.
        near = numbers.astype(np.float32)
        inexact = near.astype(np.float64) != numbers
        below = np.where(np.abs(near) > np.abs(numbers), np.nextafter(near, np.float32(0)), near)
        odd = (below.view(np.uint32) | (inexact & np.isfinite(numbers))).view(np.float32)
        return odd.astype(dtype)


def _names(layout: str) -> list[str]:
    return [axis for group in parse(layout).source for axis in group]

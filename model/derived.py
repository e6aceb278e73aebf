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

    The axis that A and B have and the base has not is summed over; its size is the rank. With magnitudes (DoRA) each
    vector of the sum, one for each place of their axis, is brought to the length that stands there.

    Args:
        base: the tensor as it was before.
        a: leads from the input to the rank.
        b: leads from the rank to the output.
        layouts: axes of base, A and B.
        alpha: the scale is alpha / rank,
        rslora: or, if this is so, alpha / sqrt(rank).
        dtype: of the result; "" is the base's.
        magnitude: the lengths; "" if there are none.
        lengths: axes of these.

    Source: https://arxiv.org/abs/2106.09685, of the root https://arxiv.org/abs/2312.03732 and of the lengths
    https://arxiv.org/abs/2402.09353
    """

    base: str
    a: str
    b: str
    layouts: tuple[str, str, str]
    alpha: float
    rslora: bool = False
    dtype: str = ""
    magnitude: str = ""
    lengths: str = ""
    kind: str = field(default="low rank", init=False)

    @property
    def ingredients(self) -> tuple[str, ...]:
        """Name what it is made of."""
        return (self.base, self.a, self.b, *([self.magnitude] if self.magnitude else ()))

    @property
    def way(self) -> str:
        """Say what it has in common with others that are made in the same way."""
        return " + ".join(self.layouts) + (f", lengths {self.lengths}" if self.magnitude else "")

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
        lengths = f", each {self.lengths} as long as {self.magnitude} says" if self.magnitude else ""
        return f"{self.base} + {scale} · B · A over {self._rank}, A {self.a}, B {self.b}{lengths}{rounding}"

    def shapes(self, sizes: Sizes) -> dict[str, tuple[tuple[int, ...], str]]:
        """Give for each ingredient the shape that it must have, and why."""
        texts = (*self.layouts, *([self.lengths] if self.magnitude else ()))
        layouts = zip(self.ingredients, ("base", "A", "B", "lengths"), texts, strict=False)
        return {name: (parse(text).source_shape(sizes), f"{text}, {role}") for name, role, text in layouts}

    def make(self, arrays: Arrays, sizes: Sizes) -> np.ndarray:
        """Merge: in float64, in the order of the rank, rounded once."""
        base = arrays[self.base]
        result = np.empty(self._counts(sizes), np.dtype(self.dtype) if self.dtype else base.dtype)
        for block, exact in self._exact(arrays, self.scale(sizes), sizes):
            result[block] = rounded(exact, result.dtype)
        return result.reshape(base.shape)

    def lost(self, arrays: Arrays, result: np.ndarray, sizes: Sizes) -> tuple[float, float]:
        """Measure what `make` rounded away: the norm of that, and the norm of what the adapter changes."""
        base, made = (x.reshape(self._counts(sizes)) for x in (arrays[self.base], result))
        lost = changed = 0.0
        for block, exact in self._exact(arrays, self.scale(sizes), sizes):
            lost += float(np.square(made[block].astype(np.float64) - exact).sum())
            changed += float(np.square(exact - base[block].astype(np.float64)).sum())
        return math.sqrt(lost), math.sqrt(changed)

    def problems(self, sizes: Sizes) -> Iterator[str]:
        """Merge fingerprints; say what goes where no name says.

        A's element (r, x) must arrive wherever B's axes are at a place whose number is r, and the other way round.
        """
        shapes = [parse(text).source_shape(sizes) for text in self.layouts]
        rank = sizes[self._rank]
        nothing = np.broadcast_to(np.float64(0), shapes[0])
        for role, one, other in (("A", 1, 2), ("B", 2, 1)):
            numbers = np.arange(math.prod(shapes[one]), dtype=np.float64).reshape(shapes[one])
            free = [sizes[axis] for axis in _names(self.layouts[other]) if axis != self._rank]
            for first in range(0, rank, math.prod(free)):
                selects = self._selects(other, first, sizes)
                a, b = (numbers, selects) if role == "A" else (selects, numbers)
                wanted = self._wanted(one, other, first, sizes)
                sums = self._sums({self.base: nothing, self.a: a, self.b: b}, 1.0, sizes)
                if not all(np.array_equal(total, wanted[block]) for block, total in sums):
                    yield f"{role} of {' + '.join(self.layouts)} does not act where its axis names say"
                    break
        if self.magnitude:
            yield from self._length_problems(sizes)

    def _length_problems(self, sizes: Sizes) -> Iterator[str]:
        """Bring vectors of ones to lengths that are their own numbers."""
        shapes = {name: shape for name, (shape, _) in self.shapes(sizes).items()}
        count = math.prod(shapes[self.magnitude])
        arrays = {name: np.broadcast_to(np.float64(name == self.base), shape) for name, shape in shapes.items()}
        arrays[self.magnitude] = np.arange(count, dtype=np.float64).reshape(shapes[self.magnitude])
        places, wanted = np.indices(self._counts(sizes), sparse=True), np.zeros([1] * len(self._counts(sizes)))
        names = _names(self.layouts[0])
        for axis in _names(self.lengths):
            wanted = wanted * sizes[axis] + places[names.index(axis)]
        wanted = wanted / math.sqrt(math.prod(self._counts(sizes)) // count)
        for block, exact in self._exact(arrays, 0.0, sizes):
            part = wanted[block] if wanted.shape[0] > 1 else wanted
            if not np.array_equal(exact, np.broadcast_to(part, exact.shape)):
                yield f"lengths {self.lengths} of {self.layouts[0]} do not act where their axis names say"
                return

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

        Lengths alone would do where there are some; but who adds the base's share, the adapter's and a bias in few
        digits would lose one beside the other.

        Raises:
            ValueError: it varies along axes of A and of B, or along others than those of the lengths.
        """
        lengths = {self.magnitude: self.lengths} if self.magnitude else {}
        if np.ndim(factor) == 0:
            return dict.fromkeys((self.base, self.b, *lengths), factor)
        names = _names(self.layouts[0])
        full = np.broadcast_to(factor, parse(self.layouts[0]).source_shape(sizes)).reshape(self._counts(sizes))
        for more in ({self.b: self.layouts[2]}, {self.a: self.layouts[1]}):
            found: dict[str, Factor] = {self.base: factor}
            for name, text in (more | lengths).items():
                axes = _names(text)
                kept = full[tuple(slice(None) if n in axes else slice(0, 1) for n in names)]
                if np.array_equal(np.broadcast_to(kept, full.shape), full):
                    found[name] = self._spread(kept, axes, text, sizes)
            if found.keys() >= (more | lengths).keys():
                return found
        raise ValueError(f"{self.base} cannot be multiplied by numbers that differ along axes of A and of B")

    def _spread(self, kept: np.ndarray, axes: Sequence[str], text: str, sizes: Sizes) -> np.ndarray:
        """Lay what stands along axes of the base along those of a factor."""
        names = [name for name in _names(self.layouts[0]) if name in axes]
        array = kept.reshape([sizes[name] for name in names])
        order = [axis for axis in axes if axis != self._rank]
        array = array.transpose([names.index(axis) for axis in order])
        array = np.expand_dims(array, axes.index(self._rank)) if self._rank in axes else array
        return np.broadcast_to(array, [sizes[axis] for axis in axes]).reshape(parse(text).source_shape(sizes))

    @property
    def _rank(self) -> str:
        return rank_axis(self.layouts)

    def _counts(self, sizes: Sizes) -> list[int]:
        """Give the sizes of the base's axes."""
        return [sizes[name] for name in _names(self.layouts[0])]

    def _exact(self, arrays: Arrays, scale: float, sizes: Sizes) -> Iterator[tuple[slice, np.ndarray]]:
        """Compute the merged tensor in float64, some of the base's rows at a time."""
        if not self.magnitude:
            yield from self._sums(arrays, scale, sizes)
            return
        names, kept = _names(self.layouts[0]), _names(self.lengths)
        squares = np.zeros([sizes[name] if name in kept else 1 for name in names], np.float64)
        for block, total in self._sums(arrays, scale, sizes):
            part = squares[block] if squares.shape[0] > 1 else squares
            part += _added(np.square(total), [i for i, name in enumerate(names) if name not in kept])
        with np.errstate(divide="ignore", invalid="ignore"):  # a vector of zeros has no direction: verify finds it
            factor = self._aligned(arrays[self.magnitude], self.lengths, sizes)[0] / np.sqrt(squares)
        for block, total in self._sums(arrays, scale, sizes):
            yield block, total * (factor[block] if factor.shape[0] > 1 else factor)

    def _sums(self, arrays: Arrays, scale: float, sizes: Sizes) -> Iterator[tuple[slice, np.ndarray]]:
        """Compute base + scale · B · A, some of the base's rows at a time."""
        counts = self._counts(sizes)
        a, b = (
            self._aligned(arrays[n], text, sizes) for n, text in zip((self.a, self.b), self.layouts[1:], strict=True)
        )
        named = arrays[self.base].reshape(counts)
        rows = max(1, BLOCK // max(1, math.prod(counts[1:])))
        for start in range(0, counts[0], rows):
            block = slice(start, min(start + rows, counts[0]))
            ours, theirs = (x[:, block] if x.shape[1] > 1 else x for x in (a, b))
            total = np.zeros(named[block].shape, np.float64)
            for one, other in zip(ours, theirs, strict=True):
                total += other * one
            yield block, named[block].astype(np.float64) + scale * total

    def _aligned(self, array: np.ndarray, text: str, sizes: Sizes) -> np.ndarray:
        """Bring an ingredient to float64 with the rank first, then the base's axes, those that it lacks one thick."""
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


def _added(numbers: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Add up along some axes, one after the other, in their order; they stay, one thick."""
    for axis in axes:
        total = np.zeros_like(numbers.take([0], axis))
        for index in range(numbers.shape[axis]):
            total += numbers.take([index], axis)
        numbers = total
    return numbers


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

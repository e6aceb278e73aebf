"""What a gather is for, in words that runtimes have operators for."""

from dataclasses import dataclass

from jax.extend.core import JaxprEqn

from .walk import shape_of


@dataclass(frozen=True)
class Window:
    """One slice, at places that are a vector: x[:, 0], x[i:i + 3]."""


@dataclass(frozen=True)
class Place:
    """One place of an axis, the axis dropped."""

    axis: int


@dataclass(frozen=True)
class Rows:
    """Whole slices along one axis, as from an embedding table."""

    axis: int


@dataclass(frozen=True)
class Elements:
    """One element per place along an axis, the other axes in step: take_along_axis."""

    axis: int


@dataclass(frozen=True)
class Points:
    """Slices at points of the leading axes: x[i, j]."""

    axes: int


Pattern = Window | Place | Rows | Elements | Points


def pattern(eqn: JaxprEqn) -> Pattern | None:
    """Recognise what a gather is for; None if it is none of these."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape, places, rank = shape_of(eqn.invars[0]), len(shape_of(eqn.invars[1])) - 1, len(shape_of(eqn.outvars[0]))
    start, collapsed = tuple(numbers.start_index_map), tuple(numbers.collapsed_slice_dims)
    batching, offset = tuple(numbers.operand_batching_dims), tuple(numbers.offset_dims)
    whole = [size == dim for size, dim in zip(sizes, shape, strict=True)]
    others_whole = all(w for i, w in enumerate(whole) if i not in start)
    if places == 0 and not batching:
        return Place(*start) if others_whole and len(start) == 1 and collapsed == start else Window()
    if len(start) == 1 and not batching and others_whole and collapsed == start:
        between = range(start[0], start[0] + places)
        if offset == tuple(i for i in range(rank) if i not in between):
            return Rows(*start)
    others = tuple(i for i in range(len(shape)) if i not in start)
    if len(start) == 1 and batching == others == tuple(numbers.start_indices_batching_dims) and not offset:
        return Elements(*start)
    leading = start == collapsed == tuple(range(len(start)))
    if not batching and others_whole and leading and offset == tuple(range(places, rank)):
        return Points(len(start))
    return None

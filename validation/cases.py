"""Cases: the inputs on which two networks are held against each other, drawn from an entry point's axes and domains.

Nothing here knows a family or the name of an axis. Where rows are of different length, an entry point gets a padded
batch of ragged rows, the shortest of which is the empty text, and the longest legal rows; else it gets a batch, and
one row of it by itself. Every shape costs each compiling runtime a compilation, every picture a forward pass of some
hundred tokens: there are as few as tell mistakes, and no case is more work than `FLOPS`.
"""

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .budget import FEW
from .domains import Draft, PaddingMask, RandomMask, domain_of, padded
from .entry_point import EntryPoint, TensorSpec
from .kept import kept_shape
from .runner import Arrays

LONGEST = 1024
"""Longest text tried: attention's cost grows with the square, 8192 tokens would need gigabytes in float64."""
SHORT = 24
"""Length of the ragged batch: the least that the longest is cut to where a network is too large."""
FLOPS = 4e12
"""What a case may cost: minutes in float64 on two cores. Networks of a billion weights read their longest text."""
BYTES = 1 << 28
"""What an output of a case may hold in float64."""


@dataclass(frozen=True)
class Case:
    """One set of inputs for one entry point.

    Args:
        same_as: (other case, its rows) whose outputs must be the same, whatever the network: a row does not depend
            on the other rows. Such a case needs no run of the reference.
        flops: an estimate of what it costs; 0 where that is not known.
        stated: a family gives these very numbers, so that others in their place are another case.
    """

    entry_point: str
    name: str
    inputs: Arrays
    same_as: tuple[str, tuple[int, ...]] | None = None
    flops: float = 0.0
    stated: bool = False


def flops(entry: EntryPoint, sizes: Mapping[str, int], weights: int) -> float:
    """Estimate the cost of a run: two operations for each weight and each position that is computed.

    An upper one for the products with weights, since an entry point need not read all of them, and tables are only
    looked up; attention's own products are left out, which are less up to some thousand tokens.
    """
    return 2.0 * weights * positions(entry, sizes)


def positions(entry: EntryPoint, sizes: Mapping[str, int]) -> int:
    """Count the positions that a run computes."""
    return sum(domain_of(spec).positions(spec.resolve(sizes)) for spec in entry.inputs)


def cases(entry: EntryPoint, static: Iterable[Mapping[str, int]] = (), seed: int = 0, weights: int = 0) -> list[Case]:
    """Draw the cases of an entry point; the same seed gives the same inputs on every machine.

    Each of `static` adds one case of exactly these sizes, for the programs that were made for them. `weights` is
    how many numbers the network holds: a large one gets smaller cases.
    """
    drawn = list(_ragged_cases(entry, seed, weights) if padded(entry) else _whole_cases(entry, seed))
    drawn += [_static_case(entry, sizes, seed) for sizes in static]
    return [replace(case, flops=flops(entry, entry.sizes(case.inputs), weights)) for case in drawn]


def _static_case(entry: EntryPoint, sizes: Mapping[str, int], seed: int) -> Case:
    fixed = {name: size for name, size in sizes.items() if name in entry.axes}
    name = "static " + ",".join(f"{name}={size}" for name, size in fixed.items())
    whole = {axis: bounds.low for axis, bounds in entry.axes.items()} | fixed
    rows = range(max(whole.values(), default=1))
    lengths = {axis: [max(1, whole[axis] - row) for row in rows] for axis in padded(entry)}
    return Case(entry.name, name, _inputs(Draft(entry, whole, lengths), seed + 2))


def _ragged_cases(entry: EntryPoint, seed: int, weights: int) -> Iterator[Case]:
    longest = longest_sizes(entry, weights)
    few = _sizes(entry, 2 if dear(entry) else 3)
    widths = {axis: max(entry.axes[axis].low, min(SHORT, size)) for axis, size in longest.items()}
    lengths = {axis: [min(part, w) for part in _parts(w, dear(entry))] for axis, w in widths.items()}
    yield Case(entry.name, "ragged batch", _inputs(Draft(entry, few | widths, lengths), seed))
    yield Case(entry.name, _longest_name(entry, longest), _longest(entry, longest, seed + 1))


def _parts(width: int, few: bool) -> list[int]:
    return [width, 2] if few else [width, max(2, width // 2), 2]


def _longest(entry: EntryPoint, longest: dict[str, int], seed: int) -> Arrays:
    """Draw one row with a gap in the mask, so that one that is heeded only in short texts is told, and all is read."""
    lengths = {axis: [size] for axis, size in longest.items()}
    return _inputs(Draft(entry, _sizes(entry, 1) | longest, lengths, gapped=True), seed)


def _longest_name(entry: EntryPoint, longest: Mapping[str, int]) -> str:
    if len(longest) == 1:
        (size,) = longest.values()
        return f"longest text, {size} tokens"
    return "longest, " + ", ".join(f"{axis}={size}" for axis, size in longest.items())


def longest_sizes(entry: EntryPoint, weights: int = 0) -> dict[str, int]:
    """Give the greatest sizes of the axes along which rows differ in length: legal, and within the budgets."""
    sizes = {axis: entry.axes[axis].clip(LONGEST) for axis in padded(entry)}
    one = _sizes(entry, 1)
    while not _within(entry, one | sizes, weights):
        shorter = {axis: max(entry.axes[axis].low, min(size, SHORT), size // 2) for axis, size in sizes.items()}
        if shorter == sizes:
            break
        sizes = shorter
    return sizes


def _within(entry: EntryPoint, sizes: Mapping[str, int], weights: int) -> bool:
    most = max(8 * math.prod(spec.resolve(sizes)) for spec in entry.outputs)
    return flops(entry, sizes, weights) <= FLOPS and most <= BYTES


def _whole_cases(entry: EntryPoint, seed: int) -> Iterator[Case]:
    sizes = _sizes(entry, 2)
    batch = _inputs(Draft(entry, sizes, {}), seed)
    yield Case(entry.name, "batch", batch)
    if entry.rows is not None and sizes[entry.rows] > 1 == entry.axes[entry.rows].low:
        alone = take(entry, batch, [1])
        yield Case(entry.name, "its second row alone", alone, ("batch", (1,)))


def _sizes(entry: EntryPoint, rows: int) -> dict[str, int]:
    """Give small sizes: `rows` rows, and no two other axes of one size."""
    others = [axis for axis in entry.axes if axis != entry.rows and axis not in padded(entry)]
    sizes = {axis: entry.axes[axis].clip(2 + i) for i, axis in enumerate(others)}
    return sizes | ({} if entry.rows is None else {entry.rows: entry.axes[entry.rows].clip(rows)})


def take(entry: EntryPoint, inputs: Arrays, rows: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    """Choose rows of all inputs that have rows."""
    return {spec.name: take_rows(entry, spec, inputs[spec.name], rows) for spec in entry.inputs}


def take_rows(entry: EntryPoint, spec: TensorSpec, array: np.ndarray, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """Choose rows of one array, if it has rows."""
    return np.take(array, rows, axis=spec.shape.index(entry.rows)) if entry.rows in spec.shape else array


def dear(entry: EntryPoint) -> bool:
    """Say whether a row costs a forward pass of some hundred tokens by itself: a picture, a sound."""
    return any(domain_of(spec).dear for spec in entry.inputs)


def _inputs(draft: Draft, seed: int, *, vary: bool = False) -> dict[str, np.ndarray]:
    drawn = {}
    for spec in draft.entry.inputs:
        domain = domain_of(spec)
        rng = np.random.default_rng([seed, zlib.crc32(f"{draft.entry.name}/{spec.name}".encode())])
        drawn[spec.name] = (domain.vary if vary else domain.draw)(draft, spec, rng)
    return drawn


FAMILY = 16
"""Inputs that are one input, ever further changed."""
INPUTS, DEAR_INPUTS = (256, 32), (64, 8)
"""Inputs among which neighbours are looked for, and how many are run at once. A dear one costs some hundred tokens."""
NEIGHBOURS_FLOPS, NEIGHBOURS_POSITIONS = 4e13, 20_000
"""What all of these may cost a run, and the positions that it may compute: a sound has more than a picture."""
COUPLED = 8
"""Batches that are drawn where rows depend on each other."""


def neighbour_batches(entry: EntryPoint, seed: int = 11, weights: int = 0) -> list[Arrays]:
    """Draw inputs that are more and less like each other, in batches of equal shape: each family grows apart."""
    widths = {axis: entry.axes[axis].clip(SHORT) for axis in padded(entry)}
    if entry.rows is None:
        draft = Draft(entry, _sizes(entry, 2) | widths, {})
        return [_inputs(draft, 1000 * seed + i, vary=True) for i in range(COUPLED)]
    count, size = DEAR_INPUTS if dear(entry) else INPUTS
    while count > FAMILY and not _affordable(entry, _sizes(entry, count) | widths, weights):
        count //= 2
    sizes = _sizes(entry, count) | {entry.rows: count} | widths
    rng = np.random.default_rng([seed, zlib.crc32(entry.name.encode())])
    families = count // FAMILY
    lengths = {axis: rng.integers(w // 2, w + 1, families).clip(1) for axis, w in widths.items()}
    draft = Draft(entry, sizes, {axis: np.repeat(several, FAMILY).tolist() for axis, several in lengths.items()})
    inputs = {spec.name: _mixed(draft, spec, rng) for spec in entry.inputs}
    order = rng.permutation(count)  # a batch has relatives of all degrees
    return [take(entry, inputs, order[i : i + size]) for i in range(0, count, size)]


def _affordable(entry: EntryPoint, sizes: Mapping[str, int], weights: int) -> bool:
    kept = sum(8 * math.prod(kept_shape(spec, spec.resolve(sizes))) for spec in entry.outputs)
    few = not dear(entry) or positions(entry, sizes) <= NEIGHBOURS_POSITIONS
    return few and flops(entry, sizes, weights) <= NEIGHBOURS_FLOPS and kept <= BYTES


def _mixed(draft: Draft, spec: TensorSpec, rng: np.random.Generator) -> np.ndarray:
    """Draw families: the first of each as it is, the others changed to a growing share."""
    domain, drawn = domain_of(spec), domain_of(spec).vary(draft, spec, rng)
    if not spec.shape or spec.shape[0] != draft.entry.rows:
        return drawn
    count = len(drawn)
    share = np.resize(np.arange(FAMILY) / FAMILY, count).reshape(-1, *[1] * (drawn.ndim - 1))
    return domain.mix(np.repeat(drawn[::FAMILY], FAMILY, axis=0)[:count], drawn, share, rng)


def tapped_entries(entries: Iterable[EntryPoint]) -> list[EntryPoint]:
    """Choose the entry points whose intermediate values are compared: those whose inputs no other one has, and more."""
    inputs = [(entry, {spec.name for spec in entry.inputs}) for entry in entries]
    return [entry for entry, names in inputs if not any(names < others for _, others in inputs)]


def tap_case(entry: EntryPoint, seed: int = 7) -> Case:
    """Draw the small case on which intermediate values are compared: one padded row.

    Where an output has fewer numbers a row than can be measured on, such as one score, there are more. Where a row is
    one vector, there are two: a product with one row is summed in another order, which costs XLA several times as much.
    """
    widths = {axis: entry.axes[axis].clip(9) for axis in padded(entry)}
    lengths = {axis: [max(width - 3, 1)] for axis, width in widths.items()}
    vectors = set(entry.axes) == {entry.rows} and not dear(entry)
    sizes = _sizes(entry, 2 if vectors else 1) | widths
    least = min(math.prod(spec.resolve(sizes)) for spec in entry.outputs)
    if entry.rows is not None and least < FEW:
        sizes = _sizes(entry, -(-FEW // least)) | widths
    return Case(entry.name, "intermediates", _inputs(Draft(entry, sizes, lengths), seed))


def unmasked_case(entry: EntryPoint) -> dict[str, np.ndarray]:
    """Draw the inputs of the small case, and mask nothing."""
    drawn = dict(tap_case(entry).inputs)
    for spec in entry.inputs:
        if isinstance(spec.domain, RandomMask | PaddingMask):
            drawn[spec.name] = np.full_like(drawn[spec.name], not spec.domain.inverted)
    return drawn


def probe_cases(probe: str, entry: EntryPoint) -> list[Case]:
    """Draw the case on which a probe's weights are run: the small one."""
    return [replace(tap_case(entry), name=probe)]


def prompts(entry: EntryPoint, ragged: bool, tokens: int, seed: int = 5) -> Arrays:
    """Draw what generation begins with: two rows, of different length if `ragged`."""
    widths = {axis: entry.axes[axis].clip(tokens) for axis in padded(entry)}
    lengths = {axis: [w, max(1, w - 3)] if ragged else [w] for axis, w in widths.items()}
    return _inputs(Draft(entry, _sizes(entry, 2) | widths, lengths), seed)

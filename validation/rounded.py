"""The gate of programs in smaller numbers: the angle to the exact vectors, and the neighbours that are found.

Outputs that are no vectors have no angle: of scores over classes the divergence is judged and which ones are best, of
other numbers the distance, both by what rounding the weights costs.

Rounding to float16 or int8 costs many times what float32 does, so the derived budget says nothing. Each precision
has floors instead. The neighbours are looked for among some hundred inputs that lie in graded families, so that
there is an order to get wrong; the exact vectors of these come from the network in float32.

Floors that any network reaches are too low to see a mistake in a network that rounds well. So a third run, in float32
on the rounded weights, gives a yardstick: what rounding the weights costs this network. The program may lie a few
times as far from that run, for rounding its activations too; what it computes otherwise wrongly costs more. Where the
checkpoint's numbers are of that precision already, rounding costs them nothing: then the yardstick is a run on weights
that are moved as rounding moves any others.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .compare import Golden
from .entry_point import EntryPoint, TensorSpec
from .errors import raised
from .kept import kept
from .report import Report, Row
from .runner import Arrays, Runner

NEAREST = 10
NEIGHBOURS = f"same among the {NEAREST} nearest"
BEST = 5
"""Classes of a distribution that count as its best."""
SINGLE = 16.0
"""How many times as much (squared) as the mean of hundreds a single case may lie apart."""
NOISE = 1e-9
"""Squared distance that orders of summation in float32 cost, with much to spare."""


@dataclass(frozen=True)
class Floors:
    """What a program in smaller numbers must reach.

    Args:
        precision: what it computes or stores in.
        cosine: of any golden's vector with float64's.
        mean: of the cosines of the neighbour inputs with float32's.
        overlap: share of the ten nearest neighbours that are the same.
        pearson: correlation of the similarities of all pairs with float32's, in a corpus of a user's own. The more
            alike its rows are, the more rounding shows.
        activations: greatest distance (squared) from float32 on the rounded weights, in units of what rounding
            weights costs.
        words: most word errors of what is said in recordings, in words of float32's text.
    """

    precision: str
    cosine: float
    mean: float
    overlap: float
    pearson: float
    activations: float
    words: float


def compare_rounded(
    runner: Runner,
    exact: Runner,
    stored: Runner,
    typical: Runner,
    entries: Mapping[str, EntryPoint],
    goldens: Sequence[Golden],
    inputs: Mapping[str, Sequence[Arrays]],
    floors: Floors,
) -> Report:
    """Judge a runner by `floors`.

    Args:
        runner: the program in smaller numbers.
        exact: the same network in float32.
        stored: the same in float32 on the program's rounded weights.
        typical: the same in float32 on weights that rounding has moved; may be `stored`.
        entries: by name.
        goldens: what the reference gives.
        inputs: entry point -> batches among which neighbours are looked for.
        floors: of the program's precision.
    """
    judged = {name: _Inputs(runner, (exact, stored, typical), entries[name], each) for name, each in inputs.items()}
    rows: list[Row] = []
    for golden in goldens:
        entry = entries[golden.case.entry_point]
        rows += golden_rows(runner, entry, golden, floors, judged.get(entry.name))
    for each in judged.values():
        rows += each.rows(floors)
    return Report(runner.name, tuple(rows))


def golden_rows(
    runner: Runner, entry: EntryPoint, golden: Golden, floors: Floors, judged: "_Inputs | None" = None
) -> Iterator[Row]:
    """Judge the outputs of one golden: vectors by their cosine, others by what rounding costs, if that is known."""
    got = _run(runner, entry, golden.case.inputs)
    for spec in entry.outputs:
        want = golden.outputs[spec.name]
        figure = "lowest cosine" if spec.kind.vectors else "error"
        place = (entry.name, f"{golden.case.name}: {figure} of {floors.precision}", spec.name)
        if isinstance(got, str):
            yield Row(*place, False, got)
        elif got[spec.name].shape != want.shape:
            yield Row(*place, False, f"expected shape {want.shape}, got {got[spec.name].shape}")
        elif spec.kind.vectors:
            lowest = float(np.min(cosines(got[spec.name], want), initial=1.0))
            yield replace(_row(place, lowest, floors.cosine), cosine=lowest)
        elif judged is not None:
            yardstick = judged.yardstick(spec)
            allowed = SINGLE * max((1 + floors.activations**0.5) ** 2 * yardstick, NOISE)
            yield _error_row(place, apart(spec, got[spec.name], want), allowed, yardstick)


class _Inputs:
    """What the runners give for inputs that are more and less alike: the program, and the networks in float32."""

    def __init__(
        self, runner: Runner, float32: tuple[Runner, Runner, Runner], entry: EntryPoint, batches: Sequence[Arrays]
    ):
        self._entry = entry
        several = {each: [_kept(each, entry, batch) for batch in batches] for each in dict.fromkeys(float32)}
        self._wanted, self._rounded, self._moved = (_joined(several[each]) for each in float32)
        found = [_run(runner, entry, batch) for batch in batches]
        self._problem = next((outputs for outputs in found if isinstance(outputs, str)), "")
        self._found = {} if self._problem else _joined([each for each in found if not isinstance(each, str)])

    def yardstick(self, spec: TensorSpec) -> float:
        """Say what rounding the weights costs an output of this network."""
        if spec.kind.vectors:
            return float(1 - cosines(self._moved[spec.name], self._wanted[spec.name]).mean())
        return apart(spec, self._moved[spec.name], self._wanted[spec.name])

    def rows(self, floors: Floors) -> Iterator[Row]:
        """Judge every output."""
        for spec in self._entry.outputs:
            of = f"{len(self._wanted[spec.name])} inputs"
            if self._problem:
                yield Row(self._entry.name, of, spec.name, False, self._problem)
            elif spec.kind.vectors:
                yield from self._vector_rows(spec, of, floors)
            else:
                yield from self._other_rows(spec, of, floors)

    def _vector_rows(self, spec: TensorSpec, of: str, floors: Floors) -> Iterator[Row]:
        have, want, on_rounded = (each[spec.name] for each in (self._found, self._wanted, self._rounded))
        entry = self._entry.name
        case = f"{of}: mean cosine of {floors.precision}"
        yield _row((entry, case, spec.name), float(cosines(have, want).mean()), floors.mean)
        yield self._activations_row(spec, of, float(1 - cosines(have, on_rounded).mean()), floors)
        case = f"{of}: {NEIGHBOURS} of {floors.precision}"
        yield _row((entry, case, spec.name), shared_neighbours(have, want), floors.overlap)

    def _other_rows(self, spec: TensorSpec, of: str, floors: Floors) -> Iterator[Row]:
        have, want, moved = (each[spec.name] for each in (self._found, self._wanted, self._moved))
        if not spec.kind.exact:
            yield self._activations_row(spec, of, apart(spec, have, self._rounded[spec.name]), floors)
        if spec.kind.exact or spec.kind.distributions:
            what = "the same" if spec.kind.exact else f"same among the {min(BEST, want.shape[-1])} best"
            place = (self._entry.name, f"{of}: {what} of {floors.precision}", spec.name)
            lost = (1 + floors.activations**0.5) * (1 - agreement(spec, moved, want))
            yield _row(place, agreement(spec, have, want), min(floors.overlap, 1 - lost))

    def _activations_row(self, spec: TensorSpec, of: str, error: float, floors: Floors) -> Row:
        """Judge the distance from float32 on the rounded weights by what rounding weights costs."""
        place = (self._entry.name, f"{of}: rounded activations of {floors.precision}", spec.name)
        yardstick = self.yardstick(spec)
        return _error_row(place, error, max(floors.activations * yardstick, NOISE), yardstick)


def _joined(several: Sequence[Arrays]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([np.atleast_1d(each[name]) for each in several]) for name in several[0]}


def _row(place: tuple[str, str, str], value: float, floor: float) -> Row:
    """Judge a figure of which one is perfect."""
    passed = value >= floor
    problem = "" if passed else f"it is {value:.5f}, at least {floor} is asked for"
    return Row(*place, passed, problem, 1 - value, 1 - floor)


def _error_row(place: tuple[str, str, str], error: float, allowed: float, yardstick: float) -> Row:
    """Judge a distance."""
    problem = "" if error <= allowed else "rounding its activations cannot cost as much"
    return Row(*place, not problem, problem, error, allowed, yardstick)


def _run(runner: Runner, entry: EntryPoint, inputs: Arrays) -> Arrays | str:
    """Compute; what a runtime raises, or leaves out, is a finding."""
    try:
        outputs = runner.run(entry.name, inputs)
    except Exception as error:
        return raised(error)
    missing = [spec.name for spec in entry.outputs if spec.name not in outputs]
    wrong = [s for s in entry.outputs if s.name in outputs and outputs[s.name].dtype != np.dtype(s.dtype)]
    if missing or wrong:
        return f"output {missing[0]} is missing" if missing else f"expected dtype {wrong[0].dtype} of {wrong[0].name}"
    return kept(entry, inputs, outputs)


def _kept(runner: Runner, entry: EntryPoint, inputs: Arrays) -> Arrays:
    return kept(entry, inputs, runner.run(entry.name, inputs))


def apart(spec: TensorSpec, got: np.ndarray, want: np.ndarray) -> float:
    """Give the distance of outputs that are no vectors, squared; infinite if a number is not finite.

    Of scores over classes the divergence (Kullback and Leibler) of what is got from what is wanted, in the mean; of
    other numbers half the squared difference in units of their size.
    """
    have, exact = got.astype(np.float64), want.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        if spec.kind.distributions:
            wanted = _log_softmax(exact)
            terms = np.where(np.exp(wanted) > 0, np.exp(wanted) * (wanted - _log_softmax(have)), 0)
            found = float(np.mean(np.sum(terms, axis=-1)))
        else:
            found = float(np.sum(np.square(have - exact)) / max(2 * np.sum(np.square(exact)), 1e-300))
    return found if np.isfinite(found) else float("inf")


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


def agreement(spec: TensorSpec, got: np.ndarray, want: np.ndarray) -> float:
    """Give the share of ids that are the same, or of the best classes of each distribution."""
    if spec.kind.exact:
        return float(np.mean(got == want))
    best = min(BEST, want.shape[-1])
    have, exact = (np.argsort(-each, axis=-1, kind="stable")[..., :best].reshape(-1, best) for each in (got, want))
    return float(np.mean([len(set(a) & set(b)) / best for a, b in zip(have.tolist(), exact.tolist(), strict=True)]))


def cosines(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Give for each row one minus half the squared distance in units of the exact length; -1 if it is not finite.

    For vectors of length one that is their cosine; for others a wrong length counts as well.
    """
    have, exact = (array.reshape(len(array), -1).astype(np.float64) for array in (got, want))
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.sum(np.square(have - exact), axis=1) / np.maximum(np.sum(np.square(exact), axis=1), 1e-300)
    return np.where(np.isfinite(distance), np.maximum(1 - distance / 2, -1.0), -1.0)


def shared_neighbours(got: np.ndarray, want: np.ndarray) -> float:
    """Give the share of each row's nearest rows, by cosine, that is the same."""
    have, exact = (_nearest(array.reshape(len(array), -1).astype(np.float64)) for array in (got, want))
    same = [len(set(a) & set(b)) for a, b in zip(have.tolist(), exact.tolist(), strict=True)]
    return float(np.mean(same)) / have.shape[1]


def _nearest(rows: np.ndarray) -> np.ndarray:
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    near = unit @ unit.T
    np.fill_diagonal(near, -np.inf)
    return np.argsort(-near, axis=1, kind="stable")[:, : min(NEAREST, len(rows) - 1)]

"""The gate of programs in smaller numbers: the angle to the exact vectors, and the neighbours that are found.

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
from dataclasses import dataclass

import numpy as np

from .compare import Golden
from .entry_point import EntryPoint
from .errors import raised
from .report import Report, Row
from .runner import Arrays, Runner

NEAREST = 10
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
        activations: greatest distance (squared) from float32 on the rounded weights, in units of what rounding
            weights costs.
    """

    precision: str
    cosine: float
    mean: float
    overlap: float
    activations: float


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
    rows = [row for golden in goldens for row in golden_rows(runner, entries[golden.case.entry_point], golden, floors)]
    for name, batches in inputs.items():
        rows += _neighbour_rows(runner, (exact, stored, typical), entries[name], batches, floors)
    return Report(runner.name, tuple(rows))


def golden_rows(runner: Runner, entry: EntryPoint, golden: Golden, floors: Floors) -> Iterator[Row]:
    """Judge the outputs of one golden by their lowest cosine."""
    got = _run(runner, entry, golden.case.inputs)
    for name, want in golden.outputs.items():
        place = (entry.name, f"{golden.case.name}: lowest cosine of {floors.precision}", name)
        if isinstance(got, str):
            yield Row(*place, False, got)
        elif got[name].shape != want.shape:
            yield Row(*place, False, f"expected shape {want.shape}, got {got[name].shape}")
        else:
            yield _row(place, float(np.min(cosines(got[name], want), initial=1.0)), floors.cosine)


def _neighbour_rows(
    runner: Runner, float32: tuple[Runner, Runner, Runner], entry: EntryPoint, batches: Sequence[Arrays], floors: Floors
) -> Iterator[Row]:
    runs = {each: [each.run(entry.name, batch) for batch in batches] for each in dict.fromkeys(float32)}
    wanted, rounded, moved = (runs[each] for each in float32)
    found = [_run(runner, entry, batch) for batch in batches]
    for name in (spec.name for spec in entry.outputs):
        want, on_rounded, on_moved = (
            np.concatenate([outputs[name] for outputs in each]) for each in (wanted, rounded, moved)
        )
        place = (entry.name, f"{len(want)} inputs", name)
        problems = [outputs for outputs in found if isinstance(outputs, str)]
        if problems:
            yield Row(*place, False, problems[0])
            continue
        have = np.concatenate([outputs[name] for outputs in found if not isinstance(outputs, str)])
        yield _row(
            (entry.name, f"{place[1]}: mean cosine of {floors.precision}", name),
            float(cosines(have, want).mean()),
            floors.mean,
        )
        case = f"{place[1]}: rounded activations of {floors.precision}"
        yardstick = float(1 - cosines(on_moved, want).mean())
        yield _activations_row((entry.name, case, name), have, on_rounded, yardstick, floors)
        overlap = shared_neighbours(have, want)
        yield _row(
            (entry.name, f"{place[1]}: same among the {NEAREST} nearest of {floors.precision}", name),
            overlap,
            floors.overlap,
        )


def _row(place: tuple[str, str, str], value: float, floor: float) -> Row:
    """Judge a figure of which one is perfect."""
    passed = value >= floor
    problem = "" if passed else f"it is {value:.5f}, at least {floor} is asked for"
    return Row(*place, passed, problem, 1 - value, 1 - floor)


def _activations_row(
    place: tuple[str, str, str], have: np.ndarray, rounded: np.ndarray, yardstick: float, floors: Floors
) -> Row:
    """Judge the distance from float32 on the rounded weights by what rounding weights costs."""
    error, allowed = float(1 - cosines(have, rounded).mean()), max(floors.activations * yardstick, NOISE)
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
    return outputs


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

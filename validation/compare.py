"""The one comparison: a Runner against goldens. Stages, command line, tests and benchmarks call it.

Names, then shapes, then dtypes, then values; all problems collected, one verdict. Values are held to
the budget; beside it the order of nearest neighbours must agree.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .budget import Budget, distance
from .cases import Case
from .entry_point import EntryPoint
from .errors import raised
from .report import Report, Row
from .runner import Arrays, Runner


@dataclass(frozen=True)
class Golden:
    """A case with what the reference gives for it in float64, and the budget of each output."""

    case: Case
    outputs: Arrays
    budgets: Mapping[str, Budget]


@dataclass(frozen=True)
class Result:
    """What a runner gave for a case, or what it raised."""

    outputs: Arrays
    problem: str = ""


Results = Mapping[tuple[str, str], Result]
"""(Entry point, case) -> result."""


def compare(runner: Runner, entries: Mapping[str, EntryPoint], goldens: Sequence[Golden]) -> Report:
    """Run every golden through `runner` and judge each output."""
    got = {(g.case.entry_point, g.case.name): _run(runner, g.case) for g in goldens}
    rows = [row for golden in goldens for row in _judge(entries, golden, got)]
    for entry in entries:
        mine = [g for g in goldens if g.case.entry_point == entry and g.case.same_as is None]
        rows += _neighbours(entry, mine, got)
    return Report(runner.name, tuple(rows))


def _run(runner: Runner, case: Case) -> "Result":
    """Compute a case; what a runtime raises is a finding, whatever its type."""
    try:
        return Result(runner.run(case.entry_point, case.inputs))
    except Exception as error:
        return Result({}, raised(error))


def _judge(entries: Mapping[str, EntryPoint], golden: Golden, got: Results) -> Iterator[Row]:
    case = golden.case
    result = got[case.entry_point, case.name]
    for spec in entries[case.entry_point].outputs:
        want, budget = golden.outputs[spec.name], golden.budgets[spec.name]
        problem = result.problem or _form(spec.name, spec.dtype, want, result.outputs)
        if problem:
            yield Row(case.entry_point, case.name, spec.name, False, problem)
            continue
        yield value_row(case.entry_point, case.name, spec.name, result.outputs[spec.name], want, budget)


def _form(name: str, dtype: str, want: np.ndarray, result: Arrays) -> str:
    if name not in result:
        return f"output {name} is missing, got {', '.join(result) or 'nothing'}"
    if result[name].shape != want.shape:
        return f"expected shape {want.shape}, got {result[name].shape}"
    if result[name].dtype != np.dtype(dtype):
        return f"expected dtype {dtype}, got {result[name].dtype}"
    return ""


def value_row(entry: str, case: str, output: str, got: np.ndarray, want: np.ndarray, budget: Budget) -> Row:
    """Judge one array against float64."""
    error = distance(got, want)
    passed = error <= budget.allowed
    where = np.unravel_index(np.argmax(np.nan_to_num(np.abs(got - want), nan=np.inf)), want.shape) if want.size else ()
    index = ", ".join(str(int(i)) for i in where)
    problem = "" if passed else f"[{index}] is {got[where]:.9g}, expected {want[where]:.9g}"
    return Row(entry, case, output, passed, problem, error, budget.allowed, budget.yardstick, _cosine(got, want))


def _cosine(got: np.ndarray, want: np.ndarray) -> float | None:
    """Give the lowest cosine between rows, for outputs that are vectors."""
    if want.ndim != 2 or not np.isfinite(got).all():
        return None
    exact = got.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(want, axis=1)
    return float(np.min(np.sum(exact * want, axis=1) / np.maximum(norms, 1e-300), initial=1.0))


def _neighbours(entry: str, goldens: Sequence[Golden], got: Results) -> Iterator[Row]:
    """Hold the order of each vector's neighbours to float64's; neighbours closer than the budget may swap."""
    if not goldens:
        return
    for output, array in goldens[0].outputs.items():
        results = [got[entry, g.case.name] for g in goldens]
        if array.ndim != 2 or any(output not in result.outputs for result in results):
            continue
        want = np.concatenate([g.outputs[output] for g in goldens])
        have = np.concatenate([result.outputs[output] for result in results]).astype(np.float64)
        if want.shape != have.shape or len(want) < 3:
            continue
        slack = 4 * max(g.budgets[output].allowed for g in goldens) * np.sqrt(want.shape[1])
        swapped = _swapped(want @ want.T, have @ have.T, slack)
        problem = f"{swapped} pairs of neighbours changed places" if swapped else ""
        yield Row(entry, f"neighbours of {len(want)} vectors", output, not swapped, problem)


def _swapped(want: np.ndarray, have: np.ndarray, slack: float) -> int:
    """Count the triples (i, j, k) with j clearly nearer to i than k in `want` and farther in `have`."""
    wanted = want[:, :, None] - want[:, None, :]
    found = have[:, :, None] - have[:, None, :]
    return int(np.count_nonzero((wanted > slack) & (found < 0)))

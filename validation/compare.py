"""The one comparison: a Runner against goldens. Stages, command line, tests and benchmarks call it.

Names, then shapes, then dtypes, then values; all problems collected, one verdict. What an output is decides how its
values are judged: numbers by the budget, ids exactly; of embeddings also the order of nearest neighbours.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .budget import Budget, differences, distance
from .cases import Case
from .entry_point import EntryPoint, TensorSpec
from .errors import raised
from .kept import kept
from .locate import Taps, first_divergence, worst
from .report import Report, Row
from .runner import Arrays, Runner


@dataclass(frozen=True)
class Golden:
    """A case with what is kept of what the reference gives for it in float64, and the budget of each output.

    Args:
        positions: which ones of each row are kept, of the outputs of which some are left out.
    """

    case: Case
    outputs: Arrays
    budgets: Mapping[str, Budget]
    positions: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What a runner gave for a case, or what it raised, and what is wrong about the form of each output."""

    outputs: Arrays
    problem: str = ""
    problems: Mapping[str, str] = field(default_factory=dict)


NEIGHBOURS_OF = "neighbours of "
"""How a case begins that holds the order of nearest neighbours."""

Results = Mapping[tuple[str, str], Result]
"""(Entry point, case) -> result."""


def compare(runner: Runner, entries: Mapping[str, EntryPoint], goldens: Sequence[Golden]) -> Report:
    """Run every golden through `runner` and judge each output."""
    got = {(g.case.entry_point, g.case.name): _run(runner, entries[g.case.entry_point], g.case) for g in goldens}
    rows = [row for golden in goldens for row in _judge(entries, golden, got)]
    for name, entry in entries.items():
        mine = [g for g in goldens if g.case.entry_point == name and g.case.same_as is None]
        rows += _neighbours(entry, mine, got)
    return Report(runner.name, tuple(rows))


def _run(runner: Runner, entry: EntryPoint, case: Case) -> "Result":
    """Compute a case and keep what is compared; what a runtime raises is a finding, whatever its type."""
    try:
        outputs = runner.run(case.entry_point, case.inputs)
    except Exception as error:
        return Result({}, raised(error))
    problems = {spec.name: form(entry, spec, case.inputs, outputs) for spec in entry.outputs}
    formed = {name: array for name, array in outputs.items() if not problems.get(name, "")}
    return Result(kept(entry, case.inputs, formed), problems=problems)


def form(entry: EntryPoint, spec: TensorSpec, inputs: Arrays, outputs: Arrays) -> str:
    """Say what is wrong about the form of an output; "" if nothing is."""
    if spec.name not in outputs:
        return f"output {spec.name} is missing, got {', '.join(outputs) or 'nothing'}"
    got, shape = outputs[spec.name], spec.resolve(entry.sizes(inputs))
    if got.shape != shape:
        return f"expected shape {shape}, got {got.shape}"
    if got.dtype != np.dtype(spec.dtype):
        return f"expected dtype {spec.dtype}, got {got.dtype}"
    return ""


def _judge(entries: Mapping[str, EntryPoint], golden: Golden, got: Results) -> Iterator[Row]:
    case = golden.case
    result = got[case.entry_point, case.name]
    for spec in entries[case.entry_point].outputs:
        want, budget = golden.outputs[spec.name], golden.budgets[spec.name]
        problem = result.problem or result.problems[spec.name]
        if not problem and want.shape != result.outputs[spec.name].shape:
            problem = f"the golden is of shape {want.shape}, expected {result.outputs[spec.name].shape}"
        if problem:
            yield Row(case.entry_point, case.name, spec.name, False, problem)
            continue
        yield value_row(case.entry_point, case.name, spec, result.outputs[spec.name], want, budget)


def value_row(entry: str, case: str, spec: TensorSpec, got: np.ndarray, want: np.ndarray, budget: Budget) -> Row:
    """Judge one array against float64."""
    error, allowed = distance(got, want), 0.0 if spec.kind.exact else budget.allowed
    passed = error <= allowed
    apart = np.nan_to_num(differences(got, want), nan=np.inf)
    where = np.unravel_index(np.argmax(apart), want.shape) if want.size else ()
    index = ", ".join(str(int(i)) for i in where)
    problem = "" if passed else f"[{index}] is {float(got[where]):.9g}, expected {float(want[where]):.9g}"
    cosine = _cosine(got, want) if spec.kind.vectors else None
    return Row(entry, case, spec.name, passed, problem, _number(error), allowed, budget.yardstick, cosine)


def taps_row(entry: str, case: str, wanted: Taps, got: Arrays) -> Row:
    """Judge intermediate values against float64: the first module that diverges, or the one nearest to its budget."""
    found = first_divergence(wanted, got)
    place = found or worst(wanted, got)
    problem = f"{place.module} is the first module that diverges" if found else ""
    if found and _number(place.error) is None:
        problem += ": its value is of another size, or holds what is no number"
    return Row(entry, case, place.module, found is None, problem, _number(place.error), place.allowed)


def _number(error: float) -> float | None:
    """Give an error that is a number: there is none where NaN or another shape came, and JSON holds no other."""
    return error if np.isfinite(error) else None


def _cosine(got: np.ndarray, want: np.ndarray) -> float | None:
    """Give the lowest cosine between rows."""
    if not np.isfinite(got).all():
        return None
    have, exact = (array.reshape(len(array), -1).astype(np.float64) for array in (got, want))
    norms = np.linalg.norm(have, axis=1) * np.linalg.norm(exact, axis=1)
    return float(np.min(np.sum(have * exact, axis=1) / np.maximum(norms, 1e-300), initial=1.0))


def _neighbours(entry: EntryPoint, goldens: Sequence[Golden], got: Results) -> Iterator[Row]:
    """Hold the order of each vector's neighbours to float64's; neighbours closer than the budget may swap."""
    for spec in entry.outputs:
        results = [got[entry.name, g.case.name] for g in goldens]
        if not spec.kind.vectors or not goldens or any(spec.name not in result.outputs for result in results):
            continue
        want = np.concatenate([_flat(g.outputs[spec.name]) for g in goldens])
        have = np.concatenate([_flat(result.outputs[spec.name]) for result in results])
        if len(want) < 3:
            continue
        slack = 4 * max(g.budgets[spec.name].allowed for g in goldens) * np.sqrt(want.shape[1])
        swapped = _swapped(want @ want.T, have @ have.T, slack)
        problem = f"{swapped} pairs of neighbours changed places" if swapped else ""
        yield Row(entry.name, f"{NEIGHBOURS_OF}{len(want)} vectors", spec.name, not swapped, problem)


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1).astype(np.float64)


def _swapped(want: np.ndarray, have: np.ndarray, slack: float) -> int:
    """Count the triples (i, j, k) with j clearly nearer to i than k in `want` and farther in `have`."""
    wanted = want[:, :, None] - want[:, None, :]
    found = have[:, :, None] - have[:, None, :]
    return int(np.count_nonzero((wanted > slack) & (found < 0)))

"""The programs of an artifact, executed: goldens, neighbours, probes, and where they part from the network."""

import dataclasses
import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ...exporters.base import Artifact, Exporter, exporters
from ...exporters.precisions import BFLOAT16_COMPUTED, DTYPES, FLOAT32, FLOORS, typically_rounded
from ...exporters.weights import WeightsFile
from ...model.runner import NNXRunner
from ...validation import procedure
from ...validation.cases import neighbour_batches
from ...validation.compare import Golden, compare, taps_row
from ...validation.errors import raised
from ...validation.goldens import Goldens, Intermediates
from ...validation.locate import with_room
from ...validation.probe import FACTORS, read_factors
from ...validation.report import Report, Row
from ...validation.rounded import compare_rounded
from ...validation.runner import Arrays, Runner
from ..directory import RunDirectory
from ..manifest import GOLDENS, WEIGHTS_PATH, artifact, family_and_config, probe_folders

MODULES = "every module"
"""What rows on intermediate values are about."""

ROOM = 4.0
"""Times the budget of an intermediate value that a program's may lie off; a mistake in it lies thousands off."""

COMPILED = 4
"""Steps of a procedure that a compiling runtime does: each is a new shape."""


def judge(exporter: Exporter, runner: Runner, opened: Artifact, goldens: Sequence[Golden], precision: str) -> Report:
    """Hold float32 to the budget; smaller numbers to their floors, and their neighbours to those of the NNX model."""
    if precision == FLOAT32:
        return compare(runner, opened.entry_points, goldens)
    net = opened.network()
    weights = sum(leaf.size for leaf in net.leaves.values())
    inputs = {name: neighbour_batches(net.entry_points[name], weights=weights) for name in opened.programs}
    exact, stored, typical = _in_float32(exporter, opened, precision)
    return compare_rounded(runner, exact, stored, typical, opened.entry_points, goldens, inputs, FLOORS[precision])


def _in_float32(exporter: Exporter, opened: Artifact, precision: str) -> tuple[NNXRunner, NNXRunner, NNXRunner]:
    """Give the networks in float32 that a program is judged by, of its own weights."""
    file = WeightsFile(opened.directory / WEIGHTS_PATH)
    rounded = {leaf: _rounded(array, precision) for leaf, array in exporter.read_weights(opened)}
    return float32_runners(NNXRunner(opened.network(), file), file, rounded, precision)


def float32_runners(
    exact: NNXRunner, file: WeightsFile, rounded: Mapping[str, np.ndarray], precision: str
) -> tuple[NNXRunner, NNXRunner, NNXRunner]:
    """Give the float32 networks that one in smaller numbers is judged by: exact, on its weights, on typical ones."""
    import jax

    stored, moved = exact.changed(jax.device_put(rounded)), typically_rounded(file, rounded, precision)
    return exact, stored, stored if moved is rounded else exact.changed(jax.device_put(moved))


def _rounded(array: np.ndarray, precision: str) -> np.ndarray:
    """Round what the runtime rounds, and not the artifact."""
    return array.astype(DTYPES[precision]).astype(np.float32) if precision == BFLOAT16_COMPUTED else array


def more_rows(run: RunDirectory, exporter: Exporter, opened: Artifact, goldens: Sequence[Golden]) -> list[Row]:
    """Judge the other ways in which a runtime runs what is there."""
    rows: list[Row] = []
    if exporter.more is None:
        return rows
    there = [name for name in exporter.also if f"export-{name}" in run.manifest()["stages"]]
    programs = {name: artifact(run, exporters()[name]).programs for name in there}
    for runner, precision in exporter.more(opened, programs):
        report = judge(exporter, runner, opened, goldens, precision)
        rows += [dataclasses.replace(row, case=f"{runner.name}: {row.case}") for row in report.rows]
    return rows


def probe_rows(exporter: Exporter, opened: Artifact, directory: Path) -> list[Row]:
    """Run the probes, for formats whose operators are this program's choice.

    A program that gives nothing but scores is judged by its intermediate values: the vectors behind them.
    """
    rows: list[Row] = []
    if exporter.probe is None:
        return rows
    entries = opened.entry_points
    silent = _silent(opened)
    for folder in probe_folders(directory):
        goldens, factors = Goldens(folder), read_factors(folder)
        cases = [golden for golden in goldens.cases() if golden.case.entry_point in entries]
        found = compare(exporter.probe(opened, factors), entries, cases).rows
        rows += [row for row in found if row.output not in silent or not row.error]
        for golden in cases:
            name = golden.case.entry_point
            scored = name in opened.programs and silent.issuperset(spec.name for spec in entries[name].outputs)
            if exporter.taps and scored:
                wanted, got = exporter.taps(opened, name, goldens.intermediates(name), factors)
                wanted = {module: value for module, value in wanted.items() if module not in silent}
                rows += [taps_row(name, f"{golden.case.name}, intermediate values", wanted, got)] if wanted else []
    return rows


def tapped_rows(exporter: Exporter, opened: Artifact, directory: Path, failed: Collection[str]) -> Iterator[Row]:
    """Compare what the modules of a program give, where outputs are too much alike to tell; not of those that failed.

    A network whose embeddings differ in the last digits only has no budget that a mistake would leave; its modules do.
    """
    if exporter.locate is None:
        return
    silent = _silent(opened)
    for entry in sorted(opened.programs.keys() - set(failed)):
        place = ""
        for folder in (directory / GOLDENS, *probe_folders(directory)):
            factors = read_factors(folder) if (folder / FACTORS).exists() else {}
            traced = _within(Goldens(folder).intermediates(entry), silent if factors else ())
            try:
                place = place or exporter.locate(opened, entry, traced, factors)
            except MemoryError:
                raise
            except Exception as error:  # as above: what a runtime says about an altered program is a finding
                place = raised(error)
        yield Row(entry, "intermediate values", MODULES, not place, place)


def _silent(opened: Artifact) -> set[str]:
    """Name the outputs that tell nothing under a probe, where vectors are alike: what float32 costs them is luck."""
    return {spec.name for entry in opened.entry_points.values() for spec in entry.outputs if spec.kind.sums}


def _within(traced: Intermediates, silent: Collection[str]) -> Intermediates:
    """Give modules room: runtimes fuse what lies between them."""
    told = {module: value for module, value in traced.values.items() if module not in silent}
    return dataclasses.replace(traced, values=with_room(told, ROOM))


def procedure_rows(run: RunDirectory, runner: Runner, compiles: bool) -> list[Row]:
    """Run the family's procedures; a runtime that compiles each step for its shapes does the first few."""
    family, config = family_and_config(run)
    entries = {entry.name: entry for entry in family.entry_points(config)}
    return [
        procedure.judge(
            runner, entries, greedy, procedure.read(run.path / GOLDENS, greedy), COMPILED if compiles else greedy.steps
        )
        for greedy in family.procedures(config)
    ]


def rounded_procedure_rows(run: RunDirectory, exporter: Exporter, runner: Runner, opened: Artifact) -> list[Row]:
    """Run the family's procedures by programs in smaller numbers, as far as rounding cannot choose another token.

    The first few steps: the network in float32, by which that is told, compiles each anew.
    """
    family, config = family_and_config(run)
    entries = {entry.name: entry for entry in family.entry_points(config)}
    rows: list[Row | None] = []
    if procedures := family.procedures(config):
        exact, _, typical = _in_float32(exporter, opened, exporter.precision)
        room = 1 + FLOORS[exporter.precision].activations ** 0.5
        for greedy in procedures:
            golden = procedure.read(run.path / GOLDENS, greedy)
            rows.append(procedure.judge_rounded(runner, (exact, typical), entries, greedy, golden, COMPILED, room))
    return [row for row in rows if row]


class Whole:
    """Runs the programs of an artifact, and as the model what its clients compute by themselves."""

    def __init__(self, programs: Runner, opened: Artifact):
        self.name = programs.name
        self._programs, self._opened = programs, opened

    def run(self, entry_point: str, inputs: Arrays) -> Arrays:
        """Compute an entry point."""
        if entry_point in self._opened.programs:
            return self._programs.run(entry_point, inputs)
        return self._model.run(entry_point, inputs)

    @functools.cached_property
    def _model(self) -> NNXRunner:
        return NNXRunner(self._opened.network(), WeightsFile(self._opened.directory / WEIGHTS_PATH))


def numbers(golden: Golden) -> int:
    """Say how much a case computes with."""
    return sum(array.size for array in golden.case.inputs.values())


def places(exporter: Exporter, opened: Artifact, directory: Path, rows: Sequence[Row]) -> Iterator[str]:
    """Say where the programs that failed part from the network: on the network's own weights, else on a probe's."""
    if exporter.locate is None:
        return
    for entry in sorted({row.entry_point for row in rows if not row.passed} & opened.programs.keys()):
        for folder in (directory / GOLDENS, *probe_folders(directory)):
            factors = read_factors(folder) if (folder / FACTORS).exists() else {}
            try:
                place = exporter.locate(opened, entry, Goldens(folder).intermediates(entry), factors)
            except MemoryError:
                raise
            except Exception as error:
                yield f"{entry}: the place cannot be found: {raised(error)}"
                break
            if place:
                yield f"{place} [{folder.name}]" if factors else place
                break
        else:
            yield f"{entry}: no module parts from the network on the small case; it does so only on other inputs"

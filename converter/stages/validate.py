"""Validation: each artifact executed in its own runtime against the goldens, and its weights traced to the source.

Needs neither the checkpoint nor PyTorch. Each format is proved in a process of its own.
"""

import dataclasses
import functools
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...exporters.base import PROGRAMS, Artifact, Exporter, exporters
from ...exporters.precisions import BFLOAT16_COMPUTED, DTYPES, FLOAT32, FLOORS, typically_rounded
from ...exporters.weights import WeightsFile
from ...validation.cases import cases, neighbour_batches, probe_cases
from ...validation.compare import Golden, compare
from ...validation.entry_point import Axis, EntryPoint, TensorSpec
from ...validation.errors import ConvertError, GateError, InputError, raised
from ...validation.goldens import Goldens
from ...validation.probe import FACTORS, folder_name, read_factors
from ...validation.report import Report, Row, junit
from ...validation.rounded import compare_rounded
from ...validation.runner import Runner
from ..certificate.cause import recognised
from ..certificate.ledger import Ledger
from ..directory import Manifest, RunDirectory
from ..pack import PREPROCESS, TOKENIZER
from ..pack.replay import Pack, packed
from ..progress import Progress
from ..report import html as html_report
from .common import LEDGER, WEIGHTS_PATH, family_and_config, network
from .parity import GOLDENS, PARITY, PROBES, NNXRunner, probe_folders

VALIDATE = "reports/validate.json"
JUNIT = "reports/junit.xml"
HTML = "reports/report.html"

SHARED = (LEDGER, WEIGHTS_PATH, TOKENIZER, PREPROCESS)

EXPLAINED = 8
"""Wrong weights whose mistake is looked for; where there are more, it is the file that is wrong."""

FORBIDDEN = ("torch",)
"""Made unimportable where artifacts are proved: an artifact that needs the framework it came from is none."""


def entry_points(manifest: Manifest) -> dict[str, EntryPoint]:
    """Rebuild the entry points from the manifest alone."""

    def tensors(items: list[dict]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(t["name"], t["dtype"], tuple(t["shape"])) for t in items)

    return {
        name: EntryPoint(
            name,
            tensors(entry["inputs"]),
            tensors(entry["outputs"]),
            {axis: Axis(bounds["min"], bounds["max"]) for axis, bounds in entry["axes"].items()},
        )
        for name, entry in manifest["entry_points"].items()
    }


def check_manifest(manifest: Manifest) -> None:
    """Hold what the manifest says about the network against the family, which knows its entry points.

    Raises:
        GateError: an entry point is missing or another one, a stage has failed, or a program is not among the files.
    """
    family, config = family_and_config(manifest)
    wanted = {entry.name: entry.to_json() for entry in family.entry_points(config)}
    stated = {n: {k: v for k, v in e.items() if k != "programs"} for n, e in manifest["entry_points"].items()}
    for name in sorted(wanted.keys() | stated.keys()):
        if stated.get(name) != wanted.get(name):
            raise GateError(f"the manifest's entry point {name} is not {family.name}'s: it was altered")
    for stage, verdict in manifest["verdicts"].items():
        if verdict != "pass" and not stage.startswith("validate"):
            raise GateError(f"{stage} failed; mend that and run it again before the artifacts are validated")
    exported = {record.get("key") for record in manifest["stages"].values()}
    for name, entry in manifest["entry_points"].items():
        for key in entry["programs"].keys() - exported:
            raise GateError(f"the manifest has a {key} program of {name}, but no stage that made it: it was altered")
        for key, program in entry["programs"].items():
            made = [file for s in manifest["stages"].values() if s.get("key") == key for file in s["files"]]
            for path in _paths(program):
                if not any(file == path or file.startswith(f"{path}/") for file in made):
                    raise GateError(f"the manifest's {key} program of {name} is {path}, which no export of it made")


def _paths(program: Mapping[str, Any]) -> list[str]:
    """Give the files and folders that a program is said to be."""
    named = [program[key] for key in ("path", "jax_export") if key in program]
    return [*named, *program.get("static", {}).values()]


def artifact(run: RunDirectory, exporter: Exporter) -> Artifact:
    """Describe an artifact to its opener.

    Raises:
        InputError: the run holds no such format.
        GateError: not every entry point has a program.
    """
    manifest = run.manifest()
    programs = {
        n: e["programs"][exporter.key] for n, e in manifest["entry_points"].items() if exporter.key in e["programs"]
    }
    if not programs:
        raise InputError(
            f"{run.path} holds no {exporter.name}; run `bgevis-convert export {exporter.name} {run.path}` first"
        )
    missing = sorted(manifest["entry_points"].keys() - programs.keys())
    if missing:
        raise GateError(f"the manifest has no {exporter.name} program of {', '.join(missing)}: it was altered")
    return Artifact(run.path, entry_points(manifest), programs, lambda: network(run.manifest()))


def reads(run: RunDirectory, exporter: Exporter) -> str:
    """Give the digest of what the proof of a format depends on."""
    manifest = run.manifest()
    names = ("reference", *(f"export-{name}" for name in (exporter.name, *exporter.also)))
    stages = (manifest["stages"].get(stage, {"files": []}) for stage in names)
    return run.reads(LEDGER, *packed(run), *(file for stage in stages for file in stage["files"]))


def validate_one(run: RunDirectory, exporter: Exporter, progress: Progress) -> None:
    """Prove one artifact: whole files, the source's weights, the reference's outputs in the artifact's runtime."""
    exporter.require()
    with run.stage(f"validate-{exporter.name}", reads(run, exporter)) as staged:
        report = prove(run, exporter)
        file = staged.out / report_path(exporter)
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(report.to_json(), indent=1) + "\n")
        progress.note(report.summary())
        if not report.passed:
            raise GateError(f"validate {exporter.name}: {told(report)}")


def told(report: Report) -> str:
    """Say the verdict in one line, and where to look in further ones."""
    return "\n    ".join([report.summary(), *report.notes])


def report_path(exporter: Exporter) -> str:
    """Name the report on one format."""
    return f"reports/validate/{exporter.key}.json"


def prove(run: RunDirectory, exporter: Exporter) -> Report:
    """Collect every verdict on one artifact."""
    for module in FORBIDDEN:
        sys.modules[module] = None  # type: ignore[assignment]  # Python's way to make an import fail
    opened = artifact(run, exporter)
    goldens = Goldens(run.path / GOLDENS).cases()
    files = [*run.manifest()["stages"][f"export-{exporter.name}"]["files"], *packed(run)]
    files += [WEIGHTS_PATH] if exporter.folder == PROGRAMS else []
    damaged = [Row("all", "files as the manifest states them", damage, False, damage) for damage in run.damaged(files)]
    damaged += [Row("all", "goldens", "", False, problem) for problem in golden_problems(run)]
    if damaged:
        return Report(exporter.name, tuple(damaged))
    ledger = Ledger.read(run.path / LEDGER)
    rows = rounding_rows(exporter, opened, ledger) if exporter.rounding else weight_rows(exporter, opened, ledger)
    if packed(run):
        pack = Pack(run.path)
        rows, goldens = [*rows, *pack.rows()], pack.fed(goldens, opened.entry_points)
    if exporter.weights_only:  # of each entry point one case: that its program reads these weights
        costly_first = sorted(goldens, key=_numbers, reverse=True)
        goldens = list({golden.case.entry_point: golden for golden in costly_first}.values())
    try:
        runner = exporter.open(opened)
    except GateError as error:
        return Report(exporter.name, (*rows, Row("all", "opens", "", False, str(error))))
    report = judge(exporter, runner, opened, goldens, exporter.precision)
    rows = [*rows, *report.rows, *probe_rows(exporter, opened, run.path)]
    rows += more_rows(run, exporter, opened, goldens)
    return Report(report.runner, tuple(rows), tuple(places(exporter, opened, run.path, rows)))


def _numbers(golden: Golden) -> int:
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


def golden_problems(run: RunDirectory) -> Iterator[str]:
    """Say what the goldens lack that every network of the family has, and what in them cannot have been measured."""
    family, config = family_and_config(run.manifest())
    entries = family.entry_points(config)
    yield from Goldens(run.path / GOLDENS).problems(entries, cases)
    for name in family.probes(config):
        folder = run.path / PROBES / folder_name(name)
        yield from Goldens(folder).problems(entries, functools.partial(probe_cases, name))


def judge(exporter: Exporter, runner: Runner, opened: Artifact, goldens: Sequence[Golden], precision: str) -> Report:
    """Hold float32 to the budget; smaller numbers to their floors, and their neighbours to those of the NNX model."""
    if precision == FLOAT32:
        return compare(runner, opened.entry_points, goldens)
    net, file = opened.network(), WeightsFile(opened.directory / WEIGHTS_PATH)
    inputs = {name: neighbour_batches(net.entry_points[name]) for name in opened.programs}
    rounded = {leaf: _rounded(array, precision) for leaf, array in exporter.read_weights(opened)}
    exact, stored, typical = float32_runners(NNXRunner(net, file), file, rounded, precision)
    return compare_rounded(runner, exact, stored, typical, opened.entry_points, goldens, inputs, FLOORS[precision])


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
    """Run the probes, for formats whose operators are this program's choice."""
    rows: list[Row] = []
    if exporter.probe is None:
        return rows
    for folder in probe_folders(directory):
        runner = exporter.probe(opened, read_factors(folder))
        rows += compare(runner, opened.entry_points, Goldens(folder).cases()).rows
    return rows


def rounding_rows(exporter: Exporter, opened: Artifact, ledger: Ledger) -> list[Row]:
    """Lead the float32 weights back to the source, and hold each stored number to what rounding them gives."""
    assert exporter.rounding
    exact = dataclasses.replace(exporter, read_weights=lambda opened: _float32(opened.directory))
    rows = weight_rows(exact, opened, ledger)
    seen = 0
    try:
        for leaf, problem in exporter.rounding(opened):
            seen += 1
            if problem:
                rows.append(Row("all", "rounded weights", leaf, False, f"{leaf}: {problem}"))
    except MemoryError:
        raise
    except Exception as error:
        return [*rows, Row("all", "rounded weights", "", False, f"the weights cannot be read ({raised(error)})")]
    passed = all(row.passed for row in rows)
    return [*rows, Row("all", f"{seen} weights are the source's, rounded", "weights", True)] if passed else rows


def _float32(directory: Path) -> Iterator[tuple[str, np.ndarray]]:
    file = WeightsFile(directory / WEIGHTS_PATH)
    return ((leaf, file[leaf]) for leaf in file.tensors)


def weight_rows(exporter: Exporter, opened: Artifact, ledger: Ledger) -> list[Row]:
    """Read every weight out of the artifact, lead it back to its source tensor, and compare the digests.

    What a runtime raises over a damaged artifact is a finding, whatever its type.
    """
    wanted = ledger.leaves
    rows: list[Row] = []
    seen: set[str] = set()
    try:
        for leaf, array in exporter.read_weights(opened):
            seen.add(leaf)
            explain = len(rows) < EXPLAINED
            problem = _weight_problem(ledger, leaf, array, explain) if leaf in wanted else "is no parameter"
            if problem:
                rows.append(Row("all", "weights", leaf, False, f"{leaf}: {problem}"))
    except MemoryError:
        raise
    except Exception as error:
        return [*rows, Row("all", "weights", "", False, f"the weights cannot be read ({raised(error)})")]
    rows += [Row("all", "weights", leaf, False, f"{leaf} is missing") for leaf in sorted(set(wanted) - seen)]
    return rows or [Row("all", f"{len(seen)} weights lead back to the source's bytes", "weights", True)]


def _weight_problem(ledger: Ledger, leaf: str, array: np.ndarray, explain: bool) -> str:
    name = ledger.leaves[leaf]
    try:
        if ledger.digest(name, array) == ledger.entries[name].sha256:
            return ""
    except ValueError as error:
        return f"shape {array.shape} does not lead back to {name}: {error}"
    cause = recognised(ledger, leaf, array) if explain else ""
    return f"differs from the checkpoint's {name}" + (f": it is {cause}" if cause else "")


def conclude(run: RunDirectory, formats: Sequence[Exporter]) -> None:
    """Join the reports of all formats, write them for programs, CI and people, and give the verdict."""
    reports = {e.key: Report.from_json(json.loads((run.path / report_path(e)).read_text())) for e in formats}
    files = run.manifest()["files"]
    shared = [file for file in files if file.startswith(f"{GOLDENS}/") or file in SHARED]
    damaged = tuple(Row("all", "files as the manifest states them", d, False, d) for d in run.damaged(shared))
    if damaged:
        reports["run directory"] = Report("run directory", damaged)
    with run.stage("validate", run.reads(*(report_path(e) for e in formats))) as staged:
        (staged.out / "reports").mkdir()
        document = {key: report.to_json() for key, report in reports.items()}
        (staged.out / VALIDATE).write_text(json.dumps(document, indent=1) + "\n")
        parity = run.path / PARITY
        before = {"parity": Report.from_json(json.loads(parity.read_text()))} if parity.exists() else {}
        (staged.out / JUNIT).write_text(junit(before | reports))
        page = html_report.render(run.manifest(), Ledger.read(run.path / LEDGER), before | reports, run.path)
        (staged.out / HTML).write_bytes(page)
        failed = [report for report in reports.values() if not report.passed]
        if failed:
            reasons = "\n  ".join(map(told, failed))
            count = f"{len(failed)} of {len(reports)} artifacts failed\n  " if len(failed) > 1 else ""
            raise GateError(f"validate: {count}{reasons}")


def write_junit(directory: Path, file: Path, error: ConvertError | None = None) -> None:
    """Copy the JUnit report; where the gate said no before there was one, write why in its place."""
    if error is None or RunDirectory(directory).manifest()["verdicts"].get("validate") == "fail":
        shutil.copyfile(directory / JUNIT, file)
    else:
        refused = Row("all", "can be validated", "", False, str(error))
        file.write_text(junit({"run directory": Report("bgevis-convert", (refused,))}))

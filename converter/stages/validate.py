"""Validation: each artifact executed in its own runtime against the goldens, and its weights traced to the source.

Needs neither the checkpoint nor PyTorch. Each format is proved in a process of its own.
"""

import contextlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...exporters.base import PROGRAMS, Exporter
from ...exporters.precisions import FLOAT32
from ...exporters.weights import WeightsFile
from ...validation.errors import ConvertError, GateError, InputError
from ...validation.files import read_json
from ...validation.goldens import Goldens, read_arrays
from ...validation.packages import UNASKED, installed
from ...validation.report import EVERY, Report, Row, junit
from ..certificate.ledger import Ledger
from ..directory import RunDirectory
from ..manifest import ATTENTION, GOLDENS, LEDGER, PARITY, WEIGHTS_PATH, artifact, entry_points
from ..options import Options
from ..output import refuse_place, written
from ..pack.preprocessor import Preprocessor
from ..pack.replay import Pack, packed
from ..progress import WARNING, Progress
from ..proof.again import again_rows, other_versions
from ..proof.programs import (
    MODULES,
    Whole,
    judge,
    more_rows,
    numbers,
    places,
    probe_rows,
    procedure_rows,
    rounded_procedure_rows,
    tapped_rows,
)
from ..proof.verdicts import NOT_CHECKED, PREFIX, end_to_end_rows, verdicts
from ..proof.weights import rounding_rows, weight_rows
from ..report import html as html_report
from ..report import plots
from . import documents
from .load import tool

VALIDATE = "reports/validate.json"
JUNIT = "reports/junit.xml"
HTML = "reports/report.html"
SUITES = b'<testsuites name="bgevis-convert"'
"""How a JUnit report of this tool begins."""

BEFORE = {"parity": PARITY, documents.RUN: documents.REPORT}
"""Reports on what every artifact is held against."""

FORBIDDEN = ("torch", UNASKED)
"""Made unimportable where artifacts are proved: an artifact that needs the framework it came from is none."""


def perform(run: RunDirectory, options: Options, progress: Progress, exporter: Exporter) -> None:
    """Prove one artifact: whole files, the source's weights, the reference's outputs in the artifact's runtime."""
    exporter.require()
    with run.stage(f"validate-{exporter.name}", reads(run, options, exporter)) as staged:
        report = prove(run, exporter, again=options.again)
        file = staged.out / report_path(exporter)
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(report.to_json(), indent=1) + "\n")
        progress.note(report.summary())
        for text in report.notes if report.passed else ():
            progress.note(WARNING + text)
        if not report.passed:
            raise GateError(f"validate {exporter.name}: {told(report)}")


def reads(run: RunDirectory, options: Options, exporter: Exporter) -> str:
    """Give the digest of what the proof of a format depends on."""
    manifest = run.manifest()
    names = ("reference", *(f"export-{name}" for name in (exporter.name, *exporter.also)))
    stages = (manifest["stages"].get(stage, {"files": []}) for stage in names)
    return run.reads(LEDGER, *packed(run), *(file for stage in stages for file in stage["files"]))


def told(report: Report) -> str:
    """Say the verdict in one line, and where to look in further ones."""
    return "\n    ".join([report.summary(), *report.notes])


def report_path(exporter: Exporter) -> str:
    """Name the report on one format."""
    return f"reports/validate/{exporter.key}.json"


def prove(run: RunDirectory, exporter: Exporter, *, again: bool = False) -> Report:
    """Collect every verdict on one artifact; with `again`, export it once more first and compare every byte."""
    for module in FORBIDDEN:
        sys.modules[module] = None  # type: ignore[assignment]  # Python's way to make an import fail
    opened = artifact(run, exporter)
    goldens = Goldens(run.path / GOLDENS).cases()
    files = [*run.manifest()["stages"][f"export-{exporter.name}"]["files"], *packed(run)]
    files += [WEIGHTS_PATH] if exporter.folder == PROGRAMS else []
    damaged = [Row(EVERY, "files as the manifest states them", damage, False, damage) for damage in run.damaged(files)]
    if damaged:
        return Report(exporter.name, tuple(damaged))
    ledger = Ledger.read(run.path / LEDGER)
    rows = rounding_rows(exporter, opened, ledger) if exporter.rounding else weight_rows(exporter, opened, ledger)
    if packed(run):
        pack = Pack(run.path)
        rows, goldens = [*rows, *pack.rows()], pack.fed(goldens, entry_points(run.manifest()))
    goldens = [golden for golden in goldens if golden.case.entry_point in opened.entry_points]
    notes = [other_versions(run.manifest(), exporter, tool())] if again else [""]
    if exporter.weights_only:  # of each entry point one case: that its program reads these weights
        costly_first = sorted(goldens, key=numbers, reverse=True)
        goldens = list({golden.case.entry_point: golden for golden in costly_first}.values())
    try:
        runner = exporter.open(opened)
    except GateError as error:
        return Report(exporter.name, (*rows, Row(EVERY, "opens", "", False, str(error))))
    report = judge(exporter, runner, opened, goldens, exporter.precision)
    if not exporter.weights_only:
        rows = [*rows, *end_to_end_rows(run, exporter, runner, opened)]
    rows = [*rows, *report.rows, *probe_rows(exporter, opened, run.path)]
    failed = {row.entry_point for row in rows if not row.passed}
    rows += tapped_rows(exporter, opened, run.path, failed)
    rows += more_rows(run, exporter, opened, goldens)
    if exporter.precision == FLOAT32 and not exporter.weights_only:
        rows += procedure_rows(run, Whole(runner, opened), exporter.compiles)
    elif exporter.precision != FLOAT32:
        rows += rounded_procedure_rows(run, exporter, Whole(runner, opened), opened)
    rows += again_rows(run, exporter) if again and not notes[0] else ()
    network_rows = [row for row in rows if row.output != MODULES and not row.case.startswith(PREFIX)]
    notes += places(exporter, opened, run.path, network_rows)
    return Report(report.runner, tuple(rows), tuple(filter(None, notes)))


def conclude(run: RunDirectory, formats: Sequence[Exporter]) -> None:
    """Join the reports of all formats, write them for programs, CI and people, and give the verdict."""
    reports = {e.key: Report.from_json(read_json(run.path / report_path(e))) for e in formats}
    with run.stage("validate", run.reads(*(report_path(e) for e in formats))) as staged:
        (staged.out / "reports").mkdir()
        document = {key: report.to_json() for key, report in reports.items()}
        (staged.out / VALIDATE).write_text(json.dumps(document, indent=1) + "\n")
        there = {name: run.path / file for name, file in BEFORE.items()}
        before = {name: Report.from_json(read_json(file)) for name, file in there.items() if file.exists()}
        staged.proof = verdicts(run, before | reports)
        second = staged.proof["end_to_end"]
        skipped = {"end to end": second["why"]} if second["verdict"] == NOT_CHECKED else {}
        (staged.out / JUNIT).write_text(junit(before | reports, skipped))
        shown = run.manifest() | {"proof": staged.proof}
        page = html_report.render(
            shown,
            Ledger.read(run.path / LEDGER),
            before | reports,
            run.path,
            preprocessing(run),
            tried(run),
            pictures(run),
        )
        (staged.out / HTML).write_bytes(page)
        failed = [report for report in reports.values() if not report.passed]
        if failed:
            reasons = "\n  ".join(map(told, failed))
            count = f"{len(failed)} of {len(reports)} artifacts failed\n  " if len(failed) > 1 else ""
            raise GateError(f"validate: {count}{reasons}")


def preprocessing(run: RunDirectory) -> dict[str, Any]:
    """Read preprocess.json; empty where the run has no pack."""
    return Preprocessor(run.path).rules if packed(run) else {}


def pictures(run: RunDirectory) -> list[plots.Drawn] | None:
    """Draw what there is to draw of the network; None where there is some, and no matplotlib."""
    seen = run.path / ATTENTION
    weights = read_arrays(seen) if seen.exists() else {}
    panels = plots.panels(WeightsFile(run.path / WEIGHTS_PATH), weights)
    if panels and not installed("matplotlib"):
        return None
    return list(plots.inline(panels)) if panels else []


def tried(run: RunDirectory) -> dict[str, dict[str, int]]:
    """Give the greatest size of each entry point's axes in a case."""
    found: dict[str, dict[str, int]] = {}
    entries = entry_points(run.manifest())
    for golden in Goldens(run.path / GOLDENS).cases():
        largest = found.setdefault(golden.case.entry_point, {})
        with contextlib.suppress(KeyError, ValueError):  # of altered goldens, which no verdict passes
            for axis, size in entries[golden.case.entry_point].sizes(golden.case.inputs).items():
                largest[axis] = max(size, largest.get(axis, 0))
    return found


def refuse_junit(directory: Path, file: Path) -> None:
    """Refuse, before any work, to write a JUnit report over anything else than one of this tool's.

    Raises:
        InputError: something else is there, or the place is in the run directory.
    """
    if directory.resolve() in file.resolve().parents:
        raise InputError(f"--junit {file} lies inside the run directory {directory}; choose another place")
    refuse_place(file, "--junit", force=True)
    if file.exists() and file.stat().st_size and SUITES not in file.read_bytes()[:200]:
        raise InputError(f"--junit {file} exists and is no JUnit report of bgevis-convert; choose another place")


def write_junit(directory: Path, file: Path, error: ConvertError | None = None) -> None:
    """Copy the JUnit report; where the gate said no before there was one, write why in its place."""
    with written(file) as aside:
        if error is None or RunDirectory(directory).manifest()["verdicts"].get("validate") == "fail":
            shutil.copyfile(directory / JUNIT, aside)
        else:
            refused = Row(EVERY, "can be validated", "", False, str(error))
            aside.write_text(junit({"run directory": Report("bgevis-convert", (refused,))}))

"""The two verdicts, never mixed: is it the network, and does a raw text become what upstream makes of it.

*Network*: ids and pixels in, held to upstream's classes in float64. *End to end*: raw texts in, through the pack's
tokenizer and the artifact, held to upstream's own `encode`. Where that could not be run, the second is not checked.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...exporters.base import Artifact, Exporter
from ...exporters.precisions import FLOAT32, FLOORS
from ...validation.budget import largest
from ...validation.compare import Golden, compare
from ...validation.entry_point import EntryPoint, TensorSpec
from ...validation.errors import InputError
from ...validation.files import read_json
from ...validation.goldens import Goldens
from ...validation.report import Report, Row
from ...validation.rounded import golden_rows
from ...validation.runner import Runner
from ..directory import RunDirectory
from ..manifest import END_TO_END, GOLDENS, JUDGE, entry_points
from ..pack.replay import Pack, packed
from .again import NOT_COMPARED

PREFIX = "end to end: "
"""Before the name of a case that belongs to the second verdict."""

COSTLY = 1e-5
"""Share of what tells inputs apart, beyond which what float32 costs is noted; a trained network's is some 1e-6."""

PASS, FAIL, NOT_CHECKED = "pass", "fail", "not checked"


def judge(run: RunDirectory) -> dict[str, Any]:
    """Read whose code the goldens come from.

    Raises:
        InputError: the file is missing or altered beyond reading.
    """
    file = run.path / JUDGE
    try:
        found = read_json(file)
        if not (isinstance(found["network"], str) and isinstance(found["end_to_end"], dict)):
            raise TypeError("it names no judge")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} cannot be read ({error!r}); run `bgevis-convert parity {run.path}` again") from error
    return found


def judged(entry: EntryPoint) -> TensorSpec:
    """Give the output that upstream's own way from raw texts gives: the embedding, else the first."""
    return entry.embedding or entry.outputs[0]


def goldens(run: RunDirectory, opened: Artifact) -> list[Golden]:
    """Read what upstream gives for the pack's raw texts, with the inputs that the pack makes of them."""
    if not packed(run) or "judge" not in judge(run)["end_to_end"]:
        return []
    wanted = {(g.case.entry_point, g.case.name): g for g in Goldens(run.path / END_TO_END).cases()}
    cases = Pack(run.path).cases(entry_points(run.manifest()))
    made = {(case.entry_point, case.name): case for case in cases if case.entry_point in opened.entry_points}
    return [dataclasses.replace(golden, case=made[key]) for key, golden in wanted.items() if key in made]


def end_to_end_rows(run: RunDirectory, exporter: Exporter, runner: Runner, opened: Artifact) -> list[Row]:
    """Judge one artifact from raw texts on; no rows where nothing can be checked."""
    found = goldens(run, opened)
    entries = {n: dataclasses.replace(entry, outputs=(judged(entry),)) for n, entry in opened.entry_points.items()}
    if exporter.precision != FLOAT32:
        floors = FLOORS[exporter.precision]
        rows = [row for g in found for row in golden_rows(runner, entries[g.case.entry_point], g, floors)]
    else:
        rows = list(compare(runner, entries, found).rows) if found else []
    return [dataclasses.replace(row, case=PREFIX + row.case) for row in rows]


def costly(run: RunDirectory) -> list[str]:
    """Name the embeddings of which float32 itself loses much of what tells inputs apart: no budget can be narrower."""
    folder = Goldens(run.path / GOLDENS)
    notes = []
    for name, entry in entry_points(run.manifest()).items():
        found = [golden for golden in folder.cases() if golden.case.entry_point == name]
        for output in (spec.name for spec in entry.outputs if spec.kind.vectors):
            vectors = np.concatenate([g.outputs[output].reshape(len(g.outputs[output]), -1) for g in found])
            apart = largest(vectors - vectors.mean(axis=0))
            cost = max(golden.budgets[output].yardstick for golden in found)
            if len(vectors) > 1 and cost > COSTLY * apart:
                share = cost / max(apart, 1e-300)
                told = (
                    f"float32 itself costs {share:.1e} of what tells {len(vectors)} inputs of {name} apart in {output}"
                )
                notes.append(f"{told}: smaller differences mean nothing, in no runtime")
    return notes


def verdicts(run: RunDirectory, reports: Mapping[str, Report]) -> dict[str, Any]:
    """State both verdicts over all artifacts, as the manifest does."""
    rows = [row for report in reports.values() for row in report.rows]
    second = [row for row in rows if row.case.startswith(PREFIX)]
    first = [row for row in rows if not row.case.startswith(PREFIX)]
    said = judge(run)
    stated = said["end_to_end"]
    network = {"verdict": PASS if all(row.passed for row in first) else FAIL, "judge": said["network"]}
    compared = {note for report in reports.values() for note in report.notes if note.startswith(NOT_COMPARED)}
    if notes := [*costly(run), *sorted(compared)]:
        network["notes"] = notes
    if second:
        verdict = PASS if all(row.passed for row in second) else FAIL
        return {"network": network, "end_to_end": {"verdict": verdict, **stated}}
    reason = stated.get("not_checked", "no artifact that was validated runs raw texts")
    return {"network": network, "end_to_end": {"verdict": NOT_CHECKED, "why": reason}}


def tell(proof: Mapping[str, Any]) -> list[str]:
    """Write both verdicts for a person."""
    lines = []
    for name in sorted(proof, reverse=True):  # the network first
        verdict = proof[name]
        text = f"{name.replace('_', ' ')}: {verdict['verdict']}"
        text += f": {verdict['why']}" if "why" in verdict else f" (judged by {verdict['judge']})"
        lines += [text, *(f"  note: {note}" for note in verdict.get("notes", []))]
    return lines

"""`serving`: a proved SavedModel in the shape in which TensorFlow Serving looks for models, NAME/VERSION/."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...exporters import saved_model
from ...exporters.serving import FILE, at_sizes, record
from ...validation.entry_point import EntryPoint
from ...validation.errors import GateError, InputError
from ...validation.goldens import Goldens
from ...validation.runner import Arrays
from ..certificate import provenance
from ..directory import RunDirectory
from ..manifest import GOLDENS, artifact, entry_points
from ..progress import Progress

EXPORT, PROOF = f"export-{saved_model.EXPORTER.name}", f"validate-{saved_model.EXPORTER.name}"


def serve(
    run: RunDirectory, models: Path, name: str, version: int | None, warm: Sequence[Mapping[str, int]], told: Progress
) -> Path:
    """Copy the SavedModel to MODELS/NAME/VERSION, with warm-up requests; give the folder.

    A server that watches MODELS/NAME sees the version whole or not at all: it appears under its number last.

    Without a `version` it is the next one that is free. `warm` are the sizes to warm up, one request per signature
    and sizes; without any, each signature's smallest golden.

    Raises:
        InputError: the run has no SavedModel, none that was proved, or the version exists.
        GateError: files are not as the manifest and the provenance say.
    """
    artifact(run, saved_model.EXPORTER)
    if run.manifest()["verdicts"].get(PROOF) != "pass":
        command = f"bgevis-convert validate {run.path} --format {saved_model.EXPORTER.name}"
        raise InputError(f"{run.path}: its SavedModel has not been proved; run `{command}` first")
    provenance.check(run)
    files = run.manifest()["stages"][EXPORT]["files"]
    goldens = [file for file in run.manifest()["files"] if file.startswith(f"{GOLDENS}/")]
    for damage in run.damaged([*files, *goldens]):
        raise GateError(damage)
    number = _next(models / name) if version is None else version
    target = models / name / str(number)
    if target.exists():
        raise InputError(f"{target} exists; a server may be reading it: choose another --version")
    requests = dict.fromkeys(record(name, entry, inputs) for entry, inputs in _requests(run, warm))  # each once
    aside = target.with_name(f".{number}.part")  # no number, so that a server takes no notice of it
    shutil.rmtree(aside, ignore_errors=True)
    try:
        told.begin(sum(run.manifest()["files"][file]["bytes"] for file in files))
        for file in files:
            _write(aside / Path(file).relative_to(saved_model.KEY), run.path / file)
            told.advance(run.manifest()["files"][file]["bytes"])
        _write(aside / FILE, b"".join(requests))
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _next(folder: Path) -> int:
    """Give the version after the highest that is there."""
    versions = (int(path.name) for path in folder.glob("*") if path.name.isdecimal())
    return max(versions, default=0) + 1


def _requests(run: RunDirectory, warm: Sequence[Mapping[str, int]]) -> list[tuple[str, Arrays]]:
    """Choose what is asked of each entry point."""
    goldens = Goldens(run.path / GOLDENS).cases()
    requests: list[tuple[str, Arrays]] = []
    for name, entry in entry_points(run.manifest()).items():
        cases = [golden.case.inputs for golden in goldens if golden.case.entry_point == name]
        smallest = min(cases, key=lambda inputs: sum(array.size for array in inputs.values()))
        requests += [(name, at_sizes(smallest, _shapes(entry, sizes))) for sizes in warm] or [(name, smallest)]
    return requests


def _shapes(entry: EntryPoint, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Give the shapes of the inputs at these sizes."""
    for axis, bounds in entry.axes.items():
        high = bounds.high if bounds.high is not None else sizes.get(axis, 0)
        if not bounds.low <= sizes.get(axis, 0) <= high:
            limit = f"at least {bounds.low}" if bounds.high is None else f"from {bounds.low} to {bounds.high}"
            raise InputError(f"{entry.name} takes {axis} {limit}; --warm says {dict(sizes)}")
    return {spec.name: spec.resolve(sizes) for spec in entry.inputs}


def _write(target: Path, source: Path | bytes) -> None:
    """Write a file and sync it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        if isinstance(source, bytes):
            file.write(source)
        else:
            with source.open("rb") as original:
                shutil.copyfileobj(original, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())

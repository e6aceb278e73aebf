"""What the verdicts do not cover, said beside them: what was not made, not run, or not run on larger sizes."""

from collections.abc import Iterator, Mapping
from typing import Any

from ...exporters.base import Exporter, exporters
from ...exporters.precisions import FLOAT32
from ...validation.report import Report
from ..directory import Manifest
from ..manifest import PROBES
from ..proof.verdicts import NOT_CHECKED
from .titles import title

Tried = Mapping[str, Mapping[str, int]]
"""Entry point -> axis -> its greatest size in a case."""


def uncovered(
    manifest: Manifest, reports: Mapping[str, Report], pack: Mapping[str, Any], tried: Tried
) -> Iterator[tuple[str, str]]:
    """Give what is not covered, and why or how far.

    Args:
        manifest: of the run.
        reports: by format.
        pack: preprocess.json, empty where there is none.
        tried: how large the cases were.
    """
    second = manifest.get("proof", {}).get("end_to_end", {})
    if second.get("verdict") == NOT_CHECKED:
        yield "End to end", second["why"]
    for part, title_ in (("images", "Raw pictures"), ("sounds", "Raw sounds"), ("transcripts", "Texts of sounds")):
        if missing := (pack.get(part) or {}).get("missing"):
            yield title_, missing
    known = {exporter.key: exporter for exporter in exporters().values()}
    made = {key for entry in manifest["entry_points"].values() for key in entry["programs"]}
    asked = {key for key, exporter in known.items() if not exporter.layout or exporter.precision == FLOAT32}
    if others := [title(key) for key in known if key in asked - made]:
        yield "Formats", f"not made: {', '.join(others)}"
    yield from _sizes(manifest, tried)
    judged = {key: exporter for key, exporter in known.items() if key in reports}
    yield from _less(manifest, judged)
    if judged:
        releases = ", ".join(dict.fromkeys(reports[key].runner for key in judged))
        yield "Runtimes", f"only {releases}, on a CPU; bgevis-convert doctor says which others open it"


def _sizes(manifest: Manifest, tried: Tried) -> Iterator[tuple[str, str]]:
    """Name the axes that may be longer than they were in any case; rows do not depend on how many there are."""
    for name, entry in manifest["entry_points"].items():
        longer = [
            f"{axis} beyond {size}" + ("" if (most := entry["axes"][axis]["max"]) is None else f" (it may be {most})")
            for axis, size in tried.get(name, {}).items()
            if axis in entry["axes"] and axis != entry.get("rows") and size != entry["axes"][axis]["max"]
        ]
        if longer:
            yield f"Sizes of {name}", ", ".join(longer)


def _less(manifest: Manifest, judged: Mapping[str, Exporter]) -> Iterator[tuple[str, str]]:
    """Name the formats that less was asked of, because they hold no operator that this program chose."""
    for key, exporter in judged.items():
        if exporter.weights_only:
            text = "holds weights and no program: each was compared, and the JAX model ran one case of each entry point"
            yield title(key), text
    hidden = "epsilons and masks that ordinary inputs hide: "
    unprobed = [title(k) for k, e in judged.items() if e.probe is None and not e.weights_only]
    if not any(file.startswith(f"{PROBES}/") for file in manifest["files"]):
        yield "Hidden constants", f"{hidden}this network has no probes"
    elif unprobed:
        yield "Hidden constants", f"{hidden}not probed in {', '.join(unprobed)}"

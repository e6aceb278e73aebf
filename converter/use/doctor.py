"""Which runtimes open the artifacts? Said before anybody ships: by what each file asks, and what each release takes."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ...exporters.base import Exporter, exporters
from ...exporters.releases import ALIASES, DISTRIBUTIONS, Need, release
from ...validation.errors import GateError, InputError, UsageFailure
from ..directory import RunDirectory
from ..manifest import artifact

INSTALLED = "(installed)"
"""After the name of a runtime of this environment."""


@dataclass(frozen=True)
class Target:
    """A release that somebody wants to run the artifacts in."""

    runtime: str
    version: str
    said: str


@dataclass(frozen=True)
class Verdict:
    """Whether a release opens a file, and if not, what to do."""

    need: Need
    target: Target

    @property
    def opens(self) -> bool:
        """Say whether it does."""
        return self.need.opened_by(self.target.version)

    def tell(self, directory: Path) -> str:
        """Say it in words, with commands for this run directory."""
        need, said = self.need, self.target.said
        if self.opens:
            return f"{said} opens {need.file}"
        newest = "no release that was tried" if need.since == "999" else f"{need.runtime} {need.since} or newer"
        asked = f"it asks for {need.asks}, which {newest} takes"
        remedy = need.remedy(self.target.version).replace(" DIR", f" {shlex.quote(str(directory))}")
        return f"{said} cannot open {need.file}: {asked}; {remedy}"


def parse(text: str) -> Target:
    """Read "onnxruntime==1.17".

    Raises:
        UsageFailure: it is not of that form, or no runtime that the tables know.
    """
    name, separator, number = text.partition("==")
    runtime = ALIASES.get(name.strip().lower(), name.strip().lower())
    if not separator or runtime not in DISTRIBUTIONS:
        raise UsageFailure(
            f"--target {text}: expected RUNTIME==VERSION, RUNTIME being one of {', '.join(DISTRIBUTIONS)}"
        )
    try:
        release(number.strip())
    except InputError as error:
        raise UsageFailure(f"--target {text}: {error}") from error
    return Target(runtime, number.strip(), f"{name.strip()} {number.strip()}")


def installed() -> dict[str, str]:
    """Give the runtimes of this environment with their versions."""
    found = {}
    for runtime, distributions in DISTRIBUTIONS.items():
        for distribution in distributions:
            try:
                found[runtime] = version(distribution)
                break
            except PackageNotFoundError:
                continue
    return found


def formats(run: RunDirectory) -> Iterator[Exporter]:
    """Give the formats that a run directory holds."""
    stages = run.manifest()["stages"]
    yield from (exporter for exporter in exporters().values() if f"export-{exporter.name}" in stages)


def needs(run: RunDirectory) -> list[Need]:
    """Collect what every file asks."""
    return [need for e in formats(run) if e.needs for need in e.needs(artifact(run, e))]


def examine(run: RunDirectory, targets: Sequence[str]) -> dict[str, Any]:
    """Say for each file what it asks, and whether the installed runtimes and the targets open it.

    Raises:
        UsageFailure: a target is not understood.
        InputError: DIR holds no artifacts.
    """
    wanted = [parse(text) for text in targets]
    present = [Target(runtime, number, f"{runtime} {number} {INSTALLED}") for runtime, number in installed().items()]
    found = needs(run)
    if not found:
        raise InputError(f"{run.path} holds no artifacts; run `bgevis-convert export FORMAT {run.path}` first")
    verdicts = [
        Verdict(need, target) for target in (*wanted, *present) for need in found if need.runtime == target.runtime
    ]
    return {
        "files": [{"file": n.file, "runtime": n.runtime, "asks": n.asks, "since": n.since} for n in found],
        "installed": installed(),
        "targets": [
            {"target": v.target.said, "file": v.need.file, "opens": v.opens, "said": v.tell(run.path)} for v in verdicts
        ],
        "without": [t.said for t in wanted if all(n.runtime != t.runtime for n in found)],
    }


def gate(examined: dict[str, Any], targets: Sequence[str]) -> None:
    """Raise GateError when a named target does not open a file, or nothing here is for it."""
    named = {parse(text).said for text in targets}
    refused = [row["said"] for row in examined["targets"] if row["target"] in named and not row["opens"]]
    refused += [f"{said}: the run directory holds nothing that this runtime opens" for said in examined["without"]]
    if refused:
        raise GateError("doctor: " + "\n  ".join(dict.fromkeys(refused)))


def tell(examined: dict[str, Any]) -> str:
    """Say it for people."""
    lines = []
    for row in examined["files"]:
        opens = "no release that was tried" if row["since"] == "999" else f"{row['runtime']} {row['since']} or newer"
        lines.append(f"{row['file']}: {row['asks']}; {opens}")
    # What a named target refuses is said once, by `gate`.
    lines += [row["said"] for row in examined["targets"] if row["opens"] or row["target"].endswith(INSTALLED)]
    missing = sorted(set(DISTRIBUTIONS) - examined["installed"].keys() - {"stablehlo"})
    return "\n".join(lines + [f"{runtime} is not installed here" for runtime in missing])

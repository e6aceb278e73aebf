"""An artifact exported again and compared, byte for byte: what was altered in a program shows, also where no case does.

Exports are reproducible on the same versions of this program and of what shapes the bytes; on others nothing is
compared, and the run says so.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...exporters.base import Exporter, Request
from ...exporters.weights import WeightsFile
from ...validation.report import EVERY, Row
from ..certificate.ledger import Ledger
from ..certificate.names import source_tensors
from ..directory import STAGING, Manifest, RunDirectory, sha256
from ..manifest import LEDGER, WEIGHTS_PATH, family_and_config, network
from .restated import difference, plain

NOT_COMPARED = "not compared: other versions"
"""How the note begins that says why programs were not exported again."""

SHAPING = ("flax", "jax", "jaxlib", "numpy")
"""Packages that shape the bytes of every format, beside those that the exporter names."""


def request(run: RunDirectory, exporter: Exporter, out: Path, options: dict[str, Any], **given: Any) -> Request:
    """Say what to export into `out`, with these options, which shape the programs."""
    shaped = dict(options)
    if exporter.layout:
        family, config = family_and_config(run)
        describe = getattr(family, exporter.describes)
        shaped |= {"directory": run.path, exporter.describes: describe(config) if describe else None}
    weights = WeightsFile(run.path / WEIGHTS_PATH)
    if exporter.source:
        family, config = family_and_config(run)
        ledger = Ledger.read(run.path / LEDGER)
        shaped |= {"directory": run.path, "documents": family.documents(config)}
        shaped["tensors"] = lambda: source_tensors(ledger, weights)
    return Request(network(run), weights, out, **given, **shaped)


def other_versions(manifest: Manifest, exporter: Exporter, here: dict[str, Any]) -> str:
    """Say what that shapes an artifact's bytes is of other versions than where the run was made; "" if nothing."""
    made = manifest["tool"]
    if (made["version"], made["sha256"]) != (here["version"], here["sha256"]):
        return f"{NOT_COMPARED} (made by {made['name']} {made['version']}, source {made['sha256'][:12]})"
    via = manifest["stages"][f"export-{exporter.name}"].get("options", {}).get("via", "")
    modules = {module.partition(".")[0] for module in (*exporter.modules, *exporter.ways.get(via, ()))}
    packages = sorted(made["packages"].keys() | here["packages"].keys())
    for package in packages:
        shapes = package in SHAPING or any(package.replace("-", "_").startswith(module) for module in modules)
        there, now = made["packages"].get(package), here["packages"].get(package)
        if shapes and there != now:
            return f"{NOT_COMPARED} (made with {package} {there or 'none'}, here is {now or 'none'})"
    return ""


def again_rows(run: RunDirectory, exporter: Exporter) -> Iterator[Row]:
    """Export once more, and name what is not the same; no row where all is, which is what everybody expects."""
    manifest = run.manifest()
    record = manifest["stages"][f"export-{exporter.name}"]
    with tempfile.TemporaryDirectory(dir=run.path / STAGING) as folder:
        out = Path(folder) / exporter.folder
        out.mkdir()
        options = record["options"] | {"static": tuple(record["options"]["static"])}
        programs = exporter.write(request(run, exporter, out, options))
        files = {str(file.relative_to(folder)): file for file in out.rglob("*") if file.is_file()}
        for name in sorted(files.keys() ^ set(record["files"])):
            yield _row(name, "is missing" if name in files else "is not what an export makes")
        for name, file in sorted(files.items()):
            if name in record["files"] and sha256(file) != manifest["files"][name]["sha256"]:
                yield _row(name, "is not what an export of these weights makes, byte for byte")
    entries = {name: entry for name, entry in manifest["entry_points"].items() if name not in exporter.without}
    stated = {name: entry["programs"][exporter.key] for name, entry in entries.items()}
    if found := difference(stated, plain(programs)):
        yield _row("manifest.json", f"the {exporter.name} program of {found}")


def _row(file: str, problem: str) -> Row:
    return Row(EVERY, "exported again", file, False, f"{file} {problem}" if file not in problem else problem)

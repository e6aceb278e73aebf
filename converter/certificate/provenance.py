"""The provenance: one statement that ties the artifacts to the checkpoint, the proof and the tool that made them.

in-toto Statement v1 with the SLSA provenance v1 predicate. Its subjects are the files that the manifest
names, and the manifest itself; the manifest does not name the statement, so that neither waits for the
other's digest. The statement follows from the manifest alone and is the last file to be written: any
change of the run takes it away first. It is not signed: docs/trust.md says how to.
"""

import hashlib
import json
from typing import Any

from ...validation.errors import GateError
from ..directory import MANIFEST, PROVENANCE, STAGING, Manifest, RunDirectory, write_atomically

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD = "tag:bgevis-convert,2026:convert/v1"
"""What the parameters below mean: see docs/trust.md."""

PROOFS = ("ledger.json", "reports/parity.json", "reports/validate.json")


def write(run: RunDirectory) -> None:
    """Write the statement, if everything passed, and every artifact was proved."""
    verdicts = run.manifest()["verdicts"]
    proofs = {stage.replace("export-", "validate-") for stage in verdicts if stage.startswith("export-")} | {"parity"}
    if proofs <= verdicts.keys() and set(verdicts.values()) == {"pass"}:
        write_atomically(run.path / PROVENANCE, _text(run), run.path / STAGING / PROVENANCE)


def check(run: RunDirectory) -> None:
    """Hold the manifest against the statement, if there is one.

    Raises:
        GateError: they do not belong together.
    """
    file = run.path / PROVENANCE
    if file.exists() and file.read_text(encoding="utf-8", errors="replace") != _text(run):
        raise GateError(
            f"{file} does not state {MANIFEST} as it is: one of them was altered after the run was proved; "
            "get the run directory again, or convert again"
        )


def _text(run: RunDirectory) -> str:
    manifest = (run.path / MANIFEST).read_bytes()
    return json.dumps(statement(json.loads(manifest), hashlib.sha256(manifest).hexdigest()), indent=1) + "\n"


def statement(manifest: Manifest, digest: str) -> dict[str, Any]:
    """Make the statement about a run with this manifest."""
    files = {name: entry["sha256"] for name, entry in manifest["files"].items()} | {MANIFEST: digest}
    source, tool = manifest["source"], manifest["tool"]
    packages = [{"name": name, "annotations": {"version": v}} for name, v in sorted(tool["packages"].items())]
    checkpoint = {"name": source["file"], "digest": {"sha256": source["sha256"]}}
    return {
        "_type": STATEMENT,
        "subject": [_resource(name, files[name]) for name in sorted(files)],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD,
                "externalParameters": {"checkpoint": checkpoint, "family": manifest["family"]},
                "internalParameters": {"config": manifest["config"]},
                "resolvedDependencies": [checkpoint, _resource(tool["name"], tool["sha256"]), *packages],
            },
            "runDetails": {
                "builder": {"id": f"pkg:pypi/{tool['name']}@{tool['version']}"},
                "byproducts": [_resource(name, files[name]) for name in PROOFS if name in files],
            },
        },
    }


def _resource(name: str, digest: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": digest}}

"""The documents of a run: manifest and goldens held against the family, which knows what they must say."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from ...validation import procedure
from ...validation.cases import probe_cases
from ...validation.errors import GateError
from ...validation.goldens import Goldens
from ...validation.probe import folder_name
from ..certificate.ledger import Ledger
from ..directory import RunDirectory
from ..manifest import GOLDENS, LEDGER, PROBES, family_and_config


def check_manifest(run: RunDirectory) -> None:
    """Hold what the manifest says about the network against the family, which knows its entry points.

    Raises:
        GateError: an entry point is missing or another one, a stage has failed, or a program is not among the files.
    """
    family, config = family_and_config(run)
    manifest = run.manifest()
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


def golden_problems(run: RunDirectory) -> Iterator[str]:
    """Say what the goldens lack that every network of the family has, and what in them cannot have been measured."""
    family, config = family_and_config(run)
    entries, weights = family.entry_points(config), Ledger.read(run.path / LEDGER).numbers
    draw = functools.partial(family.all_cases, config, weights=weights)
    yield from Goldens(run.path / GOLDENS).problems(entries, draw)
    for greedy in family.procedures(config):
        stored = procedure.read(run.path / GOLDENS, greedy)
        yield from procedure.problems({entry.name: entry for entry in entries}, greedy, stored)
    for name in family.probes(config):
        folder = run.path / PROBES / folder_name(name)
        yield from Goldens(folder).problems(entries, functools.partial(probe_cases, name))

"""The manifest held against the family, which knows what it must say, before anything of the run is opened."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...validation.errors import ConvertError, GateError, InputError, raised
from ..directory import RunDirectory
from ..manifest import family_and_config

VERDICTS = ("load", "remap", "verify", "build", "pack", "reference", "parity")
"""What must have passed before an artifact is validated: a fixed list, of which a run cannot leave one out."""


@contextlib.contextmanager
def believable(directory: Path) -> Iterator[None]:
    """Turn what nobody foresaw, inside, into one error that blames the directory, whose documents are read there.

    Raises:
        InputError: something was raised that is neither an error of this tool nor the machine's.
    """
    try:
        yield
    except (ConvertError, OSError, MemoryError):
        raise
    except Exception as error:
        raise InputError(
            f"{directory} holds what this program does not write ({raised(error)}): it was altered, or this is a fault "
            "of bgevis-convert"
        ) from error


def check_manifest(run: RunDirectory) -> None:
    """Hold what the manifest says about the network against the family, which knows its entry points.

    Raises:
        GateError: an entry point is missing or another one, a stage has failed, or a program is not among the files.
        InputError: a stage has not run.
    """
    family, config = family_and_config(run)
    manifest = run.manifest()
    wanted = {entry.name: entry.to_json() for entry in family.entry_points(config)}
    stated = {n: {k: v for k, v in e.items() if k != "programs"} for n, e in manifest["entry_points"].items()}
    for name in sorted(wanted.keys() | stated.keys()):
        if stated.get(name) != wanted.get(name):
            raise GateError(f"the manifest's entry point {name} is not {family.name}'s: it was altered")
    for stage, verdict in manifest["verdicts"].items():
        if verdict != "pass" and not (stage.startswith("validate") or stage == "documents"):
            raise GateError(f"{stage} failed; mend that and run it again before the artifacts are validated")
    for stage in VERDICTS:
        if stage not in manifest["verdicts"]:
            command = "parity" if stage == "reference" else stage
            raise InputError(f"{stage} has not run; run `bgevis-convert {command}` before the artifacts are validated")
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

"""What stages share: the checkpoint again, and what must have passed before."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path

from ...validation.errors import GateError, InputError
from ..certificate.ledger import Ledger
from ..checkpoint import Checkpoint, open_checkpoint
from ..directory import SOURCE, RunDirectory
from ..manifest import LEDGER

SHOWN = 12
"""Problems printed in full; the ledger lists all."""


def state(checkpoint: Checkpoint) -> list[list[int]]:
    """Give what tells that a file was changed or replaced between two stages, of each; nobody can set its ctime."""
    states = [file.stat() for file in checkpoint.named_files.values()]
    return [[s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for s in states]


def reopen(run: RunDirectory) -> Checkpoint:
    """Open the checkpoint that the run was loaded from.

    Raises:
        InputError: it is gone or was changed since.
    """
    note = run.path / SOURCE
    if not note.exists():
        raise InputError(
            f"{run.path} does not know where its checkpoint is; run `bgevis-convert load CKPT --out {run.path}`"
        )
    source = json.loads(note.read_text())
    wrappers = tuple(run.manifest()["source"]["wrappers"])
    modules = tuple((prefix, Path(path)) for prefix, path in source["modules"].items())
    names, state_then = tuple(source.get("names", {}).items()), json.dumps(source["state"])
    checkpoint = _opened(Path(source["checkpoint"]), modules, wrappers, source["tower"], names, state_then)
    if state(checkpoint) != source["state"]:
        raise InputError(f"{checkpoint.path} was changed after it was loaded; run `bgevis-convert load` again")
    return checkpoint


@functools.lru_cache(maxsize=1)
def _opened(
    path: Path,
    modules: tuple[tuple[str, Path], ...],
    wrappers: tuple[str, ...],
    tower: str,
    names: tuple[tuple[str, str], ...],
    state: str,
) -> Checkpoint:
    """Open a checkpoint in a certain state once for all stages of a process, as `load` found it."""
    checkpoint = open_checkpoint(path)
    for prefix, module in modules:
        checkpoint = checkpoint.joined(prefix, open_checkpoint(module))
    for prefix in wrappers[len(checkpoint.wrappers) :]:
        checkpoint = checkpoint.within(prefix) if prefix == tower else checkpoint.behind(prefix)
    return checkpoint.renamed(dict(names)) if names else checkpoint


def gate(stage: str, ledger: Ledger) -> None:
    """Raise GateError with everything that is wrong."""
    if not ledger.problems:
        return
    told = together(ledger.problems)
    shown = "\n  ".join(told[:SHOWN])
    rest = len(told) - SHOWN
    more = f"\n  and {rest} more, all in {LEDGER}" if rest > 0 else ""
    raise GateError(f"{stage}: {len(ledger.problems)} problem(s)\n  {shown}{more}")


def together(problems: Sequence[str]) -> list[str]:
    """Say once what is said of several tensors in the same words."""
    several: dict[str, list[str]] = {}
    for problem in problems:
        subject, colon, said = problem.partition(": ")
        several.setdefault(said if subject.startswith("tensor ") and colon else problem, []).append(problem)
    return [
        told[0] if len(told) == 1 else f"{len(told)} tensors, such as {told[0].removeprefix('tensor ')}"
        for told in several.values()
    ]


def require(run: RunDirectory, *stages: str) -> None:
    """Raise InputError unless these stages have passed."""
    verdicts = run.manifest()["verdicts"]
    for stage in stages:
        if verdicts.get(stage) != "pass":
            state = "failed" if stage in verdicts else "has not run"
            command = "parity" if stage == "reference" else stage.replace("export-", "export ")
            raise InputError(f"{run.path}: {stage} {state}; run `bgevis-convert {command} {run.path}` first")

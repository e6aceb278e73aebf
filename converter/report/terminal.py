"""What a person sees while commands work: bars on a terminal, plain lines elsewhere; and the result."""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ..directory import RunDirectory
from ..progress import Progress as Listener
from ..proof.verdicts import tell

SHARES = {"prepare": 5, "pack": 1, "reference": 12, "parity": 8, "export": 3, "documents": 2, "validate": 6}
"""Roughly how the time of `all` is spent, so that the time left means something from the start."""


def share(task: str) -> int:
    """Give a task's part of the whole."""
    return SHARES[task.partition(":")[0]]


class Lines:
    """One line when a task starts to speak or ends, for logs and pipes."""

    def __init__(self, console: Console):
        self.console = console
        self._begun = time.monotonic()

    def plan(self, tasks: Sequence[str]) -> None:
        """Show nothing yet."""

    def start(self, task: str) -> None:
        """Show nothing yet."""

    def begin(self, task: str, total: int | None) -> None:
        """Show nothing yet."""

    def advance(self, task: str, nbytes: int) -> None:
        """Show nothing: a log needs no movement."""

    def note(self, task: str, text: str) -> None:
        """Show what a task says."""
        self.console.print(f"  {task}: {text}", highlight=False, markup=False, soft_wrap=True)

    def end(self, task: str, verdict: str, seconds: float, peak: int) -> None:
        """Show the verdict, with time and memory."""
        memory = f", {peak / 1e9:.2f} GB" if peak else ""
        at = time.monotonic() - self._begun
        self.console.print(
            f"[{at:6.1f} s] {task}: {verdict} ({seconds:.1f} s{memory})", highlight=False, markup=False, soft_wrap=True
        )


class Bars(Lines):
    """A bar for each task at work, and one for the whole."""

    def __init__(self, console: Console, bars: Progress):
        super().__init__(console)
        self.bars = bars
        self.tasks: dict[str, TaskID] = {}
        self.whole: TaskID | None = None

    def plan(self, tasks: Sequence[str]) -> None:
        """Show a bar for the whole, with the time left."""
        self.whole = self.bars.add_task("whole", total=sum(map(share, tasks)), said="")

    def start(self, task: str) -> None:
        """Show a bar that only pulses until bytes are known."""
        self.tasks[task] = self.bars.add_task(task, total=None, said="")

    def begin(self, task: str, total: int | None) -> None:
        """Show how many bytes there are."""
        self.bars.reset(self.tasks[task], total=total)

    def advance(self, task: str, nbytes: int) -> None:
        """Move the bar."""
        self.bars.advance(self.tasks[task], nbytes)
        shown = self.bars.tasks[self.bars.task_ids.index(self.tasks[task])]
        self.bars.update(self.tasks[task], said=f"{shown.completed / 1e6:.0f} MB" + _of(shown.total))

    def note(self, task: str, text: str) -> None:
        """Show what the task says beside its bar."""
        self.bars.update(self.tasks[task], said=text[:60])

    def end(self, task: str, verdict: str, seconds: float, peak: int) -> None:
        """Replace the bar by a line."""
        self.bars.remove_task(self.tasks.pop(task))
        if self.whole is not None:
            self.bars.advance(self.whole, share(task))
        super().end(task, verdict, seconds, peak)


def _of(total: float | None) -> str:
    return f" of {total / 1e6:.0f}" if total else ""


@contextlib.contextmanager
def display(as_json: bool) -> Iterator[Lines]:
    """Choose how tasks are shown: bars on a terminal, else lines; on standard error when the result is JSON."""
    console = Console(stderr=as_json)
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", style="bold"),
        BarColumn(20),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[said]}", style="dim"),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield Bars(console, bars)


class _One:
    """A Listener that stands for one task of a display."""

    def __init__(self, name: str, shown: Lines):
        self._name, self._shown = name, shown

    def begin(self, total: int | None) -> None:
        self._shown.begin(self._name, total)

    def advance(self, nbytes: int) -> None:
        self._shown.advance(self._name, nbytes)

    def note(self, text: str) -> None:
        self._shown.note(self._name, text)


@contextlib.contextmanager
def progress(name: str, as_json: bool) -> Iterator[Listener]:
    """Show one stage that runs in this process."""
    begun = time.monotonic()
    with display(as_json) as shown:
        shown.start(name)
        verdict = "fail"
        try:
            yield _One(name, shown)
            verdict = "pass"
        finally:
            shown.end(name, verdict, time.monotonic() - begun, 0)


def report(run: RunDirectory, as_json: bool) -> None:
    """Print what the run directory holds now."""
    manifest = run.manifest()
    if as_json:
        print(json.dumps({"directory": str(run.path), **summary(manifest)}, indent=1))
        return
    console = Console(highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("entry point", "inputs", "programs"):
        table.add_column(heading, header_style="bold")
    for name, entry in manifest["entry_points"].items():
        inputs = ", ".join(f"{t['name']}{t['shape']}" for t in entry["inputs"]).replace("'", "")
        table.add_row(name, escape(inputs), ", ".join(sorted(entry["programs"])) or "none yet")
    console.print(table)
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    said = " ".join(f"{stage} {verdict}" for stage, verdict in manifest["verdicts"].items())
    text = f"{run.path}: {manifest['family']}, {len(manifest['files'])} files, {size / 1e6:.1f} MB"
    console.print(text, markup=False, soft_wrap=True)
    console.print(said, style="dim", markup=False, soft_wrap=True)
    for line in tell(manifest.get("proof", {})):
        console.print(line, markup=False, soft_wrap=True)


def summary(manifest: dict[str, Any]) -> dict[str, Any]:
    """Choose what a program wants to know of a run."""
    keys = ("family", "source", "config", "entry_points", "verdicts", "proof")
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    return {key: manifest[key] for key in keys} | {"files": len(manifest["files"]), "bytes": size}

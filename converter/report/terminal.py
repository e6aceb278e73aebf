"""What a person sees while commands work: bars on a terminal, plain lines elsewhere; and the result."""

import contextlib
import json
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ..directory import Manifest, RunDirectory
from ..printable import printable
from ..progress import WARNING
from ..progress import Progress as Listener
from ..proof.verdicts import NOT_CHECKED, tell

SHARES = {"prepare": 5, "pack": 1, "reference": 12, "parity": 8, "export": 3, "documents": 2, "validate": 6}
"""Roughly how the time of `all` is spent, so that the time left means something from the start."""


STYLES = {"pass": "green", "fail": "bold red", "skipped": "yellow"}


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
        style = "yellow" if text.startswith(WARNING) else None
        self.console.print(f"  {task}: {printable(text)}", style=style, highlight=False, markup=False, soft_wrap=True)

    def end(self, task: str, verdict: str, seconds: float, peak: int) -> None:
        """Show the verdict, with time and memory."""
        memory = f", {peak / 1e9:.2f} GB" if peak else ""
        at = time.monotonic() - self._begun
        line = Text(f"[{at:6.1f} s] {task}: ").append(verdict, STYLES.get(verdict, ""))
        self.console.print(line.append(f" ({seconds:.1f} s{memory})"), highlight=False, soft_wrap=True)


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
        self.bars.update(self.tasks[task], said=printable(text)[:60])
        if text.startswith(WARNING):
            super().note(task, text)

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
    for line, style in lines(run.path, manifest):
        console.print(printable(line), style=style, markup=False, soft_wrap=True)


def lines(path: Path, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Say what a run directory holds, what of it is proved, what is not, and what comes next; each with its style."""
    for name, entry in manifest["entry_points"].items():
        inputs = ", ".join(f"{t['name']}{t['shape']}" for t in entry["inputs"]).replace("'", "")
        yield f"{name}({inputs})", "bold"
        for key, program in sorted(entry["programs"].items()):
            yield f"  {key}: {path / program['path']}", ""
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    yield f"{path}: {manifest['family']}, {len(manifest['files'])} files, {size / 1e6:.1f} MB", ""
    verdicts, stages = manifest["verdicts"], manifest["stages"]
    made = [stage.removeprefix("export-") for stage in stages if stage.startswith("export-")]
    proved = [name for name in made if verdicts.get(f"validate-{name}") == "pass"]
    failed = sorted(stage for stage, verdict in verdicts.items() if verdict != "pass")
    waiting = [name for name in made if f"validate-{name}" not in verdicts]
    for text in tell(manifest.get("proof", {})):
        yield text, "yellow" if NOT_CHECKED in text or text.startswith("  note") else ""
    if "reports/report.html" in manifest["files"]:
        yield f"report: {path / 'reports/report.html'}", ""
    if failed:
        yield f"FAILED: {', '.join(failed)}", "bold red"
        return
    if waiting:
        yield f"not validated: {', '.join(sorted(waiting))}", "yellow"
    if made and not waiting and verdicts.get("validate") == "pass":
        yield f"PROVED: {', '.join(sorted(proved))}: the same network", "bold green"
    yield f"next: bgevis-convert {_next(path, manifest, bool(made), bool(waiting))}", ""


def _next(path: Path, manifest: Manifest, made: bool, waiting: bool) -> str:
    """Name the command that most people want next."""
    place = shlex.quote(str(path))
    for stage in ("remap", "verify", "build", "pack", "parity"):
        if stage not in manifest["verdicts"]:
            return f"{stage} {place}"
    if not made:
        return f"export onnx {place}"
    if waiting or "validate" not in manifest["verdicts"]:
        return f"validate {place}"
    entries = manifest["entry_points"]
    if "tokenizer.json" in manifest["files"] and "score" in entries:
        return f"score {place} --pair 'a question' 'an answer'"
    embeds = any(
        spec["kind"]["is"] == "embedding" and any(given["dtype"] == "int32" for given in entry["inputs"])
        for entry in entries.values()
        for spec in entry["outputs"]
    )
    return f"embed {place} --text hello" if "tokenizer.json" in manifest["files"] and embeds else f"doctor {place}"


def summary(manifest: dict[str, Any]) -> dict[str, Any]:
    """Choose what a program wants to know of a run."""
    keys = ("family", "source", "config", "entry_points", "verdicts", "proof")
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    return {key: manifest[key] for key in keys} | {"files": len(manifest["files"]), "bytes": size}

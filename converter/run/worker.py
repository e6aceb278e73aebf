"""Tasks in one process, usually one, driven by `pipeline` and made by `nursery`.

Speaks lines of JSON on its standard output: progress, notes, and at the end `done` or `error`. What
frameworks print goes to standard error, which the parent keeps back unless the process dies. It starts
the task at the first byte of its standard input, and ends at once when that is closed.
"""

import importlib
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from ...exporters.base import exporters
from ...validation.errors import ConvertError, EnvironmentFailure, Unexpected
from ...validation.packages import UNASKED
from ..directory import RunDirectory, environment_failure
from ..options import Options
from ..progress import Progress
from ..stages import BY_NAME, PREPARE, PREPARED
from ..stages.export import trace
from ..unexpected import unexpected


class Lines:
    """A Progress that writes lines of JSON."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._pending, self._last = 0, 0.0

    def send(self, **message: object) -> None:
        """Write one message."""
        self._stream.write(json.dumps(message) + "\n")
        self._stream.flush()

    def begin(self, total: int | None) -> None:
        """Say how many bytes there are to do."""
        self.send(begin=total)

    def advance(self, nbytes: int) -> None:
        """Say that bytes are done, at most ten times a second."""
        self._pending += nbytes
        if time.monotonic() - self._last > 0.1:
            self.send(advance=self._pending)
            self._pending, self._last = 0, time.monotonic()

    def note(self, text: str) -> None:
        """Say what is being done."""
        self.send(note=text)


def perform(task: str, directory: Path, options: Options, progress: Progress) -> None:
    """Do one task, unless what it makes is there and current."""
    if task == PREPARE:
        prepare(directory, options, progress)
        return
    name, _, format_name = task.partition(":")
    run, stage = RunDirectory(directory), BY_NAME[name].module
    each = (exporters()[format_name],) if format_name else ()
    if not run.is_current(task.replace(":", "-"), stage.reads(run, options, *each)):
        stage.perform(run, options, progress, *each)


def prepare(directory: Path, options: Options, progress: Progress) -> None:
    """Take a checkpoint to its weights file, skipping what is current."""
    load, *others = PREPARED
    run = load.module.perform(directory, options, progress)
    for stage in others:
        if not run.is_current(stage.name, stage.module.reads(run, options)):
            progress.note(stage.name)
            stage.module.perform(run, options, progress)


def warm_up(tasks: Sequence[str], directory: Path, options: Options, go: threading.Event) -> None:
    """Import and trace what the tasks will need, while the tasks that they wait for still run.

    The network may turn out to be another one, when another checkpoint was here before: that costs only time.
    """
    done = RunDirectory(directory).manifest()["stages"] if (directory / "manifest.json").exists() else {}
    new = [task for task in tasks if task.replace(":", "-") not in done]  # else it is probably current
    formats = [exporters()[task.removeprefix("export:")] for task in new if task.startswith("export:")]
    modules = [module for exporter in formats for module in exporter.modules] + ["torch"] * ("reference" in new)
    if "tensorflow" in modules:
        sys.modules.setdefault(UNASKED, None)  # type: ignore[arg-type]  # Python's way to make an import fail
    try:
        for module in modules:
            importlib.import_module(module)
        while formats and not ((directory / "manifest.json").exists() or go.wait(0.01)):
            pass  # for the configuration, which is known long before the weights are
        for exporter in formats:
            trace(RunDirectory(directory), exporter, options)
    except Exception:
        traceback.print_exc()  # into the log: the task itself says what is missing or wrong, unless it goes well then


def _await_parent(go: threading.Event) -> None:
    """Start when the parent says so; end when it does, however it ends: the directory may be another run's then."""
    while os.read(0, 1):
        go.set()
    os._exit(EnvironmentFailure.exit_code)


def main(arguments: list[str]) -> int:
    """Do tasks one after the other, until one fails: the run directory, the options as JSON, the tasks' names."""
    lines = Lines(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)  # whatever a framework prints must not end up among the messages
    lines.send(pid=os.getpid())
    go = threading.Event()
    threading.Thread(target=_await_parent, args=(go,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.umask(0o022)
    directory, options, tasks = Path(arguments[0]), Options.from_json(arguments[1]), arguments[2:]
    warm_up(tasks, directory, options, go)
    lines.send(warm=True)
    go.wait()
    for task in tasks:
        if code := _do(task, directory, options, lines):
            return code
    return 0


def _do(task: str, directory: Path, options: Options, lines: Lines) -> int:
    """Do a task and say how it ended; give the exit code."""
    try:
        perform(task, directory, options, lines)
    except ConvertError as error:
        lines.send(error=str(error), exit_code=error.exit_code)
        return error.exit_code
    except OSError as error:
        failure = environment_failure(error, directory)
        lines.send(error=str(failure), exit_code=failure.exit_code)
        return failure.exit_code
    except MemoryError:
        lines.send(error=f"{task}: out of memory", exit_code=EnvironmentFailure.exit_code)
        return EnvironmentFailure.exit_code
    except Exception as error:
        traceback.print_exc()  # into the log, which is shown with --debug
        lines.send(error=str(unexpected(task, error)), exit_code=Unexpected.exit_code)
        return Unexpected.exit_code
    lines.send(done=task, peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Time and memory of a command and of every process that it starts."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

INTERVAL = 0.1
"""Seconds between two looks at the processes."""
LONGEST = 500
"""Characters of an error that are worth repeating."""


@dataclass(frozen=True)
class Usage:
    """What a command took, with all its processes.

    Args:
        peak: the largest resident memory that one of its processes ever had, in bytes.
        together: the largest resident memory of all processes that ran at the same time; shared pages count twice.
        said: what it printed.
        error: why it failed, in its own words, if it did.
    """

    seconds: float
    cpu_seconds: float
    peak: int = 0
    together: int = 0
    said: str = ""
    error: str = ""


@dataclass
class Watch:
    """Looks at a process and its children until told to stop."""

    pid: int
    peak: int = 0
    together: int = 0

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_repeatedly, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look_repeatedly(self) -> None:
        while not self._stop.wait(INTERVAL):
            self._look()

    def _look(self) -> None:
        import psutil

        total = 0
        try:
            top = psutil.Process(self.pid)
            for process in [top, *top.children(recursive=True)]:
                resident = process.memory_info().rss
                total += resident
                self.peak = max(self.peak, peak(process.pid), resident)
        except psutil.Error:
            return  # one of them has ended meanwhile
        self.together = max(self.together, total)


def peak(pid: int) -> int:
    """Give what the system recorded as the largest resident memory of a process, where it says so (Linux)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def measure(command: Sequence[str]) -> Usage:
    """Run a command to its end. What earlier commands have left to write is written first."""
    os.sync()
    with tempfile.TemporaryFile() as log:
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        with Watch(process.pid) as watch:
            _, status, spent = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        said = everything(log)
    error = last_words(said, process.returncode) if process.returncode else ""
    return Usage(seconds, spent.ru_utime + spent.ru_stime, watch.peak, watch.together, said, error)


def everything(log: IO[bytes]) -> str:
    """Read a log from its beginning."""
    log.seek(0)
    return log.read().decode(errors="replace")


def last_words(said: str, code: int) -> str:
    """Say why a command failed: the last line that speaks of an error and what follows, else its last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [i for i, line in enumerate(lines) if "error" in line.lower() or line.startswith("not installed")]
    words = " ".join(lines[errors[-1] if errors else -1 :]) or f"exit code {code}"
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}..."


def require_psutil() -> None:
    """Exit with one message when psutil is missing."""
    try:
        import psutil  # noqa: F401
    except ModuleNotFoundError:
        sys.exit("error: the benchmarks watch processes with psutil, which is not installed: pip install psutil")

"""The other end of `runtimes`: processes that wait for requests and take no CPU meanwhile."""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from .measure import everything, last_words
from .models import BUILD, Model

SETTLE = 0.06
"""Seconds before each request: onnxruntime's threads spin for some 30 ms after an answer."""


@dataclass
class Served:
    """A runtime with one entry point loaded.

    Args:
        loaded: seconds from the checkpoint or the program to readiness, imports left out.
        error: why it cannot be used, if it cannot.
    """

    runtime: str
    model: Model
    entry: str
    threads: int
    loaded: float = 0.0
    error: str = ""
    _log: tempfile._TemporaryFileWrapper = field(init=False, repr=False)

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile()
        arguments = [self.runtime, str(self.model), self.entry, str(self.threads)]
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.runtimes", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.loaded = self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        self._log.close()

    def request(self, batch: int, tokens: int, save: str = "") -> float:
        """Give the seconds that the runtime took."""
        time.sleep(SETTLE)
        try:
            self._process.stdin.write(json.dumps({"batch": batch, "tokens": tokens, "save": save}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died; so says the missing answer
        return self._answer()

    def _answer(self) -> float:
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": last_words(everything(self._log), self._process.wait())}
        self.error = answer.get("error", "")
        return answer.get("seconds", 0.0)


def output_file(runtime: str) -> Path:
    """Where a runtime leaves its embeddings to be compared."""
    folder = BUILD / "outputs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{runtime}.npy"

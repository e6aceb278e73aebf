"""Which releases of a runtime open what the exporters write: tables, each with where its numbers come from.

`python tests/runtimes.py` tries releases, each in an environment of its own, with programs of both families at
every opset; the tables hold what it said. Releases between two that were tried are as the older one, newer ones as
the newest; older ones than the oldest were not tried and count as not opening anything.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..validation.errors import InputError

Release = tuple[int, ...]

DISTRIBUTIONS: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
    "jax": ("jax",),
    "stablehlo": (),
}
"""Runtime -> the packages that it is installed as."""

ALIASES: Mapping[str, str] = {
    "ort": "onnxruntime",
    "onnxruntime-gpu": "onnxruntime",
    "onnxruntime-node": "onnxruntime",
    "onnxruntime-web": "onnxruntime",
    "tf": "tensorflow",
    "tensorflow-cpu": "tensorflow",
    "jaxlib": "jax",
}


@dataclass(frozen=True)
class Opset:
    """What a release of onnxruntime takes.

    Args:
        ir: the newest version of the file format.
        opset: the newest version of the operators that it knows.
        ran: the newest at which the programs of this tool ran on a CPU and agreed with the goldens.
    """

    ir: int
    opset: int
    ran: int


# Measured by tests/runtimes.py, Python 3.11 on Linux, CPU.
ONNXRUNTIME: Mapping[str, Opset] = {
    "1.15": Opset(9, 19, 18),  # knows opset 19, but neither Shape nor Equal of it
    "1.16": Opset(9, 19, 19),
    "1.17": Opset(9, 20, 20),
    "1.18": Opset(10, 21, 21),
    "1.21": Opset(10, 22, 22),
    "1.23": Opset(11, 23, 23),
    "1.24": Opset(13, 25, 25),
    "1.25": Opset(13, 26, 26),
}
TENSORFLOW: Mapping[str, int] = {"2.15": 8, "2.16": 9, "2.20": 10}
"""Release -> newest version of XlaCallModule that it takes (tensorflow.compiler.tf2xla.python.xla)."""

JAX: Mapping[str, int] = {"0.8": 10}
"""Release -> newest calling convention of `jax.export` that it takes, of those that read what today's JAX serializes:
0.4.38 to 0.7.2 read "exported for 0 devices"."""


@dataclass(frozen=True)
class Need:
    """What a file asks of the runtime that opens it.

    Args:
        file: relative to the run directory.
        runtime: as in `DISTRIBUTIONS`.
        asks: in words.
        since: the first release that was seen to open such files.
        remedy: says what to do for an older release.
    """

    file: str
    runtime: str
    asks: str
    since: str
    remedy: Callable[[str], str]

    def opened_by(self, version: str) -> bool:
        """Say whether a release opens the file."""
        return release(version) >= release(self.since)


def release(version: str) -> Release:
    """Read "1.17.3" as (1, 17, 3).

    Raises:
        InputError: it is no version.
    """
    found = re.match(r"\d+(\.\d+)*", version)
    if not found:
        raise InputError(f"{version!r} is not a version such as 1.17 or 2.16.2")
    return tuple(int(part) for part in found[0].split("."))


def row(table: Mapping[str, "Opset | int"], version: str) -> "Opset | int | None":
    """Give what a table says about a release: that of the newest one tried that is not newer."""
    known = [tried for tried in table if release(tried) <= release(version)]
    return table[max(known, key=release)] if known else None

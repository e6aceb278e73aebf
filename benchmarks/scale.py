"""Converting checkpoints of billions of numbers: what a process needs of memory, and time beside that of a copy.

    python -m benchmarks.scale [--size 0.5b --size 3b ...] [--write-docs]

A seeded bfloat16 checkpoint of Qwen2 becomes the weights file, Orbax and StableHLO, in the type that it is stored in.
What is least is to read the file, hash it and write it again to the disk; that is measured in the same run.
"""

import hashlib
import math
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from bgevis.model.family import families
from bgevis.validation.errors import EnvironmentFailure

from . import document
from .measure import Usage, measure, require_psutil
from .models import BUILD, ROOT

FAMILY, DTYPE, BYTES = "qwen2", "bfloat16", 2
SIZES = ("0.5b", "1.5b", "3b")
NEXT = "7b"
"""What does not fit here, and is said of the others' figures."""
FORMATS = ("orbax", "stablehlo")
COPIES = 4
"""What lies on the disk at once: the checkpoint, its copy, the weights file and Orbax's."""
ALLOWED = 1.6e9
"""Bytes that a process may hold beside the largest tensor."""
TIMES = 3.0
"""Of the time of a copy."""


@dataclass(frozen=True)
class Row:
    """What a size took."""

    size: str
    bytes: int
    largest: int
    copied: tuple[float, ...]
    runs: tuple[Usage, ...]

    @property
    def seconds(self) -> float:
        return statistics.median(run.seconds for run in self.runs)

    @property
    def ratio(self) -> float:
        return self.seconds / statistics.median(self.copied)

    @property
    def peak(self) -> int:
        return max(run.peak for run in self.runs)


def largest_tensor(size: str) -> tuple[int, int]:
    """Give the bytes of all tensors and of the largest one."""
    family = families()[FAMILY]
    sizes = [BYTES * math.prod(shape) for shape in family.checkpoint_shapes(family.sizes[size]).values()]
    return sum(sizes), max(sizes)


def copied(file: Path, to: Path) -> float:
    """Read a file, hash it and write it again to the disk; give the seconds."""
    begun, digest = time.perf_counter(), hashlib.sha256()
    with file.open("rb") as source, to.open("wb") as target:
        while chunk := source.read(16 << 20):
            digest.update(chunk)
            target.write(chunk)
        target.flush()
        os.fsync(target.fileno())  # as the converter's files are
    seconds = time.perf_counter() - begun
    to.unlink()
    return seconds


def run(size: str, folder: Path, rounds: int) -> Row:
    """Measure a size."""
    whole, largest = largest_tensor(size)
    free = shutil.disk_usage(folder).free
    if free < COPIES * whole:
        raise EnvironmentFailure(f"{folder} has {free / 1e9:.0f} GB free; {size} needs {COPIES * whole / 1e9:.0f}")
    checkpoint = folder / "model.safetensors"
    command = [sys.executable, "-W", "ignore", "-m"]
    made = measure(
        [*command, "bgevis.converter", "fixture", FAMILY, "--size", size, "--dtype", DTYPE, "--out", str(checkpoint)]
    )
    if made.error:
        raise EnvironmentFailure(f"fixture {FAMILY} {size}: {made.error}")
    seconds, runs = [], []
    for _ in range(rounds):
        seconds.append(copied(checkpoint, folder / "copy"))
        out = folder / "run"
        runs.append(measure([*command, "benchmarks.ours", str(checkpoint), str(out), "--dtype=source", *FORMATS]))
        shutil.rmtree(out, ignore_errors=True)
        if runs[-1].error:
            raise EnvironmentFailure(f"{size}: {runs[-1].error}")
        click.echo(
            f"{size}: {runs[-1].seconds:.0f} s, a copy {seconds[-1]:.0f} s, {runs[-1].peak / 1e9:.2f} GB", err=True
        )
    return Row(size, whole, largest, tuple(seconds), tuple(runs))


def report(rows: Sequence[Row]) -> str:
    """Lay out the table and the targets."""
    headings = ("size", "file", "largest tensor", "time", "of a copy", "largest process", "allowed")
    lines = [
        (
            row.size,
            f"{row.bytes / 1e9:.1f} GB",
            f"{row.largest / 1e9:.2f} GB",
            f"{row.seconds:.0f} s",
            f"{row.ratio:.2f}",
            f"{row.peak / 1e9:.2f} GB",
            f"{(row.largest + ALLOWED) / 1e9:.2f} GB",
        )
        for row in rows
    ]
    last = rows[-1]
    targets = [
        document.held(f"{last.size}: time of a copy", last.ratio, TIMES),
        document.held(f"{last.size}: GB of a process", last.peak / 1e9, round((last.largest + ALLOWED) / 1e9, 2)),
    ]
    slopes = [row.seconds / row.bytes * 1e9 for row in rows]
    linear = f"Seconds for each gigabyte: {', '.join(f'{slope:.1f}' for slope in slopes)}."
    whole, largest = largest_tensor(NEXT)
    linear += (
        f" At the last of these, {NEXT} ({whole / 1e9:.1f} GB, its largest tensor {largest / 1e9:.1f} GB) takes "
        f"{slopes[-1] * whole / 1e9:.0f} s, {COPIES * whole / 1e9:.0f} GB of disk, and no more than "
        f"{(largest + ALLOWED) / 1e9:.1f} GB in a process."
    )
    return "\n\n".join([document.table(headings, lines), linear, document.table(document.TARGETS, targets)])


@click.command()
@click.option("--size", "sizes", multiple=True, default=SIZES, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--write-docs", is_flag=True, help="Put the table into docs/scale.md.")
def main(sizes: Sequence[str], rounds: int, write_docs: bool) -> None:
    """Convert sizes of Qwen2, each in bfloat16, and print what it took."""
    require_psutil()
    BUILD.mkdir(parents=True, exist_ok=True)
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=BUILD) as folder:
            rows.append(run(size, Path(folder), rounds))
    where = document.environment()
    said = f"{document.sentence(where)}\n\n{report(rows)}"
    click.echo(said)
    if write_docs:
        document.rewrite("scale", said, ROOT / "docs" / "scale.md")


if __name__ == "__main__":
    main()

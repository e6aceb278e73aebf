"""`bgevis-convert embed`: rows of texts and pictures from the shell, embeddings to standard output or a file."""

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...validation.errors import EnvironmentFailure, InputError
from ..output import written
from .artifacts import Artifacts, told_cut

CHUNK = 4096
"""Rows that are embedded before the first of them is written."""

Row = dict[str, str]
"""What one embedding is of: {"text": ...}, {"image": ...} or both."""

Writer = Callable[[Iterator[tuple[Row, np.ndarray]], int, IO[bytes]], None]
"""Takes rows with their embeddings, how many numbers one has, and the file."""


def read_lines(name: str) -> list[str]:
    """Read a text per line from a file, "-" for standard input.

    Raises:
        InputError: it is missing or not UTF-8.
    """
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        lines = data.decode("utf-8").split("\n")
    except FileNotFoundError as error:
        raise InputError(f"{name} does not exist") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8: {error}") from error
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def rows(texts: Sequence[str], images: Sequence[str]) -> list[Row]:
    """Join texts and pictures to rows: either of them, or pairs."""
    if not images:
        return [{"text": text} for text in texts]
    if not texts:
        return [{"image": image} for image in images]
    return [{"text": text, "image": image} for text, image in zip(texts, images, strict=True)]


def embedded(
    artifacts: Artifacts, given: Sequence[Row], batch: int, before: Mapping[str, str | None], *, strict: bool = False
) -> Iterator[tuple[Row, np.ndarray]]:
    """Embed rows, a chunk at a time; say at the end on standard error how many texts were cut.

    Args:
        artifacts: opened.
        given: rows.
        batch: most of them at once.
        before: which prompt stands before texts, as `Artifacts.embed` takes it.
        strict: see `Artifacts.embed`; the rows are one chunk then, so that nothing is written before all are read.
    """
    cut: list[int] = []
    size = len(given) if strict else CHUNK
    for start in range(0, len(given), size):
        chunk = given[start : start + size]
        columns = {key: [row[key] for row in chunk] for key in chunk[0]}
        texts, images = columns.get("text"), columns.get("image")
        shown = sys.stderr.isatty()
        found = artifacts.embed(texts, images, **before, strict=strict, batch_size=batch, progress=shown)
        cut += [start + i for i in artifacts.cut]
        yield from zip(chunk, found, strict=True)
    if cut:
        print(f"warning: {told_cut(cut, len(given), artifacts.limit)}; they were cut", file=sys.stderr)


def write(found: Iterator[tuple[Row, np.ndarray]], width: int, out: Path | None) -> None:
    """Write embeddings by the ending of `out`, else as JSON lines. A file is written whole or not at all.

    Raises:
        EnvironmentFailure: Parquet was asked for and pyarrow is missing, or standard output takes nothing.
    """
    if out is None:
        if sys.stdout is None:
            raise EnvironmentFailure("standard output is closed; name a file with --out")
        try:
            _json_lines(found, width, sys.stdout.buffer)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise EnvironmentFailure(f"standard output: {error.strerror}") from error
        return
    with written(out) as aside, aside.open("wb") as file:
        writer(out)(found, width, file)


def writer(out: Path) -> Writer:
    """Choose how a file is written; refuses before any work is done.

    Raises:
        InputError: nobody knows what a file of this ending holds.
        EnvironmentFailure: Parquet was asked for and pyarrow is missing.
    """
    if out.suffix not in WRITERS:
        raise InputError(f"--out {out}: its ending says nothing of what to write; known: {', '.join(WRITERS)}")
    if out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise EnvironmentFailure(f"{out} needs the Python package pyarrow: pip install 'bgevis-convert[parquet]'")
    return WRITERS[out.suffix]


def _json_lines(found: Iterator[tuple[Row, np.ndarray]], width: int, file: IO[bytes]) -> None:
    for row, embedding in found:
        numbers = [float(f"{value:.9g}") for value in embedding]  # nine digits give a float32 back
        file.write(json.dumps(row | {"embedding": numbers}, ensure_ascii=False).encode() + b"\n")
        file.flush()


def _npy(found: Iterator[tuple[Row, np.ndarray]], width: int, file: IO[bytes]) -> None:
    np.save(file, np.array([embedding for _, embedding in found], np.float32).reshape(-1, width))


def _parquet(found: Iterator[tuple[Row, np.ndarray]], width: int, file: IO[bytes]) -> None:
    import pyarrow
    from pyarrow import parquet

    several = list(found)
    columns: dict[str, Any] = {key: [row[key] for row, _ in several] for key in (several[0][0] if several else ())}
    flat = np.array([embedding for _, embedding in several], np.float32).reshape(-1)
    columns["embedding"] = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(flat), width)
    parquet.write_table(pyarrow.table(columns), file)


WRITERS: Mapping[str, Writer] = {".npy": _npy, ".parquet": _parquet, ".jsonl": _json_lines, ".ndjson": _json_lines}
"""By the ending of the file."""

"""`bgevis-convert embed`: rows of texts and pictures from the shell, embeddings to standard output or a file."""

import glob
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...validation.errors import EnvironmentFailure, InputError
from ...validation.files import parse_json
from ...validation.packages import need
from ..output import written
from ..printable import digits
from .artifacts import Artifacts, told_cut
from .batches import CHUNK

Row = dict[str, Any]
"""What one embedding is of: {"text": ...}, {"image": ...} or both, and what else a JSON line held."""

KINDS = ("text", "image")
PATTERN = re.compile(r"[*?\[]")

Writer = Callable[[Iterator[tuple[Row, np.ndarray]], int, IO[bytes]], int]
"""Takes rows with their embeddings, how many numbers one has, and the file; says how many rows there were."""


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
    except IsADirectoryError as error:
        raise InputError(f"{name} is a folder, expected a file with one row per line") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8, expected a text file with one row per line: {error}") from error
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def read_files(given: str, option: str) -> list[str]:
    """Name the files of a pattern, in the order of their names, or of a file with one per line, "-" for stdin.

    Raises:
        InputError: there are none, or no such file.
    """
    if not PATTERN.search(given):
        return read_lines(given)
    found = sorted(glob.glob(given, recursive=True))  # noqa: PTH207 - the user's pattern may be absolute
    if not found:
        raise InputError(f"{option} {given}: no file's name is like this")
    return found


def read_rows(name: str) -> list[Row]:
    """Read JSON lines, each an object with `text`, `image` or both, and anything else, which is kept.

    Raises:
        InputError: a line is no such object, or holds other ones of the two than the lines before.
    """
    found: list[Row] = []
    for number, line in enumerate(read_lines(name), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line.encode())
        except ValueError as error:
            raise InputError(f"{name}, line {number}: {error}") from error
        if not isinstance(row, dict) or not any(kind in row for kind in KINDS):
            raise InputError(f"{name}, line {number}: expected an object with text, image or both, got {line[:40]}")
        for kind in KINDS:
            if kind in row and not isinstance(row[kind], str):
                raise InputError(f"{name}, line {number}: {kind} is {json.dumps(row[kind])[:40]}, expected a text")
            if found and (kind in row) != (kind in found[0]):
                has = "has" if kind in row else "has no"
                raise InputError(f"{name}, line {number} {has} {kind}, other than the first: all must be alike")
        found.append(row)
    return found


def rows(texts: Sequence[str], images: Sequence[str]) -> list[Row]:
    """Join texts and pictures to rows: either of them, or pairs."""
    if not images:
        return [{"text": text} for text in texts]
    if not texts:
        return [{"image": image} for image in images]
    return [{"text": text, "image": image} for text, image in zip(texts, images, strict=True)]


def embedded(
    artifacts: Artifacts, given: Sequence[Row], *, strict: bool = False, **how: Any
) -> Iterator[tuple[Row, np.ndarray]]:
    """Embed rows, a chunk at a time; say at the end on standard error how many texts were cut.

    Args:
        artifacts: opened.
        given: rows, all of them of the same kinds.
        strict: see `Artifacts.embed`; the rows are one chunk then, so that nothing is written before all are read.
        how: what else `Artifacts.embed_iter` takes.
    """
    if not given:
        return
    texts, images = ([row[kind] for row in given] if kind in given[0] else None for kind in KINDS)
    chunk = len(given) if strict else CHUNK
    yield from zip(given, artifacts.embed_iter(texts, images, strict=strict, chunk=chunk, **how), strict=True)
    if artifacts.cut:
        print(f"warning: {told_cut(artifacts.cut, len(given), artifacts.limit)}; they were cut", file=sys.stderr)


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
        count = writer(out)(found, width, file)
    print(f"wrote {out} ({count}, {width})", file=sys.stderr)


def writer(out: Path) -> Writer:
    """Choose how a file is written; refuses before any work is done.

    Raises:
        InputError: nobody knows what a file of this ending holds.
        EnvironmentFailure: Parquet was asked for and pyarrow is missing.
    """
    if out.suffix not in WRITERS:
        raise InputError(f"--out {out}: its ending says nothing of what to write; known: {', '.join(WRITERS)}")
    if out.suffix == ".parquet":
        need("pyarrow", str(out))
    return WRITERS[out.suffix]


def _json_lines(found: Iterator[tuple[Row, np.ndarray]], width: int, file: IO[bytes]) -> int:
    count = 0
    for row, embedding in found:
        numbers = [digits(value) for value in embedding]
        file.write(json.dumps(row | {"embedding": numbers}, ensure_ascii=False).encode() + b"\n")
        file.flush()
        count += 1
    return count


def _npy(found: Iterator[tuple[Row, np.ndarray]], width: int, file: IO[bytes]) -> int:
    array = np.array([embedding for _, embedding in found], np.float32).reshape(-1, width)
    np.save(file, array)
    return len(array)


def _parquet(found: Iterator[tuple[Row, np.ndarray]], width: int, file: IO[bytes]) -> int:
    import pyarrow
    from pyarrow import parquet

    several = list(found)
    names = dict.fromkeys(name for row, _ in several for name in row)
    try:
        columns: dict[str, Any] = {name: pyarrow.array([row.get(name) for row, _ in several]) for name in names}
    except pyarrow.ArrowException as error:
        raise InputError(f"a field of the rows cannot be a column: {error}; write .jsonl instead") from error
    flat = np.array([embedding for _, embedding in several], np.float32).reshape(-1)
    columns["embedding"] = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(flat), width)
    parquet.write_table(pyarrow.table(columns), file)
    return len(several)


WRITERS: Mapping[str, Writer] = {".npy": _npy, ".parquet": _parquet, ".jsonl": _json_lines, ".ndjson": _json_lines}
"""By the ending of the file."""

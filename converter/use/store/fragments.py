"""A fragment's two files: Parquet, which is the store, and beside it the same rows as a mapped Arrow file.

Parquet holds a list's numbers behind levels and compression: decoding a million vectors takes seconds. The Arrow file
has them as they are in memory, and is mapped; it can be made again from the Parquet file and is, where it is missing.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np

from ....validation.errors import InputError
from ...directory import sync
from .manifest import FOREIGN, Fragment
from .tables import schema

if TYPE_CHECKING:
    import pyarrow

MAPPED = ".mapped"
"""The folder of the Arrow files."""

LEVEL, GROUP = 3, 4096
"""Of zstd, as ArrowEngine has it; rows of a row group, which are read at once where a few rows are asked for."""

LENGTH = "length"
"""A further column of the Arrow file: float32, each vector's Euclidean length."""


class Gone(Exception):
    """A file that a state of the store names is no longer there: another state may have taken its place."""


class Pair:
    """Both files of a fragment while they are written aside; they take their places with `place`, or are deleted.

    A lock on what is not yet whole tells a writer that is at work from one that was killed.
    """

    def __init__(self, store: Path, table: str, width: int):
        import pyarrow
        from pyarrow import parquet

        name = os.urandom(16).hex()
        self.file, self.rows, self._store = f"{table}/{name}.parquet", 0, store
        (store / table).mkdir(exist_ok=True)
        self._aside = store / table / f".{name}.part"
        self._mapped = store / MAPPED / f".{name}.part"
        self._held = [file.open("wb") for file in (self._aside, self._mapped)]
        for held in self._held:
            fcntl.flock(held, fcntl.LOCK_EX)
        columns = schema(table, width)
        self._parquet = parquet.ParquetWriter(
            self._aside,
            columns,
            compression="zstd",
            compression_level=LEVEL,
            use_dictionary=[name for name in columns.names if name != "embedding"],
            write_page_checksum=True,
        )
        self._arrow = pyarrow.ipc.new_file(str(self._mapped), _with_lengths(columns))
        self._writers: list[Any] = [self._parquet, self._arrow]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete what did not take its place."""
        with contextlib.suppress(Exception):  # the disk is full, which was told
            self._end()
        for file in (self._aside, self._mapped):
            file.unlink(missing_ok=True)
        for held in self._held:
            held.close()

    def write(self, rows: "pyarrow.Table") -> None:
        """Write rows, each column as the table has it."""
        self._parquet.write_table(rows, row_group_size=GROUP)
        self._arrow.write_table(measured(rows), max_chunksize=1 << 16)
        self.rows += rows.num_rows

    def _end(self) -> None:
        """Write what stands at the end of both files, once."""
        while self._writers:
            self._writers.pop().close()

    def finish(self) -> int:
        """Have both files on the disk; give the bytes of the Parquet file."""
        self._end()
        sync(self._aside)
        sync(self._mapped)
        return self._aside.stat().st_size

    def place(self) -> None:
        """Put both files where a state of the store names them: the one that can be made again first."""
        self._mapped.replace(self._store / MAPPED / f"{Path(self.file).stem}.arrow")
        self._aside.replace(self._store / self.file)
        sync((self._store / self.file).parent)


def _with_lengths(columns: "pyarrow.Schema") -> "pyarrow.Schema":
    import pyarrow

    return columns.append(pyarrow.field(LENGTH, pyarrow.float32()))


def measured(rows: "pyarrow.Table") -> "pyarrow.Table":
    """Add the column of lengths."""
    import pyarrow

    lengths = [np.linalg.norm(batch.astype(np.float32), axis=1) for batch in vectors(rows)]
    return rows.append_column(LENGTH, pyarrow.chunked_array(lengths, pyarrow.float32()))


def vectors(rows: "pyarrow.Table") -> list[np.ndarray]:
    """Give the embeddings of each chunk as they lie in memory or in a mapped file: (rows, width) float16."""
    column = rows.column("embedding")
    width = column.type.list_size
    return [np.asarray(chunk.flatten()).reshape(-1, width) for chunk in column.chunks]


class Opened:
    """A fragment's rows, mapped: `table` is in memory only as far as it is looked at.

    Args:
        source: its Parquet file.
        table: the columns of its schema, and the lengths.
    """

    def __init__(self, source: "Source", table: "pyarrow.Table"):
        self.file, self.name, self.table = source.file, source.mapped, table
        self.halves = vectors(table)
        self.lengths = [np.asarray(chunk) for chunk in table.column(LENGTH).chunks]
        self.starts = np.cumsum([0, *map(len, self.lengths)])

    def rows(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give some rows' embeddings, (places, width) float16, and lengths; `places` ascend."""
        if len(self.halves) == 1:
            return self.halves[0][places], self.lengths[0][places]
        cuts = np.searchsorted(places, self.starts[1:-1])
        each = [part - start for part, start in zip(np.split(places, cuts), self.starts, strict=False)]
        return (
            np.concatenate([chunk[part] for chunk, part in zip(self.halves, each, strict=True)]),
            np.concatenate([chunk[part] for chunk, part in zip(self.lengths, each, strict=True)]),
        )


@dataclass(frozen=True)
class Source:
    """A Parquet file of a store.

    Args:
        file: below the store.
        fragment: what the store's document says of it; None for ArrowEngine's own file.
        state: of such a file, which others may replace.
    """

    file: str
    fragment: Fragment | None = None
    state: os.stat_result | None = None

    @property
    def mapped(self) -> str:
        """Name its Arrow file; of what others may replace by size and time too."""
        if self.state is None:
            return f"{Path(self.file).stem}.arrow"
        told = f"{self.file} {self.state.st_size} {self.state.st_mtime_ns} {self.state.st_ino}"
        return f"{hashlib.sha256(told.encode()).hexdigest()[:32]}.arrow"


def foreign(store: Path, table: str) -> Source | None:
    """Find ArrowEngine's own file of a table."""
    try:
        return Source(f"{table}/{FOREIGN}", state=(store / table / FOREIGN).stat())
    except FileNotFoundError:
        return None


def abandoned(store: Path) -> Iterator[Path]:
    """Find what writers left that were killed."""
    for file in [*store.glob("*/.*.part")]:
        with contextlib.suppress(FileNotFoundError, BlockingIOError), file.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file


def opened(store: Path, source: Source) -> Opened:
    """Map a fragment, or make its Arrow file first where there is none.

    Raises:
        Gone: it is not there.
        InputError: it is damaged, or holds other columns.
    """
    import pyarrow

    file, fragment, place = store / source.file, source.fragment, store / MAPPED / source.mapped
    try:
        size = file.stat().st_size
    except FileNotFoundError as error:
        raise Gone(source.file) from error
    if fragment and size != fragment.bytes:
        raise InputError(f"{file} has {size} bytes, the store's document says {fragment.bytes}: it is damaged")
    with contextlib.suppress(FileNotFoundError, pyarrow.ArrowInvalid):
        table = _read_arrow(place)
        if not fragment or _is_of(table, fragment):
            return Opened(source, table)
    return Opened(source, _made_again(file, place, fragment))


def _is_of(table: "pyarrow.Table", fragment: Fragment) -> bool:
    columns = _with_lengths(schema(fragment.table, fragment.width))
    return table.num_rows == fragment.rows and bool(table.schema.equals(columns))


def _read_arrow(place: Path) -> "pyarrow.Table":
    """Map a file; what it holds keeps the map, and the descriptor is closed."""
    import pyarrow

    with pyarrow.memory_map(str(place)) as source:
        return pyarrow.ipc.open_file(source).read_all()


def _made_again(source: Path, place: Path, fragment: Fragment | None) -> "pyarrow.Table":
    """Write the Arrow file of a Parquet file: in its place, or without a name where that may not be."""
    import pyarrow

    def write(aside: IO[bytes]) -> None:
        with contextlib.ExitStack() as stack:
            writer = None
            for rows in batches(source, fragment):
                table = measured(rows)
                writer = writer or stack.enter_context(pyarrow.ipc.new_file(aside, table.schema))
                writer.write_table(table)
        aside.flush()

    if place.parent.is_dir():  # ArrowEngine's folder is left as it is
        try:
            with beside(place) as aside:
                write(aside)
            return _read_arrow(place)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
    with tempfile.NamedTemporaryFile() as unnamed:
        write(unnamed)
        return _read_arrow(Path(unnamed.name))


@contextlib.contextmanager
def beside(place: Path) -> Iterator[IO[bytes]]:
    """Give a file to write that takes its place when all went well, and is known to be somebody's until then."""
    aside = place.with_name(f".{os.urandom(16).hex()}.part")
    try:
        with aside.open("xb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
            aside.replace(place)
        sync(place.parent)
    finally:
        aside.unlink(missing_ok=True)


def batches(source: Path, fragment: Fragment | None, columns: Sequence[str] | None = None) -> Iterator["pyarrow.Table"]:
    """Read a Parquet file some thousand rows at a time, each page held to its checksum where it has one.

    Raises:
        Gone: it is not there.
        InputError: it is damaged, or no file of this table.
    """
    import pyarrow
    from pyarrow import parquet

    table = source.parent.name
    try:
        with parquet.ParquetFile(source, page_checksum_verification=True) as file:
            wanted = _expected(file, source, table, fragment)
            given = 0
            for batch in file.iter_batches(1 << 15, columns=columns, use_threads=True):
                rows = pyarrow.Table.from_batches([batch])
                if columns is None:
                    rows = rows.cast(wanted)
                    _refuse_unusable(rows, source, given)
                given += rows.num_rows
                yield rows
            if not given and columns is None:
                yield wanted.empty_table()
    except FileNotFoundError as error:
        raise Gone(str(source)) from error
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"{source} is damaged or no Parquet file: {str(error).splitlines()[0]}") from error


def _expected(
    file: "pyarrow.parquet.ParquetFile", source: Path, table: str, fragment: Fragment | None
) -> "pyarrow.Schema":
    """Hold a file's columns to those of its table."""
    found = file.schema_arrow
    kind = found.field("embedding").type if "embedding" in found.names else None
    width = getattr(kind, "list_size", 0)
    wanted = schema(table, fragment.width if fragment else width or 512)
    for field in wanted:
        came = found.field(field.name).type if field.name in found.names else "missing"
        if came != field.type:
            raise InputError(f"{source}: the column {field.name} is {came}, expected {field.type}")
    if further := sorted(set(found.names) - set(wanted.names)):
        raise InputError(f"{source} has columns that the table {table} has not: {', '.join(further)}")
    if fragment and file.metadata.num_rows != fragment.rows:
        raise InputError(f"{source} has {file.metadata.num_rows} rows, the store's document says {fragment.rows}")
    return wanted


def _refuse_unusable(rows: "pyarrow.Table", source: Path, before: int) -> None:
    """Refuse rows without embedding or id, and embeddings that hold NaN or infinity. A zero one is near to nothing."""
    for name in ("embedding_id", "embedding", "model"):
        if rows[name].null_count:
            raise InputError(f"{source}: a row has no {name}")
    start = before
    for batch in vectors(rows):
        fine = np.isfinite(batch).all(axis=1)
        if not fine.all():
            at = int(np.argmin(fine))
            raise InputError(f"{source}: the embedding of row {start + at} holds NaN or infinity")
        start += len(batch)

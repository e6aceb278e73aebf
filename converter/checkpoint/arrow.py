"""ArrowEngine's weight store: a Parquet file with a tensor in each row. Needs pyarrow, the extra `parquet`.

    layer_name string, shape list<int32>, dtype string, data binary, num_params int64
    and, quantised: quant_type string, scales binary, zero_points binary, quant_axis int32, group_size int32

dtype is torch's name of the type ("torch.float16"), data are the elements in C order, little-endian. Quantised rows are
read as float32, (q - zero point) * scale; scales and zero points are float32, one for all, one for each place of an
axis, or one for each group of elements in C order. int2 holds four numbers of -2 to 1 a byte, the highest bits first.

Source: github.com/pallasting/ArrowQuant_V2, llm_compression/inference/quantization_schema.py and weight_loader.py.
"""

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...validation.packages import need
from .format_error import FormatError, shown
from .mapped import MappedFile
from .part import Part
from .tensor import DTYPES, Tensor, check_name, check_view, contiguous

if TYPE_CHECKING:
    import pyarrow

CONTAINER, QUANTISED = "arrow", "arrow-quantised"

PLAIN_COLUMNS = {
    "layer_name": "string",
    "shape": "list<int32>",
    "dtype": "string",
    "data": "binary",
    "num_params": "int64",
}
QUANT_COLUMNS = {
    "quant_type": "string",
    "scales": "binary",
    "zero_points": "binary",
    "quant_axis": "int32",
    "group_size": "int32",
}
BULK = ("data", "scales", "zero_points")
"""Columns that are read a row at a time."""

TYPES = {f"torch.{name}": name for name in DTYPES}
STORED = {"fp16": "float16", "fp32": "float32"}
"""quant_type of rows whose numbers stand as they are."""

PACKED = {"int8": 1, "int2": 4}
"""quant_type -> quantised numbers in a byte."""

KEPT = 2
"""Rows that stay in memory: two threads that read in turns ask for one of them out of order."""

MOST = 1_000_000
"""Rows; no network has so many tensors."""

ADVICE = "write the store again with ArrowEngine's converter, or give the checkpoint that it was made of"


@dataclass(frozen=True)
class Row:
    """Where a tensor's row is, and how its bytes are read."""

    group: int
    place: int
    """In the group."""
    quant_type: str
    """Of `PACKED`; "" where the numbers stand as they are."""
    axis: int
    group_size: int


class ArrowFile(MappedFile):
    """A store, mapped into memory. Rows are decompressed one after the other, and the last `KEPT` of them kept."""

    def __init__(self, path: Path, rows: Mapping[str, Row], *, quantised: bool):
        super().__init__(path)
        self._rows = rows
        self._columns = BULK if quantised else BULK[:1]
        self._lock = threading.Lock()
        self._parquet: Any = None
        self._group = -1
        self._stream: Iterator[pyarrow.RecordBatch] = iter(())
        self._next = 0
        self._kept: dict[int, pyarrow.RecordBatch] = {}

    def array(self, tensor: Tensor) -> np.ndarray:
        """Give a tensor's elements in memory of their own, read-only.

        Raises:
            FormatError: the row holds another number of bytes than its shape needs, or it cannot be decompressed.
        """
        name = tensor.storage[1]  # type: ignore[index]  # the name in the file, whatever it is called since
        row = self._rows[name]
        with self._lock, understood():
            batch = self._read(row.group, row.place)
            cells = {column: batch.column(column)[0].as_buffer() for column in self._columns}
        found = _dequantised(name, tensor.shape, row, cells) if row.quant_type else _plain(tensor, name, cells["data"])
        found.flags.writeable = False
        return found

    def _read(self, group: int, place: int) -> "pyarrow.RecordBatch":
        """Go on to a row of a row group, or begin the group anew where it has passed already."""
        if self._group != group or (place < self._next and place not in self._kept):
            self._rewind()
            if self._parquet is None:
                self._parquet = _parquet(self)
            columns = list(self._columns)
            self._stream = self._parquet.iter_batches(1, row_groups=[group], columns=columns, use_threads=False)
            self._group = group
        try:
            while self._next <= place:
                self._kept[self._next] = next(self._stream)
                self._kept.pop(self._next - KEPT, None)
                self._next += 1
                super().forget(0, self.size)  # what was decompressed need not stay mapped
        except BaseException:
            self._rewind()  # a stream that failed is at its end
            raise
        return self._kept[place]

    def _rewind(self) -> None:
        self._group, self._stream, self._next = -1, iter(()), 0
        self._kept.clear()

    def forget(self, start: int, length: int) -> None:
        """Do nothing: a tensor lies in no range of the file, and its row makes way for the next ones."""

    def close(self) -> None:
        """Let go of the mapping and of the rows that are kept."""
        with self._lock:
            self._rewind()
            self._parquet = None
        super().close()


def read_arrow(file: MappedFile) -> Part:
    """Index the rows of a store: names, shapes and types are read, no weights.

    Raises:
        FormatError: it is no Parquet file that can be read, or no store.
        EnvironmentFailure: pyarrow is not installed.
    """
    need("pyarrow", f"reading {file.path}")
    with understood():
        parquet = _parquet(file)
        metadata, schema = parquet.metadata, parquet.schema_arrow
        columns = _columns(schema)
        if not 0 < metadata.num_rows <= MOST:
            raise FormatError(f"holds {metadata.num_rows} tensors, expected 1 to {MOST}", ADVICE)
        table = parquet.read(columns=[name for name in columns if name not in BULK], use_threads=False)
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    quantised = "quant_type" in columns
    places = [(group, place) for group, count in enumerate(counts) for place in range(count)]
    rows: dict[str, Row] = {}
    tensors: dict[str, Tensor] = {}
    for (group, place), cells in zip(places, _cells(table), strict=True):
        name, shape, dtype = _described(cells)
        if name in rows:
            raise FormatError(f"holds two tensors called {shown(name)}", ADVICE)
        rows[name] = (
            Row(group, place, *_quantisation(name, shape, cells)) if quantised else Row(group, place, "", -1, 0)
        )
        if quantised:
            dtype = STORED.get(cells["quant_type"], "float32")
        nbytes = check_view(name, shape, contiguous(shape), 0, dtype, math.prod(shape))
        identity = (str(file.path), name)
        tensors[name] = Tensor(name, shape, dtype, file.path, 0, contiguous(shape), nbytes, identity)
    container = QUANTISED if any(row.quant_type for row in rows.values()) else CONTAINER
    return Part(container, ArrowFile(file.path, rows, quantised=quantised), tensors)


@contextmanager
def understood() -> Iterator[None]:
    """Turn what pyarrow raises inside over a damaged file into one error.

    Raises:
        FormatError: it did.
    """
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FormatError(f"cannot be read as Parquet ({reason})", ADVICE) from error


def _parquet(file: MappedFile) -> Any:
    import pyarrow
    from pyarrow import parquet

    return parquet.ParquetFile(pyarrow.BufferReader(pyarrow.py_buffer(file.map)))


def _columns(schema: "pyarrow.Schema") -> dict[str, str]:
    """Give the columns that a store has, with or without those of quantised ones, and their types.

    Raises:
        FormatError: one is missing, has another type or is none of a store's.
    """
    wanted = PLAIN_COLUMNS | (QUANT_COLUMNS if "quant_type" in schema.names else {})
    found = [(field.name, _type(field.type)) for field in schema]
    missing = [name for name in wanted if name not in schema.names]
    if missing:
        raise FormatError(
            f"is Parquet without the column{'s' * (len(missing) > 1)} {', '.join(missing)} of a store of weights",
            ADVICE,
        )
    for name, kind in found:
        if name not in wanted or schema.names.count(name) > 1:
            raise FormatError(f"has a column {shown(name)} that is none of a store of weights, or has it twice", ADVICE)
        if kind != wanted[name]:
            raise FormatError(f"column {name} is of type {shown(kind)}, expected {wanted[name]}", ADVICE)
    return wanted


def _type(kind: "pyarrow.DataType") -> str:
    import pyarrow

    return f"list<{kind.value_type}>" if pyarrow.types.is_list(kind) else str(kind)


def _cells(table: "pyarrow.Table") -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=1000):
        yield from batch.to_pylist()


def _described(cells: Mapping[str, Any]) -> tuple[str, tuple[int, ...], str]:
    """Give name, shape and dtype of a row."""
    name, shape, code = cells["layer_name"], cells["shape"], cells["dtype"]
    if name is None:
        raise FormatError("has a row without layer_name", ADVICE)
    check_name(name)
    what = f"tensor {shown(name)}"
    for column, value in cells.items():
        if value is None:
            raise FormatError(f"{what} has no {column}", ADVICE)
    if any(size is None or size < 0 for size in shape):
        raise FormatError(f"{what} has the shape {shown(str(shape))}, expected whole numbers from 0", ADVICE)
    if code not in TYPES:
        raise FormatError(f"{what} has dtype {shown(code)}, known are {', '.join(TYPES)}", ADVICE)
    if cells["num_params"] != math.prod(shape):
        raise FormatError(
            f"{what} has num_params {cells['num_params']}, but its shape {tuple(shape)} has {math.prod(shape)}", ADVICE
        )
    return name, tuple(shape), TYPES[code]


def _quantisation(name: str, shape: Sequence[int], cells: Mapping[str, Any]) -> tuple[str, int, int]:
    """Give quant_type, axis and group size of a row; "" as the type where numbers stand as they are."""
    what = f"tensor {shown(name)}"
    kind, axis, group = cells["quant_type"], cells["quant_axis"], cells["group_size"]
    if kind in STORED:
        return "", -1, 0
    if kind not in PACKED:
        known = ", ".join((*PACKED, *STORED))
        raise FormatError(f"{what} has quant_type {shown(kind)}, known are {known}", ADVICE)
    if not -1 <= axis < len(shape):
        raise FormatError(f"{what} has quant_axis {axis}, expected -1 or an axis of {tuple(shape)}", ADVICE)
    if group < 0:
        raise FormatError(f"{what} has group_size {group}, expected 0 or more", ADVICE)
    return kind, axis, group


def _plain(tensor: Tensor, name: str, data: "pyarrow.Buffer | None") -> np.ndarray:
    held = _held(name, "data", data, tensor.nbytes)
    return np.frombuffer(held, DTYPES[tensor.dtype]).reshape(tensor.shape).copy()


def _dequantised(
    name: str, shape: tuple[int, ...], row: Row, cells: "Mapping[str, pyarrow.Buffer | None]"
) -> np.ndarray:
    """Give (q - zero point) * scale, each step in float32."""
    count = math.prod(shape)
    data = _held(name, "data", cells["data"], -(-count // PACKED[row.quant_type]))
    if row.quant_type == "int8":
        numbers = np.frombuffer(data, np.int8).astype(np.float32)
    else:
        pairs = np.frombuffer(data, np.uint8)[:, None] >> np.array([6, 4, 2, 0], np.uint8)
        numbers = (pairs & 3).astype(np.float32).reshape(-1)[:count] - np.float32(2)
    places = 1 if row.axis == -1 else shape[row.axis]
    several = -(-count // row.group_size) if row.group_size else places
    scales, zeros = (
        np.frombuffer(_held(name, column, cells[column], 4 * several), np.dtype("<f4"))
        for column in ("scales", "zero_points")
    )
    if row.group_size:
        numbers -= np.repeat(zeros, row.group_size)[:count]
        numbers *= np.repeat(scales, row.group_size)[:count]
        return numbers.reshape(shape)
    along = [-1 if axis == row.axis else 1 for axis in range(len(shape))] if row.axis >= 0 else [1] * len(shape)
    found = numbers.reshape(shape)
    found -= zeros.reshape(along)
    found *= scales.reshape(along)
    return found


def _held(name: str, column: str, found: "pyarrow.Buffer | None", nbytes: int) -> "bytes | pyarrow.Buffer":
    """Hold that a cell has as many bytes as it must.

    Raises:
        FormatError: it has not.
    """
    size = 0 if found is None else found.size
    if size != nbytes:
        raise FormatError(f"tensor {shown(name)} has {size} bytes of {column}, its shape needs {nbytes}", ADVICE)
    return found if found is not None and size else b""

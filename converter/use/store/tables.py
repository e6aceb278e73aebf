"""The tables of a store, by ArrowEngine's schemas, and the rows that go into them, checked."""

import datetime
import functools
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from ....validation.errors import InputError
from ....validation.files import parse_json

if TYPE_CHECKING:
    import pyarrow

SOURCES: Mapping[str, str] = {"text": "text_id", "vision": "image_id", "audio": "audio_id", "clip": "source_id"}
"""Table -> the column that names what was embedded. `text` is this project's own, the others are ArrowEngine's."""

MODALITIES = ("text", "image", "audio", "text+image")
"""Of a row of the table `clip`, whose kinds share a space. ArrowEngine has the first two."""

LOSS = 2.0**-10
"""Part of a vector's length that float16 may cost it: twice what rounding does to numbers that are not tiny."""

BLOCK = 1 << 16
"""Rows that are checked at once."""


class Where(TypedDict, total=False):
    """Which rows are meant; all conditions hold at once, and no condition means all rows.

    Args:
        ids: the rows of these embedding ids.
        sources: of these texts, pictures or sounds.
        modality: of this kind; the table `clip` alone has it.
        since: not stored before this time; UTC where it names no zone.
        until: stored before this time.
        metadata: fields of the row's metadata and their values.
    """

    ids: Collection[str]
    sources: Collection[str]
    modality: str
    since: datetime.datetime
    until: datetime.datetime
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """A row that was found.

    Args:
        id: of the embedding.
        source: the text, picture or sound that was embedded.
        model: by which.
        modality: of a row of `clip`; None in the other tables.
        time: when it was stored, UTC.
        metadata: what else is known of it.
        similarity: to what was asked; more is nearer.
    """

    id: str
    source: str
    model: str
    modality: str | None
    time: datetime.datetime
    metadata: Mapping[str, Any]
    similarity: float


def schema(table: str, width: int) -> "pyarrow.Schema":
    """Give the columns of a table whose embeddings have `width` numbers."""
    import pyarrow

    fields = [("embedding_id", pyarrow.string()), (SOURCES[table], pyarrow.string())]
    if table == "clip":
        fields.append(("modality", pyarrow.string()))
    fields.append(("embedding", pyarrow.list_(pyarrow.float16(), width)))
    fields += [("model", pyarrow.string()), ("timestamp", pyarrow.timestamp("us"))]
    if table == "audio":
        fields.append(("duration_seconds", pyarrow.float32()))
    return pyarrow.schema([*fields, ("metadata", pyarrow.string())])


def known_table(table: str) -> str:
    """Check the name of a table.

    Raises:
        InputError: there is no such table.
    """
    if table not in SOURCES:
        raise InputError(f"there is no table {table!r}, expected one of {', '.join(SOURCES)}")
    return table


def names(values: Any, what: str) -> list[str]:
    """Check ids.

    Raises:
        InputError: one is no text, is empty, or cannot be written.
    """
    if isinstance(values, str | bytes):
        raise InputError(f"{what} are given as one {type(values).__name__}, expected a list of texts")
    found = list(values)
    for place, value in enumerate(found):
        if not isinstance(value, str) or not value:
            raise InputError(f"{what}: number {place} is {value!r}, expected a text that is not empty")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise InputError(f"{what}: number {place} holds half of a character") from error
    return found


def halves(vectors: Any, ids: Sequence[str]) -> np.ndarray:
    """Check embeddings and round them to float16: (rows, width).

    Raises:
        InputError: they are no (rows, width) numbers, or one is NaN, infinite, zero, or of a size that float16 loses.
    """
    try:
        array = np.asarray(vectors)
        array = array if array.dtype.kind in "fiu" else array.astype(np.float32, casting="same_kind")
    except (TypeError, ValueError) as error:
        raise InputError("embeddings are no array of numbers, expected (rows, width) as `embed` makes them") from error
    if array.ndim != 2 or not array.shape[1]:
        raise InputError(f"embeddings have the shape {array.shape}, expected (rows, width)")
    if len(array) != len(ids):
        raise InputError(f"there are {len(array)} embeddings and {len(ids)} ids, expected as many")
    found = np.empty(array.shape, np.float16)
    for start in range(0, len(array), BLOCK):
        rows = array[start : start + BLOCK].astype(np.float64 if array.dtype.itemsize > 4 else np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            found[start : start + BLOCK] = rows
            lost = np.linalg.norm(np.subtract(rows, found[start : start + BLOCK]), axis=1)
            fine = lost <= LOSS * np.linalg.norm(rows, axis=1)  # NaN compares false
        fine &= rows.any(axis=1)
        if not fine.all():
            at = int(np.argmin(fine))
            raise InputError(f"embedding {start + at} ({ids[start + at]!r}) {_fault(rows[at])}")
    return found


def _fault(row: np.ndarray) -> str:
    if not np.isfinite(row).all():
        return f"holds {row[~np.isfinite(row)][0]}: nothing is near to it; leave it out, or see what it was made of"
    if not row.any():
        return "is zero: nothing is near to it; leave it out"
    largest = np.abs(row).max()
    return f"has numbers of up to {largest:.3g}, which float16 cannot hold; make embeddings as long as 1 (normalize)"


def columns(
    table: str,
    model: str,
    ids: Any,
    vectors: Any,
    *,
    sources: Any = None,
    modality: str | Sequence[str] | None = None,
    durations: Sequence[float] | None = None,
    metadata: Sequence[Mapping[str, Any]] | None = None,
    time: datetime.datetime | None = None,
) -> "pyarrow.Table":
    """Make rows of a table, see `EmbeddingStore.append`.

    Raises:
        InputError: a value is not what its column holds, or there are more of one than of another.
    """
    import pyarrow

    known = names(ids, "ids")
    count, array = len(known), halves(vectors, known)
    kinds = _kinds(table, modality, count)
    if durations is not None and table != "audio":
        raise InputError(f"the table {table} has no durations; audio has")
    stamp = utc(time or datetime.datetime.now(datetime.UTC), "time")
    made: dict[str, Any] = {
        "embedding_id": known,
        SOURCES[table]: known if sources is None else names(sources, "sources"),
        "modality": kinds,
        "embedding": pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(array.reshape(-1)), array.shape[1]),
        "model": pyarrow.repeat(pyarrow.scalar(model, pyarrow.string()), count),
        "timestamp": pyarrow.repeat(pyarrow.scalar(stamp, pyarrow.timestamp("us")), count),
        "duration_seconds": _seconds(durations, count),
        "metadata": ["{}"] * count if metadata is None else [_json(one, place) for place, one in enumerate(metadata)],
    }
    wanted = schema(table, array.shape[1])
    for name in wanted.names:
        if len(made[name]) != count:
            raise InputError(f"there are {len(made[name])} of {name} and {count} ids, expected as many")
    return pyarrow.table([made[name] for name in wanted.names], schema=wanted)


def _kinds(table: str, modality: str | Sequence[str] | None, count: int) -> list[str]:
    if table != "clip":
        if modality is not None:
            raise InputError(f"the table {table} has no modality: its rows are all of one kind; clip has")
        return []
    kinds = [modality] * count if isinstance(modality, str) else list(modality or ())
    unknown = [kind for kind in kinds if kind not in MODALITIES]
    if unknown or modality is None:
        said = unknown[0] if unknown else None
        raise InputError(f"modality is {said!r}, expected one of {', '.join(MODALITIES)} in the table clip")
    return kinds


def _seconds(durations: Sequence[float] | None, count: int) -> np.ndarray:
    """ArrowEngine writes 0 where nothing is known."""
    try:
        found = np.zeros(count, np.float32) if durations is None else np.asarray(durations, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError("durations are no numbers, expected seconds") from error
    if found.ndim != 1 or not np.isfinite(found).all() or (found < 0).any():
        raise InputError("durations are not all finite numbers of seconds from 0 up")
    return found


def _json(value: Mapping[str, Any], place: int) -> str:
    if not isinstance(value, Mapping):
        raise InputError(f"metadata: number {place} is {value!r}, expected a mapping")
    try:
        text = json.dumps(dict(value), ensure_ascii=False, allow_nan=False)
        parse_json(text.encode())
    except (TypeError, ValueError) as error:
        raise InputError(f"metadata: number {place} cannot be JSON: {error}") from error
    return text


def utc(time: datetime.datetime, name: str) -> datetime.datetime:
    """Give a time in UTC without a zone, as the column has it.

    Raises:
        InputError: it is no time.
    """
    if not isinstance(time, datetime.datetime):
        raise InputError(f"{name} is {time!r}, expected a datetime")
    return time if time.tzinfo is None else time.astimezone(datetime.UTC).replace(tzinfo=None)


def parsed(text: str | None, what: str) -> Mapping[str, Any]:
    """Read a row's metadata.

    Raises:
        InputError: it is no JSON object.
    """
    try:
        value = parse_json((text or "{}").encode())
    except ValueError as error:
        raise InputError(f"{what}: its metadata {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{what}: its metadata is {text!r}, expected a JSON object")
    return value


class Conditions:
    """Which rows of a table are meant.

    Raises:
        InputError: a condition is none, or the table has no such column.
    """

    def __init__(self, table: str, where: Where):
        import pyarrow
        import pyarrow.compute as pc

        if unknown := where.keys() - Where.__annotations__.keys():
            raise InputError(f"there is no condition {min(unknown)!r}, expected {', '.join(Where.__annotations__)}")
        held: list[tuple[str, Callable[[Any], Any]]] = []
        for name, column in (("ids", "embedding_id"), ("sources", SOURCES[table])):
            if name in where:
                wanted = pyarrow.array(names(where[name], name), pyarrow.string())  # type: ignore[literal-required]
                held.append((column, functools.partial(pc.is_in, value_set=wanted)))
        if "modality" in where:
            _kinds(table, where["modality"], 1)
            held.append(("modality", lambda column: pc.equal(column, where["modality"])))
        if "since" in where:
            since = _stamp(where["since"], "since")
            held.append(("timestamp", lambda column: pc.greater_equal(column, since)))
        if "until" in where:
            until = _stamp(where["until"], "until")
            held.append(("timestamp", lambda column: pc.less(column, until)))
        self._held = held
        self._metadata = where.get("metadata", {})
        if not isinstance(self._metadata, Mapping):
            raise InputError(f"metadata is {self._metadata!r}, expected a mapping of fields to their values")

    def places(self, rows: "pyarrow.Table", what: str) -> np.ndarray | None:
        """Give the places of the rows that are meant, ascending; None for all.

        Args:
            rows: with the table's columns.
            what: they are, for messages.
        """
        found = [np.asarray(fits(rows[column]).fill_null(False)) for column, fits in self._held]
        if self._metadata:
            found.append(_described(rows["metadata"], self._metadata, what))
        if not found:
            return None
        meant = np.logical_and.reduce(found)
        return None if meant.all() else np.flatnonzero(meant)


def _stamp(time: datetime.datetime, name: str) -> "pyarrow.Scalar":
    import pyarrow

    return pyarrow.scalar(utc(time, name), pyarrow.timestamp("us"))


def _described(column: "pyarrow.ChunkedArray", wanted: Mapping[str, Any], what: str) -> np.ndarray:
    """Say which metadata has fields of these values; each text that is there several times is read once."""
    encoded = column.combine_chunks().fill_null("{}").dictionary_encode()
    fits = [
        all(name in read and _same(read[name], value) for name, value in wanted.items())
        for read in (parsed(text, what) for text in encoded.dictionary.to_pylist())
    ]
    return np.array(fits, bool)[np.asarray(encoded.indices)]


def _same(one: Any, other: Any) -> bool:
    """True is not 1, as in JSON."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)

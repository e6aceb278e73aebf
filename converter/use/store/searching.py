"""From queries to rows: what is asked, where it is looked for, and what is said of what was found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ....validation.errors import InputError
from ...pack.similarities import unit
from ..given import whole
from .lists import Lists
from .nearest import Part, nearest
from .tables import SOURCES, Found, parsed

SIMILARITIES = ("cosine", "dot")


@dataclass(frozen=True)
class Asked:
    """What is searched.

    Args:
        queries: (queries, width) float32, as long as 1 for cosine.
        count: how many nearest.
        cosine: or the product.
        probes: lists of an index that are looked at; None for all rows.
    """

    queries: np.ndarray
    count: int
    cosine: bool
    probes: int | None

    @classmethod
    def of(cls, query: Any, count: int, similarity: str, probes: int | None) -> Self:
        """Check what is asked for.

        Raises:
            InputError: see `EmbeddingStore.search`.
        """
        if similarity not in SIMILARITIES:
            raise InputError(f"similarity is {similarity!r}, expected one of {', '.join(SIMILARITIES)}")
        cosine = similarity == "cosine"
        if probes is not None and not cosine:
            raise InputError("an index is by cosine: leave out probes, or similarity")
        try:
            queries = np.atleast_2d(np.asarray(query, np.float32))
        except (TypeError, ValueError) as error:
            raise InputError("a query is no array of numbers: give embeddings, as `embed` makes them") from error
        if queries.ndim != 2 or not np.isfinite(queries).all():
            raise InputError(f"queries {queries.shape} are no (queries, width) finite numbers")
        if not (queries.any(axis=1)).all():
            raise InputError("a query is zero: nothing is near to it")
        few = None if probes is None else whole(probes, "probes", 1)
        return cls(unit(queries) if cosine else queries, whole(count, "k", 1), cosine, few)

    def refuse_other_width(self, width: int, model: str, table: str) -> None:
        """Refuse queries of another network."""
        if self.queries.shape[1] != width:
            raise InputError(
                f"a query has {self.queries.shape[1]} numbers, the embeddings of {model!r} in {table} have {width}: "
                "embed it by that model"
            )


def found(table: str, parts: Sequence[Part], asked: Asked, index: Lists | None) -> list[list[Found]]:
    """Search parts of a table, by an index where there is one."""
    if index is None or asked.probes is None:
        return _told(table, parts, *nearest(parts, asked.queries, asked.count, cosine=asked.cosine))
    total, several = sum(map(len, parts)), []
    for query in asked.queries:
        some = _probed(parts, query, index, asked.probes)
        if sum(map(len, some)) < min(asked.count, total):
            some = list(parts)  # conditions that few rows of these lists meet
        several += _told(table, some, *nearest(some, query[None], asked.count, cosine=True))
    return several


def _probed(parts: Sequence[Part], query: np.ndarray, index: Lists, probes: int) -> list[Part]:
    """Give the rows of some lists that are meant, and of what the index does not hold all that are."""
    places = dict(index.probed(query, probes))
    held, some = set(index.files), []
    for part in parts:
        if part.opened.name not in held:
            some.append(part)
        elif part.opened.name in places:
            rows = places[part.opened.name]
            meant = rows if part.keep is None else np.intersect1d(rows, part.keep, assume_unique=True)
            some.append(Part(part.opened, meant))
    return some


def _told(table: str, parts: Sequence[Part], near: np.ndarray, places: np.ndarray) -> list[list[Found]]:
    """Read what is known of the rows that were found: similarities and places are (queries, found)."""
    columns = ["embedding_id", SOURCES[table], "model", "timestamp", "metadata", *["modality"] * (table == "clip")]
    starts = np.cumsum([0, *map(len, parts)])
    wanted, back = np.unique(places, return_inverse=True)
    known: list[tuple[dict[str, Any], str]] = []
    for part, start, own in zip(parts, starts, np.split(wanted, np.searchsorted(wanted, starts[1:-1])), strict=False):
        rows = own - start if part.keep is None else part.keep[own - start]
        several = part.opened.table.select(columns).take(rows).to_pylist() if len(rows) else []
        known += [(each, f"{part.opened.file}, row {row}") for each, row in zip(several, rows, strict=True)]
    return [
        [_found(table, known[at], similarity) for at, similarity in zip(row, similarities, strict=True)]
        for row, similarities in zip(back.reshape(places.shape), near, strict=True)
    ]


def _found(table: str, known: tuple[dict[str, Any], str], similarity: float) -> Found:
    row, what = known
    return Found(
        id=row["embedding_id"],
        source=row[SOURCES[table]],
        model=row["model"],
        modality=row.get("modality"),
        time=row["timestamp"],
        metadata=parsed(row["metadata"], what),
        similarity=float(similarity),
    )

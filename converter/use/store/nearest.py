"""The nearest of many vectors, exactly: products of blocks of mapped float16 rows in float32, in bounded memory."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...pack.similarities import TINY
from .fragments import LENGTH, Opened

if TYPE_CHECKING:
    import pyarrow

BLOCK, SEVERAL, LARGE = 512, 8, 4096
"""Rows whose numbers are float32 at once: few, which stay in a processor's cache, for one query; for
several queries many, for large products."""

PANEL = 1 << 14
"""Rows whose similarities are looked through at once; fewer where many queries are asked."""

SCORES, QUERIES = 1 << 22, 1024
"""Similarities that are held at once, and queries."""

SIGN_AND_NUMBER = np.uint32(0x8FFFE000).view(np.int32)
REBASED = np.float32(2.0**112)


@dataclass(frozen=True)
class Part:
    """Rows of a fragment that are searched: `keep` are their places, ascending, or None for all."""

    opened: Opened
    keep: np.ndarray | None

    def __len__(self) -> int:
        return self.opened.table.num_rows if self.keep is None else len(self.keep)

    def column(self, name: str) -> "pyarrow.ChunkedArray":
        """Give a column."""
        column = self.opened.table[name]
        return column if self.keep is None else column.take(self.keep)

    def rows(self, limit: int | None) -> "pyarrow.Table":
        """Give the columns of the table, of the first rows."""
        held = self.opened.table.drop_columns([LENGTH])
        return held.slice(0, limit) if self.keep is None else held.take(self.keep[:limit])


def widened(halves: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Widen finite float16 numbers to float32, exactly: the exponent's and fraction's bits moved, its base made good.

    It takes a third of the time of numpy's own conversion, which is most of a query's.
    """
    bits = out.view(np.int32)
    np.copyto(bits, halves.view(np.int16))
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, SIGN_AND_NUMBER, out=bits)
    return np.multiply(out, REBASED, out=out)


def blocks(part: Part, scratch: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Give the rows of a part, as many as `scratch` holds at once, float32, and their lengths."""
    most = len(scratch)
    for halves, lengths in _chunks(part, most):
        for start in range(0, len(halves), most):
            some = halves[start : start + most]
            yield widened(some, scratch[: len(some)]), lengths[start : start + most]


def _chunks(part: Part, most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if part.keep is None:
        yield from zip(part.opened.halves, part.opened.lengths, strict=True)
        return
    for start in range(0, len(part.keep), most):
        yield part.opened.rows(part.keep[start : start + most])


def nearest(parts: Sequence[Part], queries: np.ndarray, count: int, *, cosine: bool) -> tuple[np.ndarray, np.ndarray]:
    """Find for each query the nearest rows of all parts, the nearest first.

    Args:
        parts: rows of one width.
        queries: (queries, width) float32.
        count: how many; all of fewer.
        cosine: divide by the rows' lengths; the queries' are 1.

    Returns:
        Similarities, (queries, found) float32, and places among all rows of the parts, counted from 0, int64.
    """
    if len(queries) > QUERIES:
        several = [
            nearest(parts, queries[at : at + QUERIES], count, cosine=cosine) for at in range(0, len(queries), QUERIES)
        ]
        return np.concatenate([near for near, _ in several]), np.concatenate([places for _, places in several])
    best, places = np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
    for near, first in _panels(parts, queries, cosine=cosine):
        candidates = np.concatenate([best, near], axis=1)
        known = np.broadcast_to(np.arange(first, first + near.shape[1]), near.shape)
        best, places = _largest(candidates, np.concatenate([places, known], axis=1), count)
    return best, places


def _panels(parts: Iterable[Part], queries: np.ndarray, *, cosine: bool) -> Iterator[tuple[np.ndarray, int]]:
    """Give similarities, (queries, some rows), and the place of their first row."""
    size = BLOCK if len(queries) < SEVERAL else LARGE
    rows = max(size, min(PANEL, SCORES // max(len(queries), 1)) // size * size)
    panel, filled, first = np.empty((len(queries), rows), np.float32), 0, 0
    scratch = np.empty((size, queries.shape[1]), np.float32)
    for part in parts:
        for block, lengths in blocks(part, scratch):
            if filled + len(block) > rows:
                yield panel[:, :filled], first
                first, filled = first + filled, 0
            near = queries @ block.T
            if cosine:
                near /= np.maximum(lengths, TINY)
            panel[:, filled : filled + len(block)] = near
            filled += len(block)
    if filled:
        yield panel[:, :filled], first


def _largest(near: np.ndarray, places: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Keep the largest of each row, in order."""
    if near.shape[1] > count:
        least = np.partition(near, -count, axis=1)[:, -count]
        chosen = [np.flatnonzero(row >= edge) for row, edge in zip(near, least, strict=True)]
    else:
        chosen = [np.arange(near.shape[1])] * len(near)
    kept = min(count, near.shape[1])
    best, at = np.empty((len(near), kept), np.float32), np.empty((len(near), kept), np.int64)
    for row, some in enumerate(chosen):
        order = some[np.lexsort((places[row, some], -near[row, some]))][:kept]
        best[row], at[row] = near[row, order], places[row, order]
    return best, at

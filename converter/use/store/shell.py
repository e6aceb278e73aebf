"""`bgevis-convert embed --store` and `search --store`: rows of the shell into a store, and what is near from it."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...printable import digits
from ..artifacts import Artifacts, told_cut
from ..embedding import KINDS, Row
from .embedded import model_of, table_of
from .embedding_store import EmbeddingStore
from .tables import Where

NEAREST = 10


def stored(artifacts: Artifacts, rows: Sequence[Row], path: Path, *, model: str | None, **how: Any) -> None:
    """Append rows to a store, which is made where there is none; say on standard error how many.

    Args:
        artifacts: opened.
        rows: all of the same kinds; `id` becomes the embedding's, what else is there its metadata.
        path: of the store.
        model: its name in the store; None for the network's own.
        how: what else `EmbeddingStore.add` takes.
    """
    store, count = EmbeddingStore.create(path), 0
    if rows:
        texts, images = ([row[kind] for row in rows] if kind in rows[0] else None for kind in KINDS)
        ids = [row["id"] for row in rows] if all("id" in row for row in rows) else None
        apart = KINDS if ids is None else (*KINDS, "id")
        more = [{name: value for name, value in row.items() if name not in apart} for row in rows]
        count = store.add(artifacts, texts, images, ids=ids, metadata=more, model=model, **how)
    if artifacts.cut:
        print(f"warning: {told_cut(artifacts.cut, count, artifacts.limit)}; they were cut", file=sys.stderr)
    print(f"added {count} to {path}", file=sys.stderr)


def searched(
    artifacts: Artifacts,
    query: Row,
    path: Path,
    *,
    count: int | None,
    model: str | None,
    modality: str | None,
    probes: int | None,
    **how: Any,
) -> Iterator[str]:
    """Give a line of JSON for each row of a store that is near to a query, the nearest first.

    Args:
        artifacts: opened; of the model that embedded the rows.
        query: a text, a picture, or both of a network that embeds pairs.
        path: of the store.
        count: how many are given; None for ten.
        model: its name in the store; None for the network's own.
        modality: of the rows; None for any.
        probes: lists of the store's index that are looked at; None for all rows.
        how: what else `Artifacts.embed` takes.
    """
    store = EmbeddingStore(path)
    vectors = artifacts.embed(*([query[kind]] if kind in query else None for kind in KINDS), **how)
    where: Where = {} if modality is None else {"modality": modality}
    table, name = table_of(artifacts, "+".join(query)), model or model_of(artifacts)
    (found,) = store.search(table, vectors, count or NEAREST, model=name, probes=probes, **where)
    for row in found:
        told = {"id": row.id, **row.metadata, "similarity": digits(row.similarity)}
        yield json.dumps(told, ensure_ascii=False)

"""`bgevis-convert score` and `search`: how well texts and pictures fit a query, to standard output."""

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..pack.preprocessor import Raw
from ..printable import digits
from .artifacts import Artifacts, told_cut
from .embedding import KINDS, Row, embedded


def scored(
    artifacts: Artifacts,
    rows: Sequence[Raw],
    activation: str | None,
    batch: int,
    *,
    ranked: bool = False,
    strict: bool = False,
) -> Iterator[str]:
    """Give a line of JSON for each row: its texts, and a score, or one for each label; warn of those that were cut.

    Args:
        artifacts: open.
        rows: texts, or pairs of them.
        activation: what makes scores of logits; None for what the folder says.
        batch: most rows at once.
        ranked: the best first, by the first label.
        strict: refuse texts that would be cut.
    """
    shown = sys.stderr.isatty()
    found = artifacts.score(rows, activation=activation, strict=strict, batch_size=batch, progress=shown)
    if artifacts.cut:
        print(f"warning: {told_cut(artifacts.cut, len(rows), artifacts.limit)}; they were cut", file=sys.stderr)
    first = found.reshape(len(rows), -1)[:, 0] if len(rows) else found
    order = np.argsort(-first, kind="stable") if ranked else np.arange(len(rows))
    for at in order:
        row = rows[at]
        texts = {"text": row} if isinstance(row, str) else {"query": row[0], "text": row[1]}
        numbers = [digits(value) for value in np.atleast_1d(found[at])]
        several = dict(zip(artifacts.labels, numbers, strict=True))
        scores = {"score": numbers[0]} if len(numbers) == 1 else {"scores": several}
        yield json.dumps(texts | scores, ensure_ascii=False)


def searched(
    artifacts: Artifacts,
    query: Row,
    given: Sequence[Row],
    *,
    count: int | None,
    query_prompt_name: str | None,
    dims: int | None,
    strict: bool,
    **how: Any,
) -> Iterator[str]:
    """Give a line of JSON for each row, the nearest to the query first: the row and its similarity.

    Args:
        artifacts: open.
        query: a text, a picture, or both of a network that embeds pairs.
        given: texts and pictures, each by itself.
        count: how many are given; None for all.
        query_prompt_name: the prompt that stands before the query; None for the folder's default.
        dims: see `Artifacts.embed`.
        strict: refuse texts that would be cut.
        how: of the rows, what else `Artifacts.embed_iter` takes.
    """
    asked = [[query[kind]] if kind in query else None for kind in KINDS]
    wanted = artifacts.embed(*asked, prompt_name=query_prompt_name, dims=dims, strict=strict)
    found = np.zeros((len(given), wanted.shape[1]), np.float32)
    for kind in KINDS:
        places = [at for at, row in enumerate(given) if kind in row]
        told = {"prompt_name": None} if kind == "image" else {}  # which stands before texts
        several = embedded(artifacts, [given[at] for at in places], strict=strict, dims=dims, **how | told)
        for at, (_, vector) in zip(places, several, strict=True):
            found[at] = vector
    near = artifacts.similarity(wanted, found)[0]
    for at in np.argsort(-near, kind="stable")[:count]:
        yield json.dumps(given[at] | {"similarity": digits(near[at])}, ensure_ascii=False)

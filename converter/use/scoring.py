"""`bgevis-convert score`: pairs of texts from the shell, scores to standard output."""

import json
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from ..pack.preprocessor import Raw
from .artifacts import Artifacts, told_cut


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
        numbers = [float(f"{value:.9g}") for value in np.atleast_1d(found[at])]
        several = dict(zip(artifacts.labels, numbers, strict=True))
        scores = {"score": numbers[0]} if len(numbers) == 1 else {"scores": several}
        yield json.dumps(texts | scores, ensure_ascii=False)

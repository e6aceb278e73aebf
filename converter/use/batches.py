"""Rows in batches of like length, and what is shown meanwhile."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from ...validation.packages import need

BATCH = 32
CHUNK = 4096
"""Rows of a stream that are held at once."""
USUAL = 512
"""Tokens up to which a batch is full. Attention's memory grows with their square, so longer ones come in fewer rows."""

Progress: TypeAlias = bool | Callable[[int, int | None], None]
"""True for a bar on standard error, or a function that is told (rows done, all rows, None if that is not known)."""


def batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Give the rows of each batch, the longest first: what does not fit into memory shows at once.

    Args:
        lengths: tokens of each row, 0 for a picture.
        batch_size: most rows of a batch.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        longest = max(lengths[order[start]], 1)
        size = max(1, min(batch_size, batch_size * USUAL**2 // longest**2))
        yield order[start : start + size]
        start += size


def rounded(tokens: int, limit: int | None) -> int:
    """Round a length up: to 8, 16, ... 64, then 128, 192, ..., but not above the limit."""
    step = 8 if tokens <= 64 else 64
    return min(-(-tokens // step) * step, limit or sys.maxsize)


@contextlib.contextmanager
def counted(progress: Progress, total: int | None, what: str) -> Iterator[Callable[[int], object]]:
    """Give what is told how many rows were done since, and shows it.

    Args:
        progress: how.
        total: all rows, None if that is not known.
        what: is done to them.
    """
    if callable(progress):
        done = 0

        def told(rows: int) -> None:
            nonlocal done
            done += rows
            progress(done, total)

        yield told
        return
    if not progress:
        yield lambda rows: None
        return
    need("tqdm", "a bar")
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit=" rows", leave=False, file=sys.stderr) as bar:
        yield bar.update

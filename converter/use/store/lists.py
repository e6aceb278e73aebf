"""An index of inverted lists: rows by the nearest of some centres, of which a query looks at a few.

Centres are found by k-means on a sample, by cosine. The index holds places and no copy of the vectors; it is of the
fragments that were there when it was made, and rows that came later are searched one by one beside it.

Source: Sivic and Zisserman 2003, as in Jegou et al. 2011 (the coarse quantizer of IVFADC).
"""

import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ....validation.errors import InputError
from ...pack.similarities import unit
from .fragments import beside
from .nearest import LARGE, Part, blocks, nearest

SAMPLE, ROUNDS = 64, 8
"""Rows of each list that the centres are found by, and rounds of k-means."""

ASKED, NEAREST = 100, 10
"""Rows of its own that an index is asked for to know its recall, and how many nearest of each."""

PROBES = (1, 4, 16, 64)
"""Lists that are looked at, for each of which the recall is told."""


@dataclass(frozen=True)
class Lists:
    """An index.

    Args:
        centres: (lists, width) float32, as long as 1.
        starts: (lists + 1,) int64, where each list begins in the next two.
        fragment: (rows,) int32, in which of `files` a row is.
        place: (rows,) int64, its place there.
        files: the fragments' Arrow files.
    """

    centres: np.ndarray
    starts: np.ndarray
    fragment: np.ndarray
    place: np.ndarray
    files: tuple[str, ...]

    def probed(self, query: np.ndarray, probes: int) -> Iterator[tuple[str, np.ndarray]]:
        """Give the fragments, and the places in each, ascending, of the lists that are nearest to a query."""
        near = self.centres @ query
        chosen = np.argsort(-near, kind="stable")[:probes]
        at = np.concatenate([np.arange(self.starts[one], self.starts[one + 1]) for one in chosen])
        fragment, place = self.fragment[at], self.place[at]
        order = np.lexsort((place, fragment))
        fragment, place = fragment[order], place[order]
        which, starts = np.unique(fragment, return_index=True)
        for one, places in zip(which, np.split(place, starts[1:]), strict=True):
            yield self.files[one], places

    def write(self, file: Path) -> None:
        """Take the place of the index that is there."""
        held = {name: getattr(self, name) for name in ("centres", "starts", "fragment", "place")}
        with beside(file) as aside:
            np.savez(aside, **held, files=np.array(self.files))

    def moved(self, files: Mapping[str, tuple[str, int]]) -> "Lists":
        """Give the index after fragments were merged.

        Args:
            files: a fragment that was merged -> the one that has its rows, and how many rows come before them.
        """
        new = tuple(dict.fromkeys(files.get(name, (name, 0))[0] for name in self.files))
        at = np.array([new.index(files.get(name, (name, 0))[0]) for name in self.files], np.int32)
        before = np.array([files.get(name, (name, 0))[1] for name in self.files], np.int64)
        return replace(self, fragment=at[self.fragment], place=self.place + before[self.fragment], files=new)

    @classmethod
    def read(cls, file: Path) -> "Lists | None":
        """Read an index; None where there is none.

        Raises:
            InputError: it is damaged.
        """
        try:
            with np.load(file, allow_pickle=False) as held:
                files = tuple(str(name) for name in held["files"])
                found = cls(held["centres"], held["starts"], held["fragment"], held["place"], files)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{file} is damaged: {error}; delete it, and make the index again") from error
        return found


def build(parts: Sequence[Part], lists: int | None = None) -> Lists:
    """Make an index of all rows of some fragments.

    Args:
        parts: whole fragments.
        lists: how many; by default the root of the number of rows.
    """
    total = sum(map(len, parts))
    wanted = min(lists or max(1, math.isqrt(total)), total)
    centres = _centres(parts, total, wanted)
    scratch = np.empty((LARGE, centres.shape[1]), np.float32)
    every = (block for part in parts for block, _ in blocks(part, scratch))
    assigned = np.concatenate([np.argmax(block @ centres.T, axis=1) for block in every])
    fragment = np.repeat(np.arange(len(parts), dtype=np.int32), list(map(len, parts)))
    place = np.concatenate([np.arange(len(part), dtype=np.int64) for part in parts])
    order = np.argsort(assigned, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(assigned, minlength=wanted))])
    return Lists(centres, starts, fragment[order], place[order], tuple(part.opened.name for part in parts))


def _centres(parts: Sequence[Part], total: int, lists: int) -> np.ndarray:
    """Find centres by k-means on seeded rows; a list that stays empty begins again at one of them."""
    draw = np.random.default_rng(0)
    sample = unit(sampled(parts, np.sort(draw.choice(total, min(total, SAMPLE * lists), replace=False))))
    centres = sample[draw.choice(len(sample), lists, replace=False)]
    for _ in range(ROUNDS):
        assigned = np.concatenate(
            [np.argmax(sample[at : at + LARGE] @ centres.T, axis=1) for at in range(0, len(sample), LARGE)]
        )
        order = np.argsort(assigned, kind="stable")
        counts = np.bincount(assigned, minlength=lists)
        there = np.flatnonzero(counts)
        sums = np.add.reduceat(sample[order], np.cumsum(counts[there]) - counts[there], axis=0)
        centres = sample[draw.choice(len(sample), lists, replace=False)]
        centres[there] = unit(sums)
    return centres


def sampled(parts: Sequence[Part], places: np.ndarray) -> np.ndarray:
    """Give rows by their places among all of the parts, ascending: (places, width) float32."""
    starts = np.cumsum([0, *map(len, parts)])
    cuts = np.split(places, np.searchsorted(places, starts[1:-1]))
    return np.concatenate(
        [part.opened.rows(cut - start)[0] for part, start, cut in zip(parts, starts, cuts, strict=False)]
    ).astype(np.float32)


def recall(lists: Lists, parts: Sequence[Part]) -> dict[int, float]:
    """Say for some numbers of lists which part of the ten nearest is found, of a hundred of the rows themselves."""
    total = sum(map(len, parts))
    places = np.sort(np.random.default_rng(1).choice(total, min(total, ASKED), replace=False))
    asked = unit(sampled(parts, places))
    _, exact = nearest(parts, asked, NEAREST, cosine=True)
    starts = dict(zip((part.opened.name for part in parts), np.cumsum([0, *map(len, parts)]), strict=False))
    opened = {part.opened.name: part.opened for part in parts}
    found: dict[int, float] = {}
    for probes in sorted({min(each, len(lists.centres)) for each in PROBES}):
        hits = 0
        for query, wanted in zip(asked, exact, strict=True):
            probed = [(name, rows) for name, rows in lists.probed(query, probes)]
            some = [Part(opened[name], rows) for name, rows in probed]
            _, at = nearest(some, query[None], NEAREST, cosine=True)
            every = np.concatenate([rows + starts[name] for name, rows in probed])
            hits += len(np.intersect1d(every[at[0]], wanted))
        found[probes] = hits / exact.size
    return found

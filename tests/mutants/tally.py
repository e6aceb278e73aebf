"""What became of the mistakes of a variant; in a module of its own, which a process that is started anew can import."""

import pickle
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from . import benign, configs, programs, rules, source
from .bench import Bench

MAKERS = (rules, source, configs, programs)


@dataclass
class Tally:
    """What became of the mistakes and the right reruns of some variants.

    Args:
        caught: (group, check that caught it) -> how many.
        reasons: (group, why it computes the same) -> how many.
        unnoticed: names.
        refused: names of right reruns that a check refused.
        reruns: how many right reruns there were.
    """

    caught: Counter[tuple[str, str]] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    unnoticed: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    reruns: int = 0

    def add(self, other: "Tally") -> None:
        self.caught += other.caught
        self.reasons += other.reasons
        self.unnoticed += other.unnoticed
        self.refused += other.refused
        self.reruns += other.reruns


def tally(variant: str) -> Tally:
    """Make every mistake of a variant, then its right reruns."""
    found = Tally()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(variant, Path(folder))
        for mutant in chain.from_iterable(maker.mutants(bench) for maker in MAKERS):
            check = mutant.check()
            found.caught[mutant.group, check or "computes the same"] += 1
            if not check and mutant.equivalent:
                found.reasons[mutant.group, mutant.equivalent] += 1
            elif not check:
                found.unnoticed.append(f"{variant}, {mutant.group}: {mutant.name}")
        for name, rerun in benign.reruns(bench):
            found.reruns += 1
            if check := rerun():
                found.refused.append(f"{variant}, {name}: {check}")
    return found


def kept(variant: str, folder: Path) -> Tally:
    """Give a variant's tally, from a folder if it is there, or make it and keep it."""
    path = folder / f"{variant}.pickle"
    if path.exists():
        return pickle.loads(path.read_bytes())
    begun = time.monotonic()
    found = tally(variant)
    path.write_bytes(pickle.dumps(found))
    print(f"{variant}: {found.caught.total()} mutants in {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return found

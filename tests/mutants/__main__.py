"""Make every mistake and write the table of what caught it: `python -m mutants [--out docs/mutants.md]`, in tests/."""

import argparse
import multiprocessing
import pickle
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path

from variants import VARIANTS

from . import benign, configs, programs, rules, source
from .bench import Bench

MAKERS = (rules, source, configs, programs)

HEAD = """# What the proof catches

Made by `make mutants`: wrong conversions, one at a time, on tiny networks of every family, each held to the
checks that every conversion goes through. The digests of files are left out: they would find any change of
an artifact, and here stand for a converter that is itself wrong.
"""


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


def main() -> int:
    """Run all, a process a variant; the exit code says whether one went unnoticed, or a right rerun was refused."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--kept", type=Path, help="a folder of tallies: a variant's that is there is not made again")
    parser.add_argument("--jobs", type=int, default=2, help="how many variants at once")
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help="some instead of all")
    given = parser.parse_args()
    begun, found = time.monotonic(), Tally()
    with tempfile.TemporaryDirectory() as folder:
        keep = given.kept or Path(folder)
        keep.mkdir(parents=True, exist_ok=True)
        # A process a variant: compiled programs are never let go of.
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(given.jobs, spawn, max_tasks_per_child=1) as pool:
            for part in pool.map(kept, given.variants or VARIANTS, repeat(keep)):
                found.add(part)
    text = page(found)
    print(text)
    print(f"{found.caught.total()} mutants, {found.reruns} reruns in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    if given.out:
        given.out.write_text(text)
    return 1 if found.unnoticed or found.refused else 0


def page(found: Tally) -> str:
    """Write the table."""
    total, same = found.caught.total(), found.reasons.total()
    passed = found.reruns - len(found.refused)
    lines = [HEAD, f"{total} mutants: {total - same - len(found.unnoticed)} caught, "]
    lines[-1] += f"{same} compute the same network (below), {len(found.unnoticed)} unnoticed. "
    lines[-1] += (
        f"{found.reruns} right reruns: {passed} passed, {len(found.refused)} refused."
    )
    lines += ["", "| mistake | caught first by | mutants |", "| --- | --- | ---: |"]
    lines += [f"| {group} | {check} | {number} |" for (group, check), number in sorted(found.caught.items())]
    lines += [
        "",
        "## Mistakes that compute the same network",
        "",
        "| mistake | why | mutants |",
        "| --- | --- | ---: |",
    ]
    lines += [f"| {group} | {reason} | {number} |" for (group, reason), number in sorted(found.reasons.items())]
    for title, names in (("Unnoticed", found.unnoticed), ("Refused although right", found.refused)):
        if names:
            lines += ["", f"## {title}", "", *(f"- {name}" for name in names)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())

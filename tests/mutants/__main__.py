"""Make every mistake and write the table of what caught it: `python -m mutants [--out docs/mutants.md]`, in tests/."""

import argparse
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

from variants import VARIANTS

from .tally import Tally, kept

HEAD = """# What the proof catches

Made by `make mutants`: wrong conversions, one at a time, on tiny networks of every family, each held to the
checks that every conversion goes through. The digests of files are left out: they would find any change of
an artifact, and here stand for a converter that is itself wrong.
"""


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
    lines[-1] += f"{found.reruns} right reruns: {passed} passed, {len(found.refused)} refused."
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

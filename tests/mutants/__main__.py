"""Make every mistake and write the table of what caught it: `python -m mutants [--out docs/mutants.md]`, in tests/."""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from variants import VARIANTS

from . import benign, configs, programs, rules, source
from .bench import Bench, Mutant

MAKERS = (rules, source, configs, programs)

HEAD = """# What the proof catches

Made by `make mutants`: wrong conversions, one at a time, on tiny networks of every family, each held to the
checks that every conversion goes through. The digests of files are left out: they would find any change of
an artifact, and here stand for a converter that is itself wrong.
"""


def every(benches: list[Bench]) -> Iterator[Mutant]:
    """Give all mutants of all variants."""
    for bench in benches:
        for maker in MAKERS:
            yield from maker.mutants(bench)


def main() -> int:
    """Run all; the exit code says whether one went unnoticed, or a right rerun was refused."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        benches = [Bench(variant, Path(folder)) for variant in VARIANTS]
        caught: Counter[tuple[str, str]] = Counter()
        reasons: Counter[tuple[str, str]] = Counter()
        unnoticed = []
        for mutant in every(benches):
            check = mutant.check()
            caught[mutant.group, check or "computes the same"] += 1
            if not check and mutant.equivalent:
                reasons[mutant.group, mutant.equivalent] += 1
            elif not check:
                unnoticed.append(f"{mutant.group}: {mutant.name}")
        refused, count = [], 0
        for bench in benches:
            for name, rerun in benign.reruns(bench):
                count += 1
                if check := rerun():
                    refused.append(f"{bench.variant}, {name}: {check}")
    text = page(caught, reasons, unnoticed, refused, count)
    print(text)
    print(f"{caught.total()} mutants, {count} reruns in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    if out:
        out.write_text(text)
    return 1 if unnoticed or refused else 0


def page(caught: Counter, reasons: Counter, unnoticed: list[str], refused: list[str], count: int) -> str:
    """Write the table."""
    same = sum(reasons.values())
    lines = [HEAD, f"{caught.total()} mutants: {caught.total() - same - len(unnoticed)} caught, "]
    lines[-1] += f"{same} compute the same network (below), {len(unnoticed)} unnoticed. "
    lines[-1] += f"{count} right reruns: {count - len(refused)} passed, {len(refused)} refused."
    lines += ["", "| mistake | caught first by | mutants |", "| --- | --- | ---: |"]
    lines += [f"| {group} | {check} | {number} |" for (group, check), number in sorted(caught.items())]
    lines += [
        "",
        "## Mistakes that compute the same network",
        "",
        "| mistake | why | mutants |",
        "| --- | --- | ---: |",
    ]
    lines += [f"| {group} | {reason} | {number} |" for (group, reason), number in sorted(reasons.items())]
    for title, names in (("Unnoticed", unnoticed), ("Refused although right", refused)):
        if names:
            lines += ["", f"## {title}", "", *(f"- {name}" for name in names)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())

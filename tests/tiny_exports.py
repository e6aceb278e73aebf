"""Tiny networks with random weights and their exports.

`python tiny_exports.py OUT NAMES FORMATS` makes some in one process.
"""

import functools
import itertools
import json
import shutil
import sys
from pathlib import Path

import numpy as np

from bgevis.exporters.base import PROGRAMS, WEIGHTS, Artifact, Exporter, Request, exporters
from bgevis.exporters.weights import WeightsFile, plan, write
from bgevis.validation.cases import cases as drawn
from bgevis.validation.cases import longest_sizes
from bgevis.validation.domains import padded

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode leaves it out
from variants import config_of, family_of


class Networks(dict):
    """Variant -> its network, built when it is first asked for."""

    def __missing__(self, variant: str):
        self[variant] = family_of(variant).network(config_of(variant))
        return self[variant]


@functools.cache
def networks() -> Networks:
    return Networks()


def random_weights(network, path: Path) -> WeightsFile:
    rng = np.random.default_rng(7)
    leaves = {name: (np.dtype(leaf.dtype), leaf.shape) for name, leaf in network.leaves.items()}
    _, order = plan(leaves, {})
    with path.open("wb") as file:
        arrays = ((name, rng.normal(0, 0.3, leaves[name][1]).astype(leaves[name][0])) for name in order)
        write(file, leaves, arrays, {})
    return WeightsFile(path)


def export(exporter: Exporter, network, directory: Path, **options) -> Artifact:
    """Write one format as the run directory `directory`."""
    (directory / exporter.folder).mkdir(parents=True)
    weights = random_weights(network, directory / WEIGHTS)
    programs = exporter.write(Request(network, weights, directory / exporter.folder, **options))
    (directory / "programs.json").write_text(json.dumps(programs))
    return reopen(directory, network)


def reopen(directory: Path, network) -> Artifact:
    """Give the artifact of an export, its weights file where programs expect it."""
    if (directory / PROGRAMS).is_dir() and not (directory / PROGRAMS / WEIGHTS).exists():
        shutil.copy(directory / WEIGHTS, directory / PROGRAMS / WEIGHTS)
    programs = json.loads((directory / "programs.json").read_text())
    return Artifact(directory, network.entry_points, programs, lambda: network)


def inputs(entry, seed: int = 0, **sizes: int) -> dict[str, np.ndarray]:
    """Inputs of some sizes, as the entry point's own domains draw them; rows end in padding, each in one more."""
    return dict(drawn(entry, [sizes], seed)[-1].inputs)


def static(network) -> tuple[dict[str, int], ...]:
    """Sizes that programs are made for: two rows of everything, six places where rows differ in length."""
    return (dict(pair for entry in network.entry_points.values() for pair in sizes(entry, 2, 6).items()),)


def sizes(entry, rows: int, places: int) -> dict[str, int]:
    return {axis: bounds.clip(places if axis in padded(entry) else rows) for axis, bounds in entry.axes.items()}


def cases(network):
    """Every entry point at the static size and another; if alone, at the smallest and longest legal one."""
    for entry in network.entry_points.values():
        others = [sizes(entry, 3, 5)]
        if len(network.entry_points) == 1:
            others = [sizes(entry, 1, 1), sizes(entry, 1, 1) | longest_sizes(entry)]
        several = [sizes(entry, 2, 6), *others]
        for seed, one in enumerate(several):
            yield entry, inputs(entry, seed, **one)


def main(out: str, names: str, *formats: str) -> None:
    for name, format_ in itertools.product(names.split(","), formats):
        exporter = exporters()[format_]
        options = {"static": static(networks()[name])} if format_ == "stablehlo" else {}
        export(exporter, networks()[name], Path(out) / name / format_, **options)


if __name__ == "__main__":
    main(*sys.argv[1:])

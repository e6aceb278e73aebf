"""Tiny networks with random weights and their exports. `python tiny_exports.py OUT` makes them all in one process."""

import dataclasses
import functools
import itertools
import json
import shutil
import sys
from pathlib import Path

import numpy as np

from bgevis.exporters.base import PROGRAMS, WEIGHTS, Artifact, Exporter, Request, exporters
from bgevis.exporters.weights import WeightsFile, plan, write

STATIC = ({"batch": 2, "tokens": 6},)


@functools.cache
def networks():
    from bgevis.model.bert import FAMILY as BERT
    from bgevis.model.visualized_bge import FAMILY as VISUALIZED_BGE

    bert = BERT.sizes["tiny"]
    roberta = dataclasses.replace(bert, model_type="xlm-roberta", pad_token_id=1, pooling="mean")
    return {
        "bert": BERT.network(bert),
        "xlm-roberta": BERT.network(roberta),
        "visualized_bge": VISUALIZED_BGE.network(VISUALIZED_BGE.sizes["tiny"]),
    }


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
    """Random inputs: ids of the tiny vocabulary, a mask whose rows end in padding, pixels."""
    rng = np.random.default_rng(seed)
    made = {}
    for spec in entry.inputs:
        shape = spec.resolve(sizes)
        if spec.name == "attention_mask":
            made[spec.name] = np.array([[j == 0 or j < shape[1] - i for j in range(shape[1])] for i in range(shape[0])])
        elif spec.dtype == "int32":
            made[spec.name] = rng.integers(2, 200, shape)
        else:
            made[spec.name] = rng.normal(size=shape)
        made[spec.name] = made[spec.name].astype(spec.dtype)
    return made


def cases(network):
    """Every entry point at two sizes, one of them the static one; for BERT also the smallest and the longest legal."""
    for entry in network.entry_points.values():
        sizes = [(2, 6), (3, 5)]
        if network is networks()["bert"]:
            sizes += [(1, 1), (1, entry.axes["tokens"].high)]
        for batch, tokens in sizes:
            yield entry, inputs(entry, seed=tokens, batch=batch, tokens=tokens)


def main(out: str, *formats: str) -> None:
    for name, format_ in itertools.product(networks(), formats):
        exporter = exporters()[format_]
        options = {"static": STATIC} if format_ == "stablehlo" else {}
        export(exporter, networks()[name], Path(out) / name / format_, **options)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Two roads to one program: the network written by hand, and what is traced of upstream's own module.

    python -m benchmarks.roads [--quick] [--write-docs]

Both are lowered to ONNX from the same seeded weights and run in turn in onnxruntime at its defaults.
"""

import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from . import document
from .models import Model, folder_bytes

NETWORKS = (
    ("bert", "base", "encode_text"),
    ("mpnet", "base", "encode_text"),
    ("clip", "base", "encode_text"),
    ("clip", "base", "encode_image"),
)
"""Family, size, entry point."""

SHAPES = ((1, 16), (8, 128))
"""Rows and tokens, where an entry point reads a text; of pictures one and four."""

BESIDE = 1.15
"""What a traced program may take, in times of the other."""

LEAST, MOST = 7, 60
SECONDS = 20.0


@dataclass
class Road:
    """A program, and what was measured of it."""

    name: str
    operators: int
    bytes: int
    loaded: float
    session: Any


def roads(model: Model, entry: str, folder: Path) -> list[Road]:
    """Write both programs."""
    from safetensors.numpy import load_file

    from bgevis.converter.certificate.assign import assign
    from bgevis.converter.certificate.ledger import Ledger
    from bgevis.converter.use.fixture import write_fixture
    from bgevis.model.family import families
    from bgevis.model.reference import Original, tensor_of
    from bgevis.model.traced import family as traced_family
    from bgevis.model.traced.architecture import attend_in_one
    from bgevis.model.traced.capture import capture
    from bgevis.model.traced.wanted import Wanted

    family, config = families()[model.family], model.config
    write_fixture(model.family, model.size, 7, "float32", folder / "seeded.safetensors")
    tensors = load_file(folder / "seeded.safetensors")
    ledger = Ledger("", family.axis_sizes(config), assign(tensors, family.rules(config), ()).entries)
    leaves = {leaf: ledger.leaf(name, tensors[name]) for leaf, name in ledger.leaves.items()}
    found = [_written("by hand", family.network(config), leaves, entry, folder)]
    original = Original({n: tensor_of(t) for n, t in tensors.items()}, family.documents(config), folder)
    original.documents.pop("modules.json", None)
    reference = family.reference(config, original)
    for module in reference.module.modules():
        if hasattr(module, "set_attn_implementation"):
            attend_in_one(module)
    spec = model.entry_points[entry]
    wanted = Wanted(
        entry, spec.inputs, spec.axes, outputs={s.name: s.kind for s in spec.outputs}, call=_calling(reference, entry)
    )
    graph = capture(reference.module, [wanted], reference.tensors(), "upstream")
    weights = {leaf: tensors[parameter.tensor] for leaf, parameter in graph.parameters.items()}
    found.append(_written("traced", traced_family(graph.to_json()).network(None), weights, entry, folder))
    return found


def _calling(reference: Any, entry: str) -> Any:
    return lambda module, **inputs: reference.entries[entry](**inputs)


def _written(name: str, network: Any, leaves: Mapping[str, np.ndarray], entry: str, folder: Path) -> Road:
    import onnx
    import onnxruntime
    from safetensors.numpy import save_file

    from bgevis.exporters.base import Request, exporters
    from bgevis.exporters.weights import WeightsFile

    out = folder / name
    out.mkdir()
    save_file({name: np.ascontiguousarray(array) for name, array in leaves.items()}, out / "weights.safetensors")
    network.entry_points = {entry: network.entry_points[entry]}
    exporters()["onnx"].write(Request(network, WeightsFile(out / "weights.safetensors"), out))
    program = out / f"{entry}.onnx"
    began = time.perf_counter()
    session = onnxruntime.InferenceSession(program)
    loaded = time.perf_counter() - began
    count = len(onnx.load(program, load_external_data=False).graph.node)
    return Road(name, count, folder_bytes(out) - (out / "weights.safetensors").stat().st_size, loaded, session)


def inputs_of(model: Model, entry: str, rows: int, tokens: int) -> dict[str, np.ndarray]:
    """Draw inputs of so many rows and tokens."""
    from bgevis.validation.domains import Draft, domain_of

    spec = model.entry_points[entry]
    sizes = {axis: bounds.clip(tokens) for axis, bounds in spec.axes.items()} | {spec.rows or "batch": rows}
    rng = np.random.default_rng(1)
    drawn = {s.name: domain_of(s).draw(Draft(spec, sizes, {}), s, rng) for s in spec.inputs}
    return {name: x.astype(np.int64) if x.dtype == np.int32 else x for name, x in drawn.items()}


def race(both: list[Road], inputs: Mapping[str, np.ndarray], seconds: float) -> tuple[list[float], float]:
    """Run the two in turn; give the median of each, and the largest difference of what they give."""
    given = [{i.name: inputs[i.name] for i in road.session.get_inputs()} for road in both]
    first = [road.session.run(None, each)[0] for road, each in zip(both, given, strict=True)]
    times: list[list[float]] = [[], []]
    began = time.perf_counter()
    while len(times[0]) < LEAST or (time.perf_counter() - began < seconds and len(times[0]) < MOST):
        for road, each, taken in zip(both, given, times, strict=True):
            start = time.perf_counter()
            road.session.run(None, each)
            taken.append(time.perf_counter() - start)
    return list(map(statistics.median, times)), float(np.abs(first[0] - first[1]).max())


def measured(quick: bool, seconds: float, only: str = "") -> list[tuple[str, ...]]:
    """Give the rows of the table; `only` those of one family."""
    rows = []
    for family, size, entry in (network for network in NETWORKS if only in ("", network[0])):
        model = Model(family, "tiny" if quick else size)
        pictures = "image" in entry
        with tempfile.TemporaryDirectory() as scratch:
            both = roads(model, entry, Path(scratch))
            for batch, tokens in ((1, 0), (4, 0)) if pictures else SHAPES:
                (hand, traced), difference = race(both, inputs_of(model, entry, batch, max(tokens, 2)), seconds)
                shape = f"{batch} pictures" if pictures else f"{batch} x {tokens}"
                rows.append(
                    (
                        f"{family}:{model.size} {entry}",
                        shape,
                        *(str(road.operators) for road in both),
                        *(f"{road.bytes / 1e3:.0f}" for road in both),
                        *(f"{road.loaded:.2f}" for road in both),
                        f"{hand * 1e3:.1f}",
                        f"{traced * 1e3:.1f}",
                        f"{traced / hand:.2f}",
                        f"{difference:.0e}",
                    )
                )
                click.echo(" ".join(rows[-1]), err=True)
    return rows


HEADINGS = ("network", "inputs", "operators", "traced", "kB", "traced", "load s", "traced", "ms", "traced", "times")
HEADINGS += ("differ by",)


@click.command()
@click.option("--quick", is_flag=True, help="Tiny networks, a few runs.")
@click.option("--seconds", default=SECONDS, show_default=True, help="Spent on each shape.")
@click.option("--only", default="", help="One family.")
@click.option("--write-docs", is_flag=True, help="Rewrite the table in docs/performance.md.")
def main(quick: bool, seconds: float, only: str, write_docs: bool) -> None:
    """Measure both roads."""
    document.refuse_quick(quick or bool(only), write_docs)
    rows = measured(quick, 0.0 if quick else seconds, only)
    text = f"{document.table(HEADINGS, rows)}\n\n{document.sentence(document.environment())}"
    click.echo(text)
    if write_docs:
        document.rewrite("roads", text)


if __name__ == "__main__":
    main()

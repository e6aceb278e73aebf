"""`plot`: tables of places as a heat map, rotations as arrows, weights of attention as squares."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...exporters.weights import WeightsFile
from ...model.family import Family
from ...validation.cases import tap_case
from ...validation.domains import PaddingMask, RandomMask
from ...validation.entry_point import EntryPoint
from ...validation.errors import InputError
from ...validation.packages import need, need_jax
from ...validation.taps import closely, recording
from ..directory import RunDirectory
from ..manifest import WEIGHTS_PATH, family_and_config, network
from ..output import refuse_place, written

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLACES = re.compile(r"(.*\.)?(position\.embedding|position_embedding)")
MOST_PLACES, TURNS, MOST_HEADS = 100, 20, 8
"""Rows of a table, arrows, and squares in a line."""
SUFFIXES = (".svg", ".png", ".pdf")


def draw(run: RunDirectory, what: str, out: Path, entry: str = "", inputs: Path | None = None, *, force: bool) -> None:
    """Draw a picture of a run's network.

    Args:
        run: which has at least built its weights.
        what: "position-encodings", "rotation" or "attention".
        out: the file; its ending says what is written.
        entry: of attention, the entry point; "" for the first.
        inputs: of attention, an .npz of the entry point's inputs; None: a small case, of which nothing is masked.
        force: whether a file in the place is replaced.

    Raises:
        InputError: the network has nothing of the kind, or the inputs are none of it.
        EnvironmentFailure: matplotlib is missing.
    """
    need("matplotlib", "plot")
    refuse_place(out, force=force)
    if out.suffix not in SUFFIXES:
        raise InputError(f"--out {out}: a picture is one of {', '.join(SUFFIXES)}")
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "bgevis", "svg.fonttype": "path"}):
        if what == "position-encodings":
            figure = _tables(_leaves(run))
        elif what == "rotation":
            figure = _rotation(_leaves(run))
        else:
            figure = _attention(run, entry, inputs)
        kind = out.suffix[1:]
        dates: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        with written(out) as aside:
            figure.savefig(aside, format=kind, metadata=dates or None)


def _leaves(run: RunDirectory) -> WeightsFile:
    return WeightsFile(run.path / WEIGHTS_PATH)


def _figure(columns: int, rows: int = 1) -> tuple["Figure", list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * columns, 4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _tables(leaves: WeightsFile) -> "Figure":
    """Draw every table of places: a row for each place, a column for each number of its vector."""
    found = [name for name in leaves.tensors if PLACES.fullmatch(name)]
    if not found:
        raise InputError("the network keeps no table of places: there is nothing to draw")
    figure, axes = _figure(len(found))
    for name, at in zip(found, axes, strict=True):
        picture = at.imshow(np.asarray(leaves[name], np.float32)[:MOST_PLACES], cmap="viridis", aspect="auto")
        at.set(title=name, xlabel="number of the vector", ylabel="place")
        figure.colorbar(picture, ax=at)
    return figure


def _rotation(leaves: WeightsFile) -> "Figure":
    """Draw where the vector (1, 1) points after each rotation: of the first pair, and of the last."""
    name = next((name for name in leaves.tensors if name.rpartition(".")[2] == "cos"), "")
    if not name:
        raise InputError("the network keeps no table of rotations: there is nothing to draw")
    cos, sin = (np.asarray(leaves[n], np.float64)[:TURNS] for n in (name, name[: -len("cos")] + "sin"))
    figure, axes = _figure(2)
    for pair, at in zip((0, -1), axes, strict=True):
        x, y = cos[:, pair] - sin[:, pair], sin[:, pair] + cos[:, pair]
        at.quiver(np.zeros(len(x)), np.zeros(len(y)), x, y, np.arange(len(x)), angles="xy", scale_units="xy", scale=1)
        at.set(title=f"{name[:-3]}pair {pair % cos.shape[1]}", xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal")
    return figure


def _attention(run: RunDirectory, named: str, file: Path | None) -> "Figure":
    """Draw the weights of every head of the first row: a line for each attention, in the order of computation."""
    need_jax()
    import jax.numpy as jnp

    net, (family, _) = network(run), family_and_config(run)
    if named and named not in net.entry_points:
        raise InputError(f"--entry {named}: the family {family.name} has {', '.join(net.entry_points)}")
    entry = net.entry_points[named] if named else next(iter(net.entry_points.values()))
    inputs = _inputs(entry, file)
    leaves = _leaves(run)
    weights = {name: jnp.asarray(leaves[name]) for name in leaves.tensors}
    with recording() as taps, closely():
        net.function(entry.name)(weights, *(inputs[spec.name] for spec in entry.inputs))
    found = {name: np.asarray(value)[0] for name, value in taps.items() if name.rpartition(".")[2] == "weights"}
    if not found:
        raise InputError(_nothing(family, entry))
    columns = min(MOST_HEADS, max(len(heads) for heads in found.values()))
    figure, axes = _figure(columns, len(found))
    for i, (name, heads) in enumerate(found.items()):
        for head, at in enumerate(axes[i * columns : (i + 1) * columns]):
            if head >= len(heads):
                at.set_axis_off()
                continue
            at.imshow(heads[head], vmin=0, vmax=1, cmap="viridis", aspect="auto")
            at.set(title=f"{name.removesuffix('.weights')}, head {head}", xlabel="key", ylabel="query")
    return figure


def _nothing(family: Family, entry: EntryPoint) -> str:
    return f"{entry.name} of the family {family.name} shows no weights of attention: choose another --entry"


def _inputs(entry: EntryPoint, file: Path | None) -> Mapping[str, Any]:
    """Give the inputs of an entry point: the user's, or a small case of which nothing is masked."""
    import jax.numpy as jnp

    if file is None:
        drawn = dict(tap_case(entry).inputs)
        for spec in entry.inputs:
            if isinstance(spec.domain, RandomMask | PaddingMask):
                drawn[spec.name] = np.full_like(drawn[spec.name], not spec.domain.inverted)
    else:
        try:
            with np.load(file) as arrays:
                drawn = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError) as error:
            raise InputError(f"--inputs {file} cannot be read: {error}") from error
        try:
            entry.sizes(drawn)
        except ValueError as error:
            raise InputError(f"--inputs {file}: {error}") from error
    return {spec.name: jnp.asarray(drawn[spec.name], spec.dtype) for spec in entry.inputs}

"""`plot`: a picture of a network in a file of its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...exporters.weights import WeightsFile
from ...model.family import Family
from ...validation.cases import unmasked_case
from ...validation.entry_point import EntryPoint
from ...validation.errors import InputError
from ...validation.packages import need, need_jax
from ...validation.taps import WEIGHTS, closely, recording
from ..directory import RunDirectory
from ..manifest import WEIGHTS_PATH, family_and_config, network
from ..output import refuse_place, written
from ..report import plots

SUFFIXES = (".svg", ".png", ".pdf")
KEPT = {"position-encodings": "places", "rotation": "rotations"}


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
    refuse(out, "--out", force=force)
    leaves = WeightsFile(run.path / WEIGHTS_PATH)
    if what == "attention":
        lines = plots.attention(_attention(run, leaves, entry, inputs))
    else:
        lines = [plots.tables(leaves) if what == "position-encodings" else plots.rotations(leaves)]
    if not any(lines):
        raise InputError(f"the network keeps no table of {KEPT[what]}: there is nothing to draw")
    save(out, lines)


def refuse(out: Path, option: str, *, force: bool) -> None:
    """Hold that a picture can be drawn into a place, before any work is done.

    Raises:
        InputError: it cannot be put there, or its ending says no kind of picture.
        EnvironmentFailure: matplotlib is missing.
    """
    need("matplotlib", "plot")
    refuse_place(out, force=force)
    if out.suffix not in SUFFIXES:
        raise InputError(f"{option} {out}: a picture is one of {', '.join(SUFFIXES)}")


def save(out: Path, lines: Sequence[Sequence[plots.Panel]]) -> None:
    """Draw lines of pictures and write them by the file's ending, the same bytes each time; whole or not at all."""
    import matplotlib as mpl

    kind = out.suffix[1:]
    dates: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    with mpl.rc_context(plots.SETTINGS), written(out) as aside:
        plots.figure(lines).savefig(aside, format=kind, metadata=dates or None)


def _attention(run: RunDirectory, leaves: WeightsFile, named: str, file: Path | None) -> dict[str, np.ndarray]:
    """Give the weights of the first row, (heads, queries, keys) by attention, in the order of computation."""
    need_jax()
    import jax.numpy as jnp

    net, (family, _) = network(run), family_and_config(run)
    if named and named not in net.entry_points:
        raise InputError(f"--entry {named}: the family {family.name} has {', '.join(net.entry_points)}")
    entry = net.entry_points[named] if named else next(iter(net.entry_points.values()))
    inputs = _inputs(entry, file)
    weights = {name: jnp.asarray(leaves[name]) for name in leaves.tensors}
    with recording() as taps, closely():
        net.function(entry.name)(weights, *(inputs[spec.name] for spec in entry.inputs))
    found = {name.removesuffix(WEIGHTS): np.asarray(value)[0] for name, value in taps.items() if name.endswith(WEIGHTS)}
    if not found:
        raise InputError(_nothing(family, entry))
    return found


def _nothing(family: Family, entry: EntryPoint) -> str:
    return f"{entry.name} of the family {family.name} shows no weights of attention: choose another --entry"


def _inputs(entry: EntryPoint, file: Path | None) -> Mapping[str, Any]:
    """Give the inputs of an entry point: the user's, or a small case of which nothing is masked."""
    import jax.numpy as jnp

    if file is None:
        drawn: Mapping[str, np.ndarray] = unmasked_case(entry)
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

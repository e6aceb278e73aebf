"""What of an output is compared: the positions that mean something, and of large outputs a fixed choice of them.

The same is done to a reference's output and to a candidate's, so that a golden of logits over a vocabulary holds some
positions and not gigabytes.
"""

from collections.abc import Sequence

import numpy as np

from .domains import behind
from .entry_point import EntryPoint, TensorSpec
from .runner import Arrays

POSITIONS = 8
"""Positions of each row of which logits are kept: at equal distances among those that count, from first to last."""


def kept_shape(spec: TensorSpec, shape: Sequence[int]) -> tuple[int, ...]:
    """Give the shape of what is kept of an output of `shape`."""
    if not _chosen(spec, len(shape)):
        return tuple(shape)
    return (*shape[:-2], min(POSITIONS, shape[-2]), shape[-1])


def kept(entry: EntryPoint, inputs: Arrays, outputs: Arrays) -> dict[str, np.ndarray]:
    """Give what is compared of each output: 0 where it does not count, of logits some positions."""
    specs = {spec.name: spec for spec in entry.outputs}
    return {name: _kept(specs[name], inputs, array) if name in specs else array for name, array in outputs.items()}


def _kept(spec: TensorSpec, inputs: Arrays, array: np.ndarray) -> np.ndarray:
    counts = valid(spec, inputs, array.shape)
    if _chosen(spec, array.ndim):
        places = positions(spec, inputs, array.shape)
        array = np.take_along_axis(array, places[..., None], axis=-2)
        counts = None if counts is None else np.take_along_axis(counts, places, axis=-1)
    if counts is None:
        return array
    return np.where(counts.reshape(*counts.shape, *[1] * (array.ndim - counts.ndim)), array, np.zeros((), array.dtype))


def _chosen(spec: TensorSpec, rank: int) -> bool:
    return spec.kind.distributions and rank > 2


def valid(spec: TensorSpec, inputs: Arrays, shape: Sequence[int]) -> np.ndarray | None:
    """Say at which positions an output counts, by the leading axes of its shape; None where it does everywhere.

    A mask that is longer than the output begins earlier: its last places are the output's. Of an output that is longer
    the places before the mask's count.
    """
    name = spec.kind.mask
    if not name:
        return None
    mask = inputs[name.removeprefix("~")].astype(bool) != name.startswith("~")
    if spec.kind.heads_first:
        mask = mask[:, None]
    size = shape[mask.ndim - 1]
    return behind(mask, size)[..., max(mask.shape[-1] - size, 0) :]


def positions(spec: TensorSpec, inputs: Arrays, shape: Sequence[int]) -> np.ndarray:
    """Choose the positions of each row that are kept of logits, (rows, positions)."""
    *rows, length, _ = shape
    counts = valid(spec, inputs, shape)
    several = np.ones((*rows, length), bool) if counts is None else np.broadcast_to(counts, (*rows, length))
    found = [_spread(np.flatnonzero(row), length) for row in several.reshape(-1, length)]
    return np.array(found, np.int64).reshape(*rows, -1)


def _spread(places: np.ndarray, length: int) -> np.ndarray:
    places = places if len(places) else np.arange(length)
    return places[np.linspace(0, len(places) - 1, min(POSITIONS, length)).round().astype(int)]


def chosen_positions(entry: EntryPoint, inputs: Arrays, outputs: Arrays) -> dict[str, np.ndarray]:
    """Give the positions that are kept, of the outputs of which some are left out."""
    return {
        spec.name: positions(spec, inputs, outputs[spec.name].shape)
        for spec in entry.outputs
        if spec.name in outputs and _chosen(spec, outputs[spec.name].ndim)
    }

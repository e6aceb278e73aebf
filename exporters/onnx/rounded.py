"""Reading rounded weights back: what they stand for, and whether each is what rounding the leaf gives."""

from collections.abc import Collection, Iterator, Mapping

import numpy as np

from ..base import PROGRAMS, WEIGHTS, Artifact
from ..precisions import INT8
from ..weights import WeightsFile
from .precision import LARGEST, TABLE_LARGEST, quantise, quantise_blocks
from .read import stored


def read_weights(artifact: Artifact) -> Iterator[tuple[str, np.ndarray]]:
    """Give every leaf that a program uses as the float32 numbers that its stored ones stand for."""
    leaves = artifact.network().leaves
    for leaf, forms in _by_leaf(artifact, leaves):
        array = forms[leaf] if leaf in forms else _stood_for(leaf, forms)
        yield leaf, array.astype(np.float32).reshape(leaves[leaf].shape)


def _stood_for(leaf: str, forms: Mapping[str, np.ndarray]) -> np.ndarray:
    """Multiply integers by their scales."""
    scale = forms[f"{leaf}.scale"]
    if f"{leaf}.int4" not in forms:
        return forms[f"{leaf}.int8"] * scale
    blocks = forms[f"{leaf}.int4"].astype(np.float32).reshape(len(scale), -1, scale.shape[1])
    return blocks * scale[:, None]


def rounding(artifact: Artifact, precision: str, elsewhere: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """Round each leaf of the exact weights file again and compare the bits.

    Args:
        artifact: with the programs.
        precision: that they are in.
        elsewhere: leaves that are used by another program, which runs after these.
    """
    source = WeightsFile(artifact.directory / PROGRAMS / WEIGHTS)
    network = artifact.network()
    unread = {leaf for entry in artifact.programs for leaf in network.used_weights(entry)}
    for leaf, forms in _by_leaf(artifact, source.tensors):
        exact = source.read(leaf).astype(np.float32, copy=False)
        problems = (_problem(exact, name, array, forms, precision) for name, array in forms.items())
        yield leaf, next(filter(None, problems), "")
        unread.discard(leaf)
    for leaf in sorted(unread - set(elsewhere)):
        yield leaf, "is read by no program"


def _problem(leaf: np.ndarray, name: str, array: np.ndarray, forms: Mapping[str, np.ndarray], precision: str) -> str:
    stem, _, kind = name.rpartition(".")
    integers = next((form for form in ("int4", "int8") if f"{stem}.{form}" in forms), "")
    if kind not in (integers, "scale") or not integers:
        wanted = leaf.astype(array.dtype).reshape(array.shape)
        return "" if array.tobytes() == wanted.tobytes() else f"is not the leaf rounded to {array.dtype}"
    numbers, scales = (forms[f"{stem}.{form}"] for form in (integers, "scale"))
    if integers == "int4":
        made = quantise_blocks(leaf.reshape(numbers.shape))
    else:
        axis, largest = (0, LARGEST.get(precision, LARGEST[INT8])) if scales.ndim == 1 else (1, TABLE_LARGEST)
        made = quantise(leaf.reshape(numbers.shape), axis, largest)
    wanted = made[kind == "scale"].astype(array.dtype)
    return "" if array.tobytes() == wanted.tobytes() else f"{kind} is not what rounding the leaf to {integers} gives"


def _by_leaf(artifact: Artifact, leaves: Mapping[str, object]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Bring the forms of each leaf together, by name: itself, or its integers and its scale.

    Raises:
        ValueError: a form is missing, or two programs read different bytes for one form.
    """
    waiting: dict[str, dict[str, np.ndarray]] = {}
    for name, array in stored(artifact):
        leaf = name if name in leaves else name.rpartition(".")[0]
        if leaf == name:
            yield leaf, {name: array}
            continue
        forms = waiting.setdefault(leaf, {})
        if name in forms:
            raise ValueError(f"programs disagree where {name} lies")
        forms[name] = array
        if len(forms) == 2:
            yield leaf, waiting.pop(leaf)
    if waiting:
        raise ValueError(f"{', '.join(waiting)}: integers without scale, or scale without integers")

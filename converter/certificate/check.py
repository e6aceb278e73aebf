"""The four-way check: every tensor once, every leaf once, every rule of use, shapes, dtypes and values as they must be.

No forward pass, no torch. Everything that is wrong is reported at once. Also proves each layout: a
fingerprint (every element its own index) goes through the rules and must arrive where the axis names
say, and come back, so that a transposed square matrix cannot pass for a correct one.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from ...model import layout
from ...model.family import Config, Family
from .ledger import Entry, Ledger

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint

DTYPES = ("float32", "float16", "bfloat16")
"""What a trained weight may be stored as; each goes into float32 without loss."""

ROTARY_TOLERANCE = 1e-6
"""How far a stored constant may lie from the recomputed one before a note says so (float32 angles up to 16 rad)."""


def verify(
    ledger: Ledger,
    checkpoint: "Checkpoint",
    family: Family,
    config: Config,
    leaf_shapes: Mapping[str, tuple[int, ...]],
    progress: Callable[[int], None] = lambda nbytes: None,
) -> Ledger:
    """Check every tensor; give the ledger as a certificate, with shapes, dtypes, digests and all problems."""
    entries = dict(ledger.entries)
    problems = list(ledger.problems)
    notes: list[str] = []
    constants = family.constants(config)

    def inspect(name: str) -> tuple[str, Entry, list[str], list[str]]:
        tensor = checkpoint.read(name)
        found = list(_tensor_problems(name, entries[name], tensor, ledger.axes, leaf_shapes))
        remarks = list(_constant_notes(name, tensor, constants))
        contents = np.ascontiguousarray(tensor)
        digest = hashlib.sha256(contents.reshape(-1).view(np.uint8).data).hexdigest()
        progress(contents.nbytes)
        checkpoint.release(name)
        described = dataclasses.replace(entries[name], dtype=str(tensor.dtype), shape=tensor.shape, sha256=digest)
        return name, described, found, remarks

    known = [name for name in checkpoint.tensors if name in entries]
    with ThreadPoolExecutor(2) as pool:  # hashing and scanning release the interpreter's lock
        for name, entry, found, remarks in pool.map(inspect, known):
            entries[name] = entry
            problems += found
            notes += remarks
    problems += _tie_problems(entries)
    problems += layout_problems(entries, ledger.axes)
    checks = {
        "tensors": f"{len(checkpoint.tensors)} in the checkpoint, each used by one rule",
        "leaves": f"{len(leaf_shapes)} in the model, each filled once",
        "values": "finite, shapes and dtypes as declared, ties equal bit for bit",
        "layouts": f"{len(_distinct_layouts(entries))} proved by fingerprint",
    }
    passed = {} if problems else checks
    return dataclasses.replace(ledger, entries=entries, problems=tuple(problems), notes=tuple(notes), checks=passed)


def _tensor_problems(
    name: str, entry: Entry, tensor: np.ndarray, axes: Mapping[str, int], leaf_shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[str]:
    if entry.status == "mapped":
        rearrange = layout.parse(entry.layout)
        wanted = rearrange.source_shape(axes)
        if tensor.shape != wanted:
            yield f"tensor {name}: expected shape {wanted} ({rearrange}), got {tensor.shape}"
        elif rearrange.target_shape(axes) != leaf_shapes.get(entry.target, rearrange.target_shape(axes)):
            yield (
                f"tensor {name}: its layout {rearrange} gives {rearrange.target_shape(axes)}, "
                f"but {entry.target} is {leaf_shapes[entry.target]}"
            )
    if entry.status != "dropped" and str(tensor.dtype) not in DTYPES:
        yield f"tensor {name}: dtype {tensor.dtype} is not supported for weights (supported: {', '.join(DTYPES)})"
    elif entry.status == "mapped":
        bad = tensor.size - np.count_nonzero(np.isfinite(tensor))
        if bad:
            yield f"tensor {name}: {bad} of {tensor.size} values are NaN or infinite"


def _constant_notes(name: str, tensor: np.ndarray, constants: Mapping[str, np.ndarray]) -> Iterator[str]:
    wanted = constants.get(name)
    if wanted is not None and wanted.shape == tensor.shape:
        distance = float(np.max(np.abs(tensor.astype(np.float64) - wanted)))
        if not distance <= ROTARY_TOLERANCE:
            yield f"tensor {name}: differs from the recomputed table by {distance:.2g}; the stored values are used"


def _tie_problems(entries: Mapping[str, Entry]) -> Iterator[str]:
    for name, entry in entries.items():
        if entry.status != "tied" or entry.target not in entries:
            continue
        other = entries[entry.target]
        if (entry.sha256, entry.shape, entry.dtype) != (other.sha256, other.shape, other.dtype):
            yield f"tensor {name}: must equal {entry.target} ({entry.reason}), but their bytes differ"


def _distinct_layouts(entries: Mapping[str, Entry]) -> dict[str, str]:
    """Give each layout that moves elements, with the name of a tensor that uses it."""
    mapped = ((entry.layout, name) for name, entry in entries.items() if entry.status == "mapped")
    return {text: name for text, name in mapped if layout.parse(text).permutes}


def layout_problems(entries: Mapping[str, Entry], axes: Mapping[str, int]) -> Iterator[str]:
    """Send a fingerprint through each layout, at its real size, and back."""
    for text, name in _distinct_layouts(entries).items():
        rearrange = layout.parse(text)
        shape = rearrange.source_shape(axes)
        fingerprint = np.arange(np.prod(shape, dtype=np.int64)).reshape(shape)
        arrived = rearrange.apply(fingerprint, axes)
        if not np.array_equal(arrived, rearrange.positions(axes)):
            yield f"tensor {name}: layout {text} moves elements to places that its axis names do not say"
        elif not np.array_equal(rearrange.inverse.apply(arrived, axes), fingerprint):
            yield f"tensor {name}: layout {text} does not lead back"

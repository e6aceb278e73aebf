"""The four-way check: every tensor once, every leaf once, every rule of use, shapes, dtypes and values as they must be.

No forward pass, no torch. Everything that is wrong is reported at once. Also proves each layout: a
fingerprint (every element its own index) goes through the rules and must arrive where the axis names
say, and come back, so that a transposed square matrix cannot pass for a correct one. Likewise each way
in which tensors are split or merged.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from ...exporters.weights import contiguous
from ...model import layout
from ...model.derived import LowRank, Made
from ...model.family import Config, Family
from .ledger import Entry, Ledger
from .tensors import Tensors

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
    tensors, wanted = Tensors(checkpoint, ledger), _ingredient_shapes(ledger)
    unfit: set[str] = set()
    """Tensors of which nothing can be made."""
    lost: dict[str, tuple[float, float]] = {}
    """Of merged tensors in half precision, what was rounded away and what the adapter changes, see `LowRank.lost`."""

    def inspect(name: str) -> tuple[str, Entry, list[str], list[str]]:
        tensor = tensors.read(name)
        found = list(_tensor_problems(name, entries[name], tensor, ledger.axes, leaf_shapes))
        if name in wanted and tensor.shape != wanted[name][0]:
            found.append(f"tensor {name}: expected shape {wanted[name][0]} ({wanted[name][1]}), got {tensor.shape}")
        if found:
            unfit.add(name)
        remarks = list(_constant_notes(name, tensor, constants))
        contents = contiguous(tensor)
        digest = hashlib.sha256(contents.reshape(-1).view(np.uint8).data).hexdigest()
        made = entries[name].made
        if isinstance(made, LowRank) and not found and tensor.dtype.itemsize < np.dtype(np.float32).itemsize:
            lost[name] = made.lost({each: tensors.read(each) for each in made.ingredients}, tensor, ledger.axes)
        if not made:
            progress(contents.nbytes)
        tensors.release(name)
        described = dataclasses.replace(entries[name], dtype=str(tensor.dtype), shape=tensor.shape, sha256=digest)
        return name, described, found, remarks

    def inspect_all(names: Iterable[str]) -> None:
        for name, entry, found, remarks in pool.map(inspect, names):
            entries[name] = entry
            problems.extend(found)
            notes.extend(remarks)

    recipes = list(derived_problems(ledger))
    problems += [problem for _, problem in recipes]
    unfit |= {name for name, _ in recipes}
    with ThreadPoolExecutor(2) as pool:  # hashing and scanning release the interpreter's lock
        inspect_all(name for name in checkpoint.tensors if name in entries)
        waiting = dict(ledger.derived())
        while waiting:  # for those of which others are made: nothing is made of what is wrong
            ready = {name: made for name, made in waiting.items() if waiting.keys().isdisjoint(made.ingredients)}
            unfit |= {name for name, made in ready.items() if not unfit.isdisjoint(made.ingredients)}
            inspect_all([name for name in ready if name not in unfit])
            waiting = {name: made for name, made in waiting.items() if name not in ready}
    problems += _tie_problems(entries)
    problems += layout_problems(entries, ledger.axes)
    notes += _adapter_notes(lost, entries)
    passed = {} if problems else _checks(ledger, entries)
    return dataclasses.replace(ledger, entries=entries, problems=tuple(problems), notes=tuple(notes), checks=passed)


def _checks(ledger: Ledger, entries: Mapping[str, Entry]) -> dict[str, str]:
    """Say what was checked."""
    real = sum(entry.made is None for entry in entries.values())
    checks = {
        "tensors": f"{real} in the checkpoint, each used by one rule",
        "leaves": f"{len(ledger.leaves)} in the model, each filled once",
        "values": "finite, shapes and dtypes as declared, ties equal bit for bit",
        "layouts": f"{len(_distinct_layouts(entries))} proved by fingerprint",
    }
    derived = list(ledger.derived())
    if derived:
        checks["derived"] = (
            f"{len(derived)} tensors made of others, in {len(_distinct_recipes(ledger))} ways, each proved"
        )
    return checks


def restated(names: Ledger, stated: Ledger, leaf_shapes: Mapping[str, tuple[int, ...]]) -> tuple[Ledger, list[str]]:
    """Make a certificate anew, of the rules and of what another one says of each tensor; give all that is wrong.

    Args:
        names: what the rules make of the tensors' names.
        stated: says type, shape and digest of each tensor, and what was noted.
        leaf_shapes: of the model.
    """
    entries = {
        name: dataclasses.replace(entry, dtype=said.dtype, shape=said.shape, sha256=said.sha256)
        for name, entry in names.entries.items()
        if (said := stated.entries.get(name))
    }
    wanted = _ingredient_shapes(names)
    problems = [*names.problems, *(problem for _, problem in derived_problems(names))]
    for name, entry in entries.items():
        problems += _form_problems(name, entry, entry.dtype, entry.shape, names.axes, leaf_shapes)
        if name in wanted and entry.shape != wanted[name][0]:
            problems.append(f"tensor {name}: expected shape {wanted[name][0]} ({wanted[name][1]}), got {entry.shape}")
    problems += _tie_problems(entries)
    made = dataclasses.replace(names, entries=entries, notes=stated.notes)
    return dataclasses.replace(made, checks=_checks(made, entries)), problems


def _tensor_problems(
    name: str, entry: Entry, tensor: np.ndarray, axes: Mapping[str, int], leaf_shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[str]:
    yield from _form_problems(name, entry, str(tensor.dtype), tensor.shape, axes, leaf_shapes)
    if entry.status in ("mapped", "split", "merged") and str(tensor.dtype) in DTYPES:
        bad = _not_finite(tensor)
        if bad:
            yield f"tensor {name}: {bad} of {tensor.size} values are NaN or infinite"


def _not_finite(tensor: np.ndarray) -> int:
    """Count what is NaN or infinite. Half precisions, slow in numpy, by their bits: all of the exponent are set."""
    if tensor.dtype.itemsize != 2:
        return tensor.size - int(np.count_nonzero(np.isfinite(tensor)))
    exponent = np.array(np.inf, tensor.dtype).view(np.uint16)
    bits = tensor.view(np.uint16) & exponent
    return int(np.count_nonzero(bits == exponent))


def _form_problems(
    name: str,
    entry: Entry,
    dtype: str,
    shape: tuple[int, ...],
    axes: Mapping[str, int],
    leaf_shapes: Mapping[str, tuple[int, ...]],
) -> Iterator[str]:
    """Say what is wrong with a tensor's type and shape."""
    if entry.status == "mapped":
        rearrange = layout.parse(entry.layout)
        wanted = rearrange.source_shape(axes)
        if shape != wanted:
            yield f"tensor {name}: expected shape {wanted} ({rearrange}), got {shape}"
        elif rearrange.target_shape(axes) != leaf_shapes.get(entry.target, rearrange.target_shape(axes)):
            yield (
                f"tensor {name}: its layout {rearrange} gives {rearrange.target_shape(axes)}, "
                f"but {entry.target} is {leaf_shapes[entry.target]}"
            )
    if entry.status != "dropped" and dtype not in DTYPES:
        known = ", ".join(DTYPES)
        yield f"tensor {name}: dtype {dtype} is not supported for weights; save them as one of {known}"


def _ingredient_shapes(ledger: Ledger) -> dict[str, tuple[tuple[int, ...], str]]:
    """Give for each tensor that others are made of the shape that it must have, and why."""
    return {name: shape for _, made in ledger.derived() for name, shape in made.shapes(ledger.axes).items()}


def _constant_notes(name: str, tensor: np.ndarray, constants: Mapping[str, np.ndarray]) -> Iterator[str]:
    wanted = constants.get(name)
    if wanted is not None and wanted.shape == tensor.shape:
        distance = float(np.max(np.abs(tensor.astype(np.float64) - wanted)))
        if not distance <= ROTARY_TOLERANCE:
            yield f"tensor {name}: differs from the recomputed table by {distance:.2g}; the stored values are used"


def _adapter_notes(lost: Mapping[str, tuple[float, float]], entries: Mapping[str, Entry]) -> Iterator[str]:
    """Say how much of an adapter's change half precision keeps: of all, and where the least is kept."""
    shares = {name: gone / changed for name, (gone, changed) in sorted(lost.items()) if changed}
    if shares:
        gone, changed = (math.sqrt(sum(each[i] ** 2 for each in lost.values())) for i in (0, 1))
        worst = max(shares, key=shares.__getitem__)
        dtypes = " and ".join(sorted({entries[name].dtype for name in lost}))
        yield (
            f"adapter: as {dtypes} the {len(lost)} merged layers keep {_percent(1 - gone / changed)} of what it "
            f"changes (norms of weights), {worst} {_percent(1 - shares[worst])}; --dtype float32 keeps all of it"
        )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


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


def _distinct_recipes(ledger: Ledger) -> dict[str, tuple[str, Made]]:
    """Give each way in which tensors are made of others, with the first one that is."""
    found: dict[str, tuple[str, Made]] = {}
    for name, made in ledger.derived():
        found.setdefault(made.way, (name, made))
    return found


def derived_problems(ledger: Ledger) -> Iterator[tuple[str, str]]:
    """Send fingerprints through each way of splitting and merging, at its real size; name the tensor."""
    for name, made in _distinct_recipes(ledger).values():
        for problem in made.problems(ledger.axes):
            yield name, f"tensor {name}: {problem}"

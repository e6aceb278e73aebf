"""The way back: an artifact's weights -> the checkpoint they came from, every tensor proved by its digest.

Names, shapes, dtypes and bits are the checkpoint's; tied tensors are there under each of their names, and what
was split is whole again. What was merged stays merged: it stands under the name of its base, or of a layer that an
adapter changed under the name that it has without one. What the rules dropped is in no artifact, and what was added to
a base neither: they are named, not made up. Needs the runtime of the artifact and the ledger, neither the checkpoint
nor, for safetensors, PyTorch.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...exporters.base import Exporter, UnreadableWeight
from ...exporters.weights import contiguous, plan
from ...model.adapter import BASE, Adapter
from ...model.derived import LowRank, Part
from ...validation.errors import EnvironmentFailure, GateError, InputError, raised
from ...validation.packages import need_jax
from ..certificate.ledger import Entry, Ledger, numpy_dtype
from ..directory import RunDirectory
from ..manifest import LEDGER, artifact
from ..output import refuse_place, written
from ..progress import Progress


@dataclass(frozen=True)
class Restored:
    """What a restored checkpoint holds, and what it cannot hold."""

    file: Path
    tensors: int
    ties: int
    nbytes: int
    dropped: tuple[str, ...]
    merged: tuple[str, ...] = ()
    """Names under which stands what was merged of them and an adapter's tensors; a merge cannot be undone."""
    adapters: tuple[str, ...] = ()

    def tell(self) -> str:
        """Say it to a person, in one line."""
        text = f"{self.file}: {self.tensors} tensors, {self.ties} of them tied, {self.nbytes / 1e6:.1f} MB"
        if self.merged:
            text += (
                f"; {len(self.merged)} hold what they were merged to ({_example(self.merged)}): that cannot be undone, "
                f"and the {len(self.adapters)} tensors of the adapter are in no artifact"
            )
        if not self.dropped:
            return f"{text}, each with the digest that the ledger certifies"
        return f"{text}; {len(self.dropped)} dropped tensors are in no artifact ({_example(self.dropped)}): see --json"

    def to_json(self) -> dict[str, Any]:
        """Say it to a program."""
        return dataclasses.asdict(self) | {"file": str(self.file)}


def _example(names: tuple[str, ...]) -> str:
    return f"{names[0]}, ..." if len(names) > 1 else names[0]


def restore(run: RunDirectory, exporter: Exporter, out: Path, progress: Progress, *, force: bool = False) -> Restored:
    """Rebuild the source state dict from one format, as .safetensors or in PyTorch's container.

    A file that is in the place of `out` is replaced only with `force`.

    Raises:
        GateError: a tensor is missing, or its bytes are not those that the ledger certifies.
        InputError: the run holds no such format, or `out` lies inside the run directory.
        EnvironmentFailure: a package is missing.
    """
    exporter.require()
    need_jax()
    if exporter.rounding:
        raise InputError(
            f"{exporter.name} holds rounded weights, from which no tensor can be restored; choose another format"
        )
    if run.path.resolve() in out.resolve().parents:
        raise InputError(f"{out} lies inside the run directory {run.path}; choose another --out")
    refuse_place(out, force=force)
    safetensors = out.suffix == ".safetensors"
    if not safetensors:
        require_torch()
    ledger = Ledger.read(run.path / LEDGER)
    kept = {
        name: dataclasses.replace(entry, dtype=_dtype(ledger, name))
        for name, entry in ledger.entries.items()
        if not entry.made and _restorable(ledger, name)
    }
    nbytes = sum(_nbytes(entry) for entry in kept.values())
    progress.begin(nbytes)
    plain = _plain(run)
    named = {plain.get(n, n): dataclasses.replace(e, target=plain.get(e.target, e.target)) for n, e in kept.items()}
    tensors = ((plain.get(n, n), array) for n, array in proved(run, exporter, ledger, progress.advance))
    with written(out) as aside:
        (_write_safetensors if safetensors else _write_torch)(aside, named, tensors)
    gone = {name: entry for name, entry in ledger.entries.items() if not entry.made and name not in kept}
    adapters = tuple(name for name, entry in gone.items() if entry.status == "merged")
    dropped = tuple(name for name in gone if name not in adapters)
    ties = sum(entry.status == "tied" for entry in kept.values())
    bases = {_root(ledger, made.base) for _, made in ledger.derived() if isinstance(made, LowRank)}
    return Restored(out, len(kept), ties, nbytes, dropped, tuple(name for name in kept if name in bases), adapters)


def _plain(run: RunDirectory) -> dict[str, str]:
    """Give the layers that an adapter was merged into the names that they have without one: upstream loads the file."""
    stated = run.manifest().get("adapter")
    layers = Adapter.from_json(stated).layers if stated else ()
    return {f"{name}.{BASE}.weight": f"{name}.weight" for group in layers for name in group.names}


def _restorable(ledger: Ledger, name: str) -> bool:
    """Say whether an artifact has all that a tensor consists of; of a merged one, that is its base."""
    entry = ledger.entries[name]
    match entry.status:
        case "mapped":
            return True
        case "tied":
            return _restorable(ledger, entry.target)
        case "split" | "merged":
            given = _given(ledger, name)
            return bool(given) and all(_restorable(ledger, other) for other in given)
    return False


def _given(ledger: Ledger, name: str) -> list[str]:
    """Name the parts of a tensor, or what it was the base of."""
    return [other for other, made in ledger.derived() if name == made.ingredients[0]]


def _dtype(ledger: Ledger, name: str) -> str:
    """Give the type of a tensor as it is restored: of a base that of what it was merged to."""
    entry = ledger.entries[name]
    if entry.status == "tied":
        return _dtype(ledger, entry.target)
    types = {_dtype(ledger, other) for other in _given(ledger, name)} or {entry.dtype}
    return types.pop() if len(types) == 1 else np.result_type(*map(numpy_dtype, types)).name


def _root(ledger: Ledger, name: str) -> str:
    """Name the tensor of the checkpoint that another was taken of."""
    made = ledger.entries[name].made
    return _root(ledger, made.ingredients[0]) if made else name


def require_torch() -> None:
    """Raise EnvironmentFailure unless PyTorch's container can be written."""
    try:
        import torch  # noqa: F401 - only asked for
    except ModuleNotFoundError as error:
        raise EnvironmentFailure(
            "PyTorch's container needs PyTorch: pip install 'bgevis-convert[torch]', or use --out NAME.safetensors"
        ) from error


def proved(
    run: RunDirectory, exporter: Exporter, ledger: Ledger, advance: Callable[[int], None]
) -> Iterator[tuple[str, np.ndarray]]:
    """Read an artifact's weights as the tensors of the checkpoint, each held against its digest.

    Parts of a tensor wait until all are there; formats hold them next to each other.

    Raises:
        GateError: naming the first tensor that differs, or all that are missing.
    """
    missing, whole = ledger.leaves, _Whole(ledger)
    for leaf, array in _weights(run, exporter):
        name = missing.pop(leaf, None)
        if name is None:
            raise GateError(f"restore: {exporter.name} holds {leaf}, which the ledger does not know or has seen before")
        tensor = source(ledger, name, array)
        if tensor is None:
            raise GateError(
                f"restore: tensor {ledger.told(name)} cannot be restored from {exporter.name}: the sha256 of its "
                f"bytes is not the ledger's; {leaf} was altered, export {exporter.name} again"
            )
        for restored, array in whole.give(name, tensor):
            yield restored, array
            advance(array.nbytes)
    if missing:
        raise GateError(f"restore: {exporter.name} does not hold tensor {', '.join(missing.values())}")


class _Whole:
    """Leads derived tensors back to those of the checkpoint."""

    def __init__(self, ledger: Ledger):
        self._entries, self._axes = ledger.entries, ledger.axes
        self._merged: set[str] = set()
        self._parts: dict[str, dict[int, np.ndarray]] = {}

    def give(self, name: str, tensor: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Give what a tensor completes: itself if the checkpoint holds it, the packed one if it is the last part."""
        ties = (other for other, e in self._entries.items() if e.made and e.status == "tied" and e.target == name)
        for each in (name, *ties):
            yield from self._give(each, tensor)

    def _give(self, name: str, tensor: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        match self._entries[name].made:
            case None:
                yield name, tensor
            case LowRank() as made:
                self._merged.add(made.base)
                yield from self._give(made.base, tensor)
            case Part() as made:
                parts = self._parts.setdefault(made.source, {})
                parts[made.index] = tensor
                if len(parts) < len(made.extents):
                    return
                del self._parts[made.source]
                packed = made.join([parts[i] for i in range(len(parts))], self._axes)
                gives = [other for other, e in self._entries.items() if e.made and made.source in e.made.ingredients]
                if self._merged.isdisjoint(gives):
                    self._check(made.source, packed)
                else:
                    self._merged.add(made.source)
                yield from self._give(made.source, packed)

    def _check(self, name: str, packed: np.ndarray) -> None:
        if _digest(packed) != self._entries[name].sha256:
            raise GateError(f"restore: tensor {name}: the sha256 of its parts together is not the ledger's")


def _digest(tensor: np.ndarray) -> str:
    return hashlib.sha256(contiguous(tensor).reshape(-1).view(np.uint8).data).hexdigest()


def source(ledger: Ledger, name: str, leaf: np.ndarray) -> np.ndarray | None:
    """Turn a leaf back into its source tensor; None unless its bytes are the ones that the ledger certifies."""
    try:
        tensor = contiguous(ledger.source(name, leaf))
    except ValueError:  # another shape
        return None
    return tensor if _digest(tensor) == ledger.entries[name].sha256 else None


def _weights(run: RunDirectory, exporter: Exporter) -> Iterator[tuple[str, np.ndarray]]:
    """Read the weights; what a runtime raises over a damaged artifact is a verdict on it, whatever its type."""
    opened = artifact(run, exporter)
    try:
        yield from exporter.read_weights(opened)
    except UnreadableWeight as error:
        raise GateError(f"restore: tensor {Ledger.read(run.path / LEDGER).leaves.get(error.leaf)}: {error}") from error
    except (GateError, MemoryError):
        raise
    except Exception as error:
        raise GateError(f"restore: the weights of {exporter.name} cannot be read ({raised(error)})") from error


def _nbytes(entry: Entry) -> int:
    return int(np.prod(entry.shape, dtype=np.int64)) * numpy_dtype(entry.dtype).itemsize


def _names(kept: dict[str, Entry]) -> dict[str, list[str]]:
    """Give for each tensor that is not tied all names that it has: its own and those that are tied to it."""
    names = {name: [name] for name, entry in kept.items() if entry.status != "tied"}
    for name, entry in kept.items():
        if entry.status == "tied":
            names[entry.target].append(name)
    return names


def _write_safetensors(file: Path, kept: dict[str, Entry], tensors: Iterator[tuple[str, np.ndarray]]) -> None:
    """Write each tensor to its place as it comes, one in memory at a time."""
    header, order = plan({n: (numpy_dtype(e.dtype), e.shape) for n, e in kept.items()}, {"format": "pt"})
    offsets, end = {}, len(header)
    for name in order:
        offsets[name], end = end, end + _nbytes(kept[name])
    names = _names(kept)
    with file.open("wb") as out:
        out.write(header)
        for name, tensor in tensors:
            for each in names[name]:
                out.seek(offsets[each])
                out.write(tensor.reshape(-1).view(np.uint8).data)


def _write_torch(file: Path, kept: dict[str, Entry], tensors: Iterator[tuple[str, np.ndarray]]) -> None:
    """Write PyTorch's container, in the checkpoint's order; tied tensors share one storage."""
    import torch

    from ...model.reference import tensor_of

    names = _names(kept)
    found = {each: tensor for name, array in tensors for tensor in [tensor_of(array)] for each in names[name]}
    torch.save({name: found[name] for name in kept}, file)

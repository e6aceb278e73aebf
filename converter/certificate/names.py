"""Weights under the names of the source: its tensors made again of the leaves, and the leaves of its tensors."""

import hashlib
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from ...exporters.weights import contiguous
from ...model.derived import Part
from ...validation.errors import GateError
from .ledger import Entry, Ledger, numpy_dtype


class Arrays(Protocol):
    """Leaves by name, as the weights file has them."""

    def __getitem__(self, name: str) -> np.ndarray: ...


def source_tensors(ledger: Ledger, weights: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    """Give the source's tensors in its order, made again of the leaves; a merged one stands in the place of its base.

    What is in no leaf is left out.

    Args:
        ledger: says what became of each.
        weights: leaf -> its array.
    """
    for name in _stored(ledger):
        yield name, _tensor(ledger, name, weights)


def leaves_of(ledger: Ledger, tensors: Iterator[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    """Give the leaves that the source's tensors fill, and under their own names those that the ledger does not know.

    A leaf comes again where tensors that must be equal are not.

    Raises:
        GateError: tensors are missing.
    """
    fillers: dict[str, list[tuple[str, str]]] = {}
    for leaf, name in ledger.leaves.items():
        fillers.setdefault(_root(ledger, name), []).append((leaf, name))
    missing = dict.fromkeys(_stored(ledger))
    seen = set[tuple[str, bytes]]()
    for name, array in tensors:
        if name not in missing:
            yield name, array
            continue
        del missing[name]
        for leaf, filler in fillers.get(_root(ledger, name), ()):
            made = _filler(ledger, filler, array)
            found = ledger.leaf(filler, made.astype(numpy_dtype(ledger.entries[filler].dtype), copy=False))
            digest = hashlib.sha256(contiguous(found).reshape(-1).view(np.uint8).data).digest()
            if (leaf, digest) not in seen:
                seen.add((leaf, digest))
                yield leaf, found
    if missing:
        raise GateError(f"the store does not hold {len(missing)} tensors of the source, such as {next(iter(missing))}")


def _stored(ledger: Ledger) -> Iterator[str]:
    return (name for name, entry in ledger.entries.items() if not entry.made and _is_kept(ledger, name, entry))


def _is_kept(ledger: Ledger, name: str, entry: Entry) -> bool:
    """Say whether the leaves have all of a tensor; of a merged one, that is its base."""
    if entry.status == "tied":
        return _is_kept(ledger, entry.target, ledger.entries[entry.target])
    if entry.status in ("split", "merged"):
        given = _given(ledger, name)
        return bool(given) and all(_is_kept(ledger, each, ledger.entries[each]) for each in given)
    return entry.status == "mapped"


def _given(ledger: Ledger, name: str) -> list[str]:
    """Name the parts of a tensor in their order, or what it was the base of."""
    return [other for other, made in ledger.derived() if made.ingredients[0] == name]


def _tensor(ledger: Ledger, name: str, weights: Arrays) -> np.ndarray:
    entry = ledger.entries[name]
    if entry.status == "mapped":
        return ledger.source(name, weights[entry.target])
    if entry.status == "tied":
        return _tensor(ledger, entry.target, weights)
    given = {other: ledger.entries[other].made for other in _given(ledger, name)}
    parts = {made.index: other for other, made in given.items() if isinstance(made, Part)}
    if not parts:
        return _tensor(ledger, next(iter(given)), weights)
    whole = ledger.entries[parts[0]].made
    assert isinstance(whole, Part)
    return whole.join([_tensor(ledger, parts[index], weights) for index in range(len(parts))], ledger.axes)


def _filler(ledger: Ledger, name: str, tensor: np.ndarray) -> np.ndarray:
    """Make the tensor that fills a leaf of the one in the store that it was taken of."""
    made = ledger.entries[name].made
    if made is None:
        return tensor
    inner = _filler(ledger, made.ingredients[0], tensor)
    return made.make({made.source: inner}, ledger.axes) if isinstance(made, Part) else inner


def _root(ledger: Ledger, name: str) -> str:
    """Name the tensor in the store that another is taken of, or that it equals."""
    entry = ledger.entries[name]
    if entry.made:
        return _root(ledger, entry.made.ingredients[0])
    return _root(ledger, entry.target) if entry.status == "tied" else name

"""Why do two networks part? The tensors that act where they first differ, and the mistake that, undone, mends it."""

import re
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from ...model import layout
from ...model.derived import LowRank
from ...validation.entry_point import EntryPoint
from ...validation.goldens import Intermediates
from ...validation.locate import Divergence, first_divergence

if TYPE_CHECKING:
    import jax

    from ...model.runner import NNXRunner
    from .ledger import Ledger

    Weights = Mapping[str, jax.Array]

LAYER = re.compile(r"\.\d+\.")
HEADS = ("heads", "kv_heads")
"""What layouts call the axis that counts an attention's heads."""


def explain(runner: "NNXRunner", entry: EntryPoint, traced: Intermediates, found: Divergence, ledger: "Ledger") -> str:
    """Name the tensors that act at the first divergence, and the mistake if undoing it mends the module."""
    leaves = [leaf for leaf in acting(runner, entry, traced)[found.module] if leaf in ledger.leaves]
    names = ", ".join(f"{ledger.told(ledger.leaves[leaf])} ({leaf})" for leaf in leaves) or "no tensor"
    size = f"{found.error:.2g}, allowed {found.allowed:.2g}"
    text = f"{entry.name}: {found.module} diverges first ({size}); what acts there: {names}"
    cause = next(lost(runner.weights, leaves), "") or undone(runner, entry, traced, found, leaves, ledger)
    return f"{text}; likely cause: {cause}" if cause else text


def acting(runner: "NNXRunner", entry: EntryPoint, wanted: Intermediates) -> dict[str, list[str]]:
    """Give for each tapped module the leaves that lie between it and the taps before it, by the flow of data."""
    import jax

    inputs = wanted.inputs.values()
    traced, shapes = jax.make_jaxpr(lambda *a: runner.trace(entry.name, *a), return_shape=True)(runner.weights, *inputs)
    jaxpr = traced.jaxpr
    leaf = dict(zip(map(id, jaxpr.invars), sorted(runner.weights), strict=False))
    made = {id(out): equation for equation in jaxpr.eqns for out in equation.outvars}
    values = dict(zip(sorted(shapes[1]), jaxpr.outvars[len(shapes[0]) :], strict=True))
    found: dict[str, list[str]] = {}
    stops: set[int] = set()
    for module in wanted.values:
        found[module] = sorted(_behind(values[module], made, leaf, stops - {id(values[module])}))
        stops.add(id(values[module]))
    return found


def _behind(value: Any, made: Mapping[int, Any], leaf: Mapping[int, str], stops: set[int]) -> set[str]:
    """Follow a value back to leaves, not beyond `stops`."""
    leaves, seen, waiting = set(), set(stops), [value]
    while waiting:
        place = id(waiting.pop())
        if place in seen:
            continue
        seen.add(place)
        if place in leaf:
            leaves.add(leaf[place])
        waiting += made[place].invars if place in made else []
    return leaves


def recognised(ledger: "Ledger", leaf: str, array: np.ndarray) -> str:
    """Name the mistake that made a leaf of its source tensor, if undoing one gives the tensor's very bits."""
    name = ledger.leaves[leaf]
    if not array.any():
        return "all of it is 0"
    made = ledger.entries[name].made
    if isinstance(made, LowRank) and ledger.digest(name, array) == ledger.entries[made.base].sha256:
        return f"{made.base} without its adapter"
    tries: list[tuple[str, Any]] = [("negated", -array), *_moved(array)]
    tries += [(f"with its heads {a} and {b} swapped", mended) for (a, b), mended in _heads(ledger, leaf, array)]
    for cause, mended in tries:
        if ledger.digest(name, mended) == ledger.entries[name].sha256:
            return cause
    for other, source in ledger.leaves.items():
        same = ledger.entries[source].shape == ledger.entries[name].shape
        if (
            same
            and other != leaf
            and _alike(leaf, other)
            and ledger.digest(source, array) == ledger.entries[source].sha256
        ):
            return f"what {source} should be"
    return ""


def lost(weights: "Weights", leaves: list[str]) -> Iterator[str]:
    """Name what is not there at all: leaves of zeros, and copies of another."""
    for leaf in leaves:
        array = np.asarray(weights[leaf])
        if not array.any():
            yield f"{leaf} is lost: all of it is 0"
        for other, same in weights.items():
            if other != leaf and same.shape == array.shape and _alike(leaf, other) and np.array_equal(array, same):
                yield f"{leaf} holds what {other} holds"


def _alike(leaf: str, other: str) -> bool:
    """Say whether a converter could take one for the other: the same place in another layer, or a sibling.

    The same place in another attention of the layer is one too.
    """
    one, two = leaf.split("."), other.split(".")
    beside = len(one) > 3 and one[:-3] == two[:-3] and one[-2:] == two[-2:]
    return beside or LAYER.sub(".*.", leaf) == LAYER.sub(".*.", other) or _siblings(leaf, other)


def _siblings(leaf: str, other: str) -> bool:
    module, _, name = leaf.rpartition(".")
    return other.startswith(module.rpartition(".")[0] + ".") and other.endswith(f".{name}")


def undone(
    runner: "NNXRunner",
    entry: EntryPoint,
    traced: Intermediates,
    found: Divergence,
    leaves: list[str],
    ledger: "Ledger",
) -> str:
    """Give the first mistake whose opposite makes everything agree up to and with the diverging module."""
    names = list(traced.values)
    until = {name: traced.values[name] for name in names[: names.index(found.module) + 1]}
    for cause, changed in mistakes(runner.weights, leaves, ledger):
        if first_divergence(until, runner.changed(changed).taps(entry.name, traced.inputs)) is None:
            return cause
    return ""


def mistakes(weights: "Weights", leaves: list[str], ledger: "Ledger") -> Iterator[tuple[str, "Weights"]]:
    """Give mistakes that converters make, with the weights as they would be without."""
    for leaf in leaves:
        for cause, mended in _moved(weights[leaf]):
            yield f"{leaf} is {cause}", {leaf: mended}
    for leaf in leaves:
        for other, array in weights.items():
            if other != leaf and array.shape == weights[leaf].shape and _alike(leaf, other):
                yield f"{leaf} is swapped with {other}", {leaf: array, other: weights[leaf]}
    for leaf in leaves:
        for heads, mended in _heads(ledger, leaf, weights[leaf]):
            yield f"{leaf} has its heads {heads[0]} and {heads[1]} swapped", {leaf: mended}


def _moved(array: Any) -> Iterator[tuple[str, Any]]:
    """Give what a kernel would be if it had not been transposed, or its heads read as (width, heads)."""
    shape = array.shape
    if array.ndim == 2 and shape[0] == shape[1]:
        yield "transposed", array.T
    if array.ndim == 3 and shape[0] == shape[1] * shape[2]:
        yield "transposed", array.reshape(shape[0], -1).T.reshape(shape)
        yield "split into (width, heads)", array.swapaxes(1, 2).reshape(shape)
    elif array.ndim == 3 and shape[2] == shape[0] * shape[1]:
        yield "transposed", array.reshape(-1, shape[2]).T.reshape(shape)
        yield "split into (width, heads)", array.swapaxes(0, 1).reshape(shape)


def _heads(ledger: "Ledger", leaf: str, array: Any) -> Iterator[tuple[tuple[int, int], Any]]:
    """Swap any two heads of a leaf that has them as an axis: that which its layout calls so."""
    axes = layout.parse(ledger.entries[ledger.leaves[leaf]].layout).target
    places = [i for i, group in enumerate(axes) for name in group if name.rpartition(".")[2] in HEADS]
    if not places:
        return
    for one, other in combinations(range(array.shape[places[0]]), 2):
        order = list(range(array.shape[places[0]]))
        order[one], order[other] = other, one
        yield (one, other), array.take(np.array(order), axis=places[0])

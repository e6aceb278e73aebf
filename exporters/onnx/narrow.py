"""Computing only the place that is asked for: a Gather moves up through what keeps places apart.

A text encoder that is read at its first token needs the last layer's output projection, feed-forward and norms
for that token alone, which is a twelfth of the work of a twelve-layer encoder saved almost whole. One that is read
where each text ends needs them for a token of each text.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..lowering.shapes import Shape, is_one
from .build import VIEWS, Builder
from .dims import groups
from .graph import Node, Value, needed


@dataclass(frozen=True)
class Points:
    """Of (rows, places, width) what lies at `indices`, (points, 2); kept as (points, 1, width)."""

    indices: Value


Place = tuple[int, int] | Points
"""An axis and the only index of it that is read, or the only points."""

FIRST = (1, 0)
"""Of the tokens the first."""


def narrow(
    build: Builder, outputs: Mapping[str, Value], taps: Mapping[str, Value]
) -> tuple[dict[str, Value], dict[str, Value]]:
    """Recompute `outputs` from nodes that compute no more than is read of them; follow those `taps` that are."""
    nodes = needed(list(outputs.values()))
    places = _places(build, nodes, outputs.values())
    new: dict[Value, Value] = {}
    for node in nodes:
        inputs = [new.get(value, value) for value in node.inputs]
        if node.outputs[0] in places:
            new[node.outputs[0]] = _narrowed(build, node, inputs, places)
        elif _asks(node) and node.inputs[0] in places:
            new[node.outputs[0]] = build.reshape(inputs[0], node.outputs[0].shape)
        elif inputs != list(node.inputs):
            results = [(value.shape, value.dtype) for value in node.outputs]
            new.update(
                zip(node.outputs, build.graph.emit(node.op, inputs, results, node.attributes, node.scope), strict=True)
            )
    narrowed = {name: new.get(value, value) for name, value in outputs.items()}
    computed = {value for node in needed(list(narrowed.values())) for value in node.outputs}

    def follow(value: Value) -> Value | None:
        """Give what computes a value, or its first place, in another view if need be."""
        rank = len(value.shape)
        for view in _views(value):
            place, result = places.get(view), new.get(view, view)
            if result in computed and (place is None or (rank > 2 and place == FIRST)):
                return result if _alike(value.shape, view.shape) else None
        return None

    return narrowed, {name: found for name, value in taps.items() if (found := follow(value))}


def _views(value: Value) -> Iterator[Value]:
    """Give a value, then what it is a view of."""
    yield value
    while node := value.made_by(*VIEWS):
        value = node.inputs[0]
        yield value


def _alike(one: Shape, other: Shape) -> bool:
    """Say whether rows and tokens are the first axes of both; what follows may be grouped otherwise."""
    return one[:2] == other[:2] if len(one) > 2 else one == other


def _places(build: Builder, nodes: Sequence[Node], outputs: Iterable[Value]) -> dict[Value, Place]:
    """Find the results of which every reader reads the same single place, readers before what they read."""
    uses = Counter(value for node in nodes for value in node.inputs)
    uses.update(outputs)
    asked: dict[Value, list[Place]] = {}
    places: dict[Value, Place] = {}
    for node in reversed(nodes):
        demands = _asks(node)
        value = node.outputs[0]
        wanted = asked.get(value, [])
        if len(wanted) == uses[value] and len(set(wanted)) == 1 and len(node.outputs) == 1:
            sources = _sources(build, node, wanted[0])
            if sources:
                places[value] = wanted[0]
                demands = [(node.inputs[i], place) for i, place in sources]
        for source, place in demands:
            asked.setdefault(source, []).append(place)
    return places


def _asks(node: Node) -> list[tuple[Value, Place]]:
    """Give what a Gather of one known place reads, or a GatherND of points; nothing for any other node."""
    if node.op == "GatherND" and len(node.inputs[0].shape) == 3 and node.inputs[1].shape[1:] == (2,):
        return [(node.inputs[0], Points(node.inputs[1]))]
    index = node.inputs[1].array if node.op == "Gather" else None
    if index is None or index.ndim or index < 0:
        return []
    return [(node.inputs[0], (node.attributes["axis"], int(index)))]


def _sources(build: Builder, node: Node, place: Place) -> list[tuple[int, Place]]:
    """Give the inputs and their places that one place of the result needs; [] if it needs more."""
    if isinstance(place, Points):
        return [(i, place) for i in _pointed(build, node)]
    axis, index = place
    return [(i, (a, index)) for i, a in _along(build, node, axis)]


def _pointed(build: Builder, node: Node) -> list[int]:
    """Give the inputs of which a point of the result needs the same point; [] if it needs more."""
    shape, shapes = node.outputs[0].shape, [value.shape for value in node.inputs]
    if node.op in build.pointwise:
        whole = [i for i, each in enumerate(shapes) if each[:2] == shape[:2] and len(each) == 3]
        rest = (each for i, each in enumerate(shapes) if i not in whole)
        return whole if all(len(each) < 2 or all(map(is_one, each[-3:-1])) for each in rest) else []
    if node.op == "LayerNormalization" or (node.op == "MatMul" and len(shapes[1]) == 2):
        return [0]
    return []


def _along(build: Builder, node: Node, axis: int) -> list[tuple[int, int]]:
    """Give the inputs and their axes of which one place of the result's `axis` needs one place; [] if it needs more."""
    shape, shapes = node.outputs[0].shape, [value.shape for value in node.inputs]
    last = len(shape) - 1
    match node.op:
        case op if op in build.pointwise:
            return _aligned(shapes, len(shape), axis)
        case "LayerNormalization" | "Softmax" if axis != last:
            return [(0, axis)]
        case "MatMul" if axis == last - 1:
            return [(0, len(shapes[0]) - 2)]
        case "Transpose":
            return [(0, node.attributes["perm"][axis])]
        case "Attention" if axis == 1:
            return [(0, 1), *((i, 2) for i in range(3, len(shapes)))]
        case op if op in VIEWS:
            return [(0, old[0]) for old, new in groups(shapes[0], shape) if new == [axis] and len(old) == 1]
    return []


def _aligned(shapes: Sequence[Shape], rank: int, axis: int) -> list[tuple[int, int]]:
    """Give the inputs' axes that broadcasting aligns with `axis` of a result of `rank` and does not repeat."""
    places = [(i, axis - (rank - len(shape))) for i, shape in enumerate(shapes)]
    return [(i, a) for i, a in places if a >= 0 and not is_one(shapes[i][a])]


def _narrowed(build: Builder, node: Node, inputs: list[Value], places: Mapping[Value, Place]) -> Value:
    """Compute one place of a node's result, kept as an axis of size one."""
    value = node.outputs[0]
    place = places[value]
    for i, source in _sources(build, node, place):
        if node.inputs[i] not in places:
            inputs[i] = _taken(build, inputs[i], source)
    shape = _shape(value, place)
    if node.op in VIEWS:
        return build.reshape(inputs[0], shape)
    return build.emit(node.op, *inputs, shape=shape, dtype=value.dtype, scope=node.scope, **node.attributes)


def _shape(value: Value, place: Place) -> Shape:
    """Give the shape of a place of a value."""
    if isinstance(place, Points):
        return (place.indices.shape[0], 1, value.shape[2])
    return tuple(1 if i == place[0] else dim for i, dim in enumerate(value.shape))


def _taken(build: Builder, value: Value, place: Place) -> Value:
    """Take a place of a value that is computed whole."""
    if isinstance(place, Points):
        shape = (place.indices.shape[0], value.shape[2])
        taken = build.emit("GatherND", value, place.indices, shape=shape, dtype=value.dtype)
        return build.reshape(taken, _shape(value, place))
    axis, index = place
    start = [index if i == axis else 0 for i in range(len(value.shape))]
    stop = [index + 1 if i == axis else dim for i, dim in enumerate(value.shape)]
    return build.slice(value, start, stop)

"""Computing only the place that is asked for: a Gather moves up through what keeps places apart.

A text encoder that is read at its first token needs the last layer's output projection, feed-forward and norms
for that token alone, which is a twelfth of the work of a twelve-layer encoder saved almost whole.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..lowering.shapes import Shape, is_one
from .build import VIEWS, Builder
from .dims import groups
from .graph import Node, Value, needed

Place = tuple[int, int]
"""An axis and the only index of it that is read."""

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
            axis, index = wanted[0]
            sources = _sources(build, node, axis)
            if sources:
                places[value] = axis, index
                demands = [(node.inputs[i], (a, index)) for i, a in sources]
        for source, place in demands:
            asked.setdefault(source, []).append(place)
    return places


def _asks(node: Node) -> list[tuple[Value, Place]]:
    """Give what a Gather of one known place reads; nothing for any other node."""
    index = node.inputs[1].array if node.op == "Gather" else None
    if index is None or index.ndim or index < 0:
        return []
    return [(node.inputs[0], (node.attributes["axis"], int(index)))]


def _sources(build: Builder, node: Node, axis: int) -> list[Place]:
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
        case "Attention" if axis == last - 1:
            return [(0, axis), *((i, 2) for i in range(3, len(shapes)))]
        case op if op in VIEWS:
            return [(0, old[0]) for old, new in groups(shapes[0], shape) if new == [axis] and len(old) == 1]
    return []


def _aligned(shapes: Sequence[Shape], rank: int, axis: int) -> list[Place]:
    """Give the inputs' axes that broadcasting aligns with `axis` of a result of `rank` and does not repeat."""
    places = [(i, axis - (rank - len(shape))) for i, shape in enumerate(shapes)]
    return [(i, a) for i, a in places if a >= 0 and not is_one(shapes[i][a])]


def _narrowed(build: Builder, node: Node, inputs: list[Value], places: Mapping[Value, Place]) -> Value:
    """Compute one place of a node's result, kept as an axis of size one."""
    value = node.outputs[0]
    axis, index = places[value]
    for i, a in _sources(build, node, axis):
        if node.inputs[i] not in places:
            inputs[i] = _slice(build, inputs[i], a, index)
    shape = tuple(1 if i == axis else dim for i, dim in enumerate(value.shape))
    if node.op in VIEWS:
        return build.reshape(inputs[0], shape)
    return build.emit(node.op, *inputs, shape=shape, dtype=value.dtype, scope=node.scope, **node.attributes)


def _slice(build: Builder, value: Value, axis: int, index: int) -> Value:
    start = [index if i == axis else 0 for i in range(len(value.shape))]
    stop = [index + 1 if i == axis else dim for i, dim in enumerate(value.shape)]
    return build.slice(value, start, stop)

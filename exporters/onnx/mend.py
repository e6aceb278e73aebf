"""Mistakes that exported graphs have been seen with, undone one at a time in a part of a program."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import combinations, pairwise, permutations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Shapes = Mapping[str, tuple[int, ...]]
Mended = tuple[str, ModelProto]
"""The mistake, and the program without it."""

SIBLINGS = (
    ("Add", "Sub"),
    ("Mul", "Div"),
    ("Max", "Min"),
    ("ReduceL1", "ReduceL2"),
    ("ReduceSum", "ReduceMean", "ReduceMax"),
    ("Sigmoid", "Tanh", "Erf"),
    ("Exp", "Softplus"),
    ("Sqrt", "Reciprocal"),
    ("Less", "LessOrEqual"),
    ("Greater", "GreaterOrEqual"),
    ("Gelu", "Relu", "Mish"),
)
EPSILONS = (1e-12, 1e-5, 1e-6, 1e-7, 1e-9, 1e-3, 0.0)
"""What norms are commonly given."""

WHOLE = 16
"""Greatest whole number that an attribute is tried with."""


def mistakes(part: ModelProto, shapes: Shapes, others: Mapping[str, TensorProto]) -> Iterator[Mended]:
    """Give mistakes with the program as it would be without.

    Args:
        part: as it computes now.
        shapes: of the model's parameters, by name.
        others: all initializers of the program, to be taken in another's place.
    """
    for index, node in enumerate(part.graph.node):
        yield from _operators(part, index, node)
        yield from _attributes(part, index, node)
        yield from _operands(part, index, node)
    for index, node in enumerate(part.graph.node):
        for slot, name in enumerate(node.input):
            yield from _weights(part, index, slot, name, shapes, others)
    for index, node in enumerate(part.graph.node):
        yield from _elsewhere(part, index, node)


def _changed(part: ModelProto, index: int, change: Callable[[NodeProto], None]) -> ModelProto:
    copied = ModelProto.FromString(part.SerializeToString())
    change(copied.graph.node[index])
    return copied


def _operators(part: ModelProto, index: int, node: NodeProto) -> Iterator[Mended]:
    for group in SIBLINGS:
        for other in group if node.op_type in group else ():
            if other != node.op_type:
                changed = _changed(part, index, partial(_set_operator, other))
                yield f"{node.name} is {node.op_type}, not {other}", changed
    if node.op_type in ("Mish", "Relu"):
        yield f"{node.name} is {node.op_type}, not Gelu by tanh", _changed(part, index, _set_gelu_by_tanh)
    if len(node.output) == 1 and any(node.input):
        yield f"{node.name} is one too many", _changed(part, index, _skip)


def _skip(node: NodeProto) -> None:
    """Let a node give what it is given first."""
    first = node.input[0]
    node.CopyFrom(helper.make_node("Identity", [first], list(node.output), node.name))


def _attributes(part: ModelProto, index: int, node: NodeProto) -> Iterator[Mended]:
    known = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    for name, value in known.items():
        for other in _values(name, value):
            changed = _changed(part, index, partial(_set, name, other))
            yield f"{node.name}: {name} is {_text(value)}, not {_text(other)}", changed
    if node.op_type == "Attention":
        yield f"{node.name}: wrong scale", _changed(part, index, partial(_set, "scale", None))
    if node.op_type == "Gelu":
        other = "none" if known.get("approximate") == b"tanh" else "tanh"
        yield (
            f"{node.name} is not approximated by {other}",
            _changed(part, index, partial(_set, "approximate", other)),
        )


def _values(name: str, value: object) -> Iterator[object]:
    """Give what an attribute could have been."""
    if isinstance(value, float):
        yield from (e for e in EPSILONS if np.float32(e) != np.float32(value))
    elif name.endswith("num_heads") and isinstance(value, int):
        yield from (n for n in range(1, 4 * WHOLE) if n != value)
    elif isinstance(value, int):
        yield from (n for n in range(-2, WHOLE) if n != value)
    elif isinstance(value, list) and 1 < len(value) < 5 and all(isinstance(v, int) for v in value):
        yield from (list(order) for order in permutations(value) if list(order) != value)


def _set_operator(operator: str, node: NodeProto) -> None:
    node.op_type = operator


def _set_gelu_by_tanh(node: NodeProto) -> None:
    node.op_type = "Gelu"
    _set("approximate", "tanh", node)


def _read(slot: int, name: str, node: NodeProto) -> None:
    node.input[slot] = name


def _set(name: str, value: object, node: NodeProto) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    if value is not None:
        node.attribute.append(helper.make_attribute(name, value))


def _operands(part: ModelProto, index: int, node: NodeProto) -> Iterator[Mended]:
    for one, other in pairwise(range(len(node.input))):
        changed = _changed(part, index, partial(_swap, one, other))
        yield f"{node.name}: operands {one} and {other} are swapped", changed


def _swap(one: int, other: int, node: NodeProto) -> None:
    node.input[one], node.input[other] = node.input[other], node.input[one]


def _weights(
    part: ModelProto, index: int, slot: int, name: str, shapes: Shapes, others: Mapping[str, TensorProto]
) -> Iterator[Mended]:
    """Read a parameter otherwise: negated, transposed, its heads in another order, or another one in its place."""
    leaf, tensor = name.partition(" ")[0], others.get(name)
    if tensor is None or leaf not in shapes:
        return
    dims = list(tensor.dims)

    def through(*nodes: NodeProto, constants: Mapping[str, np.ndarray] | None = None) -> ModelProto:
        """Let the node read a parameter by way of other nodes, the last of which gives "mended"."""
        copied = _changed(part, index, partial(_read, slot, "mended"))
        behind = list(copied.graph.node)
        del copied.graph.node[:]
        copied.graph.node.extend([*nodes, *behind])
        copied.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in (constants or {}).items())
        return copied

    yield f"{leaf} is negated", through(helper.make_node("Neg", [name], ["mended"]))
    if len(dims) == 2 and dims[0] == dims[1]:
        yield f"{leaf} is transposed", through(helper.make_node("Transpose", [name], ["mended"], perm=[1, 0]))
    for other, same in others.items():
        if other != name and list(same.dims) == dims and _near(leaf, other):
            copied = _changed(part, index, partial(_read, slot, other))
            if other not in {t.name for t in copied.graph.initializer}:
                copied.graph.initializer.append(same)
            yield f"{leaf} stands in place of {other}", copied
    whole = shapes[leaf]
    for axis in range(len(whole) - 1 if len(whole) in (2, 3) else 0):
        if len(whole) == 2 and dims == list(whole):
            continue  # a matrix, not a bias of heads
        for one, two in combinations(range(min(whole[axis], WHOLE)), 2):
            order = np.arange(whole[axis])
            order[[one, two]] = two, one
            nodes = (
                helper.make_node("Reshape", [name, "whole"], ["heads"]),
                helper.make_node("Gather", ["heads", "order"], ["ordered"], axis=axis),
                helper.make_node("Reshape", ["ordered", "dims"], ["mended"]),
            )
            constants = {"whole": np.array(whole), "order": order, "dims": np.array(dims)}
            yield f"{leaf} has its heads {one} and {two} swapped", through(*nodes, constants=constants)


def _elsewhere(part: ModelProto, index: int, node: NodeProto) -> Iterator[Mended]:
    """Read what an earlier module gives in place of another."""
    given = {value.name: value.type.tensor_type for value in part.graph.input}
    for slot, name in enumerate(node.input):
        for other, kind in given.items() if name in given else ():
            if other != name and kind == given[name]:
                yield f"{node.name} reads {name}, not {other}", _changed(part, index, partial(_read, slot, other))


def _near(leaf: str, other: str) -> bool:
    """Say whether two parameters have the same role: the same last word, and all but two words in common."""
    one, two = leaf.split("."), other.partition(" ")[0].split(".")
    return len(one) == len(two) and one[-1] == two[-1] and sum(a != b for a, b in zip(one, two, strict=True)) <= 2


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

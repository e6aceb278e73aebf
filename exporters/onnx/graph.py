"""
The graph under construction: values, the nodes that compute them, and the dims a value has.

Equal nodes are one node, equal constants are one constant, and a weight is one initializer per dims
it is declared with. Nothing has a name yet: names are given at the end, to what is still needed.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ..lowering.shapes import Shape

T = TypeVar("T")

Attribute: TypeAlias = Any
"""An int, a float, a str, or a tuple of ints."""


@dataclass(frozen=True)
class Input:
    """An input of the program."""

    name: str


@dataclass(frozen=True)
class Weight:
    """A leaf of the model, or a form of one that the weights file holds, its bytes read with the dims of the value."""

    leaf: str


@dataclass(frozen=True, eq=False)
class Constant:
    """Numbers that the trace made."""

    array: np.ndarray


@dataclass(eq=False)
class Node:
    """An operator at work."""

    op: str
    inputs: tuple["Value", ...]
    attributes: dict[str, Attribute]
    scope: str
    outputs: tuple["Value", ...] = ()


@dataclass(frozen=True, eq=False)
class Value:
    """An edge: where it comes from, its shape and type, and the module of the model it belongs to."""

    source: Input | Weight | Constant | Node
    shape: Shape
    dtype: np.dtype
    scope: str = ""

    @property
    def array(self) -> np.ndarray | None:
        """The numbers, if they are known now."""
        return self.source.array if isinstance(self.source, Constant) else None

    @property
    def fixed(self) -> bool:
        """Whether it is the same in every run, so that declaring other dims costs nothing."""
        return isinstance(self.source, (Constant, Weight))

    def made_by(self, *ops: str) -> Node | None:
        """Give the node that computes it, if that is one of `ops`."""
        return self.source if isinstance(self.source, Node) and self.source.op in ops else None


class Graph:
    """Values and nodes, in the order in which they were first wanted."""

    def __init__(self) -> None:
        self.inputs: dict[str, Value] = {}
        self.taps: dict[str, Value] = {}
        """Module of the model -> what it gives, whole or at the first place of its second axis."""
        self._known: dict[object, Any] = {}

    def input(self, name: str, shape: Shape, dtype: np.dtype) -> Value:
        """Add an input."""
        self.inputs[name] = Value(Input(name), shape, dtype, name)
        return self.inputs[name]

    def weight(self, leaf: str, shape: Shape, dtype: np.dtype) -> Value:
        """Give a leaf of the model, declared with `shape`."""
        value = Value(Weight(leaf), shape, dtype, leaf.rpartition(".")[0])
        return self._share(("weight", leaf, shape, dtype.name), value)

    def constant(self, numbers: ArrayLike, dtype: DTypeLike | None = None) -> Value:
        """Give a constant."""
        array = np.asarray(numbers, dtype)
        return self._share(
            ("constant", array.dtype.name, array.shape, array.tobytes()),
            Value(Constant(array), array.shape, array.dtype),
        )

    def emit(
        self,
        op: str,
        inputs: Sequence[Value],
        results: Sequence[tuple[Shape, DTypeLike]],
        attributes: Mapping[str, Attribute] | None = None,
        scope: str | None = None,
    ) -> tuple[Value, ...]:
        """Give the results of an operator, computed by the node that already does it if there is one."""
        attributes = dict(sorted((attributes or {}).items()))
        key = (op, tuple(id(value) for value in inputs), tuple(attributes.items()), len(results))
        node = Node(op, tuple(inputs), attributes, _scope(inputs) if scope is None else scope)
        node.outputs = tuple(Value(node, shape, np.dtype(dtype), node.scope) for shape, dtype in results)
        return self._share(key, node).outputs

    def _share(self, key: object, new: T) -> T:
        """Give what is already known by `key`, else `new`."""
        return self._known.setdefault(key, new)


def _scope(inputs: Sequence[Value]) -> str:
    """Name the module that a node belongs to: that of its weights, else that of its first computed input."""
    given = [value for value in inputs if value.scope]
    weights = [value.scope for value in given if isinstance(value.source, Weight)]
    computed = [value.scope for value in given if not isinstance(value.source, Weight)]
    return (*weights, *computed, "")[0]


def common_scope(values: Sequence[Value]) -> str:
    """Name the module that holds the modules of all `values`."""
    parts = zip(*(value.scope.split(".") for value in values), strict=False)
    return ".".join(part[0] for part in itertools.takewhile(lambda part: len(set(part)) == 1, parts))


def needed(outputs: Sequence[Value]) -> list[Node]:
    """List the nodes that `outputs` depend on, each after its inputs."""
    order: dict[Node, None] = {}
    stack: list[tuple[Node, bool]] = [(v.source, False) for v in reversed(outputs) if isinstance(v.source, Node)]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.setdefault(node)
        elif node not in order:
            stack.append((node, True))
            stack += [(v.source, False) for v in reversed(node.inputs) if isinstance(v.source, Node)]
    return list(order)

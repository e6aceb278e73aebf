"""
Sizes: what is known of them now, and how the rest is computed from the inputs, each once.

A size that is only known at run time is a tensor of shape (1,), so that sizes concatenate to shapes.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from ..lowering.shapes import Dim, Shape, is_one, solve, source_of
from .graph import Graph, Value

INT64 = np.dtype(np.int64)

OPERATORS = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "pow": "Pow",
    "neg": "Neg",
    "max": "Max",
    "min": "Min",
    "mod": "Mod",
}


def elements(shape: Iterable[Dim]) -> Dim:
    """Count the elements of a shape."""
    return math.prod(shape)


def regroup(shape: Shape, old: Shape, new: Shape) -> Shape | None:
    """
    Give what `shape`, which broadcasts to `old`, must be reshaped to when `old` is reshaped to `new`.

    None when there is no such shape: it is expanded along a part of the axes that `new` joins or splits.
    """
    shape = (1,) * (len(old) - len(shape)) + tuple(shape)
    result: list[Dim] = []
    for of_old, of_new in groups(old, new):
        part = [shape[i] for i in of_old]
        if all(map(is_one, part)):
            result += [1] * len(of_new)
        elif part == [old[i] for i in of_old]:
            result += [new[i] for i in of_new]
        else:
            return None
    return tuple(result)


def groups(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """Match runs of axes of two shapes with as many elements: the smallest runs that have equal products."""
    result: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = _run(old, i, new, j)
        result.append((list(range(i, left)), list(range(j, right))))
        i, j = left, right
    return result


def _run(old: Shape, i: int, new: Shape, j: int) -> tuple[int, int]:
    """Find the end of the runs that start at `i` and `j`."""
    for total in range(1, len(old) - i + len(new) - j + 1):
        for left in range(min(i + total, len(old)), i - 1, -1):
            right = j + total - (left - i)
            if j <= right <= len(new) and elements(old[i:left]) == elements(new[j:right]):
                return left, right
    return len(old), len(new)


class Sizes:
    """
    Computes sizes at run time.

    Args:
        graph: receives the nodes. Its inputs define the dynamic axes.
    """

    def __init__(self, graph: Graph):
        self._graph = graph

    def vector(self, dims: Sequence[Dim]) -> Value:
        """Give `dims` as one int64 vector: a constant where possible."""
        pieces: list[Value] = []
        start = 0
        for i, dim in enumerate(dims):
            if isinstance(dim, int):
                continue
            pieces += [*self._numbers(dims[start:i]), self.size(dim)]
            start = i + 1
        pieces += self._numbers(dims[start:])
        if not pieces:
            return self._graph.constant([], INT64)
        if len(pieces) == 1:
            return pieces[0]
        return self._graph.emit("Concat", pieces, [((len(dims),), INT64)], {"axis": 0}, scope="")[0]

    def _numbers(self, dims: Sequence[Dim]) -> list[Value]:
        return [self._graph.constant(dims, INT64)] if dims else []

    def size(self, dim: Dim) -> Value:
        """Give one size as a tensor of shape (1,)."""
        return solve(dim, lambda number: self._graph.constant([number], INT64), self._axis, self._apply)

    def _apply(self, op: str, *values: Value) -> Value:
        """Compute; ONNX's division rounds towards zero, and the remainder of Mod is never negative."""
        if op == "floordiv":
            a, b = values
            return self._node("Div", self._node("Sub", a, self._node("Mod", a, b)), b)
        return self._node(OPERATORS[op], *values)

    def _node(self, op: str, *values: Value) -> Value:
        return self._graph.emit(op, values, [((1,), INT64)], scope="")[0]

    def _axis(self, name: str) -> Value:
        values = list(self._graph.inputs.values())
        which, i, rest = source_of(name, [value.shape for value in values])
        attributes = {"start": i, "end": i + 1}
        size = self._graph.emit("Shape", [values[which]], [((1,), INT64)], attributes, scope=name)[0]
        return self._node("Sub", size, self.size(rest)) if rest else size

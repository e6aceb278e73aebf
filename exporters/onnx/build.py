"""
ONNX operators with their shapes, none of which is ever emitted to do nothing.

Reshapes are free to move: one undoes another, one of a weight only changes the dims it is declared
with, and elementwise operators are computed before a reshape rather than after it, so that the
reshape meets its inverse.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ..lowering.shapes import Dim, Shape, broadcast, is_one, is_zero, static
from .dims import INT64, Sizes, regroup
from .graph import Attribute, Graph, Value, Weight

BOOL = np.dtype(bool)
END = np.iinfo(np.int64).max
VIEWS = ("Reshape", "Squeeze", "Unsqueeze")


class Builder:
    """
    Adds operators to a graph.

    Args:
        graph: receives the nodes.
        opset: the version of the operators.
    """

    def __init__(self, graph: Graph, opset: int):
        self.graph = graph
        self.opset = opset
        self.sizes = Sizes(graph)
        self.pointwise = set[str]()
        """The operators that were applied to each element on its own."""

    def emit(
        self,
        op: str,
        *inputs: Value,
        shape: Sequence[Dim],
        dtype: DTypeLike,
        scope: str | None = None,
        **attrs: Attribute,
    ) -> Value:
        """Emit any operator with one result."""
        return self.graph.emit(op, inputs, [(tuple(shape), np.dtype(dtype))], attrs, scope)[0]

    def constant(self, numbers: ArrayLike, dtype: DTypeLike | None = None) -> Value:
        """Give a constant."""
        return self.graph.constant(numbers, dtype)

    def count(self, size: Dim) -> Value:
        """Give 0, 1, … size - 1 as int64."""
        if isinstance(size, int):
            return self.constant(np.arange(size, dtype=INT64))
        stop = self.reshape(self.sizes.size(size), ())
        return self.emit("Range", self.constant(0, INT64), stop, self.constant(1, INT64), shape=(size,), dtype=INT64)

    def elementwise(self, op: str, *inputs: Value, dtype: DTypeLike | None = None, **attrs: Attribute) -> Value:
        """Apply an operator to each element of inputs that broadcast together."""
        self.pointwise.add(op)
        dtype = inputs[0].dtype if dtype is None else dtype
        shape = broadcast([value.shape for value in inputs])
        earlier = self._before_reshape(inputs, shape)
        if earlier is None:
            return self.emit(op, *inputs, shape=shape, dtype=dtype, **attrs)
        return self.reshape(self.elementwise(op, *earlier, dtype=dtype, **attrs), shape)

    def _before_reshape(self, inputs: Sequence[Value], shape: Shape) -> list[Value] | None:
        """Give the inputs as they were before a reshape that all have in common; None if they have none."""
        views = [value.made_by(*VIEWS) for value in inputs if not value.fixed and value.shape == shape]
        sources = {view.inputs[0].shape for view in views if view}
        if len(sources) != 1 or None in views or len(views) < sum(not value.fixed for value in inputs):
            return None
        (earlier,) = sources
        dims = [regroup(value.shape, shape, earlier) if value.fixed else earlier for value in inputs]
        pairs = [(value, dim) for value, dim in zip(inputs, dims, strict=True) if dim is not None]
        if len(pairs) < len(inputs):
            return None
        return [self.reshape(value, _trimmed(shape) if value.fixed else shape) for value, shape in pairs]

    def cast(self, value: Value, dtype: DTypeLike) -> Value:
        """Convert to another type."""
        dtype = np.dtype(dtype)
        if value.dtype == dtype:
            return value
        if value.array is not None:
            return self.constant(value.array.astype(dtype))
        return self.elementwise("Cast", value, dtype=dtype, to=dtype.name)

    def reshape(self, value: Value, shape: Sequence[Dim]) -> Value:
        """Give the same elements another shape."""
        shape = tuple(shape)
        if value.shape == shape:
            return value
        if value.array is not None:
            return self.constant(value.array.reshape(shape))
        if isinstance(value.source, Weight):
            return self.graph.weight(value.source.leaf, shape, value.dtype)
        while node := value.made_by(*VIEWS):
            value = node.inputs[0]
            if value.shape == shape:
                return value
        return self._view(value, shape)

    def _view(self, value: Value, shape: Shape) -> Value:
        if [d for d in shape if not is_one(d)] != [d for d in value.shape if not is_one(d)]:
            operand, attrs = self._target(value.shape, shape)
            return self.emit("Reshape", value, operand, shape=shape, dtype=value.dtype, **attrs)
        added, dropped = _ones(value.shape, shape)
        if added and dropped:
            value = self._view(value, tuple(d for i, d in enumerate(value.shape) if i not in dropped))
            dropped = ()
        op, axes = ("Squeeze", dropped) if dropped else ("Unsqueeze", added)
        return self.emit(op, value, self.constant(axes, INT64), shape=shape, dtype=value.dtype)

    def _target(self, old: Shape, new: Shape) -> tuple[Value, dict[str, Attribute]]:
        """Write a shape for Reshape: 0 keeps a dimension, -1 is what remains."""
        if any(isinstance(dim, int) and dim == 0 for dim in new):
            return self.sizes.vector(new), {"allowzero": 1}
        kept = [i < len(old) and not isinstance(dim, int) and old[i] == dim for i, dim in enumerate(new)]
        unknown = [i for i, dim in enumerate(new) if not isinstance(dim, int) and not kept[i]]
        rest = unknown[-1] if unknown else None
        dims = [0 if kept[i] else -1 if i == rest else dim for i, dim in enumerate(new)]
        return self.sizes.vector(dims), {}

    def transpose(self, value: Value, axes: Sequence[int]) -> Value:
        """Permute the axes."""
        shape = tuple(value.shape[axis] for axis in axes)
        if [a for a in axes if not is_one(value.shape[a])] == [
            a for a in range(len(axes)) if not is_one(value.shape[a])
        ]:
            return self.reshape(value, shape)
        if value.array is not None:
            return self.constant(np.ascontiguousarray(value.array.transpose(axes)))
        if node := value.made_by("Transpose"):
            return self.transpose(node.inputs[0], [node.attributes["perm"][axis] for axis in axes])
        return self.emit("Transpose", value, shape=shape, dtype=value.dtype, perm=tuple(axes))

    def expand(self, value: Value, shape: Sequence[Dim]) -> Value:
        """Repeat along the axes of size one, so that the value really has `shape`."""
        shape = tuple(shape)
        if value.shape == shape:
            return value
        aligned = (1,) * (len(shape) - len(value.shape)) + value.shape
        if aligned == shape:
            return self.reshape(value, shape)
        if value.array is not None and static(shape):
            return self.constant(np.ascontiguousarray(np.broadcast_to(value.array, shape)))
        target = [1 if old == new else new for old, new in zip(aligned, shape, strict=True)]
        return self.emit("Expand", value, self.sizes.vector(target), shape=shape, dtype=value.dtype)

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        """Join along an axis."""
        if len(values) == 1:
            return values[0]
        shape = list(values[0].shape)
        shape[axis] = sum(value.shape[axis] for value in values)
        return self.emit("Concat", *values, shape=shape, dtype=values[0].dtype, axis=axis)

    def slice(
        self, value: Value, start: Sequence[Dim], stop: Sequence[Dim], step: Sequence[int] | None = None
    ) -> Value:
        """Take a range of every axis."""
        step = step or [1] * len(start)
        axes = [i for i, dim in enumerate(value.shape) if not (is_zero(start[i]) and stop[i] == dim and step[i] == 1)]
        if not axes:
            return value
        shape = list(value.shape)
        for i in axes:
            shape[i] = (stop[i] - start[i] + step[i] - 1) // step[i]
        ends = [END if stop[i] == value.shape[i] else stop[i] for i in axes]
        operands = [self.sizes.vector([start[i] for i in axes]), self.sizes.vector(ends), self.constant(axes, INT64)]
        if any(step[i] != 1 for i in axes):
            operands.append(self.constant([step[i] for i in axes], INT64))
        return self.emit("Slice", value, *operands, shape=shape, dtype=value.dtype)

    def matmul(self, left: Value, right: Value) -> Value:
        """Multiply matrices, stacked along the leading axes."""
        shape = (*broadcast([left.shape[:-2], right.shape[:-2]]), left.shape[-2], right.shape[-1])
        return self.emit("MatMul", left, right, shape=shape, dtype=left.dtype)

    def reduce(self, op: str, value: Value, axes: Sequence[int], keepdims: bool = False) -> Value:
        """Reduce axes. The reduced axes are kept with size one, and dropped by a view that may meet its inverse."""
        if not axes:
            return value
        kept = tuple(1 if i in axes else dim for i, dim in enumerate(value.shape))
        if op == "ReduceSum" or self.opset >= 18:
            result = self.emit(op, value, self.constant(axes, INT64), shape=kept, dtype=value.dtype)
        else:
            result = self.emit(op, value, shape=kept, dtype=value.dtype, axes=tuple(axes))
        return result if keepdims else self.reshape(result, [d for i, d in enumerate(kept) if i not in axes])


def _trimmed(shape: Shape) -> Shape:
    """Drop leading ones: broadcasting adds them back."""
    first = next((i for i, dim in enumerate(shape) if not is_one(dim)), len(shape))
    return tuple(shape[first:])


def _ones(old: Shape, new: Shape) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Find the axes of size one that `new` adds (as axes of new) and drops (as axes of old)."""
    added: list[int] = []
    dropped: list[int] = []
    i = j = 0
    while i < len(old) or j < len(new):
        if i < len(old) and j < len(new) and is_one(old[i]) == is_one(new[j]):
            i, j = i + 1, j + 1
        elif j < len(new) and is_one(new[j]):
            added.append(j)
            j += 1
        else:
            dropped.append(i)
            i += 1
    return tuple(added), tuple(dropped)

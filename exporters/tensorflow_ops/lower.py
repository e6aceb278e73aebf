"""Lowering to TensorFlow: the walk over a jaxpr, inside the trace of a `tf.function`.

Operators are named after the module of the model that they belong to.
"""

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from jax.extend.core import JaxprEqn
from numpy.typing import ArrayLike, DTypeLike

from ..lowering.shapes import Dim, Shape, broadcast, is_one, is_zero, solve, source_of, static
from ..lowering.table import Entry
from ..lowering.trace import Program
from ..lowering.walk import Walk
from .registry import TABLE

BOOL = np.dtype(bool)
INT32 = np.dtype(np.int32)

SIZES = {
    "add": "AddV2", "sub": "Sub", "mul": "Mul", "pow": "Pow", "neg": "Neg", "max": "Maximum", "min": "Minimum",
    "floordiv": "FloorDiv", "mod": "FloorMod",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor with its symbolic shape and the module that it belongs to, or numbers that are known now."""

    shape: Shape
    dtype: np.dtype
    tensor: Any = None
    array: np.ndarray | None = None
    scope: str = ""
    weight: bool = False


def scoped(leaf: str, make: Callable[[Any], Any], weight: Any) -> Any:
    """Make the tensor of a weight, as an operator of its module."""
    module = leaf.rpartition(".")[0]
    with tf.name_scope(f"{module}/") if module else nullcontext():
        return make(weight)


def lower(program: Program, weights: Mapping[str, Any], inputs: Sequence[Any]) -> dict[str, Any]:
    """Lower a traced program to operators on the tensors of its weights and inputs; give its outputs by name."""
    given = [
        Value(spec.shape, np.dtype(spec.dtype), weights[name], scope=name.rpartition(".")[0], weight=True)
        for name, spec in program.weights.items()
    ]
    given += [
        Value(spec.shape, np.dtype(spec.dtype), tensor, scope=name)
        for (name, spec), tensor in zip(program.inputs.items(), inputs, strict=True)
    ]
    walk = Lowering(given[len(program.weights) :])
    walk.run(program.closed, given)
    outputs = map(walk.full, program.closed.jaxpr.outvars[: len(program.outputs)])  # taps come after them
    return {name: tf.identity(walk.tensor(value)) for name, value in zip(program.outputs, outputs, strict=True)}


class Lowering(Walk[Value]):
    """
    What the rules in `operators` work with.

    Args:
        inputs: define the dynamic axes.
    """

    def __init__(self, inputs: Sequence[Value]):
        super().__init__(TABLE)
        self._inputs = inputs
        self._scope = ""
        self._made: dict[object, Any] = {}
        """What is made once in each graph: constants and sizes. A loop's body is a graph of its own."""

    def has(self, entry: Entry) -> bool:
        """TensorFlow's operators have no versions to choose from."""
        return True

    def apply(self, entry: Entry, eqn: JaxprEqn) -> Any:
        """Lower an equation, its operators named after its module."""
        before, self._scope = self._scope, self._module([self.index(atom) for atom in eqn.invars]) or self._scope
        with tf.name_scope(f"{self._scope}/") if self._scope else nullcontext():
            results = entry.rule(self, eqn)
        self._scope = before
        return results

    def _module(self, values: Sequence[Value]) -> str:
        """Name the module of an equation: that of its weights, else the one that its operands have in common."""
        weights = [value.scope for value in values if value.weight and value.scope]
        if weights:
            return weights[0]
        scopes = [value.scope.split(".") for value in values if value.scope]
        if len(scopes) < 3:
            return ".".join(scopes[0]) if scopes else ""
        alike = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*scopes, strict=False))
        return ".".join(parts[0] for parts in alike)

    def emit(self, op: str, *inputs: Value | Sequence[Value], shape: Sequence[Dim], **attributes: Any) -> Value:
        """Emit any operator with one result, its inputs in the order of its definition."""
        return self._value(self.raw(op, *inputs, **attributes), shape)

    def raw(self, op: str, *inputs: Value | Sequence[Value], **attributes: Any) -> Any:
        """Emit any operator; give what TensorFlow gives."""
        function = getattr(tf.raw_ops, op)
        tensors = [self.tensor(v) if isinstance(v, Value) else [self.tensor(one) for one in v] for v in inputs]
        return function(**dict(zip(inspect.signature(function).parameters, tensors, strict=False)), **attributes)

    def _value(self, tensor: Any, shape: Sequence[Dim]) -> Value:
        return Value(tuple(shape), np.dtype(tensor.dtype.as_numpy_dtype), tensor, scope=self._scope)

    def values(self, tensors: Sequence[Any], shapes: Sequence[Shape]) -> list[Value]:
        """Give the results of an operator that has several."""
        return [self._value(tensor, shape) for tensor, shape in zip(tensors, shapes, strict=True)]

    def tensor(self, value: Value) -> Any:
        """Give a value as a tensor of the graph under construction."""
        if value.array is None:
            return value.tensor
        key = (value.array.dtype.name, value.array.shape, value.array.tobytes())
        return self._once(key, lambda: tf.constant(value.array))

    def _once(self, key: object, make: Any) -> Any:
        place = (id(tf.compat.v1.get_default_graph()), key)
        if place not in self._made:
            self._made[place] = make()
        return self._made[place]

    def constant(self, numbers: ArrayLike, dtype: DTypeLike | None = None) -> Value:
        """Give a constant."""
        array = np.asarray(numbers, dtype)
        return Value(array.shape, array.dtype, array=array)

    def elementwise(self, op: str, *inputs: Value) -> Value:
        """Apply an operator to each element of inputs that broadcast together."""
        return self.emit(op, *inputs, shape=broadcast([value.shape for value in inputs]))

    def cast(self, value: Value, dtype: DTypeLike) -> Value:
        """Convert to another type."""
        dtype = np.dtype(dtype)
        if value.dtype == dtype:
            return value
        if value.array is not None:
            return self.constant(value.array.astype(dtype))
        return self.emit("Cast", value, shape=value.shape, DstT=tf.as_dtype(dtype))

    def size(self, dim: Dim) -> Any:
        """Give a size as an int32 tensor of shape ()."""

        def axis(name: str) -> Any:
            which, place, rest = source_of(name, [value.shape for value in self._inputs])
            size = tf.shape(self._inputs[which].tensor)[place]
            return size - solve(rest, tf.constant, axis, apply) if rest else size

        def apply(op: str, *sizes: Any) -> Any:
            function = getattr(tf.raw_ops, SIZES[op])
            return function(**dict(zip(inspect.signature(function).parameters, sizes, strict=False)))

        def make() -> Any:
            with tf.name_scope("sizes/"):
                return solve(dim, tf.constant, axis, apply)

        return self._once(str(dim), make)

    def vector(self, dims: Sequence[Dim]) -> Value:
        """Give sizes as one int32 vector: a constant where possible."""
        if static(dims):
            return self.constant(np.array(dims, INT32))

        def make() -> Any:
            with tf.name_scope("sizes/"):
                return tf.stack([dim if isinstance(dim, int) else self.size(dim) for dim in dims])

        return Value((len(dims),), INT32, self._once(str(tuple(dims)), make))

    def count(self, size: Dim) -> Value:
        """Give 0, 1, … size - 1 as int32."""
        if isinstance(size, int):
            return self.constant(np.arange(size, dtype=INT32))
        stop = Value((), INT32, self.size(size))
        return self.emit("Range", self.constant(0, INT32), stop, self.constant(1, INT32), shape=(size,))

    def reshape(self, value: Value, shape: Sequence[Dim]) -> Value:
        """Give the same elements another shape."""
        shape = tuple(shape)
        if value.shape == shape:
            return value
        if value.array is not None:
            return self.constant(value.array.reshape(shape))
        unknown = sum(not isinstance(dim, int) for dim in shape)
        alone = unknown == 1 and not any(map(is_zero, shape))
        target = self.vector([-1 if alone and not isinstance(dim, int) else dim for dim in shape])
        result = self.emit("Reshape", value, target, shape=shape)
        return Value(shape, value.dtype, result.tensor, scope=value.scope or self._scope, weight=value.weight)

    def transpose(self, value: Value, axes: Sequence[int]) -> Value:
        """Permute the axes."""
        if list(axes) == list(range(len(axes))):
            return value
        shape = tuple(value.shape[axis] for axis in axes)
        return self.emit("Transpose", value, self.constant(axes, INT32), shape=shape)

    def expand(self, value: Value, shape: Sequence[Dim]) -> Value:
        """Repeat along the axes of size one, so that the value really has `shape`."""
        shape = tuple(shape)
        aligned = (1,) * (len(shape) - len(value.shape)) + value.shape
        if aligned == shape:
            return self.reshape(value, shape)
        if value.array is not None and static(shape):
            return self.constant(np.broadcast_to(value.array, shape))
        return self.emit("BroadcastTo", value, self.vector(shape), shape=shape)

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        """Join along an axis."""
        if len(values) == 1:
            return values[0]
        shape = list(values[0].shape)
        shape[axis] = sum(value.shape[axis] for value in values)
        return self.emit("ConcatV2", values, self.constant(axis, INT32), shape=shape)

    def slice(
        self, value: Value, start: Sequence[Dim], stop: Sequence[Dim], step: Sequence[int] | None = None
    ) -> Value:
        """Take a range of every axis."""
        step = step or [1] * len(start)
        shape = tuple((b - a + s - 1) // s for a, b, s in zip(start, stop, step, strict=True))
        open_ = [i for i, dim in enumerate(value.shape) if stop[i] == dim]
        if len(open_) == len(shape) and all(is_zero(a) and is_one(s) for a, s in zip(start, step, strict=True)):
            return value
        ends = [0 if i in open_ else end for i, end in enumerate(stop)]
        operands = [self.vector(start), self.vector(ends), self.constant(step, INT32)]
        return self.emit("StridedSlice", value, *operands, shape=shape, end_mask=sum(1 << i for i in open_))

    def matmul(self, left: Value, right: Value) -> Value:
        """Multiply matrices, stacked along the leading axes."""
        shape = (*broadcast([left.shape[:-2], right.shape[:-2]]), left.shape[-2], right.shape[-1])
        op = "MatMul" if len(left.shape) == len(right.shape) == 2 else "BatchMatMulV2"
        return self.emit(op, left, right, shape=shape)

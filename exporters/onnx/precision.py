"""
Precisions: a finished float32 graph rewritten to smaller numbers, and the numbers of its weights file.

int8 is dynamic quantisation by rows. Each row of an activation has a scale of its own, so that a text's embedding
does not depend on the texts beside it, and one loud token costs only itself precision; each column of a kernel has
one. What attention averages is multiplied twice, the second time by what rounding left over: its error is the same
for every token that attends to a token, so that no average takes it away. Products are integers until both scales
are applied; everything between them is float32.

int4 is for what is bound by memory, as a language model's steps are: kernels in blocks of rows, each with a scale, in
ONNX's own words (DequantizeLinear by blocks before the product). onnxruntime makes one operator of the two, and rounds
activations to int8 inside it; large tables are those of int8.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from ..precisions import BFLOAT16, FLOAT16, INT4, INT8, INT8_REDUCED
from ..weights import WeightsFile
from .build import VIEWS, Builder
from .dims import elements
from .graph import Node, Shape, Value, Weight, needed

F32 = np.dtype(np.float32)
F16 = np.dtype(np.float16)
BF16 = np.dtype(ml_dtypes.bfloat16)
F16_LARGEST = np.finfo(np.float16).max.astype(np.float32)
U8 = np.dtype(np.uint8)
I8 = np.dtype(np.int8)
I4 = np.dtype(ml_dtypes.int4)
I32 = np.dtype(np.int32)

MIDDLE = 128
"""The uint8 that stands for zero."""
GELU_ZERO = 16
"""The same after a Gelu, which gives nothing below minus `GELU_LEAST`: nearly twice as fine on what is above."""
GELU_LEAST = 0.171
SMALLEST = 1e-20
"""Least scale of a row: one of zeros must not be divided by zero."""
LARGEST = {INT8: 127, INT8_REDUCED: 63}
"""Magnitude of a kernel's integers. Where a processor without VNNI adds two products in 16 bits, 255 * 127 * 2
overflows and 255 * 63 * 2 does not."""
TABLE_LARGEST = 127
BLOCKS = 32, 16
"""Rows of a kernel that share a scale in int4: the first of these that divides them, as the operator wants it. A kernel
that none divides is one of int8."""
INT4_LEAST = -8
OVER = np.linspace(0, 2.8, 8)
"""How far beyond -8 the largest magnitude of a block may lie, to be cut off there: the others are rounded finer."""
SOME = 1 << 22
"""Numbers that are rounded to four bits at once."""
INT4_OPSET = 21
"""The first opset with four bits, and with scales of blocks."""
TABLE = 1 << 14
"""Numbers in the smallest table that is worth a second lookup for its rows' scales."""

IN_FLOAT16 = {
    *("MatMul", "Add", "Sum", "Mul", "Gelu", "Sigmoid"),
    *("LayerNormalization", "RMSNormalization", "Attention", "RotaryEmbedding"),
}
"""What is computed in float16; the norms and Attention's softmax have float32 inside by their attributes."""
MOVES = {*VIEWS, "Transpose", "Slice", "Split", "Concat", "Gather", "Expand"}
"""What only moves numbers, in whichever type they come."""

Rule = Callable[[Node, list[Value]], Value | tuple[Value, ...] | None]
"""Gives the new results of a node with these new inputs, one alone or all; None to keep the operator."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of the weights file of a precision.

    Args:
        leaf: of the model, that it is made of.
        dtype: in the file, which knows none below a byte.
        make: makes it of the leaf.
    """

    leaf: str
    dtype: np.dtype
    shape: Shape
    make: Callable[[np.ndarray], np.ndarray]


def rewrite(build: Builder, outputs: Mapping[str, Value], precision: str) -> tuple[dict[str, Value], dict[str, Tensor]]:
    """Rewrite a graph in place of the one that computes `outputs`; give its outputs and the tensors that it reads.

    One without weights, such as that of a spectrogram, stays: it stores nothing, and tells apart what float32 does.
    """
    if not any(_is_weight(value) for node in needed(list(outputs.values())) for value in node.inputs):
        return dict(outputs), {}
    rewriter = {
        FLOAT16: lambda: _Float16(build),
        BFLOAT16: lambda: _Stored(build, BF16),
        INT8: lambda: _Int8(build, outputs, LARGEST[INT8]),
        INT8_REDUCED: lambda: _Int8(build, outputs, LARGEST[INT8_REDUCED]),
        INT4: lambda: _Int4(build, outputs, LARGEST[INT8]),
    }[precision]()
    results = _replay(build, outputs, rewriter.rule)
    results = {name: build.cast(value, outputs[name].dtype) for name, value in results.items()}
    read = dict.fromkeys(v for node in needed(list(results.values())) for v in node.inputs)
    names = dict.fromkeys(value.source.leaf for value in read if isinstance(value.source, Weight))
    return results, {name: rewriter.tensors[name] for name in names}


def _replay(build: Builder, outputs: Mapping[str, Value], rule: Rule) -> dict[str, Value]:
    """Compute `outputs` again, each node by `rule`."""
    new: dict[Value, Value] = {}
    for node in needed(list(outputs.values())):
        inputs = [new.get(value, value) for value in node.inputs]
        again = rule(node, inputs)
        if again is None:
            results = [(value.shape, value.dtype) for value in node.outputs]
            again = build.graph.emit(node.op, inputs, results, node.attributes, node.scope)
        new.update(zip(node.outputs, again if isinstance(again, tuple) else (again,), strict=True))
    return {name: new.get(value, value) for name, value in outputs.items()}


class _Rewriter(ABC):
    """Holds the tensors that the new graph may read."""

    def __init__(self, build: Builder) -> None:
        self.build = build
        self.tensors: dict[str, Tensor] = {}

    @abstractmethod
    def rule(self, node: Node, inputs: list[Value]) -> Value | tuple[Value, ...] | None:
        """Rewrite one node."""

    def weight(self, name: str, shape: Shape, tensor: Tensor, dtype: np.dtype | None = None) -> Value:
        """Read a tensor of the weights file with the dims `shape`; its bytes may stand for another `dtype`."""
        self.tensors[name] = tensor
        return self.build.graph.weight(name, shape, dtype or tensor.dtype)

    def same(self, value: Value, dtype: np.dtype) -> Value:
        """Read a leaf that is stored as `dtype`."""
        leaf = leaf_of(value)
        return self.weight(leaf, value.shape, Tensor(leaf, dtype, value.shape, lambda array: array.astype(dtype)))


class _Stored(_Rewriter):
    """Weights are stored in a smaller type and converted when the program is loaded; a table's rows when looked up."""

    def __init__(self, build: Builder, dtype: np.dtype) -> None:
        super().__init__(build)
        self.dtype = dtype

    def rule(self, node: Node, inputs: list[Value]) -> Value | tuple[Value, ...] | None:
        """Convert the weights that a node reads."""
        if not any(map(_is_weight, inputs)):
            return None
        if node.op == "Gather" and _is_weight(inputs[0]):
            table, value = self.same(inputs[0], self.dtype), node.outputs[0]
            rows = self.build.emit("Gather", table, *inputs[1:], shape=value.shape, dtype=self.dtype, **node.attributes)
            return self.build.cast(rows, value.dtype)
        inputs = [self.wide(value) if _is_weight(value) else value for value in inputs]
        results = [(value.shape, value.dtype) for value in node.outputs]
        return self.build.graph.emit(node.op, inputs, results, node.attributes, node.scope)

    def wide(self, value: Value) -> Value:
        """Give a leaf in float32."""
        return self.build.cast(self.same(value, self.dtype), value.dtype)


class _Float16(_Rewriter):
    """Products, sums and what is between them in float16; norms and softmax in float32 inside, reductions outside."""

    def rule(self, node: Node, inputs: list[Value]) -> tuple[Value, ...]:
        """Choose the type that a node computes in, and bring its inputs there."""
        low = node.op in IN_FLOAT16 or (node.op in MOVES and (inputs[0].dtype == F16 or _is_weight(inputs[0])))
        inputs = [self._typed(x, F16 if low else F32) for x in inputs]
        results = [(value.shape, F16 if low and value.dtype == F32 else value.dtype) for value in node.outputs]
        attributes = dict(node.attributes)
        if node.op == "Attention" and low:
            attributes["softmax_precision"] = 1  # float32
        return self.build.graph.emit(node.op, inputs, results, attributes, node.scope)

    def _typed(self, value: Value, dtype: np.dtype) -> Value:
        if _is_weight(value):
            value = self.same(value, F16)
        if dtype == F16 and value.array is not None and value.dtype == F32:  # what masks scores may be float32's lowest
            value = self.build.constant(np.clip(value.array, -F16_LARGEST, F16_LARGEST))
        return self.build.cast(value, dtype) if value.dtype in (F16, F32) else value


class _Int8(_Rewriter):
    """Kernels and large tables in int8.

    Args:
        outputs: of the graph, to find the products that give attention its values.
        largest: magnitude of a kernel's integers.
    """

    def __init__(self, build: Builder, outputs: Mapping[str, Value], largest: int) -> None:
        super().__init__(build)
        self.largest = largest
        self.fine = _value_products(needed(list(outputs.values())))

    def rule(self, node: Node, inputs: list[Value]) -> Value | None:
        """Quantise products by a kernel and lookups in a large table."""
        if node.op == "MatMul" and _is_weight(inputs[1]):
            return self._product(inputs[0], inputs[1], node.scope, node in self.fine)
        if node.op == "Gather" and _is_table(inputs[0]) and not node.attributes["axis"]:
            return self._rows(inputs[0], inputs[1], node)
        for value in inputs:
            if _is_weight(value):
                self.same(value, value.dtype)
        return None

    def _product(self, x: Value, kernel: Value, scope: str, fine: bool) -> Value:
        """Multiply by a kernel; if it is to be fine, multiply what rounding leaves over as well."""
        b = self.build
        rows = b.reshape(x, (elements(x.shape[:-1]), x.shape[-1]))
        zero = GELU_ZERO if x.made_by("Gelu") or rows.made_by("Gelu") else MIDDLE
        scales = self._row_scales(rows, zero, scope)
        integers = self._linear("QuantizeLinear", rows, scales, zero, scope)
        viewed = len(x.shape) > 2
        result = self._multiplied(integers, scales, zero, kernel, scope, one=viewed)
        if fine:
            rest = b.elementwise("Sub", rows, self._linear("DequantizeLinear", integers, scales, zero, scope))
            scales = b.elementwise("Mul", scales, b.constant(0.5 / (MIDDLE - 1), F32))
            integers = self._linear("QuantizeLinear", rest, scales, MIDDLE, scope)
            rest = self._multiplied(integers, scales, MIDDLE, kernel, scope, one=viewed)
            result = b.elementwise("Add", result, rest)
        # A view must stand between the product and a bias. Otherwise onnxruntime 1.31 takes the bias into the operator
        # and multiplies it by the rows' scales too. Of a matrix of rows there is no view: it is multiplied by parts.
        return b.reshape(result, (*x.shape[:-1], kernel.shape[1]))

    def _linear(self, op: str, rows: Value, scales: Value, zero: int, scope: str) -> Value:
        """Round rows to integers of their scales, or give what these stand for."""
        b, dtype = self.build, U8 if op == "QuantizeLinear" else F32
        zeros = b.expand(b.constant(zero, U8), scales.shape)
        return b.emit(op, rows, scales, zeros, shape=rows.shape, dtype=dtype, scope=scope, axis=0)

    def _multiplied(
        self, integers: Value, row_scales: Value, zero: int, kernel: Value, scope: str, *, one: bool
    ) -> Value:
        """Multiply integers and apply both scales; if `one`, onnxruntime makes one operator of all that."""
        b, shape = self.build, (integers.shape[0], kernel.shape[1])
        numbers, column_scales = self._quantised(kernel, 0)
        product = b.emit("MatMulInteger", integers, numbers, b.constant(zero, U8), shape=shape, dtype=I32, scope=scope)
        rows, columns = b.reshape(row_scales, (shape[0], 1)), column_scales
        if one:
            return b.elementwise("Mul", b.cast(product, F32), b.elementwise("Mul", rows, columns))
        return b.elementwise("Mul", b.elementwise("Mul", b.cast(product, F32), rows), columns)

    def _row_scales(self, rows: Value, zero: int, scope: str) -> Value:
        """Give the least scale at which a row fits into 0..255 with `zero` for zero."""
        b = self.build
        above = b.elementwise("Mul", b.reduce("ReduceMax", rows, [1]), b.constant(1 / (255 - zero), F32))
        if zero == GELU_ZERO:
            return b.elementwise("Max", above, b.constant(GELU_LEAST / zero, F32))
        below = b.elementwise("Mul", b.reduce("ReduceMin", rows, [1]), b.constant(-1 / zero, F32))
        return b.elementwise("Max", above, below, b.constant(SMALLEST, F32))

    def _rows(self, table: Value, index: Value, node: Node) -> Value:
        """Look up a row's integers and its scale."""
        b, shape = self.build, node.outputs[0].shape
        numbers, scales = self._quantised(table, 1)
        found = b.emit("Gather", numbers, index, shape=shape, dtype=I8, scope=node.scope, axis=0)
        scale = b.emit("Gather", scales, index, shape=(*index.shape, 1), dtype=F32, scope=node.scope, axis=0)
        return b.elementwise("Mul", b.cast(found, F32), scale)

    def _quantised(self, value: Value, axis: int) -> tuple[Value, Value]:
        """Read a matrix as integers and the scales along `axis`, over which the largest magnitude was taken."""
        leaf, shape, largest = leaf_of(value), value.shape, self.largest if axis == 0 else TABLE_LARGEST
        scale_shape = shape[1:] if axis == 0 else (shape[0], 1)
        numbers = Tensor(leaf, I8, shape, lambda array: quantise(array.reshape(shape), axis, largest)[0])
        scales = Tensor(
            leaf, F32, scale_shape, lambda array: quantise(array.reshape(shape), axis, largest)[1].reshape(scale_shape)
        )
        return (
            self.weight(f"{leaf}.int8", shape, numbers),
            self.weight(f"{leaf}.scale", scale_shape, scales),
        )


class _Int4(_Int8):
    """Kernels in int4 by blocks; the rest as int8 has it."""

    def _product(self, x: Value, kernel: Value, scope: str, fine: bool) -> Value:
        """Multiply by what a kernel's integers stand for."""
        rows, columns = kernel.shape
        size = block_of(rows)
        if not size:
            return super()._product(x, kernel, scope, fine)
        leaf, scale_shape = leaf_of(kernel), (rows // size, columns)
        numbers = Tensor(
            leaf, U8, (rows * columns // 2,), lambda a: packed(quantise_blocks(a.reshape(rows, columns))[0])
        )
        scales = Tensor(leaf, F32, scale_shape, lambda a: quantise_blocks(a.reshape(rows, columns))[1])
        read = self.weight(f"{leaf}.int4", kernel.shape, numbers, I4), self.weight(f"{leaf}.scale", scale_shape, scales)
        emit = self.build.emit
        wide = emit("DequantizeLinear", *read, shape=kernel.shape, dtype=F32, scope=scope, axis=0, block_size=size)
        return emit("MatMul", x, wide, shape=(*x.shape[:-1], columns), dtype=F32, scope=scope)


def block_of(rows: int) -> int:
    """Say how many rows of a kernel share a scale in int4; 0 if none can."""
    return next((size for size in BLOCKS if rows % size == 0), 0)


def quantise_blocks(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round (rows, columns) to -8 to 7 times a scale for each block of rows of a column.

    Where a block's scale would make its largest magnitude -8, whatever its sign, rather smaller ones are tried as well:
    the nearest in squares counts. Scales may be negative; that of zeros is one.
    """
    size = block_of(len(kernel))
    numbers, scales = np.empty(kernel.shape, I8), np.empty((len(kernel) // size, kernel.shape[1]), F32)
    some = max(1, SOME // (size * kernel.shape[1]))
    for first in range(0, len(scales), some):  # a kernel of billions of bytes is not held several times
        rows = slice(first * size, (first + some) * size)
        blocks = kernel[rows].reshape(-1, size, kernel.shape[1])
        found, scales[first : first + some] = _nearest(blocks)
        numbers[rows] = found.reshape(-1, kernel.shape[1])
    return numbers, scales


def _nearest(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round (blocks, size, columns); give the integers and the scales (blocks, columns)."""
    farthest = np.take_along_axis(blocks, np.abs(blocks).argmax(1, keepdims=True), 1).astype(F32)
    best = np.full(farthest.shape, np.inf, F32)
    numbers, scales = np.zeros(blocks.shape, I8), np.ones(farthest.shape, F32)
    for least in INT4_LEAST - OVER:
        tried = farthest / F32.type(least)
        rounded = np.clip(np.rint(blocks / np.where(tried == 0, 1, tried)), INT4_LEAST, -INT4_LEAST - 1)
        error = np.square(rounded * tried - blocks).sum(1, keepdims=True)
        better = (error < best) & (tried != 0)
        best, scales = np.where(better, error, best), np.where(better, tried, scales)
        numbers = np.where(better, rounded, numbers).astype(I8)
    return numbers, scales[:, 0]


def packed(numbers: np.ndarray) -> np.ndarray:
    """Lay two integers of four bits into a byte, the first below."""
    low, high = (numbers.reshape(-1)[each::2].view(U8) & 15 for each in (0, 1))
    return low | high << 4


def quantise(matrix: np.ndarray, axis: int, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """Round a matrix to integers of at most `largest` times a scale; `axis` is the one that a scale spans.

    The scale of nothing but zeros is one.
    """
    scales = np.abs(matrix).max(axis, keepdims=True).astype(F32) / F32.type(largest)
    scales[scales == 0] = 1
    return np.clip(np.rint(matrix / scales), -largest, largest).astype(I8), scales


def _value_products(nodes: Iterable[Node]) -> set[Node]:
    """Find the products whose result, a bias added, is what attention averages."""
    found: set[Node] = set()
    for node in nodes:
        of_softmax = node.op == "MatMul" and node.inputs[0].made_by("Softmax")
        if node.op == "Attention" or of_softmax:
            product = _product_behind(node.inputs[1 if of_softmax else 2])
            if product:
                found.add(product)
    return found


def _product_behind(value: Value) -> Node | None:
    """Go back through views, transpositions and added weights to a product by a weight."""
    while isinstance(value.source, Node):
        node = value.source
        if node.op == "MatMul":
            return node if _is_weight(node.inputs[1]) else None
        computed = [x for x in node.inputs if not x.fixed]
        if node.op not in (*VIEWS, "Transpose", "Add") or not computed:
            return None
        value = computed[0]
    return None


def leaf_of(value: Value) -> str:
    """Name the tensor of the weights file that a value is."""
    assert isinstance(value.source, Weight)
    return value.source.leaf


def _is_weight(value: Value) -> bool:
    return isinstance(value.source, Weight)


def _is_table(value: Value) -> bool:
    return _is_weight(value) and len(value.shape) == 2 and elements(value.shape) >= TABLE


def arrays(
    weights: WeightsFile, tensors: Mapping[str, Tensor], order: Sequence[str]
) -> Iterable[tuple[str, np.ndarray]]:
    """Make the tensors of the weights file, one in memory at a time."""
    for name in order:
        tensor = tensors[name]
        made = tensor.make(weights.read(tensor.leaf).astype(F32, copy=False))
        yield name, np.ascontiguousarray(made).reshape(tensor.shape)

"""Matrix products, convolution, attention."""

from collections.abc import Sequence

from jax.extend.core import JaxprEqn

from ...lowering import rules
from ...lowering.shapes import Dim, inverse
from ...lowering.walk import attributes, dtype_of, shape_of
from ..lower import INT32, Lowering, Value
from ..registry import composite, primitive


@primitive("dot_general", emits="MatMul BatchMatMulV2 Transpose Reshape")
def dot_general(c: Lowering, eqn: JaxprEqn) -> Value:
    """Bring both sides to (batch, rows, inner) and (batch, inner, columns), and multiply."""
    (left_inner, right_inner), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    left, right = c.full(eqn.invars[0]), c.full(eqn.invars[1])
    if not left_batch and right.weight and sorted(right_inner) == list(range(len(right_inner))):
        return c.cast(_dense(c, left, left_inner, right, right_inner), dtype_of(eqn.outvars[0]))
    a, rows = _matrices(c, left, left_batch, left_inner, inner_last=True)
    b, columns = _matrices(c, right, right_batch, right_inner, inner_last=False)
    batch = [left.shape[axis] for axis in left_batch]
    return c.cast(c.reshape(c.matmul(a, b), (*batch, *rows, *columns)), dtype_of(eqn.outvars[0]))


def _dense(c: Lowering, left: Value, left_inner: Sequence[int], right: Value, right_inner: Sequence[int]) -> Value:
    """Multiply by a weight that is a matrix as it lies; the left side is one matrix too."""
    in_order = [axis for _, axis in sorted(zip(right_inner, left_inner, strict=True))]
    free = [axis for axis in range(len(left.shape)) if axis not in in_order]
    rows, columns = [left.shape[axis] for axis in free], right.shape[len(in_order) :]
    inner = _elements(right.shape[: len(in_order)])
    a = c.reshape(c.transpose(left, [*free, *in_order]), (_elements(rows), inner))
    return c.reshape(c.matmul(a, c.reshape(right, (inner, _elements(columns)))), (*rows, *columns))


def _matrices(
    c: Lowering, value: Value, batch: Sequence[int], inner: Sequence[int], *, inner_last: bool
) -> tuple[Value, list[Dim]]:
    """Give a side as stacked matrices, and the sizes of its free axes."""
    free = [axis for axis in range(len(value.shape)) if axis not in (*batch, *inner)]
    rows, summed = [value.shape[a] for a in free], _elements([value.shape[a] for a in inner])
    order = [*batch, *free, *inner] if inner_last else [*batch, *inner, *free]
    matrix = (_elements(rows), summed) if inner_last else (summed, _elements(rows))
    return c.reshape(c.transpose(value, order), (*(value.shape[a] for a in batch), *matrix)), rows


def _elements(shape: Sequence[Dim]) -> Dim:
    count = 1
    for dim in shape:
        count = count * dim
    return count


@primitive("conv_general_dilated", emits="Conv2D Conv3D PadV2 StridedSlice Transpose Reshape")
def conv(c: Lowering, eqn: JaxprEqn) -> Value:
    """Convolve channels last, the only layout that every runtime has; padding is an operator of its own."""
    p, numbers = eqn.params, eqn.params["dimension_numbers"]
    if p["batch_group_count"] != 1:
        raise c.refusal(eqn, "a convolution in batch groups")
    count = len(p["window_strides"])
    if count not in (1, 2, 3):
        raise c.refusal(eqn, f"a convolution of {count} axes")
    last = [0, *range(2, count + 2), 1]
    x = c.transpose(c.full(eqn.invars[0]), [numbers.lhs_spec[i] for i in last])
    kernel = c.transpose(c.full(eqn.invars[1]), [numbers.rhs_spec[i] for i in (*range(2, count + 2), 1, 0)])
    shape = [shape_of(eqn.outvars[0])[numbers.out_spec[i]] for i in last]
    for axis, apart in enumerate(p["lhs_dilation"], 1):
        x = _apart(c, x, axis, apart)
    x = _padded(c, x, [(0, 0), *p["padding"], (0, 0)])
    strides, dilations = list(p["window_strides"]), list(p["rhs_dilation"])
    if count == 1:  # a picture of one row
        x, kernel = c.reshape(x, (x.shape[0], 1, *x.shape[1:])), c.reshape(kernel, (1, *kernel.shape))
        strides, dilations = [1, *strides], [1, *dilations]
    settings = {"strides": [1, *strides, 1], "dilations": [1, *dilations, 1], "padding": "VALID"}
    inner = shape if count > 1 else (shape[0], 1, *shape[1:])
    result = c.emit("Conv3D" if count == 3 else "Conv2D", x, kernel, shape=inner, **settings)
    order = inverse([numbers.out_spec[i] for i in last])
    return c.cast(c.transpose(c.reshape(result, shape), order), dtype_of(eqn.outvars[0]))


def _apart(c: Lowering, x: Value, axis: int, apart: int) -> Value:
    """Put zeros between the places of an axis, as a transposed convolution reads them."""
    if apart == 1:
        return x
    before, behind = x.shape[: axis + 1], x.shape[axis + 1 :]
    alone = c.reshape(x, (*before, 1, *behind))
    amounts = [(0, 0)] * len(before) + [(0, apart - 1)] + [(0, 0)] * len(behind)
    larger = c.reshape(_padded(c, alone, amounts), (*before[:-1], before[-1] * apart, *behind))
    return _padded(c, larger, [(0, 1 - apart) if i == axis else (0, 0) for i in range(len(x.shape))])


def _padded(c: Lowering, x: Value, amounts: Sequence[tuple[int, int]]) -> Value:
    """Add zeros at the ends of axes; a negative number takes some away."""
    ends = [d + min(high, 0) for d, (_, high) in zip(x.shape, amounts, strict=True)]
    x = c.slice(x, [-min(low, 0) for low, _ in amounts], ends)
    added = [(max(low, 0), max(high, 0)) for low, high in amounts]
    if not any(n for pair in added for n in pair):
        return x
    shape = [d + sum(pair) for d, pair in zip(x.shape, added, strict=True)]
    return c.emit("PadV2", x, c.constant(added, INT32), c.constant(0, x.dtype), shape=shape)


@composite("attention", emits="Mul Transpose BatchMatMulV2 AddV2 Softmax")
def attention(c: Lowering, eqn: JaxprEqn) -> Value:
    """Attend."""
    query, key, value = (c.full(atom) for atom in eqn.invars[:3])
    key, value = (rules.repeated_heads(c, x, query.shape[2]) for x in (key, value))
    query = c.elementwise("Mul", query, c.constant(attributes(eqn)["scale"], query.dtype))
    scores = c.matmul(c.transpose(query, (0, 2, 1, 3)), c.transpose(key, (0, 2, 3, 1)))
    for atom in eqn.invars[3:]:
        scores = c.elementwise("AddV2", scores, c.ranked(atom))
    weights = c.emit("Softmax", scores, shape=scores.shape)
    return c.transpose(c.matmul(weights, c.transpose(value, (0, 2, 1, 3))), (0, 2, 1, 3))

"""dot_general: matrix products over any axes, as MatMul."""

from collections.abc import Sequence

from jax.extend.core import JaxprEqn

from ...lowering.shapes import Dim
from ...lowering.walk import dtype_of
from ..dims import elements
from ..graph import Value
from ..lower import Lowering
from ..registry import primitive


@primitive("dot_general", emits="MatMul Transpose Reshape")
def dot_general(c: Lowering, eqn: JaxprEqn) -> Value:
    """Bring both sides to (batch, rows, inner) and (batch, inner, columns), and multiply."""
    (left_inner, right_inner), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    left, right = c.full(eqn.invars[0]), c.full(eqn.invars[1])
    if not left_batch and _is_dense(right, right_inner):
        result = _dense(c, left, left_inner, right, right_inner)
    else:
        a, rows = _matrices(c, left, left_batch, left_inner, inner_last=True)
        b, columns = _matrices(c, right, right_batch, right_inner, inner_last=False)
        batch = [left.shape[axis] for axis in left_batch]
        result = c.reshape(c.matmul(a, b), (*batch, *rows, *columns))
    return c.cast(result, dtype_of(eqn.outvars[0]))


def _is_dense(right: Value, inner: Sequence[int]) -> bool:
    """Tell whether the leading axes of a weight are what is summed over, so that it is a matrix as it lies.

    A weight that was turned round counts too, as torch's kernels are: runtimes turn it when they load it.
    """
    turned = right.made_by("Transpose")
    weight = right.fixed or (turned is not None and turned.inputs[0].fixed)
    return weight and sorted(inner) == list(range(len(inner)))


def _dense(c: Lowering, left: Value, left_inner: Sequence[int], right: Value, right_inner: Sequence[int]) -> Value:
    """Multiply by a weight, declared as a matrix; the left side keeps its axes."""
    in_order = [axis for _, axis in sorted(zip(right_inner, left_inner, strict=True))]
    free = [axis for axis in range(len(left.shape)) if axis not in in_order]
    rows, columns = [left.shape[axis] for axis in free], right.shape[len(in_order) :]
    inner = elements(right.shape[: len(in_order)])
    a = c.reshape(c.transpose(left, [*free, *in_order]), (*rows, inner))
    result = c.matmul(c.reshape(a, (1, inner)) if not rows else a, c.reshape(right, (inner, elements(columns))))
    return c.reshape(result, (*rows, *columns))


def _matrices(
    c: Lowering, value: Value, batch: Sequence[int], inner: Sequence[int], *, inner_last: bool
) -> tuple[Value, list[Dim]]:
    """Give a side as stacked matrices, and the sizes of its free axes."""
    free = [axis for axis in range(len(value.shape)) if axis not in (*batch, *inner)]
    rows, summed = [value.shape[a] for a in free], elements(value.shape[a] for a in inner)
    order = [*batch, *free, *inner] if inner_last else [*batch, *inner, *free]
    matrix = (elements(rows), summed) if inner_last else (summed, elements(rows))
    leading = [value.shape[a] for a in batch]
    return c.reshape(c.transpose(value, order), (*leading, *matrix)), rows

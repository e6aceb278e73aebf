"""conv_general_dilated: as Conv, or as a product where the windows do not overlap."""

from jax.extend.core import JaxprEqn

from ...lowering.shapes import inverse, static
from ...lowering.walk import dtype_of, shape_of
from ..dims import elements
from ..graph import Attribute, Value
from ..lower import Lowering
from ..registry import primitive


@primitive("conv_general_dilated", emits="Conv Transpose Reshape MatMul")
def conv(c: Lowering, eqn: JaxprEqn) -> Value:
    """Convolve; ONNX knows one layout, channels first."""
    p = eqn.params
    if any(n != 1 for n in p["lhs_dilation"]) or p["batch_group_count"] != 1:
        raise c.refusal(eqn, "a transposed convolution, or one in batch groups")
    if any(n < 0 for pair in p["padding"] for n in pair):
        raise c.refusal(eqn, "a convolution with negative padding")
    x, kernel = c.full(eqn.invars[0]), c.full(eqn.invars[1])
    numbers = p["dimension_numbers"]
    x = c.transpose(x, numbers.lhs_spec)
    result = _patches(c, eqn, x, kernel)
    if result is None:
        result = _conv(c, eqn, x, c.transpose(kernel, numbers.rhs_spec))
    return c.cast(c.transpose(result, inverse(numbers.out_spec)), dtype_of(eqn.outvars[0]))


def _conv(c: Lowering, eqn: JaxprEqn, x: Value, kernel: Value) -> Value:
    p = eqn.params
    low, high = zip(*p["padding"], strict=True)
    shape = [shape_of(eqn.outvars[0])[axis] for axis in p["dimension_numbers"].out_spec]
    attributes: dict[str, Attribute] = {"strides": tuple(p["window_strides"]), "pads": (*low, *high)}
    attributes |= {"dilations": tuple(p["rhs_dilation"]), "group": p["feature_group_count"]}
    return c.emit("Conv", x, kernel, shape=shape, dtype=x.dtype, **attributes)


def _patches(c: Lowering, eqn: JaxprEqn, x: Value, kernel: Value) -> Value | None:
    """Cut (batch, channels, height, width) into patches and multiply by a kernel that lies as (height, width, in, out).

    Gives None where the windows overlap or leave gaps, or the kernel lies otherwise.
    """
    p, spatial = eqn.params, x.shape[2:]
    count = len(spatial)
    place = p["dimension_numbers"].rhs_spec
    sizes = kernel.shape[:count]
    as_it_lies = kernel.fixed and tuple(place) == (count + 1, count, *range(count))
    plain = p["feature_group_count"] == 1 and not any(map(any, p["padding"])) and set(p["rhs_dilation"]) == {1}
    if not as_it_lies or not plain or tuple(p["window_strides"]) != tuple(sizes) or not static(spatial):
        return None
    if any(dim % size for dim, size in zip(spatial, sizes, strict=True)):
        return None
    grid = [dim // size for dim, size in zip(spatial, sizes, strict=True)]
    x = c.transpose(x, [0, *range(2, count + 2), 1])
    pairs = [n for pair in zip(grid, sizes, strict=True) for n in pair]
    x = c.reshape(x, (x.shape[0], *pairs, x.shape[-1]))
    x = c.transpose(x, [0, *range(1, 2 * count, 2), *range(2, 2 * count + 1, 2), 2 * count + 1])
    inner, outer = elements(kernel.shape[:-1]), kernel.shape[-1]
    product = c.matmul(c.reshape(x, (x.shape[0], *grid, inner)), c.reshape(kernel, (inner, outer)))
    return c.transpose(product, [0, count + 1, *range(1, count + 1)])

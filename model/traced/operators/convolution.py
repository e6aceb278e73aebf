"""Convolutions, pooling, resizing. Pictures are (rows, channels, height, width), as torch has them."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ....validation.sizes import Size
from ... import ops
from . import operator


def _each(value: Any, count: int) -> list[Any]:
    """Give a number for each of so many axes."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values * count if len(values) == 1 else values


def _numbers(places: int) -> tuple[str, str, str]:
    axes = "DHW"[3 - places :]
    return f"NC{axes}", f"OI{axes}", f"NC{axes}"


@operator("aten.convolution", "aten._convolution")
def convolution(
    input: Array,  # noqa: A002 - ATen's name
    weight: Array,
    bias: Array | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    *flags: Any,
) -> Array:
    """Convolve over one, two or three axes, or undo such a one."""
    places = weight.ndim - 2
    stride, padding, dilation = (_each(x, places) for x in (stride, padding, dilation))
    if transposed:
        return _transposed(input, weight, bias, stride, padding, dilation, _each(output_padding, places), groups)
    y = jax.lax.conv_general_dilated(
        input,
        weight,
        stride,
        [(p, p) for p in padding],
        rhs_dilation=dilation,
        dimension_numbers=_numbers(places),
        feature_group_count=groups,
    )
    return _biased(y, bias)


def _biased(y: Array, bias: Array | None) -> Array:
    return y if bias is None else y + bias.reshape(1, -1, *[1] * (y.ndim - 2))


def _transposed(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
) -> Array:
    """Convolve the other way."""
    y = ops.conv_transpose(
        x,
        weight,
        strides=tuple(stride),
        padding=tuple(padding),
        output_padding=tuple(output_padding),
        dilations=tuple(dilation),
        groups=groups,
    )
    return _biased(y, bias)


@operator("aten.col2im")
def col2im(
    self: Array,
    output_size: Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Array:
    """Put columns, (rows, channels · patch, patches), back as patches of pictures; where they overlap, they add up.

    As a transposed convolution, of which each number of a patch has a kernel of its own with a one in its place.
    """
    patch = math.prod(kernel_size)
    sizes = zip(output_size, kernel_size, dilation, padding, stride, strict=True)
    counts = [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, d, p, s in sizes]
    x = self if self.ndim == 3 else self[None]
    channels = x.shape[1] // patch
    ones = jnp.tile(jnp.eye(patch, dtype=x.dtype).reshape(patch, 1, *kernel_size), (channels, 1, 1, 1))
    reached = [
        (n - 1) * s - 2 * p + d * (k - 1) + 1
        for n, s, p, d, k in zip(counts, stride, padding, dilation, kernel_size, strict=True)
    ]
    rest = [size - got for size, got in zip(output_size, reached, strict=True)]
    y = _transposed(x.reshape(-1, x.shape[1], *counts), ones, None, stride, padding, dilation, rest, channels)
    return y if self.ndim == 3 else y[0]


@operator("aten.conv1d", "aten.conv2d", "aten.conv3d")
def conv(
    input: Array,  # noqa: A002 - ATen's name
    weight: Array,
    bias: Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Array:
    """Convolve; rows may be missing; "same" and "valid" are paddings too."""
    places = weight.ndim - 2
    if input.ndim == places + 1:
        return conv(input[None], weight, bias, stride, padding, dilation, groups)[0]
    stride, dilation = _each(stride, places), _each(dilation, places)
    if padding == "valid":
        padding = 0
    elif padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        widths = [(0, 0), (0, 0), *((total // 2, total - total // 2) for total in totals)]
        input, padding = jnp.pad(input, widths), 0  # noqa: A001
    return convolution(input, weight, bias, stride, padding, dilation, False, [0], groups)


@operator("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d")
def conv_transpose(
    input: Array,  # noqa: A002 - ATen's name
    weight: Array,
    bias: Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Array:
    """Undo a convolution's steps."""
    return convolution(input, weight, bias, stride, padding, dilation, True, output_padding, groups)


def _windows(
    x: Array,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    filler: float,
) -> list[Array]:
    """Give what stands at each place of a window, for all windows."""
    places = len(kernel)
    widths, counts = [(0, 0)] * (x.ndim - places), []
    for i, (k, s, p, d) in enumerate(zip(kernel, stride, padding, dilation, strict=True)):
        size, extent = x.shape[x.ndim - places + i], d * (k - 1) + 1
        count = (size + 2 * p - extent) // s + 1
        if ceil_mode:
            count = -((size + 2 * p - extent) // -s) + 1
            if not isinstance(size, int):
                raise NotImplementedError("pooling with ceil_mode along an axis without a fixed size")
            count -= (count - 1) * s >= size + p  # no window begins in the padding on the right
        more = (count - 1) * s + extent - size - p if ceil_mode else p
        widths.append((p, max(more, p) if isinstance(more, int) else more))
        counts.append(count)
    padded = jnp.pad(x, widths, constant_values=filler)
    found = []
    for place in itertools.product(*map(range, kernel)):
        lead = x.ndim - places
        starts = [0] * lead + [at * d for at, d in zip(place, dilation, strict=True)]
        ends = [at + (count - 1) * s + 1 for at, count, s in zip(starts[lead:], counts, stride, strict=True)]
        found.append(jax.lax.slice(padded, starts, [*padded.shape[:lead], *ends], [1] * lead + list(stride)))
    return found


def _settings(kernel_size: Any, stride: Any, padding: Any, dilation: Any, places: int) -> tuple[list[Any], ...]:
    kernel = _each(kernel_size, places)
    steps = kernel if stride is None or stride in ([], ()) else _each(stride, places)
    return kernel, steps, _each(padding, places), _each(dilation, places)


def _max_pool(
    self: Array, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, places: int
) -> Array:
    kernel, steps, pad, apart = _settings(kernel_size, stride, padding, dilation, places)
    windows = _windows(self, kernel, steps, pad, apart, ceil_mode, -jnp.inf)
    result = windows[0]
    for each in windows[1:]:
        result = jnp.maximum(result, each)
    return result


@operator("aten.max_pool1d")
def max_pool1d(
    self: Array, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Array:
    """Give the largest of each window."""
    return _max_pool(self, kernel_size, stride, padding, dilation, ceil_mode, 1)


@operator("aten.max_pool2d")
def max_pool2d(
    self: Array, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Array:
    """Give the largest of each window."""
    return _max_pool(self, kernel_size, stride, padding, dilation, ceil_mode, 2)


@operator("aten.max_pool2d_with_indices")
def max_pool2d_with_indices(
    self: Array, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> tuple[Array, ...]:
    """Give the largest of each window; where it stands, which inference does not read, is left out."""
    return (_max_pool(self, kernel_size, stride, padding, dilation, ceil_mode, 2),)


def _added(arrays: list[Array]) -> Array:
    return functools.reduce(jnp.add, arrays)


def _avg_pool(
    self: Array,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
    places: int,
) -> Array:
    kernel, steps, pad, apart = _settings(kernel_size, stride, padding, 1, places)
    whole = [isinstance(n, int) and n <= k for n, k in zip(self.shape[-places:], kernel, strict=True)]
    if ceil_mode and all(whole) and not any(pad) and not divisor_override:  # one window, of which as much is there
        return self.mean(tuple(range(self.ndim - places, self.ndim)), keepdims=True)
    if ceil_mode:
        raise NotImplementedError("average pooling with ceil_mode")
    total = _added(_windows(self, kernel, steps, pad, apart, ceil_mode, 0.0))
    if divisor_override:
        return total / divisor_override
    if count_include_pad or not any(pad):
        return total / math.prod(kernel)
    ones = jnp.ones(self.shape[-places:], self.dtype)
    return total / _added(_windows(ones, kernel, steps, pad, apart, ceil_mode, 0.0))


@operator("aten.avg_pool1d")
def avg_pool1d(
    self: Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """Give the mean of each window."""
    return _avg_pool(self, kernel_size, stride, padding, ceil_mode, count_include_pad, None, 1)


@operator("aten.avg_pool2d")
def avg_pool2d(
    self: Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """Give the mean of each window."""
    return _avg_pool(self, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, 2)


def _adaptive(self: Array, output_size: Sequence[Size], combine: Any) -> Array:
    x = self
    for i, wanted in enumerate(output_size):
        axis = x.ndim - len(output_size) + i
        size = x.shape[axis]
        if wanted is None or wanted is size:
            continue
        if isinstance(wanted, int) and wanted == 1:
            x = combine(x, axis=axis, keepdims=True)
            continue
        if not (isinstance(size, int) and isinstance(wanted, int)):
            raise NotImplementedError("adaptive pooling of an axis without a fixed size to more than one place")
        pieces = []
        for place in range(wanted):
            start, end = place * size // wanted, -((place + 1) * size // -wanted)
            pieces.append(combine(jax.lax.slice_in_dim(x, start, end, axis=axis), axis=axis, keepdims=True))
        x = jnp.concatenate(pieces, axis=axis)
    return x


@operator(
    "aten.adaptive_avg_pool1d", "aten.adaptive_avg_pool2d", "aten._adaptive_avg_pool2d", "aten.adaptive_avg_pool3d"
)
def adaptive_avg_pool(self: Array, output_size: Any) -> Array:
    """Give so many means that all places are in one."""
    return _adaptive(self, output_size, jnp.mean)


@operator("aten.adaptive_max_pool1d", "aten.adaptive_max_pool2d")
def adaptive_max_pool(self: Array, output_size: Any) -> tuple[Array, ...]:
    """Give so many largest that all places are in one; where they stand is left out."""
    return (_adaptive(self, output_size, jnp.max),)


@operator("aten.upsample_nearest1d", "aten.upsample_nearest2d")
def upsample_nearest(self: Array, output_size: Any, *scales: Any, scale_factors: Any = None) -> Array:
    """Resize by the nearest place (torch: the one at or below)."""
    sizes = _sizes(self, output_size, scale_factors or (scales[0] if len(scales) == 1 else None))
    x = self
    for i, wanted in enumerate(sizes):
        axis = x.ndim - len(sizes) + i
        size = x.shape[axis]
        if not (isinstance(size, int) and isinstance(wanted, int)):
            if isinstance(scale_factors, list | tuple) and float(scale_factors[i]).is_integer():
                x = jnp.repeat(x, int(scale_factors[i]), axis=axis)
                continue
            raise NotImplementedError("resizing an axis without a fixed size")
        x = jnp.take(x, np.arange(wanted) * size // wanted, axis=axis)
    return x


def _sizes(x: Array, output_size: Any, factors: Any) -> list[Size]:
    if output_size:
        return list(output_size)
    places = len(factors)
    return [math.floor(size * f) for size, f in zip(x.shape[-places:], factors, strict=True)]


def _scales(sizes: Sequence[Size], scales: Sequence[Any], factors: Any) -> list[Any]:
    """Give the stated factor of each axis, or None: torch computes with it in the place of the ratio of sizes."""
    if len(scales) == len(sizes):
        return list(scales)
    return list(factors) if factors else [None] * len(sizes)


def _resized(self: Array, sizes: Sequence[Size], align_corners: bool, scales: Sequence[Any], cubic: bool) -> Array:
    """Resize each axis by a matrix of its own."""
    x = self
    for i, (wanted, scale) in enumerate(zip(sizes, scales, strict=True)):
        axis = x.ndim - len(sizes) + i
        size = x.shape[axis]
        if not (isinstance(size, int) and isinstance(wanted, int)):
            raise NotImplementedError("interpolation along an axis without a fixed size")
        if size != wanted or (scale is not None and scale != 1):
            matrix = jnp.asarray(_weights(size, wanted, align_corners, scale, cubic), x.dtype)
            x = jnp.moveaxis(jnp.tensordot(x, matrix, axes=[[axis], [0]]), -1, axis)
    return x


def _weights(size: int, wanted: int, align_corners: bool, scale: float | None, cubic: bool) -> np.ndarray:
    """Give how much of each place goes into each wanted one, (size, wanted), computed in float64."""
    at = np.arange(wanted, dtype=np.float64)
    if align_corners:
        at = at * ((size - 1) / (wanted - 1) if wanted > 1 else 0.0)
    else:
        at = (at + 0.5) * (1 / scale if scale else size / wanted) - 0.5
        at = at if cubic else np.maximum(at, 0)
    first = np.floor(at).astype(np.int64)
    share = at - first
    matrix = np.zeros((size, wanted))
    for offset, weight in (_cubic if cubic else _linear)(share):
        np.add.at(matrix, (np.clip(first + offset, 0, size - 1), np.arange(wanted)), weight)
    return matrix


def _linear(share: np.ndarray) -> list[tuple[int, np.ndarray]]:
    return [(0, 1 - share), (1, share)]


def _cubic(share: np.ndarray, a: float = -0.75) -> list[tuple[int, np.ndarray]]:
    """Weights of four neighbours (Keys 1981), with the constant that torch takes."""

    def near(d: np.ndarray) -> np.ndarray:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: np.ndarray) -> np.ndarray:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return [(-1, far(share + 1)), (0, near(share)), (1, near(1 - share)), (2, far(2 - share))]


@operator("aten.upsample_linear1d", "aten.upsample_bilinear2d")
def upsample_linear(
    input: Array,  # noqa: A002 - ATen's name
    output_size: Any,
    align_corners: bool,
    *scales: Any,
    scale_factors: Any = None,
    cubic: bool = False,
) -> Array:
    """Resize by straight lines between places."""
    factors = scale_factors or (scales[0] if len(scales) == 1 and isinstance(scales[0], list) else None)
    sizes = _sizes(input, output_size, factors)
    return _resized(input, sizes, align_corners, _scales(sizes, scales, factors), cubic)


@operator("aten.upsample_bicubic2d")
def upsample_bicubic2d(*arguments: Any, **named: Any) -> Array:
    """Resize by cubic curves through four places."""
    return upsample_linear(*arguments, **named, cubic=True)

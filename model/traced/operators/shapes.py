"""Shapes: the same elements elsewhere, repeated, joined, cut."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, core

from ....validation.sizes import Size
from . import operator

END = 1 << 40
"""A slice that ends beyond this goes to the end."""


@operator("aten.view.default", "aten.reshape", "aten._unsafe_view", "aten.view_copy", "aten._reshape_alias")
def reshape(self: Array, size: Sequence[Size], stride: Any = None) -> Array:
    """Give the same elements another shape."""
    return jnp.reshape(self, tuple(size))


@operator("aten.flatten")
def flatten(self: Array, start_dim: int = 0, end_dim: int = -1) -> Array:
    """Merge axes that stand side by side."""
    if self.ndim == 0:
        return self.reshape(1)
    start, end = start_dim % self.ndim, end_dim % self.ndim
    return self.reshape(*self.shape[:start], math.prod(self.shape[start : end + 1]), *self.shape[end + 1 :])


@operator("aten.unflatten")
def unflatten(self: Array, dim: int, sizes: Sequence[Size]) -> Array:
    """Split an axis."""
    dim %= self.ndim
    return self.reshape(*self.shape[:dim], *sizes, *self.shape[dim + 1 :])


@operator("aten.squeeze", "aten.squeeze_copy")
def squeeze(self: Array, dim: Any = None) -> Array:
    """Take away axes of size one; a named one that has another size stays."""
    axes = range(self.ndim) if dim is None else dim if isinstance(dim, list | tuple) else [dim]
    gone = {axis % self.ndim for axis in axes if self.ndim and _one(self.shape[axis])}
    return self.reshape([size for axis, size in enumerate(self.shape) if axis not in gone])


def _one(size: Size) -> bool:
    return isinstance(size, int) and size == 1


@operator("aten.unsqueeze", "aten.unsqueeze_copy")
def unsqueeze(self: Array, dim: int) -> Array:
    """Put an axis of size one in a place."""
    return jnp.expand_dims(self, dim)


@operator("aten.permute", "aten.permute_copy")
def permute(self: Array, dims: Sequence[int]) -> Array:
    """Order the axes anew."""
    return jnp.transpose(self, dims)


@operator("aten.transpose", "aten.transpose_copy", "aten.swapaxes", "aten.swapdims")
def transpose(self: Array, dim0: int, dim1: int) -> Array:
    """Exchange two axes."""
    return jnp.swapaxes(self, dim0, dim1) if self.ndim else self


@operator("aten.t", "aten.numpy_T", "aten.mT", "aten.t_copy")
def t(self: Array) -> Array:
    """Exchange the axes of a matrix."""
    return self if self.ndim < 2 else jnp.swapaxes(self, -1, -2) if self.ndim == 2 else self.T


@operator("aten.movedim", "aten.moveaxis")
def movedim(self: Array, source: Any, destination: Any) -> Array:
    """Move axes to other places."""
    return jnp.moveaxis(self, source, destination)


@operator("aten.expand", "aten.expand_copy")
def expand(self: Array, size: Sequence[Size], *, implicit: bool = False) -> Array:
    """Repeat along axes of size one; -1 keeps an axis as it is."""
    lead = len(size) - self.ndim
    wanted = [self.shape[i - lead] if isinstance(n, int) and n == -1 else n for i, n in enumerate(size)]
    return jnp.broadcast_to(self, tuple(wanted))


@operator("aten.expand_as")
def expand_as(self: Array, other: Array) -> Array:
    """Repeat to another's shape."""
    return jnp.broadcast_to(self, other.shape)


@operator("aten.view_as", "aten.reshape_as")
def view_as(self: Array, other: Array) -> Array:
    """Give the same elements another's shape."""
    return self.reshape(other.shape)


@operator("aten.broadcast_to")
def broadcast_to(self: Array, size: Sequence[Size]) -> Array:
    """Repeat to a shape."""
    return expand(self, size)


@operator("aten.broadcast_tensors")
def broadcast_tensors(tensors: Sequence[Array]) -> tuple[Array, ...]:
    """Repeat several to the shape that they have together."""
    return tuple(jnp.broadcast_arrays(*tensors))


@operator("aten.repeat", "aten.tile")
def repeat(self: Array, repeats: Sequence[Size]) -> Array:
    """Lay copies side by side along each axis."""
    lead = max(len(repeats) - self.ndim, 0)
    repeats = [1] * (self.ndim - len(repeats)) + list(repeats)
    x = self.reshape((1,) * lead + self.shape)
    for axis, count in enumerate(repeats):
        if not _one(count):
            apart = jnp.expand_dims(x, axis)
            copies = jnp.broadcast_to(apart, (*x.shape[:axis], count, *x.shape[axis:]))
            x = copies.reshape(*x.shape[:axis], count * x.shape[axis], *x.shape[axis + 1 :])
    return x


@operator("aten.repeat_interleave.self_int")
def repeat_interleave(self: Array, repeats: int, dim: int | None = None, *, output_size: Any = None) -> Array:
    """Repeat each place of an axis."""
    x = self.reshape(-1) if dim is None else self
    axis = 0 if dim is None else dim % self.ndim
    apart = jnp.expand_dims(x, axis + 1)
    copies = jnp.broadcast_to(apart, (*x.shape[: axis + 1], repeats, *x.shape[axis + 1 :]))
    return copies.reshape(*x.shape[:axis], x.shape[axis] * repeats, *x.shape[axis + 1 :])


@operator("aten.cat", "aten.concat", "aten.concatenate")
def cat(tensors: Sequence[Array], dim: int = 0) -> Array:
    """Join along an axis; torch passes over empty vectors."""
    kept = [x for x in tensors if x.shape != (0,)] or list(tensors)
    return jnp.concatenate(kept, axis=dim)


@operator("aten.stack")
def stack(tensors: Sequence[Array], dim: int = 0) -> Array:
    """Join along a new axis."""
    return jnp.stack(tensors, axis=dim)


@operator("aten.split.Tensor", "aten.split.default", "aten.split_copy")
def split(self: Array, split_size: Size, dim: int = 0) -> tuple[Array, ...]:
    """Cut into pieces of a size; the last may be smaller."""
    total = self.shape[dim]
    if not (isinstance(total, int) and isinstance(split_size, int)):
        if isinstance(total, int) or total % split_size != 0:
            raise NotImplementedError("a split of an axis without a fixed size into pieces of a fixed one")
        count = total // split_size
        if not isinstance(count, int):
            raise NotImplementedError("a split into as many pieces as an input is long")
        return split_with_sizes(self, [split_size] * count, dim)
    sizes = [min(split_size, total - start) for start in range(0, total, split_size)] or [0]
    return split_with_sizes(self, sizes, dim)


@operator("aten.split_with_sizes", "aten.split_with_sizes_copy")
def split_with_sizes(self: Array, split_sizes: Sequence[Size], dim: int = 0) -> tuple[Array, ...]:
    """Cut into pieces of these sizes."""
    pieces, start = [], 0
    for size in split_sizes:
        pieces.append(_range(self, dim, start, start + size))
        start = start + size
    return tuple(pieces)


@operator("aten.chunk")
def chunk(self: Array, chunks: int, dim: int = 0) -> tuple[Array, ...]:
    """Cut into so many pieces."""
    size = self.shape[dim]
    return split(self, -(-size // chunks), dim)


@operator("aten.unbind")
def unbind(self: Array, dim: int = 0) -> tuple[Array, ...]:
    """Give each place of an axis."""
    return tuple(select(self, dim, i) for i in range(self.shape[dim]))


@operator("aten.narrow")
def narrow(self: Array, dim: int, start: Size, length: Size) -> Array:
    """Give a range of an axis."""
    return _range(self, dim, start, start + length)


@operator("aten.slice", "aten.slice_copy")
def slice_(self: Array, dim: int = 0, start: Size = None, end: Size = None, step: int = 1) -> Array:
    """Give a range of an axis as Python does, steps too."""
    size = self.shape[dim]
    first = _place(0 if start is None else start, size)
    last = size if end is None or (isinstance(end, int) and end > END) else _place(end, size)
    return _range(self, dim, first, core.max_dim(first, last), step)


def _place(at: Size, size: Size) -> Size:
    """Give a place from the start: negative ones count from the end, those outside are brought in."""
    if at is size:
        return at
    if isinstance(at, int) and isinstance(size, int):
        return min(max(at + size if at < 0 else at, 0), size)
    if isinstance(at, int) and at < 0:
        return core.max_dim(at + size, 0)
    return core.min_dim(at, size)


def _range(x: Array, dim: int, start: Size, end: Size, step: int = 1) -> Array:
    dim %= x.ndim
    if isinstance(start, int) and start == 0 and end is x.shape[dim] and step == 1:
        return x
    if step == 1:
        return x[(*[slice(None)] * dim, slice(start, end))]
    # By steps, indexing becomes a gather where another axis is symbolic, for which ONNX has no word.
    starts, limits, steps = [0] * x.ndim, list(x.shape), [1] * x.ndim
    starts[dim], limits[dim], steps[dim] = start, end, step
    return jax.lax.slice(x, starts, limits, steps)


@operator("aten.select", "aten.select_copy")
def select(self: Array, dim: int, index: Size) -> Array:
    """Give one place of an axis, without the axis."""
    dim %= self.ndim
    at = index + self.shape[dim] if isinstance(index, int) and index < 0 else index
    one = _range(self, dim, at, at + 1)
    return one.reshape([size for axis, size in enumerate(self.shape) if axis != dim])


@operator("aten.select_scatter")
def select_scatter(self: Array, src: Array, dim: int, index: Size) -> Array:
    """Put something in one place of an axis."""
    at = index + self.shape[dim] if isinstance(index, int) and index < 0 else index
    return _put(self, jnp.expand_dims(src, dim), dim, at, at + 1)


@operator("aten.slice_scatter")
def slice_scatter(self: Array, src: Array, dim: int = 0, start: Size = None, end: Size = None, step: int = 1) -> Array:
    """Put something in a range of an axis."""
    size = self.shape[dim]
    first = _place(0 if start is None else start, size)
    last = size if end is None or (isinstance(end, int) and end > END) else _place(end, size)
    if step != 1:
        dim %= self.ndim
        return self.at[(*[slice(None)] * dim, slice(first, last, step))].set(src)
    return _put(self, src, dim, first, last)


def _put(x: Array, piece: Array, dim: int, start: Size, end: Size) -> Array:
    pieces = [_range(x, dim, 0, start), piece.astype(x.dtype), _range(x, dim, end, x.shape[dim])]
    return jnp.concatenate([p for p in pieces if not (isinstance(p.shape[dim], int) and p.shape[dim] == 0)], axis=dim)


@operator("aten.flip")
def flip(self: Array, dims: Sequence[int]) -> Array:
    """Turn axes round."""
    return jnp.flip(self, tuple(dims))


@operator("aten.roll")
def roll(self: Array, shifts: Any, dims: Any = ()) -> Array:
    """Move along axes; what leaves one end comes in at the other."""
    if not dims:
        return roll(self.reshape(-1), shifts, [0]).reshape(self.shape)
    x = self
    for shift, dim in zip(_list(shifts), _list(dims), strict=True):
        size = x.shape[dim]
        at = (size - shift) if not isinstance(size, int) else -shift % max(size, 1)
        x = jnp.concatenate([_range(x, dim, at, size), _range(x, dim, 0, at)], axis=dim)
    return x


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


@operator("aten.constant_pad_nd")
def constant_pad_nd(self: Array, pad: Sequence[Size], value: Any = 0) -> Array:
    """Put a number around; below 0 it cuts off. `pad` begins with the last axis."""
    x = self
    for i in range(len(pad) // 2):
        dim = self.ndim - 1 - i
        low, high = pad[2 * i], pad[2 * i + 1]
        if isinstance(low, int) and low < 0:
            x, low = _range(x, dim, -low, x.shape[dim]), 0
        if isinstance(high, int) and high < 0:
            x, high = _range(x, dim, 0, x.shape[dim] + high), 0
        if not (isinstance(low, int) and isinstance(high, int) and low == high == 0):
            widths = [(0, 0)] * dim + [(low, high)] + [(0, 0)] * (self.ndim - 1 - dim)
            x = jnp.pad(x, widths, constant_values=value)
    return x


@operator("aten.pad")
def pad(self: Array, pad: Sequence[Size], mode: str = "constant", value: Any = None) -> Array:
    """Put a number around, or what is at the edge."""
    if mode == "constant":
        return constant_pad_nd(self, pad, 0 if value is None else value)
    return _padded(self, pad, {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode])


def _padded(x: Array, pad: Sequence[Size], mode: str) -> Array:
    count = len(pad) // 2
    widths = [(0, 0)] * (x.ndim - count) + [(pad[2 * i], pad[2 * i + 1]) for i in reversed(range(count))]
    return jnp.pad(x, widths, mode=mode)


@operator("aten.reflection_pad1d", "aten.reflection_pad2d", "aten.reflection_pad3d")
def reflection_pad(self: Array, padding: Sequence[Size]) -> Array:
    """Put around what a mirror at the edge shows."""
    return _padded(self, padding, "reflect")


@operator("aten.replication_pad1d", "aten.replication_pad2d", "aten.replication_pad3d")
def replication_pad(self: Array, padding: Sequence[Size]) -> Array:
    """Put around what is at the edge."""
    return _padded(self, padding, "edge")


@operator("aten.tril")
def tril(self: Array, diagonal: Size = 0) -> Array:
    """Keep what is on and below a diagonal."""
    return jnp.where(_below(self, diagonal), self, jnp.zeros((), self.dtype))


@operator("aten.triu")
def triu(self: Array, diagonal: Size = 0) -> Array:
    """Keep what is on and above a diagonal."""
    return jnp.where(_below(self, diagonal - 1), jnp.zeros((), self.dtype), self)


def _below(x: Array, diagonal: Size) -> Array:
    rows = jax.lax.broadcasted_iota(jnp.int32, x.shape[-2:], 0)
    columns = jax.lax.broadcasted_iota(jnp.int32, x.shape[-2:], 1)
    return columns <= rows + diagonal


@operator("aten.diagonal", "aten.diagonal_copy")
def diagonal(self: Array, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Array:
    """Give a diagonal of two axes."""
    return jnp.diagonal(self, offset, dim1, dim2)


@operator("aten.unfold", "aten.unfold_copy")
def unfold(self: Array, dimension: int, size: int, step: int) -> Array:
    """Give windows along an axis, on an axis of their own at the end."""
    dimension %= self.ndim
    count = (self.shape[dimension] - size) // step + 1
    windows = [
        jax.lax.slice_in_dim(self, i, i + (count - 1) * step + 1, step, axis=dimension)
        if isinstance(count, int)
        else _range(self, dimension, i, i + (count - 1) * step + 1, step)
        for i in range(size)
    ]
    return jnp.stack(windows, axis=-1)


@operator("aten.meshgrid")
def meshgrid(tensors: Sequence[Array], *, indexing: str = "ij") -> tuple[Array, ...]:
    """Give coordinates for each of several axes."""
    return tuple(jnp.meshgrid(*tensors, indexing=indexing))


@operator("aten.pixel_shuffle")
def pixel_shuffle(self: Array, upscale_factor: int) -> Array:
    """Turn channels into pixels."""
    *lead, channels, height, width = self.shape
    r = upscale_factor
    x = self.reshape(*lead, channels // r**2, r, r, height, width)
    n = len(lead)
    x = x.transpose(*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return x.reshape(*lead, channels // r**2, height * r, width * r)


@operator("aten.pixel_unshuffle")
def pixel_unshuffle(self: Array, downscale_factor: int) -> Array:
    """Turn pixels into channels."""
    *lead, channels, height, width = self.shape
    r = downscale_factor
    x = self.reshape(*lead, channels, height // r, r, width // r, r)
    n = len(lead)
    x = x.transpose(*range(n), n, n + 2, n + 4, n + 1, n + 3)
    return x.reshape(*lead, channels * r**2, height // r, width // r)


@operator("aten.im2col")
def im2col(
    self: Array,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Array:
    """Give the patches of pictures as columns: (rows, channels · patch, patches)."""
    *lead, channels, _, _ = self.shape
    widths = [(0, 0)] * (self.ndim - 2) + [(p, p) for p in padding]
    x = jnp.pad(self, widths)
    heights, widths_ = (
        (size - d * (k - 1) - 1) // s + 1
        for size, k, d, s in zip(x.shape[-2:], kernel_size, dilation, stride, strict=True)
    )
    pieces = []
    for i in range(kernel_size[0]):
        for j in range(kernel_size[1]):
            top, left = i * dilation[0], j * dilation[1]
            piece = _range(x, -2, top, top + (heights - 1) * stride[0] + 1, stride[0])
            pieces.append(_range(piece, -1, left, left + (widths_ - 1) * stride[1] + 1, stride[1]))
    columns = jnp.stack(pieces, axis=-3)
    return columns.reshape(*lead, channels * math.prod(kernel_size), heights * widths_)

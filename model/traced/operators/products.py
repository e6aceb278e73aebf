"""Products: matrices, einsum, attention."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from ... import ops
from . import operator

LOWEST = -1e30
"""In the place of minus infinity where a score does not count: of a row without one that does, no NaN comes."""


@operator("aten.linear")
def linear(input: Array, weight: Array, bias: Array | None = None) -> Array:  # noqa: A002 - ATen's name
    """X · weightᵀ + bias."""
    y = jnp.tensordot(input, weight.T, axes=1)
    return y if bias is None else y + bias


@operator("aten.matmul", "aten.mm", "aten.bmm", "aten.mv", "aten.dot", "aten.linalg_matmul")
def matmul(self: Array, other: Array) -> Array:
    """Multiply matrices, axes before them side by side."""
    return jnp.matmul(self, other)


@operator("aten.addmm")
def addmm(self: Array, mat1: Array, mat2: Array, *, beta: Any = 1, alpha: Any = 1) -> Array:
    """Beta · self + alpha · mat1 · mat2."""
    return _plus(self, jnp.matmul(mat1, mat2), beta, alpha)


@operator("aten.baddbmm")
def baddbmm(self: Array, batch1: Array, batch2: Array, *, beta: Any = 1, alpha: Any = 1) -> Array:
    """Beta · self + alpha · batch1 · batch2."""
    return _plus(self, jnp.matmul(batch1, batch2), beta, alpha)


@operator("aten.addmv")
def addmv(self: Array, mat: Array, vec: Array, *, beta: Any = 1, alpha: Any = 1) -> Array:
    """Beta · self + alpha · mat · vec."""
    return _plus(self, jnp.matmul(mat, vec), beta, alpha)


def _plus(addend: Array, product: Array, beta: Any, alpha: Any) -> Array:
    product = product if alpha == 1 else alpha * product
    return product if beta == 0 else product + (addend if beta == 1 else beta * addend)


@operator("aten.outer", "aten.ger")
def outer(self: Array, vec2: Array) -> Array:
    """Multiply each with each."""
    return self[:, None] * vec2[None]


@operator("aten.einsum")
def einsum(equation: str, tensors: Sequence[Array], *, path: Any = None) -> Array:
    """Sum products by the names of axes."""
    return jnp.einsum(equation, *tensors)


@operator("aten.bilinear")
def bilinear(input1: Array, input2: Array, weight: Array, bias: Array | None = None) -> Array:
    """X · weight · y + bias."""
    y = jnp.einsum("...i,oij,...j->...o", input1, weight, input2)
    return y if bias is None else y + bias


@operator("aten.cosine_similarity")
def cosine_similarity(x1: Array, x2: Array, dim: int = 1, eps: float = 1e-8) -> Array:
    """Give the cosine of the angle between vectors."""
    squares = (jnp.sum(x * x, axis=dim) for x in (x1, x2))
    first, second = (jnp.maximum(jnp.sqrt(each), eps) for each in squares)
    return jnp.sum(x1 * x2, axis=dim) / (first * second)


@operator("aten.scaled_dot_product_attention")
def scaled_dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Array:
    """Attend, (batch, heads, tokens, width): softmax(query · keyᵀ · scale + mask) · value."""
    lead, width = query.shape[:-3], query.shape[-1]
    scale = width**-0.5 if scale is None else scale
    if query.ndim == 3:  # one head
        mask = attn_mask if attn_mask is None or attn_mask.ndim < 3 else attn_mask[:, None]
        one, other, third = (x[:, None] for x in (query, key, value))
        return scaled_dot_product_attention(one, other, third, mask, dropout_p, is_causal, scale=scale)[:, 0]
    bias = _bias(query, key, attn_mask, is_causal)
    if len(lead) != 1 or query.shape[-1] != value.shape[-1]:
        return _plain(query, key, value, bias, scale)
    side = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    four = None if bias is None else bias.reshape((1,) * (4 - bias.ndim) + bias.shape)
    biases = () if four is None else (four,)
    return jnp.swapaxes(ops.attention(*side, *biases, scale=scale), 1, 2)


def _bias(query: Array, key: Array, mask: Array | None, causal: bool) -> Array | None:
    """Give what is added to the scores."""
    if causal:
        order = jnp.arange(key.shape[-2]) <= jnp.arange(query.shape[-2])[:, None]
        mask = order if mask is None else mask & order
    if mask is not None and mask.dtype == jnp.bool_:
        return jnp.where(mask, 0.0, LOWEST).astype(query.dtype)
    return mask


def _plain(query: Array, key: Array, value: Array, bias: Array | None, scale: float) -> Array:
    scores = jnp.matmul(query * scale, jnp.swapaxes(key, -1, -2))
    scores = scores if bias is None else scores + bias
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    return jnp.matmul(weights / jnp.sum(weights, axis=-1, keepdims=True), value)

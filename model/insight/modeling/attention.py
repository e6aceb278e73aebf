"""Attention, and each layer of it as a network of its own."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from ....validation.taps import is_close, scope, tap
from ... import ops
from ...attention import PROJECTIONS, Projections, mask_bias
from ...layers import tapped
from ..attention import AlibiConfig, AttentionConfig, GroupedConfig, PlainConfig
from .training import NONE, Drop, is_training

MASKED = -1e9
"""In place of the score of a position that does not count: where none counts, all of them do alike."""


def attend(
    query: Float[Array, "batch tokens heads d"],
    key: Float[Array, "batch source_tokens heads d"],
    value: Float[Array, "batch source_tokens heads value_d"],
    mask: Bool[Array, "#batch #heads #tokens source_tokens"] | None,
    bias: Float[Array, "heads tokens source_tokens"] | None = None,
    drop: Drop = NONE,
) -> tuple[Array, Array]:
    """Attend; give what each query sees, and the weights, (batch, heads, tokens, source_tokens)."""
    width = jnp.asarray(query.shape[-1], jnp.float32)
    scores = jnp.einsum("bthd,bshd->bhts", query * jax.lax.rsqrt(width), key)
    scores = scores if bias is None else scores + bias
    scores = scores if mask is None else jnp.where(mask, scores, MASKED)
    weights = ops.softmax(scores)
    weights = tap("weights", weights) if is_close() else weights
    return jnp.einsum("bhts,bshd->bthd", drop(weights), value), weights


class Attention(Projections):
    """Attention that can give its weights too, and drops some of them in training.

    Args:
        width: of what attends.
        heads: how many there are.
        inner: of all heads together; 0: `width`.
        qkv_bias: whether the projections into the heads have a bias.
        dropout: share of the weights, and of the result, that training drops.
        rngs: keys of what is drawn.
        other: widths of other things, as `Projections` calls them.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        inner: int = 0,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        **other: int,
    ):
        biased = PROJECTIONS if qkv_bias else ("out",)
        super().__init__(width, heads, head_dim=(inner or width) // heads, biased=biased, rngs=rngs, **other)
        self.groups = heads // other.get("kv_heads", heads)
        self.drop = Drop(dropout)

    def weighed(
        self,
        x: Float[Array, "batch tokens width"],
        key: Float[Array, "batch source_tokens source_width"],
        value: Float[Array, "batch source_tokens source_width"] | None = None,
        mask: Bool[Array, "..."] | None = None,
        bias: Float[Array, "heads tokens source_tokens"] | None = None,
    ) -> tuple[Array, Array]:
        """Give the result and the weights; a mask of three axes is that of all heads."""
        query, key, value = self.project(x, key, value)
        if self.groups > 1:
            key, value = (jnp.repeat(each, self.groups, axis=2) for each in (key, value))
        seen, weights = attend(query, key, value, of_heads(mask), bias, self.drop)
        return self.drop(tapped("out", self.out, seen)), weights

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        mask: Bool[Array, "..."] | None = None,
        source: Float[Array, "batch source_tokens source_width"] | None = None,
        bias: Float[Array, "heads tokens source_tokens"] | None = None,
    ) -> Float[Array, "batch tokens output"]:
        """Give the result alone, of the same tokens or of another sequence."""
        if bias is not None or is_training() or is_close():
            return self.weighed(x, x if source is None else source, mask=mask, bias=bias)[0]
        query, key, value = self.project(x, source)
        counts = of_heads(mask)
        if counts is not None:
            # The runtimes' own operator adds to scores. Where nothing counts, all scores are one number: 0.
            some = jnp.any(counts, axis=-1, keepdims=True)
            query = jnp.where(some.transpose(0, 2, 1, 3), query, 0.0)
            bias = mask_bias((counts | ~some).astype(jnp.float32), MASKED)
        return tapped("out", self.out, ops.attention(query, key, value, bias, scale=self.scale))


def of_heads(mask: Bool[Array, "..."] | None) -> Bool[Array, "#batch #heads #tokens source_tokens"] | None:
    """Give a mask an axis of heads, if it has none."""
    return mask[:, None] if mask is not None and mask.ndim == 3 else mask


class ScaledDotProductAttention(nnx.Module):
    """Attention without projections, of one head."""

    def __init__(self, config: PlainConfig, *, rngs: nnx.Rngs):
        self.drop = Drop(config.dropout)

    def forward(
        self,
        query: Float[Array, "batch tokens width"],
        key: Float[Array, "batch source_tokens width"],
        value: Float[Array, "batch source_tokens value_width"],
        mask: Bool[Array, "batch tokens source_tokens"],
    ) -> dict[str, Array]:
        """Queries, keys, values and mask -> what each query sees, and the weights."""
        query, key, value = query[:, :, None], key[:, :, None], value[:, :, None]
        context, weights = attend(query, key, value, mask[:, None], drop=self.drop)
        return {"context": context[:, :, 0], "weights": weights[:, 0]}


class MultiHeadAttention(nnx.Module):
    """Attention of several heads."""

    def __init__(self, config: AttentionConfig, *, rngs: nnx.Rngs):
        width, inner = config.input_dim, config.attention_dim
        self.attention = Attention(width, config.num_heads, inner=inner, dropout=config.dropout, rngs=rngs)

    def forward(
        self,
        query: Float[Array, "batch tokens width"],
        key: Float[Array, "batch source_tokens width"],
        value: Float[Array, "batch source_tokens width"],
        mask: Bool[Array, "batch tokens source_tokens"],
    ) -> dict[str, Array]:
        """Queries, keys, values and mask -> the result, and the mean of all heads' weights."""
        with scope("attention"):
            output, weights = self.attention.weighed(query, key, value, mask)
        return {"output": output, "weights": self.shown(weights)}

    def shown(self, weights: Float[Array, "batch heads tokens source_tokens"]) -> Array:
        """Give the weights as the layer gives them."""
        return jnp.mean(weights, axis=1)


class SimpleAttention(MultiHeadAttention):
    """Attention of one head, whose weights go through softmax once more before they are given."""

    def shown(self, weights: Float[Array, "batch heads tokens source_tokens"]) -> Array:
        """Give the weights as the layer gives them."""
        return ops.softmax(weights[:, 0])


class GroupedQueryAttention(nnx.Module):
    """Each head of keys and values serves several of the queries, next to each other."""

    def __init__(self, config: GroupedConfig, *, rngs: nnx.Rngs):
        self.attention = Attention(config.d_model, config.num_heads, kv_heads=config.num_key_value_heads, rngs=rngs)

    def forward(
        self, x: Float[Array, "batch tokens width"], mask: Bool[Array, "batch heads tokens tokens"]
    ) -> Float[Array, "batch tokens width"]:
        """Tokens and a mask by head -> (batch, tokens, width)."""
        with scope("attention"):
            return self.attention(x, mask)

    forward_as_documented = forward


class Slopes(nnx.Module):
    """What is added to scores by the distance of two tokens, by head."""

    def __init__(self, heads: int, longest: int):
        self.bias = nnx.Param(jnp.zeros((heads, longest, longest)))


class ALiBiAttention(nnx.Module):
    """Attention with linear biases (Press et al. 2021, arXiv:2108.12409), of whatever slopes the checkpoint has."""

    def __init__(self, config: AlibiConfig, *, rngs: nnx.Rngs):
        self.attention = Attention(config.hidden_size, config.num_heads, rngs=rngs)
        self.slopes = Slopes(config.num_heads, config.max_seq_length)

    def forward(
        self, x: Float[Array, "batch tokens width"], mask: Bool[Array, "batch heads tokens tokens"]
    ) -> Float[Array, "batch tokens width"]:
        """Tokens and a mask by head -> (batch, tokens, width)."""
        count = x.shape[1]
        bias = self.slopes.bias[...][:, :count, :count]
        with scope("attention"):
            return self.attention(x, mask, bias=bias)

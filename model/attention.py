"""Attention as families share it: projections into heads, the operator, the projection out; and what is masked."""

from collections.abc import Collection

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from . import ops
from .layers import Linear, Size, tapped

PROJECTIONS = ("query", "key", "value", "out")


class Projections(nnx.Module):
    """What attention learns: the projections into its heads and out of them.

    Args:
        width: of what attends.
        heads: of the queries.
        head_dim: width of a head; None: the heads share `width`.
        kv_heads: of keys and values, each of which serves several of the queries; None: as many as of the queries.
        source_width: of what is attended to; None: `width`.
        out_width: of the result; None: `width`.
        biased: the projections that have a bias.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        head_dim: int | None = None,
        kv_heads: int | None = None,
        source_width: int | None = None,
        out_width: int | None = None,
        biased: Collection[str] = PROJECTIONS,
        rngs: nnx.Rngs,
    ):
        head_dim = head_dim or width // heads
        inside, kept, source = (heads, head_dim), (kv_heads or heads, head_dim), (source_width or width,)
        self.query = Linear((width,), inside, use_bias="query" in biased, rngs=rngs)
        self.key = Linear(source, kept, use_bias="key" in biased, rngs=rngs)
        self.value = Linear(source, kept, use_bias="value" in biased, rngs=rngs)
        self.out = Linear(inside, (out_width or width,), use_bias="out" in biased, rngs=rngs)
        self.scale = head_dim**-0.5

    def project(
        self,
        x: Float[Array, "batch tokens width"],
        source: Float[Array, "batch source_tokens source_width"] | None = None,
        value: Float[Array, "batch source_tokens source_width"] | None = None,
    ) -> tuple[Array, Array, Array]:
        """Give queries, keys and values, each (batch, tokens, heads, head_dim); None: of what comes before it."""
        source = x if source is None else source
        return (
            tapped("query", self.query, x),
            tapped("key", self.key, source),
            tapped("value", self.value, source if value is None else value),
        )


class Attention(Projections):
    """Attention to the same tokens, or to those of another sequence."""

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        bias: Float[Array, "#batch #heads #tokens source_tokens"] | None = None,
        source: Float[Array, "batch source_tokens source_width"] | None = None,
    ) -> Float[Array, "batch tokens width"]:
        query, key, value = self.project(x, source)
        return tapped("out", self.out, ops.attention(query, key, value, bias, scale=self.scale))


def heads_first(x: Float[Array, "batch a b head_dim"]) -> Float[Array, "batch b a head_dim"]:
    """Exchange heads and places."""
    return jnp.swapaxes(x, 1, 2)


def mask_bias(counts: Float[Array, "*shape"], masked: float) -> Float[Array, "*shape"]:
    """Give what is added to scores: 0 where `counts` is 1, `masked` where it is 0.

    A product and not a choice, so that a program in float16 rounds one constant and computes the rest.
    """
    return (1 - counts) * masked


def padding(attention_mask: Int[Array, "batch tokens"]) -> Float[Array, "batch 1 1 tokens"]:
    """Say for each token whether it counts, for all heads and all that attend to it."""
    return attention_mask.astype(jnp.float32)[:, None, None, :]


def places(tokens: Size, before: Size | None = None) -> Int[Array, " tokens"]:
    """Number tokens, so many others being before them, if any are."""
    return jnp.arange(tokens) if before is None else jnp.arange(tokens) + before


def causal(tokens: Size, before: Size | None = None) -> Float[Array, "1 1 tokens so_far"]:
    """Say for each token which ones are not after it, so many more being before all of them, if any are."""
    so_far = jnp.arange(tokens if before is None else before + tokens)
    return (places(tokens, before)[:, None] >= so_far).astype(jnp.float32)[None, None]

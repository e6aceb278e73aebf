"""The layers of Edge Glass's own decoder in Flax NNX. Reads top to bottom: attention, block, blocks in turn, decoder.

Source: code of Edge Glass (src/decoders/trm.py).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ...validation.taps import scope
from .. import ops
from ..attention import Projections, causal, heads_first, mask_bias, places
from ..blocks import FeedForward
from ..layers import Embedding, RMSNorm, in_turn, tapped
from ..qwen.modeling import MASKED_SCORE, Cache, PastCache
from .config import Decoder
from .trm import TRM

Bias = Float[Array, "1 1 tokens so_far"]
Angles = Int[Array, " tokens"]


class TurnedAttention(Projections):
    """Attention to what is not later, by queries and keys that are turned as stored tables say."""

    def __init__(self, config: TRM, *, rngs: nnx.Rngs):
        super().__init__(config.width, config.num_heads, biased=(), rngs=rngs)
        shape = config.max_seq_len, config.head_dim
        self.cosines = nnx.Param(jax.random.normal(rngs.params(), shape))
        self.sines = nnx.Param(jax.random.normal(rngs.params(), shape))

    def __call__(
        self, x: Float[Array, "batch tokens width"], past: PastCache | None, bias: Bias, where: Angles
    ) -> tuple[Float[Array, "batch tokens width"], Cache]:
        query, key, value = self.project(x)
        query, key = self._turned(query, where), self._turned(key, where)
        kept = heads_first(key), heads_first(value)
        if past is not None:
            kept = jnp.concatenate([past[0], kept[0]], axis=2), jnp.concatenate([past[1], kept[1]], axis=2)
        attended = ops.attention(query, heads_first(kept[0]), heads_first(kept[1]), bias, scale=self.scale)
        return tapped("out", self.out, attended), kept

    def _turned(
        self, x: Float[Array, "batch tokens heads head_dim"], where: Angles
    ) -> Float[Array, "batch tokens heads head_dim"]:
        """Turn the first half of a head with the second. A place that no table has gives NaN, never another's."""
        cos, sin = (
            table[...].at[where].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)[:, None]
            for table in (self.cosines, self.sines)
        )
        low, high = jnp.split(x, 2, axis=-1)
        return x * cos + jnp.concatenate([-high, low], axis=-1) * sin


class Block(nnx.Module):
    """Attention and feed-forward: each of the normalised stream, added to it."""

    def __init__(self, config: TRM, *, rngs: nnx.Rngs):
        self.norm1 = RMSNorm(config.width, config.layer_norm_eps)
        self.attention = TurnedAttention(config, rngs=rngs)
        self.norm2 = RMSNorm(config.width, config.layer_norm_eps)
        self.mlp = FeedForward(config.width, config.inner, "gelu", rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch tokens width"], past: PastCache | None, bias: Bias, where: Angles
    ) -> tuple[Float[Array, "batch tokens width"], Cache]:
        normed = tapped("norm1", self.norm1, x)
        with scope("attention"):
            attended, kept = self.attention(normed, past, bias, where)
        x = x + attended
        normed = tapped("norm2", self.norm2, x)
        with scope("mlp"):
            return x + self.mlp(normed), kept


def passed(
    blocks: Sequence[nnx.Module], x: Float[Array, "batch tokens width"], past: Sequence[PastCache] = ()
) -> tuple[Float[Array, "batch tokens width"], list[Cache]]:
    """Let states pass all blocks, whatever of their row is padding; give them, and keys and values of all so far."""
    tokens, before = x.shape[1], past[0][0].shape[2] if past else None
    bias, where = mask_bias(causal(tokens, before), MASKED_SCORE), places(tokens, before)
    own: Sequence[PastCache | None] = past or [None] * len(blocks)
    return in_turn(blocks, "blocks", x, bias, where, own=own)


class TextDecoder(nnx.Module):
    """Scores a text behind a prefix; the words' table scores too."""

    def __init__(self, config: Decoder, *, rngs: nnx.Rngs):
        self.word = Embedding(config.vocab_size, config.width, rngs=rngs)
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.num_layers)])
        self.norm = RMSNorm(config.width, config.layer_norm_eps)

    def __call__(
        self, prefix: Float[Array, "batch places width"], input_ids: Int[Array, "batch tokens"]
    ) -> Float[Array, "batch so_far vocabulary"]:
        x = jnp.concatenate([prefix, tapped("word", self.word, input_ids)], axis=1)
        states = tapped("norm", self.norm, passed(self.blocks, x)[0])
        return states @ self.word.embedding[...].T

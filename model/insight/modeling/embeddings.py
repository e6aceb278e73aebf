"""Words and places."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ...layers import Embedding, tapped
from ..embeddings import PositionsConfig, RotaryConfig, WordsConfig
from .training import Drop


def look(word: Embedding, ids: Int[Array, "batch tokens"]) -> Float[Array, "batch tokens width"]:
    """Look words up, and multiply them by the root of their width."""
    return tapped("word", word, ids) * word.embedding.shape[1] ** 0.5


class TokenEmbedding(nnx.Module):
    """Words by themselves."""

    def __init__(self, config: WordsConfig, *, rngs: nnx.Rngs):
        self.word = Embedding(config.vocab_size, config.d_model, rngs=rngs)

    def forward(self, ids: Int[Array, "batch tokens"]) -> Float[Array, "batch tokens width"]:
        """(batch, tokens) ids -> (batch, tokens, width)."""
        return look(self.word, ids)


class PositionalEncoding(nnx.Module):
    """What a token's place adds to it."""

    def __init__(self, config: PositionsConfig, *, rngs: nnx.Rngs):
        self.position = Embedding(config.max_seq_length, config.d_model, rngs=rngs)
        self.drop = Drop(config.dropout)

    def forward(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        """(batch, tokens, width) -> the same with the places added."""
        return self.drop(x + self.position.first(x.shape[1]))

    def forward_ids(self, ids: Int[Array, "batch tokens"]) -> Float[Array, "batch tokens width"]:
        """(batch, tokens) -> (batch, tokens, width): each id as a number, in all places of its vector."""
        return self.forward(as_numbers(ids, self.position.embedding.shape[1]))


def as_numbers(ids: Int[Array, "batch tokens"], width: int) -> Float[Array, "batch tokens width"]:
    """Give each id as a vector that holds it everywhere, as upstream does where there is no table of words."""
    return jnp.broadcast_to(ids.astype(jnp.float32)[..., None], (*ids.shape, width))


class RotaryPositionEncoding(nnx.Module):
    """Rotates queries and keys by the angles of their places, in pairs next to each other."""

    def __init__(self, config: RotaryConfig, *, rngs: nnx.Rngs):
        shape = (config.max_seq_length, config.head_dim // 2)
        self.cos, self.sin = nnx.Param(jnp.ones(shape)), nnx.Param(jnp.zeros(shape))

    def forward(
        self, q: Float[Array, "batch tokens heads d"], k: Float[Array, "batch tokens heads d"]
    ) -> dict[str, Array]:
        """Queries and keys, (batch, tokens, heads, head_dim) -> the same, rotated."""
        cos, sin = (table[...][: q.shape[1], None] for table in (self.cos, self.sin))

        def rotated(x: Array) -> Array:  # not the native operator, which wants to know how many heads there are
            pairs = x.reshape(*x.shape[:-1], -1, 2)
            even, odd = pairs[..., 0], pairs[..., 1]
            return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)

        return {"query": rotated(q), "key": rotated(k)}

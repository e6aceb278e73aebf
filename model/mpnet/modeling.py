"""MPNet as a sentence encoder, in Flax NNX. Reads top to bottom: embeddings, distances, encoder, model.

Source: Song et al. 2020 (arXiv:2004.09297); the buckets of distances are those of Raffel et al. 2020
(arXiv:1910.10683). Post-norm, as BERT; names and what the papers leave open are transformers' MPNetModel's.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ...validation.taps import scope
from ..attention import mask_bias, padding
from ..bert.modeling import check_text, counted, layer
from ..layers import Embedding, LayerNorm, Size, in_turn, tapped
from ..pooling import embed, pipeline, with_vector
from .config import BUCKETS, EXACT, PADDING, MPNetConfig

MASKED_SCORE = float(np.finfo(np.float32).min)
"""Added to the score of a masked token, as transformers does in float32: no score makes up for it."""

LARGER = (12, 16, 23, 32, 46, 64, 91)
"""Distances at which the buckets behind the exact ones begin: 8 · 2^(k/2), rounded up; the first of them at 8."""


class Embeddings(nnx.Module):
    """Sum of word and position vectors, normalised."""

    def __init__(self, config: MPNetConfig, *, rngs: nnx.Rngs):
        width = config.hidden_size
        self.word = Embedding(config.vocab_size, width, rngs=rngs)
        self.position = Embedding(config.max_position_embeddings, width, rngs=rngs)
        self.norm = LayerNorm(width, config.layer_norm_eps)

    def __call__(self, input_ids: Int[Array, "batch tokens"]) -> Float[Array, "batch tokens width"]:
        positions = tapped("position", self.position, counted(input_ids, PADDING))
        return tapped("norm", self.norm, tapped("word", self.word, input_ids) + positions)


def buckets(tokens: Size) -> Int[Array, "tokens tokens"]:
    """Give for each token, and each that it attends to, the bucket of the distance between their places."""
    places = jnp.arange(tokens)
    distance = places - places[:, None]
    far = jnp.abs(distance)
    larger = sum((far >= least).astype(jnp.int32) for least in LARGER)
    return jnp.where(distance > 0, BUCKETS // 2, 0) + jnp.minimum(far, EXACT) + larger


class TextEncoder(nnx.Module):
    """Embeddings, layers with one table of distances, and pooling.

    Args:
        config: sizes and conventions.
        remat: recompute each layer in the backward pass instead of keeping its activations.
    """

    def __init__(self, config: MPNetConfig, *, remat: bool = False, rngs: nnx.Rngs):
        self.embeddings = Embeddings(config, rngs=rngs)
        self.distance = Embedding(config.relative_attention_num_buckets, config.num_attention_heads, rngs=rngs)
        self.layers = nnx.List([layer(config, rngs) for _ in range(config.num_hidden_layers)])
        self.pipeline = pipeline(config.pipeline, rngs=rngs)
        self.remat = remat

    def states(
        self, input_ids: Int[Array, "batch tokens"], attention_mask: Int[Array, "batch tokens"]
    ) -> Float[Array, "batch tokens width"]:
        """Give the last states. Distances are those of places in the padded row, positions those of tokens."""
        with scope("embeddings"):
            x = self.embeddings(input_ids)
        near = tapped("distance", self.distance, buckets(input_ids.shape[1])).transpose(2, 0, 1)[None]
        bias = near + mask_bias(padding(attention_mask), MASKED_SCORE)
        return in_turn(self.layers, "layers", x, bias, remat=self.remat)

    def __call__(
        self,
        input_ids: Int[Array, "batch tokens"],
        attention_mask: Int[Array, "batch tokens"],
        prompt_tokens: Int[Array, " batch"] | None = None,
    ) -> Float[Array, "batch embedding"]:
        """Embed texts."""
        return embed(self.pipeline, self.states(input_ids, attention_mask), attention_mask, prompt_tokens)


class MPNet(nnx.Module):
    """A text embedding model: all-mpnet-base-v2, any MPNet with a pipeline of sentence-transformers.

    Args:
        config: sizes and conventions.
        remat: trade a second forward pass for the memory of the activations when training.
    """

    def __init__(self, config: MPNetConfig, *, remat: bool = False, rngs: nnx.Rngs):
        self.text = TextEncoder(config, remat=remat, rngs=rngs)
        self.config = config

    def encode_text(
        self,
        input_ids: Int[Array, "batch tokens"],
        attention_mask: Int[Array, "batch tokens"],
        prompt_tokens: Int[Array, " batch"] | None = None,
    ) -> Float[Array, "batch embedding"]:
        """Embed texts: (batch, tokens) ids and mask -> (batch, embedding).

        A pooling that leaves the prompt out also takes how many tokens of each text are its prompt's, (batch,).

        Raises:
            ValueError: wrong rank, unequal shapes, or more tokens than there are positions.
        """
        check_text(input_ids, attention_mask, self.config.max_tokens)
        with scope("text"):
            return self.text(input_ids, attention_mask, prompt_tokens)

    __call__ = encode_text

    def token_states(
        self, input_ids: Int[Array, "batch tokens"], attention_mask: Int[Array, "batch tokens"]
    ) -> dict[str, Array]:
        """Give what Hugging Face's clients read, see `pooling.with_vector`."""
        with scope("text"):
            x = self.text.states(input_ids, attention_mask)
            return with_vector(x, self.text.pipeline, self.config.pipeline, attention_mask)

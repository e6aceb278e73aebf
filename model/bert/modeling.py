"""BERT and XLM-RoBERTa as sentence encoders, in Flax NNX. Reads top to bottom: embeddings, layer, encoder, model.

Source: Devlin et al. 2018 (arXiv:1810.04805), Conneau et al. 2019 (arXiv:1911.02116) for the positions
of XLM-RoBERTa, Xiao et al. 2023 (arXiv:2309.07597) for CLS pooling. Post-norm; the erf form of gelu.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ...validation.taps import scope
from ..attention import Attention, mask_bias, padding
from ..blocks import PostNormLayer
from ..layers import Embedding, LayerNorm, in_turn, tapped
from ..pooling import embed, pipeline, with_vector
from .config import BertConfig

MASKED_SCORE = float(np.finfo(np.float32).min)
"""Added to the score of a masked token, as transformers does in float32: no score makes up for it."""


class Embeddings(nnx.Module):
    """Sum of word, position and token-type vectors, normalised."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        width = config.hidden_size
        self.word = Embedding(config.vocab_size, width, rngs=rngs)
        self.position = Embedding(config.max_position_embeddings, width, rngs=rngs)
        self.token_type = Embedding(config.type_vocab_size, width, rngs=rngs)
        self.norm = LayerNorm(width, config.layer_norm_eps)
        self.config = config

    def __call__(
        self, input_ids: Int[Array, "batch tokens"], token_types: Int[Array, "batch tokens"] | None = None
    ) -> Float[Array, "batch tokens width"]:
        if self.config.model_type == "bert":
            positions = tapped("position", self.position.first, input_ids.shape[1])
        else:
            positions = tapped("position", self.position, counted(input_ids, self.config.pad_token_id))
        return self.embed(input_ids, positions, token_types)

    def embed(
        self,
        input_ids: Int[Array, "batch tokens"],
        positions: Float[Array, "... tokens width"],
        token_types: Int[Array, "batch tokens"] | None = None,
    ) -> Float[Array, "batch tokens width"]:
        """Embed with given position vectors. Without types, every token is of type 0."""
        words = tapped("word", self.word, input_ids)
        types = (
            self.token_type.embedding[0] if token_types is None else tapped("token_type", self.token_type, token_types)
        )
        return tapped("norm", self.norm, words + (positions + types))


def counted(input_ids: Int[Array, "batch tokens"], padding: int) -> Int[Array, "batch tokens"]:
    """Give each token its place among those that are no padding, from `padding` + 1; padding gets `padding`."""
    counts = (input_ids != padding).astype(jnp.int32)
    return jnp.cumsum(counts, axis=1) * counts + padding


class TextEncoder(nnx.Module):
    """Embeddings, layers and pooling.

    Args:
        masked_score: added to the score of a masked token.
        remat: recompute each layer in the backward pass instead of keeping its activations.
    """

    def __init__(self, config: BertConfig, *, masked_score: float = MASKED_SCORE, remat: bool = False, rngs: nnx.Rngs):
        self.embeddings = Embeddings(config, rngs=rngs)
        self.layers = nnx.List([layer(config, rngs) for _ in range(config.num_hidden_layers)])
        self.pipeline = pipeline(config.pipeline, rngs=rngs)
        self.config = config
        self.masked_score = masked_score
        self.remat = remat

    def __call__(
        self,
        input_ids: Int[Array, "batch tokens"],
        attention_mask: Int[Array, "batch tokens"],
        prompt_tokens: Int[Array, " batch"] | None = None,
    ) -> Float[Array, "batch embedding"]:
        """Embed texts."""
        with scope("embeddings"):
            x = self.embeddings(input_ids)
        return self.encode(x, attention_mask, prompt_tokens)

    def encode(
        self,
        x: Float[Array, "batch tokens width"],
        attention_mask: Int[Array, "batch tokens"],
        prompt_tokens: Int[Array, " batch"] | None = None,
    ) -> Float[Array, "batch embedding"]:
        """Run the layers on embedded tokens and pool them."""
        return self.pool(self.states(x, attention_mask), attention_mask, prompt_tokens)

    def states(
        self, x: Float[Array, "batch tokens width"], attention_mask: Int[Array, "batch tokens"]
    ) -> Float[Array, "batch tokens width"]:
        """Run the layers on embedded tokens."""
        bias = mask_bias(padding(attention_mask), self.masked_score)
        return in_turn(self.layers, "layers", x, bias, remat=self.remat)

    def pool(
        self,
        x: Float[Array, "batch tokens width"],
        attention_mask: Int[Array, "batch tokens"],
        prompt_tokens: Int[Array, " batch"] | None = None,
    ) -> Float[Array, "batch embedding"]:
        """Make one vector of each text's tokens."""
        return embed(self.pipeline, x, attention_mask, prompt_tokens)


def layer(config: BertConfig, rngs: nnx.Rngs) -> PostNormLayer:
    """Make a layer."""
    width = config.hidden_size
    attention = Attention(width, config.num_attention_heads, rngs=rngs)
    return PostNormLayer(attention, width, config.intermediate_size, config.hidden_act, config.layer_norm_eps, rngs)


class Bert(nnx.Module):
    """A text embedding model: BGE, MiniLM, any BERT or XLM-RoBERTa with a pipeline of sentence-transformers.

    Args:
        config: sizes and conventions.
        remat: trade a second forward pass for the memory of the activations when training.
    """

    def __init__(self, config: BertConfig, *, remat: bool = False, rngs: nnx.Rngs):
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
        self,
        input_ids: Int[Array, "batch tokens"],
        attention_mask: Int[Array, "batch tokens"],
        token_type_ids: Int[Array, "batch tokens"] | None = None,
    ) -> dict[str, Array]:
        """Give what Hugging Face's clients read, see `pooling.with_vector`; without types, every token is of type 0."""
        with scope("text"):
            x = self.text.states(self.text.embeddings(input_ids, token_type_ids), attention_mask)
            return with_vector(x, self.text.pipeline, self.config.pipeline, attention_mask)


def check_text(input_ids: Array, attention_mask: Array, max_tokens: int) -> None:
    """Refuse texts that the network has no positions for.

    Raises:
        ValueError: naming the argument, what was expected and what came.
    """
    if input_ids.ndim != 2:
        raise ValueError(f"input_ids must be (batch, tokens), got shape {input_ids.shape}")
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask must have the shape of input_ids {input_ids.shape}, got {attention_mask.shape}"
        )
    if input_ids.shape[1] > max_tokens:
        raise ValueError(f"input_ids has {input_ids.shape[1]} tokens, this network takes at most {max_tokens}")

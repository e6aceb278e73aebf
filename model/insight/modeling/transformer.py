"""Transformers: their layers, encoder and decoder, alone and together."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ....validation.taps import scope, tap
from ...blocks import of_normed
from ...layers import Embedding, LayerNorm, Linear, tapped
from ..encoder_decoder import EncoderDecoderConfig
from ..pieces import EPSILON
from ..transformer import DecoderConfig, EncoderConfig, LayerConfig, TransformerConfig
from .attention import Attention
from .embeddings import as_numbers, look
from .feed_forward import FeedForward
from .training import Drop, lead, one_by_one, perhaps


class Layer(nnx.Module):
    """Attention to the same tokens, perhaps to those of another text, and a feed-forward part, each after a norm."""

    def __init__(self, width: int, heads: int, inner: int, *, cross: bool, dropout: float, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(width, EPSILON)
        self.attention = Attention(width, heads, dropout=dropout, rngs=rngs)
        self.cross_norm = LayerNorm(width, EPSILON) if cross else None
        self.cross = Attention(width, heads, dropout=dropout, rngs=rngs) if cross else None
        self.norm2 = LayerNorm(width, EPSILON)
        self.mlp = FeedForward(width, inner, width, "relu", dropout=dropout, rngs=rngs)
        self.drop = Drop(dropout)

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        mask: Bool[Array, "#batch tokens tokens"] | None,
        memory: Float[Array, "batch source_tokens width"] | None = None,
        memory_mask: Bool[Array, "batch #tokens source_tokens"] | None = None,
    ) -> Float[Array, "batch tokens width"]:
        x = x + self.drop(of_normed(self, "norm1", "attention", x, mask))
        if self.cross is not None:
            x = x + self.drop(of_normed(self, "cross_norm", "cross", x, memory_mask, memory))
        return tap("output", x + self.drop(of_normed(self, "norm2", "mlp", x)))


class TransformerEncoderLayer(Layer):
    """A layer by itself."""

    def __init__(self, config: LayerConfig, *, rngs: nnx.Rngs):
        sizes = config.d_model, config.num_heads, config.d_ff
        super().__init__(*sizes, cross=False, dropout=config.dropout, rngs=rngs)

    def forward(
        self, x: Float[Array, "batch tokens width"], mask: Bool[Array, "batch tokens tokens"]
    ) -> Float[Array, "batch tokens width"]:
        """Tokens and their mask -> (batch, tokens, width)."""
        return self(x, mask)


class TransformerDecoderLayer(Layer):
    """A layer that sees another sequence, by itself."""

    def __init__(self, config: LayerConfig, *, rngs: nnx.Rngs):
        sizes = config.d_model, config.num_heads, config.d_ff
        super().__init__(*sizes, cross=True, dropout=config.dropout, rngs=rngs)

    def forward(
        self,
        x: Float[Array, "batch tokens width"],
        memory: Float[Array, "batch source_tokens width"],
        tgt_mask: Bool[Array, "batch tokens tokens"],
        memory_mask: Bool[Array, "batch tokens source_tokens"],
    ) -> Float[Array, "batch tokens width"]:
        """Tokens, those of the other sequence, and masks of both -> (batch, tokens, width)."""
        return self(x, tgt_mask, memory, memory_mask)


class Body(nnx.Module):
    """Words, places, layers and a last norm: an encoder, or with `cross` a decoder."""

    def __init__(self, config: EncoderConfig | DecoderConfig, *, cross: bool = False, rngs: nnx.Rngs):
        width, longest, share = config.d_model, config.max_seq_length, config.dropout
        self.word = Embedding(config.vocab_size, width, rngs=rngs) if config.vocab_size else None
        self.position = Embedding(longest, width, rngs=rngs) if longest else None
        sizes = width, config.num_heads, config.d_ff
        layers = [Layer(*sizes, cross=cross, dropout=share, rngs=rngs) for _ in range(config.num_layers)]
        self.layers = nnx.List(layers)
        self.norm = LayerNorm(width, EPSILON)
        self.width, self.drop = width, Drop(share)

    def __call__(self, x: Array, *others: Array | None) -> Float[Array, "batch tokens width"]:
        """Read ids, (batch, tokens), or vectors, (batch, tokens, width), with masks and what else is seen."""
        if x.ndim == 2:
            x = as_numbers(x, self.width) if self.word is None else look(self.word, x)
        if self.position is not None:
            x = self.drop(x + self.position.first(x.shape[1]))
        return tapped("norm", self.norm, one_by_one(self.layers, "layers", x, *others))


class TransformerEncoder(Body):
    """An encoder by itself."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)

    def forward(
        self, ids: Int[Array, "batch tokens"], mask: Bool[Array, "batch tokens tokens"]
    ) -> Float[Array, "batch tokens width"]:
        """Ids and mask -> the states of all tokens, (batch, tokens, width)."""
        return self(ids, mask)

    def forward_embeddings(
        self, x: Float[Array, "batch tokens width"], mask: Bool[Array, "batch tokens tokens"]
    ) -> Float[Array, "batch tokens width"]:
        """Vectors in place of words, and the mask -> the states of all tokens, (batch, tokens, width)."""
        return self(x, mask)


class TransformerDecoder(Body):
    """A decoder by itself, with its head."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        super().__init__(config, cross=True, rngs=rngs)
        self.head = Linear((config.d_model,), (config.vocab_size,), rngs=rngs)

    def forward(
        self,
        ids: Int[Array, "batch tokens"],
        memory: Float[Array, "batch source_tokens width"],
        tgt_mask: Bool[Array, "batch tokens tokens"],
        memory_mask: Bool[Array, "batch tokens source_tokens"],
    ) -> Float[Array, "batch tokens words"]:
        """Ids, what the encoder gave, and masks of both -> scores of words, (batch, tokens, words)."""
        return tapped("head", self.head, self(ids, tgt_mask, memory, memory_mask))


class Transformer(nnx.Module):
    """An encoder of vectors, between projections."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        width, first, last = config.d_model, config.input_dim, config.output_dim
        self.lead = lead(first, width, rngs)
        self.encoder = Body(config.encoder, rngs=rngs)
        self.head = lead(width, last, rngs)

    def forward(
        self, x: Float[Array, "batch tokens inputs"], mask: Bool[Array, "batch tokens tokens"]
    ) -> Float[Array, "batch tokens outputs"]:
        """Vectors and mask -> (batch, tokens, outputs)."""
        x = perhaps("lead", self.lead, x)
        with scope("encoder"):
            x = self.encoder(x, mask)
        return perhaps("head", self.head, x)


class EncoderDecoderTransformer(nnx.Module):
    """From one text to another."""

    def __init__(self, config: EncoderDecoderConfig, *, rngs: nnx.Rngs):
        self.encoder = Body(config.encoder, rngs=rngs)
        self.decoder = Body(config.decoder, cross=True, rngs=rngs)
        self.head = Linear((config.d_model,), (config.tgt_vocab_size,), rngs=rngs)

    def encode(
        self, src: Int[Array, "batch source_tokens"], src_mask: Bool[Array, "batch source_tokens source_tokens"]
    ) -> Float[Array, "batch source_tokens width"]:
        """Ids and mask -> states, (batch, source_tokens, width)."""
        with scope("encoder"):
            return self.encoder(src, src_mask)

    def decode(
        self,
        tgt: Int[Array, "batch tokens"],
        memory: Float[Array, "batch source_tokens width"],
        tgt_mask: Bool[Array, "#batch tokens tokens"],
        memory_mask: Bool[Array, "batch #tokens source_tokens"],
    ) -> Float[Array, "batch tokens words"]:
        """Ids, what `encode` gave, and masks -> scores of words, (batch, tokens, words)."""
        with scope("decoder"):
            states = self.decoder(tgt, tgt_mask, memory, memory_mask)
        return tapped("head", self.head, states)

    def forward(
        self,
        src: Int[Array, "batch source_tokens"],
        tgt: Int[Array, "batch tokens"],
        src_mask: Bool[Array, "batch source_tokens source_tokens"],
        tgt_mask: Bool[Array, "batch tokens tokens"],
        memory_mask: Bool[Array, "batch tokens source_tokens"],
    ) -> Float[Array, "batch tokens words"]:
        """Both texts and three masks -> scores of words, (batch, tokens, words)."""
        return self.decode(tgt, self.encode(src, src_mask), tgt_mask, memory_mask)

    def next_token(
        self,
        tgt: Int[Array, "batch tokens"],
        memory: Float[Array, "batch source_tokens width"],
        memory_mask: Bool[Array, "batch source_tokens"],
    ) -> Float[Array, "batch words"]:
        """The words so far, none of which sees a later one, what `encode` gave and which of it counts -> scores."""
        places = jnp.arange(tgt.shape[1])
        seen = (places[:, None] >= places)[None]
        return self.decode(tgt, memory, seen, memory_mask[:, None])[:, -1]

"""The Insight Engine in Flax NNX. Reads top to bottom: pieces, then a class for each class of upstream's.

Every network takes what upstream's method of the same name takes; masks are True where a position counts. In training,
inside `training(rngs)`, what upstream drops is dropped, and batch norms normalise by the batch and remember it.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ...validation.taps import is_close, scope, tap
from .. import ops
from ..attention import mask_bias
from ..layers import Embedding, LayerNorm, Linear, in_turn, tapped
from ..layers import PatchEmbedding as Patches
from .attention import (
    AlibiConfig,
    AttentionConfig,
    CrossConfig,
    FusionConfig,
    GroupedConfig,
    PlainConfig,
    PositionsConfig,
    RotaryConfig,
    WordsConfig,
)
from .feed_forward import BlockConfig, FeedForwardConfig, LinearConfig
from .multimodal import CrossAttentionConfig, DualConfig
from .pieces import EPSILON
from .transformer import DecoderConfig, EncoderConfig, EncoderDecoderConfig, LayerConfig, TransformerConfig
from .vision import PatchConfig, VisionConfig, computed_places

MASKED = -1e9
"""In place of the score of a position that does not count: where none counts, all of them do alike."""

ACTIVATIONS = {"relu": jax.nn.relu, "gelu": ops.gelu, "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid}

_training: ContextVar[nnx.Rngs | None] = ContextVar("training", default=None)


@contextmanager
def training(rngs: nnx.Rngs) -> Iterator[None]:
    """Compute as in training: drop what is to be dropped, by keys of `rngs.dropout`."""
    token = _training.set(rngs)
    try:
        yield
    finally:
        _training.reset(token)


@dataclass(frozen=True)
class Drop:
    """Sets a share of the numbers to 0 in training, and scales the others up; else gives them as they are."""

    share: float

    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        rngs = _training.get()
        if rngs is None or self.share == 0:
            return x
        kept = jax.random.bernoulli(rngs.dropout(), 1 - self.share, x.shape)
        return jnp.where(kept, x / max(1 - self.share, 1e-9), 0.0)


def one_by_one(layers: Iterable[nnx.Module], name: str, x: Array, *others: Any) -> Array:
    """Apply layers that are alike; in training each by itself, so that each drops numbers of its own."""
    if _training.get() is None:
        return in_turn(layers, name, x, *others)
    for i, layer in enumerate(layers):
        with scope(f"{name}.{i}"):
            x = layer(x, *others)
    return x


class FeedForward(nnx.Module):
    """Two linear layers with an activation between them; then norm, dropout and residual, where there are any."""

    def __init__(
        self,
        width: int,
        inner: int,
        outputs: int,
        activation: str,
        *,
        normed: bool = False,
        residual: bool = False,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self.up = Linear((width,), (inner,), rngs=rngs)
        self.down = Linear((inner,), (outputs,), rngs=rngs)
        self.norm = LayerNorm(outputs, EPSILON) if normed else None
        self.activation, self.residual, self.drop = ACTIVATIONS[activation], residual, Drop(dropout)

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch outputs"]:
        y = tapped("down", self.down, self.activation(tapped("up", self.up, x)))
        y = y if self.norm is None else tapped("norm", self.norm, y)
        y = self.drop(y)
        return y + x if self.residual else y


class FeedForwardNN(nnx.Module):
    """Blocks, and a linear layer that makes the output."""

    def __init__(self, config: FeedForwardConfig, *, rngs: nnx.Rngs):
        self.layers = nnx.List(
            [
                FeedForward(
                    one,
                    4 * one,
                    two,
                    config.activation,
                    normed=normed,
                    residual=residual,
                    dropout=config.dropout,
                    rngs=rngs,
                )
                for one, two, normed, residual in config.blocks
            ]
        )
        width = (config.hidden_sizes or (config.input_size,))[-1]
        perceptron = config.model_type == "MultiLayerPerceptron"
        self.head = None if perceptron else Linear((width,), (config.output_size,), rngs=rngs)

    def forward(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch outputs"]:
        """(batch, inputs) -> (batch, outputs); a classifier's are logits."""
        for i, layer in enumerate(self.layers):
            with scope(f"layers.{i}"):
                x = layer(x)
        return x if self.head is None else tapped("head", self.head, x)


class MultiLayerPerceptron(FeedForwardNN):
    """Blocks alone: the last one has neither norm nor residual."""


class FeedForwardClassifier(FeedForwardNN):
    """A network whose outputs are scores of classes."""

    def predict_proba(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch classes"]:
        """(batch, inputs) -> (batch, classes), each row adding up to 1."""
        return ops.softmax(self.forward(x))

    def predict(self, x: Float[Array, "batch inputs"]) -> Int[Array, " batch"]:
        """(batch, inputs) -> (batch,) the best class."""
        return jnp.argmax(self.forward(x), axis=-1).astype(jnp.int32)


class FeedForwardBlock(FeedForward):
    """A block by itself."""

    def __init__(self, config: BlockConfig, *, rngs: nnx.Rngs):
        super().__init__(
            config.input_dim,
            config.hidden_dim,
            config.output_dim,
            config.activation,
            normed=config.use_layer_norm,
            residual=config.use_residual,
            dropout=config.dropout,
            rngs=rngs,
        )

    def forward(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens outputs"]:
        """(batch, tokens, width) -> (batch, tokens, outputs)."""
        return self(x)


class LinearLayer(nnx.Module):
    """A linear layer with a norm, perhaps, and dropout."""

    def __init__(self, config: LinearConfig, *, rngs: nnx.Rngs):
        self.linear = Linear((config.in_features,), (config.out_features,), use_bias=config.bias, rngs=rngs)
        self.norm = LayerNorm(config.out_features, EPSILON) if config.use_layer_norm else None
        self.drop = Drop(config.dropout)

    def forward(self, x: Float[Array, "batch tokens inputs"]) -> Float[Array, "batch tokens outputs"]:
        """(batch, tokens, inputs) -> (batch, tokens, outputs)."""
        y = tapped("linear", self.linear, x)
        return self.drop(y if self.norm is None else tapped("norm", self.norm, y))


def attend(
    query: Float[Array, "batch tokens heads d"],
    key: Float[Array, "batch source_tokens heads d"],
    value: Float[Array, "batch source_tokens heads value_d"],
    mask: Bool[Array, "#batch #heads #tokens source_tokens"] | None,
    bias: Float[Array, "heads tokens source_tokens"] | None = None,
    drop: Drop = Drop(0.0),
) -> tuple[Array, Array]:
    """Attend; give what each query sees, and the weights, (batch, heads, tokens, source_tokens)."""
    width = jnp.asarray(query.shape[-1], jnp.float32)
    scores = jnp.einsum("bthd,bshd->bhts", query * jax.lax.rsqrt(width), key)
    scores = scores if bias is None else scores + bias
    scores = scores if mask is None else jnp.where(mask, scores, MASKED)
    weights = ops.softmax(scores)
    weights = tap("weights", weights) if is_close() else weights
    return jnp.einsum("bhts,bshd->bthd", drop(weights), value), weights


class Attention(nnx.Module):
    """Projections into heads and out of them.

    Args:
        width: of what attends.
        heads: how many there are.
        source: width of what is attended to; 0: `width`.
        inner: of all heads together; 0: `width`.
        output: of the result; 0: `width`.
        kv_heads: of keys and values; 0: as many as of queries.
        qkv_bias: whether the projections into the heads have a bias.
        dropout: share of the weights, and of the result, that training drops.
        rngs: keys of what is drawn.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        source: int = 0,
        inner: int = 0,
        output: int = 0,
        kv_heads: int = 0,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        d = (inner or width) // heads
        fewer = kv_heads or heads
        seen, kept = (source or width,), (fewer, d)
        self.query = Linear((width,), (heads, d), use_bias=qkv_bias, rngs=rngs)
        self.key = Linear(seen, kept, use_bias=qkv_bias, rngs=rngs)
        self.value = Linear(seen, kept, use_bias=qkv_bias, rngs=rngs)
        self.out = Linear((heads, d), (output or width,), rngs=rngs)
        self.groups = heads // fewer
        self.drop = Drop(dropout)

    def project(self, x: Array, key: Array, value: Array) -> tuple[Array, Array, Array]:
        """Give queries, keys and values, each (batch, tokens, heads, head_dim)."""
        return tapped("query", self.query, x), tapped("key", self.key, key), tapped("value", self.value, value)

    def weighed(
        self,
        x: Float[Array, "batch tokens width"],
        key: Float[Array, "batch source_tokens source_width"],
        value: Float[Array, "batch source_tokens source_width"],
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
        source = x if source is None else source
        if bias is not None or _training.get() is not None or is_close():
            return self.weighed(x, source, source, mask, bias)[0]
        query, key, value = self.project(x, source, source)
        scale, counts = query.shape[-1] ** -0.5, of_heads(mask)
        if counts is not None:
            # The runtimes' own operator adds to scores. Where nothing counts, all scores are one number: 0.
            some = jnp.any(counts, axis=-1, keepdims=True)
            query = jnp.where(some.transpose(0, 2, 1, 3), query, 0.0)
            bias = mask_bias((counts | ~some).astype(jnp.float32), MASKED)
        return tapped("out", self.out, ops.attention(query, key, value, bias, scale=scale))


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


class CrossModalAttention(nnx.Module):
    """One sequence attends to another, both normalised before."""

    def __init__(self, config: CrossConfig, *, rngs: nnx.Rngs):
        width = config.embed_dim
        self.query_norm = LayerNorm(config.query_dim, EPSILON)
        self.key_norm = LayerNorm(config.key_dim, EPSILON)
        self.attention = Attention(
            config.query_dim,
            config.num_heads,
            source=config.key_dim,
            inner=width,
            output=width,
            dropout=config.dropout,
            rngs=rngs,
        )

    def __call__(
        self,
        query: Float[Array, "batch tokens width"],
        key: Float[Array, "batch source_tokens source_width"],
        mask: Bool[Array, "batch tokens source_tokens"] | None = None,
    ) -> tuple[Array, Array]:
        """Give the result and the weights of all heads."""
        query, key = tapped("query_norm", self.query_norm, query), tapped("key_norm", self.key_norm, key)
        with scope("attention"):
            return self.attention.weighed(query, key, key, mask)

    def forward(
        self,
        query_features: Float[Array, "batch tokens width"],
        key_features: Float[Array, "batch source_tokens source_width"],
        attention_mask: Bool[Array, "batch tokens source_tokens"],
    ) -> dict[str, Array]:
        """Two sequences and a mask -> the result, and the weights of all heads."""
        output, weights = self(query_features, key_features, attention_mask)
        return {"output": output, "weights": weights}


class GatedCrossModalAttention(nnx.Module):
    """What is seen is let through by a gate, which looks at it and at who asks, and added to who asks."""

    def __init__(self, config: CrossConfig, *, rngs: nnx.Rngs):
        width = config.embed_dim
        self.cross = CrossModalAttention(config, rngs=rngs)
        self.lead = Linear((config.query_dim,), (width,), rngs=rngs) if config.query_dim != width else None
        self.gate_in = Linear((2 * width,), (width,), rngs=rngs)
        self.gate_norm = LayerNorm(width, EPSILON)
        self.gate_out = Linear((width,), (width,), rngs=rngs)

    def __call__(
        self,
        query: Float[Array, "batch tokens width"],
        key: Float[Array, "batch source_tokens source_width"],
        mask: Bool[Array, "batch tokens source_tokens"] | None = None,
    ) -> tuple[Array, Array]:
        """Give the result and the weights of all heads."""
        with scope("cross"):
            seen, weights = self.cross(query, key, mask)
        own = query if self.lead is None else tapped("lead", self.lead, query)
        gate = tapped("gate_in", self.gate_in, jnp.concatenate([own, seen], axis=-1))
        gate = tapped("gate_out", self.gate_out, ops.gelu(tapped("gate_norm", self.gate_norm, gate)))
        return own + jax.nn.sigmoid(gate) * seen, weights

    forward = CrossModalAttention.forward


class Widening(nnx.Module):
    """To four times the width, and back."""

    def __init__(self, width: int, *, dropout: float, rngs: nnx.Rngs):
        self.up = Linear((width,), (4 * width,), rngs=rngs)
        self.down = Linear((4 * width,), (width,), rngs=rngs)
        self.drop = Drop(dropout)

    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        inner = self.drop(ops.gelu(tapped("up", self.up, x)))
        return self.drop(tapped("down", self.down, inner))


class BidirectionalCrossAttention(nnx.Module):
    """Pictures' and texts' tokens attend to each other, at once."""

    def __init__(self, config: FusionConfig, *, rngs: nnx.Rngs):
        vision, text, width = config.vision_dim, config.text_dim, config.fusion_dim
        share = config.dropout
        self.text = GatedCrossModalAttention(CrossConfig("", text, vision, width, config.num_heads, share), rngs=rngs)
        self.vision = GatedCrossModalAttention(CrossConfig("", vision, text, width, config.num_heads, share), rngs=rngs)
        self.vision_mlp_norm = LayerNorm(width, EPSILON)
        self.vision_mlp = Widening(width, dropout=share, rngs=rngs)
        self.text_mlp_norm = LayerNorm(width, EPSILON)
        self.text_mlp = Widening(width, dropout=share, rngs=rngs)
        self.vision_lead = Linear((vision,), (width,), rngs=rngs) if vision != width else None
        self.text_lead = Linear((text,), (width,), rngs=rngs) if text != width else None

    def __call__(
        self,
        vision: Float[Array, "batch vision_tokens vision_width"],
        text: Float[Array, "batch text_tokens text_width"],
    ) -> tuple[Array, Array, Array, Array]:
        """Give both sequences, and the weights by which pictures see texts, and texts pictures."""
        with scope("text"):
            text_seen, text_weights = self.text(text, vision)
        with scope("vision"):
            vision_seen, vision_weights = self.vision(vision, text)
        text = text_seen + (text if self.text_lead is None else tapped("text_lead", self.text_lead, text))
        vision = vision_seen + (vision if self.vision_lead is None else tapped("vision_lead", self.vision_lead, vision))
        normed = tapped("text_mlp_norm", self.text_mlp_norm, text)
        with scope("text_mlp"):
            text = text + self.text_mlp(normed)
        normed = tapped("vision_mlp_norm", self.vision_mlp_norm, vision)
        with scope("vision_mlp"):
            vision = vision + self.vision_mlp(normed)
        return vision, text, vision_weights, text_weights

    def forward(
        self,
        vision: Float[Array, "batch vision_tokens vision_width"],
        text: Float[Array, "batch text_tokens text_width"],
    ) -> dict[str, Array]:
        """Two sequences -> both, each with what it saw of the other, and the weights of all heads."""
        vision, text, vision_weights, text_weights = self(vision, text)
        features = {"vision_features": vision, "text_features": text}
        return {**features, "vision_to_text_attn": vision_weights, "text_to_vision_attn": text_weights}


class Entry(nnx.Module):
    """Two linear layers with a norm between them."""

    def __init__(self, width: int, outputs: int, *, rngs: nnx.Rngs):
        self.first = Linear((width,), (outputs,), rngs=rngs)
        self.norm = LayerNorm(outputs, EPSILON)
        self.last = Linear((outputs,), (outputs,), rngs=rngs)

    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens outputs"]:
        inner = ops.gelu(tapped("norm", self.norm, tapped("first", self.first, x)))
        return tapped("last", self.last, inner)


class CoAttentionFusion(nnx.Module):
    """Layers of attention to each other; a token of its own goes before the pictures'."""

    def __init__(self, config: FusionConfig, *, rngs: nnx.Rngs):
        width = config.fusion_dim
        inner = FusionConfig("", width, width, width, config.num_heads, dropout=config.dropout)
        self.vision_in, self.text_in = (Entry(w, width, rngs=rngs) for w in (config.vision_dim, config.text_dim))
        self.token = nnx.Param(jnp.zeros(width))
        self.layers = nnx.List([BidirectionalCrossAttention(inner, rngs=rngs) for _ in range(config.num_layers)])
        self.fuse_norm = LayerNorm(2 * width, EPSILON)
        self.fuse = Linear((2 * width,), (width,), rngs=rngs)
        self.fused_norm = LayerNorm(width, EPSILON)
        self.vision_out = Linear((width,), (config.vision_dim,), rngs=rngs)
        self.text_out = Linear((width,), (config.text_dim,), rngs=rngs)
        self.drop = Drop(config.dropout)

    def fused(
        self,
        vision: Float[Array, "batch vision_tokens vision_width"],
        text: Float[Array, "batch text_tokens text_width"],
    ) -> tuple[Array, Array, Array, Array]:
        """Give both sequences inside, what is made of both, and the token by itself."""
        with scope("vision_in"):
            vision = self.vision_in(vision)
        with scope("text_in"):
            text = self.text_in(text)
        token = jnp.broadcast_to(self.token[...], (vision.shape[0], 1, vision.shape[2]))
        vision = jnp.concatenate([token, vision], axis=1)
        for i, layer in enumerate(self.layers):
            with scope(f"layers.{i}"):
                vision, text, _, _ = layer(vision, text)
        token, vision = vision[:, 0], vision[:, 1:]
        pooled = jnp.concatenate([jnp.mean(vision, axis=1), jnp.mean(text, axis=1)], axis=-1)
        fused = ops.gelu(tapped("fuse", self.fuse, tapped("fuse_norm", self.fuse_norm, pooled)))
        return vision, text, tapped("fused_norm", self.fused_norm, self.drop(fused)), token

    def forward(
        self,
        vision: Float[Array, "batch vision_tokens vision_width"],
        text: Float[Array, "batch text_tokens text_width"],
    ) -> dict[str, Array]:
        """Two sequences -> both, in their own widths, what is made of both, and the token by itself."""
        vision, text, fused, token = self.fused(vision, text)
        both = {
            "vision_features": tapped("vision_out", self.vision_out, vision),
            "text_features": tapped("text_out", self.text_out, text),
        }
        return {**both, "fusion_features": fused, "pooled_fusion": token}


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
        normed = tapped("norm1", self.norm1, x)
        with scope("attention"):
            x = x + self.drop(self.attention(normed, mask))
        if self.cross is not None and self.cross_norm is not None:
            normed = tapped("cross_norm", self.cross_norm, x)
            with scope("cross"):
                x = x + self.drop(self.cross(normed, memory_mask, memory))
        normed = tapped("norm2", self.norm2, x)
        with scope("mlp"):
            x = x + self.drop(self.mlp(normed))
        return tap("output", x)


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
        self.lead = Linear((first,), (width,), rngs=rngs) if first != width else None
        self.encoder = Body(config.encoder, rngs=rngs)
        self.head = Linear((width,), (last,), rngs=rngs) if last != width else None

    def forward(
        self, x: Float[Array, "batch tokens inputs"], mask: Bool[Array, "batch tokens tokens"]
    ) -> Float[Array, "batch tokens outputs"]:
        """Vectors and mask -> (batch, tokens, outputs)."""
        x = x if self.lead is None else tapped("lead", self.lead, x)
        with scope("encoder"):
            x = self.encoder(x, mask)
        return x if self.head is None else tapped("head", self.head, x)


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


class Pictures(nnx.Module):
    """Patches, a token before them perhaps, and places."""

    def __init__(self, config: VisionConfig | PatchConfig, *, token: bool, rounded: bool, rngs: nnx.Rngs):
        width, rows = config.embed_dim, config.tokens
        self.patch_embed = Patches(config.patch_size, config.in_channels, width, rngs=rngs)
        self.cls_token = nnx.Param(jnp.zeros(width)) if token else None
        learned = config.positional_encoding == "learned"
        self.position = Embedding(rows, width, rngs=rngs) if learned else None
        self.computed = (rows, width, rounded)
        self.used = config.image_size // config.patch_size * config.patch_size
        self.drop = Drop(config.dropout)

    def placed(self, images: Float[Array, "batch height width_px channels"]) -> Float[Array, "batch places width"]:
        """Give a vector for each patch, with its place added."""
        x = tapped("patch_embed", self.patch_embed, images[:, : self.used, : self.used])
        if self.cls_token is not None:
            token = jnp.broadcast_to(self.cls_token[...], (x.shape[0], 1, x.shape[2]))
            x = jnp.concatenate([token, x], axis=1)
        if self.position is not None:
            places = self.position.first(x.shape[1])
        else:
            rows, width, rounded = self.computed
            places = jnp.asarray(computed_places(rows, width, rounded=rounded))
        return self.drop(x + places)


class Mlp(nnx.Module):
    """Two linear layers with gelu between them."""

    def __init__(self, width: int, inner: int, *, dropout: float, rngs: nnx.Rngs):
        self.up = Linear((width,), (inner,), rngs=rngs)
        self.down = Linear((inner,), (width,), rngs=rngs)
        self.drop = Drop(dropout)

    def __call__(self, x: Float[Array, "batch places width"]) -> Float[Array, "batch places width"]:
        inner = self.drop(ops.gelu(tapped("up", self.up, x)))
        return self.drop(tapped("down", self.down, inner))


class Block(nnx.Module):
    """Attention and feed-forward part of a VisionTransformer, a norm before each."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        width = config.embed_dim
        self.norm1 = LayerNorm(width, EPSILON)
        self.attention = Attention(width, config.num_heads, qkv_bias=config.qkv_bias, rngs=rngs)
        self.norm2 = LayerNorm(width, EPSILON)
        self.mlp = Mlp(width, config.mlp_width, dropout=config.dropout, rngs=rngs)
        self.drop = Drop(config.dropout)

    def __call__(self, x: Float[Array, "batch places width"]) -> Float[Array, "batch places width"]:
        normed = tapped("norm1", self.norm1, x)
        with scope("attention"):
            x = x + self.drop(self.attention(normed))
        normed = tapped("norm2", self.norm2, x)
        with scope("mlp"):
            return tap("output", x + self.mlp(normed))


class VisionBody(Pictures):
    """A VisionTransformer without its head."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        super().__init__(config, token=config.pool == "cls", rounded=False, rngs=rngs)
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.depth)])
        self.norm = LayerNorm(config.embed_dim, EPSILON)

    def states(self, images: Float[Array, "batch height width_px channels"]) -> Float[Array, "batch places width"]:
        """Give the states of all places, normalised."""
        return tapped("norm", self.norm, one_by_one(self.blocks, "blocks", self.placed(images)))

    def pooled(self, images: Float[Array, "batch height width_px channels"]) -> Float[Array, "batch width"]:
        """Give the class token's state, or the mean where there is none."""
        states = self.states(images)
        return jnp.mean(states, axis=1) if self.cls_token is None else states[:, 0]


class VisionTransformer(VisionBody):
    """Scores pictures."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.head = Linear((config.embed_dim,), (config.num_classes,), rngs=rngs)

    def forward(self, images: Float[Array, "batch height width_px channels"]) -> Float[Array, "batch classes"]:
        """(batch, height, width, channels), normalised -> logits, (batch, classes)."""
        return tapped("head", self.head, self.pooled(images))

    def extract_features(self, images: Float[Array, "batch height width_px channels"]) -> Float[Array, "batch width"]:
        """(batch, height, width, channels), normalised -> what the head scores, (batch, width)."""
        return self.pooled(images)


class PatchEmbedding(Pictures):
    """Patches and places by themselves."""

    def __init__(self, config: PatchConfig, *, rngs: nnx.Rngs):
        super().__init__(config, token=config.use_cls_token, rounded=True, rngs=rngs)

    def forward(self, images: Float[Array, "batch height width_px channels"]) -> Float[Array, "batch places width"]:
        """(batch, height, width, channels), normalised -> (batch, places, width)."""
        return self.placed(images)


class BatchNorm(nnx.Module):
    """Normalises each number by what it was in training; in training by its batch, which is remembered."""

    def __init__(self, width: int):
        self.scale, self.bias = nnx.Param(jnp.ones(width)), nnx.Param(jnp.zeros(width))
        self.mean, self.variance = nnx.BatchStat(jnp.zeros(width)), nnx.BatchStat(jnp.ones(width))

    def __call__(self, x: Float[Array, "batch width"]) -> Float[Array, "batch width"]:
        mean, variance = self.mean[...], self.variance[...]
        if _training.get() is not None:
            self.mean[...] = (1 - MOMENTUM) * mean + MOMENTUM * jnp.mean(x, axis=0)
            self.variance[...] = (1 - MOMENTUM) * variance + MOMENTUM * jnp.var(x, axis=0, ddof=1)
            mean, variance = jnp.mean(x, axis=0), jnp.var(x, axis=0)
        return (x - mean) * jax.lax.rsqrt(variance + EPSILON) * self.scale[...] + self.bias[...]


MOMENTUM = 0.1
"""The share of a batch in what batch norms remember: torch's default."""


class Asymmetric(nnx.Module):
    """Two linear layers with a norm between them, and a batch norm; in training scaled up, at most `most` times."""

    def __init__(self, width: int, outputs: int, most: int, *, rngs: nnx.Rngs):
        self.first = Linear((width,), (width,), rngs=rngs)
        self.norm = LayerNorm(width, EPSILON)
        self.last = Linear((width,), (outputs,), rngs=rngs)
        self.batch_norm = BatchNorm(outputs)
        self.most = most

    def __call__(self, x: Float[Array, "batch width"]) -> Float[Array, "batch outputs"]:
        inner = ops.gelu(tapped("norm", self.norm, tapped("first", self.first, x)))
        y = tapped("batch_norm", self.batch_norm, tapped("last", self.last, inner))
        if _training.get() is None:
            return y
        spread = jnp.mean(jnp.var(y, axis=0, ddof=1))
        return y * jnp.clip(jax.lax.rsqrt(spread), 1.0, self.most)


class Normed(nnx.Module):
    """A linear layer and a norm."""

    def __init__(self, width: int, outputs: int, *, dropout: float, rngs: nnx.Rngs):
        self.linear = Linear((width,), (outputs,), rngs=rngs)
        self.norm = LayerNorm(outputs, EPSILON)
        self.drop = Drop(dropout)

    def __call__(self, x: Float[Array, "batch width"]) -> Float[Array, "batch outputs"]:
        return self.drop(tapped("norm", self.norm, tapped("linear", self.linear, x)))


class Towers(nnx.Module):
    """A text and a picture tower, each with a projection into one space."""

    vision_projection: Any
    text_projection: Any

    def __init__(self, config: DualConfig, *, rngs: nnx.Rngs):
        self.vision = VisionBody(config.vision_model, rngs=rngs)
        self.text = Body(config.text_model, rngs=rngs)

    def encode_image(self, images: Float[Array, "batch height width_px channels"]) -> Float[Array, "batch width"]:
        """(batch, height, width, channels), normalised -> features, (batch, projection_dim)."""
        with scope("vision"):
            seen = self.vision.pooled(images)
        with scope("vision_projection"):
            return self.vision_projection(seen)

    def encode_text(
        self, src: Int[Array, "batch tokens"], src_mask: Bool[Array, "batch tokens tokens"] | None = None
    ) -> Float[Array, "batch width"]:
        """Ids, with a mask where the text model takes one -> features, (batch, projection_dim)."""
        with scope("text"):
            states = self.text(src, src_mask)
        with scope("text_projection"):
            return self.text_projection(states[:, 0])

    def similarity(
        self,
        images: Float[Array, "images height width_px channels"],
        src: Int[Array, "texts tokens"],
        src_mask: Bool[Array, "texts tokens tokens"] | None = None,
    ) -> Float[Array, "images texts"]:
        """Score each picture against each text -> (images, texts)."""
        return self.scaled(cosines(self.encode_image(images), self.encode_text(src, src_mask)))

    def scaled(self, scores: Float[Array, "images texts"]) -> Float[Array, "images texts"]:
        """Give scores as they are given."""
        return scores


def cosines(one: Float[Array, "rows width"], other: Float[Array, "columns width"]) -> Float[Array, "rows columns"]:
    """Give the cosine of each pair."""
    return ops.l2_normalize(one, epsilon=SHORT) @ ops.l2_normalize(other, epsilon=SHORT).T


SHORT = 1e-12
"""The least length that is divided by: torch's default."""


class DualEncoder(Towers):
    """Two towers whose scores have a learned scale."""

    def __init__(self, config: DualConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.vision_projection = Asymmetric(config.vision_model.embed_dim, config.projection_dim, 10, rngs=rngs)
        self.text_projection = Asymmetric(config.text_model.d_model, config.projection_dim, 8, rngs=rngs)
        self.logit_scale = nnx.Param(jnp.log(jnp.asarray(1 / 0.07)))

    def scaled(self, scores: Float[Array, "images texts"]) -> Float[Array, "images texts"]:
        """Multiply by the scale, from 1 to 100."""
        return jnp.clip(jnp.exp(self.logit_scale[...]), 1.0, 100.0) * scores


class MultiModalTransformer(Towers):
    """Two towers whose scores are cosines."""

    def __init__(self, config: DualConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        shared, share = config.projection_dim, config.dropout
        self.vision_projection = Normed(config.vision_model.embed_dim, shared, dropout=share, rngs=rngs)
        self.text_projection = Normed(config.text_model.d_model, shared, dropout=share, rngs=rngs)


class CrossAttentionMultiModalTransformer(nnx.Module):
    """Two towers whose tokens attend to each other."""

    def __init__(self, config: CrossAttentionConfig, *, rngs: nnx.Rngs):
        self.vision = VisionBody(config.vision_model, rngs=rngs)
        self.text = Body(config.text_model, rngs=rngs)
        fusion = CoAttentionFusion if config.fused else BidirectionalCrossAttention
        self.fusion: Any = fusion(config.fusion, rngs=rngs)
        width = config.fusion_dim
        self.match_norm = LayerNorm(width, EPSILON) if config.fused else None
        self.match_in = Linear((width,), (width,), rngs=rngs) if config.fused else None
        self.match_out = Linear((width,), (2,), rngs=rngs) if config.fused else None
        self.drop = Drop(config.dropout)

    def extract_vision_features(
        self, images: Float[Array, "batch height width_px channels"]
    ) -> Float[Array, "batch places width"]:
        """(batch, height, width, channels), normalised -> states of all places, (batch, places, width)."""
        with scope("vision"):
            return self.vision.states(images)

    def extract_text_features(
        self, src: Int[Array, "batch tokens"], src_mask: Bool[Array, "batch tokens tokens"] | None = None
    ) -> Float[Array, "batch tokens width"]:
        """Ids and mask -> states of all tokens, (batch, tokens, width)."""
        with scope("text"):
            return self.text(src, src_mask)

    def forward(
        self,
        images: Float[Array, "batch height width_px channels"],
        src: Int[Array, "batch tokens"],
        src_mask: Bool[Array, "batch tokens tokens"] | None = None,
    ) -> dict[str, Array]:
        """Pairs of picture and text -> what each side makes of the other, and of both the vectors and the match."""
        vision, text = self.extract_vision_features(images), self.extract_text_features(src, src_mask)
        with scope("fusion"):
            fused = self.fusion.forward(vision, text)
        enhanced = {f"{side}_features_enhanced": fused[f"{side}_features"] for side in ("vision", "text")}
        if self.match_norm is None or self.match_in is None or self.match_out is None:
            return enhanced
        inner = tapped("match_in", self.match_in, tapped("match_norm", self.match_norm, fused["fusion_features"]))
        match = tapped("match_out", self.match_out, self.drop(ops.gelu(inner)))
        both = {name: fused[name] for name in ("fusion_features", "pooled_fusion")}
        return {**enhanced, **both, "classification": match}

    def similarity(
        self,
        images: Float[Array, "batch height width_px channels"],
        src: Int[Array, "batch tokens"],
        src_mask: Bool[Array, "batch tokens tokens"] | None = None,
    ) -> Float[Array, "batch batch"]:
        """Pairs -> cosines of each pair's fused vector with each other's, (batch, batch)."""
        vision, text = self.extract_vision_features(images), self.extract_text_features(src, src_mask)
        with scope("fusion"):
            _, _, fused, _ = self.fusion.fused(vision, text)
        return cosines(fused, fused)

    def raw_similarity(
        self,
        images: Float[Array, "images height width_px channels"],
        src: Int[Array, "texts tokens"],
        src_mask: Bool[Array, "texts tokens tokens"] | None = None,
    ) -> Float[Array, "images texts"]:
        """Score the mean state of each picture against that of each text, before both are fused."""
        vision, text = self.extract_vision_features(images), self.extract_text_features(src, src_mask)
        return cosines(jnp.mean(vision, axis=1), jnp.mean(text, axis=1))

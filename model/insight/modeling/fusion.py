"""Attention of pictures' and texts' tokens to each other."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from ....validation.taps import scope
from ... import ops
from ...layers import LayerNorm, Linear, tapped
from ..fusion import CrossConfig, FusionConfig
from ..pieces import EPSILON
from .attention import Attention
from .training import Drop


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

"""Attention of pictures' and texts' tokens to each other."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from ....validation.taps import scope
from ... import ops
from ...blocks import of_normed
from ...layers import LayerNorm, Linear, tapped
from ..fusion import CrossConfig, FusionConfig
from ..pieces import EPSILON
from .attention import Attention
from .feed_forward import Mlp, NormedMlp
from .training import Drop, before, lead, perhaps


class CrossModalAttention(nnx.Module):
    """One sequence attends to another, both normalised before."""

    def __init__(self, config: CrossConfig, *, rngs: nnx.Rngs):
        width = config.embed_dim
        self.query_norm = LayerNorm(config.query_dim, EPSILON)
        self.key_norm = LayerNorm(config.key_dim, EPSILON)
        widths: dict[str, Any] = {"inner": width, "source_width": config.key_dim, "out_width": width}
        self.attention = Attention(config.query_dim, config.num_heads, dropout=config.dropout, rngs=rngs, **widths)

    def __call__(
        self,
        query: Float[Array, "batch tokens width"],
        key: Float[Array, "batch source_tokens source_width"],
        mask: Bool[Array, "batch tokens source_tokens"] | None = None,
    ) -> tuple[Array, Array]:
        """Give the result and the weights of all heads."""
        query, key = tapped("query_norm", self.query_norm, query), tapped("key_norm", self.key_norm, key)
        with scope("attention"):
            return self.attention.weighed(query, key, mask=mask)

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
        self.lead = lead(config.query_dim, width, rngs)
        self.gate = NormedMlp(2 * width, width, width, rngs=rngs)

    def __call__(
        self,
        query: Float[Array, "batch tokens width"],
        key: Float[Array, "batch source_tokens source_width"],
        mask: Bool[Array, "batch tokens source_tokens"] | None = None,
    ) -> tuple[Array, Array]:
        """Give the result and the weights of all heads."""
        with scope("cross"):
            seen, weights = self.cross(query, key, mask)
        own = perhaps("lead", self.lead, query)
        with scope("gate"):
            gate = self.gate(jnp.concatenate([own, seen], axis=-1))
        return own + jax.nn.sigmoid(gate) * seen, weights

    forward = CrossModalAttention.forward


class BidirectionalCrossAttention(nnx.Module):
    """Pictures' and texts' tokens attend to each other, at once."""

    def __init__(self, config: FusionConfig, *, rngs: nnx.Rngs):
        vision, text, width = config.vision_dim, config.text_dim, config.fusion_dim
        share = config.dropout
        self.text = GatedCrossModalAttention(CrossConfig("", text, vision, width, config.num_heads, share), rngs=rngs)
        self.vision = GatedCrossModalAttention(CrossConfig("", vision, text, width, config.num_heads, share), rngs=rngs)
        self.vision_mlp_norm = LayerNorm(width, EPSILON)
        self.vision_mlp = Mlp(width, 4 * width, dropout=share, rngs=rngs)
        self.text_mlp_norm = LayerNorm(width, EPSILON)
        self.text_mlp = Mlp(width, 4 * width, dropout=share, rngs=rngs)
        self.vision_lead, self.text_lead = (lead(own, width, rngs) for own in (vision, text))

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
        text = text_seen + perhaps("text_lead", self.text_lead, text)
        vision = vision_seen + perhaps("vision_lead", self.vision_lead, vision)
        text = text + of_normed(self, "text_mlp_norm", "text_mlp", text)
        vision = vision + of_normed(self, "vision_mlp_norm", "vision_mlp", vision)
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


class CoAttentionFusion(nnx.Module):
    """Layers of attention to each other; a token of its own goes before the pictures'."""

    def __init__(self, config: FusionConfig, *, rngs: nnx.Rngs):
        width = config.fusion_dim
        inner = FusionConfig("", width, width, width, config.num_heads, dropout=config.dropout)
        self.vision_in = NormedMlp(config.vision_dim, width, width, rngs=rngs)
        self.text_in = NormedMlp(config.text_dim, width, width, rngs=rngs)
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
        vision = before(self.token, vision)
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

"""Two towers, and what brings pictures and texts together."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ....validation.taps import scope
from ... import ops
from ...layers import LayerNorm, Linear, tapped
from ..multimodal import CrossAttentionConfig, DualConfig
from ..pieces import EPSILON
from .feed_forward import NormedMlp
from .fusion import BidirectionalCrossAttention, CoAttentionFusion
from .training import BatchNorm, Drop, is_training
from .transformer import Body
from .vision import VisionBody


class Asymmetric(NormedMlp):
    """A projection and a batch norm; in training scaled up, at most `most` times."""

    def __init__(self, width: int, outputs: int, most: int, *, rngs: nnx.Rngs):
        super().__init__(width, width, outputs, rngs=rngs)
        self.batch_norm = BatchNorm(outputs)
        self.most = most

    def __call__(self, x: Float[Array, "batch width"]) -> Float[Array, "batch outputs"]:
        y = tapped("batch_norm", self.batch_norm, super().__call__(x))
        if not is_training():
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

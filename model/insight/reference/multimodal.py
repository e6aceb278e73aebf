"""`modeling/multimodal.py` in plain PyTorch."""

from typing import Any

import torch
from torch import Tensor, nn

from ....validation.taps import scope
from ..multimodal import CrossAttentionConfig, DualConfig
from ..transformer import EncoderConfig
from .feed_forward import normed_mlp
from .fusion import BidirectionalCrossAttention, CoAttentionFusion
from .transformer import BodyPiece
from .vision import VisionPiece


class TextPiece(nn.Module):
    """`encoder`, of a network whose decoder is not read."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.encoder = BodyPiece(config, cross=False)

    def read(self, src: Tensor, mask: Tensor | None) -> Tensor:
        """Read ids -> (batch, tokens, width)."""
        return self.encoder.read(src, mask)


class TowersPiece(nn.Module):
    """`vision_model` and `text_model`."""

    unused: tuple[str, ...] = ("vision_model.head.", "text_model.decoder.", "text_model.output_projection.")

    def __init__(self, config: DualConfig | CrossAttentionConfig):
        super().__init__()
        text, masked = config.text_model, config.text_model.model_type == "EncoderDecoderTransformer"
        self.vision_model = VisionPiece(config.vision_model)
        self.text_model: Any = TextPiece(text) if masked else BodyPiece(text, cross=False)

    def seen(self, images: Tensor, *, pooled: bool) -> Tensor:
        """Give a picture's states, or its pooled one."""
        with scope("vision"):
            return self.vision_model.pooled(images) if pooled else self.vision_model.states(images)

    def read(self, src: Tensor, src_mask: Tensor | None) -> Tensor:
        """Give a text's states."""
        with scope("text"):
            return self.text_model.read(src, src_mask)


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """Give the cosine of each pair."""
    return nn.functional.normalize(one, dim=-1) @ nn.functional.normalize(other, dim=-1).T


class DualEncoder(TowersPiece):
    """With `vision_proj`, `text_proj`, `logit_scale`."""

    def __init__(self, config: DualConfig):
        super().__init__(config)
        shared = config.projection_dim
        self.vision_proj, self.text_proj = (
            normed_mlp(own, own, shared, nn.BatchNorm1d(shared))
            for own in (config.vision_model.embed_dim, config.text_model.d_model)
        )
        self.logit_scale = nn.Parameter(torch.empty(()))

    def encode_image(self, images: Tensor) -> Any:
        """Entry point."""
        return {"vision_features": self.vision_proj(self.seen(images, pooled=True))}

    def encode_text(self, src: Tensor, src_mask: Tensor | None = None) -> Any:
        """Entry point."""
        return {"text_features": self.text_proj(self.read(src, src_mask)[:, 0])}

    def similarity(self, images: Tensor, src: Tensor, src_mask: Tensor | None = None) -> Any:
        """Entry point."""
        (one,), (other,) = self.encode_image(images).values(), self.encode_text(src, src_mask).values()
        return {"similarity": self.logit_scale.exp().clamp(1, 100) * cosines(one, other)}


class MultiModalTransformer(TowersPiece):
    """With `vision_projection` and `text_projection`."""

    def __init__(self, config: DualConfig):
        super().__init__(config)
        shared = config.projection_dim
        self.vision_projection: Any
        self.text_projection: Any
        self.vision_projection, self.text_projection = (
            nn.Sequential(nn.Linear(own, shared), nn.LayerNorm(shared))
            for own in (config.vision_model.embed_dim, config.text_model.d_model)
        )

    def encode_image(self, images: Tensor) -> Any:
        """Entry point."""
        return {"image_features": self.vision_projection(self.seen(images, pooled=True))}

    def encode_text(self, src: Tensor, src_mask: Tensor | None = None) -> Any:
        """Entry point."""
        return {"text_features": self.text_projection(self.read(src, src_mask)[:, 0])}

    def similarity(self, images: Tensor, src: Tensor, src_mask: Tensor | None = None) -> Any:
        """Entry point."""
        (one,), (other,) = self.encode_image(images).values(), self.encode_text(src, src_mask).values()
        return {"similarity": cosines(one, other)}


class CrossAttentionMultiModalTransformer(TowersPiece):
    """With `fusion_module` and `classifier`."""

    def __init__(self, config: CrossAttentionConfig):
        super().__init__(config)
        width = config.fusion_dim
        fusion = CoAttentionFusion if config.fused else BidirectionalCrossAttention
        self.fusion_module = fusion(config.fusion)
        layers = nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout(), nn.Linear(width, 2)
        self.classifier = nn.Sequential(*layers) if config.fused else None
        self.unused = TowersPiece.unused if config.fused else (*TowersPiece.unused, "classifier.")

    def extract_vision_features(self, images: Tensor) -> Any:
        """Entry point."""
        return {"vision_features": self.seen(images, pooled=False)}

    def extract_text_features(self, src: Tensor, src_mask: Tensor | None = None) -> Any:
        """Entry point."""
        return {"text_features": self.read(src, src_mask)}

    def forward(self, images: Tensor, src: Tensor, src_mask: Tensor | None = None) -> Any:
        """Entry point."""
        fused = self.fusion_module(self.seen(images, pooled=False), self.read(src, src_mask))
        enhanced = {f"{side}_features_enhanced": fused[f"{side}_features"] for side in ("vision", "text")}
        if self.classifier is None:
            return enhanced
        both = {name: fused[name] for name in ("fusion_features", "pooled_fusion")}
        return {**enhanced, **both, "classification": self.classifier(fused["fusion_features"])}

    def similarity(self, images: Tensor, src: Tensor, src_mask: Tensor | None = None) -> Any:
        """Entry point."""
        fused = self.forward(images, src, src_mask)["fusion_features"]
        return {"similarity": cosines(fused, fused)}

    def raw_similarity(self, images: Tensor, src: Tensor, src_mask: Tensor | None = None) -> Any:
        """Entry point."""
        return {"raw_similarity": cosines(self.seen(images, pooled=False).mean(1), self.read(src, src_mask).mean(1))}

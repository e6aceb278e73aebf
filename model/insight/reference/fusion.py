"""`modeling/fusion.py` in plain PyTorch."""

from typing import Any

import torch
from torch import Tensor, nn

from ..fusion import CrossConfig, FusionConfig
from .attention import attend, merge, split
from .feed_forward import lead, normed_mlp


class CrossPiece(nn.Module):
    """`norm_query`, `norm_key` and projections."""

    def __init__(self, query: int, key: int, width: int, heads: int):
        super().__init__()
        self.query_proj = nn.Linear(query, width)
        self.key_proj = nn.Linear(key, width)
        self.value_proj = nn.Linear(key, width)
        self.output_proj = nn.Linear(width, width)
        self.norm_query, self.norm_key = nn.LayerNorm(query), nn.LayerNorm(key)
        self.heads = heads

    def weighed(self, query: Tensor, key: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Give the result and the weights."""
        q, source = self.query_proj(self.norm_query(query)), self.norm_key(key)
        k, v = (split(each(source), self.heads) for each in (self.key_proj, self.value_proj))
        seen, weights = attend(split(q, self.heads), k, v, None if mask is None else mask[:, None])
        return self.output_proj(merge(seen)), weights


class GatedPiece(nn.Module):
    """`cross_attention` and `gate`."""

    def __init__(self, query: int, key: int, width: int, heads: int):
        super().__init__()
        self.cross_attention = CrossPiece(query, key, width, heads)
        self.query_proj_gate = lead(query, width)
        self.gate = normed_mlp(2 * width, width, width, nn.Sigmoid())

    def weighed(self, query: Tensor, key: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Give the result and the weights."""
        seen, weights = self.cross_attention.weighed(query, key, mask)
        own = self.query_proj_gate(query)
        return own + self.gate(torch.cat([own, seen], -1)) * seen, weights


class CrossModalAttention(CrossPiece):
    """By itself."""

    def __init__(self, config: CrossConfig):
        super().__init__(config.query_dim, config.key_dim, config.embed_dim, config.num_heads)

    def forward(self, query_features: Tensor, key_features: Tensor, attention_mask: Tensor) -> Any:
        """Entry point."""
        output, weights = self.weighed(query_features, key_features, attention_mask)
        return {"output": output, "weights": weights}


class GatedCrossModalAttention(GatedPiece):
    """By itself."""

    def __init__(self, config: CrossConfig):
        super().__init__(config.query_dim, config.key_dim, config.embed_dim, config.num_heads)

    forward = CrossModalAttention.forward


class BidirectionalPiece(nn.Module):
    """`text_to_vision_attn`, `vision_to_text_attn` and what follows."""

    def __init__(self, vision: int, text: int, width: int, heads: int):
        super().__init__()
        self.text_to_vision_attn = GatedPiece(text, vision, width, heads)
        self.vision_to_text_attn = GatedPiece(vision, text, width, heads)
        self.vision_ff: Any
        self.text_ff: Any
        self.vision_ff, self.text_ff = (
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, 4 * width),
                nn.GELU(),
                nn.Dropout(),
                nn.Linear(4 * width, width),
            )
            for _ in range(2)
        )
        self.vision_input_proj, self.text_input_proj = lead(vision, width), lead(text, width)

    def fused(self, vision: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Give both, and the weights of each."""
        text_seen, text_weights = self.text_to_vision_attn.weighed(text, vision, None)
        vision_seen, vision_weights = self.vision_to_text_attn.weighed(vision, text, None)
        text, vision = self.text_input_proj(text) + text_seen, self.vision_input_proj(vision) + vision_seen
        return vision + self.vision_ff(vision), text + self.text_ff(text), vision_weights, text_weights


class BidirectionalCrossAttention(BidirectionalPiece):
    """By itself."""

    def __init__(self, config: FusionConfig):
        super().__init__(config.vision_dim, config.text_dim, config.fusion_dim, config.num_heads)

    def forward(self, vision: Tensor, text: Tensor) -> Any:
        """Entry point."""
        vision, text, vision_weights, text_weights = self.fused(vision, text)
        weights = {"vision_to_text_attn": vision_weights, "text_to_vision_attn": text_weights}
        return {"vision_features": vision, "text_features": text, **weights}


class CoAttentionFusion(nn.Module):
    """`fusion_token`, `fusion_layers` and what is around them."""

    def __init__(self, config: FusionConfig):
        super().__init__()
        width = config.fusion_dim
        self.fusion_token = nn.Parameter(torch.empty(1, 1, width))
        self.vision_proj = normed_mlp(config.vision_dim, width, width)
        self.text_proj = normed_mlp(config.text_dim, width, width)
        layers: Any = [BidirectionalPiece(width, width, width, config.num_heads) for _ in range(config.num_layers)]
        self.fusion_layers: Any = nn.ModuleList(layers)
        self.final_fusion = nn.Sequential(
            nn.LayerNorm(2 * width), nn.Linear(2 * width, width), nn.GELU(), nn.Dropout(), nn.LayerNorm(width)
        )
        self.vision_output_proj = nn.Linear(width, config.vision_dim)
        self.text_output_proj = nn.Linear(width, config.text_dim)

    def forward(self, vision: Tensor, text: Tensor) -> Any:
        """Entry point."""
        vision, text = self.vision_proj(vision), self.text_proj(text)
        vision = torch.cat([self.fusion_token.expand(len(vision), -1, -1), vision], 1)
        for layer in self.fusion_layers:
            vision, text, _, _ = layer.fused(vision, text)
        token, vision = vision[:, 0], vision[:, 1:]
        fused = self.final_fusion(torch.cat([vision.mean(1), text.mean(1)], -1))
        both = {"vision_features": self.vision_output_proj(vision), "text_features": self.text_output_proj(text)}
        return {**both, "fusion_features": fused, "pooled_fusion": token}

"""`modeling/vision.py` in plain PyTorch."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ....validation.taps import scope, tap
from ..vision import PatchConfig, VisionConfig
from .attention import attend, merge, split


class VisionBlock(nn.Module):
    """`norm1`, `attn`, `norm2`, `mlp`."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        width = config.embed_dim
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn: Any = nn.Module()
        self.mlp: Any = nn.Module()
        self.attn.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        self.attn.proj = nn.Linear(width, width)
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, config.mlp_width), nn.Linear(config.mlp_width, width)
        self.heads = config.num_heads

    def forward(self, x: Tensor) -> Tensor:
        """(batch, places, width) -> the same."""
        apart = self.attn.qkv(self.norm1(x)).chunk(3, -1)
        with scope("attention"):
            q, k, v = (
                split(tap(n, each), self.heads) for n, each in zip(("query", "key", "value"), apart, strict=True)
            )
        x = x + self.attn.proj(merge(attend(q, k, v, None)[0]))
        return tap("output", x + self.mlp.fc2(nn.functional.gelu(self.mlp.fc1(self.norm2(x)))))


class VisionPiece(nn.Module):
    """`patch_embed`, `cls_token`, `pos_embed`, `blocks`, `norm`."""

    cls_token: nn.Parameter | None
    pos_embed: nn.Parameter | None

    def __init__(self, config: VisionConfig):
        super().__init__()
        width, side = config.embed_dim, config.patch_size
        self.patch_embed: Any = nn.Module()
        self.patch_embed.proj = nn.Conv2d(config.in_channels, width, side, side)
        token = nn.Parameter(torch.empty(1, 1, width)) if config.pool == "cls" else None
        self.register_parameter("cls_token", token)
        learned = config.positional_encoding == "learned"
        self.register_parameter("pos_embed", nn.Parameter(torch.empty(1, config.tokens, width)) if learned else None)
        self.blocks = nn.ModuleList([VisionBlock(config) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(width)
        self.tokens, self.width = config.tokens, width

    def states(self, images: Tensor) -> Tensor:
        """(batch, height, width, channels) -> (batch, places, width)."""
        places = self.places() if self.pos_embed is None else self.pos_embed
        x = placed(images, self.patch_embed.proj, self.cls_token, places)
        for i, block in enumerate(self.blocks):
            with scope(f"blocks.{i}"):
                x = block(x)
        return self.norm(x)

    def places(self) -> Tensor:
        """Give sine and cosine of each place, next to each other, (tokens, width)."""
        rates = torch.exp(torch.arange(0, self.width, 2).float() * (-math.log(10000.0) / self.width))
        return waves(self.tokens, self.width, rates)

    def pooled(self, images: Tensor) -> Tensor:
        """(batch, height, width, channels) -> (batch, width)."""
        states = self.states(images)
        return states.mean(1) if self.cls_token is None else states[:, 0]


def placed(images: Tensor, patches: nn.Module, token: Tensor | None, places: Tensor) -> Tensor:
    """Make vectors of patches, put a token before them if there is one, and add the places: (batch, places, width)."""
    x = patches(images.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
    return (x if token is None else torch.cat([token.expand(len(x), -1, -1), x], 1)) + places


def waves(rows: int, width: int, rates: Tensor) -> Tensor:
    """Give sine and cosine of each place times each rate, next to each other."""
    angles = torch.arange(rows).float()[:, None] * rates
    table = torch.zeros(rows, width)
    table[:, 0::2], table[:, 1::2] = angles.sin(), angles.cos()[:, : width // 2]
    return table


class VisionTransformer(VisionPiece):
    """With `head`."""

    def __init__(self, config: VisionConfig):
        super().__init__(config)
        self.head = nn.Linear(config.embed_dim, config.num_classes)

    def forward(self, images: Tensor) -> Any:
        """Entry point."""
        return {"logits": self.head(self.pooled(images))}

    def extract_features(self, images: Tensor) -> Any:
        """Entry point."""
        return {"features": self.pooled(images)}


class PatchEmbedding(nn.Module):
    """`projection`, `cls_token`, `position_embedding`."""

    unused = ("position_ids",)
    cls_token: nn.Parameter | None
    position_embedding: nn.Parameter | None

    def __init__(self, config: PatchConfig):
        super().__init__()
        width, side = config.embed_dim, config.patch_size
        self.projection = nn.Conv2d(config.in_channels, width, side, side)
        token = nn.Parameter(torch.empty(1, 1, width)) if config.use_cls_token else None
        self.register_parameter("cls_token", token)
        learned = config.positional_encoding == "learned"
        places = nn.Parameter(torch.empty(1, config.tokens, width)) if learned else None
        self.register_parameter("position_embedding", places)
        self.tokens, self.width = config.tokens, width

    def forward(self, images: Tensor) -> Any:
        """Entry point."""
        rates = torch.exp(torch.arange(0, self.width, 2) * (-torch.log(torch.tensor(10000.0)) / self.width))
        learned = self.position_embedding
        places = waves(self.tokens, self.width, rates) if learned is None else learned
        return {"output": placed(images, self.projection, self.cls_token, places)}

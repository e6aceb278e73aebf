"""Visualized-BGE in PyTorch: upstream's BERT from transformers, and the image tower with the checkpoint's own names.

There is no package of the tower to install. It is written from the papers and from what the upstream program was
measured to do, loaded strictly, and independent of the rules.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...validation.taps import scope, tap
from ..reference import Original, Reference, RowByRow, load_strict
from ..steps import pooling, unit
from ..upstream import text_encoder, versions
from .config import VisionConfig, VisualizedBGEConfig

MASKED_SCORE = torch.finfo(torch.float16).min
"""Upstream builds its mask in float16, whatever the network's dtype."""


class Tables(nn.Module):
    """`rope.*`: cos and sin of every patch, (patches, head_dim)."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.freqs_cos = nn.Buffer(torch.empty(config.patches, config.head_dim))
        self.freqs_sin = nn.Buffer(torch.empty(config.patches, config.head_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Rotate the patches of (batch, heads, 1 + patches, head_dim); the class token stays."""
        cls, patches = x[:, :, :1], x[:, :, 1:]
        turned = torch.stack([-patches[..., 1::2], patches[..., ::2]], -1).flatten(-2)
        return torch.cat([cls, patches * self.freqs_cos + turned * self.freqs_sin], 2)


class Attention(nn.Module):
    """`attn.*`."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        width = config.width
        self.q_bias = nn.Parameter(torch.empty(width))
        self.v_bias = nn.Parameter(torch.empty(width))
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.inner_attn_ln = nn.LayerNorm(width, config.layer_norm_eps)
        self.proj = nn.Linear(width, width)
        self.rope = Tables(config)
        self.heads = config.heads

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) -> (batch, tokens, width)."""
        q = tap("query", functional.linear(x, self.q_proj.weight, self.q_bias))
        k = self.k_proj(x)
        v = tap("value", functional.linear(x, self.v_proj.weight, self.v_bias))
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        q, k = self.rope(q), self.rope(k)
        tap("rotary_query", q.transpose(1, 2))
        tap("rotary_key", k.transpose(1, 2))
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        attended = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.proj(self.inner_attn_ln(attended))


class SwiGLU(nn.Module):
    """`mlp.*`."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.w1 = nn.Linear(config.width, config.mlp_width)
        self.w2 = nn.Linear(config.width, config.mlp_width)
        self.ffn_ln = nn.LayerNorm(config.mlp_width, config.layer_norm_eps)
        self.w3 = nn.Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) -> (batch, tokens, width)."""
        return self.w3(self.ffn_ln(functional.silu(self.w1(x)) * self.w2(x)))


class Block(nn.Module):
    """`blocks.{i}.*`."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, config.layer_norm_eps)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.width, config.layer_norm_eps)
        self.mlp = SwiGLU(config)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) -> (batch, tokens, width)."""
        normed = self.norm1(x)
        with scope("attention"):
            x = x + self.attn(normed)
        return tap("output", x + self.mlp(self.norm2(x)))


class PatchEmbedding(nn.Module):
    """`patch_embed.*`."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.proj = nn.Conv2d(config.channels, config.width, config.patch_size, config.patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, height, width, channels) -> (batch, patches, width), row by row."""
        return self.proj(images.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)


class Tower(nn.Module):
    """`model_visual.visual.*`."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.empty(1, config.patches + 1, config.width))
        self.patch_embed = PatchEmbedding(config)
        self.rope = Tables(config)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.norm = nn.LayerNorm(config.width, config.layer_norm_eps)
        self.head = nn.Linear(config.width, config.embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, height, width, channels) -> (batch, 1 + patches, width): the stream after the last block."""
        patches = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(images.shape[0], -1, -1), patches], 1) + self.pos_embed
        for i, block in enumerate(self.blocks):
            with scope(f"blocks.{i}"):
                x = block(x)
        return x


class ImageModel(nn.Module):
    """`model_visual.*`."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.visual = Tower(config)
        self.logit_scale = nn.Parameter(torch.empty(()))


class ImageSide(nn.Module):
    """What of the checkpoint is not BERT, the parts that no embedding passes through included."""

    def __init__(self, config: VisualizedBGEConfig):
        super().__init__()
        self.model_visual = ImageModel(config.vision)
        self.visual_proj = nn.Linear(config.text.hidden_size, config.text.hidden_size)


class VisualizedBGE(nn.Module):
    """Both sides, and how images and texts are fused."""

    text: Any
    image: Any

    def __init__(self, config: VisualizedBGEConfig, text: nn.Module, image: nn.Module):
        super().__init__()
        self.text, self.image = text, image
        self.config = config

    def see(self, images: Tensor) -> Tensor:
        """(batch, height, width, channels) -> (batch, 1 + patches, width)."""
        return self.image.model_visual.visual(images)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Mapping[str, Tensor]:
        """(batch, tokens) ids and mask -> (batch, width)."""
        return self._encode(self.text.embeddings(input_ids=input_ids), attention_mask)

    def encode_image(self, images: Tensor) -> Mapping[str, Tensor]:
        """(batch, height, width, channels) -> (batch, width): an image with the empty text."""
        text = self.config.text
        ids = torch.tensor([[text.cls_token_id, text.sep_token_id]]).expand(images.shape[0], -1)
        return self.encode_multimodal(images, ids, torch.ones_like(ids))

    def encode_multimodal(self, images: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Mapping[str, Tensor]:
        """Images and their texts -> (batch, width)."""
        embeddings, n = self.text.embeddings, self.config.vision.patches
        with scope("vision"):
            features = self.see(images)[:, 1:]
        rows = functional.embedding(torch.arange(1, n + 1), embeddings.position_embeddings.weight)
        summed, norm = self.image.visual_proj(features) + rows, embeddings.LayerNorm
        with scope("image_embeddings"):
            image = tap("norm", functional.layer_norm(summed, norm.normalized_shape, norm.weight, norm.bias, norm.eps))
        positions = torch.cat([torch.zeros(1, dtype=torch.long), torch.arange(n + 1, n + input_ids.shape[1])])
        text = embeddings(input_ids=input_ids, position_ids=positions[None])
        with scope("text"):
            fused = tap("input", torch.cat([text[:, :1], image, text[:, 1:]], 1))
        return self._encode(fused, torch.cat([torch.ones(images.shape[0], n), attention_mask.float()], 1))

    def _encode(self, x: Tensor, mask: Tensor) -> Mapping[str, Tensor]:
        """Run upstream's layers on embedded tokens, and pool what they give."""
        mask = mask.to(x.dtype)
        hidden = self.text.encoder(x, attention_mask=(1 - mask)[:, None, None, :] * MASKED_SCORE).last_hidden_state
        if pooling(self.config.text.pipeline).modes == ("mean",):
            pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1e-9)
        else:
            pooled = hidden[:, 0]
        with scope("text"):
            tap("pipeline.0.pooled", pooled)
        normalized = unit(self.config.text.pipeline)
        return {"embeddings": functional.normalize(pooled, dim=-1, eps=1e-12) if normalized else pooled}


TEXT = {"bge_embeddings.": "embeddings.", "bge_encoder.": "encoder."}
"""Where the checkpoint keeps the parts of its BERT -> where transformers' class has them."""


def reference(config: VisualizedBGEConfig, original: Original, document: Mapping[str, Any]) -> Reference:
    """Build the network: BERT as transformers builds it from `document`, a config.json, the rest loaded strictly."""
    state = original.state
    named = {new + n.removeprefix(old): t for old, new in TEXT.items() for n, t in state.items() if n.startswith(old)}
    text = text_encoder(document, named)
    with torch.device("meta"):
        image = ImageSide(config)
    load_strict(image, {n: t for n, t in state.items() if n.startswith(("model_visual.", "visual_proj."))})
    module, quick = (VisualizedBGE(config, text, image) for _ in range(2))
    quick.see = RowByRow(module.see)  # type: ignore[assignment, method-assign]  # only here: who takes the module gets it as it is
    entries = {name: getattr(quick, name) for name in ("encode_text", "encode_image", "encode_multimodal")}
    name = f"{versions('torch', 'transformers')}: {type(text).__name__}, and this tool's image tower"
    return Reference(name, module, entries, state)

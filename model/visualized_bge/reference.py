"""Visualized-BGE in PyTorch with the checkpoint's parameter names, loaded strictly.

Written from the papers and from what the upstream program was measured to do; independent of the rules.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...validation.taps import scope, tap
from ..bert.reference import Embeddings, Encoder, pool
from ..torch_reference import LayerNorm, Linear, RowByRow, TorchReference, linear, load_strict
from .config import VisionConfig, VisualizedBGEConfig


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
        cos, sin = self.freqs_cos.to(x.dtype), self.freqs_sin.to(x.dtype)
        return torch.cat([cls, patches * cos + turned * sin], 2)


class Attention(nn.Module):
    """`attn.*`."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        width = config.width
        self.q_bias = nn.Parameter(torch.empty(width))
        self.v_bias = nn.Parameter(torch.empty(width))
        self.q_proj = Linear(width, width, bias=False)
        self.k_proj = Linear(width, width, bias=False)
        self.v_proj = Linear(width, width, bias=False)
        self.inner_attn_ln = LayerNorm(width, config.layer_norm_eps)
        self.proj = Linear(width, width)
        self.rope = Tables(config)
        self.heads = config.heads

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) -> (batch, tokens, width)."""
        q = tap("query", linear(x, self.q_proj.weight, self.q_bias))
        k = tap("key", self.k_proj(x))
        v = tap("value", linear(x, self.v_proj.weight, self.v_bias))
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        q, k = self.rope(q), self.rope(k)
        tap("rotary_query", q.transpose(1, 2))
        tap("rotary_key", k.transpose(1, 2))
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        attended = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return tap("out", self.proj(tap("norm", self.inner_attn_ln(attended))))


class SwiGLU(nn.Module):
    """`mlp.*`."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.w1 = Linear(config.width, config.mlp_width)
        self.w2 = Linear(config.width, config.mlp_width)
        self.ffn_ln = LayerNorm(config.mlp_width, config.layer_norm_eps)
        self.w3 = Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) -> (batch, tokens, width)."""
        inner = functional.silu(tap("gate", self.w1(x))) * tap("up", self.w2(x))
        return tap("down", self.w3(tap("norm", self.ffn_ln(inner))))


class Block(nn.Module):
    """`blocks.{i}.*`."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.norm1 = LayerNorm(config.width, config.layer_norm_eps)
        self.attn = Attention(config)
        self.norm2 = LayerNorm(config.width, config.layer_norm_eps)
        self.mlp = SwiGLU(config)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) -> (batch, tokens, width)."""
        normed = tap("norm1", self.norm1(x))
        with scope("attention"):
            x = x + self.attn(normed)
        normed = tap("norm2", self.norm2(x))
        with scope("mlp"):
            x = x + self.mlp(normed)
        return tap("output", x)


class PatchEmbedding(nn.Module):
    """`patch_embed.*`."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        size = config.patch_size
        self.proj = nn.ParameterDict(
            {
                "weight": torch.empty(config.width, config.channels, size, size),
                "bias": torch.empty(config.width),
            }
        )
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """(batch, height, width, channels) -> (batch, patches, width), row by row."""
        weight, bias = (self.proj[name].to(images.dtype) for name in ("weight", "bias"))
        return functional.conv2d(images.permute(0, 3, 1, 2), weight, bias, self.size).flatten(2).transpose(1, 2)


class Tower(nn.Module):
    """`model_visual.visual.*`."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.empty(1, config.patches + 1, config.width))
        self.patch_embed = PatchEmbedding(config)
        self.rope = Tables(config)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.norm = LayerNorm(config.width, config.layer_norm_eps)
        self.head = Linear(config.width, config.embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, height, width, channels) -> (batch, 1 + patches, width): the stream after the last block."""
        patches = tap("patch_embed", self.patch_embed(images))
        cls = self.cls_token.to(images.dtype).expand(images.shape[0], -1, -1)
        x = torch.cat([cls, patches], 1) + self.pos_embed.to(images.dtype)
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


class VisualizedBGE(nn.Module):
    """The whole checkpoint, the parts that no embedding passes through included."""

    def __init__(self, config: VisualizedBGEConfig):
        super().__init__()
        width = config.text.hidden_size
        self.bge_encoder = Encoder(config.text)
        self.bge_embeddings = Embeddings(config.text)
        self.bge_pooler = nn.ModuleDict({"dense": Linear(width, width)})
        self.model_visual = ImageModel(config.vision)
        self.visual_proj = Linear(width, width)
        self.config = config
        self.dtype = torch.float32

    def see(self, images: Tensor) -> Tensor:
        """(batch, height, width, channels) -> (batch, 1 + patches, width)."""
        return self.model_visual.visual(images)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(batch, tokens) ids and mask -> (batch, width)."""
        with scope("text"):
            with scope("embeddings"):
                x = self.bge_embeddings(input_ids, self.dtype)
            return pool(self.bge_encoder(x, attention_mask), attention_mask, self.config.text)

    def encode_image(self, images: Tensor) -> Tensor:
        """(batch, height, width, channels) -> (batch, width): an image with the empty text."""
        text = self.config.text
        ids = torch.tensor([[text.cls_token_id, text.sep_token_id]]).expand(images.shape[0], -1)
        return self.encode_multimodal(images, ids, torch.ones_like(ids))

    def encode_multimodal(self, images: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Images and their texts -> (batch, width)."""
        embeddings, n = self.bge_embeddings, self.config.vision.patches
        with scope("vision"):
            features = self.see(images)[:, 1:]
        projected = tap("visual_projection", self.visual_proj(features))
        rows = embeddings.position_embeddings(torch.arange(1, n + 1), images.dtype)
        with scope("image_embeddings"):
            image = tap("norm", embeddings.LayerNorm(projected + rows))
        with scope("text"):
            positions = torch.cat([torch.zeros(1, dtype=torch.long), torch.arange(n + 1, n + input_ids.shape[1])])
            with scope("embeddings"):
                text = embeddings(input_ids, images.dtype, positions[None])
            fused = tap("input", torch.cat([text[:, :1], image, text[:, 1:]], 1))
            mask = torch.cat([torch.ones(images.shape[0], n), attention_mask.float()], 1)
            return pool(self.bge_encoder(fused, mask), mask, self.config.text)


def reference(config: VisualizedBGEConfig, state: Mapping[str, Tensor]) -> TorchReference:
    """Build the network and load it strictly."""
    buffers = ("bge_embeddings.position_ids", "bge_embeddings.token_type_ids")
    with torch.device("meta"):
        module = VisualizedBGE(config)
    state = {name.replace(".gamma", ".weight").replace(".beta", ".bias"): t for name, t in state.items()}
    load_strict(module, {n: tensor for n, tensor in state.items() if n not in buffers})
    return TorchReference(module, by_row={"see": RowByRow(module.see)})

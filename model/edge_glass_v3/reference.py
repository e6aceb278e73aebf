"""What judges a model of `train_perceiver_v3.py`, in PyTorch: written from what the script was measured to do."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...validation.taps import scope
from .. import upstream
from ..edge_glass.reference import Adapter, attended, feed_forward
from ..reference import Original, Reference, load_strict
from .config import V3Config


class Asking(nn.Module):
    """`cross_attn.*` and `self_attn.*`."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.ln_q, self.ln_kv = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.heads = heads

    def forward(self, latents: Tensor, source: Tensor) -> Tensor:
        """(batch, latents, width) and (batch, places, width) -> (batch, latents, width)."""
        query, normed = self.ln_q(latents), self.ln_kv(source)
        with scope("attention"):
            found = attended(self.q_proj(query), self.k_proj(normed), self.v_proj(normed), self.heads)
        return latents + self.out_proj(found)


class Layer(nn.Module):
    """`perceiver.layers.{i}.*`."""

    def __init__(self, config: V3Config):
        super().__init__()
        self.cross_attn = Asking(config.width, config.num_heads)
        self.self_attn = Asking(config.width, config.num_heads)
        self.ln_ffn = nn.LayerNorm(config.width)
        self.ffn = nn.ModuleDict({"net": feed_forward(config.width, config.inner)})

    def forward(self, latents: Tensor, features: Tensor) -> Tensor:
        """(batch, latents, width) and (batch, places, width) -> (batch, latents, width)."""
        latents = self.cross_attn(latents, features)
        with scope("own"):
            latents = self.self_attn(latents, latents)
        return latents + self.ffn["net"](self.ln_ffn(latents))


class Perceiver(nn.Module):
    """`perceiver.*`."""

    def __init__(self, config: V3Config):
        super().__init__()
        self.latents = nn.Parameter(torch.empty(config.num_latents, config.width))
        self.layers = nn.ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])
        self.ln_out = nn.LayerNorm(config.width)


class PerceiverV3(nn.Module):
    """The whole checkpoint."""

    def __init__(self, config: V3Config):
        super().__init__()
        self.vision_adapter = Adapter(config.vision, config.vision_inner, config.width)
        self.text_adapter = Adapter(config.text, config.text_inner, config.width)
        self.perceiver = Perceiver(config)
        proj = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, config.out))
        self.alignment_projector = nn.ModuleDict({"proj": proj})
        self.mrl = config.mrl

    def aligned(self, tokens: Tensor) -> dict[str, Tensor]:
        """(batch, places, width) -> a vector as it comes, and its beginnings of length one."""
        latents = self.perceiver.latents.expand(tokens.shape[0], -1, -1)
        for i, layer in enumerate(self.perceiver.layers):
            with scope(f"layers.{i}"):
                latents = layer(latents, tokens)
        z = self.alignment_projector["proj"](self.perceiver.ln_out(latents).mean(1))
        return {"z": z, **{f"mrl_{n}": functional.normalize(z[:, :n], dim=-1) for n in self.mrl}}


def reference(config: V3Config, original: Original) -> Reference:
    """Build the judge."""
    with torch.device("meta"):
        module = PerceiverV3(config)
    load_strict(module, original.state)
    entries = {
        "align_vision": lambda features: module.aligned(module.vision_adapter(features)),
        "align_text": lambda features: module.aligned(module.text_adapter(features)),
    }
    return Reference(f"{upstream.versions('torch')}: written here", module, entries, original.state)

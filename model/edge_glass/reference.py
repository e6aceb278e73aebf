"""What judges an alignment model of Edge Glass: transformers' own towers, and what is between written here in PyTorch.

Upstream's code is no package. What is here is written from what its program was measured to do, with the checkpoint's
parameter names, loaded strictly, and independent of the rules.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...validation.taps import scope, tap
from .. import upstream
from ..reference import Function, Original, Reference, load_strict
from ..sentences import upstreams
from .config import CONCAT, CROSS, GROUPS, MULTIHEAD, PREFIX, SIMPLE, EdgeGlassConfig, Fusion, Perceiver
from .trm_reference import TextDecoder

CONFIG = "config.json"


class Adapter(nn.Module):
    """`net.*`: norm, linear, gelu, linear; dropouts are numbered too."""

    def __init__(self, inputs: int, inner: int, outputs: int):
        super().__init__()
        layers = nn.LayerNorm(inputs), nn.Linear(inputs, inner), nn.GELU(), nn.Identity(), nn.Linear(inner, outputs)
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return self.net(x)


def feed_forward(width: int, inner: int) -> nn.Sequential:
    """Make linear, gelu, linear; a dropout is numbered too."""
    return nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Identity(), nn.Linear(inner, width))


def attended(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attend in heads: (batch, tokens, width) each -> (batch, tokens, width)."""
    for name, part in (("query", q), ("key", k), ("value", v)):
        tap(name, part)
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


class Packed(nn.Module):
    """Attention whose queries, keys and values are one tensor, as torch.nn.MultiheadAttention's."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.heads = heads

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """Let x (batch, tokens, width) attend to `source`."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        given = zip((x, source, source), weights, biases, strict=True)
        query, key, value = (functional.linear(each, w, b) for each, w, b in given)
        with scope("attention"):
            return self.out_proj(attended(query, key, value, self.heads))


class Asking(nn.Module):
    """`attn.*`: latents attend to tokens."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width)
        self.heads = heads

    def forward(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """(batch, latents, width) and (batch, tokens, width) -> (batch, latents, width)."""
        key, value = self.to_kv(tokens).chunk(2, -1)
        with scope("attention"):
            return self.to_out(attended(self.to_q(latents), key, value, self.heads))


class ResamplerLayer(nn.Module):
    """`perceiver.layers.{i}.*`: one norm for latents and tokens."""

    def __init__(self, config: Perceiver):
        super().__init__()
        self.attn = Asking(config.latent_dim, config.num_heads)
        self.ff = nn.ModuleDict({"net": feed_forward(config.latent_dim, config.inner)})
        self.norm1 = nn.LayerNorm(config.latent_dim)
        self.norm2 = nn.LayerNorm(config.latent_dim)

    def forward(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """(batch, latents, width) and (batch, tokens, width) -> (batch, latents, width)."""
        latents = latents + self.attn(self.norm1(latents), self.norm1(tokens))
        return latents + self.ff["net"](self.norm2(latents))


class Resampler(nn.Module):
    """`perceiver.*`."""

    def __init__(self, config: Perceiver):
        super().__init__()
        self.latents = nn.Parameter(torch.empty(config.num_latents, config.latent_dim))
        self.layers = nn.ModuleList([ResamplerLayer(config) for _ in range(config.num_layers)])
        self.norm = nn.LayerNorm(config.latent_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, width) -> (batch, latents, width)."""
        latents = self.latents.expand(tokens.shape[0], -1, -1)
        for i, layer in enumerate(self.layers):
            with scope(f"resampler.layers.{i}"):
                latents = layer(latents, tokens)
        return self.norm(latents)


class SimplePooling(nn.Module):
    """`attention_pool.*`; its query is loaded and never read."""

    def __init__(self, width: int):
        super().__init__()
        self.query = nn.Parameter(torch.empty(width))
        self.attn_proj = nn.Linear(width, 1)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, width) -> (batch, width)."""
        normed = self.layer_norm(tokens)
        return (self.attn_proj(normed).softmax(1) * normed).sum(1)


class MultiHeadPooling(nn.Module):
    """`attention_pool.*`."""

    def __init__(self, width: int):
        super().__init__()
        self.queries = nn.Parameter(torch.empty(1, 1, width))
        self.attention = Packed(width, 8)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, width) -> (batch, width)."""
        with scope("pool"):
            return self.attention(self.queries.expand(tokens.shape[0], -1, -1), self.layer_norm(tokens))[:, 0]


class Encoder(nn.Module):
    """What of `vision_encoder.*`, `text_encoder.*` or `audio_encoder.*` is no backbone."""

    def __init__(
        self, width: int, out: int, perceiver: Perceiver | None = None, adapter: int = 0, pool: nn.Module | None = None
    ):
        super().__init__()
        inside = perceiver.latent_dim if perceiver else out
        self.projector = Adapter(width, adapter, inside) if adapter else nn.Linear(width, inside)
        if perceiver:
            self.perceiver = Resampler(perceiver)
            head = nn.Linear(inside, out)
            self.final_projector = nn.Sequential(nn.LayerNorm(inside), head) if adapter else head
        if pool is not None:
            self.attention_pool = pool
        self.normed = adapter > 0

    def resampled(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, tokens, width) -> one vector and a sequence."""
        latents = self.perceiver(tokens)
        if self.normed:
            pooled = self.final_projector(latents.mean(1))
            return pooled, self.final_projector(latents)
        sequence = self.final_projector(latents)
        return sequence.mean(1), sequence


class Concatenation(nn.Module):
    """`fusion.projector.*`."""

    def __init__(self, fusion: Fusion, widths: Mapping[str, int]):
        super().__init__()
        inner, out = fusion.inner, fusion.fusion_dim
        layers = nn.Linear(sum(widths.values()), inner), nn.GELU(), nn.Identity(), nn.Linear(inner, out)
        self.projector = nn.Sequential(*layers, nn.LayerNorm(out))

    def forward(self, given: Mapping[str, Tensor]) -> Tensor:
        """(batch, width) each -> (batch, width)."""
        return self.projector(torch.cat(list(given.values()), -1))


class FusionLayer(nn.Module):
    """`fusion.fusion_layers.{i}.*`."""

    def __init__(self, fusion: Fusion):
        super().__init__()
        self.self_attn = Packed(fusion.fusion_dim, fusion.num_heads)
        self.ff = feed_forward(fusion.fusion_dim, fusion.inner)
        self.norm1 = nn.LayerNorm(fusion.fusion_dim)
        self.norm2 = nn.LayerNorm(fusion.fusion_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, modalities, width) -> the same."""
        normed = self.norm1(x)
        x = x + self.self_attn(normed, normed)
        return tap("output", x + self.ff(self.norm2(x)))


class Attended(nn.Module):
    """`fusion.*` of cross-attention."""

    def __init__(self, fusion: Fusion, widths: Mapping[str, int]):
        super().__init__()
        self.modality_projectors = nn.ModuleDict({n: nn.Linear(w, fusion.fusion_dim) for n, w in widths.items()})
        self.fusion_layers = nn.ModuleList([FusionLayer(fusion) for _ in range(fusion.num_layers)])
        self.norm = nn.LayerNorm(fusion.fusion_dim)

    def forward(self, given: Mapping[str, Tensor]) -> Tensor:
        """(batch, width) each -> (batch, width)."""
        x = torch.stack([self.modality_projectors[name](each) for name, each in given.items()], 1)
        for i, layer in enumerate(self.fusion_layers):
            with scope(f"layers.{i}"):
                x = layer(x)
        return self.norm(x.mean(1))


class Gated(nn.Module):
    """`fusion.*` of a gate."""

    def __init__(self, fusion: Fusion, widths: Mapping[str, int]):
        super().__init__()
        self.modality_projectors = nn.ModuleDict({n: nn.Linear(w, fusion.fusion_dim) for n, w in widths.items()})
        self.gate = nn.Sequential(nn.Linear(len(widths) * fusion.fusion_dim, len(widths)))
        self.norm = nn.LayerNorm(fusion.fusion_dim)

    def forward(self, given: Mapping[str, Tensor]) -> Tensor:
        """(batch, width) each -> (batch, width)."""
        x = [self.modality_projectors[name](each) for name, each in given.items()]
        weights = self.gate(torch.cat(x, -1)).softmax(-1)
        return self.norm((weights[..., None] * torch.stack(x, 1)).sum(1))


class Between(nn.Module):
    """All of the checkpoint that is no backbone and no language model."""

    def __init__(self, config: EdgeGlassConfig):
        super().__init__()
        if vision := config.vision:
            out = vision.projection_dim
            pools = {SIMPLE: SimplePooling, MULTIHEAD: MultiHeadPooling}
            pool = pools[vision.pooling](out) if vision.pooling in pools else None
            self.vision_encoder = Encoder(vision.tower.hidden_size, out, vision.perceiver, vision.adapter, pool)
        if text := config.text:
            self.text_encoder = Encoder(text.width, text.projection_dim)
        if audio := config.audio:
            self.audio_encoder = Encoder(audio.tower.d_model, audio.projection_dim, audio.perceiver)
        if fusion := config.fusion:
            widths = {name: getattr(config, name).projection_dim for name in config.modalities}
            self.fusion = {CONCAT: Concatenation, CROSS: Attended}.get(fusion.strategy, Gated)(fusion, widths)
        if config.prompt_dim:
            width = PREFIX * config.prompt_dim
            self.llm_projector = nn.ModuleDict({"projector": Adapter(config.prompted, width, width)})
        if config.decoder:
            self.decoder = TextDecoder(config.decoder)


def reference(config: EdgeGlassConfig, original: Original, usual: Mapping[str, Any], subsets: Any) -> Reference:
    """Build the judge.

    Args:
        config: of the network.
        original: what was trained.
        usual: the backbones' documents, by place, where none lie beside the checkpoint.
        subsets: entry point that fuses -> what it fuses.
    """
    place = tuple(f"{group}.encoder." for group in GROUPS.values())
    unread = ("decoder.lm_head.",) if config.decoder else ("decoder.",)
    own = {n: t for n, t in original.state.items() if not n.startswith((*place, *unread))}
    with torch.device("meta"):
        between: Any = Between(config)
    load_strict(between, own)
    library, modules, entries = upstream.transformers(), [between], dict[str, Function]()

    def backbone(modality: str) -> Original:
        group = GROUPS[modality]
        front = f"{group}.encoder."
        state = {n.removeprefix(front): t for n, t in original.state.items() if n.startswith(front)}
        given = original.documents if f"{group}/{CONFIG}" in original.documents else {**original.documents, **usual}
        documents = {n.removeprefix(f"{group}/"): d for n, d in given.items() if n.startswith(f"{group}/")}
        return replace(original, state=state, documents=documents, folder=original.folder / group)

    def given(pooled: Tensor, widths: tuple[int, ...]) -> dict[str, Tensor]:
        pooled = functional.normalize(pooled, dim=-1)
        return {"pooled": pooled, **{f"mrl_{d}": functional.normalize(pooled[:, :d], dim=-1) for d in widths}}

    if vision := config.vision:
        inner = backbone("vision")
        built = upstream.configuration(inner.documents[CONFIG])
        tower: Any = upstream.load(library.CLIPVisionModel, getattr(built, "vision_config", built), inner.state)
        modules.append(tower)
        widths, pooling = vision.mrl, vision.pooling

        def encode_image(images: Tensor) -> dict[str, Tensor]:
            states = tower(pixel_values=images.permute(0, 3, 1, 2)).last_hidden_state
            own = between.vision_encoder
            tokens = own.projector(states)
            with scope("vision"):
                if vision.perceiver:
                    pooled, sequence = own.resampled(tokens[:, 1:])
                elif pooling in (SIMPLE, MULTIHEAD):
                    pooled, sequence = own.attention_pool(tokens), tokens
                else:
                    pooled, sequence = tokens[:, 0], tokens[:, 1:]
            return {**given(pooled, widths), "sequence": sequence}

        entries["encode_image"] = encode_image
    if text := config.text:
        inner = backbone("text")
        if text.clip:
            built = upstream.configuration(inner.documents[CONFIG])
            state = {n: t for n, t in inner.state.items() if not n.endswith("position_ids")}
            reader: Any = upstream.load(library.CLIPTextModel, getattr(built, "text_config", built), state)
            modules.append(reader)
        else:
            anchor = "embeddings.word_embeddings.weight"
            encoder, after = upstreams(text.sentences, inner, inner.documents[CONFIG], anchor)
            modules += [encoder, *after.modules]

        def encode_text(input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
            if text.clip:
                base = reader(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[:, 0]
            else:
                states = encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
                base = after(states, attention_mask)
            return given(between.text_encoder.projector(base), text.mrl)

        entries["encode_text"] = encode_text
    if audio := config.audio:
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        inner = backbone("audio")
        hearer: Any = upstream.load(WhisperEncoder, upstream.configuration(inner.documents[CONFIG]), inner.state)
        modules.append(hearer)

        def encode_audio(input_features: Tensor) -> dict[str, Tensor]:
            own = between.audio_encoder
            sequence = own.projector(hearer(input_features).last_hidden_state)
            with scope("audio"):
                pooled, sequence = own.resampled(sequence) if audio.perceiver else (sequence.mean(1), sequence)
            return {**given(pooled, audio.mrl), "sequence": sequence}

        entries["encode_audio"] = encode_audio

    def fusing(names: tuple[str, ...]) -> Function:
        def fuse(**vectors: Tensor) -> dict[str, Tensor]:
            with scope("fusion"):
                return {"fused": between.fusion({name: vectors[name] for name in names})}

        return fuse

    entries |= {entry: fusing(names) for entry, names in subsets.items()}
    if config.prompt_dim:

        def soft_prompt(vector: Tensor) -> dict[str, Tensor]:
            prefix = between.llm_projector["projector"](vector)
            return {"prefix": prefix.unflatten(-1, (PREFIX, -1))}

        entries["soft_prompt"] = soft_prompt
    if config.decoder:

        def decode_text(prefix: Tensor, input_ids: Tensor) -> dict[str, Tensor]:
            with scope("decoder"):
                return {"logits": between.decoder(prefix, input_ids)}

        entries["decode_text"] = decode_text
    named = ", ".join(type(module).__name__ for module in modules[1:])
    name = f"{upstream.versions('torch', 'transformers')}: {named}, and what is between, written here"
    return Reference(name, nn.ModuleList(modules), entries, original.state)

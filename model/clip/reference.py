"""What judges CLIP: transformers' own classes and, for open_clip's names, the network written here in PyTorch.

open_clip cannot be installed beside the rest: it needs torchvision. Its network is written from the papers and its
published behaviour, with its parameter names, loaded strictly, and independent of the rules.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...validation.taps import scope, tap
from .. import upstream
from ..reference import Function, Original, Reference, load_strict, uninitialised
from .config import OPEN_CLIP, ClipConfig, TextConfig, TowerConfig, VisionConfig

Features: TypeAlias = Callable[..., tuple[Tensor, Tensor]]
"""The inputs of a tower -> the states of all places, and the features, neither normalised."""


def reference(config: ClipConfig, original: Original, stated: Any) -> Reference:
    """Build the judge; `stated` is what config.json holds."""
    if config.names == OPEN_CLIP:
        state = {n: t for n, t in original.state.items() if n not in OF_ARCHIVES}
        model: Any = load_strict(_on_meta(config), state)
        read, seen = model.read, model.seen
        name = f"{upstream.versions('torch')}: open_clip's network, written here"
    else:
        model = _upstreams(config, original, stated)
        read, seen = _reading(model), _seeing(model)
        name = f"{upstream.versions('torch', 'transformers')}: {type(model).__name__}"
    return Reference(name, model, _entries(config, read, seen, model), original.state)


def _upstreams(config: ClipConfig, original: Original, stated: Mapping[str, Any]) -> Any:
    """Load transformers' class for the towers that there are."""
    library = upstream.transformers()
    state = {n: t for n, t in original.state.items() if not n.endswith("position_ids")}
    built = upstream.configuration(stated)
    if config.text and config.vision:
        return upstream.load(library.CLIPModel, built, state)
    tower = "Text" if config.text else "Vision"
    kind = f"CLIP{tower}Model{'WithProjection' if config.projection_dim else ''}"
    return upstream.load(getattr(library, kind), getattr(built, f"{tower.lower()}_config", built), state)


def _reading(model: Any) -> Features:
    tower, projection = getattr(model, "text_model", model), getattr(model, "text_projection", nn.Identity())

    def read(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        found = tower(input_ids=input_ids, attention_mask=attention_mask)
        return found.last_hidden_state, projection(found.pooler_output)

    return read


def _seeing(model: Any) -> Features:
    tower, projection = getattr(model, "vision_model", model), getattr(model, "visual_projection", nn.Identity())

    def seen(images: Tensor) -> tuple[Tensor, Tensor]:
        found = tower(pixel_values=images.permute(0, 3, 1, 2))
        return found.last_hidden_state, projection(found.pooler_output)

    return seen


def _entries(config: ClipConfig, read: Features, seen: Features, model: Any) -> dict[str, Function]:
    """Give the entry points over what reads and what sees."""

    def unit(features: Tensor) -> Tensor:
        return functional.normalize(features, dim=-1, eps=0)

    def given(name: str, found: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        states, features = found
        features = unit(features) if config.normalize else features
        return {name: features} if config.projection_dim else {"last_hidden_state": states, "pooler_output": features}

    def encode_text(**texts: Tensor) -> dict[str, Tensor]:
        return given("text_embeds", read(**texts))

    def encode_image(images: Tensor) -> dict[str, Tensor]:
        return given("image_embeds", seen(images))

    def encode_multimodal(images: Tensor, **texts: Tensor) -> dict[str, Tensor]:
        return {"multimodal_embeds": unit(read(**texts)[1] + seen(images)[1])}

    def similarity(images: Tensor, **texts: Tensor) -> dict[str, Tensor]:
        if config.names != OPEN_CLIP:
            found = model(pixel_values=images.permute(0, 3, 1, 2), **texts)
            image_embeds, text_embeds, logits = found.image_embeds, found.text_embeds, found.logits_per_image
        else:
            image_embeds, text_embeds = unit(seen(images)[1]), unit(read(**texts)[1])
            logits = model.logit_scale.exp() * image_embeds @ text_embeds.T
        tap("image_embeds", image_embeds)
        tap("text_embeds", text_embeds)
        return {"logits_per_image": logits}

    entries: dict[str, Function] = {"encode_text": encode_text} if config.text else {}
    entries |= {"encode_image": encode_image} if config.vision else {}
    entries |= {"encode_multimodal": encode_multimodal} if config.multimodal else {}
    return entries | ({"similarity": similarity} if config.text and config.vision else {})


OF_ARCHIVES = ("input_resolution", "context_length", "vocab_size")
"""Numbers that OpenAI's archives keep beside the weights."""


class QuickGELU(nn.Module):
    """x · sigmoid(1.702 x), as OpenAI's networks were trained."""

    def forward(self, x: Tensor) -> Tensor:
        """(...) -> the same shape."""
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """`attn.*`."""

    def __init__(self, config: TowerConfig):
        super().__init__()
        width = config.hidden_size
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.heads = config.num_attention_heads

    def forward(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        """(batch, tokens, width) -> the same; `hidden` is true where a token does not see another."""
        parts = functional.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        for name, part in zip(("query", "key", "value"), parts, strict=True):
            tap(name, part)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if hidden is not None:
            scores = scores.masked_fill(hidden, -torch.inf)
        attended: Tensor = self.out_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return attended


class Block(nn.Module):
    """`resblocks.{i}.*`."""

    def __init__(self, config: TowerConfig):
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, inner), "c_proj": nn.Linear(inner, width)})
        self.activation = QuickGELU() if config.hidden_act == "quick_gelu" else nn.GELU()

    def forward(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        """(batch, tokens, width) -> the same."""
        normed = self.ln_1(x)
        with scope("attention"):
            x = x + self.attn(normed, hidden)
        return x + self.mlp["c_proj"](self.activation(self.mlp["c_fc"](self.ln_2(x))))


class Transformer(nn.Module):
    """`transformer.*`."""

    def __init__(self, config: TowerConfig):
        super().__init__()
        self.resblocks = nn.ModuleList([Block(config) for _ in range(config.num_hidden_layers)])

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        """(batch, tokens, width) -> the same."""
        for i, block in enumerate(self.resblocks):
            with scope(f"blocks.{i}"):
                x = block(x, hidden)
        return x


class Visual(nn.Module):
    """`visual.*`."""

    def __init__(self, config: VisionConfig, out: int):
        super().__init__()
        width = config.hidden_size
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + config.patches, width))
        self.conv1 = nn.Conv2d(config.num_channels, width, config.patch_size, config.patch_size, bias=False)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(config)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, out))  # applied by `OpenClip.seen`

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, height, width, channels) -> states of all places, and the first one's, normalised."""
        patches = self.conv1(images.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(images), 1, -1)
        places = torch.cat([first, patches], 1) + tap("position", self.positional_embedding[None])
        states = self.transformer(self.ln_pre(places))
        return states, self.ln_post(states[:, 0])


class OpenClip(nn.Module):
    """The whole checkpoint."""

    def __init__(self, text: TextConfig, vision: VisionConfig, out: int):
        super().__init__()
        self.visual = Visual(vision, out)
        self.transformer = Transformer(text)
        self.token_embedding = uninitialised(text.vocab_size, text.hidden_size)
        self.positional_embedding = nn.Parameter(torch.empty(text.max_position_embeddings, text.hidden_size))
        self.ln_final = nn.LayerNorm(text.hidden_size)
        self.text_projection = nn.Parameter(torch.empty(text.hidden_size, out))
        self.logit_scale = nn.Parameter(torch.empty(()))

    def read(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, tokens) -> states of all tokens, and features of the first of the highest ids."""
        count = input_ids.shape[1]
        hidden = torch.ones(count, count, dtype=torch.bool).triu(1)
        with scope("text"):
            x = self.token_embedding(input_ids) + tap("position", self.positional_embedding[None, :count])
            states = self.ln_final(self.transformer(x, hidden))
        pooled = states[torch.arange(len(states)), input_ids.argmax(-1)]
        return states, tap("text_projection", pooled @ self.text_projection)

    def seen(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, height, width, channels) -> states of all places, and features."""
        with scope("vision"):
            states, pooled = self.visual(images)
        return states, tap("visual_projection", pooled @ self.visual.proj)


def _on_meta(config: ClipConfig) -> Any:
    assert config.text
    assert config.vision
    with torch.device("meta"):
        return OpenClip(config.text, config.vision, config.projection_dim)

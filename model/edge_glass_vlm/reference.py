"""What judges a language model of Edge Glass's second stage: transformers' own class, and what is around it in PyTorch.

Upstream's code is no package. What is here is written from what its program was measured to do: a latent z stands
behind the states and passes the layers with them, at twice the cost. That no output depends on it is what the proof
shows: the converted network has none. Only for one more token upstream has no form at all, since it keeps nothing and
reads everything again; there keys and values that a prompt left behind are read.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...validation.taps import scope, tap
from .. import upstream
from ..caches import key_names
from ..qwen import cached, upstream_class
from ..reference import Original, Reference, load_strict
from .config import CONFIG, LANGUAGE, Recursion, VLMConfig, documents

Pair = tuple[Tensor, Tensor]
Read = tuple[Tensor, Tensor | None, dict[str, Tensor]]
"""Last states, what became of them, keys and values by name."""


class Linears(nn.Module):
    """Linear layers by name."""

    def __init__(self, *sizes: tuple[str, int, int], bias: bool):
        super().__init__()
        for name, inputs, outputs in sizes:
            setattr(self, name, nn.Linear(inputs, outputs, bias=bias))


class Norm(nn.Module):
    """`norm{n}.weight`."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))


class Layer(nn.Module):
    """`trm_layers.{i}.*`. Weights are read one by one, so that what is recorded is what becomes of the states alone."""

    def __init__(self, config: Recursion):
        super().__init__()
        width = config.width
        names = ("q_proj", "k_proj", "v_proj", "o_proj")
        self.attention: Any = Linears(*((name, width, width) for name in names), bias=False)
        rotary = nn.Module()
        rotary.register_buffer("inv_freq", torch.empty(config.head_dim // 2))
        for name in ("cos_cached", "sin_cached"):
            rotary.register_buffer(name, torch.empty(config.max_seq_len, config.head_dim))
        self.attention.rotary_emb = rotary
        self.mlp: Any = Linears(("fc1", width, config.inner), ("fc2", config.inner, width), bias=True)
        self.norm1, self.norm2 = Norm(width), Norm(width)
        self.heads, self.epsilon = config.num_heads, config.layer_norm_eps

    def forward(self, x: Tensor, past: Pair | None, own: int) -> tuple[Tensor, Pair]:
        """(batch, places, width) -> the same, and keys and values of the first `own` places and of those before."""

        def told(name: str, value: Tensor) -> Tensor:
            tap(name, value[:, :own])
            return value

        x = x + self._attended(told("norm1", self._normed(x, self.norm1)), past, told)
        normed = told("norm2", self._normed(x, self.norm2))
        with scope("mlp"):
            up = told("up", functional.linear(normed, self.mlp.fc1.weight, self.mlp.fc1.bias))
            down = functional.linear(functional.gelu(up), self.mlp.fc2.weight, self.mlp.fc2.bias)
            x = x + told("down", down)
        before = past[0].shape[2] if past else 0
        return x, tuple(each[:, :, : before + own] for each in self.kept)  # type: ignore[return-value]

    def _normed(self, x: Tensor, norm: Norm) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + self.epsilon).sqrt() * norm.weight

    def _attended(self, x: Tensor, past: Pair | None, told: Any) -> Tensor:
        with scope("attention"):
            parts = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
            given = {n: told(n, functional.linear(x, getattr(self.attention, w).weight)) for n, w in parts.items()}
            query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in given.values())
            before = past[0].shape[2] if past else 0
            query, key = (self._turned(part, before) for part in (query, key))
            if past:
                key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
            self.kept = key, value
            scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
            later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1 + before)
            weights = scores.masked_fill(later, float("-inf")).softmax(-1)
            attended = (weights @ value).transpose(1, 2).flatten(2)
            return told("out", functional.linear(attended, self.attention.o_proj.weight))

    def _turned(self, x: Tensor, before: int) -> Tensor:
        rotary, after = self.attention.rotary_emb, before + x.shape[2]
        if after > len(rotary.cos_cached):
            raise ValueError(f"{after} places, but the stored tables of positions have {len(rotary.cos_cached)}")
        low, high = x.chunk(2, -1)
        turned = torch.cat([-high, low], -1)
        return x * rotary.cos_cached[before:after] + turned * rotary.sin_cached[before:after]


class Around(nn.Module):
    """All of the checkpoint that is not the language model."""

    def __init__(self, config: VLMConfig):
        super().__init__()
        hidden = config.qwen.hidden_size
        self.vision_proj = nn.Linear(config.vision_token_dim, hidden)
        if trm := config.trm:
            self.z_init = nn.Parameter(torch.empty(1, 1, trm.width))
            self.trm_norm = Norm(trm.width)
            self.trm_layers = nn.ModuleList([Layer(trm) for _ in range(trm.num_layers)])
            self.down_proj = nn.Linear(hidden, trm.width) if trm.projected else nn.Identity()
            self.up_proj = nn.Linear(trm.width, hidden) if trm.projected else nn.Identity()
        self.config = config

    def refined(self, states: Tensor, past: Sequence[Pair]) -> tuple[Tensor, list[Pair]]:
        """Refine states (batch, places, hidden) as upstream does, with z behind them; with keys of before, without.

        Gives (batch, places, width), before it is projected back, and keys and values of each step and layer.
        """
        trm = self.config.trm
        assert trm
        y, own, kept = self.down_proj(states), states.shape[1], list[Pair]()
        z = None if past else self.z_init.expand(*y.shape)
        for _ in range(trm.steps):
            x = y if z is None else torch.cat([y, z], 1)
            for i, layer in enumerate(self.trm_layers):
                with scope(f"trm.blocks.{i}"):
                    x, pair = layer(x, past[len(kept)] if past else None, own)
                kept.append(pair)
            y, z = x[:, :own], None if z is None else x[:, own:]
        return y, kept


def reference(config: VLMConfig, original: Original) -> Reference:
    """Build the judge."""
    own = {n: t for n, t in original.state.items() if not n.startswith(config.place)}
    with torch.device("meta"):
        around: Any = Around(config)
    load_strict(around, own)
    state = {n.removeprefix(config.place): t for n, t in original.state.items() if n.startswith(config.place)}
    model = upstream_class(config.qwen, _language(config, original.documents), state)
    module = nn.ModuleList([model, around])

    def read(embeds: Tensor, past: Mapping[str, Tensor], **inputs: Tensor) -> Read:
        given, kept = cached(config.qwen, model.model, past, inputs_embeds=embeds, **inputs)
        states, refined = given.last_hidden_state, None
        if config.trm:
            count = config.trm.steps * config.trm.num_layers
            names = [key_names("past_trm", i) for i in range(count if past else 0)]
            pairs = [(past[key], past[value]) for key, value in names]
            refined, found = around.refined(states, pairs)
            named = enumerate(found)
            kept |= {n: x for i, pair in named for n, x in zip(key_names("trm", i), pair, strict=True)}
        return states, refined, kept

    def scores(states: Tensor, refined: Tensor | None) -> Tensor:
        return model.lm_head(states if refined is None else states + around.up_proj(refined))

    def begun(prefix: Tensor, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> tuple[Read, Tensor]:
        embeds = torch.cat([prefix, model.get_input_embeddings()(input_ids)], 1)
        mask = torch.cat([torch.ones(prefix.shape[:2], dtype=torch.long), attention_mask], 1)
        return read(embeds, {}, attention_mask=mask, position_ids=position_ids), mask

    def forward(**inputs: Tensor) -> dict[str, Tensor]:
        (states, refined, _), _ = begun(**inputs)
        return {"logits": scores(states, refined)}

    def prefill(**inputs: Tensor) -> dict[str, Tensor]:
        (states, refined, kept), mask = begun(**inputs)
        last = torch.arange(len(mask)), (torch.arange(mask.shape[1]) * mask).argmax(1)
        return {"logits": scores(states[last], None if refined is None else refined[last]), **kept}

    def decode(input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, **past: Tensor) -> dict[str, Tensor]:
        embeds = model.get_input_embeddings()(input_ids)
        states, refined, kept = read(embeds, past, attention_mask=attention_mask, position_ids=position_ids)
        return {"logits": scores(states, refined), **kept}

    entries = {
        "project_vision": lambda sequence: {"prefix": around.vision_proj(sequence)},
        "forward": forward,
        "prefill": prefill,
        "decode": decode,
    }
    name = f"{upstream.versions('torch', 'transformers')}: {type(model).__name__}, and what is around it, written here"
    return Reference(name, module, entries, original.state)


def _language(config: VLMConfig, given: Mapping[str, Any]) -> Any:
    """Give the language model's config.json, from where it stands."""
    stated = given.get(CONFIG) or {}
    if "qwen_config" in stated:
        return stated["qwen_config"]
    if f"{LANGUAGE}/{CONFIG}" in given:
        return given[f"{LANGUAGE}/{CONFIG}"]
    return stated if "model_type" in stated else documents(config)[CONFIG]["qwen_config"]

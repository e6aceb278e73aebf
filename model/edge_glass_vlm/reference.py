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

from ...validation.taps import scope
from .. import upstream
from ..caches import key_names
from ..edge_glass.trm_reference import Layer, Norm, Pair
from ..qwen import cached, upstream_class
from ..reference import Function, Original, Reference, load_strict
from .config import CONFIG, LANGUAGE, VLMConfig, again, documents

Read = tuple[Tensor, Tensor | None, dict[str, Tensor]]
"""Last states, what became of them, keys and values by name."""


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
        for step in range(trm.steps):
            x = y if z is None else torch.cat([y, z], 1)
            for i, layer in enumerate(self.trm_layers):
                with scope(f"trm.{again(step)}.blocks.{i}"):
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
        last = torch.arange(mask.shape[0]), (torch.arange(mask.shape[1]) * mask).argmax(1)
        return {"logits": scores(states[last], None if refined is None else refined[last]), **kept}

    def decode(input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, **past: Tensor) -> dict[str, Tensor]:
        embeds = model.get_input_embeddings()(input_ids)
        states, refined, kept = read(embeds, past, attention_mask=attention_mask, position_ids=position_ids)
        return {"logits": scores(states, refined), **kept}

    entries: dict[str, Function] = {
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

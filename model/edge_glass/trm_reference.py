"""What judges the layers of Edge Glass's own decoder, in PyTorch: written from what upstream's program does."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...validation.taps import scope, tap
from .config import Decoder
from .trm import TRM

Pair = tuple[Tensor, Tensor]


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


def normed(x: Tensor, norm: Norm, epsilon: float) -> Tensor:
    """Divide by the root mean square, (..., width)."""
    return x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt() * norm.weight


class Layer(nn.Module):
    """`{i}.*`. Weights are read one by one, so that what is recorded is what becomes of the states alone."""

    def __init__(self, config: TRM):
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

    def forward(self, x: Tensor, past: Pair | None, own: Any) -> tuple[Tensor, Pair]:
        """(batch, places, width) -> the same, and keys and values of the first `own` places and of those before."""

        def told(name: str, value: Tensor) -> Tensor:
            tap(name, value[:, :own])
            return value

        x = x + self._attended(told("norm1", normed(x, self.norm1, self.epsilon)), past, told)
        after = told("norm2", normed(x, self.norm2, self.epsilon))
        with scope("mlp"):
            up = told("up", functional.linear(after, self.mlp.fc1.weight, self.mlp.fc1.bias))
            down = functional.linear(functional.gelu(up), self.mlp.fc2.weight, self.mlp.fc2.bias)
            x = x + told("down", down)
        before = past[0].shape[2] if past else 0
        return x, tuple(each[:, :, : before + own] for each in self.kept)  # type: ignore[return-value]

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
            later = torch.arange(scores.shape[-1]) > torch.arange(scores.shape[-2])[:, None] + before
            weights = scores.masked_fill(later, float("-inf")).softmax(-1)
            attended = (weights @ value).transpose(1, 2).flatten(2)
            return told("out", functional.linear(attended, self.attention.o_proj.weight))

    def _turned(self, x: Tensor, before: Any) -> Tensor:
        rotary, after = self.attention.rotary_emb, before + x.shape[2]
        if after > len(rotary.cos_cached):
            raise ValueError(f"{after} places, but the stored tables of positions have {len(rotary.cos_cached)}")
        low, high = x.chunk(2, -1)
        turned = torch.cat([-high, low], -1)
        return x * rotary.cos_cached[before:after] + turned * rotary.sin_cached[before:after]


class TextDecoder(nn.Module):
    """`decoder.*`, whose `lm_head` is the words' own table."""

    def __init__(self, config: Decoder):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList([Layer(config) for _ in range(config.num_layers)])
        self.norm = Norm(config.width)
        self.epsilon = config.layer_norm_eps

    def forward(self, prefix: Tensor, input_ids: Tensor) -> Tensor:
        """(batch, places, width), (batch, tokens) -> (batch, places + tokens, vocabulary)."""
        x = torch.cat([prefix, self.embed_tokens(input_ids)], 1)
        for i, layer in enumerate(self.layers):
            with scope(f"blocks.{i}"):
                x, _ = layer(x, None, x.shape[1])
        return functional.linear(tap("norm", normed(x, self.norm, self.epsilon)), self.embed_tokens.weight)

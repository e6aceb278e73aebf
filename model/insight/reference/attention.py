"""`modeling/attention.py` in plain PyTorch."""

from typing import Any

import torch
from torch import Tensor, nn

from ....validation.taps import scope, tap
from ..attention import AlibiConfig, AttentionConfig, GroupedConfig, PlainConfig


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, bias: Any = 0) -> tuple[Tensor, Tensor]:
    """(..., tokens, width) queries, keys and values -> what is seen, and the weights."""
    scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5 + bias
    if mask is not None:
        scores = scores.masked_fill(~mask, -1e9)
    weights = scores.softmax(-1)
    return weights @ value, weights


def split(x: Tensor, heads: int) -> Tensor:
    """(batch, tokens, width) -> (batch, heads, tokens, head_dim)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge(x: Tensor) -> Tensor:
    """(batch, heads, tokens, head_dim) -> (batch, tokens, width)."""
    return x.transpose(1, 2).flatten(2)


class ScaledDotProductAttention(nn.Module):
    """No tensors."""

    def __init__(self, config: PlainConfig):
        super().__init__()

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Any:
        """Entry point."""
        context, weights = attend(query, key, value, mask)
        return {"context": context, "weights": weights}


class AttentionPiece(nn.Module):
    """`query_projection`, `key_projection`, `value_projection`, `output_projection`."""

    def __init__(self, width: int, inner: int, heads: int):
        super().__init__()
        self.query_projection = nn.Linear(width, inner)
        self.key_projection = nn.Linear(width, inner)
        self.value_projection = nn.Linear(width, inner)
        self.output_projection = nn.Linear(inner, width)
        self.heads = heads

    def weighed(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, rotary: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Give the result, and the weights of all heads."""
        q, k = split(self.query_projection(query), self.heads), split(self.key_projection(key), self.heads)
        if rotary is not None:  # along the axis of heads, as upstream calls it
            q, k = rotary.rotate(q), rotary.rotate(k)
        mask = mask[:, None] if mask is not None else None
        seen, weights = attend(q, k, split(self.value_projection(value), self.heads), mask)
        return self.output_projection(merge(seen)), weights


class MultiHeadAttention(AttentionPiece):
    """Several heads by themselves."""

    def __init__(self, config: AttentionConfig):
        super().__init__(config.input_dim, config.attention_dim, config.num_heads)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Any:
        """Entry point."""
        output, weights = self.weighed(query, key, value, mask)
        return {"output": output, "weights": weights.mean(1)}


class SimpleAttention(MultiHeadAttention):
    """One head."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Any:
        """Entry point."""
        output, weights = self.weighed(query, key, value, mask)
        return {"output": output, "weights": weights[:, 0].softmax(-1)}


class ShortNames(nn.Module):
    """`q_proj`, `k_proj`, `v_proj`, `out_proj`."""

    def __init__(self, width: int, kept: int, heads: int):
        super().__init__()
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, kept)
        self.v_proj = nn.Linear(width, kept)
        self.out_proj = nn.Linear(width, width)
        self.heads = heads


class GroupedQueryAttention(ShortNames):
    """Of square projections with fewer heads, the first rows count."""

    def __init__(self, config: GroupedConfig):
        self.kv_heads, d = config.num_key_value_heads, config.d_model // config.num_heads
        self.kept = self.kv_heads * d
        super().__init__(config.d_model, config.d_model if config.square else self.kept, config.num_heads)

    def forward(self, x: Tensor, mask: Tensor) -> Any:
        """Entry point."""
        k, v = (split(each(x)[..., : self.kept], self.kv_heads) for each in (self.k_proj, self.v_proj))
        with scope("attention"):
            k, v = tap("key", k.transpose(1, 2)).transpose(1, 2), tap("value", v.transpose(1, 2)).transpose(1, 2)
        k, v = (each.repeat_interleave(self.heads // self.kv_heads, 1) for each in (k, v))
        return {"output": self.out_proj(merge(attend(split(self.q_proj(x), self.heads), k, v, mask)[0]))}

    forward_as_documented = forward


class ALiBiAttention(ShortNames):
    """With `bias`, a buffer."""

    bias: Tensor

    def __init__(self, config: AlibiConfig):
        super().__init__(config.hidden_size, config.hidden_size, config.num_heads)
        longest = config.max_seq_length
        self.register_buffer("bias", torch.empty(config.num_heads, longest, longest))

    def forward(self, x: Tensor, mask: Tensor) -> Any:
        """Entry point."""
        q, k, v = (split(each(x), self.heads) for each in (self.q_proj, self.k_proj, self.v_proj))
        bias = self.bias[:, : x.shape[1], : x.shape[1]]
        return {"output": self.out_proj(merge(attend(q, k, v, mask, bias)[0]))}

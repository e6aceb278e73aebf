"""BERT and XLM-RoBERTa in PyTorch with Hugging Face's parameter names, written from the papers and measured facts.

Independent of the rules: nothing here knows a leaf's name, only the taps share names with `modeling.py`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...validation.taps import scope, tap
from ..torch_reference import Embedding, LayerNorm, Linear, TorchReference, load_strict
from .config import BertConfig

ACTIVATIONS = {
    "gelu": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "swish": functional.silu,
    "relu": functional.relu,
}


class Embeddings(nn.Module):
    """`embeddings.*`."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.word_embeddings = Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.config = config

    def forward(self, ids: Tensor, dtype: torch.dtype, positions: Tensor | None = None) -> Tensor:
        """(batch, tokens) -> (batch, tokens, width)."""
        if positions is None:
            positions = self.positions(ids)
        word = tap("word", self.word_embeddings(ids, dtype))
        types = self.token_type_embeddings(torch.zeros_like(ids), dtype)
        return tap("norm", self.LayerNorm(word + types + self.position_embeddings(positions, dtype)))

    def positions(self, ids: Tensor) -> Tensor:
        """Number the tokens: from 0, or those that are not padding from pad + 1."""
        if self.config.model_type == "bert":
            return torch.arange(ids.shape[1])[None].expand_as(ids)
        real = (ids != self.config.pad_token_id).long()
        return real.cumsum(1) * real + self.config.pad_token_id


class SelfAttention(nn.Module):
    """`attention.self.*`."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.query = Linear(config.hidden_size, config.hidden_size)
        self.key = Linear(config.hidden_size, config.hidden_size)
        self.value = Linear(config.hidden_size, config.hidden_size)
        self.heads = config.num_attention_heads

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(batch, tokens, width), additive mask -> (batch, tokens, width)."""
        projected = (tap(name, getattr(self, name)(x)) for name in ("query", "key", "value"))
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in projected)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + mask
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


class Output(nn.Module):
    """A dense layer, the residual, the norm: `attention.output.*` and `output.*`."""

    def __init__(self, inputs: int, config: BertConfig, names: tuple[str, str]):
        super().__init__()
        self.dense = Linear(inputs, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.names = names

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """Norm(dense(x) + residual)."""
        dense, norm = self.names
        return tap(norm, self.LayerNorm(tap(dense, self.dense(x)) + residual))


class Layer(nn.Module):
    """`encoder.layer.{i}.*`."""

    def __init__(self, config: BertConfig):
        super().__init__()
        output = Output(config.hidden_size, config, ("attention.out", "attention_norm"))
        self.attention = nn.ModuleDict({"self": SelfAttention(config), "output": output})
        self.intermediate = nn.ModuleDict({"dense": Linear(config.hidden_size, config.intermediate_size)})
        self.output = Output(config.intermediate_size, config, ("down", "down_norm"))
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(batch, tokens, width), additive mask -> (batch, tokens, width)."""
        with scope("attention"):
            attended = self.attention["self"](x, mask)
        x = self.attention["output"](attended, x)
        return self.output(self.activation(tap("up", self.intermediate["dense"](x))), x)


class Encoder(nn.Module):
    """`encoder.*`."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.layer = nn.ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Run the layers; `mask` is 1 where a token counts, (batch, tokens)."""
        additive = (1 - mask.to(x.dtype))[:, None, None, :] * torch.finfo(torch.float16).min
        for i, layer in enumerate(self.layer):
            with scope(f"layers.{i}"):
                x = layer(x, additive)
        return x


def pool(hidden: Tensor, mask: Tensor, config: BertConfig) -> Tensor:
    """Pool hidden states (batch, tokens, width) to sentence embeddings."""
    if config.pooling == "mean":
        weights = mask.to(hidden.dtype)[..., None]
        pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
    else:
        pooled = hidden[:, 0]
    tap("pooled", pooled)
    return functional.normalize(pooled, dim=-1, eps=1e-12) if config.normalize else pooled


class Bert(nn.Module):
    """BertModel without its pooler."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.config = config
        self.dtype = torch.float32

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(batch, tokens) ids and mask -> (batch, width)."""
        with scope("text"):
            with scope("embeddings"):
                x = self.embeddings(input_ids, self.dtype)
            return pool(self.encoder(x, attention_mask), attention_mask, self.config)


def reference(config: BertConfig, state: Mapping[str, Tensor]) -> TorchReference:
    """Build the network and load it strictly; pre-training heads and the pooler are not part of it."""
    with torch.device("meta"):
        module = Bert(config)
    return TorchReference(load_strict(module, {name: t for old, t in state.items() if (name := modern_name(old))}))


def modern_name(name: str) -> str | None:
    """Give the name that today's BertModel has for a tensor; None for what embeddings do not pass through."""
    for prefix in ("bert.", "roberta.", "model.", "0.auto_model."):
        name = name.removeprefix(prefix)
    if not name.startswith(("embeddings.", "encoder.")) or name.endswith(("position_ids", "token_type_ids")):
        return None
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")

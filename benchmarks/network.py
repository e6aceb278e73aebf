"""The networks as ordinary PyTorch programs: what the other exporters are given and what eager PyTorch runs.

The modules are the families' own references, with two differences. Attention is written as users of PyTorch write it:
with `view` for the exporters, whose graphs then have the shape that graph optimizers look for, and with
`scaled_dot_product_attention` for eager execution, where that is the fast way. And nothing is tapped: `torch.compile`
would cut the graph at every tap.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from bgevis.model.bert import reference as bert
from bgevis.model.family import families
from bgevis.model.torch_reference import linear
from bgevis.model.visualized_bge import reference as visualized_bge

from .models import Model

Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


class EntryPoint(nn.Module):
    """One entry point of a network as a module of its own."""

    def __init__(self, network: nn.Module, name: str):
        super().__init__()
        self.network, self.name = network, name

    def forward(self, *inputs: Tensor) -> Tensor:
        return getattr(self.network, self.name)(*inputs)


def load(model: Model, attend: Attend) -> nn.Module:
    """Read the checkpoint with its container's usual reader and load it into the network."""
    if model.packaged:
        from safetensors.torch import load_file

        state = load_file(model.checkpoint / "model.safetensors")
    else:
        state = torch.load(model.checkpoint, map_location="cpu", weights_only=True)
    network = families()[model.family].reference(model.config, state).module
    _write_attention(network, attend)
    for reference in (bert, visualized_bge):
        reference.tap = lambda name, value: value
        reference.scope = nullcontext
    return network


def spelled_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    scores = scores if mask is None else scores + mask
    return scores.softmax(-1) @ v


def scaled_dot_product(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _write_attention(network: nn.Module, attend: Attend) -> None:
    def text(self: bert.SelfAttention, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (_split(self, getattr(self, name)(x)) for name in ("query", "key", "value"))
        return _merge(self, attend(q, k, v, mask))

    def vision(self: visualized_bge.Attention, x: Tensor) -> Tensor:
        q = _split(self, linear(x, self.q_proj.weight, self.q_bias))
        k = _split(self, self.k_proj(x))
        v = _split(self, linear(x, self.v_proj.weight, self.v_bias))
        return self.proj(self.inner_attn_ln(_merge(self, attend(self.rope(q), self.rope(k), v, None))))

    def encoder(self: bert.Encoder, x: Tensor, mask: Tensor) -> Tensor:
        additive = (1.0 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(torch.float16).min
        for layer in self.layer:
            x = layer(x, additive)
        return x

    bert.Encoder.forward = encoder
    bert.SelfAttention.forward, visualized_bge.Attention.forward = text, vision
    for module in network.modules():
        if isinstance(module, bert.SelfAttention | visualized_bge.Attention):
            projection = module.query if isinstance(module, bert.SelfAttention) else module.q_proj
            module.width = len(projection.weight)
            module.head_dim = module.width // module.heads


def _split(attention: nn.Module, x: Tensor) -> Tensor:
    return x.view(x.shape[0], x.shape[1], attention.heads, attention.head_dim).transpose(1, 2)


def _merge(attention: nn.Module, x: Tensor) -> Tensor:
    x = x.transpose(1, 2).contiguous()
    return x.view(x.shape[0], x.shape[1], attention.width)

"""The networks as ordinary PyTorch programs: what the other exporters are given and what eager PyTorch runs.

The modules have the checkpoint's names. Attention is written as users of PyTorch write it: with `view` for the
exporters, whose graphs then have the shape that graph optimizers look for, and with `scaled_dot_product_attention`
for eager execution, where that is the fast way.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from bgevis.model.bert.config import BertConfig
from bgevis.model.steps import pooling, unit
from bgevis.model.visualized_bge.config import VisionConfig, VisualizedBGEConfig

from .models import Model

Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


class EntryPoint(nn.Module):
    """One entry point of a network as a module of its own."""

    def __init__(self, network: nn.Module, name: str):
        super().__init__()
        self.network, self.name = network, name

    def forward(self, *inputs: Tensor) -> Tensor:
        return getattr(self.network, self.name)(*inputs)


def read(model: Model) -> dict[str, Tensor]:
    """Read the checkpoint with its container's usual reader."""
    if model.packaged:
        from safetensors.torch import load_file

        return load_file(model.checkpoint / "model.safetensors")
    return torch.load(model.checkpoint, map_location="cpu", weights_only=True)


def load(model: Model, attend: Attend) -> nn.Module:
    """Read the checkpoint into the network, without what no embedding passes through."""
    state = read(model)
    with torch.device("meta"):
        network = NETWORKS[model.family](model.config, attend)
    network.load_state_dict({name: state[name] for name in network.state_dict()}, assign=True)
    return network.eval().requires_grad_(False)


def spelled_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    scores = scores if mask is None else scores + mask
    return scores.softmax(-1) @ v


def scaled_dot_product(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class Unset:
    """A layer that waits for the checkpoint.

    Drawing its first weights without memory would import PyTorch's compiler: seconds that would count as loading.
    """

    def reset_parameters(self) -> None:
        pass


class Linear(Unset, nn.Linear):
    pass


class Embedding(Unset, nn.Embedding):
    pass


class Conv2d(Unset, nn.Conv2d):
    pass


class Heads(nn.Module):
    """Attention between projections."""

    def __init__(self, width: int, heads: int, attend: Attend):
        super().__init__()
        self.width, self.heads, self.head_dim = width, heads, width // heads
        self.attend = attend

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, self.head_dim).transpose(1, 2)

    def merge(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2).contiguous()
        return x.view(x.shape[0], x.shape[1], self.width)


class Embeddings(nn.Module):
    def __init__(self, config: BertConfig):
        super().__init__()
        self.word_embeddings = Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.config = config

    def forward(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        positions = self.positions(ids) if positions is None else positions
        types = self.token_type_embeddings(torch.zeros_like(ids))
        return self.LayerNorm(self.word_embeddings(ids) + types + self.position_embeddings(positions))

    def positions(self, ids: Tensor) -> Tensor:
        """Number the tokens: from 0, or those that are not padding from pad + 1."""
        if self.config.model_type == "bert":
            return torch.arange(ids.shape[1])[None].expand_as(ids)
        real = (ids != self.config.pad_token_id).long()
        return real.cumsum(1) * real + self.config.pad_token_id


class SelfAttention(Heads):
    def __init__(self, config: BertConfig, attend: Attend):
        width = config.hidden_size
        super().__init__(width, config.num_attention_heads, attend)
        self.query, self.key, self.value = (Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (self.split(project(x)) for project in (self.query, self.key, self.value))
        return self.merge(self.attend(q, k, v, mask))


class Output(nn.Module):
    def __init__(self, inputs: int, config: BertConfig):
        super().__init__()
        self.dense = Linear(inputs, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x) + residual)


class Layer(nn.Module):
    def __init__(self, config: BertConfig, attend: Attend):
        super().__init__()
        output = Output(config.hidden_size, config)
        self.attention = nn.ModuleDict({"self": SelfAttention(config, attend), "output": output})
        self.intermediate = nn.ModuleDict({"dense": Linear(config.hidden_size, config.intermediate_size)})
        self.output = Output(config.intermediate_size, config)
        self.activation = getattr(functional, config.hidden_act)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention["output"](self.attention["self"](x, mask), x)
        return self.output(self.activation(self.intermediate["dense"](x)), x)


class Encoder(nn.Module):
    def __init__(self, config: BertConfig, attend: Attend):
        super().__init__()
        self.layer = nn.ModuleList([Layer(config, attend) for _ in range(config.num_hidden_layers)])
        self.config = config

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Give the embeddings (batch, width) of embedded tokens."""
        additive = (1.0 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(torch.float16).min
        for layer in self.layer:
            x = layer(x, additive)
        if pooling(self.config.pipeline).modes == ("mean",):
            weights = mask.to(x.dtype)[..., None]
            pooled = (x * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        else:
            pooled = x[:, 0]
        return functional.normalize(pooled, dim=-1, eps=1e-12) if unit(self.config.pipeline) else pooled


class Bert(nn.Module):
    def __init__(self, config: BertConfig, attend: Attend):
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config, attend)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.encoder(self.embeddings(input_ids), attention_mask)


class Rope(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.freqs_cos = nn.Buffer(torch.empty(config.patches, config.head_dim))
        self.freqs_sin = nn.Buffer(torch.empty(config.patches, config.head_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Rotate the patches of (batch, heads, 1 + patches, head_dim); the class token stays."""
        cls, patches = x[:, :, :1], x[:, :, 1:]
        turned = torch.stack([-patches[..., 1::2], patches[..., ::2]], -1).flatten(-2)
        return torch.cat([cls, patches * self.freqs_cos + turned * self.freqs_sin], 2)


class Attention(Heads):
    def __init__(self, config: VisionConfig, attend: Attend):
        width = config.width
        super().__init__(width, config.heads, attend)
        self.q_bias, self.v_bias = (nn.Parameter(torch.empty(width)) for _ in range(2))
        self.q_proj, self.k_proj, self.v_proj = (Linear(width, width, bias=False) for _ in range(3))
        self.inner_attn_ln = nn.LayerNorm(width, config.layer_norm_eps)
        self.proj = Linear(width, width)
        self.rope = Rope(config)

    def forward(self, x: Tensor) -> Tensor:
        q = self.split(functional.linear(x, self.q_proj.weight, self.q_bias))
        k = self.split(self.k_proj(x))
        v = self.split(functional.linear(x, self.v_proj.weight, self.v_bias))
        return self.proj(self.inner_attn_ln(self.merge(self.attend(self.rope(q), self.rope(k), v, None))))


class SwiGLU(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.w1, self.w2 = (Linear(config.width, config.mlp_width) for _ in range(2))
        self.ffn_ln = nn.LayerNorm(config.mlp_width, config.layer_norm_eps)
        self.w3 = Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(self.ffn_ln(functional.silu(self.w1(x)) * self.w2(x)))


class Block(nn.Module):
    def __init__(self, config: VisionConfig, attend: Attend):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(config.width, config.layer_norm_eps) for _ in range(2))
        self.attn = Attention(config, attend)
        self.mlp = SwiGLU(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Tower(nn.Module):
    def __init__(self, config: VisionConfig, attend: Attend):
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.empty(1, config.patches + 1, config.width))
        convolution = Conv2d(config.channels, config.width, config.patch_size, config.patch_size)
        self.patch_embed = nn.ModuleDict({"proj": convolution})
        self.blocks = nn.ModuleList([Block(config, attend) for _ in range(config.layers)])

    def forward(self, images: Tensor) -> Tensor:
        """(batch, height, width, channels) -> (batch, 1 + patches, width)."""
        patches = self.patch_embed["proj"](images.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(images.shape[0], -1, -1), patches], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return x


class VisualizedBGE(nn.Module):
    def __init__(self, config: VisualizedBGEConfig, attend: Attend):
        super().__init__()
        self.bge_encoder = Encoder(config.text, attend)
        self.bge_embeddings = Embeddings(config.text)
        self.model_visual = nn.ModuleDict({"visual": Tower(config.vision, attend)})
        self.visual_proj = Linear(config.text.hidden_size, config.text.hidden_size)
        self.config = config

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.bge_encoder(self.bge_embeddings(input_ids), attention_mask)

    def encode_image(self, images: Tensor) -> Tensor:
        text = self.config.text
        ids = torch.tensor([[text.cls_token_id, text.sep_token_id]]).expand(images.shape[0], -1)
        return self.encode_multimodal(images, ids, torch.ones_like(ids))

    def encode_multimodal(self, images: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        embeddings, n = self.bge_embeddings, self.config.vision.patches
        projected = self.visual_proj(self.model_visual["visual"](images)[:, 1:])
        image = embeddings.LayerNorm(projected + embeddings.position_embeddings(torch.arange(1, n + 1)))
        positions = torch.cat([torch.zeros(1, dtype=torch.long), torch.arange(n + 1, n + input_ids.shape[1])])
        text = embeddings(input_ids, positions[None])
        mask = torch.cat([torch.ones(images.shape[0], n), attention_mask.float()], 1)
        return self.bge_encoder(torch.cat([text[:, :1], image, text[:, 1:]], 1), mask)


NETWORKS: dict[str, Callable[..., nn.Module]] = {"bert": Bert, "visualized_bge": VisualizedBGE}

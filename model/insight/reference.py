"""What judges the Insight Engine: its networks written here in plain PyTorch, with the checkpoint's parameter names.

Upstream is a repository without a package. These modules follow what its code was seen to compute, oddities included,
and are held to outputs of it. They know nothing of rules, layouts or JAX, and are loaded strictly.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...validation.taps import scope, tap
from ..reference import Original, Reference, load_strict
from ..upstream import versions
from .attention import (
    ROTARY_ROWS,
    AlibiConfig,
    AttentionConfig,
    CrossConfig,
    FusionConfig,
    GroupedConfig,
    PlainConfig,
    PositionsConfig,
    RotaryConfig,
    WordsConfig,
)
from .feed_forward import BlockConfig, FeedForwardConfig, LinearConfig
from .multimodal import CrossAttentionConfig, DualConfig
from .transformer import DecoderConfig, EncoderConfig, EncoderDecoderConfig, LayerConfig, TransformerConfig
from .vision import PatchConfig, VisionConfig

ACTIVATIONS = {"relu": torch.relu, "gelu": nn.functional.gelu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


class LinearPiece(nn.Module):
    """`linear`, and `layer_norm` perhaps."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True, normed: bool = False):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=bias)
        self.layer_norm = nn.LayerNorm(outputs) if normed else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        y = self.linear(x)
        return y if self.layer_norm is None else self.layer_norm(y)


class BlockPiece(nn.Module):
    """`linear1` and `linear2`."""

    def __init__(self, width: int, inner: int, outputs: int, activation: str, normed: bool, residual: bool):
        super().__init__()
        self.linear1 = LinearPiece(width, inner)
        self.linear2 = LinearPiece(inner, outputs, normed=normed)
        self.activation, self.residual = ACTIVATIONS[activation], residual

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., outputs)."""
        y = self.linear2(self.activation(self.linear1(x)))
        return y + x if self.residual else y


class FeedForwardNN(nn.Module):
    """`hidden_layers.*` and `output_layer.*`."""

    def __init__(self, config: FeedForwardConfig):
        super().__init__()
        blocks = nn.ModuleList([BlockPiece(a, 4 * a, b, config.activation, n, r) for a, b, n, r in config.blocks])
        if config.model_type == "MultiLayerPerceptron":
            self.layers = blocks
        else:
            self.hidden_layers = blocks
            width = (config.hidden_sizes or (config.input_size,))[-1]
            self.output_layer = LinearPiece(width, config.output_size)

    def run(self, x: Tensor) -> Tensor:
        """(batch, inputs) -> (batch, outputs)."""
        for block in self.hidden_layers:
            x = block(x)
        return self.output_layer(x)

    def forward(self, x: Tensor) -> Mapping[str, Tensor]:
        """Entry point."""
        return {"output": self.run(x)}


class FeedForwardClassifier(FeedForwardNN):
    """The same, of classes."""

    def forward(self, x: Tensor) -> Mapping[str, Tensor]:
        """Entry point."""
        return {"logits": self.run(x)}

    def predict_proba(self, x: Tensor) -> Mapping[str, Tensor]:
        """Entry point."""
        return {"probabilities": self.run(x).softmax(-1)}

    def predict(self, x: Tensor) -> Mapping[str, Tensor]:
        """Entry point."""
        return {"classes": self.run(x).argmax(-1)}


class MultiLayerPerceptron(FeedForwardNN):
    """`layers.*`."""

    def run(self, x: Tensor) -> Tensor:
        """(batch, inputs) -> (batch, outputs)."""
        for block in self.layers:
            x = block(x)
        return x


class FeedForwardBlock(BlockPiece):
    """A block by itself."""

    def __init__(self, config: BlockConfig):
        sizes = config.input_dim, config.hidden_dim, config.output_dim
        super().__init__(*sizes, config.activation, config.use_layer_norm, config.use_residual)

    def forward(self, x: Tensor) -> Any:
        """Entry point."""
        return {"output": super().forward(x)}


class LinearLayer(LinearPiece):
    """A linear layer by itself."""

    def __init__(self, config: LinearConfig):
        super().__init__(config.in_features, config.out_features, config.bias, config.use_layer_norm)

    def forward(self, x: Tensor) -> Any:
        """Entry point."""
        return {"output": super().forward(x)}


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


class CrossPiece(nn.Module):
    """`norm_query`, `norm_key` and projections."""

    def __init__(self, query: int, key: int, width: int, heads: int):
        super().__init__()
        self.query_proj = nn.Linear(query, width)
        self.key_proj = nn.Linear(key, width)
        self.value_proj = nn.Linear(key, width)
        self.output_proj = nn.Linear(width, width)
        self.norm_query, self.norm_key = nn.LayerNorm(query), nn.LayerNorm(key)
        self.heads = heads

    def weighed(self, query: Tensor, key: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Give the result and the weights."""
        q, source = self.query_proj(self.norm_query(query)), self.norm_key(key)
        k, v = (split(each(source), self.heads) for each in (self.key_proj, self.value_proj))
        seen, weights = attend(split(q, self.heads), k, v, None if mask is None else mask[:, None])
        return self.output_proj(merge(seen)), weights


class GatedPiece(nn.Module):
    """`cross_attention` and `gate`."""

    def __init__(self, query: int, key: int, width: int, heads: int):
        super().__init__()
        self.cross_attention = CrossPiece(query, key, width, heads)
        self.query_proj_gate = nn.Linear(query, width) if query != width else nn.Identity()
        self.gate = nn.Sequential(
            nn.Linear(2 * width, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, width), nn.Sigmoid()
        )

    def weighed(self, query: Tensor, key: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Give the result and the weights."""
        seen, weights = self.cross_attention.weighed(query, key, mask)
        own = self.query_proj_gate(query)
        return own + self.gate(torch.cat([own, seen], -1)) * seen, weights


class CrossModalAttention(CrossPiece):
    """By itself."""

    def __init__(self, config: CrossConfig):
        super().__init__(config.query_dim, config.key_dim, config.embed_dim, config.num_heads)

    def forward(self, query_features: Tensor, key_features: Tensor, attention_mask: Tensor) -> Any:
        """Entry point."""
        output, weights = self.weighed(query_features, key_features, attention_mask)
        return {"output": output, "weights": weights}


class GatedCrossModalAttention(GatedPiece):
    """By itself."""

    def __init__(self, config: CrossConfig):
        super().__init__(config.query_dim, config.key_dim, config.embed_dim, config.num_heads)

    forward = CrossModalAttention.forward


class BidirectionalPiece(nn.Module):
    """`text_to_vision_attn`, `vision_to_text_attn` and what follows."""

    def __init__(self, vision: int, text: int, width: int, heads: int):
        super().__init__()
        self.text_to_vision_attn = GatedPiece(text, vision, width, heads)
        self.vision_to_text_attn = GatedPiece(vision, text, width, heads)
        self.vision_ff: Any
        self.text_ff: Any
        self.vision_ff, self.text_ff = (
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, 4 * width),
                nn.GELU(),
                nn.Dropout(),
                nn.Linear(4 * width, width),
            )
            for _ in range(2)
        )
        self.vision_input_proj = nn.Linear(vision, width) if vision != width else nn.Identity()
        self.text_input_proj = nn.Linear(text, width) if text != width else nn.Identity()

    def fused(self, vision: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Give both, and the weights of each."""
        text_seen, text_weights = self.text_to_vision_attn.weighed(text, vision, None)
        vision_seen, vision_weights = self.vision_to_text_attn.weighed(vision, text, None)
        text, vision = self.text_input_proj(text) + text_seen, self.vision_input_proj(vision) + vision_seen
        return vision + self.vision_ff(vision), text + self.text_ff(text), vision_weights, text_weights


class BidirectionalCrossAttention(BidirectionalPiece):
    """By itself."""

    def __init__(self, config: FusionConfig):
        super().__init__(config.vision_dim, config.text_dim, config.fusion_dim, config.num_heads)

    def forward(self, vision: Tensor, text: Tensor) -> Any:
        """Entry point."""
        vision, text, vision_weights, text_weights = self.fused(vision, text)
        weights = {"vision_to_text_attn": vision_weights, "text_to_vision_attn": text_weights}
        return {"vision_features": vision, "text_features": text, **weights}


class CoAttentionFusion(nn.Module):
    """`fusion_token`, `fusion_layers` and what is around them."""

    def __init__(self, config: FusionConfig):
        super().__init__()
        width = config.fusion_dim
        self.fusion_token = nn.Parameter(torch.empty(1, 1, width))
        self.vision_proj: Any
        self.text_proj: Any
        self.vision_proj, self.text_proj = (
            nn.Sequential(nn.Linear(own, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, width))
            for own in (config.vision_dim, config.text_dim)
        )
        layers: Any = [BidirectionalPiece(width, width, width, config.num_heads) for _ in range(config.num_layers)]
        self.fusion_layers: Any = nn.ModuleList(layers)
        self.final_fusion = nn.Sequential(
            nn.LayerNorm(2 * width), nn.Linear(2 * width, width), nn.GELU(), nn.Dropout(), nn.LayerNorm(width)
        )
        self.vision_output_proj = nn.Linear(width, config.vision_dim)
        self.text_output_proj = nn.Linear(width, config.text_dim)

    def forward(self, vision: Tensor, text: Tensor) -> Any:
        """Entry point."""
        vision, text = self.vision_proj(vision), self.text_proj(text)
        vision = torch.cat([self.fusion_token.expand(len(vision), -1, -1), vision], 1)
        for layer in self.fusion_layers:
            vision, text, _, _ = layer.fused(vision, text)
        token, vision = vision[:, 0], vision[:, 1:]
        fused = self.final_fusion(torch.cat([vision.mean(1), text.mean(1)], -1))
        both = {"vision_features": self.vision_output_proj(vision), "text_features": self.text_output_proj(text)}
        return {**both, "fusion_features": fused, "pooled_fusion": token}


class WordsPiece(nn.Module):
    """`embedding`."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(size, width)

    def look(self, ids: Tensor) -> Tensor:
        """(batch, tokens) -> (batch, tokens, width)."""
        return self.embedding(ids) * self.embedding.embedding_dim**0.5


class TokenEmbedding(WordsPiece):
    """By itself."""

    def __init__(self, config: WordsConfig):
        super().__init__(config.vocab_size, config.d_model)

    def forward(self, ids: Tensor) -> Any:
        """Entry point."""
        return {"output": self.look(ids)}


class PositionsPiece(nn.Module):
    """`pe`, a buffer, or `position_embeddings`."""

    pe: Tensor

    def __init__(self, kind: str, rows: int, width: int):
        super().__init__()
        self.width = width
        if kind == "sinusoidal":
            self.register_buffer("pe", torch.empty(1, rows, width))
        else:
            self.position_embeddings = nn.Parameter(torch.empty(1, rows, width))

    def add(self, x: Tensor) -> Tensor:
        """(batch, tokens, width), or ids (batch, tokens), which are taken as numbers -> (batch, tokens, width)."""
        if x.dim() == 2:
            x = x.unsqueeze(-1).expand(-1, -1, self.width)
        return x + (self.pe if hasattr(self, "pe") else self.position_embeddings)[:, : x.shape[1]]


class PositionalEncoding(PositionsPiece):
    """By itself."""

    def __init__(self, config: PositionsConfig):
        super().__init__(config.encoding_type, config.max_seq_length, config.d_model)

    def forward(self, x: Tensor) -> Any:
        """Entry point."""
        return {"output": self.add(x)}

    def forward_ids(self, ids: Tensor) -> Any:
        """Entry point."""
        return {"output": self.add(ids)}


class RotaryPiece(nn.Module):
    """`cos_cached` and `sin_cached`."""

    cos_cached: Tensor
    sin_cached: Tensor

    def __init__(self, half: int, rows: int):
        super().__init__()
        self.register_buffer("cos_cached", torch.empty(rows, half))
        self.register_buffer("sin_cached", torch.empty(rows, half))

    def rotate(self, x: Tensor) -> Tensor:
        """Rotate pairs next to each other by the angles of their place along the second axis."""
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = (table[: x.shape[1]][:, None] for table in (self.cos_cached, self.sin_cached))
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


class RotaryPositionEncoding(RotaryPiece):
    """By itself."""

    def __init__(self, config: RotaryConfig):
        super().__init__(config.head_dim // 2, config.max_seq_length)

    def forward(self, q: Tensor, k: Tensor) -> Any:
        """Entry point."""
        return {"query": self.rotate(q), "key": self.rotate(k)}


class LayerPiece(nn.Module):
    """`self_attn`, `cross_attn` perhaps, `feed_forward`, norms, and `rotary_emb` perhaps."""

    def __init__(self, width: int, heads: int, inner: int, *, cross: bool, rotary: bool):
        super().__init__()
        self.self_attn = AttentionPiece(width, width, heads)
        self.cross_attn = AttentionPiece(width, width, heads) if cross else None
        self.feed_forward = BlockPiece(width, inner, width, "relu", normed=False, residual=False)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width) if cross else None
        self.rotary_emb = RotaryPiece(width // heads // 2, ROTARY_ROWS) if rotary else None

    def go(
        self, x: Tensor, mask: Tensor | None, memory: Tensor | None = None, memory_mask: Tensor | None = None
    ) -> Tensor:
        """(batch, tokens, width) -> the same."""
        normed = self.norm1(x)
        x = x + self.self_attn.weighed(normed, normed, normed, mask, self.rotary_emb)[0]
        last = self.norm2
        if self.cross_attn is not None and self.norm3 is not None and memory is not None:
            x, last = x + self.cross_attn.weighed(self.norm2(x), memory, memory, memory_mask)[0], self.norm3
        return tap("output", x + self.feed_forward(last(x)))


class TransformerEncoderLayer(LayerPiece):
    """By itself."""

    def __init__(self, config: LayerConfig):
        cross = config.model_type == "TransformerDecoderLayer"
        sizes = config.d_model, config.num_heads, config.d_ff
        super().__init__(*sizes, cross=cross, rotary=config.use_rotary_embeddings)

    def forward(self, x: Tensor, mask: Tensor) -> Any:
        """Entry point."""
        return {"output": self.go(x, mask)}


class TransformerDecoderLayer(TransformerEncoderLayer):
    """By itself."""

    def forward(self, x: Tensor, memory: Tensor, tgt_mask: Tensor, memory_mask: Tensor) -> Any:  # type: ignore[override]
        """Entry point."""
        return {"output": self.go(x, tgt_mask, memory, memory_mask)}


class BodyPiece(nn.Module):
    """`token_embedding`, `positional_encoding`, `layers` and `norm`."""

    def __init__(self, config: EncoderConfig | DecoderConfig, *, cross: bool):
        super().__init__()
        width, rotary = config.d_model, config.positional_encoding == "rotary"
        self.token_embedding = WordsPiece(config.vocab_size, width) if config.vocab_size else None
        places = (config.positional_encoding, config.max_seq_length, width)
        self.positional_encoding = None if rotary else PositionsPiece(*places)
        sizes = width, config.num_heads, config.d_ff
        layers = [LayerPiece(*sizes, cross=cross, rotary=rotary) for _ in range(config.num_layers)]
        self.layers: Any = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width)

    def read(self, x: Tensor, *others: Tensor | None) -> Tensor:
        """Read ids or vectors -> (batch, tokens, width)."""
        if self.token_embedding is not None and not x.is_floating_point():
            x = self.token_embedding.look(x)
        if self.positional_encoding is not None:
            x = self.positional_encoding.add(x)
        for i, layer in enumerate(self.layers):
            with scope(f"layers.{i}"):
                x = layer.go(x, *others)
        return self.norm(x)


class TransformerEncoder(BodyPiece):
    """By itself."""

    def __init__(self, config: EncoderConfig):
        super().__init__(config, cross=False)

    def forward(self, ids: Tensor, mask: Tensor) -> Any:
        """Entry point."""
        return {"last_hidden_state": self.read(ids, mask)}

    def forward_embeddings(self, x: Tensor, mask: Tensor) -> Any:
        """Entry point."""
        return {"last_hidden_state": self.read(x, mask)}


class TransformerDecoder(BodyPiece):
    """With `output_projection`."""

    def __init__(self, config: DecoderConfig):
        super().__init__(config, cross=True)
        self.output_projection = nn.Linear(config.d_model, config.vocab_size)

    def forward(self, ids: Tensor, memory: Tensor, tgt_mask: Tensor, memory_mask: Tensor) -> Any:
        """Entry point."""
        return {"logits": self.output_projection(self.read(ids, tgt_mask, memory, memory_mask))}


class Transformer(nn.Module):
    """`encoder` between `input_projection` and `output_projection`."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        width, first, last = config.d_model, config.input_dim, config.output_dim
        self.input_projection = nn.Linear(first, width) if first != width else nn.Identity()
        self.encoder = BodyPiece(config.encoder, cross=False)
        self.output_projection = nn.Linear(width, last) if last != width else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor) -> Any:
        """Entry point."""
        with scope("encoder"):
            x = self.encoder.read(self.input_projection(x), mask)
        return {"output": self.output_projection(x)}


class EncoderDecoderTransformer(nn.Module):
    """`encoder`, `decoder` and a head, whose place says whether the table of words is shared."""

    def __init__(self, config: EncoderDecoderConfig):
        super().__init__()
        self.encoder = BodyPiece(config.encoder, cross=False)
        self.decoder: Any = BodyPiece(config.decoder, cross=True)
        head = nn.Linear(config.d_model, config.tgt_vocab_size)
        self.shared = config.share_embeddings
        self.unused = ("decoder.token_embedding.",) if self.shared else ()
        if self.shared:
            self.output_projection = head
        else:
            self.decoder.output_projection = head

    def written(self, tgt: Tensor, memory: Tensor, tgt_mask: Tensor, memory_mask: Tensor | None) -> Tensor:
        """(batch, tokens) -> scores, (batch, tokens, words)."""
        with scope("decoder"):
            states = self.decoder.read(tgt, tgt_mask, memory, memory_mask)
        return (self.output_projection if self.shared else self.decoder.output_projection)(states)

    def encode(self, src: Tensor, src_mask: Tensor) -> Any:
        """Entry point."""
        with scope("encoder"):
            return {"memory": self.encoder.read(src, src_mask)}

    def decode(self, tgt: Tensor, memory: Tensor, tgt_mask: Tensor, memory_mask: Tensor) -> Any:
        """Entry point."""
        return {"logits": self.written(tgt, memory, tgt_mask, memory_mask)}

    def forward(self, src: Tensor, tgt: Tensor, src_mask: Tensor, tgt_mask: Tensor, memory_mask: Tensor) -> Any:
        """Entry point."""
        return self.decode(tgt, self.encode(src, src_mask)["memory"], tgt_mask, memory_mask)

    def next_token(self, tgt: Tensor, memory: Tensor, memory_mask: Tensor) -> Any:
        """Entry point."""
        seen = torch.ones(1, tgt.shape[1], tgt.shape[1], dtype=torch.bool).tril()
        return {"logits": self.written(tgt, memory, seen, memory_mask[:, None])[:, -1]}


class VisionBlock(nn.Module):
    """`norm1`, `attn`, `norm2`, `mlp`."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        width = config.embed_dim
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn: Any = nn.Module()
        self.mlp: Any = nn.Module()
        self.attn.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        self.attn.proj = nn.Linear(width, width)
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, config.mlp_width), nn.Linear(config.mlp_width, width)
        self.heads = config.num_heads

    def forward(self, x: Tensor) -> Tensor:
        """(batch, places, width) -> the same."""
        apart = self.attn.qkv(self.norm1(x)).chunk(3, -1)
        with scope("attention"):
            q, k, v = (
                split(tap(n, each), self.heads) for n, each in zip(("query", "key", "value"), apart, strict=True)
            )
        x = x + self.attn.proj(merge(attend(q, k, v, None)[0]))
        return tap("output", x + self.mlp.fc2(nn.functional.gelu(self.mlp.fc1(self.norm2(x)))))


class VisionPiece(nn.Module):
    """`patch_embed`, `cls_token`, `pos_embed`, `blocks`, `norm`."""

    cls_token: nn.Parameter | None
    pos_embed: nn.Parameter | None

    def __init__(self, config: VisionConfig):
        super().__init__()
        width, side = config.embed_dim, config.patch_size
        self.patch_embed: Any = nn.Module()
        self.patch_embed.proj = nn.Conv2d(config.in_channels, width, side, side)
        token = nn.Parameter(torch.empty(1, 1, width)) if config.pool == "cls" else None
        self.register_parameter("cls_token", token)
        learned = config.positional_encoding == "learned"
        self.register_parameter("pos_embed", nn.Parameter(torch.empty(1, config.tokens, width)) if learned else None)
        self.blocks = nn.ModuleList([VisionBlock(config) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(width)
        self.tokens, self.width = config.tokens, width

    def states(self, images: Tensor) -> Tensor:
        """(batch, height, width, channels) -> (batch, places, width)."""
        x = self.patch_embed.proj(images.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        x = x + (self.places() if self.pos_embed is None else self.pos_embed)
        for i, block in enumerate(self.blocks):
            with scope(f"blocks.{i}"):
                x = block(x)
        return self.norm(x)

    def places(self) -> Tensor:
        """Give sine and cosine of each place, next to each other, (tokens, width)."""
        rates = torch.exp(torch.arange(0, self.width, 2).float() * (-math.log(10000.0) / self.width))
        return waves(self.tokens, self.width, rates)

    def pooled(self, images: Tensor) -> Tensor:
        """(batch, height, width, channels) -> (batch, width)."""
        states = self.states(images)
        return states.mean(1) if self.cls_token is None else states[:, 0]


def waves(rows: int, width: int, rates: Tensor) -> Tensor:
    """Give sine and cosine of each place times each rate, next to each other."""
    angles = torch.arange(rows).float()[:, None] * rates
    table = torch.zeros(rows, width)
    table[:, 0::2], table[:, 1::2] = angles.sin(), angles.cos()[:, : width // 2]
    return table


class VisionTransformer(VisionPiece):
    """With `head`."""

    def __init__(self, config: VisionConfig):
        super().__init__(config)
        self.head = nn.Linear(config.embed_dim, config.num_classes)

    def forward(self, images: Tensor) -> Any:
        """Entry point."""
        return {"logits": self.head(self.pooled(images))}

    def extract_features(self, images: Tensor) -> Any:
        """Entry point."""
        return {"features": self.pooled(images)}


class PatchEmbedding(nn.Module):
    """`projection`, `cls_token`, `position_embedding`."""

    unused = ("position_ids",)
    cls_token: nn.Parameter | None
    position_embedding: nn.Parameter | None

    def __init__(self, config: PatchConfig):
        super().__init__()
        width, side = config.embed_dim, config.patch_size
        self.projection = nn.Conv2d(config.in_channels, width, side, side)
        token = nn.Parameter(torch.empty(1, 1, width)) if config.use_cls_token else None
        self.register_parameter("cls_token", token)
        learned = config.positional_encoding == "learned"
        places = nn.Parameter(torch.empty(1, config.tokens, width)) if learned else None
        self.register_parameter("position_embedding", places)
        self.tokens, self.width = config.tokens, width

    def forward(self, images: Tensor) -> Any:
        """Entry point."""
        x = self.projection(images.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        if self.position_embedding is not None:
            return {"output": x + self.position_embedding}
        rates = torch.exp(torch.arange(0, self.width, 2) * (-torch.log(torch.tensor(10000.0)) / self.width))
        return {"output": x + waves(self.tokens, self.width, rates)}


class TextPiece(nn.Module):
    """`encoder`, of a network whose decoder is not read."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.encoder = BodyPiece(config, cross=False)

    def read(self, src: Tensor, mask: Tensor | None) -> Tensor:
        """Read ids -> (batch, tokens, width)."""
        return self.encoder.read(src, mask)


class TowersPiece(nn.Module):
    """`vision_model` and `text_model`."""

    unused: tuple[str, ...] = ("vision_model.head.", "text_model.decoder.", "text_model.output_projection.")

    def __init__(self, config: DualConfig | CrossAttentionConfig):
        super().__init__()
        text, masked = config.text_model, config.text_model.model_type == "EncoderDecoderTransformer"
        self.vision_model = VisionPiece(config.vision_model)
        self.text_model: Any = TextPiece(text) if masked else BodyPiece(text, cross=False)

    def seen(self, images: Tensor, *, pooled: bool) -> Tensor:
        """Give a picture's states, or its pooled one."""
        with scope("vision"):
            return self.vision_model.pooled(images) if pooled else self.vision_model.states(images)

    def read(self, src: Tensor, src_mask: Tensor | None) -> Tensor:
        """Give a text's states."""
        with scope("text"):
            return self.text_model.read(src, src_mask)


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """Give the cosine of each pair."""
    return nn.functional.normalize(one, dim=-1) @ nn.functional.normalize(other, dim=-1).T


class DualEncoder(TowersPiece):
    """With `vision_proj`, `text_proj`, `logit_scale`."""

    def __init__(self, config: DualConfig):
        super().__init__(config)
        self.vision_proj: Any
        self.text_proj: Any
        self.vision_proj, self.text_proj = (
            nn.Sequential(
                nn.Linear(own, own),
                nn.LayerNorm(own),
                nn.GELU(),
                nn.Linear(own, config.projection_dim),
                nn.BatchNorm1d(config.projection_dim),
            )
            for own in (config.vision_model.embed_dim, config.text_model.d_model)
        )
        self.logit_scale = nn.Parameter(torch.empty(()))

    def encode_image(self, images: Tensor) -> Any:
        """Entry point."""
        return {"vision_features": self.vision_proj(self.seen(images, pooled=True))}

    def encode_text(self, src: Tensor, src_mask: Tensor | None = None) -> Any:
        """Entry point."""
        return {"text_features": self.text_proj(self.read(src, src_mask)[:, 0])}

    def similarity(self, images: Tensor, src: Tensor, src_mask: Tensor | None = None) -> Any:
        """Entry point."""
        (one,), (other,) = self.encode_image(images).values(), self.encode_text(src, src_mask).values()
        return {"similarity": self.logit_scale.exp().clamp(1, 100) * cosines(one, other)}


class MultiModalTransformer(TowersPiece):
    """With `vision_projection` and `text_projection`."""

    def __init__(self, config: DualConfig):
        super().__init__(config)
        shared = config.projection_dim
        self.vision_projection: Any
        self.text_projection: Any
        self.vision_projection, self.text_projection = (
            nn.Sequential(nn.Linear(own, shared), nn.LayerNorm(shared))
            for own in (config.vision_model.embed_dim, config.text_model.d_model)
        )

    def encode_image(self, images: Tensor) -> Any:
        """Entry point."""
        return {"image_features": self.vision_projection(self.seen(images, pooled=True))}

    def encode_text(self, src: Tensor, src_mask: Tensor | None = None) -> Any:
        """Entry point."""
        return {"text_features": self.text_projection(self.read(src, src_mask)[:, 0])}

    def similarity(self, images: Tensor, src: Tensor, src_mask: Tensor | None = None) -> Any:
        """Entry point."""
        (one,), (other,) = self.encode_image(images).values(), self.encode_text(src, src_mask).values()
        return {"similarity": cosines(one, other)}


class CrossAttentionMultiModalTransformer(TowersPiece):
    """With `fusion_module` and `classifier`."""

    def __init__(self, config: CrossAttentionConfig):
        super().__init__(config)
        width = config.fusion_dim
        fusion = CoAttentionFusion if config.fused else BidirectionalCrossAttention
        self.fusion_module = fusion(config.fusion)
        layers = nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout(), nn.Linear(width, 2)
        self.classifier = nn.Sequential(*layers) if config.fused else None
        self.unused = TowersPiece.unused if config.fused else (*TowersPiece.unused, "classifier.")

    def extract_vision_features(self, images: Tensor) -> Any:
        """Entry point."""
        return {"vision_features": self.seen(images, pooled=False)}

    def extract_text_features(self, src: Tensor, src_mask: Tensor | None = None) -> Any:
        """Entry point."""
        return {"text_features": self.read(src, src_mask)}

    def forward(self, images: Tensor, src: Tensor, src_mask: Tensor | None = None) -> Any:
        """Entry point."""
        fused = self.fusion_module(self.seen(images, pooled=False), self.read(src, src_mask))
        enhanced = {f"{side}_features_enhanced": fused[f"{side}_features"] for side in ("vision", "text")}
        if self.classifier is None:
            return enhanced
        both = {name: fused[name] for name in ("fusion_features", "pooled_fusion")}
        return {**enhanced, **both, "classification": self.classifier(fused["fusion_features"])}

    def similarity(self, images: Tensor, src: Tensor, src_mask: Tensor | None = None) -> Any:
        """Entry point."""
        fused = self.forward(images, src, src_mask)["fusion_features"]
        return {"similarity": cosines(fused, fused)}

    def raw_similarity(self, images: Tensor, src: Tensor, src_mask: Tensor | None = None) -> Any:
        """Entry point."""
        return {"raw_similarity": cosines(self.seen(images, pooled=False).mean(1), self.read(src, src_mask).mean(1))}


def reference(config: Any, original: Original, entries: tuple[str, ...]) -> Reference:
    """Build the judge of a class, loaded strictly with all that the class computes with."""
    with torch.device("meta"):
        module: Any = globals()[config.model_type](config)
    unused = getattr(module, "unused", ())
    state = {n: t for n, t in original.state.items() if not n.startswith(unused)} if unused else dict(original.state)
    load_strict(module, state)
    name = f"{versions('torch')}: {config.model_type} of the Insight Engine, written here"
    return Reference(name, module, {entry: getattr(module, entry) for entry in entries}, original.state)

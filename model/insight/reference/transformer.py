"""`modeling/transformer.py` in plain PyTorch."""

from typing import Any

import torch
from torch import Tensor, nn

from ....validation.taps import scope, tap
from ..embeddings import ROTARY_ROWS
from ..encoder_decoder import EncoderDecoderConfig
from ..transformer import DecoderConfig, EncoderConfig, LayerConfig, TransformerConfig
from .attention import AttentionPiece
from .embeddings import PositionsPiece, RotaryPiece, WordsPiece
from .feed_forward import BlockPiece, lead


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
        self.input_projection = lead(first, width)
        self.encoder = BodyPiece(config.encoder, cross=False)
        self.output_projection = lead(width, last)

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

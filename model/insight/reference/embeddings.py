"""`modeling/embeddings.py` in plain PyTorch."""

from typing import Any

import torch
from torch import Tensor, nn

from ...reference import uninitialised
from ..embeddings import PositionsConfig, RotaryConfig, WordsConfig


class WordsPiece(nn.Module):
    """`embedding`."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.embedding = uninitialised(size, width)

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

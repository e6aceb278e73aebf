"""`modeling/feed_forward.py` in plain PyTorch."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..feed_forward import BlockConfig, FeedForwardConfig, LinearConfig

ACTIVATIONS = {"relu": torch.relu, "gelu": nn.functional.gelu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


def lead(inputs: int, outputs: int) -> nn.Module:
    """Make what leads from one width to another."""
    return nn.Linear(inputs, outputs) if inputs != outputs else nn.Identity()


def normed_mlp(inputs: int, inner: int, outputs: int, *after: nn.Module) -> Any:
    """Make `0`, `1` and `3`: a linear layer, its norm and another linear layer; then what comes after."""
    return nn.Sequential(nn.Linear(inputs, inner), nn.LayerNorm(inner), nn.GELU(), nn.Linear(inner, outputs), *after)


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

"""Feed-forward networks and the layers that they are made of."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ....validation.taps import scope
from ... import ops
from ...layers import LayerNorm, Linear, tapped
from ..feed_forward import BlockConfig, FeedForwardConfig, LinearConfig
from ..pieces import EPSILON
from .training import Drop, perhaps

ACTIVATIONS = {"relu": jax.nn.relu, "gelu": ops.gelu, "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid}


class FeedForward(nnx.Module):
    """Two linear layers with an activation between them; then norm, dropout and residual, where there are any."""

    def __init__(
        self,
        width: int,
        inner: int,
        outputs: int,
        activation: str,
        *,
        normed: bool = False,
        residual: bool = False,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self.up = Linear((width,), (inner,), rngs=rngs)
        self.down = Linear((inner,), (outputs,), rngs=rngs)
        self.norm = LayerNorm(outputs, EPSILON) if normed else None
        self.activation, self.residual, self.drop = ACTIVATIONS[activation], residual, Drop(dropout)

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch outputs"]:
        y = tapped("down", self.down, self.activation(tapped("up", self.up, x)))
        y = self.drop(perhaps("norm", self.norm, y))
        return y + x if self.residual else y


class Mlp(nnx.Module):
    """Two linear layers with gelu between them; training drops after each."""

    def __init__(self, width: int, inner: int, *, dropout: float, rngs: nnx.Rngs):
        self.up = Linear((width,), (inner,), rngs=rngs)
        self.down = Linear((inner,), (width,), rngs=rngs)
        self.drop = Drop(dropout)

    def __call__(self, x: Float[Array, "batch places width"]) -> Float[Array, "batch places width"]:
        inner = self.drop(ops.gelu(tapped("up", self.up, x)))
        return self.drop(tapped("down", self.down, inner))


class NormedMlp(nnx.Module):
    """Two linear layers with a norm and gelu between them."""

    def __init__(self, width: int, inner: int, outputs: int, *, rngs: nnx.Rngs):
        self.first = Linear((width,), (inner,), rngs=rngs)
        self.norm = LayerNorm(inner, EPSILON)
        self.last = Linear((inner,), (outputs,), rngs=rngs)

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch outputs"]:
        inner = ops.gelu(tapped("norm", self.norm, tapped("first", self.first, x)))
        return tapped("last", self.last, inner)


class FeedForwardNN(nnx.Module):
    """Blocks, and a linear layer that makes the output."""

    def __init__(self, config: FeedForwardConfig, *, rngs: nnx.Rngs):
        self.layers = nnx.List(
            [
                FeedForward(
                    one,
                    4 * one,
                    two,
                    config.activation,
                    normed=normed,
                    residual=residual,
                    dropout=config.dropout,
                    rngs=rngs,
                )
                for one, two, normed, residual in config.blocks
            ]
        )
        width = (config.hidden_sizes or (config.input_size,))[-1]
        perceptron = config.model_type == "MultiLayerPerceptron"
        self.head = None if perceptron else Linear((width,), (config.output_size,), rngs=rngs)

    def forward(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch outputs"]:
        """(batch, inputs) -> (batch, outputs); a classifier's are logits."""
        for i, layer in enumerate(self.layers):
            with scope(f"layers.{i}"):
                x = layer(x)
        return perhaps("head", self.head, x)


class MultiLayerPerceptron(FeedForwardNN):
    """Blocks alone: the last one has neither norm nor residual."""


class FeedForwardClassifier(FeedForwardNN):
    """A network whose outputs are scores of classes."""

    def predict_proba(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch classes"]:
        """(batch, inputs) -> (batch, classes), each row adding up to 1."""
        return ops.softmax(self.forward(x))

    def predict(self, x: Float[Array, "batch inputs"]) -> Int[Array, " batch"]:
        """(batch, inputs) -> (batch,) the best class."""
        return jnp.argmax(self.forward(x), axis=-1).astype(jnp.int32)


class FeedForwardBlock(FeedForward):
    """A block by itself."""

    def __init__(self, config: BlockConfig, *, rngs: nnx.Rngs):
        super().__init__(
            config.input_dim,
            config.hidden_dim,
            config.output_dim,
            config.activation,
            normed=config.use_layer_norm,
            residual=config.use_residual,
            dropout=config.dropout,
            rngs=rngs,
        )

    def forward(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens outputs"]:
        """(batch, tokens, width) -> (batch, tokens, outputs)."""
        return self(x)


class LinearLayer(nnx.Module):
    """A linear layer with a norm, perhaps, and dropout."""

    def __init__(self, config: LinearConfig, *, rngs: nnx.Rngs):
        self.linear = Linear((config.in_features,), (config.out_features,), use_bias=config.bias, rngs=rngs)
        self.norm = LayerNorm(config.out_features, EPSILON) if config.use_layer_norm else None
        self.drop = Drop(config.dropout)

    def forward(self, x: Float[Array, "batch tokens inputs"]) -> Float[Array, "batch tokens outputs"]:
        """(batch, tokens, inputs) -> (batch, tokens, outputs)."""
        return self.drop(perhaps("norm", self.norm, tapped("linear", self.linear, x)))

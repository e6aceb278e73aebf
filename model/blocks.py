"""Transformer layers as families share them: the norm after the residual, or before what is added to it."""

from collections.abc import Callable
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from ..validation.taps import scope, tap
from .attention import Attention
from .layers import ACTIVATIONS, LayerNorm, Linear, tapped


class FeedForward(nnx.Module):
    """down(activation(up(x)))."""

    def __init__(self, width: int, inner: int, activation: str, *, use_bias: bool = True, rngs: nnx.Rngs):
        self.up = Linear((width,), (inner,), use_bias=use_bias, rngs=rngs)
        self.down = Linear((inner,), (width,), use_bias=use_bias, rngs=rngs)
        self.activation = ACTIVATIONS[activation]

    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        return tapped("down", self.down, self.activation(tapped("up", self.up, x)))


class GatedFeedForward(nnx.Module):
    """down(activation(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, width: int, inner: int, activation: str, *, rngs: nnx.Rngs):
        self.gate = Linear((width,), (inner,), use_bias=False, rngs=rngs)
        self.up = Linear((width,), (inner,), use_bias=False, rngs=rngs)
        self.down = Linear((inner,), (width,), use_bias=False, rngs=rngs)
        self.activation = ACTIVATIONS[activation]

    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        return tapped("down", self.down, self.activation(tapped("gate", self.gate, x)) * tapped("up", self.up, x))


class PostNormLayer(FeedForward):
    """Attention and feed-forward, each followed by residual and norm (Vaswani et al. 2017)."""

    def __init__(self, attention: Attention, width: int, inner: int, activation: str, epsilon: float, rngs: nnx.Rngs):
        super().__init__(width, inner, activation, rngs=rngs)
        self.attention = attention
        self.attention_norm = LayerNorm(width, epsilon)
        self.down_norm = LayerNorm(width, epsilon)

    def __call__(self, x: Float[Array, "batch tokens width"], *others: Any) -> Float[Array, "batch tokens width"]:
        with scope("attention"):
            attended = self.attention(x, *others)
        x = tapped("attention_norm", self.attention_norm, attended + x)
        return tapped("down_norm", self.down_norm, super().__call__(x) + x)


class PreNormLayer(nnx.Module):
    """Attention and feed-forward, each of the normalised stream and added to it (Xiong et al. 2020, arXiv:2002.04745).

    Args:
        attention: takes the stream and whatever else the layer is given.
        mlp: the feed-forward part.
        norm: makes a norm.
    """

    def __init__(self, attention: nnx.Module, mlp: nnx.Module, norm: Callable[[], nnx.Module]):
        self.norm1 = norm()
        self.attention = attention
        self.norm2 = norm()
        self.mlp = mlp

    def __call__(self, x: Float[Array, "batch tokens width"], *others: Any) -> Float[Array, "batch tokens width"]:
        x = x + of_normed(self, "norm1", "attention", x, *others)
        return tap("output", x + of_normed(self, "norm2", "mlp", x))


def of_normed(layer: nnx.Module, norm: str, part: str, x: Float[Array, "batch tokens width"], *others: Any) -> Array:
    """Give what a part of a layer makes of the normalised stream; norm and part by their names in the layer."""
    normed = tapped(norm, getattr(layer, norm), x)
    with scope(part):
        return getattr(layer, part)(normed, *others)

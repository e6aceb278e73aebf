"""The model of `train_perceiver_v3.py` in Flax NNX: features of pictures and texts through one perceiver.

Source: code of Edge Glass (notebooks/ddsp_scripts/train_perceiver_v3.py); Jaegle et al. 2021 (arXiv:2103.03206).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ...validation.taps import scope
from .. import ops
from ..attention import Attention
from ..blocks import FeedForward
from ..edge_glass.config import EPSILON
from ..edge_glass.modeling import Adapter, Head, Outputs
from ..layers import LayerNorm, in_turn, tapped
from .config import V3Config


class Asking(nnx.Module):
    """Latents attend to a source, each through a norm of its own; what they find is added to them."""

    def __init__(self, config: V3Config, *, rngs: nnx.Rngs):
        self.query_norm = LayerNorm(config.width, EPSILON)
        self.source_norm = LayerNorm(config.width, EPSILON)
        self.attention = Attention(config.width, config.num_heads, rngs=rngs)

    def __call__(
        self, latents: Float[Array, "batch latents width"], source: Float[Array, "batch places width"]
    ) -> Float[Array, "batch latents width"]:
        query = tapped("query_norm", self.query_norm, latents)
        normed = tapped("source_norm", self.source_norm, source)
        with scope("attention"):
            return latents + self.attention(query, None, normed)


class Layer(Asking):
    """Latents attend to features, then to themselves, and pass a feed-forward part."""

    def __init__(self, config: V3Config, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.own = Asking(config, rngs=rngs)
        self.norm = LayerNorm(config.width, EPSILON)
        self.mlp = FeedForward(config.width, config.inner, "gelu", rngs=rngs)

    def __call__(
        self, latents: Float[Array, "batch latents width"], features: Float[Array, "batch places width"]
    ) -> Float[Array, "batch latents width"]:
        latents = super().__call__(latents, features)
        with scope("own"):
            latents = self.own(latents, latents)
        normed = tapped("norm", self.norm, latents)
        with scope("mlp"):
            return latents + self.mlp(normed)


class PerceiverV3(nnx.Module):
    """Aligns features of pictures and of texts.

    Args:
        config: sizes and conventions.
    """

    def __init__(self, config: V3Config, *, rngs: nnx.Rngs):
        self.vision = Adapter(config.vision, config.vision_inner, config.width, rngs=rngs)
        self.text = Adapter(config.text, config.text_inner, config.width, rngs=rngs)
        self.latents = nnx.Param(jax.random.normal(rngs.params(), (config.num_latents, config.width)) * 0.02)
        self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(config.num_hidden_layers)])
        self.norm = LayerNorm(config.width, EPSILON)
        self.head = Head(config.width, config.out, normed=True, rngs=rngs)
        self.config = config

    def align_vision(self, features: Float[Array, "batch places vision"]) -> Outputs:
        """Align an image encoder's tokens, the class token among them."""
        with scope("vision"):
            tokens = self.vision(features)
        return self._aligned(tokens)

    def align_text(self, features: Float[Array, "batch places text"]) -> Outputs:
        """Align a text encoder's tokens, padding among them: upstream masks none."""
        with scope("text"):
            tokens = self.text(features)
        return self._aligned(tokens)

    def _aligned(self, tokens: Float[Array, "batch places width"]) -> Outputs:
        latents = jnp.broadcast_to(self.latents[...], (tokens.shape[0], *self.latents.shape))
        latents = tapped("norm", self.norm, in_turn(self.layers, "layers", latents, tokens))
        with scope("head"):
            z = self.head(jnp.mean(latents, axis=1))
        return {"z": z, **{f"mrl_{n}": ops.l2_normalize(z[:, :n], epsilon=1e-12) for n in self.config.mrl}}

"""SigLIP in Flax NNX: a text and an image tower in one space, compared by a sigmoid. Reads top to bottom.

Source: Zhai et al. 2023 (arXiv:2303.15343); names and what the paper leaves open are transformers' SiglipModel's.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ...validation.taps import scope, tap
from .. import ops
from ..attention import Attention
from ..blocks import FeedForward
from ..clip.modeling import block
from ..layers import Embedding, LayerNorm, Linear, PatchEmbedding, in_turn, tapped
from .config import SiglipConfig, TextConfig, VisionConfig


class TextTower(nnx.Module):
    """Every token sees every other, padding too; a text is the last position's state, through the head."""

    def __init__(self, config: TextConfig, *, remat: bool = False, rngs: nnx.Rngs):
        self.word = Embedding(config.vocab_size, config.hidden_size, rngs=rngs)
        self.position = Embedding(config.max_position_embeddings, config.hidden_size, rngs=rngs)
        self.blocks = nnx.List([block(config, rngs) for _ in range(config.num_hidden_layers)])
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.head = Linear((config.hidden_size,), (config.projection_size,), rngs=rngs)
        self.remat = remat

    def __call__(self, input_ids: Int[Array, "batch tokens"]) -> Float[Array, "batch width"]:
        words = tapped("word", self.word, input_ids)
        x = words + tapped("position", self.position.first, input_ids.shape[1])
        x = tapped("norm", self.norm, in_turn(self.blocks, "blocks", x, remat=self.remat))
        last = jax.lax.index_in_dim(x, x.shape[1] - 1, axis=1, keepdims=False)
        return tapped("head", self.head, last)


class PoolingHead(nnx.Module):
    """A learned query attends to all patches; then a feed-forward part, added to it (Lee et al. 2019)."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        width = config.hidden_size
        self.probe = nnx.Param(jnp.zeros(width))
        self.attention = Attention(width, config.num_attention_heads, rngs=rngs)
        self.norm = LayerNorm(width, config.layer_norm_eps)
        self.mlp = FeedForward(width, config.intermediate_size, config.hidden_act, rngs=rngs)

    def __call__(self, states: Float[Array, "batch patches width"]) -> Float[Array, "batch width"]:
        probe = jnp.broadcast_to(self.probe[...], (states.shape[0], 1, states.shape[2]))
        with scope("attention"):
            x = self.attention(probe, None, states)
        normed = tapped("norm", self.norm, x)
        with scope("mlp"):
            x = x + self.mlp(normed)
        return jnp.squeeze(x, axis=1)


class VisionTower(nnx.Module):
    """An image is what the head pools of its patches."""

    def __init__(self, config: VisionConfig, *, remat: bool = False, rngs: nnx.Rngs):
        width = config.hidden_size
        self.patch_embed = PatchEmbedding(config.patch_size, config.num_channels, width, rngs=rngs)
        self.position = Embedding(config.patches, width, rngs=rngs)
        self.blocks = nnx.List([block(config, rngs) for _ in range(config.num_hidden_layers)])
        self.post_norm = LayerNorm(width, config.layer_norm_eps)
        self.head = PoolingHead(config, rngs=rngs)
        self.covered = config.image_size // config.patch_size * config.patch_size
        self.remat = remat

    def __call__(self, images: Float[Array, "batch height width_px channels"]) -> Float[Array, "batch width"]:
        x = tapped("patch_embed", self.patch_embed, images[:, : self.covered, : self.covered])
        x = x + tapped("position", self.position.first, x.shape[1])
        x = tapped("post_norm", self.post_norm, in_turn(self.blocks, "blocks", x, remat=self.remat))
        with scope("head"):
            return self.head(x)


class Siglip(nnx.Module):
    """Embeds texts and images into one space, and scores them against each other; or one tower of it, alone.

    Args:
        config: sizes and conventions.
        remat: trade a second forward pass for the memory of the activations when training.
    """

    def __init__(self, config: SiglipConfig, *, remat: bool = False, rngs: nnx.Rngs):
        text, vision = config.text, config.vision
        self.text = TextTower(text, remat=remat, rngs=rngs) if text else None
        self.vision = VisionTower(vision, remat=remat, rngs=rngs) if vision else None
        self.logit_scale = nnx.Param(jnp.zeros(1)) if text and vision else None
        self.logit_bias = nnx.Param(jnp.zeros(1)) if text and vision else None
        self.normalize = config.normalize

    def encode_text(self, input_ids: Int[Array, "texts tokens"]) -> Float[Array, "texts width"]:
        """Embed texts: (texts, tokens) ids, padding included -> (texts, width)."""
        return tap("text_embeds", self._embedded(self._read(input_ids)))

    def encode_image(self, images: Float[Array, "images height width_px channels"]) -> Float[Array, "images width"]:
        """Embed images: (images, height, width, channels), normalised -> (images, width)."""
        return tap("image_embeds", self._embedded(self._seen(images)))

    def similarity(
        self, images: Float[Array, "images height width_px channels"], input_ids: Int[Array, "texts tokens"]
    ) -> Float[Array, "images texts"]:
        """Score each image against each text -> (images, texts), of which a sigmoid is taken."""
        seen = tap("image_embeds", ops.l2_normalize(self._seen(images), epsilon=0.0))
        read = tap("text_embeds", ops.l2_normalize(self._read(input_ids), epsilon=0.0))
        assert self.logit_scale is not None
        assert self.logit_bias is not None
        return jnp.exp(self.logit_scale[...]) * (seen @ read.T) + self.logit_bias[...]

    def text_model(self, input_ids: Int[Array, "texts tokens"]) -> Float[Array, "texts width"]:
        """Give the features of texts, as SiglipTextModel does."""
        return self._read(input_ids)

    def vision_model(
        self, pixel_values: Float[Array, "images channels height width_px"]
    ) -> Float[Array, "images width"]:
        """Give the features of images, channels first, as SiglipVisionModel does."""
        return self._seen(pixel_values.transpose(0, 2, 3, 1))

    def model(
        self, input_ids: Int[Array, "texts tokens"], pixel_values: Float[Array, "images channels height width_px"]
    ) -> Float[Array, "images texts"]:
        """Score images, channels first, against texts, as SiglipModel does."""
        return self.similarity(pixel_values.transpose(0, 2, 3, 1), input_ids)

    def _read(self, input_ids: Int[Array, "texts tokens"]) -> Float[Array, "texts width"]:
        assert self.text is not None
        with scope("text"):
            return self.text(input_ids)

    def _seen(self, images: Float[Array, "images height width_px channels"]) -> Float[Array, "images width"]:
        assert self.vision is not None
        with scope("vision"):
            return self.vision(images)

    def _embedded(self, features: Float[Array, "batch width"]) -> Float[Array, "batch width"]:
        return ops.l2_normalize(features, epsilon=0.0) if self.normalize else features

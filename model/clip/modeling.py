"""CLIP in Flax NNX: a text and an image tower, projected into one space. Reads top to bottom.

Source: Radford et al. 2021 (arXiv:2103.00020); names and what the papers leave open are transformers' CLIPModel's.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ...validation.taps import scope, tap
from .. import ops
from ..attention import Attention, causal, mask_bias, padding
from ..blocks import FeedForward, PreNormLayer
from ..layers import Embedding, LayerNorm, Linear, PatchEmbedding, at, in_turn, tapped
from .config import HIGHEST, ClipConfig, TextConfig, TowerConfig, VisionConfig

MASKED_SCORE = float(np.finfo(np.float32).min)
"""Added to the score of a masked token, as transformers does in float32: no score makes up for it."""


def _block(config: TowerConfig, rngs: nnx.Rngs) -> PreNormLayer:
    attention = Attention(config.hidden_size, config.num_attention_heads, rngs=rngs)
    mlp = FeedForward(config.hidden_size, config.intermediate_size, config.hidden_act, rngs=rngs)
    return PreNormLayer(attention, mlp, lambda: LayerNorm(config.hidden_size, config.layer_norm_eps))


class TextTower(nnx.Module):
    """Causal attention; a text is its state at the first end of text."""

    def __init__(self, config: TextConfig, *, remat: bool = False, rngs: nnx.Rngs):
        self.word = Embedding(config.vocab_size, config.hidden_size, rngs=rngs)
        self.position = Embedding(config.max_position_embeddings, config.hidden_size, rngs=rngs)
        self.blocks = nnx.List([_block(config, rngs) for _ in range(config.num_hidden_layers)])
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.config = config
        self.remat = remat

    def __call__(
        self, input_ids: Int[Array, "batch tokens"], attention_mask: Int[Array, "batch tokens"]
    ) -> Float[Array, "batch width"]:
        count = input_ids.shape[1]
        words = tapped("word", self.word, input_ids)
        x = words + tapped("position", self.position.first, count)
        bias = mask_bias(causal(count) * padding(attention_mask), MASKED_SCORE)
        x = tapped("norm", self.norm, in_turn(self.blocks, "blocks", x, bias, remat=self.remat))
        return at(x, self.end(input_ids))

    def end(self, input_ids: Int[Array, "batch tokens"]) -> Int[Array, " batch"]:
        """Say where a text first ends."""
        end = self.config.eos_token_id
        ends = input_ids if end == HIGHEST else (input_ids == end).astype(jnp.int32)
        return jnp.argmax(ends, axis=1)


class VisionTower(nnx.Module):
    """An image is the state of its class token."""

    def __init__(self, config: VisionConfig, *, remat: bool = False, rngs: nnx.Rngs):
        width, epsilon = config.hidden_size, config.layer_norm_eps
        self.patch_embed = PatchEmbedding(config.patch_size, config.num_channels, width, use_bias=False, rngs=rngs)
        self.class_embedding = nnx.Param(jnp.zeros(width))
        self.position = Embedding(1 + config.patches, width, rngs=rngs)
        self.pre_norm = LayerNorm(width, epsilon)
        self.blocks = nnx.List([_block(config, rngs) for _ in range(config.num_hidden_layers)])
        self.post_norm = LayerNorm(width, epsilon)
        self.remat = remat

    def __call__(self, images: Float[Array, "batch height width_px channels"]) -> Float[Array, "batch width"]:
        patches = tapped("patch_embed", self.patch_embed, images)
        first = jnp.broadcast_to(self.class_embedding[...], (images.shape[0], 1, patches.shape[2]))
        x = jnp.concatenate([first, patches], axis=1)
        x = x + tapped("position", self.position.first, x.shape[1])
        x = in_turn(self.blocks, "blocks", tapped("pre_norm", self.pre_norm, x), remat=self.remat)
        return tapped("post_norm", self.post_norm, x[:, 0])


class Clip(nnx.Module):
    """Embeds texts and images into one space, and scores them against each other.

    Args:
        config: sizes and conventions.
        remat: trade a second forward pass for the memory of the activations when training.
    """

    def __init__(self, config: ClipConfig, *, remat: bool = False, rngs: nnx.Rngs):
        shared = (config.projection_dim,)
        self.text = TextTower(config.text, remat=remat, rngs=rngs)
        self.vision = VisionTower(config.vision, remat=remat, rngs=rngs)
        self.text_projection = Linear((config.text.hidden_size,), shared, use_bias=False, rngs=rngs)
        self.visual_projection = Linear((config.vision.hidden_size,), shared, use_bias=False, rngs=rngs)
        self.logit_scale = nnx.Param(jnp.zeros(()))

    def encode_text(
        self, input_ids: Int[Array, "texts tokens"], attention_mask: Int[Array, "texts tokens"]
    ) -> Float[Array, "texts width"]:
        """Embed texts: (texts, tokens) ids and mask -> (texts, width), of length one."""
        with scope("text"):
            pooled = self.text(input_ids, attention_mask)
        projected = tapped("text_projection", self.text_projection, pooled)
        return tap("text_embeds", ops.l2_normalize(projected, epsilon=0.0))

    def encode_image(self, images: Float[Array, "images height width_px channels"]) -> Float[Array, "images width"]:
        """Embed images: (images, height, width, channels), normalised -> (images, width), of length one."""
        with scope("vision"):
            pooled = self.vision(images)
        projected = tapped("visual_projection", self.visual_projection, pooled)
        return tap("image_embeds", ops.l2_normalize(projected, epsilon=0.0))

    def similarity(
        self,
        images: Float[Array, "images height width_px channels"],
        input_ids: Int[Array, "texts tokens"],
        attention_mask: Int[Array, "texts tokens"],
    ) -> Float[Array, "images texts"]:
        """Score each image against each text -> (images, texts). The scale has no upper bound."""
        seen, read = self.encode_image(images), self.encode_text(input_ids, attention_mask)
        return jnp.exp(self.logit_scale[...]) * (seen @ read.T)

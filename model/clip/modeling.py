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


def block(config: TowerConfig, rngs: nnx.Rngs) -> PreNormLayer:
    """Make one layer of a tower."""
    attention = Attention(config.hidden_size, config.num_attention_heads, rngs=rngs)
    mlp = FeedForward(config.hidden_size, config.intermediate_size, config.hidden_act, rngs=rngs)
    return PreNormLayer(attention, mlp, lambda: LayerNorm(config.hidden_size, config.layer_norm_eps))


class TextTower(nnx.Module):
    """Causal attention: (batch, tokens) ids and mask -> the states of all tokens, (batch, tokens, width)."""

    def __init__(self, config: TextConfig, *, remat: bool = False, rngs: nnx.Rngs):
        self.word = Embedding(config.vocab_size, config.hidden_size, rngs=rngs)
        self.position = Embedding(config.max_position_embeddings, config.hidden_size, rngs=rngs)
        self.blocks = nnx.List([block(config, rngs) for _ in range(config.num_hidden_layers)])
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.config = config
        self.remat = remat

    def __call__(
        self, input_ids: Int[Array, "batch tokens"], attention_mask: Int[Array, "batch tokens"] | None
    ) -> Float[Array, "batch tokens width"]:
        count = input_ids.shape[1]
        words = tapped("word", self.word, input_ids)
        x = words + tapped("position", self.position.first, count)
        counts = causal(count) if attention_mask is None else causal(count) * padding(attention_mask)
        bias = mask_bias(counts, MASKED_SCORE)
        return tapped("norm", self.norm, in_turn(self.blocks, "blocks", x, bias, remat=self.remat))

    def pooled(
        self, states: Float[Array, "batch tokens width"], input_ids: Int[Array, "batch tokens"]
    ) -> Float[Array, "batch width"]:
        """Give the state of each text's first end."""
        return at(states, self.end(input_ids))

    def end(self, input_ids: Int[Array, "batch tokens"]) -> Int[Array, " batch"]:
        """Say where a text first ends."""
        end = self.config.eos_token_id
        ends = input_ids if end == HIGHEST else (input_ids == end).astype(jnp.int32)
        return jnp.argmax(ends, axis=1)


class VisionTower(nnx.Module):
    """(batch, height, width, channels) -> states of class token and patches, (batch, places, width).

    Args:
        config: sizes.
        pools: whether the class token's state is wanted too, which has a norm of its own.
        remat: recompute each layer in the backward pass instead of keeping its activations.
    """

    def __init__(self, config: VisionConfig, *, pools: bool = True, remat: bool = False, rngs: nnx.Rngs):
        width, epsilon = config.hidden_size, config.layer_norm_eps
        self.patch_embed = PatchEmbedding(config.patch_size, config.num_channels, width, use_bias=False, rngs=rngs)
        self.class_embedding = nnx.Param(jnp.zeros(width))
        self.position = Embedding(1 + config.patches, width, rngs=rngs)
        self.pre_norm = LayerNorm(width, epsilon)
        self.blocks = nnx.List([block(config, rngs) for _ in range(config.num_hidden_layers)])
        self.post_norm = LayerNorm(width, epsilon) if pools else None
        self.remat = remat

    def __call__(self, images: Float[Array, "batch height width_px channels"]) -> Float[Array, "batch places width"]:
        patches = tapped("patch_embed", self.patch_embed, images)
        first = jnp.broadcast_to(self.class_embedding[...], (images.shape[0], 1, patches.shape[2]))
        x = jnp.concatenate([first, patches], axis=1)
        x = x + tapped("position", self.position.first, x.shape[1])
        return in_turn(self.blocks, "blocks", tapped("pre_norm", self.pre_norm, x), remat=self.remat)

    def pooled(self, states: Float[Array, "batch places width"]) -> Float[Array, "batch width"]:
        """Give the class token's state, normalised."""
        assert self.post_norm is not None
        return tapped("post_norm", self.post_norm, states[:, 0])


class Clip(nnx.Module):
    """Embeds texts and images into one space, and scores them against each other; or one tower of it, alone.

    Args:
        config: sizes and conventions.
        remat: trade a second forward pass for the memory of the activations when training.
    """

    def __init__(self, config: ClipConfig, *, remat: bool = False, rngs: nnx.Rngs):
        shared, text, vision = (config.projection_dim,), config.text, config.vision
        self.text = TextTower(text, remat=remat, rngs=rngs) if text else None
        self.vision = VisionTower(vision, remat=remat, rngs=rngs) if vision else None
        projected = config.projection_dim > 0
        self.text_projection = (
            Linear((text.hidden_size,), shared, use_bias=False, rngs=rngs) if text and projected else None
        )
        self.visual_projection = (
            Linear((vision.hidden_size,), shared, use_bias=False, rngs=rngs) if vision and projected else None
        )
        self.logit_scale = nnx.Param(jnp.zeros(())) if text and vision else None
        self.normalize = config.normalize

    def encode_text(
        self, input_ids: Int[Array, "texts tokens"], attention_mask: Int[Array, "texts tokens"] | None = None
    ) -> Float[Array, "texts width"] | dict[str, Array]:
        """Embed texts: (texts, tokens) ids and mask -> (texts, width); unprojected, with all states."""
        states, features = self._read(input_ids, attention_mask)
        if self.text_projection is None:
            return {"last_hidden_state": states, "pooler_output": self._embedded(features)}
        return tap("text_embeds", self._embedded(features))

    def encode_image(
        self, images: Float[Array, "images height width_px channels"]
    ) -> Float[Array, "images width"] | dict[str, Array]:
        """Embed images: (images, height, width, channels), normalised -> (images, width); see `encode_text`."""
        states, features = self._seen(images)
        if self.visual_projection is None:
            return {"last_hidden_state": states, "pooler_output": self._embedded(features)}
        return tap("image_embeds", self._embedded(features))

    def encode_multimodal(
        self,
        images: Float[Array, "batch height width_px channels"],
        input_ids: Int[Array, "batch tokens"],
        attention_mask: Int[Array, "batch tokens"] | None = None,
    ) -> Float[Array, "batch width"]:
        """Embed pairs of a picture and a text, as BGE-VL does: the sum of both features, of length one."""
        (_, seen), (_, read) = self._seen(images), self._read(input_ids, attention_mask)
        return ops.l2_normalize(read + seen, epsilon=0.0)

    def similarity(
        self,
        images: Float[Array, "images height width_px channels"],
        input_ids: Int[Array, "texts tokens"],
        attention_mask: Int[Array, "texts tokens"] | None = None,
    ) -> Float[Array, "images texts"]:
        """Score each image against each text -> (images, texts). The scale has no upper bound."""
        (_, seen), (_, read) = self._seen(images), self._read(input_ids, attention_mask)
        seen = tap("image_embeds", ops.l2_normalize(seen, epsilon=0.0))
        read = tap("text_embeds", ops.l2_normalize(read, epsilon=0.0))
        assert self.logit_scale is not None
        return jnp.exp(self.logit_scale[...]) * (seen @ read.T)

    def text_model(
        self, input_ids: Int[Array, "texts tokens"], attention_mask: Int[Array, "texts tokens"]
    ) -> Float[Array, "texts width"]:
        """Give the features of texts, as CLIPTextModelWithProjection does."""
        return self._read(input_ids, attention_mask)[1]

    def vision_model(
        self, pixel_values: Float[Array, "images channels height width_px"]
    ) -> Float[Array, "images width"]:
        """Give the features of images, channels first, as CLIPVisionModelWithProjection does."""
        return self._seen(pixel_values.transpose(0, 2, 3, 1))[1]

    def model(
        self,
        input_ids: Int[Array, "texts tokens"],
        pixel_values: Float[Array, "images channels height width_px"],
        attention_mask: Int[Array, "texts tokens"],
    ) -> Float[Array, "images texts"]:
        """Score images, channels first, against texts, as CLIPModel does."""
        return self.similarity(pixel_values.transpose(0, 2, 3, 1), input_ids, attention_mask)

    def _read(
        self, input_ids: Int[Array, "texts tokens"], attention_mask: Int[Array, "texts tokens"] | None
    ) -> tuple[Array, Array]:
        """Give the states of a text's tokens, and its features."""
        assert self.text is not None
        with scope("text"):
            states = self.text(input_ids, attention_mask)
        features = self.text.pooled(states, input_ids)
        if self.text_projection is not None:
            features = tapped("text_projection", self.text_projection, features)
        return states, features

    def _seen(self, images: Float[Array, "images height width_px channels"]) -> tuple[Array, Array]:
        """Give the states of an image's class token and patches, and its features."""
        assert self.vision is not None
        with scope("vision"):
            states = self.vision(images)
            features = self.vision.pooled(states)
        if self.visual_projection is not None:
            features = tapped("visual_projection", self.visual_projection, features)
        return states, features

    def _embedded(self, features: Float[Array, "batch width"]) -> Float[Array, "batch width"]:
        return ops.l2_normalize(features, epsilon=0.0) if self.normalize else features

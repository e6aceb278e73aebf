"""Visualized-BGE in Flax NNX: EVA-02 image tower, fused into a BGE text encoder. Reads top to bottom.

Source: Zhou et al. 2024 (arXiv:2406.04292) for the fusion; Fang et al. 2023 (arXiv:2303.11331) and Sun et al.
2023 (arXiv:2303.15389) for the tower; FlagEmbedding's research/visual_bge for what was trained.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ...validation.taps import scope, tap
from .. import ops
from ..attention import Projections
from ..bert.modeling import TextEncoder, check_text
from ..blocks import PreNormLayer
from ..layers import LayerNorm, Linear, PatchEmbedding, in_turn, tapped
from .config import VisionConfig, VisualizedBGEConfig

MASKED_SCORE = -65504.0
"""Added to the score of a masked token: float16's lowest, as FlagEmbedding writes it, whatever the dtype."""


class Rotary(nnx.Module):
    """Angles of the patches, as the checkpoint stores them: (patches, head_dim), every value twice in a row."""

    def __init__(self, config: VisionConfig):
        self.cos = nnx.Variable(jnp.ones((config.patches, config.head_dim)))
        self.sin = nnx.Variable(jnp.zeros((config.patches, config.head_dim)))

    def __call__(self) -> tuple[Float[Array, "tokens half"], Float[Array, "tokens half"]]:
        """Give one angle for each pair, with a first row that leaves the class token as it is."""
        cos, sin = self.cos[:, ::2], self.sin[:, ::2]
        return jnp.concatenate([jnp.ones_like(cos[:1]), cos]), jnp.concatenate([jnp.zeros_like(sin[:1]), sin])


class VisionAttention(Projections):
    """Self-attention with rotary positions and a norm between heads and output projection. Keys have no bias."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        super().__init__(config.width, config.heads, biased=("query", "value", "out"), rngs=rngs)
        self.norm = LayerNorm(config.width, config.layer_norm_eps)
        self.out = Linear((config.width,), (config.width,), rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        cos: Float[Array, "tokens half"],
        sin: Float[Array, "tokens half"],
    ) -> Float[Array, "batch tokens width"]:
        q, k, v = self.project(x)
        q, k = (
            tap("rotary_query", ops.rotary_embedding(q, cos, sin, interleaved=True)),
            tap("rotary_key", ops.rotary_embedding(k, cos, sin, interleaved=True)),
        )
        attended = ops.attention(q, k, v, scale=self.scale).reshape(x.shape)
        return tapped("out", self.out, tapped("norm", self.norm, attended))


class SwiGLU(nnx.Module):
    """down(norm(silu(gate(x)) * up(x))) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        width, inner = (config.width,), (config.mlp_width,)
        self.gate = Linear(width, inner, rngs=rngs)
        self.up = Linear(width, inner, rngs=rngs)
        self.norm = LayerNorm(config.mlp_width, config.layer_norm_eps)
        self.down = Linear(inner, width, rngs=rngs)

    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        inner = ops.silu(tapped("gate", self.gate, x)) * tapped("up", self.up, x)
        return tapped("down", self.down, tapped("norm", self.norm, inner))


class VisionEncoder(nnx.Module):
    """EVA-02's image tower up to the residual stream after the last block; neither final norm nor head is applied."""

    def __init__(self, config: VisionConfig, *, remat: bool = False, rngs: nnx.Rngs):
        self.patch_embed = PatchEmbedding(config.patch_size, config.channels, config.width, rngs=rngs)
        self.cls_token = nnx.Param(jnp.zeros(config.width))
        self.position_embedding = nnx.Param(jnp.zeros((1 + config.patches, config.width)))
        self.rope = Rotary(config)
        self.blocks = nnx.List([_block(config, rngs) for _ in range(config.layers)])
        self.remat = remat

    def __call__(self, images: Float[Array, "batch height width_px channels"]) -> Float[Array, "batch tokens width"]:
        """(batch, height, width, channels) normalised -> (batch, 1 + patches, width), the class token first."""
        patches = tapped("patch_embed", self.patch_embed, images)
        cls = jnp.broadcast_to(self.cls_token[...], (images.shape[0], 1, self.cls_token.shape[0]))
        x = jnp.concatenate([cls, patches], axis=1) + self.position_embedding[...]
        cos, sin = self.rope()
        return in_turn(self.blocks, "blocks", x, cos, sin, remat=self.remat)


def _block(config: VisionConfig, rngs: nnx.Rngs) -> PreNormLayer:
    attention, mlp = VisionAttention(config, rngs=rngs), SwiGLU(config, rngs=rngs)
    return PreNormLayer(attention, mlp, lambda: LayerNorm(config.width, config.layer_norm_eps))


class BGEVisualized(nnx.Module):
    """Embeds texts, images, and images with texts into one space.

    Args:
        config: sizes and conventions.
        remat: trade a second forward pass for the memory of the activations when training.
    """

    def __init__(self, config: VisualizedBGEConfig, *, remat: bool = False, rngs: nnx.Rngs):
        width = (config.text.hidden_size,)
        self.text = TextEncoder(config.text, masked_score=MASKED_SCORE, remat=remat, rngs=rngs)
        self.vision = VisionEncoder(config.vision, remat=remat, rngs=rngs)
        self.visual_projection = Linear(width, width, rngs=rngs)
        self.config = config

    def __call__(
        self,
        images: Float[Array, "batch height width_px channels"] | None = None,
        input_ids: Int[Array, "batch tokens"] | None = None,
        attention_mask: Int[Array, "batch tokens"] | None = None,
    ) -> Float[Array, "batch width"]:
        """Embed what is given: texts, images, or both.

        Raises:
            ValueError: nothing is given, or ids without a mask, or what the chosen mode refuses.
        """
        if (input_ids is None) != (attention_mask is None):
            raise ValueError("input_ids and attention_mask must be given together")
        if input_ids is None or attention_mask is None:
            if images is None:
                raise ValueError("nothing to embed: give images, or input_ids with attention_mask, or all three")
            return self.encode_image(images)
        if images is None:
            return self.encode_text(input_ids, attention_mask)
        return self.encode_multimodal(images, input_ids, attention_mask)

    def encode_text(
        self, input_ids: Int[Array, "batch tokens"], attention_mask: Int[Array, "batch tokens"]
    ) -> Float[Array, "batch width"]:
        """Embed texts: (batch, tokens) ids and mask -> (batch, width)."""
        check_text(input_ids, attention_mask, self.config.text.max_tokens)
        with scope("text"):
            return self.text(input_ids, attention_mask)

    def encode_image(self, images: Float[Array, "batch height width_px channels"]) -> Float[Array, "batch width"]:
        """Embed images: (batch, height, width, channels), normalised -> (batch, width). The text is the empty one."""
        self._check_images(images)
        empty = jnp.array([[self.config.text.cls_token_id, self.config.text.sep_token_id]], jnp.int32)
        ids = jnp.broadcast_to(empty, (images.shape[0], 2))
        return self._fuse(images, ids, jnp.ones_like(ids))

    def encode_multimodal(
        self,
        images: Float[Array, "batch height width_px channels"],
        input_ids: Int[Array, "batch tokens"],
        attention_mask: Int[Array, "batch tokens"],
    ) -> Float[Array, "batch width"]:
        """Embed each image together with its text -> (batch, width)."""
        self._check_images(images)
        check_text(input_ids, attention_mask, self.config.max_fused_tokens)
        if images.shape[0] != input_ids.shape[0]:
            raise ValueError(
                f"{images.shape[0]} images and {input_ids.shape[0]} texts: there must be one text per image"
            )
        return self._fuse(images, input_ids, attention_mask)

    def _fuse(self, images: Array, input_ids: Array, attention_mask: Array) -> Array:
        """Put the image tokens between the first token of the text and the rest, and encode the whole."""
        patches, embeddings = self.config.vision.patches, self.text.embeddings
        table = embeddings.position.embedding
        with scope("vision"):
            features = self.vision(images)[:, 1:]
        projected = tapped("visual_projection", self.visual_projection, features)
        with scope("image_embeddings"):
            image = tapped("norm", embeddings.norm, projected + table[1 : patches + 1])
        with scope("text"):
            rows = jnp.concatenate([table[:1], table[patches + 1 : patches + input_ids.shape[1]]])
            with scope("embeddings"):
                text = embeddings.embed(input_ids, tap("position", rows[None]))
            # The mask's first `patches` ones stand for the image although [CLS] comes first in the sequence:
            # that is how the network was trained, and the same as long as [CLS] counts.
            ones = jnp.ones((images.shape[0], patches), attention_mask.dtype)
            fused = tap("input", jnp.concatenate([text[:, :1], image, text[:, 1:]], axis=1))
            return self.text.encode(fused, jnp.concatenate([ones, attention_mask], axis=1))

    def _check_images(self, images: Array) -> None:
        vision = self.config.vision
        wanted = (vision.image_size, vision.image_size, vision.channels)
        if images.ndim != 4 or images.shape[1:] != wanted:
            raise ValueError(f"images must be (batch, {', '.join(map(str, wanted))}), got shape {images.shape}")

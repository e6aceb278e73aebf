"""VisionTransformer and PatchEmbedding."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ....validation.taps import tap
from ...blocks import of_normed
from ...layers import Embedding, LayerNorm, Linear, tapped
from ...layers import PatchEmbedding as Patches
from ..pieces import EPSILON
from ..vision import PatchConfig, VisionConfig, computed_places
from .attention import Attention
from .feed_forward import Mlp
from .training import Drop, before, one_by_one


class Pictures(nnx.Module):
    """Patches, a token before them perhaps, and places."""

    def __init__(self, config: VisionConfig | PatchConfig, *, token: bool, rounded: bool, rngs: nnx.Rngs):
        width, rows = config.embed_dim, config.tokens
        self.patch_embed = Patches(config.patch_size, config.in_channels, width, rngs=rngs)
        self.cls_token = nnx.Param(jnp.zeros(width)) if token else None
        learned = config.positional_encoding == "learned"
        self.position = Embedding(rows, width, rngs=rngs) if learned else None
        self.computed = (rows, width, rounded)
        self.used = config.image_size // config.patch_size * config.patch_size
        self.drop = Drop(config.dropout)

    def placed(self, images: Float[Array, "batch height width_px channels"]) -> Float[Array, "batch places width"]:
        """Give a vector for each patch, with its place added."""
        x = tapped("patch_embed", self.patch_embed, images[:, : self.used, : self.used])
        if self.cls_token is not None:
            x = before(self.cls_token, x)
        if self.position is not None:
            places = self.position.first(x.shape[1])
        else:
            rows, width, rounded = self.computed
            places = jnp.asarray(computed_places(rows, width, rounded=rounded))
        return self.drop(x + places)


class Block(nnx.Module):
    """Attention and feed-forward part of a VisionTransformer, a norm before each."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        width = config.embed_dim
        self.norm1 = LayerNorm(width, EPSILON)
        self.attention = Attention(width, config.num_heads, qkv_bias=config.qkv_bias, rngs=rngs)
        self.norm2 = LayerNorm(width, EPSILON)
        self.mlp = Mlp(width, config.mlp_width, dropout=config.dropout, rngs=rngs)
        self.drop = Drop(config.dropout)

    def __call__(self, x: Float[Array, "batch places width"]) -> Float[Array, "batch places width"]:
        x = x + self.drop(of_normed(self, "norm1", "attention", x))
        return tap("output", x + of_normed(self, "norm2", "mlp", x))


class VisionBody(Pictures):
    """A VisionTransformer without its head."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        super().__init__(config, token=config.pool == "cls", rounded=False, rngs=rngs)
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.depth)])
        self.norm = LayerNorm(config.embed_dim, EPSILON)

    def states(self, images: Float[Array, "batch height width_px channels"]) -> Float[Array, "batch places width"]:
        """Give the states of all places, normalised."""
        return tapped("norm", self.norm, one_by_one(self.blocks, "blocks", self.placed(images)))

    def pooled(self, images: Float[Array, "batch height width_px channels"]) -> Float[Array, "batch width"]:
        """Give the class token's state, or the mean where there is none."""
        states = self.states(images)
        return jnp.mean(states, axis=1) if self.cls_token is None else states[:, 0]


class VisionTransformer(VisionBody):
    """Scores pictures."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.head = Linear((config.embed_dim,), (config.num_classes,), rngs=rngs)

    def forward(self, images: Float[Array, "batch height width_px channels"]) -> Float[Array, "batch classes"]:
        """(batch, height, width, channels), normalised -> logits, (batch, classes)."""
        return tapped("head", self.head, self.pooled(images))

    def extract_features(self, images: Float[Array, "batch height width_px channels"]) -> Float[Array, "batch width"]:
        """(batch, height, width, channels), normalised -> what the head scores, (batch, width)."""
        return self.pooled(images)


class PatchEmbedding(Pictures):
    """Patches and places by themselves."""

    def __init__(self, config: PatchConfig, *, rngs: nnx.Rngs):
        super().__init__(config, token=config.use_cls_token, rounded=True, rngs=rngs)

    def forward(self, images: Float[Array, "batch height width_px channels"]) -> Float[Array, "batch places width"]:
        """(batch, height, width, channels), normalised -> (batch, places, width)."""
        return self.placed(images)

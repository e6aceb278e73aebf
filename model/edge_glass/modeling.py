"""Edge Glass's alignment models in Flax NNX. Reads top to bottom: perceiver, poolings, encoders, fusion, model.

Source: code of Edge Glass (src/encoders, src/models/alignment.py); Jaegle et al. 2021 (arXiv:2103.03206) for the
perceiver, Kusupati et al. 2022 (arXiv:2205.13147) for embeddings whose beginnings are embeddings.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ...validation.taps import scope, tap
from .. import ops
from ..attention import Attention
from ..bert.modeling import TextEncoder as Bert
from ..blocks import FeedForward, PreNormLayer
from ..clip.modeling import TextTower, VisionTower
from ..layers import LayerNorm, Linear, in_turn, tapped
from ..mpnet.modeling import TextEncoder as MPNet
from ..whisper.modeling import Encoder
from .config import (
    CONCAT,
    CROSS,
    EPSILON,
    MULTIHEAD,
    POOLED_HEADS,
    PREFIX,
    SIMPLE,
    Audio,
    EdgeGlassConfig,
    Fusion,
    Perceiver,
    Text,
    Vision,
)
from .trm_modeling import TextDecoder

Outputs = dict[str, Array]
TINY = 1e-12
"""What a vector's length is divided by at least: torch's default."""


class Adapter(nnx.Module):
    """A norm, and two linear layers with gelu between."""

    def __init__(self, inputs: int, inner: int, outputs: int, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(inputs, EPSILON)
        self.up = Linear((inputs,), (inner,), rngs=rngs)
        self.down = Linear((inner,), (outputs,), rngs=rngs)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        return tapped("down", self.down, ops.gelu(tapped("up", self.up, tapped("norm", self.norm, x))))


class Head(nnx.Module):
    """A linear layer; a norm before it in the newest code."""

    def __init__(self, inputs: int, outputs: int, *, normed: bool, rngs: nnx.Rngs):
        self.norm = LayerNorm(inputs, EPSILON) if normed else None
        self.linear = Linear((inputs,), (outputs,), rngs=rngs)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        return tapped("linear", self.linear, x if self.norm is None else tapped("norm", self.norm, x))


class ResamplerLayer(nnx.Module):
    """Latents attend to tokens, both through the same norm, and then pass a feed-forward part; each is added."""

    def __init__(self, config: Perceiver, *, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(config.latent_dim, EPSILON)
        self.attention = Attention(config.latent_dim, config.num_heads, biased=("out",), rngs=rngs)
        self.norm2 = LayerNorm(config.latent_dim, EPSILON)
        self.mlp = FeedForward(config.latent_dim, config.inner, "gelu", rngs=rngs)

    def __call__(
        self, latents: Float[Array, "batch latents width"], tokens: Float[Array, "batch tokens width"]
    ) -> Float[Array, "batch latents width"]:
        normed, source = self.norm1(latents), tapped("norm1", self.norm1, tokens)
        with scope("attention"):
            latents = latents + self.attention(normed, None, source)
        normed = tapped("norm2", self.norm2, latents)
        with scope("mlp"):
            return latents + self.mlp(normed)


class Resampler(nnx.Module):
    """(batch, tokens, width) -> (batch, latents, width)."""

    def __init__(self, config: Perceiver, *, rngs: nnx.Rngs):
        shape = config.num_latents, config.latent_dim
        self.latents = nnx.Param(jax.random.normal(rngs.params(), shape) * 0.02)
        self.layers = nnx.List([ResamplerLayer(config, rngs=rngs) for _ in range(config.num_layers)])
        self.norm = LayerNorm(config.latent_dim, EPSILON)

    def __call__(self, tokens: Float[Array, "batch tokens width"]) -> Float[Array, "batch latents width"]:
        latents = jnp.broadcast_to(self.latents[...], (tokens.shape[0], *self.latents.shape))
        return tapped("norm", self.norm, in_turn(self.layers, "layers", latents, tokens))


class SimplePooling(nnx.Module):
    """A weighted sum of the normalised tokens, by a softmax of one score each."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(width, EPSILON)
        self.score = Linear((width,), (1,), rngs=rngs)

    def __call__(self, tokens: Float[Array, "batch tokens width"]) -> Float[Array, "batch width"]:
        normed = tapped("norm", self.norm, tokens)
        weights = jax.nn.softmax(tapped("score", self.score, normed), axis=1)
        return jnp.sum(weights * normed, axis=1)


class MultiHeadPooling(nnx.Module):
    """One learned query attends to the normalised tokens."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.query = nnx.Param(jax.random.normal(rngs.params(), (width,)) * 0.02)
        self.norm = LayerNorm(width, EPSILON)
        self.attention = Attention(width, POOLED_HEADS, rngs=rngs)

    def __call__(self, tokens: Float[Array, "batch tokens width"]) -> Float[Array, "batch width"]:
        batch, _, width = tokens.shape
        query = jnp.broadcast_to(self.query[...], (batch, 1, width))
        normed = tapped("norm", self.norm, tokens)
        with scope("attention"):
            return self.attention(query, None, normed)[:, 0]


def matryoshka(pooled: Float[Array, "batch width"], widths: tuple[int, ...]) -> Outputs:
    """Give the beginnings of vectors, each of length one."""
    return {f"mrl_{width}": ops.l2_normalize(pooled[:, :width], epsilon=TINY) for width in widths}


class VisionEncoder(nnx.Module):
    """(batch, height, width, channels) -> one vector of length one, its beginnings, and a sequence as it comes."""

    def __init__(self, config: Vision, *, rngs: nnx.Rngs):
        width, out, perceiver = config.tower.hidden_size, config.projection_dim, config.perceiver
        self.tower = VisionTower(config.tower, pools=False, rngs=rngs)
        inside = perceiver.latent_dim if perceiver else out
        self.projector = (
            Adapter(width, config.adapter, inside, rngs=rngs)
            if config.adapter
            else Linear((width,), (inside,), rngs=rngs)
        )
        self.resampler = Resampler(perceiver, rngs=rngs) if perceiver else None
        self.head = Head(inside, out, normed=config.adapter > 0, rngs=rngs) if perceiver else None
        pools = {SIMPLE: SimplePooling, MULTIHEAD: MultiHeadPooling}.get(config.pooling)
        self.pool = pools(out, rngs=rngs) if pools else None
        self.config = config

    def __call__(self, images: Float[Array, "batch height width_px channels"]) -> Outputs:
        with scope("tower"):
            states = self.tower(images)
        tokens = _projected(self.projector, states)
        pooled, sequence = self._resampled(tokens[:, 1:]) if self.resampler else self._pooled(tokens)
        pooled = ops.l2_normalize(pooled, epsilon=TINY)
        return {"pooled": pooled, **matryoshka(pooled, self.config.mrl), "sequence": sequence}

    def _pooled(self, tokens: Float[Array, "batch tokens width"]) -> tuple[Array, Array]:
        if self.pool is None:
            return tokens[:, 0], tokens[:, 1:]
        with scope("pool"):
            return self.pool(tokens), tokens

    def _resampled(self, tokens: Float[Array, "batch tokens width"]) -> tuple[Array, Array]:
        """Give the head of the latents' mean, where the head has a norm; else the mean of what the head gives."""
        assert self.resampler
        assert self.head
        with scope("resampler"):
            latents = self.resampler(tokens)
        with scope("head"):
            pooled = self.head(jnp.mean(latents, axis=1)) if self.config.adapter else None
            sequence = self.head(latents)
        return (jnp.mean(sequence, axis=1) if pooled is None else pooled), sequence


class TextEncoder(nnx.Module):
    """(batch, tokens) ids and mask -> one vector of length one, and its beginnings."""

    def __init__(self, config: Text, *, rngs: nnx.Rngs):
        self.bert = Bert(config.bert, rngs=rngs) if config.bert else None
        self.mpnet = MPNet(config.mpnet, rngs=rngs) if config.mpnet else None
        self.clip = TextTower(config.clip, rngs=rngs) if config.clip else None
        self.projector = Linear((config.width,), (config.projection_dim,), rngs=rngs)
        self.config = config

    def __call__(self, input_ids: Int[Array, "batch tokens"], attention_mask: Int[Array, "batch tokens"]) -> Outputs:
        projected = tapped("projector", self.projector, self.base(input_ids, attention_mask))
        pooled = ops.l2_normalize(projected, epsilon=TINY)
        return {"pooled": pooled, **matryoshka(pooled, self.config.mrl)}

    def base(
        self, input_ids: Int[Array, "batch tokens"], attention_mask: Int[Array, "batch tokens"]
    ) -> Float[Array, "batch width"]:
        """Give what the backbone makes of a text; of CLIP's that is the state of the first token, as upstream does."""
        for name in ("bert", "mpnet"):
            backbone = getattr(self, name)
            if backbone is not None:
                with scope(name):
                    return backbone(input_ids, attention_mask)
        assert self.clip
        with scope("clip"):
            return self.clip(input_ids, attention_mask)[:, 0]


class AudioEncoder(nnx.Module):
    """(batch, bands, frames) -> one vector of length one, its beginnings, and a sequence as it comes."""

    def __init__(self, config: Audio, *, rngs: nnx.Rngs):
        width, out, perceiver = config.tower.d_model, config.projection_dim, config.perceiver
        self.tower = Encoder(config.tower, rngs=rngs)
        inside = perceiver.latent_dim if perceiver else out
        self.projector = Linear((width,), (inside,), rngs=rngs)
        self.resampler = Resampler(perceiver, rngs=rngs) if perceiver else None
        self.head = Head(inside, out, normed=False, rngs=rngs) if perceiver else None
        self.config = config

    def __call__(self, input_features: Float[Array, "batch bands frames"]) -> Outputs:
        with scope("tower"):
            states = self.tower(input_features)
        sequence = tapped("projector", self.projector, states)
        if self.resampler and self.head:
            with scope("resampler"):
                latents = self.resampler(sequence)
            with scope("head"):
                sequence = self.head(latents)
        pooled = ops.l2_normalize(jnp.mean(sequence, axis=1), epsilon=TINY)
        return {"pooled": pooled, **matryoshka(pooled, self.config.mrl), "sequence": sequence}


class Concatenation(nnx.Module):
    """Two linear layers over all vectors side by side, and a norm."""

    def __init__(self, config: Fusion, widths: Mapping[str, int], *, rngs: nnx.Rngs):
        self.up = Linear((sum(widths.values()),), (config.inner,), rngs=rngs)
        self.down = Linear((config.inner,), (config.fusion_dim,), rngs=rngs)
        self.norm = LayerNorm(config.fusion_dim, EPSILON)

    def __call__(self, given: Mapping[str, Float[Array, "batch _"]]) -> Float[Array, "batch width"]:
        x = tapped("up", self.up, jnp.concatenate(list(given.values()), axis=-1))
        return tapped("norm", self.norm, tapped("down", self.down, ops.gelu(x)))


class Projected(nnx.Module):
    """Vectors of all modalities in one space, a linear layer each."""

    def __init__(self, config: Fusion, widths: Mapping[str, int], *, rngs: nnx.Rngs):
        for name, width in widths.items():
            setattr(self, name, Linear((width,), (config.fusion_dim,), rngs=rngs))
        self.norm = LayerNorm(config.fusion_dim, EPSILON)

    def project(self, given: Mapping[str, Float[Array, "batch _"]]) -> Float[Array, "batch modalities width"]:
        """Project what is given, (batch, modalities, width)."""
        return jnp.stack([tapped(name, getattr(self, name), x) for name, x in given.items()], axis=1)


class CrossAttention(Projected):
    """Layers in which the vectors attend to each other; their mean, and a norm."""

    def __init__(self, config: Fusion, widths: Mapping[str, int], *, rngs: nnx.Rngs):
        super().__init__(config, widths, rngs=rngs)
        self.layers = nnx.List([self._layer(config, rngs) for _ in range(config.num_layers)])

    def __call__(self, given: Mapping[str, Float[Array, "batch _"]]) -> Float[Array, "batch width"]:
        return tapped("norm", self.norm, jnp.mean(in_turn(self.layers, "layers", self.project(given)), axis=1))

    @staticmethod
    def _layer(config: Fusion, rngs: nnx.Rngs) -> PreNormLayer:
        attention = Attention(config.fusion_dim, config.num_heads, rngs=rngs)
        mlp = FeedForward(config.fusion_dim, config.inner, "gelu", rngs=rngs)
        return PreNormLayer(attention, mlp, lambda: LayerNorm(config.fusion_dim, EPSILON))


class Gate(Projected):
    """A weighted sum of the vectors, by a softmax of what all of them say, and a norm."""

    def __init__(self, config: Fusion, widths: Mapping[str, int], *, rngs: nnx.Rngs):
        super().__init__(config, widths, rngs=rngs)
        self.gate = Linear((len(widths) * config.fusion_dim,), (len(widths),), rngs=rngs)

    def __call__(self, given: Mapping[str, Float[Array, "batch _"]]) -> Float[Array, "batch width"]:
        vectors = self.project(given)
        said = tapped("gate", self.gate, vectors.reshape(vectors.shape[0], vectors.shape[1] * vectors.shape[2]))
        weights = jax.nn.softmax(said, axis=-1)
        return tapped("norm", self.norm, jnp.sum(weights[..., None] * vectors, axis=1))


class EdgeGlass(nnx.Module):
    """Embeds pictures, texts and sounds into one space; fuses them, and makes a prompt of a vector.

    Args:
        config: sizes and conventions.
    """

    def __init__(self, config: EdgeGlassConfig, *, rngs: nnx.Rngs):
        self.vision = VisionEncoder(config.vision, rngs=rngs) if config.vision else None
        self.text = TextEncoder(config.text, rngs=rngs) if config.text else None
        self.audio = AudioEncoder(config.audio, rngs=rngs) if config.audio else None
        self.fusion = self._fusion(config, config.fusion, rngs) if config.fusion else None
        width = PREFIX * config.prompt_dim
        self.prompt = Adapter(config.prompted, width, width, rngs=rngs) if config.prompt_dim else None
        self.decoder = TextDecoder(config.decoder, rngs=rngs) if config.decoder else None
        self.config = config

    @staticmethod
    def _fusion(config: EdgeGlassConfig, fusion: Fusion, rngs: nnx.Rngs) -> nnx.Module:
        widths = {name: getattr(config, name).projection_dim for name in config.modalities}
        made = {CONCAT: Concatenation, CROSS: CrossAttention}.get(fusion.strategy, Gate)
        return made(fusion, widths, rngs=rngs)

    def encode_image(self, images: Float[Array, "batch height width_px channels"]) -> Outputs:
        """Embed images, (batch, height, width, channels), normalised."""
        assert self.vision
        with scope("vision"):
            return self.vision(images)

    def encode_text(self, input_ids: Int[Array, "batch tokens"], attention_mask: Int[Array, "batch tokens"]) -> Outputs:
        """Embed texts, (batch, tokens) ids and mask."""
        assert self.text
        with scope("text"):
            return self.text(input_ids, attention_mask)

    def encode_audio(self, input_features: Float[Array, "batch bands frames"]) -> Outputs:
        """Embed sounds, (batch, bands, frames) as Whisper's extractor gives them."""
        assert self.audio
        with scope("audio"):
            return self.audio(input_features)

    def fuse(self, *vectors: Float[Array, "batch _"]) -> Float[Array, "batch width"]:
        """Fuse the vectors of all modalities: vision, audio, text."""
        return self._fused(self.config.modalities, vectors)

    def fuse_vision_audio(self, *vectors: Float[Array, "batch _"]) -> Float[Array, "batch width"]:
        """Fuse a picture and a sound."""
        return self._fused(("vision", "audio"), vectors)

    def fuse_vision_text(self, *vectors: Float[Array, "batch _"]) -> Float[Array, "batch width"]:
        """Fuse a picture and a text."""
        return self._fused(("vision", "text"), vectors)

    def fuse_audio_text(self, *vectors: Float[Array, "batch _"]) -> Float[Array, "batch width"]:
        """Fuse a sound and a text."""
        return self._fused(("audio", "text"), vectors)

    def soft_prompt(self, vector: Float[Array, "batch width"]) -> Float[Array, "batch tokens out"]:
        """Make the tokens of a prompt of a fused vector, or where nothing is fused, of a picture's."""
        assert self.prompt
        with scope("prompt"):
            x = self.prompt(vector)
        return tap("prefix", x.reshape(x.shape[0], PREFIX, self.config.prompt_dim))

    def decode_text(
        self, prefix: Float[Array, "batch places width"], input_ids: Int[Array, "batch tokens"]
    ) -> Float[Array, "batch so_far vocabulary"]:
        """Score the next token of each place of a soft prompt and a text behind it; nothing is masked as padding."""
        assert self.decoder
        with scope("decoder"):
            return self.decoder(prefix, input_ids)

    def _fused(self, names: tuple[str, ...], vectors: tuple[Array, ...]) -> Array:
        assert self.fusion
        with scope("fusion"):
            return self.fusion(dict(zip(names, vectors, strict=True)))


def _projected(projector: Linear | Adapter, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens out"]:
    if isinstance(projector, Linear):
        return tapped("projector", projector, x)
    with scope("projector"):
        return projector(x)

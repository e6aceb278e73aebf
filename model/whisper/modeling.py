"""Whisper in Flax NNX: an encoder of sound and a decoder of text that attends to it. Reads top to bottom.

Source: Radford et al. 2022 (arXiv:2212.04356); names and what the paper leaves open are transformers'
WhisperForConditionalGeneration's. Keys and values that are kept from step to step are of its caches' shape,
(batch, heads, places, head_dim).
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ...validation.taps import scope, tap
from .. import ops
from ..attention import Attention, Projections, causal, heads_first, mask_bias, places
from ..blocks import FeedForward, PreNormLayer
from ..caches import key_names, named
from ..layers import Embedding, LayerNorm, Linear, in_turn, tapped
from ..sound import log_mel
from .config import EPSILON, Decoder, WhisperConfig

MASKED_SCORE = float(np.finfo(np.float32).min)
"""Added to the score of a token that comes later, as transformers does in float32: no score makes up for it."""

BIASED = ("query", "value", "out")
"""Projections with a bias: a key's would add the same to all scores of a query."""

SoundCache = tuple[Float[Array, "batch heads places head_dim"], Float[Array, "batch heads places head_dim"]]
PastCache = tuple[Float[Array, "batch heads past head_dim"], Float[Array, "batch heads past head_dim"]]
TextCache = tuple[Float[Array, "batch heads so_far head_dim"], Float[Array, "batch heads so_far head_dim"]]
Begun = tuple[Float[Array, "batch heads heard head_dim"], Float[Array, "batch heads heard head_dim"]]
Ahead = tuple[Float[Array, "batch heads ahead head_dim"], Float[Array, "batch heads ahead head_dim"]]
"""Keys and values of a layer: of a sound, of the tokens before, of all tokens so far, of a sound's first places, and of
its others."""

Outputs = dict[str, Array]


class Convolution(nnx.Module):
    """Along time, three frames wide; a frame of silence on either side. gelu follows."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (3, inputs, outputs)) / (3 * inputs) ** 0.5)
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.stride = stride

    def __call__(self, x: Float[Array, "batch frames inputs"]) -> Float[Array, "batch places outputs"]:
        numbers = ("NHC", "HIO", "NHC")
        y = jax.lax.conv_general_dilated(x, self.kernel[...], [self.stride], [(1, 1)], dimension_numbers=numbers)
        return y + self.bias[...]


class Encoder(nnx.Module):
    """(batch, bands, frames) -> (batch, places, width), a place for two frames."""

    def __init__(self, config: WhisperConfig, *, remat: bool = False, rngs: nnx.Rngs):
        width = config.d_model
        self.conv1 = Convolution(config.num_mel_bins, width, 1, rngs=rngs)
        self.conv2 = Convolution(width, width, 2, rngs=rngs)
        self.position = Embedding(config.max_source_positions, width, rngs=rngs)
        self.blocks = nnx.List([self._block(config, rngs) for _ in range(config.encoder_layers)])
        self.norm = LayerNorm(width, EPSILON)
        self.remat = remat

    def __call__(self, input_features: Float[Array, "batch bands frames"]) -> Float[Array, "batch places width"]:
        x = ops.gelu(tapped("conv1", self.conv1, jnp.swapaxes(input_features, 1, 2)))
        x = ops.gelu(tapped("conv2", self.conv2, x))
        x = x + tap("position", self.position.embedding[...])  # a place for every two frames: the whole table
        return tapped("norm", self.norm, in_turn(self.blocks, "blocks", x, remat=self.remat))

    @staticmethod
    def _block(config: WhisperConfig, rngs: nnx.Rngs) -> PreNormLayer:
        width = config.d_model
        attention = Attention(width, config.encoder_attention_heads, biased=BIASED, rngs=rngs)
        mlp = FeedForward(width, config.encoder_ffn_dim, config.activation_function, rngs=rngs)
        return PreNormLayer(attention, mlp, lambda: LayerNorm(width, EPSILON))


class Heard(nnx.Module):
    """What a layer of the decoder attends to: keys and values of a sound, the same for every token."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        inside = heads, width // heads
        self.key = Linear((width,), inside, use_bias=False, rngs=rngs)
        self.value = Linear((width,), inside, rngs=rngs)

    def __call__(self, states: Float[Array, "batch places width"]) -> SoundCache:
        return heads_first(tapped("key", self.key, states)), heads_first(tapped("value", self.value, states))


class Asking(nnx.Module):
    """What attends to a sound: queries, and the projection out of the heads."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        inside = heads, width // heads
        self.query = Linear((width,), inside, rngs=rngs)
        self.out = Linear(inside, (width,), rngs=rngs)
        self.scale = inside[1] ** -0.5


class DecoderLayer(nnx.Module):
    """Attention to the text so far and to the sound, and feed-forward: each of the normalised stream, added to it."""

    def __init__(self, config: WhisperConfig, decoder: Decoder, *, rngs: nnx.Rngs):
        width, heads = config.d_model, decoder.decoder_attention_heads
        self.norm1 = LayerNorm(width, EPSILON)
        self.attention = Projections(width, heads, biased=BIASED, rngs=rngs)
        self.cross_norm = LayerNorm(width, EPSILON)
        self.cross = Asking(width, heads, rngs=rngs)
        self.norm2 = LayerNorm(width, EPSILON)
        self.mlp = FeedForward(width, decoder.decoder_ffn_dim, config.activation_function, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        own: tuple[PastCache | None, SoundCache],
        bias: Float[Array, "1 1 tokens so_far"] | None,
    ) -> tuple[Float[Array, "batch tokens width"], TextCache]:
        past, sound = own
        x, kept = self.read(x, past, bias)
        return self.hear(x, self.asked(x), sound), kept

    def read(
        self,
        x: Float[Array, "batch tokens width"],
        past: PastCache | None,
        bias: Float[Array, "1 1 tokens so_far"] | None,
    ) -> tuple[Float[Array, "batch tokens width"], TextCache]:
        """Attend to the text so far."""
        normed = tapped("norm1", self.norm1, x)
        with scope("attention"):
            query, key, value = self.attention.project(normed)
            kept = heads_first(key), heads_first(value)
            if past is not None:
                kept = jnp.concatenate([past[0], kept[0]], axis=2), jnp.concatenate([past[1], kept[1]], axis=2)
            return x + _attended(self.attention, query, kept, bias), kept

    def read_at(
        self,
        x: Float[Array, "batch tokens width"],
        past: PastCache,
        at: Int[Array, ""],
        bias: Float[Array, "1 1 tokens past"],
    ) -> tuple[Float[Array, "batch tokens width"], PastCache]:
        """Attend to the text so far, which lies in a cache that has room for all of it: put there from place `at`."""
        normed = tapped("norm1", self.norm1, x)
        with scope("attention"):
            query, key, value = self.attention.project(normed)
            zero = jnp.zeros((), at.dtype)
            new = zip(past, (heads_first(key), heads_first(value)), strict=True)
            key, value = (jax.lax.dynamic_update_slice(old, x, (zero, zero, at, zero)) for old, x in new)
            return x + _attended(self.attention, query, (key, value), bias), (key, value)

    def asked(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens heads head_dim"]:
        """Give what the sound is asked by each head."""
        normed = tapped("cross_norm", self.cross_norm, x)
        with scope("cross"):
            return tapped("query", self.cross.query, normed)

    def hear(
        self,
        x: Float[Array, "batch tokens width"],
        query: Float[Array, "batch tokens heads head_dim"],
        sound: SoundCache,
        weights: Float[Array, "batch heads tokens places"] | None = None,
    ) -> Float[Array, "batch tokens width"]:
        """Attend to the sound, by weights that are known, or else by the operator; then the feed-forward part."""
        with scope("cross"):
            if weights is None:
                x = x + _attended(self.cross, query, sound, None)
            else:
                x = x + tapped("out", self.cross.out, jnp.einsum("bhts,bhsd->bthd", weights, sound[1]))
        normed = tapped("norm2", self.norm2, x)
        with scope("mlp"):
            x = x + self.mlp(normed)
        return tap("output", x)

    def weights(
        self,
        query: Float[Array, "batch tokens heads head_dim"],
        key: Float[Array, "batch heads places head_dim"],
    ) -> Float[Array, "batch heads tokens places"]:
        """Say how much each head attends to each place of the sound."""
        return ops.softmax(jnp.einsum("bthd,bhsd->bhts", query * self.cross.scale, key))


def _attended(
    layer: Projections | Asking,
    query: Float[Array, "batch tokens heads head_dim"],
    kept: TextCache,
    bias: Float[Array, "1 1 tokens so_far"] | None,
) -> Float[Array, "batch tokens width"]:
    key, value = map(heads_first, kept)
    return tapped("out", layer.out, ops.attention(query, key, value, bias, scale=layer.scale))


class TextDecoder(nnx.Module):
    """Tokens beside a sound -> their states, and the keys and values of all so far."""

    def __init__(self, config: WhisperConfig, decoder: Decoder, *, rngs: nnx.Rngs):
        width = config.d_model
        self.word = Embedding(decoder.vocab_size, width, rngs=rngs)
        self.position = Embedding(decoder.max_target_positions, width, rngs=rngs)
        self.blocks = nnx.List([DecoderLayer(config, decoder, rngs=rngs) for _ in range(decoder.decoder_layers)])
        self.norm = LayerNorm(width, EPSILON)
        heads, layers = decoder.decoder_attention_heads, range(decoder.decoder_layers)
        self.sound = nnx.List([Heard(width, heads, rngs=rngs) for _ in layers])
        own = decoder.head == "own"
        self.head = Linear((width,), (decoder.vocab_size,), use_bias=False, rngs=rngs) if own else None

    def __call__(
        self,
        input_ids: Int[Array, "batch tokens"],
        past: Sequence[PastCache | None],
        sound: Sequence[SoundCache],
    ) -> tuple[Float[Array, "batch tokens width"], list[TextCache]]:
        x, bias = self._begun(input_ids, past[0])
        x, kept = in_turn(self.blocks, "blocks", x, bias, own=list(zip(past, sound, strict=True)))
        return tapped("norm", self.norm, x), kept

    def _begun(
        self, input_ids: Int[Array, "batch tokens"], past: PastCache | None
    ) -> tuple[Float[Array, "batch tokens width"], Float[Array, "1 1 tokens so_far"] | None]:
        """Give words at their places, behind those that are past, and what is masked."""
        before, tokens = None if past is None else past[0].shape[2], input_ids.shape[1]
        where = places(tokens, before)[None]
        x = tapped("word", self.word, input_ids) + tapped("position", self.position, where)
        alone = past is not None and tokens == 1  # one token sees all that are before it
        return x, None if alone else mask_bias(causal(tokens, before), MASKED_SCORE)

    def shown(
        self, input_ids: Int[Array, "batch tokens"], past: Sequence[PastCache], sound: Sequence[SoundCache]
    ) -> tuple[Float[Array, "batch tokens width"], list[TextCache], list[Float[Array, "batch heads tokens places"]]]:
        """Give the same, and how much the heads of each layer attend to each place of the sound."""
        x, bias = self._begun(input_ids, past[0])
        kept, found = [], []
        for i, (layer, before, own) in enumerate(zip(self.blocks, past, sound, strict=True)):
            with scope(f"blocks.{i}"):
                x, so_far = layer.read(x, before, bias)
                query = layer.asked(x)
                weights = layer.weights(query, own[0])
                x = layer.hear(x, query, own, weights)
            kept.append(so_far)
            found.append(weights)
        return tapped("norm", self.norm, x), kept, found

    def at(
        self,
        input_ids: Int[Array, "batch tokens"],
        past: Sequence[PastCache],
        sound: Sequence[SoundCache],
        at: Int[Array, ""],
    ) -> tuple[Float[Array, "batch tokens width"], list[PastCache]]:
        """Give states of tokens whose first stands at place `at`; caches have room for any text, used or not."""
        room = past[0][0].shape[2]
        places = jnp.arange(input_ids.shape[1]) + at
        x = tapped("word", self.word, input_ids) + tapped("position", self.position, places[None])
        seen = (places[:, None] >= jnp.arange(room)).astype(jnp.float32)[None, None]
        bias = mask_bias(seen, MASKED_SCORE)
        kept = []
        for i, (layer, before, own) in enumerate(zip(self.blocks, past, sound, strict=True)):
            with scope(f"blocks.{i}"):
                x, so_far = layer.read_at(x, before, at, bias)
                x = layer.hear(x, layer.asked(x), own)
            kept.append(so_far)
        return tapped("norm", self.norm, x), kept

    def weights(
        self, input_ids: Int[Array, "batch tokens"], sound: Sequence[SoundCache], heads: Sequence[tuple[int, int]]
    ) -> Float[Array, "batch some tokens places"]:
        """Say how much some heads, (layer, head) each in order, attend to each place of the sound."""
        found = []
        x, bias = self._begun(input_ids, None)
        for i, (layer, own) in enumerate(zip(self.blocks, sound, strict=True)):
            with scope(f"blocks.{i}"):
                x, _ = layer.read(x, None, bias)
                query = layer.asked(x)
                if wanted := [head for number, head in heads if number == i]:
                    queries = jnp.stack([query[:, :, head] for head in wanted], 2)
                    found.append(layer.weights(queries, jnp.stack([own[0][:, head] for head in wanted], 1)))
                if i == max(number for number, _ in heads):
                    break
                x = layer.hear(x, query, own)
        return jnp.concatenate(found, axis=1)

    def rest(
        self, states: Float[Array, "batch places width"], kept: Sequence[Begun]
    ) -> tuple[list[SoundCache], list[Ahead]]:
        """Give what every layer attends to, of a sound of whose places the first are kept; and what is new of it."""
        ahead = jax.lax.slice_in_dim(states, kept[0][0].shape[2], states.shape[1], axis=1)
        new = [heard(ahead) for heard in self.sound]
        both = zip(kept, new, strict=True)
        return [(jnp.concatenate([k, x], 2), jnp.concatenate([v, y], 2)) for (k, v), (x, y) in both], new

    def scores(self, states: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens vocabulary"]:
        """Score the next token of each."""
        return states @ self.word.embedding[...].T if self.head is None else tapped("head", self.head, states)


class Whisper(nnx.Module):
    """From samples to the scores of the next token, or to one vector of a sound.

    Args:
        config: sizes and conventions.
        remat: trade a second forward pass for the memory of the encoder's activations when training.
    """

    def __init__(self, config: WhisperConfig, *, remat: bool = False, rngs: nnx.Rngs):
        self.encoder = Encoder(config, remat=remat, rngs=rngs)
        self.decoder = TextDecoder(config, config.decoder, rngs=rngs) if config.decoder else None
        self.config = config

    def log_mel(self, samples: Float[Array, "batch samples"]) -> Float[Array, "batch bands frames"]:
        """Make spectrograms of sounds: (batch, samples) between -1 and 1 -> (batch, bands, frames)."""
        assert self.config.sound
        return log_mel(samples, self.config.sound)

    def encode_audio(self, input_features: Float[Array, "batch bands frames"]) -> Outputs:
        """Hear: (batch, bands, frames) -> states (batch, places, width), and their mean, of length one."""
        with scope("encoder"):
            states = self.encoder(input_features)
        vectors = ops.l2_normalize(_mean(states), epsilon=0.0)
        return {"last_hidden_state": states, "embeddings": tap("embeddings", vectors)}

    def cross_kv(self, last_hidden_state: Float[Array, "batch places width"]) -> Outputs:
        """Give what every layer of the decoder attends to: computed once for a sound, and kept."""
        assert self.decoder
        found: Outputs = {}
        for i, heard in enumerate(self.decoder.sound):
            with scope(f"decoder.sound.{i}"):
                found |= dict(zip(key_names("cross", i), heard(last_hidden_state), strict=True))
        return found

    def decode_prefill(self, input_ids: Int[Array, "batch tokens"], *sound: Array) -> Outputs:
        """Score the tokens of what a text begins with; keep their keys and values."""
        return self._decoded(input_ids, [None] * self._decoder.decoder_layers, _pairs(sound))

    def decode_step(self, input_ids: Int[Array, "batch 1"], *kept: Array) -> Outputs:
        """Score one more token; `kept` is that of the tokens before, then that of the sound."""
        half = len(kept) // 2
        return self._decoded(input_ids, _pairs(kept[:half]), _pairs(kept[half:]))

    def encoder_model(self, input_features: Float[Array, "batch_size bands frames"]) -> Outputs:
        """Hear, as `encode_audio` does: the name is that of the clients' file."""
        return self.encode_audio(input_features)

    def decoder_model_merged(
        self,
        input_ids: Int[Array, "batch_size tokens"],
        encoder_hidden_states: Float[Array, "batch_size places width"],
        *kept: Array,
    ) -> Outputs:
        """Score tokens, whatever is kept of those before and of the sound, as clients with one file for both call it.

        `kept` holds keys and values of a layer's tokens, then of its sound; then those of the next.
        """
        assert self.decoder
        past, heard = (list(zip(kept[at::4], kept[at + 1 :: 4], strict=True)) for at in (0, 2))
        with scope("decoder"):
            sound, new = self.decoder.rest(encoder_hidden_states, heard)
            if self._decoder.alignment_heads:
                states, own, weights = self.decoder.shown(input_ids, past, sound)
            else:
                (states, own), weights = self.decoder(input_ids, past, sound), []
            found = {"logits": self.decoder.scores(states)}
        for part, pairs in (("decoder", own), ("encoder", new)):
            for i, (key, value) in enumerate(pairs):
                found |= {f"present.{i}.{part}.key": key, f"present.{i}.{part}.value": value}
        return found | {f"cross_attentions.{i}": x for i, x in enumerate(weights)}

    def encoder_with_cross(self, input_features: Float[Array, "batch_size bands frames"]) -> Outputs:
        """Hear, and give what every layer of the decoder attends to, as clients with two files call it."""
        found = self.encode_audio(input_features)
        return found | self.cross_kv(found["last_hidden_state"])

    def decoder_with_cross(self, input_ids: Int[Array, "batch_size tokens"], *kept: Array) -> Outputs:
        """Score tokens, whatever is kept of those before; `kept` is that, then that of the sound."""
        half = len(kept) // 2
        return self._decoded(input_ids, _pairs(kept[:half]), _pairs(kept[half:]))

    def encoder_with_layers(self, mel: Float[Array, "batch_size bands some"]) -> Outputs:
        """Hear what may be shorter than a window; keys and values of all layers are one array each.

        As clients with arrays (layers, batch, places, width) call it. What is not there of the window is zeros.
        """
        frames = self.config.frames
        rest = jnp.zeros((*mel.shape[:2], frames), mel.dtype)
        heard = self.encode_audio(jax.lax.slice_in_dim(jnp.concatenate([mel, rest], axis=2), 0, frames, axis=2))
        kept = list(zip(*_pairs(list(self.cross_kv(heard["last_hidden_state"]).values())), strict=True))
        keys, values = (_in_layers(each) for each in kept)
        return {"n_layer_cross_k": keys, "n_layer_cross_v": values, **heard}

    def decoder_with_offset(
        self,
        tokens: Int[Array, "batch_size tokens"],
        in_n_layer_self_k_cache: Float[Array, "layers batch_size room width"],
        in_n_layer_self_v_cache: Float[Array, "layers batch_size room width"],
        n_layer_cross_k: Float[Array, "layers batch_size places width"],
        n_layer_cross_v: Float[Array, "layers batch_size places width"],
        offset: Int[Array, "1"],
    ) -> Outputs:
        """Score tokens from place `offset` on; caches have room for any text, used or not."""
        assert self.decoder
        heads = self._decoder.decoder_attention_heads
        past = list(
            zip(*(_by_heads(x, heads) for x in (in_n_layer_self_k_cache, in_n_layer_self_v_cache)), strict=True)
        )
        sound = list(zip(*(_by_heads(x, heads) for x in (n_layer_cross_k, n_layer_cross_v)), strict=True))
        with scope("decoder"):
            states, kept = self.decoder.at(tokens, past, sound, offset[0])
            logits = self.decoder.scores(states)
        keys, values = (_in_layers(each) for each in zip(*kept, strict=True))
        return {"logits": logits, "out_n_layer_self_k_cache": keys, "out_n_layer_self_v_cache": values}

    def align(self, input_ids: Int[Array, "batch tokens"], *sound: Array) -> Float[Array, "batch some tokens places"]:
        """Say how much the alignment heads of each token of a text attend to each place of the sound."""
        assert self.decoder
        with scope("decoder"):
            return self.decoder.weights(input_ids, _pairs(sound), self._decoder.alignment_heads)

    def _decoded(
        self, input_ids: Int[Array, "batch tokens"], past: Sequence[PastCache | None], sound: Sequence[SoundCache]
    ) -> Outputs:
        assert self.decoder
        with scope("decoder"):
            states, kept = self.decoder(input_ids, past, sound)
            scored = self.decoder.scores(states) if self._decoder.head != "none" else states
        found = {"last_hidden_state" if self._decoder.head == "none" else "logits": scored}
        return found | named("", kept)

    @property
    def _decoder(self) -> Decoder:
        assert self.config.decoder
        return self.config.decoder


def _mean(states: Float[Array, "batch places width"]) -> Float[Array, "batch width"]:
    """Give the mean over time in two steps: runtimes add up one after the other, and rounding grows with each."""
    batch, places, width = states.shape
    inner = next(n for n in range(math.isqrt(places), 0, -1) if places % n == 0)
    return jnp.mean(jnp.mean(states.reshape(batch, places // inner, inner, width), axis=2), axis=1)


def _pairs(arrays: Sequence[Array]) -> list[tuple[Array, Array]]:
    """Put together the keys and values of each layer."""
    return list(zip(arrays[::2], arrays[1::2], strict=True))


def _in_layers(
    arrays: Sequence[Float[Array, "batch heads places head_dim"]],
) -> Float[Array, "layers batch places width"]:
    """Put what the layers keep into one array, the heads beside each other."""
    return jnp.stack([heads_first(x).reshape(x.shape[0], x.shape[2], x.shape[1] * x.shape[3]) for x in arrays])


def _by_heads(
    x: Float[Array, "layers batch places width"], heads: int
) -> list[Float[Array, "batch heads places head_dim"]]:
    """Take it apart again."""
    layers, batch, places, width = x.shape
    return [heads_first(x[i].reshape(batch, places, heads, width // heads)) for i in range(layers)]

"""Qwen2 and Qwen3 in Flax NNX: a decoder with rotary positions and caches. Reads top to bottom.

Source: Qwen Team 2024 (arXiv:2407.10671) and 2025 (arXiv:2505.09388); what the papers leave open is transformers'
Qwen2ForCausalLM's and Qwen3ForCausalLM's. Keys that are kept from step to step are turned already, of the shape of
its caches: (batch, kv_heads, places, head_dim).
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ...validation.taps import scope, tap
from .. import ops
from ..attention import Projections, causal, heads_first, mask_bias, padding, places
from ..blocks import GatedFeedForward
from ..caches import key_names, named
from ..layers import Embedding, Linear, RMSNorm, Size, in_turn, tapped
from ..pooling import embed, pipeline, with_vector
from ..rotary import turns
from .config import NONE, OWN, QWEN3, QwenConfig

MASKED_SCORE = float(np.finfo(np.float32).min)
"""Added to the score of a token that does not count, as transformers does in float32: no score makes up for it."""

PastCache = tuple[Float[Array, "batch kv_heads past head_dim"], Float[Array, "batch kv_heads past head_dim"]]
Cache = tuple[Float[Array, "batch kv_heads so_far head_dim"], Float[Array, "batch kv_heads so_far head_dim"]]
Turns = tuple[Float[Array, "*rows tokens half"], Float[Array, "*rows tokens half"]]
Bias = Float[Array, "batch 1 tokens so_far"]

Outputs = dict[str, Array]


class Attention(Projections):
    """Attention to the text so far, by queries and keys that are turned by their places; Qwen3 normalises them before.

    Args:
        config: sizes and conventions.
    """

    def __init__(self, config: QwenConfig, *, rngs: nnx.Rngs):
        super().__init__(
            config.hidden_size,
            config.num_attention_heads,
            head_dim=config.head_dim,
            kv_heads=config.num_key_value_heads,
            biased=config.biased,
            rngs=rngs,
        )
        normed = config.model_type == QWEN3
        self.query_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if normed else None
        self.key_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if normed else None

    def __call__(
        self, x: Float[Array, "batch tokens width"], past: PastCache | None, bias: Bias, turned: Turns
    ) -> tuple[Float[Array, "batch tokens width"], Cache]:
        query, key, value = self.project(x)
        if self.query_norm is not None and self.key_norm is not None:
            query = tapped("query_norm", self.query_norm, query)
            key = tapped("key_norm", self.key_norm, key)
        query, key = (ops.rotary_embedding(each, *turned, interleaved=False) for each in (query, key))
        kept = heads_first(key), heads_first(value)
        if past is not None:
            kept = jnp.concatenate([past[0], kept[0]], axis=2), jnp.concatenate([past[1], kept[1]], axis=2)
        attended = ops.attention(query, heads_first(kept[0]), heads_first(kept[1]), bias, scale=self.scale)
        return tapped("out", self.out, attended), kept


class Layer(nnx.Module):
    """Attention to the text so far and feed-forward: each of the normalised stream, added to it."""

    def __init__(self, config: QwenConfig, *, rngs: nnx.Rngs):
        self.norm1 = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(config, rngs=rngs)
        self.norm2 = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedFeedForward(config.hidden_size, config.intermediate_size, config.hidden_act, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch tokens width"], own: tuple[PastCache | None, Bias], turned: Turns
    ) -> tuple[Float[Array, "batch tokens width"], Cache]:
        past, bias = own
        normed = tapped("norm1", self.norm1, x)
        with scope("attention"):
            attended, kept = self.attention(normed, past, bias, turned)
        x = x + attended
        normed = tapped("norm2", self.norm2, x)
        with scope("mlp"):
            x = x + self.mlp(normed)
        return tap("output", x), kept


class Decoder(nnx.Module):
    """Tokens -> their states, and the keys and values of all so far.

    Args:
        config: sizes and conventions.
        remat: recompute each layer in the backward pass instead of keeping its activations.
    """

    def __init__(self, config: QwenConfig, *, remat: bool = False, rngs: nnx.Rngs):
        self.word = Embedding(config.vocab_size, config.hidden_size, rngs=rngs)
        self.blocks = nnx.List([Layer(config, rngs=rngs) for _ in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.pipeline = pipeline(config.pipeline, rngs=rngs)
        self.config, self.remat = config, remat

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        attention_mask: Int[Array, "batch so_far"],
        position_ids: Int[Array, "*rows tokens"],
        past: Sequence[PastCache] = (),
    ) -> tuple[Float[Array, "batch tokens width"], list[Cache]]:
        """Go through the layers, given the words' vectors (or others in their place)."""
        config, tokens = self.config, x.shape[1]
        before = past[0][0].shape[2] if past else None
        biases = {window: _bias(attention_mask, tokens, before, window) for window in dict.fromkeys(config.windows)}
        own = [(past[i] if past else None, biases[window]) for i, window in enumerate(config.windows)]
        turned = turns(config.rope, config.head_dim, position_ids)
        x, kept = in_turn(self.blocks, "blocks", x, turned, own=own, remat=self.remat)
        return tapped("norm", self.norm, x), kept

    def states(
        self, input_ids: Int[Array, "batch tokens"], attention_mask: Int[Array, "batch tokens"]
    ) -> Float[Array, "batch tokens width"]:
        """Give the last states of texts that are read whole; places are counted from the row's beginning."""
        where = places(input_ids.shape[1])
        return self(tapped("word", self.word, input_ids), attention_mask, where)[0]


def _bias(attention_mask: Int[Array, "batch so_far"], tokens: Size, before: Size | None, window: int) -> Bias:
    """Say what is added to scores: nothing where a token counts, is not later, and is within the window, if any."""
    counts = causal(tokens, before) * padding(attention_mask)
    if window:
        so_far = jnp.arange(attention_mask.shape[1])
        near = so_far > places(tokens, before)[:, None] - window
        counts = counts * near.astype(jnp.float32)[None, None]
    return mask_bias(counts, MASKED_SCORE)


class Qwen(nnx.Module):
    """A language model, or a text embedding model.

    Args:
        config: sizes and conventions.
        remat: trade a second forward pass for the memory of the activations when training.
    """

    def __init__(self, config: QwenConfig, *, remat: bool = False, rngs: nnx.Rngs):
        self.text = Decoder(config, remat=remat, rngs=rngs)
        width, own = config.hidden_size, config.head == OWN
        self.head = Linear((width,), (config.vocab_size,), use_bias=False, rngs=rngs) if own else None
        self.config = config

    def prefill(
        self,
        input_ids: Int[Array, "batch tokens"],
        attention_mask: Int[Array, "batch tokens"],
        position_ids: Int[Array, "batch tokens"],
    ) -> Outputs:
        """Score the tokens of a prompt, (batch, tokens); keep their keys and values."""
        return self._read(input_ids, attention_mask, position_ids, ())

    def decode(
        self,
        input_ids: Int[Array, "batch tokens"],
        attention_mask: Int[Array, "batch so_far"],
        position_ids: Int[Array, "batch tokens"],
        *past: Array,
    ) -> Outputs:
        """Score more tokens; `past` holds keys and values of those before, layer by layer, the mask counts them too."""
        return self._read(input_ids, attention_mask, position_ids, list(zip(past[::2], past[1::2], strict=True)))

    def model(
        self,
        input_ids: Int[Array, "batch tokens"],
        attention_mask: Int[Array, "batch so_far"],
        position_ids: Int[Array, "batch tokens"],
        *past: Array,
    ) -> Outputs:
        """Score tokens, whatever is kept of those before, as clients with one program call it."""
        found = self.decode(input_ids, attention_mask, position_ids, *past)
        for i in range(self.config.num_hidden_layers):
            key, value = (found.pop(name) for name in key_names("", i))
            found |= {f"present.{i}.key": key, f"present.{i}.value": value}
        return found

    def encode_text(
        self,
        input_ids: Int[Array, "batch tokens"],
        attention_mask: Int[Array, "batch tokens"],
        prompt_tokens: Int[Array, " batch"] | None = None,
    ) -> Float[Array, "batch embedding"]:
        """Embed texts: (batch, tokens) ids and mask -> (batch, embedding); padding may stand on either side.

        A pooling that leaves the prompt out also takes how many tokens of each text are its prompt's, (batch,).
        """
        with scope("text"):
            states = self.text.states(input_ids, attention_mask)
            return embed(self.text.pipeline, states, attention_mask, prompt_tokens)

    def token_states(
        self, input_ids: Int[Array, "batch tokens"], attention_mask: Int[Array, "batch tokens"]
    ) -> Outputs:
        """Give what Hugging Face's clients read, see `pooling.with_vector`."""
        with scope("text"):
            x = self.text.states(input_ids, attention_mask)
            return with_vector(x, self.text.pipeline, self.config.pipeline, attention_mask)

    def scores(self, states: Float[Array, "*batch width"]) -> Float[Array, "*batch vocabulary"]:
        """Score the next token of each."""
        if self.head is None:
            return states @ self.text.word.embedding[...].T
        return tapped("head", self.head, states)

    def _read(
        self,
        input_ids: Int[Array, "batch tokens"],
        attention_mask: Int[Array, "batch so_far"],
        position_ids: Int[Array, "batch tokens"],
        past: Sequence[PastCache],
    ) -> Outputs:
        with scope("text"):
            words = tapped("word", self.text.word, input_ids)
            states, kept = self.text(words, attention_mask, position_ids, past)
        found = {"last_hidden_state": states} if self.config.head == NONE else {"logits": self.scores(states)}
        return found | named("", kept)

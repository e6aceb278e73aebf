"""Edge Glass's second stage in Flax NNX: a picture's tokens before a text's, and what refines the last states.

Source: code of Edge Glass (src/models/trm_qwen_vlm.py, src/decoders/trm.py). There a latent z stands behind the states
and passes the layers with them, under a causal mask: it sees them and they never see it, so that it is left out here.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ...validation.taps import scope
from ..caches import named
from ..edge_glass.trm_modeling import Block, passed
from ..layers import Linear, at, tapped
from ..pooling import last_place
from ..qwen.modeling import Cache, Outputs, PastCache, Qwen
from .config import Recursion, VLMConfig, again

KEPT, PAST = "trm", "past_trm"
"""Of the recursion's keys and values: what stands before their names where they are given, and where they are taken."""


class Refinement(nnx.Module):
    """The same blocks several times over; keys and values of each time are kept.

    Args:
        config: sizes and conventions.
        hidden: width of the states that are refined.
    """

    def __init__(self, config: Recursion, hidden: int, *, rngs: nnx.Rngs):
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.num_layers)])
        self.down = Linear((hidden,), (config.width,), rngs=rngs) if config.projected else None
        self.up = Linear((config.width,), (hidden,), rngs=rngs) if config.projected else None
        self.config = config

    def __call__(
        self, states: Float[Array, "batch tokens hidden"], past: Sequence[PastCache] = ()
    ) -> tuple[Float[Array, "batch tokens width"], list[Cache]]:
        """Refine states, whatever of their row is padding."""
        layers = self.config.num_layers
        y = states if self.down is None else tapped("down", self.down, states)
        kept: list[Cache] = []
        for step in range(self.config.steps):
            with scope(again(step)):
                y, given = passed(self.blocks, y, past[step * layers : (step + 1) * layers])
            kept += given
        return y, kept

    def added(
        self, states: Float[Array, "*batch hidden"], refined: Float[Array, "*batch width"]
    ) -> Float[Array, "*batch hidden"]:
        """Add what became of states to them."""
        return states + (refined if self.up is None else tapped("up", self.up, refined))


class QwenVLM(nnx.Module):
    """Goes on with a text about a picture.

    Args:
        config: sizes and conventions.
    """

    def __init__(self, config: VLMConfig, *, rngs: nnx.Rngs):
        hidden = config.qwen.hidden_size
        self.qwen = Qwen(config.qwen, rngs=rngs)
        self.vision_proj = Linear((config.vision_token_dim,), (hidden,), rngs=rngs)
        self.trm = Refinement(config.trm, hidden, rngs=rngs) if config.trm else None
        self.config = config

    def project_vision(self, sequence: Float[Array, "batch places vision"]) -> Float[Array, "batch places hidden"]:
        """Make a prefix of a picture's tokens, as the image encoder of the first stage gives them."""
        return tapped("vision_proj", self.vision_proj, sequence)

    def forward(
        self,
        prefix: Float[Array, "batch places hidden"],
        input_ids: Int[Array, "batch tokens"],
        attention_mask: Int[Array, "batch tokens"],
        position_ids: Int[Array, "batch so_far"],
    ) -> Float[Array, "batch so_far vocabulary"]:
        """Score the next token of each place, the picture's too. The mask is the text's: all of the picture counts."""
        states, refined, _ = self._read(prefix, input_ids, attention_mask, position_ids)
        return self._scores(states, refined)

    def prefill(
        self,
        prefix: Float[Array, "batch places hidden"],
        input_ids: Int[Array, "batch tokens"],
        attention_mask: Int[Array, "batch tokens"],
        position_ids: Int[Array, "batch so_far"],
    ) -> Outputs:
        """Score what comes after the last token that counts; keep keys and values of picture and text."""
        states, refined, kept = self._read(prefix, input_ids, attention_mask, position_ids)
        last = last_place(_with_picture(prefix, attention_mask))
        refined = None if refined is None else at(refined, last)
        return {"logits": self._scores(at(states, last), refined), **kept}

    def decode(
        self,
        input_ids: Int[Array, "batch tokens"],
        attention_mask: Int[Array, "batch so_far"],
        position_ids: Int[Array, "batch tokens"],
        *past: Array,
    ) -> Outputs:
        """Score what comes after more tokens; `past` holds keys and values of all before, the recursion's last."""
        pairs = list(zip(past[::2], past[1::2], strict=True))
        with scope("qwen"), scope("text"):
            x = tapped("word", self.qwen.text.word, input_ids)
        states, refined, kept = self._states(x, attention_mask, position_ids, pairs)
        return {"logits": self._scores(states, refined), **kept}

    def _read(
        self, prefix: Array, input_ids: Array, attention_mask: Array, position_ids: Array
    ) -> tuple[Array, Array | None, Outputs]:
        with scope("qwen"), scope("text"):
            words = tapped("word", self.qwen.text.word, input_ids)
        x = jnp.concatenate([prefix, words], axis=1)
        return self._states(x, _with_picture(prefix, attention_mask), position_ids, [])

    def _states(
        self, x: Array, attention_mask: Array, position_ids: Array, past: Sequence[tuple[Array, Array]]
    ) -> tuple[Array, Array | None, Outputs]:
        """Give the language model's last states, what became of them, and all keys and values by name."""
        layers = self.config.qwen.num_hidden_layers
        with scope("qwen"), scope("text"):
            states, kept = self.qwen.text(x, attention_mask, position_ids, past[:layers])
        if self.trm is None:
            return states, None, named("", kept)
        with scope("trm"):
            refined, own = self.trm(states, past[layers:])
        return states, refined, named("", kept) | named(KEPT, own)

    def _scores(self, states: Array, refined: Array | None) -> Array:
        if self.trm is not None and refined is not None:
            with scope("trm"):
                states = self.trm.added(states, refined)
        with scope("qwen"):
            return self.qwen.scores(states)


def _with_picture(
    prefix: Float[Array, "batch places hidden"], attention_mask: Int[Array, "batch tokens"]
) -> Int[Array, "batch so_far"]:
    """Count the picture's tokens too, before the text's."""
    return jnp.concatenate([jnp.ones(prefix.shape[:2], attention_mask.dtype), attention_mask], axis=1)

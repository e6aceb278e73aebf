"""A decoder of one attention layer with a cache: two entry points, sums of axes, several kinds of outputs."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bgevis.model.network import Network
from bgevis.validation import outputs
from bgevis.validation.domains import Cache, PaddingMask, Positions, TokenIds
from bgevis.validation.entry_point import Axis, EntryPoint, TensorSpec
from bgevis.validation.procedure import Greedy

VOCABULARY, WIDTH, LONGEST = 40, 16, 64
NAMES = ("table", "places", "query", "key", "value", "out")
SHAPES = [(VOCABULARY, WIDTH), (LONGEST, WIDTH), *[(WIDTH, WIDTH)] * 3, (WIDTH, VOCABULARY)]


class Decoder(nnx.Module):
    """Logits and the keys and values of all tokens so far."""

    def __init__(self, rngs: nnx.Rngs):
        for name, shape in zip(NAMES, SHAPES, strict=True):
            setattr(self, name, nnx.Param(jax.random.normal(rngs.params(), shape)))

    def prefill(self, input_ids, attention_mask, positions):
        """(batch, tokens) ids, mask and positions -> logits, keys, values."""
        nothing = jnp.zeros((input_ids.shape[0], 0, WIDTH))
        return self.decode(input_ids, attention_mask, positions, nothing, nothing)

    def decode(self, input_ids, attention_mask, positions, past_keys, past_values):
        """The same for tokens after others: the mask is (batch, past + tokens)."""
        x = self.table[...][input_ids] + self.places[...][positions]
        keys = jnp.concatenate([past_keys, x @ self.key[...]], axis=1)
        values = jnp.concatenate([past_values, x @ self.value[...]], axis=1)
        scores = jnp.einsum("btd,bsd->bts", x @ self.query[...], keys) * WIDTH**-0.5
        queries, seen = input_ids.shape[1], attention_mask.shape[1]
        order = jnp.arange(seen)[None] <= (jnp.arange(queries)[:, None] + (seen - queries))
        scores = jnp.where(order[None] & (attention_mask[:, None] != 0), scores, -1e9)
        x = x + jnp.einsum("bts,bsd->btd", jax.nn.softmax(scores), values)
        logits = x @ self.out[...]
        best = jnp.argmax(logits[:, -1], axis=-1).astype(jnp.int32)
        return {"logits": logits, "keys": keys, "values": values, "best": best}


class Reference:
    """The same in numpy, in one dtype."""

    name = "numpy"

    def __init__(self, weights, dtype):
        self.w = {name: np.asarray(weights[name], dtype) for name in NAMES}
        self.dtype = dtype

    def run(self, entry_point, inputs):
        ids, mask, positions = (inputs[name] for name in ("input_ids", "attention_mask", "positions"))
        x = self.w["table"][ids] + self.w["places"][positions]
        keys, values = x @ self.w["key"], x @ self.w["value"]
        if entry_point == "decode":
            keys = np.concatenate([inputs["past_keys"].astype(self.dtype), keys], 1)
            values = np.concatenate([inputs["past_values"].astype(self.dtype), values], 1)
        scores = x @ self.w["query"] @ keys.transpose(0, 2, 1) / self.dtype(WIDTH**0.5)
        seen = np.tril(np.ones((mask.shape[1], mask.shape[1]), bool))[-ids.shape[1] :]
        scores = np.where(seen & (mask[:, None] != 0), scores, self.dtype(-1e9))
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        x = x + weights / weights.sum(-1, keepdims=True) @ values
        logits = x @ self.w["out"]
        best = logits[:, -1].argmax(-1).astype(np.int32)
        return {"logits": logits, "keys": keys, "values": values, "best": best}


def entry_points(padded="before"):
    """Prefill and decode; padding may stand on either side."""
    ids = TensorSpec("input_ids", "int32", ("batch", "tokens"), TokenIds(VOCABULARY, 0, padded=padded))
    positions = TensorSpec("positions", "int32", ("batch", "tokens"), Positions("attention_mask"))

    def mask(dim):
        return TensorSpec("attention_mask", "int32", ("batch", dim), PaddingMask("input_ids"))

    def results(dim):
        logits = TensorSpec("logits", "float32", ("batch", "tokens", VOCABULARY), kind=outputs.Logits("attention_mask"))
        caches = (TensorSpec(n, "float32", ("batch", dim, WIDTH), kind=outputs.Cache()) for n in ("keys", "values"))
        return (logits, *caches, TensorSpec("best", "int32", ("batch",), kind=outputs.Ids()))

    past = Cache(past="past", padded=padded)
    caches = (TensorSpec(f"past_{n}", "float32", ("batch", "past", WIDTH), past) for n in ("keys", "values"))
    axes = {"batch": Axis(), "past": Axis(1, 30), "tokens": Axis(1, 30)}
    prefill = (ids, mask("tokens"), positions)
    decode = (ids, mask("past + tokens"), positions, *caches)
    return (
        EntryPoint("prefill", prefill, results("tokens"), {"batch": Axis(), "tokens": Axis(1, 30)}, rows="batch"),
        EntryPoint("decode", decode, results("tokens + past"), axes, rows="batch"),
    )


def network(padded="before"):
    return Network(Decoder, entry_points(padded))


GREEDY = Greedy("generate", "prefill", "decode", {"past_keys": "keys", "past_values": "values"}, ends=(3,), steps=6)

"""What all networks here are made of: what training does that inference does not, and layers that may not be there."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ....validation.taps import scope
from ...layers import Linear, in_turn, tapped
from ..pieces import EPSILON

_training: ContextVar[nnx.Rngs | None] = ContextVar("training", default=None)


@contextmanager
def training(rngs: nnx.Rngs) -> Iterator[None]:
    """Compute as in training: drop what is to be dropped, by keys of `rngs.dropout`."""
    token = _training.set(rngs)
    try:
        yield
    finally:
        _training.reset(token)


@dataclass(frozen=True)
class Drop:
    """Sets a share of the numbers to 0 in training, and scales the others up; else gives them as they are."""

    share: float

    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        rngs = _training.get()
        if rngs is None or self.share == 0:
            return x
        kept = jax.random.bernoulli(rngs.dropout(), 1 - self.share, x.shape)
        return jnp.where(kept, x / max(1 - self.share, 1e-9), 0.0)


NONE = Drop(0.0)
"""Drops nothing."""


def is_training() -> bool:
    """Say whether it is computed as in training."""
    return _training.get() is not None


def perhaps(name: str, layer: nnx.Module | None, x: Float[Array, "*shape"]) -> Float[Array, "*other_shape"]:
    """Apply a layer and record what it gives; where there is none, give what came."""
    return x if layer is None else tapped(name, layer, x)


def lead(inputs: int, outputs: int, rngs: nnx.Rngs) -> Linear | None:
    """Make what leads from one width to another; None where they are the same."""
    return Linear((inputs,), (outputs,), rngs=rngs) if inputs != outputs else None


def before(token: nnx.Param, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch one_more width"]:
    """Put a token before those of each row."""
    return jnp.concatenate([jnp.broadcast_to(token[...], (x.shape[0], 1, x.shape[2])), x], axis=1)


def one_by_one(layers: Iterable[nnx.Module], name: str, x: Array, *others: Any) -> Array:
    """Apply layers that are alike; in training each by itself, so that each drops numbers of its own."""
    if not is_training():
        return in_turn(layers, name, x, *others)
    for i, layer in enumerate(layers):
        with scope(f"{name}.{i}"):
            x = layer(x, *others)
    return x


MOMENTUM = 0.1
"""The share of a batch in what batch norms remember: torch's default."""


class BatchNorm(nnx.Module):
    """Normalises each number by what it was in training; in training by its batch, which is remembered."""

    def __init__(self, width: int):
        self.scale, self.bias = nnx.Param(jnp.ones(width)), nnx.Param(jnp.zeros(width))
        self.mean, self.variance = nnx.BatchStat(jnp.zeros(width)), nnx.BatchStat(jnp.ones(width))

    def __call__(self, x: Float[Array, "batch width"]) -> Float[Array, "batch width"]:
        mean, variance = self.mean[...], self.variance[...]
        if is_training():
            self.mean[...] = (1 - MOMENTUM) * mean + MOMENTUM * jnp.mean(x, axis=0)
            self.variance[...] = (1 - MOMENTUM) * variance + MOMENTUM * jnp.var(x, axis=0, ddof=1)
            mean, variance = jnp.mean(x, axis=0), jnp.var(x, axis=0)
        return (x - mean) * jax.lax.rsqrt(variance + EPSILON) * self.scale[...] + self.bias[...]

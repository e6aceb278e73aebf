"""The steps of `steps.py` as a network: any text encoder puts them on the states of its tokens.

Source: sentence-transformers 6.2, modules Pooling, Dense, LayerNorm and Normalize.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ..validation.taps import scope, tap
from . import layers, ops, steps
from .layers import tapped
from .pipeline import VECTOR


def softplus(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log(1 + exp(x)), without overflow."""
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def elu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x, or exp(x) - 1 where it is negative (Clevert et al. 2015, arXiv:1511.07289)."""
    return jnp.where(x > 0, x, jnp.expm1(jnp.minimum(x, 0.0)))


def hard_sigmoid(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """A straight line from 0 at -3 to 1 at 3."""
    return jnp.clip(x + 3.0, 0.0, 6.0) / 6.0


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "Identity": lambda x: x,
    "Tanh": jnp.tanh,
    "Sigmoid": jax.lax.logistic,
    "ReLU": lambda x: jnp.maximum(x, 0.0),
    "ReLU6": lambda x: jnp.clip(x, 0.0, 6.0),
    "LeakyReLU": lambda x: jnp.where(x > 0, x, 0.01 * x),
    "ELU": elu,
    "SELU": lambda x: 1.0507009873554805 * jnp.where(x > 0, x, 1.6732632423543772 * elu(jnp.minimum(x, 0.0))),
    "CELU": elu,
    "GELU": ops.gelu,
    "SiLU": ops.silu,
    "Mish": lambda x: x * jnp.tanh(softplus(x)),
    "Softplus": softplus,
    "Softsign": lambda x: x / (1.0 + jnp.abs(x)),
    "Hardtanh": lambda x: jnp.clip(x, -1.0, 1.0),
    "Hardsigmoid": hard_sigmoid,
    "Hardswish": lambda x: x * hard_sigmoid(x),
    "LogSigmoid": lambda x: -softplus(-x),
    "Tanhshrink": lambda x: x - jnp.tanh(x),
}
"""torch.nn's class, with its defaults -> function."""


def first_place(counts: Int[Array, "batch tokens"]) -> Int[Array, " batch"]:
    """Give the first token of each text that counts."""
    return jnp.argmax(counts, axis=1)


def last_place(counts: Int[Array, "batch tokens"]) -> Int[Array, " batch"]:
    """Give the last token of each text that counts."""
    return jnp.max(jnp.arange(counts.shape[1]) * (counts != 0), axis=1)


def _begin(x: Array, counts: Array, mask: Array) -> Array:
    return x[:, 0]


def _first(x: Array, counts: Array, mask: Array) -> Array:
    return layers.at(x, first_place(counts))


def _last(x: Array, counts: Array, mask: Array) -> Array:
    return layers.at(x * counts[..., None].astype(x.dtype), last_place(counts))


def _max(x: Array, counts: Array, mask: Array) -> Array:
    return jnp.max(jnp.where(counts[..., None] != 0, x, -jnp.inf), axis=1)


def _sum_and_count(x: Array, weights: Array) -> tuple[Array, Array]:
    weights = weights.astype(x.dtype)
    return jnp.sum(x * weights[..., None], axis=1), jnp.maximum(jnp.sum(weights, axis=1, keepdims=True), 1e-9)


def _mean(x: Array, counts: Array, mask: Array) -> Array:
    total, count = _sum_and_count(x, counts)
    return total / count


def _mean_sqrt_len(x: Array, counts: Array, mask: Array) -> Array:
    total, count = _sum_and_count(x, counts)
    return total / jnp.sqrt(count)


def _weighted_mean(x: Array, counts: Array, mask: Array) -> Array:
    """Weights are the tokens' numbers in the text, from 1; without the prompt the others keep theirs."""
    numbers = jnp.arange(1, x.shape[1] + 1) - first_place(mask)[:, None]
    total, count = _sum_and_count(x, counts * numbers)
    return total / count


MODES: Mapping[str, Callable[[Array, Array, Array], Array]] = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
"""Word -> function of the states, which tokens count, and which are no padding."""


class Pooling(nnx.Module):
    """See `steps.Pooling`. Padding is after the texts where the first token is taken with its prompt."""

    def __init__(self, step: steps.Pooling):
        self.step = step

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        attention_mask: Int[Array, "batch tokens"],
        prompt_tokens: Int[Array, " batch"] | None = None,
    ) -> Float[Array, "batch pooled"]:
        counts = attention_mask
        if not self.step.include_prompt:
            assert prompt_tokens is not None  # an input of the entry point, as the step says
            begin = first_place(attention_mask) + prompt_tokens
            counts = attention_mask * (jnp.arange(x.shape[1]) >= begin[:, None])
        modes = {**MODES, "cls": _begin} if self.step.include_prompt else MODES
        return jnp.concatenate([modes[mode](x, counts, attention_mask) for mode in self.step.modes], axis=-1)


class Dense(nnx.Module):
    """See `steps.Dense`."""

    def __init__(self, step: steps.Dense, *, rngs: nnx.Rngs):
        sizes = (step.inputs,), (step.outputs,)
        self.linear = layers.Linear(*sizes, use_bias=step.bias, rngs=rngs)
        crossing = "residual.weight" in step.shapes
        self.residual = layers.Linear(*sizes, use_bias=False, rngs=rngs) if crossing else None
        self.step = step

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        y = ACTIVATIONS[self.step.activation](tapped("linear", self.linear, x))
        if self.residual is not None:
            return y + tapped("residual", self.residual, x)
        return y + x if self.step.residual else y


class LayerNorm(nnx.Module):
    """See `steps.LayerNorm`."""

    def __init__(self, step: steps.LayerNorm):
        self.norm = layers.LayerNorm(step.width, steps.EPSILON)

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        return tapped("norm", self.norm, x)


class Normalize(nnx.Module):
    """See `steps.Normalize`."""

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        return ops.l2_normalize(x, epsilon=1e-12)


class Truncate(nnx.Module):
    """See `steps.Truncate`."""

    def __init__(self, step: steps.Truncate):
        self.width = step.width

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch first"]:
        return x[..., : self.width]


def _module(step: steps.Step, rngs: nnx.Rngs) -> nnx.Module:
    if isinstance(step, steps.Dense):
        return Dense(step, rngs=rngs)
    if isinstance(step, steps.Normalize):
        return Normalize()
    made = {steps.Pooling: Pooling, steps.LayerNorm: LayerNorm, steps.Truncate: Truncate}
    return made[type(step)](step)


def pipeline(pipeline: steps.Steps, *, rngs: nnx.Rngs) -> Any:
    """Make the modules of a pipeline; the network that holds them calls them `pipeline`."""
    return nnx.List([_module(step, rngs) for step in pipeline])


def embed(
    pipeline: Iterable[nnx.Module],
    states: Float[Array, "batch tokens width"],
    attention_mask: Int[Array, "batch tokens"],
    prompt_tokens: Int[Array, " batch"] | None = None,
) -> Float[Array, "batch embedding"]:
    """Make one vector of each text's states.

    Args:
        pipeline: the network's, see `pipeline`.
        states: of the tokens.
        attention_mask: 1 where a token is no padding.
        prompt_tokens: how many tokens at the beginning of each text are its prompt's, special ones before it
            included; for a pooling that leaves them out.
    """
    x: Array = states
    for i, step in enumerate(pipeline):
        with scope(f"{steps.PLACE}.{i}"):
            x = step(x, attention_mask, prompt_tokens) if isinstance(step, Pooling) else step(x)
            if isinstance(step, Pooling):
                tap("pooled", x)
    return x


def with_vector(
    states: Float[Array, "batch tokens width"],
    modules: Iterable[nnx.Module],
    listed: steps.Steps,
    attention_mask: Int[Array, "batch tokens"],
) -> dict[str, Array]:
    """Give what Hugging Face's clients read, by their names: the states, and the vector that `embed` makes of them.

    Without the vector where the pooling leaves the prompt out, whose tokens these clients do not count.
    """
    vector = {VECTOR: embed(modules, states, attention_mask)} if steps.pooling(listed).include_prompt else {}
    return {"last_hidden_state": states, **vector}


class _Pipeline(nnx.Module):
    def __init__(self, steps: steps.Steps, *, rngs: nnx.Rngs):
        self.pipeline = pipeline(steps, rngs=rngs)


def embedded(
    listed: steps.Steps,
    weights: Mapping[str, np.ndarray],
    states: np.ndarray,
    attention_mask: np.ndarray,
    prompt_tokens: np.ndarray | None = None,
) -> Array:
    """Do what `embed` does, by the steps and the weights of their leaves, "pipeline.2.linear.kernel", alone."""
    graph, state = nnx.split(nnx.eval_shape(lambda: _Pipeline(listed, rngs=nnx.Rngs(0))))
    leaves = [
        (path, leaf.replace(jnp.asarray(weights[".".join(map(str, path))]))) for path, leaf in nnx.to_flat_state(state)
    ]
    module = nnx.merge(graph, nnx.from_flat_state(leaves))
    prompt = None if prompt_tokens is None else jnp.asarray(prompt_tokens)
    return embed(module.pipeline, jnp.asarray(states), jnp.asarray(attention_mask), prompt)

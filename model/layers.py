"""Layers that families share: linear, layer norm, embedding, with parameters named as Flax names them.

Kernels keep their heads apart, as Flax's attention does: (embed, heads, head_dim) into the heads and
(heads, head_dim, embed) out of them.
"""

import functools
import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ..validation.taps import is_recording, scope, tap
from . import ops

ACTIVATIONS = {
    "gelu": ops.gelu,
    "gelu_new": ops.gelu_tanh,
    "gelu_pytorch_tanh": ops.gelu_tanh,
    "silu": ops.silu,
    "swish": ops.silu,
    "relu": jax.nn.relu,
}
"""Hugging Face's `hidden_act` -> function. What is missing here is refused, never approximated."""


class Linear(nnx.Module):
    """y = x · kernel + bias, from the axes `inputs` to the axes `outputs` (either may be one or two axes)."""

    def __init__(self, inputs: tuple[int, ...], outputs: tuple[int, ...], *, use_bias: bool = True, rngs: nnx.Rngs):
        stddev = 1 / math.sqrt(math.prod(inputs))
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (*inputs, *outputs)) * stddev)
        self.bias = nnx.Param(jnp.zeros(outputs)) if use_bias else None
        self.inputs = len(inputs)

    def __call__(self, x: Float[Array, "*batch_inputs"]) -> Float[Array, "*batch_outputs"]:
        y = jnp.tensordot(x, self.kernel[...], axes=self.inputs)
        return y if self.bias is None else y + self.bias[...]


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis."""

    def __init__(self, width: int, epsilon: float):
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        return ops.layer_norm(x, self.scale[...], self.bias[...], epsilon=self.epsilon)


class Embedding(nnx.Module):
    """A table of vectors, looked up by id. An id outside the table gives NaN, never a neighbour's vector."""

    def __init__(self, size: int, width: int, *, rngs: nnx.Rngs):
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (size, width)) * 0.02)

    def __call__(self, ids: Int[Array, "*shape"]) -> Float[Array, "*shape width"]:
        return self.embedding[...].at[ids].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def tapped(name: str, layer: nnx.Module, x: Array) -> Array:
    """Apply `layer` and record what it gives under `name`, the layer's own place in the module tree."""
    return tap(name, layer(x))


def in_turn(layers: Iterable[nnx.Module], name: str, x: Array, *others: Array, remat: bool = False) -> Array:
    """Apply layers one after the other, each in the scope `name`.i, to x and the same further arguments.

    While JAX traces, layers of one kind are traced once and lowered to one function, which each of them calls with its
    own weights. Where intermediate values are recorded, and where nothing is traced, each is simply called. With
    `remat`, the backward pass computes each layer again instead of keeping its activations.
    """

    def call(layer: nnx.Module, x: Array, *others: Array) -> Array:
        function = type(layer).__call__
        return (nnx.remat(function) if remat else function)(layer, x, *others)

    # Made anew for each program: what is traced depends on more than its arguments (`ops.native_operators`).
    @functools.partial(jax.jit, static_argnums=0)
    def layer(graph: Any, state: Any, x: Array, *others: Array) -> Array:
        return call(nnx.merge(graph, state), x, *others)

    shared = isinstance(x, jax.core.Tracer) and not is_recording()
    for i, each in enumerate(layers):
        with scope(f"{name}.{i}"):
            x = layer(*nnx.split(each), x, *others) if shared else call(each, x, *others)
    return x

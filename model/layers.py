"""Layers that families share: linear, norms, embedding, patches, with parameters named as Flax names them.

Kernels keep their heads apart, as Flax's attention does: (embed, heads, head_dim) into the heads and
(heads, head_dim, embed) out of them.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, overload

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
    "quick_gelu": ops.quick_gelu,
    "silu": ops.silu,
    "swish": ops.silu,
    "relu": jax.nn.relu,
}
"""Hugging Face's `hidden_act` -> function. What is missing here is refused, never approximated."""


Size: TypeAlias = Any
"""Of an axis: an int or, while JAX traces, a symbolic dimension."""


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


class RMSNorm(nnx.Module):
    """Normalisation of the last axis by its root mean square; nothing is subtracted or added."""

    def __init__(self, width: int, epsilon: float):
        self.scale = nnx.Param(jnp.ones(width))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        return ops.rms_norm(x, self.scale[...], epsilon=self.epsilon)


class Embedding(nnx.Module):
    """A table of vectors, looked up by id. An id outside the table gives NaN, never a neighbour's vector."""

    def __init__(self, size: int, width: int, *, rngs: nnx.Rngs):
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (size, width)) * 0.02)

    def __call__(self, ids: Int[Array, "*shape"]) -> Float[Array, "*shape width"]:
        return self.embedding[...].at[ids].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)

    def first(self, count: Size) -> Float[Array, "1 count width"]:
        """Give the first rows in order, as the positions of every text that starts at the first one."""
        return self.embedding[None, :count]


class PatchEmbedding(Linear):
    """Pictures, channels last, cut into squares that do not overlap, each square turned into a vector, row by row."""

    def __init__(self, size: int, channels: int, width: int, *, use_bias: bool = True, rngs: nnx.Rngs):
        super().__init__((size, size, channels), (width,), use_bias=use_bias, rngs=rngs)
        self.size = size

    def __call__(self, images: Float[Array, "batch height width_px channels"]) -> Float[Array, "batch patches width"]:
        batch, height, width, channels = images.shape
        rows, columns, size = height // self.size, width // self.size, self.size
        cut = images.reshape(batch, rows, size, columns, size, channels).transpose(0, 1, 3, 2, 4, 5)
        return super().__call__(cut.reshape(batch, rows * columns, size, size, channels))


def at(x: Float[Array, "batch tokens width"], places: Int[Array, " batch"]) -> Float[Array, "batch width"]:
    """Take the state of one token of each text. The places are legal: no program asks whether they are."""
    return x.at[jnp.arange(x.shape[0]), places].get(mode="promise_in_bounds", wrap_negative_indices=False)


def tapped(name: str, layer: Callable[..., Array], *inputs: Any) -> Array:
    """Apply `layer` and record what it gives under `name`, the layer's own place in the module tree."""
    return tap(name, layer(*inputs))


@overload
def in_turn(layers: Iterable[nnx.Module], name: str, x: Array, *others: Any, remat: bool = False) -> Array: ...
@overload
def in_turn(
    layers: Iterable[nnx.Module], name: str, x: Array, *others: Any, own: Sequence[Any], remat: bool = False
) -> tuple[Array, list[Any]]: ...
def in_turn(
    layers: Iterable[nnx.Module],
    name: str,
    x: Array,
    *others: Any,
    own: Sequence[Any] | None = None,
    remat: bool = False,
) -> Array | tuple[Array, list[Any]]:
    """Apply layers one after the other, each in the scope `name`.i, to x and the same further arguments.

    With `own`, which holds something for each layer, such as its cache, a layer takes x, its own and the others, and
    gives x and its own anew; then the result is x and what all layers gave.

    While JAX traces, layers of one kind are traced once and lowered to one function, which each of them calls with its
    own weights. Where intermediate values are recorded, and where nothing is traced, each is simply called. With
    `remat`, the backward pass computes each layer again instead of keeping its activations.
    """

    def call(layer: nnx.Module, *inputs: Any) -> Any:
        function = type(layer).__call__
        return (nnx.remat(function) if remat else function)(layer, *inputs)

    # Made anew for each program: what is traced depends on more than its arguments (`ops.native_operators`).
    @functools.partial(jax.jit, static_argnums=0)
    def layer(graph: Any, state: Any, *inputs: Any) -> Any:
        return call(nnx.merge(graph, state), *inputs)

    shared = isinstance(x, jax.core.Tracer) and not is_recording()
    given = []
    for i, each in enumerate(layers):
        inputs = (x, *others) if own is None else (x, own[i], *others)
        with scope(f"{name}.{i}"):
            result = layer(*nnx.split(each), *inputs) if shared else call(each, *inputs)
        if own is None:
            x = result
        else:
            x, kept = result
            given.append(kept)
    return x if own is None else (x, given)

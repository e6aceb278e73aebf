"""The operators that runtimes have natively, each a `jax.lax.composite` around ordinary JAX.

An exporter that knows the name emits the native operator; everything else uses the decomposition.
Composites have no derivative rule, and jax cannot lower one with symbolic dimensions
(jax-ml/jax#40486), so they exist only inside `native_operators()`; elsewhere the decomposition is
called directly.

Axis names: b batch, t query tokens, s key tokens, h heads, d head width.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

PREFIX = "bgevis."

_native: ContextVar[bool] = ContextVar("native_operators", default=False)

P = ParamSpec("P")


@contextmanager
def native_operators() -> Iterator[None]:
    """Trace the operators of this module as composites, for an exporter that maps them by name."""
    token = _native.set(True)
    try:
        yield
    finally:
        _native.reset(token)


def _composite(function: Callable[P, Array]) -> Callable[P, Array]:
    @functools.wraps(function)
    def call(*args: P.args, **attributes: P.kwargs) -> Array:
        if not _native.get():
            return function(*args, **attributes)
        name = PREFIX + function.__name__
        return jax.lax.composite(function, name, version=1)(*args, **attributes)

    return call


@_composite
def layer_norm(
    x: Float[Array, "*batch width"], scale: Float[Array, " width"], bias: Float[Array, " width"], *, epsilon: float
) -> Float[Array, "*batch width"]:
    """Normalise the last axis to mean 0 and variance 1, then scale and shift (Ba et al. 2016, arXiv:1607.06450)."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + epsilon) * scale + bias


@_composite
def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Multiply x by the normal distribution function of x, by erf (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * 0.7071067811865476))


@_composite
def gelu_tanh(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Approximate `gelu` with tanh, as networks trained with `gelu_new` use it."""
    return 0.5 * x * (1.0 + jnp.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))


@_composite
def silu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Multiply x by the logistic function of x."""
    return x * jax.lax.logistic(x)


@_composite
def attention(
    query: Float[Array, "b t h d"],
    key: Float[Array, "b s h d"],
    value: Float[Array, "b s h d"],
    bias: Float[Array, "#b #h #t s"] | None = None,
    *,
    scale: float,
) -> Float[Array, "b t h d"]:
    """Attend: softmax(query·key * scale + bias) · value (Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1)."""
    scores = jnp.einsum("bthd,bshd->bhts", query * scale, key)
    if bias is not None:
        scores = scores + bias
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    return jnp.einsum("bhts,bshd->bthd", weights, value)


@_composite
def rotary_embedding(
    x: Float[Array, "b t h d"], cos: Float[Array, "t half"], sin: Float[Array, "t half"]
) -> Float[Array, "b t h d"]:
    """Rotate the consecutive pairs (2k, 2k+1) of the last axis by the k-th angle (Su et al. 2021, arXiv:2104.09864)."""
    cos, sin = cos[None, :, None, :], sin[None, :, None, :]
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    rotated = jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1)
    return rotated.reshape(x.shape)


@_composite
def l2_normalize(x: Float[Array, "*batch width"], *, epsilon: float) -> Float[Array, "*batch width"]:
    """Divide by the Euclidean norm of the last axis, at least `epsilon`."""
    norm = jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True))
    return x / jnp.maximum(norm, epsilon)

"""The operators that runtimes have natively, each a `jax.lax.composite` around ordinary JAX.

An exporter that knows the name emits the native operator; everything else uses the decomposition.
Composites have no derivative rule, and jax cannot lower one with symbolic dimensions
(jax-ml/jax#40486), so they exist only inside `native_operators()`; elsewhere the decomposition is
called directly.

Axis names: b batch, t query tokens, s key tokens, h heads, g heads of keys and values, d head width.
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
def rms_norm(
    x: Float[Array, "*batch width"], scale: Float[Array, " width"], *, epsilon: float
) -> Float[Array, "*batch width"]:
    """Divide the last axis by its root mean square, then scale (Zhang and Sennrich 2019, arXiv:1910.07467)."""
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon) * scale


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
def quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Approximate `gelu` with the logistic function, as CLIP is trained (Hendrycks and Gimpel 2016, section 2)."""
    return x * jax.lax.logistic(1.702 * x)


@_composite
def attention(
    query: Float[Array, "b t h d"],
    key: Float[Array, "b s g d"],
    value: Float[Array, "b s g d"],
    bias: Float[Array, "#b #h #t s"] | None = None,
    *,
    scale: float,
) -> Float[Array, "b t h d"]:
    """Attend: softmax(query·key * scale + bias) · value (Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1).

    Where keys and values have fewer heads, each serves h / g consecutive ones of the queries (Ainslie et al. 2023,
    arXiv:2305.13245).
    """
    if key.shape[2] != query.shape[2]:
        key, value = (jnp.repeat(x, query.shape[2] // x.shape[2], axis=2) for x in (key, value))
    scores = jnp.einsum("bthd,bshd->bhts", query * scale, key)
    if bias is not None:
        scores = scores + bias
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    return jnp.einsum("bhts,bshd->bthd", weights, value)


@_composite
def rotary_embedding(
    x: Float[Array, "b t h d"], cos: Float[Array, "... t half"], sin: Float[Array, "... t half"], *, interleaved: bool
) -> Float[Array, "b t h d"]:
    """Rotate pairs of the last axis, the k-th by the k-th angle of its token (Su et al. 2021, arXiv:2104.09864).

    Pairs are (2k, 2k + 1) where they are interleaved, else (k, k + d / 2). The angles are the same for all rows or,
    with a batch axis, each row's own.
    """
    cos, sin = cos[..., None, :], sin[..., None, :]
    if interleaved:
        pairs = x.reshape(*x.shape[:-1], -1, 2)
        even, odd = pairs[..., 0], pairs[..., 1]
        rotated = jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1)
        return rotated.reshape(x.shape)
    low, high = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


@_composite
def l2_normalize(x: Float[Array, "*batch width"], *, epsilon: float) -> Float[Array, "*batch width"]:
    """Divide by the Euclidean norm of the last axis, at least `epsilon`."""
    norm = jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True))
    return x / jnp.maximum(norm, epsilon)

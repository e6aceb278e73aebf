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
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

PREFIX = "bgevis."

_native: ContextVar[bool] = ContextVar("native_operators", default=False)

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def native_operators() -> Iterator[None]:
    """Trace the operators of this module as composites, for an exporter that maps them by name."""
    token = _native.set(True)
    try:
        yield
    finally:
        _native.reset(token)


def _composite(function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def call(*args: P.args, **attributes: P.kwargs) -> R:
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
def softmax(x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
    """Make shares of the last axis that sum to one: exp(x) over its sum (Bridle 1990)."""
    weights = jnp.exp(x - jax.lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True)))
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


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


@_composite
def conv_transpose(
    x: Float[Array, "b inputs *places"],
    kernel: Float[Array, "inputs outputs *window"],
    *,
    strides: tuple[int, ...],
    padding: tuple[int, ...],
    output_padding: tuple[int, ...],
    dilations: tuple[int, ...],
    groups: int,
) -> Float[Array, "b channels *larger"]:
    """Give what a convolution with these arguments takes back: each place adds the kernel to `strides` times as many.

    `padding` is cut off on both sides, `output_padding` added at the end (Dumoulin and Visin 2016, arXiv:1603.07285).
    """
    inputs, outputs, *window = kernel.shape
    apart = kernel.reshape(groups, inputs // groups, outputs, *window)
    turned = jnp.flip(jnp.swapaxes(apart, 1, 2), tuple(range(3, 3 + len(window))))
    pads = [
        (d * (k - 1) - p, d * (k - 1) - p + extra)
        for k, p, d, extra in zip(window, padding, dilations, output_padding, strict=True)
    ]
    letters = "".join("DHW"[-len(window) :])
    return jax.lax.conv_general_dilated(
        x,
        turned.reshape(groups * outputs, inputs // groups, *window),
        [1] * len(window),
        pads,
        lhs_dilation=strides,
        rhs_dilation=dilations,
        dimension_numbers=(f"NC{letters}", f"OI{letters}", f"NC{letters}"),
        feature_group_count=groups,
    )


@_composite
def lstm(
    x: Float[Array, "steps b inputs"],
    hidden: Float[Array, "b width"],
    cell: Float[Array, "b width"],
    weight: Float[Array, "gates inputs"],
    recurrent: Float[Array, "gates width"],
    bias: Float[Array, " gates"],
    recurrent_bias: Float[Array, " gates"],
    *,
    reverse: bool,
) -> tuple[Float[Array, "steps b width"], Float[Array, "b width"], Float[Array, "b width"]]:
    """Give the hidden states of all steps, and the last hidden and cell state (Hochreiter and Schmidhuber 1997).

    Gates stand as input, forget, cell, output, `width` rows each. From the last step to the first, if `reverse`.
    """

    def step(state: tuple[Array, Array], given: Array) -> tuple[tuple[Array, Array], Array]:
        before, memory = state
        enter, forget, new, leave = jnp.split(given + before @ recurrent.T + recurrent_bias, 4, axis=-1)
        memory = jax.nn.sigmoid(forget) * memory + jax.nn.sigmoid(enter) * jnp.tanh(new)
        after = jax.nn.sigmoid(leave) * jnp.tanh(memory)
        return (after, memory), after

    (hidden, cell), states = jax.lax.scan(step, (hidden, cell), x @ weight.T + bias, reverse=reverse)
    return states, hidden, cell


@_composite
def gru(
    x: Float[Array, "steps b inputs"],
    hidden: Float[Array, "b width"],
    weight: Float[Array, "gates inputs"],
    recurrent: Float[Array, "gates width"],
    bias: Float[Array, " gates"],
    recurrent_bias: Float[Array, " gates"],
    *,
    reverse: bool,
) -> tuple[Float[Array, "steps b width"], Float[Array, "b width"]]:
    """Give the hidden states of all steps, and the last (Cho et al. 2014, arXiv:1406.1078).

    Gates stand as reset, update, new; the reset gate acts after the recurrent product, as torch and cuDNN compute it.
    """

    def step(before: Array, given: Array) -> tuple[Array, Array]:
        reset, update, new = jnp.split(given, 3, axis=-1)
        its_reset, its_update, its_new = jnp.split(before @ recurrent.T + recurrent_bias, 3, axis=-1)
        update = jax.nn.sigmoid(update + its_update)
        new = jnp.tanh(new + jax.nn.sigmoid(reset + its_reset) * its_new)
        after = new + update * (before - new)
        return after, after

    hidden, states = jax.lax.scan(step, hidden, x @ weight.T + bias, reverse=reverse)
    return states, hidden


@_composite
def rnn(
    x: Float[Array, "steps b inputs"],
    hidden: Float[Array, "b width"],
    weight: Float[Array, "width inputs"],
    recurrent: Float[Array, "width width"],
    bias: Float[Array, " width"],
    recurrent_bias: Float[Array, " width"],
    *,
    reverse: bool,
    relu: bool,
) -> tuple[Float[Array, "steps b width"], Float[Array, "b width"]]:
    """Give the hidden states of all steps, and the last (Elman 1990): of each step's tanh, or `relu`."""

    def step(before: Array, given: Array) -> tuple[Array, Array]:
        total = given + before @ recurrent.T + recurrent_bias
        after = jax.nn.relu(total) if relu else jnp.tanh(total)
        return after, after

    hidden, states = jax.lax.scan(step, hidden, x @ weight.T + bias, reverse=reverse)
    return states, hidden

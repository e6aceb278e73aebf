"""Norms."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ....validation.sizes import Size
from ... import ops
from . import operator


@operator("aten.layer_norm")
def layer_norm(
    input: Array,  # noqa: A002 - ATen's name
    normalized_shape: Sequence[Size],
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Array:
    """Normalise the last axes to mean 0 and variance 1, then scale and shift."""
    scale = jnp.ones(tuple(normalized_shape), input.dtype) if weight is None else weight
    shift = jnp.zeros(tuple(normalized_shape), input.dtype) if bias is None else bias
    if len(normalized_shape) == 1:
        return ops.layer_norm(input, scale, shift, epsilon=eps)
    lead = input.shape[: input.ndim - len(normalized_shape)]
    flat = ops.layer_norm(input.reshape(*lead, -1), scale.reshape(-1), shift.reshape(-1), epsilon=eps)
    return flat.reshape(input.shape)


@operator("aten.native_layer_norm")
def native_layer_norm(
    input: Array,  # noqa: A002 - ATen's name
    normalized_shape: Sequence[Size],
    weight: Array | None,
    bias: Array | None,
    eps: float,
) -> tuple[Array, ...]:
    """Normalise the last axes; mean and deviation beside it, which inference does not read."""
    return (layer_norm(input, normalized_shape, weight, bias, eps),)


@operator("aten.rms_norm")
def rms_norm(
    input: Array,  # noqa: A002 - ATen's name
    normalized_shape: Sequence[Size],
    weight: Array | None = None,
    eps: float | None = None,
) -> Array:
    """Divide the last axes by their root mean square, then scale."""
    if len(normalized_shape) != 1:
        raise NotImplementedError("rms_norm over several axes")
    scale = jnp.ones(tuple(normalized_shape), input.dtype) if weight is None else weight
    return ops.rms_norm(input, scale, epsilon=float(jnp.finfo(input.dtype).eps) if eps is None else eps)


def _by_channel(x: Array, like: Array) -> Array:
    return x.reshape(1, -1, *[1] * (like.ndim - 2))


@operator("aten.batch_norm")
def batch_norm(
    input: Array,  # noqa: A002 - ATen's name
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> Array:
    """Normalise each channel by the running mean and variance, then scale and shift."""
    if training or running_mean is None or running_var is None:
        raise NotImplementedError("a norm over the batch itself, as in training: call .eval()")
    scale = jax.lax.rsqrt(running_var + eps)
    scale = scale if weight is None else scale * weight
    y = (input - _by_channel(running_mean, input)) * _by_channel(scale, input)
    return y if bias is None else y + _by_channel(bias, input)


@operator("aten.instance_norm")
def instance_norm(
    input: Array,  # noqa: A002 - ATen's name
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> Array:
    """Normalise each channel of each row by its own mean and variance, then scale and shift."""
    if not use_input_stats:
        return batch_norm(input, weight, bias, running_mean, running_var, False, momentum, eps)
    return group_norm(input, input.shape[1], weight, bias, eps)


@operator("aten._native_batch_norm_legit_no_training")
def native_batch_norm(
    input: Array,  # noqa: A002 - ATen's name
    weight: Array | None,
    bias: Array | None,
    running_mean: Array,
    running_var: Array,
    momentum: float,
    eps: float,
) -> tuple[Array, ...]:
    """Normalise each channel by the running mean and variance; what training keeps is left out."""
    return (batch_norm(input, weight, bias, running_mean, running_var, False, momentum, eps),)


@operator("aten._native_batch_norm_legit.no_stats")
def native_batch_norm_without_running(
    input: Array,  # noqa: A002 - ATen's name
    weight: Array | None,
    bias: Array | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Array, ...]:
    """Normalise each channel by its own mean and variance over rows and places, as weights are standardised."""
    axes = (0, *range(2, input.ndim))
    centred = input - jnp.mean(input, axis=axes, keepdims=True)
    y = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=axes, keepdims=True) + eps)
    y = y if weight is None else y * _by_channel(weight, input)
    return (y if bias is None else y + _by_channel(bias, input),)


@operator("aten.group_norm")
def group_norm(
    input: Array,  # noqa: A002 - ATen's name
    num_groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Array:
    """Normalise groups of channels, then scale and shift each channel."""
    rows, channels, *places = input.shape
    x = input.reshape(rows, num_groups, channels // num_groups, *places)
    axes = tuple(range(2, x.ndim))
    centred = x - jnp.mean(x, axis=axes, keepdims=True)
    y = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=axes, keepdims=True) + eps)
    y = y.reshape(input.shape)
    y = y if weight is None else y * _by_channel(weight, input)
    return y if bias is None else y + _by_channel(bias, input)


@operator("aten.native_group_norm")
def native_group_norm(
    input: Array,  # noqa: A002 - ATen's name
    weight: Array | None,
    bias: Array | None,
    rows: Size,
    channels: Size,
    places: Size,
    group: int,
    eps: float,
) -> tuple[Array, ...]:
    """Normalise groups of channels; what training keeps is left out."""
    return (group_norm(input, group, weight, bias, eps),)


@operator("aten._weight_norm")
def weight_norm(v: Array, g: Array, dim: int = 0) -> Any:
    """V scaled to the length g along an axis."""
    axes = tuple(axis for axis in range(v.ndim) if axis != dim % v.ndim)
    return v * (g / jnp.sqrt(jnp.sum(jnp.square(v), axis=axes, keepdims=True)))

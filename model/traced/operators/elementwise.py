"""Element by element."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from ... import ops
from . import operator

Value = Any
"""An array, or a number."""

UNARY = {
    **{
        name: getattr(jnp, name)
        for name in ["abs", "exp", "expm1", "log", "log1p", "log2", "log10", "sqrt", "sin", "cos", "tan", "tanh"]
    },
    **{
        name: getattr(jnp, name)
        for name in ["sinh", "cosh", "floor", "ceil", "trunc", "isnan", "isinf", "isfinite", "sign", "square", "exp2"]
    },
    **{f"a{name}": getattr(jnp, f"arc{name}") for name in ["sin", "cos", "tan", "sinh", "cosh", "tanh"]},
    **{
        name: getattr(jnp, name)
        for name in ["bitwise_not", "logical_not", "reciprocal", "isposinf", "isneginf", "signbit"]
    },
    "neg": jnp.negative,
    "rsqrt": jax.lax.rsqrt,
    "sigmoid": jax.lax.logistic,
    "silu": ops.silu,
    "relu": lambda x: jnp.maximum(x, 0),
    "erf": jax.lax.erf,
    "erfc": jax.lax.erfc,
    "relu6": lambda x: jnp.clip(x, 0, 6),
    "deg2rad": jnp.deg2rad,
    "rad2deg": jnp.rad2deg,
    "positive": lambda x: x,
    "log_sigmoid": lambda x: -jnp.logaddexp(-x, 0.0),
    "sgn": jnp.sign,
}
"""ATen's name -> function of one array."""

for _name, _function in UNARY.items():
    operator(f"aten.{_name}")(_function)


BINARY = {
    "maximum": jnp.maximum,
    "minimum": jnp.minimum,
    "fmax": jnp.fmax,
    "fmin": jnp.fmin,
    "atan2": jnp.arctan2,
    "eq": jnp.equal,
    "ne": jnp.not_equal,
    "lt": jnp.less,
    "le": jnp.less_equal,
    "gt": jnp.greater,
    "ge": jnp.greater_equal,
    "mul": jnp.multiply,
    "multiply": jnp.multiply,
    "hypot": jnp.hypot,
    **{f"logical_{name}": getattr(jnp, f"logical_{name}") for name in ("and", "or", "xor")},
    **{f"bitwise_{name}": getattr(jnp, f"bitwise_{name}") for name in ("and", "or", "xor")},
    **{f"__{name}__": getattr(jnp, f"bitwise_{name}") for name in ("and", "or", "xor")},
    "bitwise_left_shift": jnp.left_shift,
    "bitwise_right_shift": jnp.right_shift,
    "__lshift__": jnp.left_shift,
    "__rshift__": jnp.right_shift,
    "remainder": jnp.remainder,
    "fmod": jnp.fmod,
    "floor_divide": jnp.floor_divide,
    "copysign": jnp.copysign,
    "logaddexp": jnp.logaddexp,
    "true_divide": jnp.true_divide,
}
"""ATen's name -> function of two arrays, or of an array and a number."""

for _name, _function in BINARY.items():
    operator(f"aten.{_name}")(_function)


@operator("aten.add")
def add(self: Value, other: Value, *, alpha: Value = 1) -> Value:
    """Self + alpha · other."""
    return jnp.add(self, other if _is_one(alpha) else alpha * other)


@operator("aten.sub", "aten.subtract")
def sub(self: Value, other: Value, *, alpha: Value = 1) -> Value:
    """Self - alpha · other."""
    return jnp.subtract(self, other if _is_one(alpha) else alpha * other)


@operator("aten.rsub")
def rsub(self: Value, other: Value, alpha: Value = 1) -> Value:
    """Other - alpha · self."""
    return jnp.subtract(other, self if _is_one(alpha) else alpha * self)


def _is_one(alpha: Value) -> bool:
    return isinstance(alpha, int | float) and alpha == 1


@operator("aten.div", "aten.divide")
def div(self: Value, other: Value, *, rounding_mode: str | None = None) -> Value:
    """Self / other, as it is or rounded down or towards zero."""
    if rounding_mode is None:
        return jnp.true_divide(self, other)
    if rounding_mode == "floor":
        return jnp.floor_divide(self, other)
    if jnp.issubdtype(jnp.result_type(self, other), jnp.integer):
        return jnp.sign(self) * jnp.sign(other) * (jnp.abs(self) // jnp.abs(other))
    return jnp.trunc(jnp.true_divide(self, other))


@operator("aten.pow")
def power(self: Value, exponent: Value) -> Value:
    """Raise to a power; small whole ones by products."""
    if isinstance(exponent, int | float) and exponent in (2, 3):
        return self * self if exponent == 2 else self * self * self
    if isinstance(exponent, float) and exponent == 0.5:
        return jnp.sqrt(self)
    return jnp.power(self, exponent)


@operator("aten.round")
def round_(self: Value, *, decimals: int = 0) -> Value:
    """Round half to even."""
    return jnp.round(self, decimals)


@operator("aten.frac")
def frac(self: Value) -> Value:
    """Give what is behind the point."""
    return self - jnp.trunc(self)


@operator("aten.gelu")
def gelu(self: Value, *, approximate: str = "none") -> Value:
    """GELU by erf, or by tanh."""
    return ops.gelu_tanh(self) if approximate == "tanh" else ops.gelu(self)


@operator("aten.where")
def where(condition: Value, self: Value, other: Value) -> Value:
    """Choose by a condition."""
    return jnp.where(condition, self, other)


@operator("aten.masked_fill")
def masked_fill(self: Value, mask: Value, value: Value) -> Value:
    """Put a number where the mask is true."""
    return jnp.where(mask, jnp.asarray(value, self.dtype), self)


@operator("aten.clamp", "aten.clip")
def clamp(self: Value, min: Value = None, max: Value = None) -> Value:  # noqa: A002 - ATen's names
    """Bring between two bounds, either of which may be missing."""
    if min is not None:
        self = jnp.maximum(self, min)
    return self if max is None else jnp.minimum(self, max)


@operator("aten.clamp_min")
def clamp_min(self: Value, min: Value) -> Value:  # noqa: A002 - ATen's name
    """At least so much."""
    return jnp.maximum(self, min)


@operator("aten.clamp_max")
def clamp_max(self: Value, max: Value) -> Value:  # noqa: A002 - ATen's name
    """At most so much."""
    return jnp.minimum(self, max)


@operator("aten.hardtanh")
def hardtanh(self: Value, min_val: Value = -1, max_val: Value = 1) -> Value:
    """Bring between two bounds."""
    return jnp.clip(self, min_val, max_val)


@operator("aten.lerp")
def lerp(self: Value, end: Value, weight: Value) -> Value:
    """Between self and end."""
    return self + weight * (end - self)


@operator("aten.addcmul")
def addcmul(self: Value, tensor1: Value, tensor2: Value, *, value: Value = 1) -> Value:
    """Self + value · tensor1 · tensor2."""
    return self + value * tensor1 * tensor2


@operator("aten.addcdiv")
def addcdiv(self: Value, tensor1: Value, tensor2: Value, *, value: Value = 1) -> Value:
    """Self + value · tensor1 / tensor2."""
    return self + value * tensor1 / tensor2


@operator("aten.xlogy")
def xlogy(self: Value, other: Value) -> Value:
    """Self · log(other), 0 where self is 0."""
    return jnp.where(jnp.equal(self, 0), 0.0, self * jnp.log(other))


@operator("aten.softplus")
def softplus(self: Value, beta: Value = 1, threshold: Value = 20) -> Value:
    """log(1 + exp(beta · x)) / beta; x itself beyond the threshold."""
    scaled = self * beta
    return jnp.where(scaled > threshold, self, jnp.log1p(jnp.exp(jnp.minimum(scaled, threshold))) / beta)


@operator("aten.leaky_relu")
def leaky_relu(self: Value, negative_slope: Value = 0.01) -> Value:
    """x, or a fraction of it below 0."""
    return jnp.where(self > 0, self, self * negative_slope)


@operator("aten.elu")
def elu(self: Value, alpha: Value = 1, scale: Value = 1, input_scale: Value = 1) -> Value:
    """Scale · x, below 0 scale · alpha · (exp(input_scale · x) - 1)."""
    below = alpha * jnp.expm1(jnp.minimum(self, 0) * input_scale)
    return scale * jnp.where(self > 0, self, below)


@operator("aten.selu")
def selu(self: Value) -> Value:
    """ELU with the constants of Klambauer et al. 2017 (arXiv:1706.02515)."""
    return elu(self, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


@operator("aten.celu")
def celu(self: Value, alpha: Value = 1.0) -> Value:
    """ELU that is smooth for every alpha."""
    return jnp.maximum(self, 0) + alpha * jnp.expm1(jnp.minimum(self, 0) / alpha)


@operator("aten.hardsigmoid")
def hardsigmoid(self: Value) -> Value:
    """A straight line from 0 at -3 to 1 at 3."""
    return jnp.clip(self + 3, 0, 6) / 6


@operator("aten.hardswish")
def hardswish(self: Value) -> Value:
    """X · hardsigmoid(x)."""
    return self * (jnp.clip(self + 3, 0, 6) / 6)


@operator("aten.mish")
def mish(self: Value) -> Value:
    """X · tanh(softplus(x))."""
    return self * jnp.tanh(softplus(self))


@operator("aten.threshold")
def threshold(self: Value, threshold: Value, value: Value) -> Value:
    """X where it is above the threshold, else a number."""
    return jnp.where(self > threshold, self, value)


@operator("aten.hardshrink")
def hardshrink(self: Value, lambd: Value = 0.5) -> Value:
    """0 between -lambd and lambd."""
    return jnp.where(jnp.abs(self) <= lambd, 0, self)


@operator("aten.softshrink")
def softshrink(self: Value, lambd: Value = 0.5) -> Value:
    """X less lambd in magnitude."""
    return jnp.sign(self) * jnp.maximum(jnp.abs(self) - lambd, 0)


@operator("aten.prelu", "aten._prelu_kernel")
def prelu(self: Value, weight: Value) -> Value:
    """x, below 0 times a weight a channel."""
    if weight.ndim == 1 and self.ndim > 1:
        weight = weight.reshape(1, -1, *[1] * (self.ndim - 2))
    return jnp.where(self > 0, self, weight * self)


@operator("aten.glu")
def glu(self: Value, dim: int = -1) -> Value:
    """One half times the logistic function of the other."""
    left, right = jnp.split(self, 2, axis=dim)
    return left * jax.lax.logistic(right)


@operator("aten.logit")
def logit(self: Value, eps: float | None = None) -> Value:
    """log(x / (1 - x))."""
    x = self if eps is None else jnp.clip(self, eps, 1 - eps)
    return jnp.log(x / (1 - x))


@operator("aten.nan_to_num")
def nan_to_num(self: Value, nan: Value = None, posinf: Value = None, neginf: Value = None) -> Value:
    """Put numbers in the place of what are none."""
    return jnp.nan_to_num(self, nan=nan or 0.0, posinf=posinf, neginf=neginf)


@operator("aten.erfinv")
def erfinv(self: Value) -> Value:
    """Undo erf."""
    return jax.lax.erf_inv(self)


@operator("aten.sinc")
def sinc(self: Value) -> Value:
    """sin(pi x) / (pi x)."""
    x = jnp.where(self == 0, 1.0, math.pi * self)
    return jnp.where(self == 0, 1.0, jnp.sin(x) / x)

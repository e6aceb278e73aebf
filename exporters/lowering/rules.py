"""Rules that every target has, in what a walk gives: each table registers them under the operators that they become."""

import numpy as np
from jax.extend.core import JaxprEqn

from .walk import V, Walk, dtype_of, shape_of


def broadcast_in_dim(c: Walk[V], eqn: JaxprEqn) -> V:
    """Put the axes in their places; what reads the result repeats them, or `Walk.full` does."""
    value = c.index(eqn.invars[0])
    value = c.reshape(value, (1,) * (len(shape_of(eqn.invars[0])) - len(value.shape)) + value.shape)
    places = eqn.params["broadcast_dimensions"]
    first = min(places, default=len(eqn.params["shape"]))  # broadcasting adds the axes before it
    shape = [1] * len(eqn.params["shape"])
    for axis, dim in zip(places, value.shape, strict=True):
        shape[axis] = dim
    return c.reshape(value, shape[first:])


def transpose(c: Walk[V], eqn: JaxprEqn) -> V:
    """Permute the axes."""
    return c.transpose(c.ranked(eqn.invars[0]), eqn.params["permutation"])


def concatenate(c: Walk[V], eqn: JaxprEqn) -> V:
    """Join along an axis."""
    return c.concat([c.full(atom) for atom in eqn.invars], eqn.params["dimension"])


def slice_(c: Walk[V], eqn: JaxprEqn) -> V:
    """Take a range of every axis."""
    p = eqn.params
    return c.slice(c.full(eqn.invars[0]), p["start_indices"], p["limit_indices"], p["strides"])


def cbrt(c: Walk[V], eqn: JaxprEqn) -> V:
    """Take the root of the magnitude and give it the sign."""
    x = c.read(eqn.invars[0])
    root = c.elementwise("Pow", c.elementwise("Abs", x), c.constant(1 / 3, x.dtype))
    return c.elementwise("Mul", c.elementwise("Sign", x), root)


def exp2(c: Walk[V], eqn: JaxprEqn) -> V:
    """Raise 2 to the power of x."""
    x = c.read(eqn.invars[0])
    return c.elementwise("Pow", c.constant(2, x.dtype), x)


def reduce_precision(c: Walk[V], eqn: JaxprEqn) -> V:
    """Give what came, if it has no more bits than asked for."""
    value, info = c.read(eqn.invars[0]), np.finfo(dtype_of(eqn.invars[0]))
    if eqn.params["exponent_bits"] < info.iexp or eqn.params["mantissa_bits"] < info.nmant:
        raise c.refusal(eqn, "reduce_precision that drops bits has no operator")
    return value


def repeated_heads(c: Walk[V], x: V, heads: int) -> V:
    """Give keys or values (batch, tokens, heads, width) as many heads as the queries have, copies in a row."""
    batch, tokens, own, width = x.shape
    if own == heads:
        return x
    apart = c.reshape(x, (batch, tokens, own, 1, width))
    return c.reshape(c.expand(apart, (batch, tokens, own, heads // own, width)), (batch, tokens, heads, width))

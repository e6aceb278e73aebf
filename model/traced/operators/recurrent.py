"""Recurrent networks: layers of steps, in one direction or both, and single steps."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from ... import ops
from . import operator

Layer = Callable[..., tuple[Array, ...]]
"""(x, states, weights, reverse) -> the states of all steps, then each state after the last."""


def _tanh(*arrays: Array, reverse: bool = False) -> tuple[Array, ...]:
    return ops.rnn(*arrays, reverse=reverse, relu=False)


def _relu(*arrays: Array, reverse: bool = False) -> tuple[Array, ...]:
    return ops.rnn(*arrays, reverse=reverse, relu=True)


LAYERS: Mapping[str, tuple[Layer, str]] = {
    "lstm": (ops.lstm, "long short-term memory"),
    "gru": (ops.gru, "gated recurrent units"),
    "rnn_tanh": (_tanh, "the simple recurrent network with tanh"),
    "rnn_relu": (_relu, "the simple recurrent network with relu"),
}
"""Name -> one layer of it, and what it is called. What carries two states takes them as a list."""


def _layers(
    layer: Layer,
    x: Array,
    states: Sequence[Array],
    params: Sequence[Array],
    biased: bool,
    layers: int,
    both: bool,
    batch_first: bool,
) -> tuple[Array, ...]:
    """Run layers one after the other; the two directions of one side by side, their states joined.

    The states at the beginning are (layers times directions, rows, width) each. `params` are of each layer and
    direction: weight, recurrent weight and, if `biased`, the bias of each.
    """
    each, directions = 4 if biased else 2, 2 if both else 1
    if len(params) != each * layers * directions:
        raise NotImplementedError("a recurrent layer with a projection (proj_size)")
    x = jnp.swapaxes(x, 0, 1) if batch_first else x
    last: list[tuple[Array, ...]] = []
    for _ in range(layers):
        found = []
        for reverse in (False, True)[:directions]:
            place = len(last)
            weights = _biased(params[each * place : each * (place + 1)])
            result, *after = layer(x, *(state[place] for state in states), *weights, reverse=reverse)
            found.append(result)
            last.append(tuple(after))
        x = jnp.concatenate(found, axis=-1) if both else found[0]
    x = jnp.swapaxes(x, 0, 1) if batch_first else x
    return (x, *(jnp.stack(after) for after in zip(*last, strict=True)))


def _biased(weights: Sequence[Array]) -> Sequence[Array]:
    """Add biases of zero where there are none."""
    zero = jnp.zeros(weights[0].shape[0], weights[0].dtype)
    return weights if len(weights) == 4 else (*weights, zero, zero)


def _step(layer: Layer, x: Array, states: Sequence[Array], weights: Sequence[Array | None]) -> tuple[Array, ...]:
    given = _biased([weight for weight in weights if weight is not None])
    return tuple(layer(x[None], *states, *given, reverse=False)[1:])


def _register(name: str, layer: Layer, said: str) -> None:
    """Register a network of layers, and one step of it, with ATen's arguments."""

    def whole(
        input: Array,  # noqa: A002 - ATen's name
        hx: Any,
        params: Sequence[Array],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Array, ...]:
        states = hx if isinstance(hx, list | tuple) else [hx]
        return _layers(layer, input, states, params, has_biases, num_layers, bidirectional, batch_first)

    def cell(
        input: Array,  # noqa: A002 - ATen's name
        hx: Any,
        w_ih: Array,
        w_hh: Array,
        b_ih: Array | None = None,
        b_hh: Array | None = None,
    ) -> Any:
        several = isinstance(hx, list | tuple)
        found = _step(layer, input, hx if several else [hx], [w_ih, w_hh, b_ih, b_hh])
        return found if several else found[0]

    whole.__doc__ = f"Layers of {said}: the states of the last one, and each layer's own after the last step."
    cell.__doc__ = f"One step of {said}."
    operator(f"aten.{name}.input")(whole)
    operator(f"aten.{name}_cell")(cell)


for _name, _listed in LAYERS.items():
    _register(_name, *_listed)

"""Recurrent networks: layers of steps, in one direction or both, and single steps."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array

from ... import ops
from . import operator

Layer = Callable[..., tuple[Array, ...]]
"""(x, states, weights, reverse) -> the states of all steps, then each state after the last."""


@operator("aten.lstm.input")
def lstm(
    input: Array,  # noqa: A002 - ATen's name
    hx: Sequence[Array],
    params: Sequence[Array],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Array, ...]:
    """Long short-term memory: the states of the last layer, and each layer's last hidden and cell state."""
    return _layers(ops.lstm, input, hx, params, has_biases, num_layers, bidirectional, batch_first)


@operator("aten.gru.input")
def gru(
    input: Array,  # noqa: A002 - ATen's name
    hx: Array,
    params: Sequence[Array],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Array, ...]:
    """Gated recurrent units: the states of the last layer, and each layer's last one."""
    return _layers(ops.gru, input, [hx], params, has_biases, num_layers, bidirectional, batch_first)


@operator("aten.rnn_tanh.input")
def rnn_tanh(
    input: Array,  # noqa: A002 - ATen's name
    hx: Array,
    params: Sequence[Array],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Array, ...]:
    """The simple recurrent network with tanh."""
    return _layers(_tanh, input, [hx], params, has_biases, num_layers, bidirectional, batch_first)


@operator("aten.rnn_relu.input")
def rnn_relu(
    input: Array,  # noqa: A002 - ATen's name
    hx: Array,
    params: Sequence[Array],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Array, ...]:
    """The simple recurrent network with relu."""
    return _layers(_relu, input, [hx], params, has_biases, num_layers, bidirectional, batch_first)


def _tanh(*arrays: Array, reverse: bool = False) -> tuple[Array, ...]:
    return ops.rnn(*arrays, reverse=reverse, relu=False)


def _relu(*arrays: Array, reverse: bool = False) -> tuple[Array, ...]:
    return ops.rnn(*arrays, reverse=reverse, relu=True)


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


@operator("aten.lstm_cell")
def lstm_cell(
    input: Array,  # noqa: A002 - ATen's name
    hx: Sequence[Array],
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
) -> tuple[Array, ...]:
    """One step of long short-term memory: hidden and cell state."""
    return _step(ops.lstm, input, hx, [w_ih, w_hh, b_ih, b_hh])


@operator("aten.gru_cell")
def gru_cell(
    input: Array,  # noqa: A002 - ATen's name
    hx: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
) -> Array:
    """One step of gated recurrent units."""
    return _step(ops.gru, input, [hx], [w_ih, w_hh, b_ih, b_hh])[0]


@operator("aten.rnn_tanh_cell")
def rnn_tanh_cell(
    input: Array,  # noqa: A002 - ATen's name
    hx: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
) -> Array:
    """One step of the simple recurrent network with tanh."""
    return _step(_tanh, input, [hx], [w_ih, w_hh, b_ih, b_hh])[0]


@operator("aten.rnn_relu_cell")
def rnn_relu_cell(
    input: Array,  # noqa: A002 - ATen's name
    hx: Array,
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
) -> Array:
    """One step of the simple recurrent network with relu."""
    return _step(_relu, input, [hx], [w_ih, w_hh, b_ih, b_hh])[0]


def _step(layer: Layer, x: Array, states: Sequence[Array], weights: Sequence[Array | None]) -> tuple[Array, ...]:
    given = _biased([weight for weight in weights if weight is not None])
    return tuple(layer(x[None], *states, *given, reverse=False)[1:])

"""Recurrent layers, kept whole while torch traces: it would write out as many steps as the example has.

Each is given to torch as an operator of its own, of which it knows the shapes alone, and is named as ATen names it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ...validation.errors import InputError

OURS = "bgevis"
"""The namespace of the operators in torch's registry."""

LAYERS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
PACK = "_pack_padded_sequence"


@torch.library.custom_op(f"{OURS}::lstm", mutates_args=())
def _lstm(
    input: Tensor,  # noqa: A002 - ATen's name
    hx: list[Tensor],
    params: list[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.lstm(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)


@_lstm.register_fake
def _(
    input: Tensor,  # noqa: A002 - ATen's name
    hx: list[Tensor],
    params: list[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _states(input, hx[0], bidirectional), torch.empty_like(hx[0]), torch.empty_like(hx[1])


def _states(x: Tensor, hidden: Tensor, both: bool) -> Tensor:
    return x.new_empty((*x.shape[:2], hidden.shape[2] * (2 if both else 1)))


def _of_one_state(name: str) -> None:
    """Register a layer that carries one state."""

    def layer(
        input: Tensor,  # noqa: A002 - ATen's name
        hx: Tensor,
        params: list[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Tensor, Tensor]:
        function = getattr(torch, name)
        return function(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)

    def shapes(
        input: Tensor,  # noqa: A002 - ATen's name
        hx: Tensor,
        params: list[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Tensor, Tensor]:
        return _states(input, hx, bidirectional), torch.empty_like(hx)

    torch.library.custom_op(f"{OURS}::{name}", layer, mutates_args=()).register_fake(shapes)


for _name in LAYERS[1:]:
    _of_one_state(_name)

NAMES = {f"{OURS}.{name}.default": f"aten.{name}.input" for name in LAYERS}
"""What torch's graph calls them -> ATen's name."""


class Whole(TorchFunctionMode):
    """Puts the operators of this module in the place of torch's."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch."""
        name = getattr(function, "__name__", "")
        if name == PACK:
            raise InputError(
                "the module packs its rows (pack_padded_sequence): how many steps it takes depends on the numbers "
                "that it is given, which no program here can; give padded rows, and mask what comes out"
            )
        if name in LAYERS and function is getattr(torch, name):
            return getattr(torch.ops.bgevis, name)(*args)
        return function(*args, **(kwargs or {}))

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

LAYERS = {"lstm": 2, "gru": 1, "rnn_tanh": 1, "rnn_relu": 1}
"""Name -> how many states it carries."""

PACK = "_pack_padded_sequence"


def _register(name: str, states: int) -> None:
    """Give torch a layer, with ATen's arguments."""

    def layer(*args: Any) -> Any:
        return getattr(torch, name)(*args)

    def shapes(x: Tensor, hx: Any, *args: Any) -> tuple[Tensor, ...]:
        *_, both, _ = args
        hidden = hx if states > 1 else [hx]
        found = x.new_empty((*x.shape[:2], hidden[0].shape[2] * (2 if both else 1)))
        return (found, *map(torch.empty_like, hidden))

    schema = (
        f"(Tensor input, Tensor{'[]' if states > 1 else ''} hx, Tensor[] params, bool has_biases, int num_layers, "
        "float dropout, bool train, bool bidirectional, bool batch_first) -> "
        f"(Tensor{', Tensor' * states})"
    )
    torch.library.custom_op(f"{OURS}::{name}", layer, mutates_args=(), schema=schema).register_fake(shapes)


for _name, _states in LAYERS.items():
    _register(_name, _states)

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

"""The table of operators: ATen's name -> a function of JAX's arrays, one file a group, found by folder.

A function takes what ATen's schema names, in its order; sizes may be symbolic. The interpreter gives the result the
type that torch says it has (64 bits as 32), so a function need not. An operator without a function is refused by name.
"""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Operator = Callable[..., Any]
"""(arrays, numbers, sizes as ATen's schema has them) -> an array, or a tuple of arrays."""

O = TypeVar("O", bound=Operator)  # noqa: E741

_table: dict[str, Operator] = {}


def operator(*names: str) -> Callable[[O], O]:
    """Register the function of operators: "aten.add" for all of its overloads, or "aten.add.Tensor" for one."""

    def register(function: O) -> O:
        for name in names:
            if name in _table:
                raise ValueError(f"{name} has two functions: {_table[name]} and {function}")
            _table[name] = function
        return function

    return register


@functools.cache
def table() -> Mapping[str, Operator]:
    """Give every operator, by name."""
    for info in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{info.name}")
    return _table


def find(name: str) -> Operator | None:
    """Find the function of an operator: that of its overload, else that of all."""
    return table().get(name) or table().get(name.rpartition(".")[0])


@functools.cache
def accepts(function: Operator, count: int, names: tuple[str, ...]) -> bool:
    """Say whether a function can be called with so many positions and these names."""
    try:
        inspect.signature(function).bind(*[None] * count, **dict.fromkeys(names))
    except TypeError:
        return False
    return True

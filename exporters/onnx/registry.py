"""Which function lowers which primitive or composite of JAX. Filled by the modules of `operators`."""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jax.extend.core import JaxprEqn

from .graph import Value

if TYPE_CHECKING:
    from .lower import Lowering

Rule = Callable[["Lowering", JaxprEqn], Value | Sequence[Value]]
"""Gives the results of an equation, in order."""


@dataclass(frozen=True)
class Entry:
    """
    How a primitive or composite is lowered.

    Args:
        emits: the ONNX operators that it becomes.
        since: the first opset that has them; a composite is decomposed before.
    """

    name: str
    rule: Rule
    emits: tuple[str, ...]
    since: int = 0


PRIMITIVES: dict[str, Entry] = {}
COMPOSITES: dict[str, Entry] = {}


def primitive(*names: str, emits: str) -> Callable[[Rule], Rule]:
    """Register the rule of primitives."""
    return _register(PRIMITIVES, names, emits, 0)


def composite(name: str, *, emits: str, since: int) -> Callable[[Rule], Rule]:
    """Register the rule of a composite, by its name in `model/ops.py`."""
    return _register(COMPOSITES, (name,), emits, since)


def _register(table: dict[str, Entry], names: Sequence[str], emits: str, since: int) -> Callable[[Rule], Rule]:
    def decorate(rule: Rule) -> Rule:
        for name in names:
            if name in table:
                raise ValueError(f"{name} is lowered twice: {table[name].rule} and {rule}")
            table[name] = Entry(name, rule, tuple(emits.split()), since)
        return rule

    return decorate


@functools.cache
def load() -> None:
    """Import every module of `operators`, so that the tables are full."""
    package = importlib.import_module(".operators", __package__)
    for info in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f".operators.{info.name}", __package__)

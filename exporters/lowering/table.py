"""A table: which function lowers which primitive or composite of JAX for one target."""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Rule = Callable[..., Any]
"""(walk, equation) -> the results of the equation, in order; one alone need not be in a list."""

R = TypeVar("R", bound=Rule)


@dataclass(frozen=True)
class Entry:
    """
    How a primitive or composite is lowered.

    Args:
        emits: the operators that it becomes.
        since: the first version of the target that has them; a composite is decomposed before.
    """

    name: str
    rule: Rule
    emits: tuple[str, ...]
    since: int = 0


class Table:
    """
    The rules of one target.

    Args:
        target: what it lowers to, for messages.
        package: where its modules of rules are; importing one registers its rules.
    """

    def __init__(self, target: str, package: str):
        self.target = target
        self.primitives: dict[str, Entry] = {}
        self.composites: dict[str, Entry] = {}
        self._package = package
        self._loaded = False

    def primitive(self, *names: str, emits: str) -> Callable[[R], R]:
        """Register the rule of primitives."""
        return self._register(self.primitives, names, emits, 0)

    def composite(self, name: str, *, emits: str, since: int = 0) -> Callable[[R], R]:
        """Register the rule of a composite, by its name in `model/ops.py`."""
        return self._register(self.composites, (name,), emits, since)

    def _register(self, entries: dict[str, Entry], names: Sequence[str], emits: str, since: int) -> Callable[[R], R]:
        def decorate(rule: R) -> R:
            for name in names:
                if name in entries:
                    raise ValueError(f"{name} is lowered twice: {entries[name].rule} and {rule}")
                entries[name] = Entry(name, rule, tuple(emits.split()), since)
            return rule

        return decorate

    def load(self) -> None:
        """Import every module of the package, so that the table is full."""
        if self._loaded:
            return
        package = importlib.import_module(self._package)
        for info in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{info.name}")
        self._loaded = True

"""What the inputs and outputs of every class are declared with."""

from typing import Any

from ...validation.domains import Floats, RandomMask
from ...validation.entry_point import Axis, TensorSpec

MASK = RandomMask(empty_rows=True)


def floats(name: str, *shape: int | str) -> TensorSpec:
    """An input or output of numbers."""
    return TensorSpec(name, "float32", shape, Floats())


def given(name: str, *shape: int | str, kind: Any = None) -> TensorSpec:
    """An output of numbers."""
    return TensorSpec(name, "float32", shape, **({"kind": kind} if kind else {}))


def mask(name: str, *shape: int | str) -> TensorSpec:
    """An input of truths; of one row nothing counts."""
    return TensorSpec(name, "bool", shape, MASK)


def axes(*names: str, **most: int | None) -> dict[str, Axis]:
    """Give the axes, with the greatest size of some."""
    return {name: Axis() for name in names} | {name: Axis(1, high) for name, high in most.items()}

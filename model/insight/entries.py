"""What the inputs and outputs of every class are declared with."""

from collections.abc import Iterable
from typing import Any

from ...validation.domains import Floats, RandomMask, TokenIds
from ...validation.entry_point import Axis, EntryPoint, TensorSpec

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


def tokens(name: str, vocabulary: int, axis: str = "tokens", rows: str = "batch") -> TensorSpec:
    """An input of ids."""
    return TensorSpec(name, "int32", (rows, axis), TokenIds(vocabulary, 0))


MASKS = {
    "src_mask": ("source_tokens", "source_tokens"),
    "tgt_mask": ("tokens", "tokens"),
    "memory_mask": ("tokens", "source_tokens"),
}


def masks(*names: str) -> tuple[TensorSpec, ...]:
    """Inputs of truths, by name."""
    return tuple(mask(name, "batch", *MASKS[name]) for name in names)


def method(
    name: str,
    inputs: Iterable[TensorSpec],
    outputs: Iterable[TensorSpec],
    rows: str | None = "batch",
    **most: int | None,
) -> EntryPoint:
    """Describe a method of upstream's; its axes are those that its inputs name.

    Args:
        name: the method's.
        inputs: in its order.
        outputs: by name.
        rows: the axis whose rows do not depend on each other, if there is one.
        most: the greatest size of some axes.
    """
    inputs = tuple(inputs)
    named = dict.fromkeys(axis for spec in inputs for axis in spec.shape if isinstance(axis, str))
    free = {axis: Axis(1, most.get(axis)) for axis in named}
    return EntryPoint(name, inputs, tuple(outputs), free, rows)

"""Entry points: named pure functions of (weights, inputs) whose axes have names and bounds.

The same axis names are the jaxtyping names of the model's methods, the symbolic dimensions of
`jax.export`, the dynamic axes of ONNX and TensorFlow, and what the case generator draws from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from . import dims
from .domains import Domain, PaddingMask, Pixels, TokenIds
from .outputs import Output
from .runner import Arrays

__all__ = ["Axis", "Domain", "EntryPoint", "PaddingMask", "Pixels", "TensorSpec", "TokenIds"]


@dataclass(frozen=True)
class Axis:
    """A dynamic axis: every size from `low` to `high` (None: no limit) is legal. No array is ever empty."""

    low: int = 1
    high: int | None = None

    def __post_init__(self) -> None:
        if self.low < 1:
            raise ValueError(f"an axis has at least one place, got low={self.low}: write an entry point without it")
        if self.high is not None and self.high < self.low:
            raise ValueError(f"an axis from {self.low} to {self.high} has no size")

    def clip(self, size: int) -> int:
        """Give the legal size that is nearest."""
        return max(self.low, min(size, self.high or size))


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Args:
        shape: a dimension is a fixed size, the name of a dynamic axis, or a sum of these: "past + tokens"; of an
            output, a difference too: "tokens - 1".
        domain: of an input: what it holds, and how it is drawn.
        kind: of an output: what it is, which decides how it is judged.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    domain: Domain | None = None
    kind: Output = field(default_factory=Output)

    def resolve(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Give the concrete shape for the given sizes of the dynamic axes."""
        return tuple(dims.size(dim, sizes) for dim in self.shape)


@dataclass(frozen=True)
class EntryPoint:
    """A named function of the network, e.g. `encode_text(input_ids, attention_mask) -> embeddings`.

    Args:
        rows: the axis whose rows do not depend on each other: each may be run alone, or in another order. None where
            an output couples them.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    axes: Mapping[str, Axis]
    rows: str | None = None

    def __post_init__(self) -> None:
        fed = {axis for spec in self.inputs for dim in spec.shape for axis in dims.axes_of(dim)}
        for spec in (*self.inputs, *self.outputs):
            for axis in (axis for dim in spec.shape for axis in dims.axes_of(dim)):
                if axis not in self.axes or axis not in fed:
                    where = "has no bounds" if axis not in self.axes else "is an axis of no input"
                    raise ValueError(f"{self.name}: {spec.name} is of shape {spec.shape}, but {axis} {where}")
        taken = [dim for spec in self.inputs for dim in spec.shape if any(count < 0 for _, count in dims.terms(dim))]
        if taken:
            raise ValueError(f"{self.name}: an input's dimension is {taken[0]!r}: only outputs have differences")
        ranks = {spec.name: len(spec.shape) for spec in self.inputs}
        if len(ranks) < len(self.inputs) or len({spec.name for spec in self.outputs}) < len(self.outputs):
            raise ValueError(f"{self.name}: two inputs or two outputs have one name")
        for spec in self.outputs:
            mask = spec.kind.mask.removeprefix("~")
            if mask and not ranks.get(mask, np.inf) <= len(spec.shape):
                raise ValueError(
                    f"{self.name}: {spec.name} is valid where {mask} says, which is no mask of its positions"
                )
        if self.rows is not None and self.rows not in self.axes:
            raise ValueError(f"{self.name}: its rows are {self.rows!r}, which is none of its axes {list(self.axes)}")

    def input_of(self, kind: type[Domain]) -> TensorSpec | None:
        """Find the input whose domain is of a kind: TokenIds, PaddingMask, Pixels."""
        return next((spec for spec in self.inputs if isinstance(spec.domain, kind)), None)

    def input_called(self, name: str) -> TensorSpec:
        """Find an input by its name.

        Raises:
            ValueError: there is none.
        """
        for spec in self.inputs:
            if spec.name == name:
                return spec
        raise ValueError(f"{self.name} has no input {name} (inputs: {', '.join(spec.name for spec in self.inputs)})")

    def most(self, dim: int | str) -> int | None:
        """Give the largest size that a dimension may have; None where nothing bounds it, or it is a sum."""
        if isinstance(dim, int):
            return dim
        return self.axes[dim].high if dim in self.axes else None

    def sizes(self, inputs: Arrays) -> dict[str, int]:
        """Find the sizes of the axes that some inputs have.

        Raises:
            ValueError: an input is missing, or they contradict each other.
        """
        missing = [spec.name for spec in self.inputs if spec.name not in inputs]
        if missing:
            raise ValueError(f"{self.name}: the input {missing[0]} is missing")
        return dims.sizes_of((spec.shape, inputs[spec.name].shape) for spec in self.inputs)

    @property
    def embedding(self) -> TensorSpec | None:
        """Give the first output that is an embedding."""
        return next((spec for spec in self.outputs if spec.kind.vectors), None)

    def to_json(self) -> dict[str, object]:
        """Describe the signature as the manifest states it."""

        def tensor(spec: TensorSpec) -> dict[str, object]:
            return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}

        return {
            "inputs": [tensor(spec) for spec in self.inputs],
            "outputs": [tensor(spec) | {"kind": spec.kind.to_json()} for spec in self.outputs],
            "axes": {name: {"min": axis.low, "max": axis.high} for name, axis in self.axes.items()},
            "rows": self.rows,
        }

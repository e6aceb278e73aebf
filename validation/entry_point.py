"""Entry points: named pure functions of (weights, inputs) whose axes have names and bounds.

The same axis names are the jaxtyping names of the model's methods, the symbolic dimensions of
`jax.export`, the dynamic axes of ONNX and TensorFlow, and what the case generator draws from.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A dynamic axis: every size from `low` to `high` (None: no limit) is legal."""

    low: int = 1
    high: int | None = None


@dataclass(frozen=True)
class TokenIds:
    """Vocabulary ids. A row is `first`, words, `last`, then `pad`; the three may be any ids of the vocabulary."""

    vocab_size: int
    pad: int
    first: int
    last: int


@dataclass(frozen=True)
class PaddingMask:
    """1 where the token of `ids` counts, 0 where it is padding."""

    ids: str


@dataclass(frozen=True)
class Pixels:
    """Normalised pixels, channels last: (u / 255 - mean) / std for u in 0..255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


Domain = TokenIds | PaddingMask | Pixels


@dataclass(frozen=True)
class TensorSpec:
    """One input or output. A dimension is a fixed size or the name of a dynamic axis."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    domain: Domain | None = None

    def resolve(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Give the concrete shape for the given sizes of the dynamic axes."""
        return tuple(sizes[d] if isinstance(d, str) else d for d in self.shape)


@dataclass(frozen=True)
class EntryPoint:
    """A named function of the network, e.g. `encode_text(input_ids, attention_mask) -> embeddings`."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    axes: Mapping[str, Axis]

    def input_of(self, kind: type) -> TensorSpec | None:
        """Find the input whose domain is of a kind: TokenIds, PaddingMask, Pixels."""
        return next((spec for spec in self.inputs if isinstance(spec.domain, kind)), None)

    def to_json(self) -> dict[str, object]:
        """Describe the signature as the manifest states it."""

        def tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, object]]:
            return [{"name": s.name, "dtype": s.dtype, "shape": list(s.shape)} for s in specs]

        return {
            "inputs": tensors(self.inputs),
            "outputs": tensors(self.outputs),
            "axes": {name: {"min": axis.low, "max": axis.high} for name, axis in self.axes.items()},
        }

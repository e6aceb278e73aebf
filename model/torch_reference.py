"""The PyTorch original as a Runner. torch is imported only when this module is.

Parameters stay as they are stored, mapped from the checkpoint; every use casts them to the dtype of
the activations. One module therefore computes in float32 and in float64 without a second copy of the
weights, and half-precision checkpoints are up-cast exactly.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..validation.errors import InputError
from ..validation.runner import Arrays
from ..validation.taps import is_recording, record, recording


class Linear(nn.Module):
    """`torch.nn.Linear` in the dtype of its input."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return linear(x, self.weight, self.bias)


class LayerNorm(nn.Module):
    """`torch.nn.LayerNorm` over the last axis in the dtype of its input."""

    def __init__(self, width: int, epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return functional.layer_norm(x, weight.shape, weight, bias, self.epsilon)


class Embedding(nn.Module):
    """A lookup table that gives vectors of the wanted dtype."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, width))

    def forward(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """(...) -> (..., width)."""
        return functional.embedding(ids, self.weight).to(dtype)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a linear map in the dtype of x."""
    return functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


class RowByRow:
    """Applies a function to each row of a batch by itself, and to the same row only once.

    For towers whose rows do not depend on each other and that cost more than all the rest, such as the one that
    turns a picture into tokens. Intermediate values, which are large, are kept of the last row that was recorded, until
    a row comes that is not.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]):
        self._function = function
        self._known: dict[tuple[torch.dtype, bytes], Tensor] = {}
        self._recorded: dict[torch.dtype, tuple[bytes, dict[str, Tensor]]] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """(batch, ...) -> (batch, ...), what the function gives for each row."""
        return torch.cat([self._row(row) for row in x.split(1)])

    def _row(self, row: Tensor) -> Tensor:
        digest = hashlib.sha256(row.contiguous().numpy().data).digest()
        key = row.dtype, digest
        if is_recording():
            if self._recorded.get(row.dtype, (b"",))[0] != digest:
                with recording() as taps:
                    self._known[key] = self._function(row)
                self._recorded[row.dtype] = digest, taps
            record(self._recorded[row.dtype][1])
            return self._known[key]
        self._recorded.clear()
        if key not in self._known:
            self._known[key] = self._function(row)
        return self._known[key]


class TorchReference:
    """A reference network as a Runner, in one dtype.

    Args:
        module: has a method for each entry point, taking float tensors of `dtype` or int64 ones, and computes
            what it embeds in its attribute `dtype`.
        dtype: "float32" or "float64": what the activations are computed in.
        by_row: methods of the module that are replaced while an entry point runs, and only then: whoever takes the
            module itself, to train or to export it, gets the network as it is.
    """

    def __init__(self, module: nn.Module, dtype: str = "float32", by_row: Mapping[str, RowByRow] | None = None):
        self.module = module
        self.dtype: torch.dtype = getattr(torch, dtype)
        self._by_row = by_row or {}

    @property
    def name(self) -> str:
        """Framework and version."""
        return f"torch {torch.__version__}"

    def in_dtype(self, dtype: str) -> "TorchReference":
        """Give the same network, on the same memory, computing in another dtype."""
        return TorchReference(self.module, dtype, self._by_row)

    def run(self, entry_point: str, inputs: Arrays) -> Arrays:
        """Compute an entry point."""
        setattr(self.module, "dtype", self.dtype)  # noqa: B010 - for entry points without a float among their inputs
        with torch.inference_mode(), self._replaced():
            result = getattr(self.module, entry_point)(*(self._tensor(array) for array in inputs.values()))
        return (
            {"embeddings": result.numpy()} if isinstance(result, Tensor) else {k: v.numpy() for k, v in result.items()}
        )

    @contextmanager
    def _replaced(self) -> Iterator[None]:
        for name, method in self._by_row.items():
            setattr(self.module, name, method)
        try:
            yield
        finally:
            for name in self._by_row:
                delattr(self.module, name)

    def traced(self, entry_point: str, inputs: Arrays) -> tuple[Arrays, Arrays]:
        """Compute an entry point; give its outputs, and its intermediate values by module path."""
        with recording() as taps:
            outputs = self.run(entry_point, inputs)
        return outputs, {name: value.numpy() for name, value in taps.items()}

    def _tensor(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.array(array))
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor.long()


def load_strict(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Give `module`, built on the meta device, the checkpoint's tensors: every name once, none left over.

    Raises:
        InputError: names that are missing, unexpected or of another shape.
    """
    try:
        module.load_state_dict(dict(state), strict=True, assign=True)
    except RuntimeError as error:
        raise InputError(f"the checkpoint does not load strictly into the reference network: {error}") from error
    return module.eval().requires_grad_(False)

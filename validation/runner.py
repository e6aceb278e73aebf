"""The Runner: named arrays in, named arrays out.

The PyTorch reference, the NNX model, a reopened artifact and stored goldens are all Runners.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

Arrays = Mapping[str, np.ndarray]


class Runner(Protocol):
    """Something that can compute an entry point."""

    @property
    def name(self) -> str:
        """What the report calls it, with the runtime's version: `onnxruntime 1.31.1`."""
        ...

    def run(self, entry_point: str, inputs: Arrays) -> Arrays:
        """Compute `entry_point` for `inputs` as its EntryPoint describes them (shapes, dtypes)."""
        ...

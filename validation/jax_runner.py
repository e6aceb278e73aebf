"""Programs of JAX as a Runner. Opening one needs neither the model's code nor, until it runs, JAX."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .entry_point import EntryPoint
from .runner import Arrays


@dataclass(frozen=True)
class JaxRunner:
    """Runs functions of the inputs alone, in the entry point's order, in JAX on its default device."""

    name: str
    entry_points: Mapping[str, EntryPoint]
    functions: Mapping[str, Callable[..., Arrays]]

    def run(self, entry_point: str, inputs: Arrays) -> Arrays:
        """Compute `entry_point`; what JAX has not yet compiled for these shapes it compiles now."""
        import jax

        entry = self.entry_points[entry_point]
        with jax.default_matmul_precision("highest"):
            outputs = self.functions[entry_point](*(inputs[spec.name] for spec in entry.inputs))
        return {spec.name: np.asarray(outputs[spec.name]) for spec in entry.outputs}

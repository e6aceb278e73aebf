"""What the formats that come from JAX share: how a program is lowered, and how one is run."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..validation.entry_point import EntryPoint
from ..validation.runner import Arrays

if TYPE_CHECKING:
    from ..model.network import Function, Network


@contextmanager
def reproducible_lowering() -> Iterator[None]:
    """Lower to full float32 products, and without the source paths of the machine that lowers.

    Unless told otherwise, an accelerator multiplies float32 matrices in a shorter format.
    """
    import jax

    limit = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        with jax.default_matmul_precision("highest"):
            yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", limit)


def named_function(network: "Network", entry_point: str) -> "Function":
    """Give the function of an entry point with its inputs' names, which JAX writes into the program."""
    function = network.function(entry_point)
    names = ("weights", *(spec.name for spec in network.entry_points[entry_point].inputs))
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in names]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return function


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

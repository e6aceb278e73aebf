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

STABLEHLO = "1.0.0"
"""The version that programs for other readers ask for. JAX writes one that is weeks old, newer than what
a released TensorFlow reads (2.21 reads 1.13); readers accept every version of the last five years.

Source: https://openxla.org/stablehlo/compatibility
"""

FRAMES = "jax_traceback_in_locations_limit"
"""JAX's setting for how many of the callers' source lines an operation names."""

CONVENTION = "jax_export_calling_convention_version"
OLDEST = 9
"""The calling convention that programs are written for: the oldest that JAX still writes. What 10 adds is the
partitioner of programs for several devices; TensorFlow 2.16 to 2.19 do not take it.

Source: https://docs.jax.dev/en/latest/export/export.html#calling-convention-versions
"""

PASSES = "func.func(stablehlo-legalize-composite-to-call)"


@contextmanager
def reproducible_lowering() -> Iterator[None]:
    """Lower to full float32 products, for old readers too, and without the source paths of the machine that lowers.

    Unless told otherwise, an accelerator multiplies float32 matrices in a shorter format.
    """
    import jax

    before = {name: getattr(jax.config, name) for name in (FRAMES, CONVENTION)}
    jax.config.update(FRAMES, 0)
    jax.config.update(CONVENTION, OLDEST)
    try:
        with jax.default_matmul_precision("highest"):
            yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def named_function(network: "Network", entry_point: str) -> "Function":
    """Give the function of an entry point with its inputs' names, which JAX writes into the program."""
    function = network.function(entry_point)
    names = ("weights", *(spec.name for spec in network.entry_points[entry_point].inputs))
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in names]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return function


def portable(module: bytes) -> bytes:
    """Rewrite a serialized StableHLO module for readers older than JAX: to `STABLEHLO`, without composites.

    JAX writes `erf` as a composite; TensorFlow 2.21 does not carry dynamic sizes into its decomposition.

    Raises:
        ValueError: the module has an operation that this version had not yet.
    """
    from jax.extend.mlir import ir, passmanager
    from jax.extend.mlir.dialects import stablehlo

    stablehlo.register_stablehlo_passes()
    with ir.Context() as context:
        stablehlo.register_dialect(context)
        parsed = stablehlo.deserialize_portable_artifact(context, module)
        passmanager.PassManager.parse(f"builtin.module({PASSES})").run(parsed.operation)
        return stablehlo.serialize_portable_artifact(parsed, STABLEHLO)


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

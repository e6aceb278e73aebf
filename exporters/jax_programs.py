"""What the formats that come from JAX share: how a program is lowered, and how one is run."""

import dataclasses
import functools
import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..validation.entry_point import EntryPoint
from ..validation.errors import GateError

if TYPE_CHECKING:
    import jax
    from jax.export import Exported
    from jax.extend.core import Jaxpr, JaxprEqn

    from ..model.network import Function, Network, Traced, Weights

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

PLATFORMS = ("cpu",)
"""One platform: with several, a program would take the platform's index as its first argument."""

Sizes = tuple[tuple[str, int], ...]
"""(Axis, size) of each axis that is fixed."""

VHLO = re.compile(r"'vhlo\.(\w+?)(?:_v\d+)?'")
"""How a serializer names the operation that it refuses."""

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


@functools.cache  # a network lives as long as its process
def lowered(network: "Network", entry_point: str, sizes: Sizes) -> "Exported":
    """Lower an entry point, for readers older than JAX too: a program of the weights that it reads and its inputs.

    Sizes that are not fixed are symbolic. Nothing in a program depends on the platform that it was lowered for, so
    readers are told not to ask for it.

    Raises:
        GateError: the program has an operation that these readers do not know.
    """
    import jax
    from jax import export

    inputs = network.input_specs(entry_point, dict(sizes))
    with reproducible_lowering():
        traced = network.trace(network.function(entry_point), *inputs)
        function = jax.jit(_named(traced, network.entry_points[entry_point]), keep_unused=True)
        checks = [export.DisabledSafetyCheck.platform()]
        exported = export.export(function, platforms=PLATFORMS, disabled_checks=checks)(traced.weights, *inputs)
    try:
        module = portable(exported.mlir_module_serialized)
    except Unwritable as error:
        asked = _asked_for(traced.closed.jaxpr, error.operation)
        raise GateError(
            f"cannot write {entry_point} as StableHLO {STABLEHLO}, which has no such {error.operation}{asked}; what is "
            "taken or put row by row (take_along_axis, vmap) goes as x[jnp.arange(rows)[:, None], places]"
        ) from error
    return dataclasses.replace(exported, mlir_module_serialized=module)


class Unwritable(ValueError):
    """An operation that StableHLO had not yet, or not in this form, when `STABLEHLO` was its version."""

    def __init__(self, operation: str):
        super().__init__(f"StableHLO {STABLEHLO} has no {operation}")
        self.operation = operation


def _asked_for(jaxpr: "Jaxpr", operation: str) -> str:
    """Name the primitive that an operation comes from, and the line of the model that asked for it; "" if unknown."""
    named = [(eqn, line) for eqn, line in _equations(jaxpr, "") if eqn.primitive.name.startswith(operation)]
    batched = [each for each in named if getattr(each[0].params.get("dimension_numbers"), "operand_batching_dims", ())]
    for eqn, line in (*batched, *named):
        return f": the JAX primitive {eqn.primitive.name!r} asks for it, used at {line}"
    return ""


def _equations(jaxpr: "Jaxpr", caller: str) -> Iterator[tuple["JaxprEqn", str]]:
    """Give every equation with its line; those of JAX's own functions with the line that calls them."""
    from jax.extend import source_info_util
    from jax.extend.core import jaxprs_in_params

    for eqn in jaxpr.eqns:
        line = source_info_util.summarize(eqn.source_info) or caller
        yield eqn, line
        for inner in jaxprs_in_params(eqn.params):
            yield from _equations(inner, line)


def _named(traced: "Traced", entry: EntryPoint) -> "Function":
    """Give what was traced as a function whose arguments have names, which JAX writes into the program."""
    from jax.extend.core import jaxpr_as_fun

    def call(weights: "Weights", *inputs: "jax.Array") -> dict[str, "jax.Array"]:
        results = jaxpr_as_fun(traced.closed)(*(weights[name] for name in traced.weights), *inputs)
        return dict(zip(sorted(traced.out_info), results, strict=True))

    names = ("weights", *(spec.name for spec in entry.inputs))
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in names]
    call.__name__ = entry.name
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call


def weights_of(exported: "Exported") -> list[str]:
    """Name the weights that a program of `lowered` takes, in their order."""
    import jax

    (weights, *_), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    return list(weights)


def portable(module: bytes) -> bytes:
    """Rewrite a serialized StableHLO module for readers older than JAX: to `STABLEHLO`, without composites.

    JAX writes `erf` as a composite; TensorFlow 2.21 does not carry dynamic sizes into its decomposition.

    Raises:
        Unwritable: the module has an operation that this version had not yet.
    """
    from jax.extend.mlir import ir, passmanager
    from jax.extend.mlir.dialects import stablehlo

    stablehlo.register_stablehlo_passes()
    said: list[str] = []

    def heard(diagnostic: Any) -> bool:
        said.append(diagnostic.message)
        return True  # else it is printed too

    with ir.Context() as context:
        stablehlo.register_dialect(context)
        parsed = stablehlo.deserialize_portable_artifact(context, module)
        passmanager.PassManager.parse(f"builtin.module({PASSES})").run(parsed.operation)
        handler: Any = context.attach_diagnostic_handler(heard)
        try:
            return stablehlo.serialize_portable_artifact(parsed, STABLEHLO)
        except ValueError as error:
            found = VHLO.search(" ".join(said))
            raise Unwritable(found[1] if found else f"operation ({' '.join(said) or error})") from error
        finally:
            handler.detach()

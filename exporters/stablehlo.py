"""StableHLO: per entry point a portable program whose arguments are the weights it uses, then its inputs.

    encode_text.mlirbc                   StableHLO bytecode with dynamic dimensions
    encode_text.batch=1,tokens=32.mlirbc the same for fixed sizes, for compilers that take no others
    encode_text.jax_export               for `jax.export.deserialize`: any size, on CPU, GPU and TPU

Source: https://openxla.org/stablehlo/compatibility (portable artifacts keep for five years) and
https://docs.jax.dev/en/latest/export/export.html. Each argument carries its name as its location.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..validation.entry_point import EntryPoint
from ..validation.errors import GateError, InputError
from ..validation.jax_runner import JaxRunner
from ..validation.runner import Arrays
from .base import PROGRAMS, WEIGHTS, Artifact, Description, Exporter, Plan, Request
from .jax_programs import STABLEHLO, lowered, weights_of
from .releases import JAX, Need
from .weights import WeightsFile

if TYPE_CHECKING:
    import jax
    from jax.export import Exported

KEY = "stablehlo"

Shapes = tuple[tuple[int, ...], ...]


def write(request: Request) -> dict[str, Description]:
    """Write the programs of every entry point."""
    traced = trace(request)
    return {name: _write_entry(request, name, programs) for name, programs in traced.items()}


def trace(plan: Plan) -> dict[str, dict[str, "Exported"]]:
    """Make the programs: entry point -> label of the sizes that are fixed, "" where none is -> program."""
    entries = plan.network.entry_points.items()
    several = {name: {"": {}, **variants(entry, plan.static)} for name, entry in entries}
    return {
        name: {label: lowered(plan.network, name, tuple(sizes.items())) for label, sizes in labelled.items()}
        for name, labelled in several.items()
    }


def _write_entry(request: Request, entry_point: str, programs: Mapping[str, "Exported"]) -> Description:
    """Write the dynamic program in both forms, the static ones as bytecode."""
    exported = programs[""]
    bytecode = {
        label: _save(request, ".".join(filter(None, (entry_point, label, "mlirbc"))), program.mlir_module_serialized)
        for label, program in programs.items()
    }
    return {
        "path": bytecode.pop(""),
        "jax_export": _save(request, f"{entry_point}.jax_export", bytes(exported.serialize())),
        "weights": weights_of(exported),
        "outputs": sorted(spec.name for spec in request.network.entry_points[entry_point].outputs),
        "static": bytecode,
        "stablehlo": STABLEHLO,
        "calling_convention_version": exported.calling_convention_version,
    }


def open_(artifact: Artifact) -> JaxRunner:
    """Bind every program to the mapped weights file, in JAX."""
    import jax

    file = WeightsFile(artifact.directory / PROGRAMS / WEIGHTS)
    weights = functools.cache(lambda name: jax.device_put(file[name]))  # on a CPU no copy: the mapped pages
    functions = {name: _bind(artifact, name, weights) for name in artifact.entry_points}
    return JaxRunner(f"jax.export {jax.__version__}", artifact.entry_points, functions)


class Programs:
    """The programs of one entry point, as one function of its inputs.

    Sizes that a static program was made for run that program; at other sizes, which JAX compiles anew
    anyway, the two dynamic ones take turns, so that every file is run.
    """

    def __init__(self, fixed: Mapping[Shapes, Callable[..., Arrays]], dynamic: Sequence[Callable[..., Arrays]]):
        self._chosen = dict(fixed)
        self._turns = itertools.cycle(dynamic)

    def __call__(self, *inputs: np.ndarray) -> Arrays:
        """Run the program that these sizes have, from their first time on."""
        shapes = tuple(array.shape for array in inputs)
        if shapes not in self._chosen:
            self._chosen[shapes] = next(self._turns)
        return self._chosen[shapes](*inputs)


def _bind(artifact: Artifact, entry_point: str, weights: Callable[[str], "jax.Array"]) -> Programs:
    """Make every program of an entry point callable with its inputs."""
    import jax
    from jax import export

    entry, program = artifact.entry_points[entry_point], artifact.programs[entry_point]
    exported = export.deserialize(bytearray((artifact.directory / program["jax_export"]).read_bytes()))
    arguments = {leaf: weights(leaf) for leaf in program["weights"]}

    def bind(exported: "Exported") -> Callable[..., Arrays]:
        return functools.partial(jax.jit(exported.call), arguments)

    def read(path: str) -> "Exported":
        """Give bytecode the signature of the `jax_export` program."""
        return dataclasses.replace(exported, mlir_module_serialized=(artifact.directory / path).read_bytes())

    fixed = {}
    for label, path in program["static"].items():
        sizes = {axis: int(size) for axis, size in (part.split("=") for part in label.split(","))}
        fixed[tuple(spec.resolve(sizes) for spec in entry.inputs)] = bind(_at(read(path), entry, sizes))
    return Programs(fixed, [bind(read(program["path"])), bind(exported)])


def _at(exported: "Exported", entry: EntryPoint, sizes: Mapping[str, int]) -> "Exported":
    """Fix the sizes in the signature of a program."""
    weights, inputs = exported.in_avals[: -len(entry.inputs)], exported.in_avals[-len(entry.inputs) :]
    outputs = sorted(entry.outputs, key=lambda spec: spec.name)
    return dataclasses.replace(
        exported,
        in_avals=(*weights, *(a.update(shape=s.resolve(sizes)) for a, s in zip(inputs, entry.inputs, strict=True))),
        out_avals=tuple(a.update(shape=s.resolve(sizes)) for a, s in zip(exported.out_avals, outputs, strict=True)),
    )


def read_weights(artifact: Artifact) -> Iterator[tuple[str, np.ndarray]]:
    """Read what the programs are fed with: every leaf that one of them names, once."""
    file = WeightsFile(artifact.directory / PROGRAMS / WEIGHTS)
    named = (leaf for program in artifact.programs.values() for leaf in program["weights"])
    for leaf in dict.fromkeys(named):
        yield leaf, file[leaf]


def variants(entry: EntryPoint, requested: tuple[Mapping[str, int], ...]) -> dict[str, dict[str, int]]:
    """Give the fixed sizes that concern an entry point, by label: "batch=1,tokens=32".

    Raises:
        InputError: a size is out of bounds, or an axis of the entry point has none.
    """
    found = {}
    for sizes in requested:
        own = {axis: _checked(entry, axis, sizes) for axis in entry.axes}
        found[",".join(f"{axis}={size}" for axis, size in own.items())] = own
    return found


def _checked(entry: EntryPoint, axis: str, sizes: Mapping[str, int]) -> int:
    low, high = entry.axes[axis].low, entry.axes[axis].high
    bounds = f"at least {low}" if high is None else f"from {low} to {high}"
    if axis not in sizes:
        raise InputError(
            f"a static program of {entry.name} needs a size for its axis {axis}, {bounds}; got {dict(sizes)}"
        )
    if sizes[axis] < low or (high is not None and sizes[axis] > high):
        raise InputError(f"{entry.name} takes {axis} {bounds}; a static program for {axis}={sizes[axis]} cannot exist")
    return sizes[axis]


def _save(request: Request, name: str, data: bytes) -> str:
    """Write a program and give its path in the run directory."""
    (request.out / name).write_bytes(data)
    request.progress(len(data))
    return f"{PROGRAMS}/{name}"


VERSION = re.compile(rb"StableHLO_v(\d+\.\d+\.\d+)")
"""How a portable artifact begins, after four bytes that say that it is MLIR's bytecode."""


def needs(artifact: Artifact) -> Iterator[Need]:
    """Read the StableHLO version of the portable programs, and the calling convention of those for JAX.

    Raises:
        GateError: a file is no portable artifact.
    """
    for program in artifact.programs.values():
        for path in (program["path"], *program["static"].values()):
            found = VERSION.search((artifact.directory / path).read_bytes()[:64])
            if found is None:
                raise GateError(f"{artifact.directory / path} is not a portable StableHLO artifact")
            version = found[1].decode()
            yield Need(path, "stablehlo", f"StableHLO {version}", version, _newer_stablehlo)
        convention = program["calling_convention_version"]
        since = next((v for v, known in JAX.items() if known >= convention), "999")
        asks = f"calling convention {convention} of jax.export"
        yield Need(program["jax_export"], "jax", asks, since, _older_jax)


def _newer_stablehlo(version: str) -> str:
    return f"{version} is older than the window of portable artifacts, which began with 1.0.0: ask for a newer reader"


def _older_jax(version: str) -> str:
    return "use the .mlirbc program, which older readers open, or a newer JAX"


EXPORTER = Exporter(
    name="stablehlo",
    key=KEY,
    folder=PROGRAMS,
    modules=("jax",),
    write=write,
    trace=trace,
    effort=3,
    open=open_,
    read_weights=read_weights,
    needs=needs,
)

"""The traced network as an NNX module: parameters nested and named as torch's state dict, methods from the graph.

Needs neither torch nor the code that was traced.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from ...validation.dims import terms
from ...validation.errors import GateError, InputError
from ...validation.sizes import Size, Written, computed
from ...validation.taps import tap
from ..documents import JSON
from ..network import Network
from .graph import Graph, Node, Program
from .operators import find

TYPES: Mapping[str, Any] = {
    **dict.fromkeys(("float64", "float32", "float16", "bfloat16"), jnp.float32),
    **dict.fromkeys(("int64", "int32", "int16"), jnp.int32),
    "int8": jnp.int8,
    "uint8": jnp.uint8,
    "bool": jnp.bool_,
}
"""torch's types -> those that are computed in. Everything with a point is float32, as in the other families."""

LAST = "channels last"
"""Before a tap's name: its value is compared with channels last and places in one axis, as convolutions are."""


class Buffer(nnx.Variable):
    """What is stored with the weights but not trained: a running mean."""


class Traced(nnx.Module):
    """A part of a traced network. Its attributes are its parameters, buffers and parts, as torch names them."""


def build(graph: Graph) -> Traced:
    """Make the module: zeros in its leaves, one method an entry point.

    Raises:
        InputError: an entry point and a part of the module have one name.
    """
    heads = {leaf.partition(".")[0] for leaf in graph.parameters}
    for name in heads & graph.programs.keys():
        raise InputError(f"the entry point {name} has the name of a part of the module: call it otherwise")
    methods = {name: _method(graph, program) for name, program in graph.programs.items()}
    module: Traced = type("Traced", (Traced,), methods)()
    for leaf, parameter in graph.parameters.items():
        *path, last = leaf.split(".")
        part = module
        for name in path:
            if not hasattr(part, name):
                setattr(part, name, Traced())
            part = getattr(part, name)
        kind = nnx.Param if parameter.trained else Buffer
        setattr(part, last, kind(jnp.zeros(parameter.shape, jnp.float32)))
    return module


def as_jax_writes(graph: Graph) -> Graph:
    """Write sizes of outputs that are no sums of axes as JAX does, by whose names programs are opened.

    Raises:
        InputError: JAX cannot compute the network for sizes that are not known.
    """
    net = Network(lambda rngs: build(graph), graph.entry_points)
    programs = {}
    for name, program in graph.programs.items():
        try:
            results = jax.eval_shape(net.function(name), net.leaves, *net.input_specs(name))
        except GateError as error:
            raise InputError(f"{name}: {error}") from error
        outputs = tuple(
            dataclasses.replace(spec, shape=tuple(map(_written, spec.shape, results[spec.name].shape)))
            for spec in program.entry.outputs
        )
        programs[name] = dataclasses.replace(program, entry=dataclasses.replace(program.entry, outputs=outputs))
    return dataclasses.replace(graph, programs=programs)


def computed_at(
    graph: Graph, name: str, weights: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Compute an entry point as programs do that were made for all sizes.

    Raises:
        GateError: JAX cannot.
    """
    net = Network(lambda rngs: build(graph), graph.entry_points)
    made = jax.export.export(jax.jit(net.function(name)))(net.leaves, *net.input_specs(name))
    entry = net.entry_points[name]
    return {n: np.asarray(x) for n, x in made.call(dict(weights), *(inputs[s.name] for s in entry.inputs)).items()}


def _written(torchs: Written, jaxs: Size) -> Written:
    if isinstance(torchs, int):
        return torchs
    try:
        terms(torchs)
    except ValueError:
        return jaxs if isinstance(jaxs, int) else str(jaxs)
    return torchs


def _method(graph: Graph, program: Program) -> Any:
    def method(self: Traced, *inputs: Array) -> Array | dict[str, Array]:
        results = Interpreter(graph, program, self).run(inputs)
        return next(iter(results.values())) if len(results) == 1 else results

    method.__name__ = program.entry.name
    return method


class Interpreter:
    """Computes a program node by node, on arrays or while JAX traces."""

    def __init__(self, graph: Graph, program: Program, module: Any):
        self.graph = graph
        self.program = program
        self.module = module
        self.values: dict[str, Any] = {}
        self.inputs: dict[str, Array] = {}
        self.known: dict[str, Size] = {}
        """Sizes by how torch writes them -> as JAX knows them, of the first array that has them."""

    def run(self, inputs: tuple[Any, ...]) -> dict[str, Array]:
        """Compute the outputs by name."""
        entry = self.program.entry
        self.inputs = {spec.name: jnp.asarray(array) for spec, array in zip(entry.inputs, inputs, strict=True)}
        for spec in entry.inputs:
            self._learn(spec.shape, self.inputs[spec.name])
        self._axes(entry)
        for node in self.program.nodes:
            self.values[node.name] = self.call(node)
        results = (self.value(result) for result in self.program.results)
        return {spec.name: jnp.asarray(x) for spec, x in zip(entry.outputs, results, strict=True)}

    def _axes(self, entry: Any) -> None:
        """Find the sizes of axes that stand nowhere alone, as that of "past + tokens"."""
        for spec in entry.inputs:
            for dim, size in zip(spec.shape, self.inputs[spec.name].shape, strict=True):
                parts = terms(dim)
                unknown = [axis for axis, count in parts if axis and count == 1 and axis not in self.known]
                if len(unknown) == 1:
                    rest = [self.known.get(a, 0) * n if a else n for a, n in parts if a != unknown[0]]
                    self.known[unknown[0]] = size - sum(rest)

    def call(self, node: Node) -> Any:
        """Compute one node; give its result torch's type, and hold it to torch's rank.

        Raises:
            GateError: no function computes it as it is called.
        """
        function = find(node.op)
        if function is None:
            raise GateError(f"{node.op} has no rule ({node.line})")
        try:
            result = function(*map(self.value, node.args), **{k: self.value(v) for k, v in node.kwargs.items()})
        except Exception as error:  # whatever JAX raises: of a size that it cannot tell, of a use without a rule
            said = str(error).strip().splitlines()[:1] or [type(error).__name__]
            raise GateError(f"{node.op} cannot be computed as it is used at {node.line}: {said[0]}") from error
        if isinstance(result, tuple):  # several, or the parts of complex numbers
            return result
        result = _typed(result, node.dtype)
        if result.ndim != len(node.shape):
            raise GateError(f"{node.op} gives the shape {result.shape}, torch {node.shape} ({node.line})")
        self._learn(node.shape, result)
        for name in node.taps:
            last = name.startswith(LAST)
            tap(name.removeprefix(LAST), _channels_last(result) if last else result)
        return result

    def _learn(self, shape: tuple[Any, ...], array: Array) -> None:
        for written, size in zip(shape, array.shape, strict=True):
            if isinstance(written, str):
                self.known.setdefault(written, size)

    def value(self, argument: JSON) -> Any:
        """Give what an argument stands for."""
        if isinstance(argument, list):
            return [self.value(each) for each in argument]
        if not isinstance(argument, dict):
            return argument
        ((kind, name),) = argument.items()
        match kind:
            case "node":
                return self.values[name]
            case "input":
                return self.inputs[name]
            case "parameter":
                return jnp.asarray(functools.reduce(getattr, name.split("."), self.module)[...])
            case "constant":
                return constant(self.graph.constants[name])
            case "number":
                return float(name)
            case "size":
                return computed(name, self.known)
        raise GateError(f"network.json: an argument is {argument}, which is none of its words")


def constant(array: np.ndarray) -> Array:
    """Give a constant in the type that is computed in."""
    return jnp.asarray(array.astype(np.dtype(TYPES[str(array.dtype)])))


def _typed(result: Any, dtype: str) -> Array:
    array = jnp.asarray(result)
    wanted = TYPES.get(dtype)
    return array if wanted is None or array.dtype == wanted else _cast(array, wanted)


def _cast(array: Array, dtype: Any) -> Array:
    """Cast as torch does: what is not 0 is true."""
    return array != 0 if dtype == jnp.bool_ else array.astype(dtype)


def _channels_last(x: Array) -> Array:
    return jnp.swapaxes(x.reshape(*x.shape[:2], -1), 1, 2)

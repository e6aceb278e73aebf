"""A network as exporters see it: entry points and pure functions of (weights, inputs), no family in sight."""

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import export
from jax.extend.core import ClosedJaxpr

from ..validation.dims import size
from ..validation.entry_point import Axis, EntryPoint
from ..validation.errors import about

Weights = Mapping[str, jax.Array]
"""Flat: dotted path of the leaf ("text.layers.0.attention.query.kernel") -> array, in the type that it is stored as."""

Function = Callable[..., dict[str, jax.Array]]
"""(weights, *inputs in the entry point's order) -> outputs by name. Pure, so it can be jitted, exported, traced."""


class Network:
    """An NNX model without its weights, with its entry points as pure functions.

    The module is built abstractly (`nnx.eval_shape`), so no random initialisation is ever paid for.

    Args:
        build: makes the NNX module from a source of random keys; its methods are named as the entry points.
        entry_points: what can be called.
    """

    def __init__(self, build: Callable[[Any], nnx.Module], entry_points: tuple[EntryPoint, ...]):
        self.entry_points = {entry.name: entry for entry in entry_points}
        self._graph, self._state = nnx.split(nnx.eval_shape(lambda: build(_OneKey())))
        leaves = {_dotted(path): leaf.get_value() for path, leaf in nnx.to_flat_state(self._state)}
        self.leaves: dict[str, jax.ShapeDtypeStruct] = dict(sorted(leaves.items()))
        self.plain = self
        """The same network with each leaf stored in the type that it is computed with."""

    def stored_as(self, dtypes: Mapping[str, Any]) -> "Network":
        """Give the same network with some leaves stored in other types; it converts them when it uses them."""
        if not dtypes:
            return self
        other = copy.copy(self)
        other.leaves = {
            name: jax.ShapeDtypeStruct(leaf.shape, dtypes.get(name, leaf.dtype)) for name, leaf in self.leaves.items()
        }
        return other

    def module(self, weights: Mapping[str, Any]) -> nnx.Module:
        """Rebuild the NNX module around `weights`, converted to the types that it computes with.

        Leaves that are not given stay abstract and fail when used.
        """
        state = []
        for path, leaf in nnx.to_flat_state(self._state):
            own = leaf.get_value()
            given = weights.get(_dotted(path), own)
            state.append((path, leaf.replace(given if given.dtype == own.dtype else given.astype(own.dtype))))
        return nnx.merge(self._graph, nnx.from_flat_state(state))

    def function(self, entry_point: str) -> Function:
        """Give the pure function of an entry point."""
        outputs = self.entry_points[entry_point].outputs

        def call(weights: Weights, *inputs: jax.Array) -> dict[str, jax.Array]:
            with about(entry_point):
                result = getattr(self.module(weights), entry_point)(*inputs)
            return result if isinstance(result, dict) else {outputs[0].name: result}

        call.__name__ = entry_point
        return call

    def input_specs(self, entry_point: str, sizes: Mapping[str, int] | None = None) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Give the abstract inputs, with symbolic dimensions for the axes that `sizes` does not fix."""
        entry = self.entry_points[entry_point]
        free = {name: axis for name, axis in entry.axes.items() if name not in (sizes or {})}
        scope = export.SymbolicScope(bounds(free))
        symbols = {name: export.symbolic_shape(name, scope=scope)[0] for name in free}
        known: dict[str, Any] = {**symbols, **(sizes or {})}
        return tuple(
            jax.ShapeDtypeStruct(tuple(size(dim, known) for dim in spec.shape), jnp.dtype(spec.dtype))
            for spec in entry.inputs
        )

    def trace(self, function: Callable[..., Any], *inputs: jax.ShapeDtypeStruct) -> "Traced":
        """Trace a function of (weights, *inputs) once, and leave out the weights that nothing reads."""
        traced = jax.jit(function).trace(self.leaves, *inputs)
        jaxpr = traced.jaxpr.jaxpr
        read = {id(var) for eqn in jaxpr.eqns for var in eqn.invars} | {id(var) for var in jaxpr.outvars}
        arguments = zip(self.leaves, jaxpr.invars, strict=False)  # a dict's leaves come sorted by key, as these are
        weights = {name: var for name, var in arguments if id(var) in read}
        kept = jaxpr.replace(invars=[*weights.values(), *jaxpr.invars[len(self.leaves) :]], debug_info=None)
        specs = {name: self.leaves[name] for name in weights}
        return Traced(traced.jaxpr.replace(jaxpr=kept), specs, traced.out_info)

    def unread(self) -> list[str]:
        """Name the leaves that no entry point reads; traces no more of them than it must."""
        left = set(self.leaves)
        for name in sorted(self.entry_points, key=lambda name: -len(self.entry_points[name].inputs)):
            left -= set(self.used_weights(name)) if left else set()
        return sorted(left)

    @functools.cache  # noqa: B019 - a network lives as long as its process
    def used_weights(self, entry_point: str) -> tuple[str, ...]:
        """Name the leaves that an entry point reads, sorted: a program asks for no others."""
        return tuple(self.trace(self.function(entry_point), *self.input_specs(entry_point)).weights)


def bounds(axes: Mapping[str, Axis]) -> list[str]:
    """State what sizes the axes have in JAX's words, where it knows no better than "at least 1"."""
    lowest = [f"{name} >= {axis.low}" for name, axis in axes.items() if axis.low > 1]
    return lowest + [f"{name} <= {axis.high}" for name, axis in axes.items() if axis.high is not None]


@dataclass(frozen=True)
class Traced:
    """A program of some weights and inputs.

    Args:
        closed: its arguments are the weights, then the inputs.
        weights: the leaves that it reads, sorted.
        out_info: its results, as the function nests them.
    """

    closed: ClosedJaxpr
    weights: dict[str, jax.ShapeDtypeStruct]
    out_info: Any


class _OneKey(nnx.Rngs):
    """`nnx.Rngs` where only shapes are wanted: counting its keys costs most of building the module."""

    def __init__(self) -> None:
        pass

    def params(self) -> jax.Array:
        return jax.random.key(0)


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in path)

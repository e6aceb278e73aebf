"""Tracing: an entry point as a jaxpr with symbolic sizes and composites."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import jax
from jax.extend.core import ClosedJaxpr

from ...model.network import Network, Weights
from ...model.ops import native_operators
from ...validation.entry_point import EntryPoint
from ...validation.taps import recording

Specs: TypeAlias = Mapping[str, jax.ShapeDtypeStruct]
"""Name -> shape, which may be symbolic, and type."""

Arrays: TypeAlias = dict[str, jax.Array]


@dataclass(frozen=True)
class Program:
    """A traced entry point: its weights, then its inputs are the arguments of the jaxpr, each in this order.

    Its results are the outputs, then the taps, if they were asked for: what each module gives. Nothing need be
    computed for these, but a program that computes one can say where.
    """

    closed: ClosedJaxpr
    weights: Specs
    inputs: Specs
    outputs: Specs
    taps: tuple[str, ...] = ()


@functools.cache  # a network lives as long as its process
def trace(network: Network, entry_point: str, taps: bool = False) -> Program:
    """Trace an entry point with symbolic sizes."""
    function = network.function(entry_point)

    def tapped(weights: Weights, *inputs: jax.Array) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        with recording() as modules:
            return function(weights, *inputs), modules if taps else {}

    return _trace(network, network.entry_points[entry_point], tapped)


def trace_modules(network: Network, entry: EntryPoint) -> tuple[Program, tuple[str, ...]]:
    """Trace an entry point with what each module computes as outputs too; give their names in order of computation."""
    function = network.function(entry.name)
    modules: dict[str, None] = {}

    def tapped(weights: Weights, *inputs: jax.Array) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        with recording() as taps:
            results = function(weights, *inputs)
        modules.update(dict.fromkeys([*taps, *results]))
        return taps | results, {}

    program = _trace(network, entry, tapped)
    return program, tuple(modules)


def _trace(network: Network, entry: EntryPoint, function: Callable[..., tuple[Arrays, Arrays]]) -> Program:
    specs = network.input_specs(entry.name)
    with native_operators():
        traced = network.trace(function, *specs)
    outputs, modules = traced.out_info
    inputs = {tensor.name: spec for tensor, spec in zip(entry.inputs, specs, strict=True)}
    results = {name: jax.ShapeDtypeStruct(info.shape, info.dtype) for name, info in sorted(outputs.items())}
    return Program(traced.closed, traced.weights, inputs, results, tuple(sorted(modules)))

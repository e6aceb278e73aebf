"""Tracing: an entry point as a jaxpr with symbolic sizes and composites."""

from collections.abc import Mapping
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


@dataclass(frozen=True)
class Program:
    """A traced entry point: its weights, then its inputs are the arguments of the jaxpr, each in this order.

    Its results are the outputs, then the taps, if they were asked for: what each module gives. Nothing need be
    computed for these, but a program that computes one can say where.
    """

    closed: ClosedJaxpr
    weights: Specs
    inputs: Specs
    outputs: tuple[str, ...]
    taps: tuple[str, ...] = ()


def trace(network: Network, entry: EntryPoint, taps: bool = False) -> Program:
    """Trace an entry point with symbolic sizes."""
    weights = network.weight_specs(network.used_weights(entry.name))
    specs = network.input_specs(entry.name)
    function = network.function(entry.name)

    def tapped(weights: Weights, *inputs: jax.Array) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        with recording() as modules:
            return function(weights, *inputs), modules if taps else {}

    with native_operators():
        traced = jax.jit(tapped).trace(weights, *specs)
    outputs, modules = traced.out_info
    inputs = {tensor.name: spec for tensor, spec in zip(entry.inputs, specs, strict=True)}
    names = (tuple(sorted(results)) for results in (outputs, modules))
    return Program(traced.jaxpr, dict(sorted(weights.items())), inputs, *names)

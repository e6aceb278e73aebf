"""Tracing: an entry point as a jaxpr with symbolic sizes and composites."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import jax
from jax.extend.core import ClosedJaxpr

from ...model.network import Network
from ...model.ops import native_operators
from ...validation.entry_point import EntryPoint

Specs: TypeAlias = Mapping[str, jax.ShapeDtypeStruct]
"""Name -> shape, which may be symbolic, and type."""


@dataclass(frozen=True)
class Program:
    """A traced entry point: its weights, then its inputs are the arguments of the jaxpr, each in this order."""

    closed: ClosedJaxpr
    weights: Specs
    inputs: Specs
    outputs: tuple[str, ...]


def trace(network: Network, entry: EntryPoint) -> Program:
    """Trace an entry point with symbolic sizes."""
    weights = network.weight_specs(network.used_weights(entry.name))
    specs = network.input_specs(entry.name)
    with native_operators():
        closed = jax.jit(network.function(entry.name)).trace(weights, *specs).jaxpr
    inputs = {tensor.name: spec for tensor, spec in zip(entry.inputs, specs, strict=True)}
    outputs = tuple(sorted(tensor.name for tensor in entry.outputs))
    return Program(closed, dict(sorted(weights.items())), inputs, outputs)

"""
Lowering: a jaxpr, equation by equation, to a graph.

A JAX value that was broadcast is kept unexpanded where its reader broadcasts anyway: `read` gives a
value that broadcasts to the shape that JAX knows, `full` one that has it. An int32 that came in as
int64 stays so until arithmetic needs 32 bits: `index` gives whichever it is.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from ...model.ops import PREFIX
from ...validation.errors import GateError
from . import registry
from .build import Builder
from .dims import broadcast, static
from .graph import Graph, Shape, Value

FOLDED_BYTES = 1 << 16
"""Numbers that depend on no input are computed now, unless the result is larger than this."""

NOT_FOLDED = {"broadcast_in_dim", "iota", "reshape", "dim_as_value"}
"""These have rules that keep a constant small, or sizes as operands."""


class Lowering(Builder):
    """Lowers equations into a graph; what the rules in `operators` work with."""

    def __init__(self, graph: Graph, opset: int):
        super().__init__(graph, opset)
        registry.load()
        self._values: dict[Var, Value] = {}

    def run(self, closed: ClosedJaxpr | Jaxpr, inputs: Sequence[Value]) -> list[Value]:
        """Lower a jaxpr. Its results may be unexpanded or int64, as `index` gives them."""
        jaxpr = closed.jaxpr if isinstance(closed, ClosedJaxpr) else closed
        consts = closed.consts if isinstance(closed, ClosedJaxpr) else []
        for var, const in zip(jaxpr.constvars, consts, strict=True):
            self._values[var] = self.constant(np.asarray(const))
        self._values.update(zip(jaxpr.invars, inputs, strict=True))
        for eqn in jaxpr.eqns:
            self._equation(eqn)
        return [self.index(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: JaxprEqn) -> None:
        results = self._folded(eqn) or self._rule(eqn)(self, eqn)
        for var, value in zip(eqn.outvars, [results] if isinstance(results, Value) else results, strict=True):
            if broadcast([value.shape, shape_of(var)]) != shape_of(var):
                raise AssertionError(f"{eqn.primitive}: {value.shape} does not broadcast to {shape_of(var)}")
            self._values[var] = value

    def _rule(self, eqn: JaxprEqn) -> registry.Rule:
        entry = registry.PRIMITIVES.get(eqn.primitive.name)
        if entry is None:
            raise self.refusal(eqn, f"there is no rule for the JAX primitive {eqn.primitive.name!r}")
        return entry.rule

    def refusal(self, eqn: JaxprEqn, why: str) -> GateError:
        """Make the error for an equation that cannot be lowered, naming the line of the model that asked for it."""
        return GateError(f"cannot lower to ONNX: {why}, used at {source_info_util.summarize(eqn.source_info)}")

    def _folded(self, eqn: JaxprEqn) -> list[Value] | None:
        """Compute an equation of small constants now."""
        known = [(array, atom) for atom in eqn.invars if (array := self.index(atom).array) is not None]
        if eqn.primitive.name in NOT_FOLDED or _calls(eqn) or len(known) < len(eqn.invars):
            return None
        if not static(dim for var in (*eqn.invars, *eqn.outvars) for dim in shape_of(var)):
            return None
        if sum(math.prod(shape_of(var)) * dtype_of(var).itemsize for var in eqn.outvars) > FOLDED_BYTES:
            return None
        arrays = [np.broadcast_to(array, shape_of(atom)).astype(dtype_of(atom)) for array, atom in known]
        results = eqn.primitive.bind(*arrays, **eqn.params)
        return [self.constant(np.asarray(r)) for r in (results if eqn.primitive.multiple_results else [results])]

    def composite(self, eqn: JaxprEqn) -> Value | Sequence[Value]:
        """Lower a composite: by its native operator if this opset has it, else by its decomposition."""
        entry = registry.COMPOSITES.get(eqn.params["name"].removeprefix(PREFIX))
        if entry is not None and self.opset >= entry.since:
            return entry.rule(self, eqn)
        return self.run(eqn.params["jaxpr"], [self.index(atom) for atom in eqn.invars])

    def index(self, atom: Var | Literal) -> Value:
        """Read a value as it is: perhaps unexpanded, perhaps int64 where JAX says int32."""
        if isinstance(atom, Literal):
            return self.constant(atom.val, dtype_of(atom))
        return self._values[atom]

    def read(self, atom: Var | Literal) -> Value:
        """Read a value that broadcasts to the shape that JAX knows."""
        return self.cast(self.index(atom), dtype_of(atom))

    def full(self, atom: Var | Literal) -> Value:
        """Read a value that has the shape that JAX knows."""
        return self.expand(self.read(atom), shape_of(atom))

    def ranked(self, atom: Var | Literal) -> Value:
        """Read a value that has the rank that JAX knows, perhaps unexpanded."""
        value = self.read(atom)
        return self.reshape(value, (1,) * (len(shape_of(atom)) - len(value.shape)) + value.shape)


def shape_of(atom: Var | Literal) -> Shape:
    """Give the shape that JAX knows."""
    aval: Any = atom.aval
    return aval.shape


def dtype_of(atom: Var | Literal) -> np.dtype:
    """Give the type that JAX knows."""
    aval: Any = atom.aval
    return aval.dtype


def attributes(eqn: JaxprEqn) -> Mapping[str, float]:
    """Give the attributes of a composite."""
    return {name: leaves[0] for name, leaves, _ in eqn.params["attributes"]}


def _calls(eqn: JaxprEqn) -> bool:
    """Tell whether an equation has a jaxpr of its own."""
    return any(isinstance(value, (ClosedJaxpr, Jaxpr)) for value in eqn.params.values())

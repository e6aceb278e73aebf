"""
Lowering: a jaxpr, equation by equation, to a graph.

A JAX value that was broadcast is kept unexpanded where its reader broadcasts anyway: `read` gives a
value that broadcasts to the shape that JAX knows, `full` one that has it. An int32 that came in as
int64 stays so until arithmetic needs 32 bits: `index` gives whichever it is.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from ...model.ops import PREFIX
from ...validation.errors import GateError
from . import registry
from .build import Builder
from .dims import broadcast, static
from .graph import Graph, Value

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
        results = self._folded(eqn)
        if results is None:
            results = self._rule(eqn)(self, eqn)
        if isinstance(results, Value):
            results = [results]
        for var, value in zip(eqn.outvars, results, strict=True):
            if broadcast([value.shape, var.aval.shape]) != var.aval.shape:
                raise AssertionError(f"{eqn.primitive}: {value.shape} does not broadcast to {var.aval.shape}")
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
        shapes = [var.aval for var in eqn.outvars]
        inputs = [self.index(atom).array for atom in eqn.invars]
        if eqn.primitive.name in NOT_FOLDED or _calls(eqn) or any(array is None for array in inputs):
            return None
        if not static(dim for aval in shapes for dim in aval.shape):
            return None
        if sum(aval.size * aval.dtype.itemsize for aval in shapes) > FOLDED_BYTES:
            return None
        arrays = [
            np.broadcast_to(a, v.aval.shape).astype(v.aval.dtype) for a, v in zip(inputs, eqn.invars, strict=True)
        ]
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
            return self.constant(atom.val, atom.aval.dtype)
        return self._values[atom]

    def read(self, atom: Var | Literal) -> Value:
        """Read a value that broadcasts to the shape that JAX knows."""
        return self.cast(self.index(atom), atom.aval.dtype)

    def full(self, atom: Var | Literal) -> Value:
        """Read a value that has the shape that JAX knows."""
        return self.expand(self.read(atom), atom.aval.shape)

    def ranked(self, atom: Var | Literal) -> Value:
        """Read a value that has the rank that JAX knows, perhaps unexpanded."""
        value = self.read(atom)
        return self.reshape(value, (1,) * (atom.aval.ndim - len(value.shape)) + value.shape)


def attributes(eqn: JaxprEqn) -> Mapping[str, float]:
    """Give the attributes of a composite."""
    return {name: leaves[0] for name, leaves, _ in eqn.params["attributes"]}


def _calls(eqn: JaxprEqn) -> bool:
    """Tell whether an equation has a jaxpr of its own."""
    return any(isinstance(value, (ClosedJaxpr, Jaxpr)) for value in eqn.params.values())

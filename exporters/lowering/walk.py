"""
The walk: a jaxpr, equation by equation, to the values of a target, by the target's table.

A JAX value that was broadcast is kept unexpanded where its reader broadcasts anyway: `read` gives a
value that broadcasts to the shape that JAX knows, `full` one that has it. A value may have another type
than JAX knows, such as an int32 that came in as int64: `index` gives it as it is.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from numpy.typing import ArrayLike, DTypeLike

from ...model.ops import PREFIX
from ...validation.errors import GateError
from .shapes import Dim, Shape, broadcast, static
from .table import Entry, Table

FOLDED_BYTES = 1 << 16
"""Numbers that depend on no input are computed now, unless the result is larger than this."""

NOT_FOLDED = {"broadcast_in_dim", "iota", "reshape", "dim_as_value"}
"""These have rules that keep a constant small, or sizes as operands."""

CALLS = (
    "jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2",
    "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_lin",
)  # fmt: skip
"""Calls of functions, which are inlined."""

BODY = ("jaxpr", "call_jaxpr", "fun_jaxpr")
"""The parameter that holds the function, whatever the primitive calls it."""

NOTHING = ("stop_gradient", "copy", "copy_p", "optimization_barrier", "name", "sharding_constraint", "device_put")
"""What means nothing at inference."""


class Traced(Protocol):
    """What a walk works with."""

    @property
    def shape(self) -> Shape:
        """The shape, with symbolic dimensions."""

    @property
    def dtype(self) -> np.dtype:
        """The type."""

    @property
    def array(self) -> np.ndarray | None:
        """The numbers, if they are known now."""


V = TypeVar("V", bound=Traced)


class Walk(ABC, Generic[V]):
    """Lowers equations by the rules of a table. A target says what a value is by the abstract methods."""

    def __init__(self, table: Table):
        table.load()
        self._table = table
        self._values: dict[Var, V] = {}

    @abstractmethod
    def constant(self, numbers: ArrayLike, dtype: DTypeLike | None = None) -> V:
        """Give a constant."""

    @abstractmethod
    def cast(self, value: V, dtype: DTypeLike) -> V:
        """Convert to another type."""

    @abstractmethod
    def reshape(self, value: V, shape: Sequence[Dim]) -> V:
        """Give the same elements another shape."""

    @abstractmethod
    def expand(self, value: V, shape: Sequence[Dim]) -> V:
        """Repeat along the axes of size one, so that the value really has `shape`."""

    @abstractmethod
    def transpose(self, value: V, axes: Sequence[int]) -> V:
        """Permute the axes."""

    @abstractmethod
    def concat(self, values: Sequence[V], axis: int) -> V:
        """Join along an axis."""

    @abstractmethod
    def slice(self, value: V, start: Sequence[Dim], stop: Sequence[Dim], step: Sequence[int] | None = None) -> V:
        """Take a range of every axis."""

    @abstractmethod
    def elementwise(self, op: str, *inputs: V) -> V:
        """Apply one of the target's operators to each element of inputs that broadcast together."""

    @abstractmethod
    def has(self, entry: Entry) -> bool:
        """Tell whether the target has the operators of a composite."""

    def apply(self, entry: Entry, eqn: JaxprEqn) -> Any:
        """Lower an equation by its rule."""
        return entry.rule(self, eqn)

    def run(self, closed: ClosedJaxpr | Jaxpr, inputs: Sequence[V]) -> list[V]:
        """Lower a jaxpr. Its results may be unexpanded or of another type, as `index` gives them."""
        jaxpr = closed.jaxpr if isinstance(closed, ClosedJaxpr) else closed
        consts = closed.consts if isinstance(closed, ClosedJaxpr) else []
        for var, const in zip(jaxpr.constvars, consts, strict=True):
            self._values[var] = self.constant(np.asarray(const))
        self._values.update(zip(jaxpr.invars, inputs, strict=True))
        for eqn in jaxpr.eqns:
            self._equation(eqn)
        return [self.index(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: JaxprEqn) -> None:
        results = self._folded(eqn) or self._lowered(eqn)
        for var, value in zip(eqn.outvars, results, strict=True):
            if broadcast([value.shape, shape_of(var)]) != shape_of(var):
                raise AssertionError(f"{eqn.primitive}: {value.shape} does not broadcast to {shape_of(var)}")
            self._values[var] = value

    def _lowered(self, eqn: JaxprEqn) -> Sequence[V]:
        name = eqn.primitive.name
        if name in NOTHING:
            return [self.index(atom) for atom in eqn.invars]
        if name in CALLS:
            return self._inlined(eqn, next(eqn.params[body] for body in BODY if body in eqn.params))
        if name == "composite":
            entry = self._table.composites.get(eqn.params["name"].removeprefix(PREFIX))
            if entry is None or not self.has(entry):
                return self._inlined(eqn, eqn.params["jaxpr"])
        else:
            entry = self._table.primitives.get(name)
        if entry is None:
            raise self.refusal(eqn, f"there is no rule for the JAX primitive {name!r}")
        results = self.apply(entry, eqn)
        return results if isinstance(results, (list, tuple)) else [results]

    def _inlined(self, eqn: JaxprEqn, body: ClosedJaxpr | Jaxpr) -> Sequence[V]:
        return self.run(body, [self.index(atom) for atom in eqn.invars])

    def refusal(self, eqn: JaxprEqn, why: str) -> GateError:
        """Make the error for an equation that cannot be lowered, naming the line of the model that asked for it."""
        line = source_info_util.summarize(eqn.source_info)
        return GateError(f"cannot lower to {self._table.target}: {why}, used at {line}")

    def _folded(self, eqn: JaxprEqn) -> list[V] | None:
        """Compute an equation of small constants now."""
        known = [(array, atom) for atom in eqn.invars if (array := self.index(atom).array) is not None]
        if eqn.primitive.name in NOT_FOLDED or has_body(eqn) or len(known) < len(eqn.invars):
            return None
        if not static(dim for var in (*eqn.invars, *eqn.outvars) for dim in shape_of(var)):
            return None
        if sum(math.prod(shape_of(var)) * dtype_of(var).itemsize for var in eqn.outvars) > FOLDED_BYTES:
            return None
        arrays = [np.broadcast_to(array, shape_of(atom)).astype(dtype_of(atom)) for array, atom in known]
        results = eqn.primitive.bind(*arrays, **eqn.params)
        return [self.constant(np.asarray(r)) for r in (results if eqn.primitive.multiple_results else [results])]

    def index(self, atom: Var | Literal) -> V:
        """Read a value as it is: perhaps unexpanded, perhaps of another type."""
        if isinstance(atom, Literal):
            return self.constant(atom.val, dtype_of(atom))
        return self._values[atom]

    def read(self, atom: Var | Literal) -> V:
        """Read a value that broadcasts to the shape that JAX knows."""
        return self.cast(self.index(atom), dtype_of(atom))

    def full(self, atom: Var | Literal) -> V:
        """Read a value that has the shape that JAX knows."""
        return self.expand(self.read(atom), shape_of(atom))

    def ranked(self, atom: Var | Literal) -> V:
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


def has_body(eqn: JaxprEqn) -> bool:
    """Tell whether an equation has a jaxpr of its own."""
    inner = [part for value in eqn.params.values() for part in (value if isinstance(value, tuple) else (value,))]
    return any(isinstance(part, (ClosedJaxpr, Jaxpr)) for part in inner)

"""Control flow without subgraphs: a loop of known length is unrolled, of branches the result is chosen."""

from collections.abc import Sequence
from typing import Any

from jax.extend.core import JaxprEqn

from .walk import dtype_of, shape_of

LONGEST = 256
"""Steps that a loop is unrolled to."""


def scan(c: Any, eqn: JaxprEqn) -> Sequence[Any]:
    """Unroll: each step reads its slice of what is scanned, and the results are joined."""
    p, length = eqn.params, eqn.params["length"]
    if not isinstance(length, int) or not 1 <= length <= LONGEST:
        raise c.refusal(eqn, f"a loop of {length} steps: only 1 to {LONGEST} are unrolled")
    consts = [c.index(atom) for atom in eqn.invars[: p["num_consts"]]]
    carry = [c.full(atom) for atom in eqn.invars[p["num_consts"] :][: p["num_carry"]]]
    scanned = [c.full(atom) for atom in eqn.invars[p["num_consts"] + p["num_carry"] :]]
    results: dict[int, list[Any]] = {}
    for step in reversed(range(length)) if p["reverse"] else range(length):
        outputs = run(c, p["jaxpr"], [*consts, *carry, *(_at(c, value, step) for value in scanned)])
        carry, results[step] = outputs[: p["num_carry"]], outputs[p["num_carry"] :]
    pieces = zip(*(results[step] for step in range(length)), strict=True)
    return [*carry, *(c.concat([c.reshape(v, (1, *v.shape)) for v in piece], 0) for piece in pieces)]


def _at(c: Any, value: Any, step: int) -> Any:
    rest = value.shape[1:]
    return c.reshape(c.slice(value, [step, *(0 for _ in rest)], [step + 1, *rest]), rest)


def branches(c: Any, eqn: JaxprEqn) -> list[list[Any]]:
    """Compute every branch of a `cond`, in order."""
    operands = [c.index(atom) for atom in eqn.invars[1:]]
    return [run(c, branch, operands) for branch in eqn.params["branches"]]


def run(c: Any, closed: Any, inputs: Sequence[Any]) -> list[Any]:
    """Run a body; its results have the shapes and types that JAX knows."""
    results = c.run(closed, inputs)
    return [c.expand(c.cast(v, dtype_of(a)), shape_of(a)) for v, a in zip(results, closed.jaxpr.outvars, strict=True)]

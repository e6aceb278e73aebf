"""Calls of functions, which are inlined, and what means nothing at inference."""

from collections.abc import Sequence

from jax.extend.core import JaxprEqn

from ..graph import Value
from ..lower import Lowering
from ..registry import primitive

BODY = ("jaxpr", "call_jaxpr", "fun_jaxpr")
"""The parameter that holds the function, whatever the primitive calls it."""


@primitive("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2", emits="")
@primitive("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_lin", emits="")
def call(c: Lowering, eqn: JaxprEqn) -> Sequence[Value]:
    """Inline the function."""
    body = next(eqn.params[name] for name in BODY if name in eqn.params)
    return c.run(body, [c.index(atom) for atom in eqn.invars])


@primitive("composite", emits="")
def composite(c: Lowering, eqn: JaxprEqn) -> Value | Sequence[Value]:
    """Lower by name or by decomposition."""
    return c.composite(eqn)


@primitive(
    "stop_gradient", "copy", "copy_p", "optimization_barrier", "name", "sharding_constraint", "device_put", emits=""
)
def nothing(c: Lowering, eqn: JaxprEqn) -> Sequence[Value]:
    """Give what came."""
    return [c.index(atom) for atom in eqn.invars]

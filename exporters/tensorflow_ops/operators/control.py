"""Loops and branches."""

from collections.abc import Sequence

from jax.extend.core import JaxprEqn

from ...lowering.control import branches, scan
from ..lower import Lowering, Value
from ..registry import primitive

primitive("scan", emits="StridedSlice ConcatV2")(scan)


@primitive("cond", emits="Less SelectV2")
def cond(c: Lowering, eqn: JaxprEqn) -> Sequence[Value]:
    """Compute every branch and choose: the first whose number is not below the index, else the last."""
    index, cases = c.read(eqn.invars[0]), branches(c, eqn)
    results = list(cases[-1])
    for number, values in reversed(list(enumerate(cases[:-1], 1))):
        here = c.elementwise("Less", index, c.constant(number, index.dtype))
        results = [c.elementwise("SelectV2", here, v, last) for v, last in zip(values, results, strict=True)]
    return results

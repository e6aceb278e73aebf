"""Loops and branches."""

from collections.abc import Sequence
from functools import reduce

import numpy as np
from jax.extend.core import JaxprEqn

from ...lowering.control import branches, scan
from ..build import BOOL
from ..graph import Value
from ..lower import Lowering
from ..registry import primitive

primitive("scan", emits="Slice Concat")(scan)


@primitive("cond", emits="Less Where")
def cond(c: Lowering, eqn: JaxprEqn) -> Sequence[Value]:
    """Compute every branch and choose: the first whose number is not below the index, else the last."""
    index, cases = c.read(eqn.invars[0]), branches(c, eqn)
    before = [c.elementwise("Less", index, c.constant(n, index.dtype), dtype=BOOL) for n in range(1, len(cases))]

    def choose(last: Value, one: tuple[Value, Value]) -> Value:
        here, value = one
        return c.elementwise("Where", here, value, last, dtype=value.dtype)

    results = []
    for values in zip(*cases, strict=True):
        numbers = [c.cast(v, np.int32) if v.dtype == BOOL else v for v in values]  # onnxruntime chooses no bools
        chosen = reduce(choose, reversed(list(zip(before, numbers[:-1], strict=True))), numbers[-1])
        results.append(c.cast(chosen, values[0].dtype))
    return results

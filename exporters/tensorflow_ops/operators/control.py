"""Loops and branches."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from jax.extend.core import JaxprEqn

from ...lowering import control
from ...lowering.control import branches
from ...lowering.walk import dtype_of, shape_of
from ..lower import Lowering, Value
from ..registry import primitive


@primitive(
    "scan",
    emits="StridedSlice ConcatV2 StatelessWhile Less AddV2 Sub GatherV2 TensorListReserve TensorListSetItem "
    "TensorListStack",
)
def scan(c: Lowering, eqn: JaxprEqn) -> Sequence[Value]:
    """Unroll a loop of few steps; one of many, or of as many as an input has, is a loop of TensorFlow's."""
    length = eqn.params["length"]
    return control.scan(c, eqn) if isinstance(length, int) and length <= control.LONGEST else _loop(c, eqn)


def _loop(c: Lowering, eqn: JaxprEqn) -> Sequence[Value]:
    """Loop: each step reads its place of what is scanned, and writes its place of what is collected."""
    p = eqn.params
    first, last = p["num_consts"], p["num_consts"] + p["num_carry"]
    consts = [c.index(atom) for atom in eqn.invars[:first]]
    carry, scanned = ([c.full(atom) for atom in atoms] for atoms in (eqn.invars[first:last], eqn.invars[last:]))
    pieces = p["jaxpr"].jaxpr.outvars[p["num_carry"] :]
    length = c.size(p["length"])
    collected = [
        tf.TensorArray(
            dtype_of(atom), length, element_shape=[d if isinstance(d, int) else None for d in shape_of(atom)]
        )
        for atom in pieces
    ]

    def step(at: Any, carried: list[Any], collected: list[Any]) -> tuple[Any, list[Any], list[Any]]:
        place = length - 1 - at if p["reverse"] else at
        given = [Value(v.shape, v.dtype, tensor) for v, tensor in zip(carry, carried, strict=True)]
        read = [Value(v.shape[1:], v.dtype, tf.gather(c.tensor(v), place)) for v in scanned]
        results = control.run(c, p["jaxpr"], [*consts, *given, *read])
        written = [
            array.write(place, c.tensor(v)) for array, v in zip(collected, results[p["num_carry"] :], strict=True)
        ]
        return at + 1, [c.tensor(v) for v in results[: p["num_carry"]]], written

    begin = (tf.constant(0), [c.tensor(v) for v in carry], collected)
    _, carried, collected = tf.while_loop(lambda at, *_: at < length, step, begin)
    results = [*carried, *(array.stack() for array in collected)]
    return c.values(results, [shape_of(var) for var in eqn.outvars])


@primitive("cond", emits="Less SelectV2")
def cond(c: Lowering, eqn: JaxprEqn) -> Sequence[Value]:
    """Compute every branch and choose: the first whose number is not below the index, else the last."""
    index, cases = c.read(eqn.invars[0]), branches(c, eqn)
    results = list(cases[-1])
    for number, values in reversed(list(enumerate(cases[:-1], 1))):
        here = c.elementwise("Less", index, c.constant(number, index.dtype))
        results = [c.elementwise("SelectV2", here, v, last) for v, last in zip(values, results, strict=True)]
    return results

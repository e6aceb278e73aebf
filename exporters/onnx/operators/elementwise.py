"""Operators on each element: arithmetic, comparison, logic, choice, conversion."""

import numpy as np
from jax.extend.core import JaxprEqn

from ...lowering import rules
from ..build import BOOL
from ..graph import Value
from ..lower import Lowering
from ..registry import primitive

DIRECT = {
    "add": "Add", "add_any": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min", "pow": "Pow",
    "neg": "Neg", "abs": "Abs", "sign": "Sign", "floor": "Floor", "ceil": "Ceil", "exp": "Exp", "log": "Log",
    "sqrt": "Sqrt", "sin": "Sin", "cos": "Cos", "tan": "Tan", "asin": "Asin", "acos": "Acos", "atan": "Atan",
    "sinh": "Sinh", "cosh": "Cosh", "tanh": "Tanh", "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh",
    "erf": "Erf", "logistic": "Sigmoid",
}  # fmt: skip
"""Primitives that are an ONNX operator."""

LOGIC = {
    "and": ("And", "BitwiseAnd"),
    "or": ("Or", "BitwiseOr"),
    "xor": ("Xor", "BitwiseXor"),
    "not": ("Not", "BitwiseNot"),
}
"""Primitives that are one operator for bool, another (since opset 18) for integers."""

COMPARE = {"eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual"}


def _direct(name: str, op: str) -> None:
    @primitive(name, emits=op)
    def direct(c: Lowering, eqn: JaxprEqn) -> Value:
        return c.elementwise(op, *map(c.read, eqn.invars))


def _logic(name: str, of_bools: str, of_integers: str) -> None:
    @primitive(name, emits=f"{of_bools} {of_integers}")
    def logic(c: Lowering, eqn: JaxprEqn) -> Value:
        values = [c.read(atom) for atom in eqn.invars]
        if values[0].dtype != BOOL and c.opset < 18:
            raise c.refusal(eqn, f"{name} of integers needs opset 18, this is opset {c.opset}")
        return c.elementwise(of_bools if values[0].dtype == BOOL else of_integers, *values)


def _compare(name: str, op: str) -> None:
    @primitive(name, emits=op)
    def compare(c: Lowering, eqn: JaxprEqn) -> Value:
        return c.elementwise(op, *operands(c, eqn), dtype=BOOL)


for _name, _op in DIRECT.items():
    _direct(_name, _op)
for _name, (_bools, _integers) in LOGIC.items():
    _logic(_name, _bools, _integers)
for _name, _op in COMPARE.items():
    _compare(_name, _op)


def operands(c: Lowering, eqn: JaxprEqn) -> list[Value]:
    """Read what is compared: as int64 if everything that is computed came in so, since comparing cannot overflow."""
    values = [c.index(atom) for atom in eqn.invars]
    wide = {value.dtype for value in values if value.array is None} == {np.dtype(np.int64)}
    return [c.cast(v, np.int64) if wide else c.read(a) for v, a in zip(values, eqn.invars, strict=True)]


@primitive("ne", emits="Equal Not")
def ne(c: Lowering, eqn: JaxprEqn) -> Value:
    """Compare, then negate."""
    return c.elementwise("Not", c.elementwise("Equal", *operands(c, eqn), dtype=BOOL))


@primitive("square", emits="Mul")
def square(c: Lowering, eqn: JaxprEqn) -> Value:
    """Multiply by itself, which is exact where Pow need not be."""
    x = c.read(eqn.invars[0])
    return c.elementwise("Mul", x, x)


@primitive("integer_pow", emits="Mul Reciprocal Pow")
def integer_pow(c: Lowering, eqn: JaxprEqn) -> Value:
    """Multiply repeatedly, as XLA does, for small exponents."""
    x, exponent = c.read(eqn.invars[0]), eqn.params["y"]
    if not 1 <= abs(exponent) <= 4:
        return c.elementwise("Pow", x, c.constant(exponent, x.dtype))
    result = _power(c, x, abs(exponent))
    return c.elementwise("Reciprocal", result) if exponent < 0 else result


def _power(c: Lowering, x: Value, exponent: int) -> Value:
    if exponent == 1:
        return x
    half = _power(c, x, exponent // 2)
    square = c.elementwise("Mul", half, half)
    return c.elementwise("Mul", square, x) if exponent % 2 else square


@primitive("rsqrt", emits="Sqrt Reciprocal")
def rsqrt(c: Lowering, eqn: JaxprEqn) -> Value:
    """Take the reciprocal of the root."""
    return c.elementwise("Reciprocal", c.elementwise("Sqrt", c.read(eqn.invars[0])))


@primitive("expm1", emits="Tanh Sub Div Exp Abs Less Where")
def expm1(c: Lowering, eqn: JaxprEqn) -> Value:
    """Near zero 2t / (1 - t) with t = tanh(x / 2), which cancels nothing; elsewhere exp(x) - 1."""
    x = c.read(eqn.invars[0])
    one, two = c.constant(1, x.dtype), c.constant(2, x.dtype)
    t = c.elementwise("Tanh", c.elementwise("Div", x, two))
    near = c.elementwise("Div", c.elementwise("Mul", t, two), c.elementwise("Sub", one, t))
    far = c.elementwise("Sub", c.elementwise("Exp", x), one)
    return _where_small(c, x, 0.5, near, far)


@primitive("log1p", emits="Add Div Atanh Mul Log Abs Less Where")
def log1p(c: Lowering, eqn: JaxprEqn) -> Value:
    """Near zero 2 atanh(x / (2 + x)), which cancels nothing; elsewhere log(1 + x)."""
    x = c.read(eqn.invars[0])
    one, two = c.constant(1, x.dtype), c.constant(2, x.dtype)
    ratio = c.elementwise("Div", x, c.elementwise("Add", x, two))
    near = c.elementwise("Mul", c.elementwise("Atanh", ratio), two)
    return _where_small(c, x, 0.5, near, c.elementwise("Log", c.elementwise("Add", x, one)))


def _where_small(c: Lowering, x: Value, limit: float, near: Value, far: Value) -> Value:
    small = c.elementwise("Less", c.elementwise("Abs", x), c.constant(limit, x.dtype), dtype=BOOL)
    return c.elementwise("Where", small, near, far, dtype=x.dtype)


@primitive("atan2", emits="Atan Div Abs Less Equal Or Where Sub Add Neg")
def atan2(c: Lowering, eqn: JaxprEqn) -> Value:
    """Take the angle from the axis that is nearer, and turn it into the quadrant; a zero keeps no sign."""
    y, x = map(c.read, eqn.invars)
    zero, half = c.constant(0, x.dtype), c.constant(np.pi / 2, x.dtype)
    flat = c.elementwise("Less", c.elementwise("Abs", y), c.elementwise("Abs", x), dtype=BOOL)
    one = c.constant(1, x.dtype)
    steep = c.elementwise("Where", c.elementwise("Equal", y, zero, dtype=BOOL), one, y, dtype=x.dtype)
    near = c.elementwise("Atan", c.elementwise("Div", y, c.elementwise("Where", flat, x, one, dtype=x.dtype)))
    over = c.elementwise("Atan", c.elementwise("Div", x, c.elementwise("Where", flat, one, steep, dtype=x.dtype)))
    below, left = (c.elementwise("Less", value, zero, dtype=BOOL) for value in (y, x))
    up = c.elementwise("Where", below, c.elementwise("Neg", half), half, dtype=x.dtype)
    turned = c.elementwise("Where", left, c.elementwise("Add", up, up), zero, dtype=x.dtype)
    origin = c.elementwise(
        "Equal", c.elementwise("Add", c.elementwise("Abs", x), c.elementwise("Abs", y)), zero, dtype=BOOL
    )
    angle = c.elementwise(
        "Where", flat, c.elementwise("Add", near, turned), c.elementwise("Sub", up, over), dtype=x.dtype
    )
    return c.elementwise("Where", origin, zero, angle, dtype=x.dtype)


@primitive("shift_left", "shift_right_logical", emits="BitShift Cast Greater Where")
def shift(c: Lowering, eqn: JaxprEqn) -> Value:
    """Shift the bits as of a number without sign; by as many places as there are bits or more, all are lost."""
    x, places = map(c.read, eqn.invars)
    wide = np.dtype(f"u{x.dtype.name.removeprefix('u')}")
    direction = "LEFT" if eqn.primitive.name == "shift_left" else "RIGHT"
    lost = c.elementwise("Greater", places, c.constant(8 * x.dtype.itemsize - 1, x.dtype), dtype=BOOL)
    kept = c.elementwise("Where", lost, c.constant(0, x.dtype), places, dtype=x.dtype)
    shifted = c.elementwise("BitShift", c.cast(x, wide), c.cast(kept, wide), direction=direction)
    return c.elementwise("Where", lost, c.constant(0, x.dtype), c.cast(shifted, x.dtype), dtype=x.dtype)


@primitive("shift_right_arithmetic", emits="Pow Mod Sub Div Cast Min")
def shift_right_arithmetic(c: Lowering, eqn: JaxprEqn) -> Value:
    """Divide by a power of two, rounding down, in more bits than came; ONNX shifts no numbers with a sign."""
    x, places = map(c.read, eqn.invars)
    if x.dtype == np.dtype(np.int64):
        raise c.refusal(eqn, "shift_right_arithmetic of int64 has no ONNX operator")
    last = c.constant(8 * x.dtype.itemsize - 1, np.int64)
    factor = c.elementwise("Pow", c.constant(2, np.int64), c.elementwise("Min", c.cast(places, np.int64), last))
    value = c.cast(x, np.int64)
    rest = c.elementwise("Mod", value, factor)
    return c.cast(c.elementwise("Div", c.elementwise("Sub", value, rest), factor), x.dtype)


@primitive("erfc", emits="Erf Sub")
def erfc(c: Lowering, eqn: JaxprEqn) -> Value:
    """Subtract erf from 1."""
    x = c.read(eqn.invars[0])
    return c.elementwise("Sub", c.constant(1, x.dtype), c.elementwise("Erf", x))


@primitive("round", emits="Round Abs Sign Floor Mul Add")
def round_(c: Lowering, eqn: JaxprEqn) -> Value:
    """Round halves to even, or away from zero."""
    x = c.read(eqn.invars[0])
    if eqn.params["rounding_method"].name == "TO_NEAREST_EVEN":
        return c.elementwise("Round", x)
    magnitude = c.elementwise("Floor", c.elementwise("Add", c.elementwise("Abs", x), c.constant(0.5, x.dtype)))
    return c.elementwise("Mul", c.elementwise("Sign", x), magnitude)


@primitive("rem", emits="Mod")
def rem(c: Lowering, eqn: JaxprEqn) -> Value:
    """Give the remainder, with the sign of the dividend."""
    return c.elementwise("Mod", *map(c.read, eqn.invars), fmod=1)


@primitive("is_finite", emits="IsInf IsNaN Or Not")
def is_finite(c: Lowering, eqn: JaxprEqn) -> Value:
    """Say neither infinite nor not a number."""
    x = c.read(eqn.invars[0])
    either = c.elementwise(
        "Or", c.elementwise("IsInf", x, dtype=BOOL), c.elementwise("IsNaN", x, dtype=BOOL), dtype=BOOL
    )
    return c.elementwise("Not", either)


@primitive("clamp", emits="Max Min")
def clamp(c: Lowering, eqn: JaxprEqn) -> Value:
    """Keep between the first and the last operand."""
    low, x, high = map(c.read, eqn.invars)
    return c.elementwise("Min", c.elementwise("Max", x, low), high)


@primitive("select_n", emits="Where Equal Or And Not")
def select_n(c: Lowering, eqn: JaxprEqn) -> Value:
    """Choose among the cases by a bool or a number."""
    which, *cases = map(c.read, eqn.invars)
    if which.dtype == BOOL and cases[0].dtype == BOOL:  # for which onnxruntime has no Where
        chosen, other = (
            c.elementwise("And", which, cases[1]),
            c.elementwise("And", c.elementwise("Not", which), cases[0]),
        )
        return c.elementwise("Or", chosen, other)
    if which.dtype == BOOL:
        return c.elementwise("Where", which, cases[1], cases[0], dtype=cases[0].dtype)
    result = cases[-1]
    for number, case in reversed(list(enumerate(cases[:-1]))):
        here = c.elementwise("Equal", which, c.constant(number, which.dtype), dtype=BOOL)
        result = c.elementwise("Where", here, case, result, dtype=result.dtype)
    return result


@primitive("convert_element_type", emits="Cast")
def convert_element_type(c: Lowering, eqn: JaxprEqn) -> Value:
    """Convert; an int64 that stands for an int32 is converted directly."""
    return c.cast(c.index(eqn.invars[0]), eqn.params["new_dtype"])


primitive("cbrt", emits="Abs Pow Sign Mul")(rules.cbrt)
primitive("exp2", emits="Pow")(rules.exp2)
primitive("reduce_precision", emits="")(rules.reduce_precision)

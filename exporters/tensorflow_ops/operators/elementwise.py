"""Operators on each element: arithmetic, comparison, logic, choice, conversion."""

import numpy as np
from jax.extend.core import JaxprEqn

from ...lowering import rules
from ...lowering.walk import dtype_of
from ..lower import BOOL, INT32, Lowering, Value
from ..registry import primitive

DIRECT = {
    "add": "AddV2", "add_any": "AddV2", "sub": "Sub", "mul": "Mul", "max": "Maximum", "min": "Minimum", "pow": "Pow",
    "rem": "TruncateMod", "atan2": "Atan2", "nextafter": "NextAfter",
    "neg": "Neg", "abs": "Abs", "sign": "Sign", "floor": "Floor", "ceil": "Ceil", "square": "Square",
    "exp": "Exp", "expm1": "Expm1", "log": "Log", "log1p": "Log1p", "sqrt": "Sqrt", "rsqrt": "Rsqrt",
    "sin": "Sin", "cos": "Cos", "tan": "Tan", "asin": "Asin", "acos": "Acos", "atan": "Atan",
    "sinh": "Sinh", "cosh": "Cosh", "tanh": "Tanh", "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh",
    "erf": "Erf", "erfc": "Erfc", "erf_inv": "Erfinv", "lgamma": "Lgamma", "digamma": "Digamma",
    "logistic": "Sigmoid", "is_finite": "IsFinite",
    "eq": "Equal", "ne": "NotEqual", "lt": "Less", "le": "LessEqual", "gt": "Greater", "ge": "GreaterEqual",
}  # fmt: skip
"""Primitives that are a TensorFlow operator."""

BY_TYPE = {
    "div": ("RealDiv", "TruncateDiv"),
    "and": ("LogicalAnd", "BitwiseAnd"),
    "or": ("LogicalOr", "BitwiseOr"),
    "xor": ("NotEqual", "BitwiseXor"),
    "not": ("LogicalNot", "Invert"),
}
"""Primitives that are one operator for floats or bools, another for integers."""


def _direct(name: str, op: str) -> None:
    @primitive(name, emits=op)
    def direct(c: Lowering, eqn: JaxprEqn) -> Value:
        return c.elementwise(op, *map(c.read, eqn.invars))


def _by_type(name: str, other: str, of_integers: str) -> None:
    @primitive(name, emits=f"{other} {of_integers}")
    def by_type(c: Lowering, eqn: JaxprEqn) -> Value:
        integers = np.issubdtype(dtype_of(eqn.invars[0]), np.integer)
        return c.elementwise(of_integers if integers else other, *map(c.read, eqn.invars))


for _name, _op in DIRECT.items():
    _direct(_name, _op)
for _name, (_other, _integers) in BY_TYPE.items():
    _by_type(_name, _other, _integers)


@primitive("integer_pow", emits="Square Mul Reciprocal")
def integer_pow(c: Lowering, eqn: JaxprEqn) -> Value:
    """Multiply repeatedly, as XLA does."""
    exponent = eqn.params["y"]
    result = _power(c, c.read(eqn.invars[0]), abs(exponent))
    return c.elementwise("Reciprocal", result) if exponent < 0 else result


def _power(c: Lowering, x: Value, exponent: int) -> Value:
    if exponent == 0:
        return c.expand(c.constant(1, x.dtype), x.shape)
    if exponent == 1:
        return x
    square = c.elementwise("Square", _power(c, x, exponent // 2))
    return c.elementwise("Mul", square, x) if exponent % 2 else square


@primitive("round", emits="Round Abs Sign Floor Mul AddV2")
def round_(c: Lowering, eqn: JaxprEqn) -> Value:
    """Round halves to even, or away from zero."""
    x = c.read(eqn.invars[0])
    if eqn.params["rounding_method"].name == "TO_NEAREST_EVEN":
        return c.elementwise("Round", x)
    magnitude = c.elementwise("Floor", c.elementwise("AddV2", c.elementwise("Abs", x), c.constant(0.5, x.dtype)))
    return c.elementwise("Mul", c.elementwise("Sign", x), magnitude)


@primitive("shift_left", "shift_right_arithmetic", emits="LeftShift RightShift Greater Minimum SelectV2")
def shift(c: Lowering, eqn: JaxprEqn) -> Value:
    """Shift; by as many places as there are bits or more, what TensorFlow leaves open is 0 or the sign."""
    x, places = map(c.read, eqn.invars)
    last = c.constant(8 * x.dtype.itemsize - 1, x.dtype)
    if eqn.primitive.name == "shift_right_arithmetic":
        return c.elementwise("RightShift", x, c.elementwise("Minimum", places, last))
    shifted = c.elementwise("LeftShift", x, c.elementwise("Minimum", places, last))
    return c.elementwise("SelectV2", c.elementwise("Greater", places, last), c.constant(0, x.dtype), shifted)


@primitive("clamp", emits="Maximum Minimum")
def clamp(c: Lowering, eqn: JaxprEqn) -> Value:
    """Keep between the first and the last operand."""
    low, x, high = map(c.read, eqn.invars)
    return c.elementwise("Minimum", c.elementwise("Maximum", x, low), high)


@primitive("select_n", emits="SelectV2 Equal")
def select_n(c: Lowering, eqn: JaxprEqn) -> Value:
    """Choose among the cases by a bool or a number."""
    which, *cases = map(c.read, eqn.invars)
    if which.dtype == BOOL:
        return c.elementwise("SelectV2", which, cases[1], cases[0])
    result = cases[-1]
    for number, case in reversed(list(enumerate(cases[:-1]))):
        here = c.elementwise("Equal", which, c.constant(number, INT32))
        result = c.elementwise("SelectV2", here, case, result)
    return result


@primitive("convert_element_type", emits="Cast")
def convert_element_type(c: Lowering, eqn: JaxprEqn) -> Value:
    """Convert."""
    return c.cast(c.read(eqn.invars[0]), eqn.params["new_dtype"])


primitive("cbrt", emits="Abs Pow Sign Mul")(rules.cbrt)
primitive("exp2", emits="Pow")(rules.exp2)
primitive("reduce_precision", emits="")(rules.reduce_precision)

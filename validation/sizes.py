"""Sizes as text, "floordiv(samples - 10, 5)": read, and computed from numbers or from JAX's dimensions."""

import ast
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Size: TypeAlias = Any
"""An int or, while JAX traces, a symbolic dimension."""

Written: TypeAlias = int | str
"""A size as a graph holds it: a number, or text over the names of axes."""

FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "max": lambda a, b: _jax("max_dim", a, b),
    "min": lambda a, b: _jax("min_dim", a, b),
    "truediv": lambda a, b: _float(a) / _float(b),
    "float": lambda a: _float(a),
    "sqrt": lambda a: _root(a),
}
"""What a size is computed with, beside + - * and powers. The last three give numbers that are no sizes."""


def _jax(name: str, a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return (max if name == "max_dim" else min)(a, b)
    from jax import core

    return getattr(core, name)(a, b)


def _float(value: Any) -> Any:
    if isinstance(value, int | float):
        return float(value)
    import jax.numpy as jnp

    return jnp.asarray(value, jnp.float32)


def _root(value: Any) -> Any:
    if isinstance(value, int | float):
        return math.sqrt(value)
    import jax.numpy as jnp

    return jnp.sqrt(_float(value))


@functools.cache
def parsed(text: str) -> ast.expr:
    """Read a size.

    Raises:
        ValueError: it is none.
    """
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{text!r} is no size, such as 'tokens + 1'") from error


def computed(size: Written, known: Mapping[str, Size]) -> Size:
    """Compute a size; `known` has that of each axis, and may have that of a whole expression.

    JAX cannot always tell that two ways of writing a size are one: where an array has it, its own is taken.

    Raises:
        ValueError: it names an axis that nobody knows, or something that is no size.
    """
    return size if isinstance(size, int) else known[size] if size in known else _computed(parsed(size), known)


def _computed(tree: ast.expr, known: Mapping[str, Size]) -> Size:
    text = ast.unparse(tree)
    if text in known:
        return known[text]
    match tree:
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_computed(operand, known)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _computed(left, known) + _computed(right, known)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _computed(left, known) - _computed(right, known)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _computed(left, known) * _computed(right, known)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _computed(left, known) ** _computed(right, known)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            return FUNCTIONS[name](*(_computed(each, known) for each in args))
    raise ValueError(f"{text!r} is no size that can be computed from {', '.join(known) or 'no axes'}")


def names(size: Written) -> set[str]:
    """Name the axes in a size."""
    if isinstance(size, int):
        return set()
    called = {node.func for node in ast.walk(parsed(size)) if isinstance(node, ast.Call)}
    return {node.id for node in ast.walk(parsed(size)) if isinstance(node, ast.Name) and node not in called}

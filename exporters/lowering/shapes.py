"""Shapes with symbolic dimensions: what is known of them now, and how a size is computed from others."""

import ast
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

from ...validation.dims import terms
from ...validation.errors import GateError

V = TypeVar("V")

Dim: TypeAlias = Any
"""An int, or a symbolic dimension of `jax.export` such as `tokens + 196`."""

Shape: TypeAlias = tuple[Dim, ...]

BINARY: dict[type[ast.AST], str] = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Pow: "pow"}
FUNCTIONS = ("max", "min", "floordiv", "mod")


def static(shape: Iterable[Dim]) -> bool:
    """Tell whether every dimension is a number."""
    return all(isinstance(dim, int) for dim in shape)


def is_one(dim: Dim) -> bool:
    """Tell whether a dimension is the number 1 (a dynamic axis that may be 1 is not)."""
    return isinstance(dim, int) and dim == 1


def is_zero(dim: Dim) -> bool:
    """Tell whether a dimension is the number 0."""
    return isinstance(dim, int) and dim == 0


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """Give the shape that arrays of `shapes` have together, by numpy's rule."""
    rank = max(map(len, shapes))
    aligned = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(next((dim for dim in dims if not is_one(dim)), 1) for dims in zip(*aligned, strict=True))


def inverse(permutation: Sequence[int]) -> list[int]:
    """Give the permutation that undoes another."""
    return [list(permutation).index(i) for i in range(len(permutation))]


def source_of(axis: str, shapes: Sequence[Shape]) -> tuple[int, int, str]:
    """
    Find where the size of an axis can be read: which shape, which dimension, and what is to be subtracted there.

    Raises:
        GateError: no shape tells it.
    """
    named = [(str(dim), i, j) for i, shape in enumerate(shapes) for j, dim in enumerate(shape) if not static([dim])]
    alone = {dim for dim, _, _ in named if dim.isidentifier()}
    for dim, i, j in sorted(named, key=lambda each: not each[0].isidentifier()):
        try:
            parts = terms(dim)
        except ValueError:
            continue
        rest = [(name, count) for name, count in parts if name != axis]
        if (axis, 1) in parts and len(rest) == len(parts) - 1 and all(not name or name in alone for name, _ in rest):
            return i, j, " + ".join(f"{count}*{name}" if name else str(count) for name, count in rest)
    raise GateError(f"no input has the dynamic axis {axis}, so its size cannot be computed")


def solve(dim: Dim, number: Callable[[int], V], axis: Callable[[str], V], apply: Callable[..., V]) -> V:
    """
    Compute a size at run time.

    Args:
        dim: what to compute.
        number: gives a number.
        axis: gives the size of a dynamic axis by its name.
        apply: computes "add", "sub", "mul", "pow", "neg" or one of `FUNCTIONS` from sizes.

    Raises:
        GateError: the size has an operation that is none of these.
    """

    def of(tree: ast.expr) -> V:
        match tree:
            case ast.Constant(value=int(value)):
                return number(value)
            case ast.Name(id=name):
                return axis(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return apply("neg", of(operand))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in BINARY:
                return apply(BINARY[type(op)], of(left), of(right))
            case ast.Call(func=ast.Name(id=name), args=args) if name in FUNCTIONS:
                return apply(name, *map(of, args))
        raise GateError(f"cannot compute the size {ast.unparse(tree)}")

    return of(ast.parse(str(dim), mode="eval").body)

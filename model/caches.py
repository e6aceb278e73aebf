"""Keys and values that are kept from step to step: what they are called. Imports no framework."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def key_names(kind: str, layer: int) -> tuple[str, str]:
    """Name the keys and values of a layer: "past", "cross", or "" for those that an entry point gives."""
    before = f"{kind}_" if kind else ""
    return f"{before}keys_{layer}", f"{before}values_{layer}"


def named(kind: str, pairs: Iterable[Sequence[T]]) -> dict[str, T]:
    """Give the keys and values of all layers by name: the first two of what each layer keeps."""
    return {
        n: x
        for i, (keys, values, *_) in enumerate(pairs)
        for n, x in zip(key_names(kind, i), (keys, values), strict=True)
    }


def fed(layers: int) -> dict[str, str]:
    """Give what a step takes of the tokens before -> what gives it."""
    return {p: g for i in range(layers) for p, g in zip(key_names("past", i), key_names("", i), strict=True)}

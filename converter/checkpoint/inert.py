"""The values that a pickle is allowed to become. None of them does anything."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass


class Entries:
    """A dictionary as it was written: keys and values in turn, never hashed, so no key can be made to collide."""

    __slots__ = ("flat",)

    def __init__(self) -> None:
        self.flat: list[object] = []

    def __iter__(self) -> Iterator[tuple[object, object]]:
        return zip(self.flat[::2], self.flat[1::2], strict=True)


class Opaque:
    """An object that no weight depends on. What it was built from is forgotten."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind


@dataclass(frozen=True, eq=False, slots=True)
class Called:
    """An allowed class or function. `make` is our own description of what calling it would give."""

    name: str
    make: Callable[[tuple[object, ...]], object]
    newable: bool = False
    """Whether its instances may also be made with `cls.__new__`."""


@dataclass(frozen=True, eq=False, slots=True)
class DType:
    """`torch.float16` and its like. `dtype` is None if numpy has no such type."""

    name: str
    dtype: str | None


@dataclass(frozen=True, eq=False, slots=True)
class StorageType:
    """`torch.FloatStorage` and its like. `dtype` is None if untyped (one byte an element) or quantised."""

    name: str
    dtype: str | None
    quantized: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """A storage by its key; `numel` elements of its type, as the pickle claims."""

    key: str
    type: StorageType
    numel: int


@dataclass(frozen=True, eq=False, slots=True)
class View:
    """A dense tensor on a storage: offset, shape and strides in elements, as the pickle claims."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Unsupported:
    """A tensor that is not a dense array of numbers: sparse, quantised, without data."""

    what: str

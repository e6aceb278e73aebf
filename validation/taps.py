"""Taps: intermediate values by module path, the same names in every framework.

A model calls `tap("attention.out", x)` inside `scope("text.layers.0")`. Outside `recording()` that
returns x and costs nothing. Works on any array type, also on traced ones.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

_path: ContextVar[tuple[str, ...]] = ContextVar("tap_path", default=())
_record: ContextVar[dict[str, Any] | None] = ContextVar("tap_record", default=None)


_closely: ContextVar[bool] = ContextVar("tap_closely", default=False)


WEIGHTS = ".weights"
"""What the names of weights of attention end with."""


@contextmanager
def closely() -> Iterator[None]:
    """Let networks compute and tap what they otherwise leave to a runtime's operator: the weights of attention."""
    token = _closely.set(True)
    try:
        yield
    finally:
        _closely.reset(token)


def is_close() -> bool:
    """Say whether somebody looks closely."""
    return _closely.get()


@contextmanager
def recording() -> Iterator[dict[str, Any]]:
    """Collect every tapped value, in the order of computation, into the yielded dict."""
    taps: dict[str, Any] = {}
    token = _record.set(taps)
    try:
        yield taps
    finally:
        _record.reset(token)


def is_recording() -> bool:
    """Say whether somebody collects what is tapped now."""
    return _record.get() is not None


def record(taps: Mapping[str, Any]) -> None:
    """Add values that were recorded before to what is recorded now."""
    collected = _record.get()
    if collected is not None:
        collected.update(taps)


@contextmanager
def scope(name: str) -> Iterator[None]:
    """Prefix the names of the taps inside with `name`."""
    token = _path.set((*_path.get(), name))
    try:
        yield
    finally:
        _path.reset(token)


def tap(name: str, value: T) -> T:
    """Record `value` under the current path plus `name`, and return it."""
    record = _record.get()
    if record is not None:
        record[".".join((*_path.get(), name))] = value
    return value

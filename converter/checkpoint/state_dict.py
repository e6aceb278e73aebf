"""Find the state dict in what a trainer saved, and say what was around it.

Layouts: a bare state dict; a dictionary with the state dict under one of `WRAPPERS`, beside an optimizer, an epoch
and so on; DistributedDataParallel's and torch.compile's prefix on every name.
"""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeGuard

from .format_error import SAVE_AGAIN, FormatError, shown
from .inert import Entries, Unsupported, View
from .tensor import Tensor, check_name

WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
PREFIXES = ("module.", "_orig_mod.")
MAX_WRAPPERS = 8
KEYS_SHOWN = 12
FACT_VALUES, FACT_CHARACTERS, FACT_DEPTH = 10_000, 1 << 20, 16
"""What a plain value beside the tensors may hold. A list may hold itself, or another a thousand times."""


@dataclass(frozen=True)
class StateDict:
    """The tensors in the order of the file, the wrappers around them (outermost first) and what else was there.

    facts: of what else was there, what is plain: texts, numbers, lists and dictionaries of these, by key path.
    """

    wrappers: tuple[str, ...]
    views: tuple[tuple[str, View], ...]
    ignored: tuple[str, ...]
    facts: Mapping[str, object] = field(default_factory=dict)


def find_state_dict(root: object) -> StateDict:
    """Unwrap a trainer's checkpoint.

    Raises:
        FormatError: there is no state dict, there is more than one, or one of its tensors is not dense.
    """
    if type(root) is not Entries:
        kind = "single tensor" if _is_tensor(root) else type(root).__name__
        raise FormatError(f"holds no state dict: it is a {kind}", SAVE_AGAIN)
    wrappers: list[str] = []
    ignored: list[str] = []
    facts: dict[str, object] = {}
    entries = root
    while found := _wrapped(entries, depth=len(wrappers)):
        wrapper, inner = found
        ignored += [_path(wrappers, key) for key, _ in entries if key != wrapper]
        facts |= _facts(wrappers, entries, wrapper)
        wrappers.append(wrapper)
        entries = inner
    # A wrapped state dict may be empty: some modules have no parameters
    if not _has_tensors(entries) and (entries.flat or not wrappers):
        raise FormatError(f"holds no state dict: {_description(entries)}", SAVE_AGAIN)
    ignored += [_path(wrappers, key) for key, inner in entries if not _is_tensor(inner)]
    return StateDict(tuple(wrappers), _views(entries), tuple(ignored), facts | _facts(wrappers, entries, ""))


def strip_prefixes(tensors: Mapping[str, Tensor]) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Take away the prefixes that all names share because the model was wrapped, and say which they were."""
    stripped: list[str] = []
    names = list(tensors)
    while names and (
        prefix := next((prefix for prefix in PREFIXES if all(_has_prefix(name, prefix) for name in names)), None)
    ):
        stripped.append(prefix)
        names = [name.removeprefix(prefix) for name in names]
    renamed = (replace(tensor, name=name) for name, tensor in zip(names, tensors.values(), strict=True))
    return tuple(stripped), {tensor.name: tensor for tensor in renamed}


def _has_prefix(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and name != prefix


def _wrapped(entries: Entries, *, depth: int) -> tuple[str, Entries] | None:
    """Give the key under which the state dict lies one level down and what lies there, or None if this is it."""
    _check_unique(entries)
    inside = {key: inner for key, inner in entries if _is_wrapper(key) and type(inner) is Entries}
    found = {key: inner for key, inner in inside.items() if _promising(inner)}
    if not found and not _has_tensors(entries):
        found = {key: inner for key, inner in inside.items() if not inner.flat}
    if len(found) > 1:
        raise FormatError(f"holds more than one state dict ({', '.join(found)})", "save the one that is wanted alone")
    if found and depth == MAX_WRAPPERS:
        raise FormatError(f"wraps its state dict more than {MAX_WRAPPERS} times", SAVE_AGAIN)
    return next(iter(found.items()), None)


def _check_unique(entries: Entries) -> None:
    """Refuse a dictionary that gives one name to two things: readers would disagree on which is meant."""
    names: set[str] = set()
    for key, _ in entries:
        if type(key) is str and key in names:
            raise FormatError(f"holds {shown(key)} twice", SAVE_AGAIN)
        if type(key) is str:
            names.add(key)


def _promising(entries: Entries) -> bool:
    """Tell a wrapped state dict from, say, the model's configuration under the same key."""
    return any(_is_tensor(inner) or (_is_wrapper(key) and type(inner) is Entries) for key, inner in entries)


def _has_tensors(entries: Entries) -> bool:
    return any(_is_tensor(inner) for _, inner in entries)


def _is_wrapper(key: object) -> TypeGuard[str]:
    return type(key) is str and key in WRAPPERS


def _is_tensor(value: object) -> TypeGuard[View | Unsupported]:
    return type(value) in (View, Unsupported)


def _views(entries: Entries) -> tuple[tuple[str, View], ...]:
    views: dict[str, View] = {}
    for name, value in entries:
        if not _is_tensor(value):
            continue
        if type(name) is not str:
            raise FormatError(f"holds a tensor under {_key(name)}, which is not a name", SAVE_AGAIN)
        check_name(name)
        if isinstance(value, Unsupported):
            raise FormatError(
                f"tensor {shown(name)} is {value.what}", "only dense tensors can be converted: save it dense"
            )
        views[name] = value
    return tuple(views.items())


def _facts(wrappers: list[str], entries: Entries, wrapper: str) -> dict[str, object]:
    """Give the plain values beside the state dict; one that is not plain, or too much, is left out as a whole."""
    found: dict[str, object] = {}
    for key, value in entries:
        if type(key) is not str or key == wrapper or _is_tensor(value):
            continue
        with contextlib.suppress(_NotPlain):
            found[_path(wrappers, key)] = _plain(value, [FACT_VALUES, FACT_CHARACTERS], FACT_DEPTH)
    return found


class _NotPlain(Exception):
    """A value is an object or a tensor, or holds one, or holds too much."""


def _plain(value: object, budget: list[int], depth: int) -> object:
    """Copy a value of JSON's kinds. `budget`: values and characters that are left; it is spent here."""
    budget[0] -= 1
    budget[1] -= len(value) if type(value) is str else 0
    if min(budget) < 0 or not depth:
        raise _NotPlain
    if type(value) is Entries:
        if not all(type(key) is str for key, _ in value):
            raise _NotPlain
        budget[1] -= sum(len(key) for key, _ in value if type(key) is str)
        found = {key: _plain(inner, budget, depth - 1) for key, inner in value}
        if len(found) != len(value.flat) // 2:
            raise _NotPlain  # one key twice: who reads it, reads the one or the other
        return found
    if type(value) in (list, tuple):
        return [_plain(inner, budget, depth - 1) for inner in value]  # type: ignore[attr-defined]
    if value is None or type(value) in (str, bool, int) or (type(value) is float and math.isfinite(value)):
        return value
    raise _NotPlain


def _path(wrappers: list[str], key: object) -> str:
    return ".".join((*wrappers, _key(key)))


def _key(key: object) -> str:
    """Give a key as text; the keys come from the file, so only plain ones are shown."""
    if type(key) is str:
        return key if key.isprintable() else shown(key)
    return str(key) if type(key) in (int, float, bool, type(None)) else f"<{type(key).__name__}>"


def _description(entries: Entries) -> str:
    keys = [shown(_key(key)) for key, _ in zip(entries.flat[::2], range(KEYS_SHOWN), strict=False)]
    more = ", ..." if len(entries.flat) > 2 * KEYS_SHOWN else ""
    return f"its keys are {', '.join(keys)}{more}" if keys else "it is empty"

"""Find the state dict in what a trainer saved, and say what was around it.

Layouts: a bare state dict; a dictionary with the state dict under one of `WRAPPERS`, beside an optimizer, an epoch
and so on; DistributedDataParallel's and torch.compile's prefix on every name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from .format_error import SAVE_AGAIN, FormatError, shown
from .inert import Entries, Unsupported, View
from .tensor import Tensor, check_name

WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
PREFIXES = ("module.", "_orig_mod.")
MAX_WRAPPERS = 8
KEYS_SHOWN = 12


@dataclass(frozen=True)
class StateDict:
    """The tensors in the order of the file, the wrappers around them (outermost first) and what else was there."""

    wrappers: tuple[str, ...]
    views: tuple[tuple[str, View], ...]
    ignored: tuple[str, ...]


def find_state_dict(root: object) -> StateDict:
    """Unwrap a trainer's checkpoint.

    Raises:
        FormatError: there is no state dict, there is more than one, or one of its tensors is not dense.
    """
    wrappers: list[str] = []
    ignored: list[str] = []
    value = root
    while (wrapper := _wrapper(_unique(value), wrappers)) is not None:
        ignored += [_path(wrappers, key) for key, _ in value if key != wrapper]
        wrappers.append(wrapper)
        value = next(inner for key, inner in value if key == wrapper)
    if not _is_state_dict(value, wrapped=bool(wrappers)):
        raise FormatError(f"holds no state dict: {_description(value)}", SAVE_AGAIN)
    ignored += [_path(wrappers, key) for key, inner in value if not _is_tensor(inner)]
    return StateDict(tuple(wrappers), _views(value), tuple(ignored))


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


def _unique(value: object) -> object:
    """Refuse a dictionary that gives one name to two things: readers would disagree on which is meant."""
    names: set[str] = set()
    for key, _ in value if type(value) is Entries else ():
        if type(key) is str and key in names:
            raise FormatError(f"holds {shown(key)} twice", SAVE_AGAIN)
        if type(key) is str:
            names.add(key)
    return value


def _wrapper(value: object, outer: list[str]) -> str | None:
    """Give the key under which the state dict lies one level down, or None if `value` is it."""
    if type(value) is not Entries:
        return None
    inside = {key: inner for key, inner in value if type(key) is str and key in WRAPPERS and type(inner) is Entries}
    keys = [key for key, inner in inside.items() if _promising(inner)]
    if not keys and not any(_is_tensor(inner) for _, inner in value):
        keys = [key for key, inner in inside.items() if not inner.flat]
    if len(keys) > 1:
        raise FormatError(f"holds more than one state dict ({', '.join(keys)})", "save the one that is wanted alone")
    if keys and len(outer) == MAX_WRAPPERS:
        raise FormatError(f"wraps its state dict more than {MAX_WRAPPERS} times", SAVE_AGAIN)
    return keys[0] if keys else None


def _promising(entries: Entries) -> bool:
    """Tell a wrapped state dict from, say, the model's configuration under the same key."""
    return any(
        _is_tensor(inner) or (type(key) is str and key in WRAPPERS and type(inner) is Entries) for key, inner in entries
    )


def _is_state_dict(value: object, *, wrapped: bool) -> bool:
    # A wrapped state dict may be empty: some modules have no parameters.
    if type(value) is not Entries:
        return False
    return any(_is_tensor(inner) for _, inner in value) or (wrapped and not value.flat)


def _is_tensor(value: object) -> bool:
    return type(value) in (View, Unsupported)


def _views(entries: Entries) -> tuple[tuple[str, View], ...]:
    views: dict[str, View] = {}
    for name, value in entries:
        if not _is_tensor(value):
            continue
        if type(name) is not str:
            raise FormatError(f"holds a tensor under {_key(name)}, which is not a name", SAVE_AGAIN)
        check_name(name)
        if type(value) is Unsupported:
            raise FormatError(
                f"tensor {shown(name)} is {value.what}", "only dense tensors can be converted: save it dense"
            )
        views[name] = value
    return tuple(views.items())


def _path(wrappers: list[str], key: object) -> str:
    return ".".join((*wrappers, _key(key)))


def _key(key: object) -> str:
    """Give a key as text; the keys come from the file, so only plain ones are shown."""
    if type(key) is str:
        return key if key.isprintable() else shown(key)
    return str(key) if type(key) in (int, float, bool, type(None)) else f"<{type(key).__name__}>"


def _description(value: object) -> str:
    if type(value) is Entries:
        keys = [shown(_key(key)) for key, _ in value]
        return (
            f"its keys are {', '.join(keys[:KEYS_SHOWN])}{', ...' if len(keys) > KEYS_SHOWN else ''}"
            if keys
            else "it is empty"
        )
    return "it is a single tensor" if _is_tensor(value) else f"it is a {type(value).__name__}"

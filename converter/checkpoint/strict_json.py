"""JSON from a file that is not trusted: an object, no duplicate keys, no unbounded nesting."""

import json

from .format_error import FormatError, shown

MAX_BYTES = 100_000_000
BASE_BUDGET = 32 << 20
COMMA_COST, BRACKET_COST = 64, 128
"""Bytes that Python needs for a value and for a container. `[],[],[]` becomes twenty times its size."""


def parse_object(data: bytes, what: str) -> dict[str, object]:
    """Parse a JSON object.

    Raises:
        FormatError: it is not one, or it holds a key twice.
    """
    cost = COMMA_COST * data.count(b",") + BRACKET_COST * (data.count(b"[") + data.count(b"{"))
    if cost > BASE_BUDGET + len(data):
        raise FormatError(f"{what} of {len(data)} bytes describes more than a checkpoint of this size can need")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constants)
    except json.JSONDecodeError as error:
        raise FormatError(f"{what} is not valid JSON ({error.msg} at character {error.pos})") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{what} is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is nested too deeply, or holds a number that is too long") from error
    if type(value) is not dict:
        raise FormatError(f"{what} is not a JSON object")
    return value


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in value if names.count(name) > 1)
        raise FormatError(f"the JSON key {shown(twice)} occurs twice")
    return value


def _no_constants(name: str) -> object:
    raise FormatError(f"JSON holds {name}, which is not a number")

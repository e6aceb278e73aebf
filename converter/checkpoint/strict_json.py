"""JSON from a file that is not trusted: no duplicate keys, no unbounded nesting."""

import json
import re

from .format_error import FormatError, shown

MAX_BYTES = 100_000_000
BASE_BUDGET = 32 << 20
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
COMMA_COST, BRACKET_COST = 64, 128
"""Bytes that Python needs for a value and for a container. `[],[],[]` becomes twenty times its size."""


def parse_object(data: bytes, what: str) -> dict[str, object]:
    """Parse a JSON object that may cost no more memory than its size warrants.

    Raises:
        FormatError: it is not one, or it holds a key twice.
    """
    cost = COMMA_COST * data.count(b",") + BRACKET_COST * (data.count(b"[") + data.count(b"{"))
    if cost > BASE_BUDGET + len(data):
        raise FormatError(f"{what} of {len(data)} bytes describes more than a checkpoint of this size can need")
    value = parse(data, what)
    if type(value) is not dict:
        raise FormatError(f"{what} is not a JSON object")
    return value


def parse(data: bytes, what: str = "") -> object:
    """Parse JSON: no key twice, no NaN, no endless nesting, no half of a character.

    Raises:
        FormatError: it is not so.
    """
    begin = f"{what} " if what else ""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constants)
        if SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise FormatError(f"{begin}is not valid JSON ({error.msg} at character {error.pos})") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{begin}is not UTF-8") from error
    except UnicodeEncodeError as error:
        raise FormatError(f"{begin}holds half of a character: a surrogate without its other") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{begin}is nested too deeply, or holds a number that is too long") from error
    return value


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in value if names.count(name) > 1)
        raise FormatError(f"holds the JSON key {shown(twice)} twice")
    return value


def _no_constants(name: str) -> object:
    raise FormatError(f"holds {name} in its JSON, which is not a number")

"""JSON from a file that is not trusted: no duplicate keys, no unbounded nesting."""

from ...validation.files import parse_json
from .format_error import FormatError

MAX_BYTES = 100_000_000
BASE_BUDGET = 32 << 20
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
    try:
        return parse_json(data)
    except ValueError as error:
        raise FormatError(f"{what} {error}".lstrip()) from error

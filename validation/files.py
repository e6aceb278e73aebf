"""Files of a run directory, which anyone may have written: regular files only, and JSON that all read as one thing.

A link leads out of the directory, a FIFO keeps its reader waiting; a key that is there twice, or a number that is none,
means one thing to this reader and another to the next.
"""

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

LARGEST = 1 << 28
"""Bytes of a JSON document; the largest, a ledger of some hundred thousand tensors, has a tenth."""

SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
SHOWN = 200


def regular(file: Path) -> os.stat_result:
    """Give the state of a regular file.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is a link, a folder, a FIFO or a device.
    """
    state = file.lstat()
    if not stat.S_ISREG(state.st_mode):
        raise ValueError(f"it is {kind(state.st_mode)}, expected a regular file")
    return state


def kind(mode: int) -> str:
    """Say what something in a file system is."""
    kinds = {
        stat.S_IFLNK: "a link",
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "a file")


def read_json(file: Path) -> Any:
    """Read a JSON document.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no regular file, too large, or not JSON as `parse_json` takes it.
    """
    if regular(file).st_size > LARGEST:
        raise ValueError(f"it has more than {LARGEST >> 20} MB")
    return parse_json(file.read_bytes())


def parse_json(data: bytes) -> Any:
    """Parse JSON: no key twice, no NaN, no endless nesting, no half of a character.

    Raises:
        ValueError: it is not so.
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constants)
        if SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON ({error.msg} at character {error.pos})") from error
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8") from error
    except UnicodeEncodeError as error:
        raise ValueError("holds half of a character: a surrogate without its other") from error
    except _Odd:
        raise
    except (ValueError, RecursionError) as error:
        raise ValueError("is nested too deeply, or holds a number that is too long") from error
    return value


class _Odd(ValueError):
    """What JSON may hold, and Python reads in silence."""


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in value if names.count(name) > 1)
        raise _Odd(f"holds the JSON key {twice[:SHOWN]!a} twice")
    return value


def _no_constants(name: str) -> object:
    raise _Odd(f"holds {name} in its JSON, which is not a number")

"""What people hand over: any iterable of texts, pictures or pairs, read row by row, each row named by its place."""

import itertools
import operator
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Set, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import numpy as np

from ...validation.errors import InputError
from ..pack.pictures import Source
from ..pack.preprocessor import Raw
from ..pack.sounds import Source as Heard
from ..pack.tokenizer import refuse_halves

if TYPE_CHECKING:
    from PIL import Image

Texts: TypeAlias = str | Iterable[str]
Images: TypeAlias = "Source | Iterable[Source]"
Pairs: TypeAlias = str | Iterable[Raw]
Audio: TypeAlias = "Heard | Iterable[Heard]"

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
CHANNELS = (1, 3, 4)
"""Sizes of the last axis of an array that is one picture."""

T = TypeVar("T")


@dataclass(frozen=True)
class Given:
    """Texts, pictures, or pairs of both, not yet read.

    Args:
        texts: None if there are none.
        images: likewise.
        alone: whether they are one row, not a list of rows.
        count: how many rows there are; None if only reading them tells.
    """

    texts: Iterator[str] | None
    images: Iterator[Source] | None
    alone: bool
    count: int | None

    def take(self, most: int | None, first: int = 0) -> tuple[list[str] | None, list[Source] | None]:
        """Read so many further rows, all that are left for None.

        Args:
            most: rows.
            first: how many were read before, for messages.

        Raises:
            InputError: a row is no text or picture, or there are more of one than of the other.
        """
        texts = None if self.texts is None else list(itertools.islice(self.texts, most))
        images = None if self.images is None else list(itertools.islice(self.images, most))
        if texts is not None and images is not None and len(texts) != len(images):
            counts = f"{first + len(texts)} texts and {first + len(images)} images"
            raise InputError(f"texts and images are pairs: got {counts}")
        return texts, images


def given(texts: Texts | None, images: "Images | None") -> Given:
    """Take what `embed` is given.

    Raises:
        InputError: neither is there, one is a list and the other is not, or one cannot hold rows in an order.
    """
    if texts is None and images is None:
        raise InputError("nothing to embed: give texts, images, or as many of both")
    alone = [isinstance(texts, str)] * (texts is not None) + [_one_picture(images)] * (images is not None)
    if len(set(alone)) > 1:
        raise InputError("one of texts and images is a list and the other is not: pairs are two lists, or one of each")
    return Given(
        None if texts is None else rows(texts, "text", text, alone=alone[0]),
        None if images is None else rows(images, "picture", picture, alone=alone[-1]),
        alone[0],
        1 if alone[0] else _count(images if texts is None else texts),
    )


def rows(several: Any, kind: str, one: Callable[[object, str], T], *, alone: bool) -> Iterator[T]:
    """Read rows, each checked when it is reached.

    Args:
        several: an iterable, or one row.
        kind: what a row is called.
        one: gives a row of what it is (value, its name); raises InputError.
        alone: whether it is one row.

    Raises:
        InputError: it is no iterable, or one without an order.
    """
    if alone:
        return iter([one(several, f"the {kind}")])
    expected = f"expected a list or another iterable of them; one {kind} alone gives one row"
    if isinstance(several, Mapping | Set | bytes | bytearray):
        raise InputError(f"{kind}s are given as a {type(several).__name__}, {expected}")
    axes = getattr(several, "ndim", 1)
    if axes != 1 and kind != "picture":
        raise InputError(f"{kind}s are given with {axes} axes, expected one: a list of them, or one column of a table")
    try:
        found = iter(several)
    except TypeError as error:
        raise InputError(f"{kind}s are given as {_told(several)}, {expected}") from error
    return (one(value, f"{kind} {place}") for place, value in enumerate(found))


def text(value: object, name: str) -> str:
    """Check a text.

    Raises:
        InputError: it is none, or holds half of a character, which no tokenizer reads.
    """
    if not isinstance(value, str):
        missing = value is None or value != value  # NaN alone is not itself
        hint = "; leave out what is missing, or put a text there" if missing is True else ""
        raise InputError(f"{name} is {_told(value)}, expected a str{hint}")
    refuse_halves(value, name)
    return str.__str__(value)  # of a subclass, as numpy has one, the text alone


def pair(value: object, name: str) -> Raw:
    """Check a text, or two of them.

    Raises:
        InputError: it is neither.
    """
    if isinstance(value, list | tuple):
        if len(value) != 2:
            raise InputError(f"{name} has {len(value)} texts, expected a text or two of them")
        return text(value[0], f"the first text of {name}"), text(value[1], f"the second text of {name}")
    if not isinstance(value, str):
        raise InputError(f"{name} is {_told(value)}, expected a text or two of them")
    return text(value, name)


def picture(value: object, name: str) -> Source:
    """Check what a picture is read from; an open file is read.

    Raises:
        InputError: it is no such thing.
    """
    opened = _opened(value, name)
    if opened is not None:
        return opened
    if isinstance(value, np.ndarray):
        return value
    if _is_pillow(value):
        return cast("Image.Image", value)
    raise InputError(
        f"{name} is {_told(value)}, expected a file's name, an open file, its bytes, an array, or a picture of Pillow's"
    )


def sound(value: object, name: str) -> Heard:
    """Check what a sound is read from; an open file is read.

    Raises:
        InputError: it is no such thing.
    """
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], np.ndarray):
        return value[0], value[1]
    if isinstance(value, np.ndarray):
        raise InputError(f"{name} is an array without its rate: give (array, samples a second)")
    opened = _opened(value, name)
    if opened is not None:
        return opened
    raise InputError(
        f"{name} is {_told(value)}, expected a file's name, an open file, its bytes, or an array with its samples a "
        "second, (array, rate)"
    )


def one_sound(value: object) -> bool:
    """Say whether this is one sound, not a list of them."""
    pair = isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], np.ndarray)
    single = isinstance(value, str | os.PathLike | bytes | bytearray | memoryview | np.ndarray)
    return pair or single or hasattr(value, "read")


def _opened(value: object, name: str) -> str | bytes | None:
    """Give the path or the bytes that something is; None for what is neither.

    Raises:
        InputError: an address, or a file that gives no bytes.
    """
    if isinstance(value, str | os.PathLike):
        if ADDRESS.match(os.fspath(value)):
            raise InputError(f"{name} is an address, {value}: fetch it, and give the file or its bytes")
        return os.fspath(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if not hasattr(value, "read"):
        return None
    data = value.read()
    if not isinstance(data, bytes):
        raise InputError(f"{name} is a file that gives {type(data).__name__}, expected bytes: open it with 'rb'")
    return data


def whole(value: object, name: str, low: int, high: int | None = None) -> int:
    """Check a whole number, of Python's or numpy's.

    Raises:
        InputError: it is none, or out of bounds.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < low or (high is not None and number > high):
        bounds = f"from {low} to {high}" if high is not None else f"of at least {low}"
        raise InputError(f"{name} is {_told(value)}, expected a whole number {bounds}")
    return number


def _one_picture(value: object) -> bool:
    """Say whether this is one picture, not a list of them.

    Raises:
        InputError: an array of three axes may be either.
    """
    if isinstance(value, np.ndarray) and value.dtype != object:
        if value.ndim == 3 and value.shape[2] not in CHANNELS:
            raise InputError(
                f"images is an array {value.shape}, expected (height, width), (height, width, 3 or 4), or a stack "
                "(pictures, height, width, 3 or 4)"
            )
        return value.ndim in (2, 3)
    return isinstance(value, str | os.PathLike | bytes | bytearray | memoryview) or (
        hasattr(value, "read") or _is_pillow(value)
    )


def _is_pillow(value: object) -> bool:
    """Say whether this is a picture of Pillow's, which whoever has one has imported."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(value, pillow.Image)


def _count(several: object) -> int | None:
    return len(several) if isinstance(several, Sized) else None


def _told(value: object) -> str:
    """Show a value in few characters, with its type where that is not plain."""
    if value is None:
        return "None"
    shown = repr(value)
    return f"{shown if len(shown) <= 40 else f'{shown[:37]}...'} ({type(value).__name__})"

"""Which files are a store's: one document that is replaced whole, so that every reader sees a whole state.

A fragment is written aside, synced and renamed; then, under the store's lock, the document that names it is replaced.
What is not named is not there, whatever lies in the folders.
"""

import contextlib
import fcntl
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ....validation.errors import InputError
from ....validation.files import read_json
from ...directory import write_json
from .tables import SOURCES

MANIFEST, LOCK = "store.json", ".lock"
FORMAT_VERSION = 1

FOREIGN = "embeddings.parquet"
"""The one file of a table that ArrowEngine itself reads and writes. It is read here and never written."""

FILE = re.compile(rf"({'|'.join(SOURCES)})/[0-9a-f]{{32}}\.parquet")


@dataclass(frozen=True)
class Fragment:
    """Rows of one model in one file, which is never changed.

    Args:
        file: below the store, `table/name.parquet`.
        rows: how many.
        bytes: of the file.
        model: whose embeddings they are.
        width: numbers of one.
    """

    file: str
    rows: int
    bytes: int
    model: str
    width: int

    @property
    def table(self) -> str:
        """Name the table that the rows are of."""
        return self.file.partition("/")[0]


@dataclass(frozen=True)
class Manifest:
    """A whole state.

    Args:
        fragments: in the order in which they came.
        parts: `table/name` of each part of a job's input that is there, see `EmbeddingStore.writer`.
    """

    fragments: tuple[Fragment, ...] = ()
    parts: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read a store's document; an empty state for a folder of ArrowEngine's, which has none.

        Raises:
            InputError: it is none that this program writes.
        """
        file = path / MANIFEST
        try:
            document = read_json(file)
        except FileNotFoundError:
            return cls()
        except ValueError as error:
            raise InputError(f"{file} {error}") from error
        version = document.get("format_version") if isinstance(document, dict) else None
        if version != FORMAT_VERSION:
            raise InputError(f"{file}: format_version is {version!r}, this program reads {FORMAT_VERSION}")
        try:
            found = cls(tuple(_fragment(each) for each in document["fragments"]), tuple(map(_text, document["parts"])))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{file} is not a store's document as this program writes it: {error!r}") from error
        if len({fragment.file for fragment in found.fragments}) < len(found.fragments):
            raise InputError(f"{file} names a file twice")
        return found

    def write(self, path: Path) -> None:
        """Take the place of the document that is there; the lock is held."""
        write_json(path / MANIFEST, path / f".{MANIFEST}.part", {"format_version": FORMAT_VERSION, **asdict(self)})

    def merged(self, taken: Sequence[str], whole: Fragment) -> "Manifest":
        """Give the state with one fragment in the place of others, whose rows it has in their order."""
        first = min(at for at, each in enumerate(self.fragments) if each.file in taken)
        before, after = self.fragments[:first], self.fragments[first:]
        return Manifest((*before, whole, *(each for each in after if each.file not in taken)), self.parts)


def _fragment(given: dict[str, Any]) -> Fragment:
    fragment = Fragment(**given)
    counts = (fragment.rows, fragment.bytes, fragment.width)
    if not FILE.fullmatch(fragment.file) or not all(type(n) is int and n >= 0 for n in counts) or not fragment.width:
        raise ValueError(given)
    _text(fragment.model)
    return fragment


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only one who changes a store. Readers do not wait."""
    with (path / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

"""Files that the user names to be written: whole or not at all, and in nothing's place that was not meant."""

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path

from ..validation.errors import InputError
from ..validation.files import kind
from .directory import sync


def refuse_place(out: Path, option: str = "--out", *, force: bool = False) -> None:
    """Refuse, before any work, to write where something else is than a file that may be replaced.

    Args:
        out: the file to be written.
        option: the option that names it.
        force: a file that is there may be replaced.

    Raises:
        InputError: a link, a device, a FIFO or a folder is there, a file without `force`, or there is no folder for it.
    """
    folder = out.absolute().parent
    if not folder.is_dir():
        raise InputError(f"{option} {out}: the folder {folder} does not exist; make it first")
    try:
        mode = out.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise InputError(f"{option} {out} is {kind(mode)}, which would be replaced by a file; choose another place")
    if not force:
        raise InputError(f"{option} {out} exists; say --force to replace it, or choose another place")


@contextlib.contextmanager
def written(out: Path) -> Iterator[Path]:
    """Give a file beside `out` to write, which takes its place when all went well; messages name `out`."""
    aside = out.with_name(f".{out.name}.part")
    try:
        yield aside
        sync(aside)
        aside.replace(out)
        sync(out.absolute().parent)
    except OSError as error:
        if error.filename in (str(aside), aside):
            error.filename = str(out)
        raise
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)

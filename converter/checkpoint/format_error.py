"""What a reader raises when a file is not what it should be, and the one place where that meets the file's name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...validation.errors import EnvironmentFailure, InputError

SHOWN = 200
SAVE_AGAIN = "save the weights alone with torch.save(model.state_dict(), ...), or as safetensors"
COPY_AGAIN = f"copy or download it again, and if it is the same then, {SAVE_AGAIN}"


class FormatError(Exception):
    """The bytes are not a checkpoint that this package reads. The message does not name the file: see `blame`.

    Args:
        problem: what is wrong.
        advice: what to do with a checkpoint; a document beside one needs another.
    """

    def __init__(self, problem: str, advice: str = COPY_AGAIN) -> None:
        super().__init__(f"{problem}; {advice}")
        self.problem = problem


def shown(text: str) -> str:
    """Give text from a file in a form that may stand in a message: one line, printable, not too long."""
    quoted = ascii(text[:SHOWN])
    return quoted if len(text) <= SHOWN else f"{quoted}..."


@contextmanager
def blame(path: Path) -> Iterator[None]:
    """Turn what goes wrong inside into one error that names `path`.

    Raises:
        InputError: the file is malformed or cannot be read.
        EnvironmentFailure: there is no permission to read it.
    """
    try:
        yield
    except FormatError as error:
        raise InputError(f"{path}: {error}") from error
    except PermissionError as error:
        raise EnvironmentFailure(f"{path}: no permission to read it; change its mode or run as its owner") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error

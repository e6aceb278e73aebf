"""The ways in which work can end badly. The command line turns each into its exit code, never a traceback."""

import contextlib
from collections.abc import Iterator

ENTRY = "entry point "
"""How the note on an exception begins that says which entry point was at work."""


class ConvertError(Exception):
    """A failure whose message stands alone: the file, tensor or field, what was expected, what came, what to do."""

    exit_code = 1


class GateError(ConvertError):
    """A check said no: an unmapped tensor, a disagreeing artifact. Exit code 1."""

    exit_code = 1


class InputError(ConvertError, ValueError):
    """The input cannot be used: unreadable, unsafe, unsupported, corrupt. Exit code 3. In Python it is a ValueError."""

    exit_code = 3


class UsageFailure(InputError):
    """What was asked for does not exist, or does not go together. Exit code 2."""

    exit_code = 2


class EnvironmentFailure(ConvertError):
    """The machine cannot do it: a missing package, a full disk, no permission. Exit code 4."""

    exit_code = 4


class Unexpected(ConvertError):
    """A fault of this tool, or of a library under it: neither the input nor the machine is known to be at fault."""

    exit_code = 5


@contextlib.contextmanager
def about(entry_point: str) -> Iterator[None]:
    """Note on what is raised here which entry point was at work."""
    try:
        yield
    except Exception as error:
        error.add_note(f"{ENTRY}{entry_point}")
        raise


def raised(error: Exception) -> str:
    """Say in one line what a library raised: its type and the first line of what it said."""
    return f"{type(error).__name__}: {error}".split("\n")[0][:300]

"""What a stage tells while it works, to a terminal, a log, or the process that started it."""

from dataclasses import dataclass
from typing import Protocol

WARNING = "warning: "
"""How a note begins that a terminal keeps in sight; others are gone with the bar."""


class Progress(Protocol):
    """Listens to one stage."""

    def begin(self, total: int | None) -> None:
        """Say how many bytes there are to do, if that is known."""

    def advance(self, nbytes: int) -> None:
        """Say that so many more bytes are done."""

    def note(self, text: str) -> None:
        """Say what is being done, or what was found."""


@dataclass
class Silent:
    """A Progress that listens to nothing."""

    def begin(self, total: int | None) -> None:
        """Ignore."""

    def advance(self, nbytes: int) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""

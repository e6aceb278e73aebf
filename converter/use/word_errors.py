"""Word errors: how far the texts of one format's programs are from another's, on recordings that a user has.

The measure is the usual one of the field: words put in, left out or exchanged, in words of the text that is compared
with. Words are what stands between spaces, as it is written; where a language is written without, each sign is one.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ...exporters.base import exporters
from ...exporters.precisions import FLOAT32, FLOORS
from .hearing import UNSPACED, Transcript


@dataclass(frozen=True)
class WordErrors:
    """Differences between the texts of two formats.

    Args:
        format: whose texts are judged.
        against: whose texts they are held to.
        allowed: most errors, in words of the latter.
        errors: words put in, left out or exchanged.
        words: of the texts that are held to.
    """

    format: str
    against: str
    allowed: float
    errors: int = 0
    words: int = 0

    @property
    def rate(self) -> float:
        """Errors in words of the text that is held to; of none, one for each word that should not be there."""
        return self.errors / max(self.words, 1)

    @property
    def passed(self) -> bool:
        """Say whether there are as few as are allowed."""
        return self.rate <= self.allowed

    def __str__(self) -> str:
        count = f"{self.errors} word error{'s' * (self.errors != 1)} in {self.words} words"
        return f"{self.format} against {self.against}: {count}, {self.rate:.1%}; {self.allowed:.1%} allowed"

    def to_json(self) -> dict[str, Any]:
        """Give all of it for programs."""
        return {**asdict(self), "rate": self.rate, "passed": self.passed}

    def plus(self, found: Transcript, wanted: Transcript) -> "WordErrors":
        """Count those of one more sound."""
        have, want = (words_of(each) for each in (found, wanted))
        return replace(self, errors=self.errors + edits(have, want), words=self.words + len(want))


def allowed_of(format_name: str) -> float:
    """Give the most word errors of a format's programs: none in float32, else what its precision is held to."""
    precision = exporters()[format_name].precision
    return 0.0 if precision == FLOAT32 else FLOORS[precision].words


def words_of(said: Transcript) -> list[str]:
    """Cut a text into its words."""
    return list(said.text.replace(" ", "")) if f"<|{said.language}|>" in UNSPACED else said.text.split()


def edits(found: Sequence[str], wanted: Sequence[str]) -> int:
    """Count the fewest words to put in, leave out and exchange that make one text of another (Levenshtein)."""
    before = list(range(len(found) + 1))
    for count, want in enumerate(wanted, 1):
        row = [count]
        for place, have in enumerate(found):
            row.append(min(before[place] + (have != want), before[place + 1] + 1, row[place] + 1))
        before = row
    return before[-1]

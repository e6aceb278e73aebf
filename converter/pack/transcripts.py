"""Transcripts: what a text of a sound begins with, and the text of the tokens that were chosen, by preprocess.json.

The rules are `transcripts` of preprocess.json, checked: steps.py has their words. The loop over the entry points is
whoever's who runs them: docs/pack.md states it.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...validation.errors import InputError
from ...validation.packages import need
from . import tokenizer
from .steps import Rules

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Transcripts:
    """What preprocess.json says of texts that come out.

    Args:
        directory: where tokenizer.json lies.
        rules: its part of preprocess.json, checked.
    """

    def __init__(self, directory: Path, rules: Rules):
        self.directory = directory
        self.rules = rules

    def prompt(self, language: str | None = None, task: str = "transcribe") -> list[int]:
        """Give the tokens that a text begins with.

        Args:
            language: a name of `languages`; None for the one that is stated.
            task: a name of `tasks`.

        Raises:
            InputError: there is no such language or task, or none is given and none stated.
        """
        language = self.rules["language"] if language is None else language
        found = [self.rules["start"]]
        if self.rules["languages"] and self.rules["tasks"]:
            found += [self._named("languages", language), self._named("tasks", task)]
        elif language is not None:
            raise InputError(f"{self.directory}: this network writes one language, and takes none")
        return found if self.rules["no_timestamps"] is None else [*found, self.rules["no_timestamps"]]

    def _named(self, kind: str, name: str | None) -> int:
        known = self.rules[kind]
        if name not in known:
            raise InputError(f"{self.directory} knows no {kind[:-1]} {name!r} ({kind}: {', '.join(known)})")
        return int(known[name])

    def text(self, ids: Sequence[int]) -> str:
        """Give the text of tokens, special ones and times left out.

        Raises:
            InputError: the run has no tokenizer.
        """
        times = self.rules["no_timestamps"]
        return str(self._opened.decode([i for i in ids if times is None or i <= times], skip_special_tokens=True))

    @functools.cached_property
    def _opened(self) -> "Tokenizer":
        if self.rules["tokenizer"] is None:
            raise InputError(f"{self.directory} has no tokenizer: {self.rules['missing']}")
        need("tokenizers", "texts of sounds")
        path = self.directory / self.rules["tokenizer"]
        try:
            return tokenizer.load(path)
        except FileNotFoundError as error:
            raise InputError(f"{path} does not exist") from error
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is no tokenizer: {error}") from error

"""Raw texts and pictures to what entry points take, by the pack's own tokenizer.json and preprocess.json."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...validation.entry_point import EntryPoint
from ...validation.errors import InputError
from ...validation.runner import Arrays
from . import FORMAT_VERSION, PREPROCESS, need
from .pictures import Source, images
from .tokenizer import load

if TYPE_CHECKING:
    from tokenizers import Tokenizer


CHUNK = 1024
"""Texts that are encoded at once: the library keeps more than ids of each."""


class Preprocessor:
    """What preprocess.json says, done.

    Args:
        directory: a run directory, or any folder with the two files.

    Raises:
        InputError: there is no preprocess.json, or it is of another format.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        path = directory / PREPROCESS
        try:
            self.rules: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            version = self.rules["format_version"]
        except FileNotFoundError as error:
            raise InputError(f"{path} is missing; run `bgevis-convert pack {directory}`") from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no preprocessing: {error!r}") from error
        if version != FORMAT_VERSION:
            raise InputError(f"{path}: format_version is {version}, this program reads {FORMAT_VERSION}")
        self._tokenizer: Tokenizer | None = None

    def ids(self, entry_point: str, texts: Sequence[str]) -> list[list[int]]:
        """Give the ids of each text, truncated to what the entry point takes, not padded.

        Raises:
            InputError: the run has no tokenizer.
            EnvironmentFailure: the package tokenizers is missing.
        """
        rules = self.rules["texts"]
        if self._tokenizer is None:
            self._tokenizer = self._open(rules)
        limit = rules["max_tokens"][entry_point]
        if limit is None:
            self._tokenizer.no_truncation()
        else:
            self._tokenizer.enable_truncation(limit)
        found: list[list[int]] = []
        for start in range(0, len(texts), CHUNK):
            prefixed = [rules["prefix"] + text for text in texts[start : start + CHUNK]]
            found += [encoded.ids for encoded in self._tokenizer.encode_batch(prefixed)]
        return found

    def _open(self, rules: dict[str, Any]) -> "Tokenizer":
        if not rules or not rules["tokenizer"]:
            reason = rules["missing"] if rules else "the network reads no text"
            raise InputError(f"{self.directory} has no tokenizer: {reason}")
        path = self.directory / rules["tokenizer"]
        need("tokenizers", str(path))
        try:
            return load(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read: {error}") from error

    def text_inputs(self, rows: Sequence[Sequence[int]], tokens: int = 0) -> dict[str, np.ndarray]:
        """Pad rows of ids to the longest, or to `tokens` if that is more; give ids and mask, (batch, tokens) int32."""
        rules = self.rules["texts"]
        width = max([tokens, *map(len, rows)])
        ids = np.full((len(rows), width), rules["pad_id"], np.int32)
        mask = np.arange(width) < np.array([len(row) for row in rows])[:, None]
        if rules["padding"].startswith("before"):
            mask = mask[:, ::-1]
        for row, real, text in zip(ids, mask, rows, strict=True):
            row[real] = text
        return {rules["inputs"]["ids"]: ids, rules["inputs"]["mask"]: mask.astype(np.int32)}

    def image_inputs(self, sources: Sequence[Source]) -> dict[str, np.ndarray]:
        """Give pictures as an entry point takes them, (batch, size, size, channels) float32.

        Raises:
            InputError: the network sees no pictures, or one of them cannot be read.
        """
        rules = self.rules["images"]
        if not rules:
            raise InputError(f"{self.directory}: this network sees no pictures")
        return {rules["input"]: images(sources, rules)}

    def inputs(
        self, entry: EntryPoint, texts: Sequence[str] | None = None, pictures: Sequence[Source] | None = None
    ) -> Arrays:
        """Give all inputs of an entry point, in its order, for one batch."""
        made = {} if pictures is None else self.image_inputs(pictures)
        if texts is not None:
            made |= self.text_inputs(self.ids(entry.name, texts))
        return {spec.name: made[spec.name].astype(spec.dtype, copy=False) for spec in entry.inputs}

"""What an open artifact embeds, as rows of a store: which table, which model's name, which ids."""

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ....validation.errors import InputError
from ...directory import RunDirectory
from ..artifacts import Artifacts
from ..batches import CHUNK
from .tables import names

TABLES = {"text": "text", "image": "vision", "audio": "audio"}
"""What a network embeds that embeds nothing else -> its table."""

Chunk = tuple[list[str], np.ndarray, list[Mapping[str, Any]]]
"""Ids, embeddings (rows, width), metadata."""


def model_of(artifacts: Artifacts) -> str:
    """Name a network: its family, and a digest of its checkpoint and configuration.

    Two checkpoints of one architecture embed into two spaces; formats and precisions of one do not.
    """
    manifest = RunDirectory(artifacts.path).manifest()
    told = json.dumps([manifest["source"]["sha256"], manifest["config"]], sort_keys=True)
    return f"{artifacts.family}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def table_of(artifacts: Artifacts, kind: str) -> str:
    """Choose the table: `clip` for a network that embeds several kinds of things, else that of the kind.

    Args:
        artifacts: opened.
        kind: what is embedded: text, image, text+image or audio.
    """
    outputs = (artifacts.rules["embeddings"] or {}).get("outputs", {})
    return TABLES.get(kind, "clip") if len(outputs) < 2 else "clip"


@dataclass(frozen=True)
class Rows:
    """Rows to be embedded.

    Args:
        given: texts, pictures, both, or sounds, by their kind.
        ids: of each.
        metadata: of each.
    """

    given: Mapping[str, list[Any]]
    ids: list[str]
    metadata: list[Mapping[str, Any]]

    @property
    def kind(self) -> str:
        """Name what is embedded: text, image, text+image or audio."""
        return "+".join(self.given)

    @classmethod
    def of(
        cls,
        texts: Iterable[str] | None,
        images: Iterable[Any] | None,
        audio: Iterable[Any] | None,
        ids: Sequence[str] | None,
        metadata: Sequence[Mapping[str, Any]] | None,
    ) -> Self:
        """Read rows, see `EmbeddingStore.add`.

        Raises:
            InputError: there are none, there are more of one than of another, or one that is no file has no id.
        """
        several = {"text": texts, "image": images, "audio": audio}
        if any(isinstance(each, str | bytes) for each in several.values()):
            raise InputError("one row alone is given, expected lists of texts, images or audio")
        given = {kind: list(each) for kind, each in several.items() if each is not None}
        if not given:
            raise InputError("nothing to add: give texts, images, as many of both, or audio")
        counts = {kind: len(each) for kind, each in given.items()}
        count = max(counts.values())
        counts |= {"ids": count if ids is None else len(ids)}
        counts |= {"metadata": count if metadata is None else len(metadata)}
        if len(set(counts.values())) > 1:
            raise InputError(f"rows do not go together: {', '.join(f'{n} {kind}' for kind, n in counts.items())}")
        told = [{kind: name for kind in given if (name := _name(given[kind][row]))} for row in range(count)]
        known = [_id(one, row) for row, one in enumerate(told)] if ids is None else names(ids, "ids")
        return cls(given, known, [{**one, **more} for one, more in zip(told, metadata or [{}] * count, strict=True)])

    def embedded(self, artifacts: Artifacts, how: Mapping[str, Any]) -> Iterator[Chunk]:
        """Embed the rows, some thousand at a time."""
        if "audio" in self.given:
            vectors = iter(artifacts.embed(audio=self.given["audio"], **how))
        else:
            vectors = artifacts.embed_iter(self.given.get("text"), self.given.get("image"), **how)
        for start in range(0, len(self.ids), CHUNK):
            chunk = list(itertools.islice(vectors, CHUNK))
            yield self.ids[start : start + CHUNK], np.stack(chunk), self.metadata[start : start + CHUNK]


def _name(value: Any) -> str | None:
    """Give a text, or the name of a file; None for what is in memory."""
    return os.fspath(value) if isinstance(value, str | os.PathLike) else None


def _id(told: Mapping[str, str], row: int) -> str:
    """Name a row by what was embedded: one file by its name, else by a digest."""
    if not told:
        raise InputError(f"row {row} is no text and no file, so nothing names it: give ids")
    if "text" not in told:
        return next(iter(told.values()))
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:32]

"""Raw texts and pictures to what entry points take, by the pack's own tokenizer.json and preprocess.json."""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...validation.entry_point import EntryPoint, TensorSpec, TokenIds
from ...validation.errors import InputError
from ...validation.runner import Arrays
from . import FORMAT_VERSION, PREPROCESS, steps, tokenizer
from .pictures import Source, images
from .steps import NULL_OR_OBJECT, Rules, Word, one_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer


CHUNK = 1024
"""Texts that are encoded at once: the library keeps more than ids of each."""


class Modality(ABC):
    """One kind of raw input: its rules in preprocess.json, and what they make of samples.

    Args:
        directory: where the rules' files lie.
        rules: its part of preprocess.json, checked.
    """

    check: Callable[[str, Rules], None]
    """Hold rules to their words: (what to call them, rules); raises InputError."""

    def __init__(self, directory: Path, rules: Rules):
        self.directory = directory
        self.rules = rules

    @abstractmethod
    def specs(self) -> tuple[TensorSpec, ...]:
        """Describe the inputs that it makes."""

    @abstractmethod
    def inputs(self, entry_point: str, raw: Sequence[Any]) -> Arrays:
        """Make its inputs of an entry point, for one batch."""

    def limits(self) -> Mapping[str, Mapping[str, int | None]]:
        """Give the limits that it keeps, axis -> entry point -> limit."""
        return {}


class Texts(Modality):
    """Texts to ids and mask, by tokenizer.json."""

    check = staticmethod(steps.texts)
    _opened: "Tokenizer | None" = None

    def specs(self) -> tuple[TensorSpec, ...]:
        """Describe ids and mask."""
        return tuple(TensorSpec(name, "int32", ("batch", "tokens")) for name in self.rules["inputs"].values())

    def limits(self) -> Mapping[str, Mapping[str, int | None]]:
        """Give the most tokens of each entry point."""
        return {"tokens": self.rules["max_tokens"]}

    def inputs(self, entry_point: str, raw: Sequence[str]) -> Arrays:
        """Make the inputs of an entry point, for one batch."""
        return self.padded(self.ids(entry_point, raw))

    def ids(self, entry_point: str, texts: Sequence[str]) -> list[list[int]]:
        """Give the ids of each text, truncated, not padded."""
        opened = self._tokenizer(entry_point)
        tokenizer.truncate(opened, self.rules["max_tokens"][entry_point], self.rules["truncation"])
        found: list[list[int]] = []
        for start in range(0, len(texts), CHUNK):
            prefixed = [self.rules["prefix"] + text for text in texts[start : start + CHUNK]]
            found += [encoded.ids for encoded in opened.encode_batch(prefixed)]
        return found

    def padded(self, rows: Sequence[Sequence[int]], tokens: int = 0) -> dict[str, np.ndarray]:
        """Pad rows of ids to the longest, or to `tokens` if that is more; give ids and mask, (batch, tokens) int32."""
        width = max([tokens, *map(len, rows)])
        ids = np.full((len(rows), width), self.rules["pad_id"], np.int32)
        mask = np.arange(width) < np.array([len(row) for row in rows])[:, None]
        if self.rules["padding"].startswith("before"):
            mask = mask[:, ::-1]
        for row, real, text in zip(ids, mask, rows, strict=True):
            row[real] = text
        names = self.rules["inputs"]
        return {names["ids"]: ids, names["mask"]: mask.astype(np.int32)}

    def _tokenizer(self, entry_point: str) -> "Tokenizer":
        """Open the tokenizer that reads texts for an entry point, which is one for all of them."""
        if self._opened is None:
            if self.rules["tokenizer"] is None:
                raise InputError(f"{self.directory} has no tokenizer: {self.rules['missing']}")
            if not (self.directory / self.rules["tokenizer"]).is_file():
                raise InputError(f"{self.directory / self.rules['tokenizer']} does not exist")
            domain = (self.rules[key] for key in ("vocab_size", "pad_id", "first_id", "last_id"))
            self._opened = tokenizer.read(self.directory, TokenIds(*domain))
        return self._opened


class Pictures(Modality):
    """Pictures to normalised pixels."""

    check = staticmethod(steps.images)

    def specs(self) -> tuple[TensorSpec, ...]:
        """Describe the pixels."""
        size, channels = self.rules["size"], len(self.rules["colour"])
        return (TensorSpec(self.rules["input"], self.rules["dtype"], ("batch", size, size, channels)),)

    def inputs(self, entry_point: str, raw: Sequence[Source]) -> Arrays:
        """Make the pixels, the same for every entry point."""
        return {self.rules["input"]: images(raw, self.rules)}


MODALITIES: Mapping[str, type[Modality]] = {"texts": Texts, "images": Pictures}
"""By the key of preprocess.json; null there for a network that takes none of the kind."""


def check(document: Any, where: str) -> None:
    """Hold the document preprocess.json to its words.

    Raises:
        InputError: docs/pack.md does not say what a key or value means, or this program cannot do it.
    """
    version = document.get("format_version") if isinstance(document, dict) else None
    if version is not None and not one_of(FORMAT_VERSION).legal(version):
        raise InputError(f"{where}: format_version is {version}, this program reads {FORMAT_VERSION}")
    parts: dict[str, Word] = {"format_version": one_of(FORMAT_VERSION), **dict.fromkeys(MODALITIES, NULL_OR_OBJECT)}
    steps.hold(where, document, {**parts, "embeddings": steps.OBJECT})
    there = [name for name in MODALITIES if document[name] is not None]
    if not there:
        raise InputError(f"{where}: all of {', '.join(MODALITIES)} are null; known: one of them at least")
    for name in there:
        MODALITIES[name].check(f"{where}: {name}", document[name])
    steps.embeddings(f"{where}: embeddings", document["embeddings"])


def read(text: str) -> Any:
    """Parse JSON as the readers in other languages do, for which 224.0 is the number 224; NaN is no JSON.

    Raises:
        ValueError: it is no JSON.
    """

    def number(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise ValueError(f"{digits} is too large")
        return int(value) if value.is_integer() else value

    return json.loads(text, parse_float=number, parse_constant=lambda name: number("1e999"))


class Preprocessor:
    """What preprocess.json says, done.

    Args:
        directory: a run directory, or any folder with the two files.

    Raises:
        InputError: there is no preprocess.json, or it says something that is not known here.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        path = directory / PREPROCESS
        try:
            self.rules: dict[str, Any] = read(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise InputError(f"{path} is missing; run `bgevis-convert pack {directory}`") from error
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path} is no preprocessing: {error!r}") from error
        check(self.rules, str(path))
        self._made: dict[str, Modality] = {
            name: kind(directory, self.rules[name]) for name, kind in MODALITIES.items() if self.rules[name] is not None
        }

    def hold_to(self, entries: Mapping[str, EntryPoint]) -> None:
        """Hold names, shapes and limits to the entry points of the network.

        Raises:
            InputError: preprocess.json is another network's.
        """
        where, stated = self.directory / PREPROCESS, self.rules["embeddings"]
        output = TensorSpec(stated["output"], stated["dtype"], ("batch", stated["width"]))
        makes = {spec.name: spec for made in self._made.values() for spec in made.specs()}
        takes = {spec.name: _plain(spec) for entry in entries.values() for spec in entry.inputs}
        if makes != takes:
            raise InputError(f"{where}: it makes {_listed(makes)}, the network takes {_listed(takes)}")
        for entry in entries.values():
            gives = {spec.name: _plain(spec) for spec in entry.outputs}
            if gives != {output.name: output}:
                raise InputError(f"{where}: embeddings is {_listed({'': output})}, {entry.name} gives {_listed(gives)}")
        for made in self._made.values():
            for axis, limits in made.limits().items():
                right = {entry.name: entry.axes[axis].high for entry in entries.values() if axis in entry.axes}
                if limits.keys() != right.keys() or any(_beyond(limits[name], right[name]) for name in right):
                    given, known = json.dumps(limits), json.dumps(right)
                    raise InputError(f"{where}: max_{axis} is {given}, the network takes at most {known}")

    def ids(self, entry_point: str, texts: Sequence[str]) -> list[list[int]]:
        """Give the ids of each text, truncated to what the entry point takes, not padded.

        Raises:
            InputError: the run has no tokenizer, or one that is not as preprocess.json says.
            EnvironmentFailure: the package tokenizers is missing.
        """
        return self._texts().ids(entry_point, texts)

    def text_inputs(self, rows: Sequence[Sequence[int]], tokens: int = 0) -> dict[str, np.ndarray]:
        """Pad rows of ids to the longest, or to `tokens` if that is more; give ids and mask, (batch, tokens) int32."""
        return self._texts().padded(rows, tokens)

    def _texts(self) -> Texts:
        found = self._modality("texts")
        assert isinstance(found, Texts)
        return found

    def image_inputs(self, sources: Sequence[Source]) -> dict[str, np.ndarray]:
        """Give pictures as an entry point takes them, (batch, size, size, channels) float32.

        Raises:
            InputError: the network sees no pictures, or one of them cannot be read.
        """
        return dict(self._modality("images").inputs("", sources))

    def _modality(self, name: str) -> Modality:
        if name not in self._made:
            raise InputError(f"{self.directory}: this network takes no {name}")
        return self._made[name]

    def inputs(self, entry: EntryPoint, raw: Mapping[str, Sequence[Any]]) -> Arrays:
        """Make all inputs of an entry point, in its order, for one batch of raw samples of each modality."""
        made: dict[str, np.ndarray] = {}
        for name, samples in raw.items():
            made.update(self._modality(name).inputs(entry.name, samples))
        if missing := {spec.name for spec in entry.inputs} - made.keys():
            raise InputError(f"{self.directory}: {entry.name} also takes {', '.join(sorted(missing))}")
        return {spec.name: made[spec.name].astype(spec.dtype, copy=False) for spec in entry.inputs}


def _plain(spec: TensorSpec) -> TensorSpec:
    """Leave out the domain, which a manifest does not state."""
    return TensorSpec(spec.name, spec.dtype, spec.shape)


def _listed(specs: Mapping[str, TensorSpec]) -> str:
    """Describe tensors, in the order of their names."""
    several = sorted(specs.values(), key=lambda spec: spec.name)
    return ", ".join(f"{s.name}[{', '.join(map(str, s.shape))}] {s.dtype}" for s in several) or "nothing"


def _beyond(stated: int | None, most: int | None) -> bool:
    """Say whether a limit, None for none, lets more through than there are positions for."""
    return most is not None and (stated is None or stated > most)

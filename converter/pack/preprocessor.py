"""Raw texts, pictures and sounds to what entry points take, by the pack's own tokenizer.json and preprocess.json."""

import json
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ...model.family import LONGEST_FIRST, REFUSED
from ...validation.domains import BEFORE, places
from ...validation.entry_point import EntryPoint, TensorSpec, TokenIds
from ...validation.errors import InputError
from ...validation.runner import Arrays
from . import FORMAT_VERSION, PREPROCESS, sounds, steps, tokenizer
from .pictures import Source, images
from .steps import NULL_OR_OBJECT, Rules, one_of
from .transcripts import Transcripts

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer


Raw: TypeAlias = str | tuple[str, str]
"""A text, or two that are read together."""

CHUNK = 1024
"""Texts that are encoded at once: the library keeps more than ids of each."""

Made: TypeAlias = tuple[str, tuple[int | str, ...]] | None
"""Dtype and shape of an input that is made, the axis of the rows first; None where nobody states them."""


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

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Give the names of the inputs that it makes."""

    @abstractmethod
    def shape(self, name: str) -> Made:
        """Give dtype and shape of one of them, the axis of the rows first."""

    @abstractmethod
    def inputs(self, entry_point: str, raw: Sequence[Any]) -> Arrays:
        """Make its inputs of an entry point, for one batch."""


@dataclass(frozen=True)
class Row:
    """The tokens of a text, or of two that are read together.

    Args:
        ids: special ones included, not padded.
        types: which of the two texts each is of.
        cut: whether it was longer than it may be.
    """

    ids: list[int]
    types: list[int]
    cut: bool = False


class Texts(Modality):
    """Texts to ids and mask, by tokenizer.json; pairs of texts too, where the network reads such."""

    check = staticmethod(steps.texts)
    _opened: "Tokenizer | None" = None

    def __init__(self, directory: Path, rules: Rules):
        super().__init__(directory, rules)
        self._lock = threading.Lock()  # where a text is cut is set in the tokenizer, which all threads share

    @property
    def names(self) -> tuple[str, ...]:
        """Name ids, and mask and the prompt's tokens where they are taken."""
        return tuple(self.rules["inputs"].values())

    def shape(self, name: str) -> Made:
        """Describe ids, mask, and how many tokens are the prompt's."""
        return "int32", ("texts",) if name == self.rules["inputs"].get("prompt") else ("texts", "tokens")

    def inputs(self, entry_point: str, raw: Sequence[Raw]) -> Arrays:
        """Make the inputs of an entry point, for one batch."""
        if any(not isinstance(text, str) for text in raw):
            return self.padded_rows(self.rows(entry_point, raw))
        prompt, texts = self.prompt(), [text for text in raw if isinstance(text, str)]
        return self.padded(self.ids(entry_point, texts, prompt), prompt_tokens=self.prompt_tokens(entry_point, prompt))

    def prompt(self, name: str | None = None) -> str:
        """Give the prompt of a name; without one, the default.

        Raises:
            InputError: there is none of this name.
        """
        name = self.rules["default_prompt"] if name is None else name
        if name is not None and name not in self.rules["prompts"]:
            known = ", ".join(map(repr, self.rules["prompts"])) or "there are none"
            raise InputError(f"{self.directory} has no prompt {name!r} (prompts: {known})")
        return "" if name is None else str(self.rules["prompts"][name])

    def ids(self, entry_point: str, texts: Sequence[str], prompt: str = "") -> list[list[int]]:
        """Give the ids of each text with the prompt before it, truncated, not padded.

        Raises:
            InputError: a text is longer than the network reads, and its own processor cuts none.
        """
        return self.ids_and_cut(entry_point, texts, prompt)[0]

    def ids_and_cut(self, entry_point: str, texts: Sequence[str], prompt: str = "") -> tuple[list[list[int]], set[int]]:
        """Give the ids of each text, see `ids`, and which texts were longer than they may be."""
        found, cut = self._read(entry_point, texts, prompt)
        if long := self.refused(entry_point, found):
            limit = self.rules["max_tokens"][entry_point]
            raise InputError(
                f"{self.directory}: text {long[0]} has {len(found[long[0]])} tokens, but {entry_point} reads at most "
                f"{limit}, and the network's own processor cuts none; shorten it"
            )
        return found, cut

    def encoded(self, entry_point: str, texts: Sequence[str], prompt: str = "") -> list[list[int]]:
        """Give the ids as `ids` does, of a text that is refused too."""
        return self._read(entry_point, texts, prompt)[0]

    def _read(self, entry_point: str, texts: Sequence[str], prompt: str) -> tuple[list[list[int]], set[int]]:
        """Give the ids of each text, and which were cut."""
        found: list[list[int]] = []
        cut: set[int] = set()
        for start, encoded in self._encodings(texts, prompt, self.rules["max_tokens"][entry_point]):
            found += [each.ids for each in encoded]
            cut |= {start + i for i, each in enumerate(encoded) if each.overflowing}
        return found, cut

    def count(self, texts: Sequence[str], prompt: str = "") -> list[int]:
        """Count the tokens that each text would be with the prompt before it, special ones included, however long."""
        return [len(each) for _, encoded in self._encodings(texts, prompt, None) for each in encoded]

    def _encodings(
        self, texts: Sequence[str], prompt: str, limit: int | None
    ) -> Iterator[tuple[int, "list[Encoding]"]]:
        """Give what the tokenizer makes of some texts at once, and the place of the first of them."""
        opened = self._tokenizer()
        for start in range(0, len(texts), CHUNK):
            with self._lock:
                tokenizer.truncate(opened, limit, self.rules["truncation"])
                several = [prompt + text for text in texts[start : start + CHUNK]]
                encoded = tokenizer.encoded(opened, several, start)
            yield start, encoded

    def refused(self, entry_point: str, rows: Sequence[Sequence[int]]) -> list[int]:
        """Say which rows of ids are too long, where such are refused and not cut."""
        limit = self.rules["max_tokens"][entry_point]
        if limit is None or self.rules["truncation"] != tokenizer.TRUNCATION[REFUSED]:
            return []
        return [i for i, row in enumerate(rows) if len(row) > limit]

    def rows(self, entry_point: str, raw: Sequence[Raw]) -> list[Row]:
        """Give the tokens of texts, or of pairs of them, truncated, not padded.

        Raises:
            InputError: pairs are given to a network that reads single texts.
        """
        texts = {at: text for at, text in enumerate(raw) if isinstance(text, str)}
        pairs = {at: text for at, text in enumerate(raw) if not isinstance(text, str)}
        if pairs and "pairs" not in self.rules:
            raise InputError(f"{self.directory}: this network takes single texts, no pairs")
        ids, cut = self.ids_and_cut(entry_point, [*texts.values()])
        found = {at: Row(row, [0] * len(row), i in cut) for i, (at, row) in enumerate(zip(texts, ids, strict=True))}
        for start in range(0, len(pairs), CHUNK):
            several = dict([*pairs.items()][start : start + CHUNK])
            found |= dict(zip(several, self._encoded(entry_point, [*several.values()]), strict=True))
        return [found[at] for at in range(len(raw))]

    def _encoded(self, entry_point: str, pairs: Sequence[tuple[str, str]]) -> list[Row]:
        """Give the tokens of pairs."""
        opened, limit = self._tokenizer(), self.rules["max_tokens"][entry_point]
        with self._lock:
            if self.rules["pairs"] == steps.CUT[LONGEST_FIRST] or limit is None:
                tokenizer.truncate(opened, limit, self.rules["truncation"])
                several = [(each, bool(each.overflowing)) for each in tokenizer.encoded(opened, pairs, 0)]
            else:
                several = tokenizer.query_first(opened, pairs, limit, self.rules["truncation"])
        return [Row(each.ids, each.type_ids, short) for each, short in several]

    def prompt_tokens(self, entry_point: str, prompt: str) -> int:
        """Count the tokens of a prompt, special ones before it included, as sentence-transformers does."""
        if not prompt:
            return 0
        (row,) = self.ids(entry_point, [prompt])
        return len(row) - (row[-1:] == [self.rules["last_id"]])

    def padded(
        self, rows: Sequence[Sequence[int]], tokens: int = 0, *, prompt_tokens: int = 0
    ) -> dict[str, np.ndarray]:
        """Pad rows of ids to the longest, or to `tokens` if that is more.

        Gives ids and mask, (batch, tokens) int32, and where they are taken, the positions of the tokens, likewise, and
        how many tokens are the prompt's, (batch,).

        Raises:
            InputError: a text has no tokens, of which a network that adds none of its own makes nothing.
        """
        if not all(rows):
            raise InputError(f"{self.directory}: text {list(map(bool, rows)).index(False)} is of no tokens")
        whole = self.rules["padding"] == tokenizer.WHOLE
        limits = (limit for limit in self.rules["max_tokens"].values() if whole and limit)
        width = max([tokens, *map(len, rows), *limits])
        ids = np.full((len(rows), width), self.rules["pad_id"], np.int32)
        mask = np.arange(width) < np.array([len(row) for row in rows])[:, None]
        if self.rules["padding"] == tokenizer.PADDING[BEFORE]:
            mask = mask[:, ::-1]
        for row, real, text in zip(ids, mask, rows, strict=True):
            row[real] = text
        made = {"ids": ids, "mask": mask.astype(np.int32), "prompt": np.full(len(rows), prompt_tokens, np.int32)}
        made["types"], made["positions"] = np.zeros_like(ids), places(mask, width).astype(np.int32)
        return {name: made[kind] for kind, name in self.rules["inputs"].items()}

    def padded_rows(self, rows: Sequence[Row], tokens: int = 0) -> dict[str, np.ndarray]:
        """Pad the tokens of texts or pairs, see `padded`; with their types where these are taken."""
        made = self.padded([row.ids for row in rows], tokens)
        if name := self.rules["inputs"].get("types"):
            for at, real, row in zip(made[name], self._real(made, rows), rows, strict=True):
                at[real] = row.types
        return made

    def _real(self, made: Mapping[str, np.ndarray], rows: Sequence[Row]) -> list[slice]:
        """Say where in the padded rows the tokens are."""
        width = made[self.rules["inputs"]["ids"]].shape[1]
        before = self.rules["padding"] == tokenizer.PADDING[BEFORE]
        return [slice(width - len(row.ids), width) if before else slice(0, len(row.ids)) for row in rows]

    def whole(self, text: str) -> list[int]:
        """Give the ids of a text, special ones included, however many there are."""
        opened = self._tokenizer()
        with self._lock:
            opened.no_truncation()
            return list(opened.encode(text).ids)

    def text(self, ids: Sequence[int]) -> str:
        """Give the text of tokens, special ones left out."""
        return str(self._tokenizer().decode(list(ids), skip_special_tokens=True))

    def special_ids(self) -> set[int]:
        """Give the ids that stand for no word: the first and the last token, padding, and what is unknown."""
        stated = {self.rules[key] for key in ("first_id", "last_id", "pad_id")} - {None}
        unknown = tokenizer.unknown_id(self._tokenizer())
        return stated if unknown is None else stated | {unknown}

    def _tokenizer(self) -> "Tokenizer":
        """Open the tokenizer, one for all entry points."""
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

    @property
    def names(self) -> tuple[str, ...]:
        """Name the pixels."""
        return (self.rules["input"],)

    def shape(self, name: str) -> Made:
        """Describe the pixels."""
        if "missing" in self.rules:
            return None
        size, channels = self.rules["size"], len(self.rules["colour"])
        return self.rules["dtype"], ("images", size, size, channels)

    def inputs(self, entry_point: str, raw: Sequence[Source]) -> Arrays:
        """Make the pixels, the same for every entry point."""
        if "missing" in self.rules:
            raise InputError(f"{self.directory} does not say how pictures are prepared: {self.rules['missing']}")
        return {self.rules["input"]: images(raw, self.rules)}


class Sounds(Modality):
    """Sounds to windows of samples, and these to spectrograms."""

    check = staticmethod(steps.sounds)

    @property
    def names(self) -> tuple[str, ...]:
        """Name the samples and the spectrogram."""
        made = () if "missing" in self.rules else (self.rules["spectrogram"]["output"],)
        return self.rules["input"], *made

    def shape(self, name: str) -> Made:
        """Describe the samples or the spectrogram."""
        if "missing" in self.rules:
            return None
        if name == self.rules["input"]:
            return self.rules["dtype"], ("windows", self.rules["samples"])
        made = self.rules["spectrogram"]
        return self.rules["dtype"], ("windows", made["bands"], self.rules["samples"] // made["hop"])

    def windows(self, source: sounds.Source) -> list[np.ndarray]:
        """Open a sound as what the network hears: windows, one after the other, each (samples,) float32.

        Raises:
            InputError: no document says how sounds are prepared, or it is no sound that can be.
            EnvironmentFailure: it is no WAV file, and soundfile is not installed.
        """
        return list(sounds.windows(self.samples(source), self.rules))

    def samples(self, source: sounds.Source) -> np.ndarray:
        """Open a sound at the network's rate, as long as it is: (samples,) float32, see `windows`."""
        if "missing" in self.rules:
            raise InputError(f"{self.directory} does not say how sounds are prepared: {self.rules['missing']}")
        return sounds.samples(source, self.rules)

    def inputs(self, entry_point: str, raw: Sequence[sounds.Source]) -> Arrays:
        """Make samples and spectrograms of sounds, a row for each window, the same for every entry point."""
        rows = np.stack([window for source in raw for window in self.windows(source)])
        made = self.rules["spectrogram"]
        return {self.rules["input"]: rows, made["output"]: sounds.spectrograms(rows, self.rules)}


MODALITIES: Mapping[str, type[Modality]] = {"texts": Texts, "images": Pictures, "sounds": Sounds}
"""By the key of preprocess.json; null there, or left out, for a network that takes none of the kind."""

OPTIONAL = ("sounds", "transcripts", "scores")
"""Keys of preprocess.json that are there only for networks that hear, that write what they hear, or that classify."""


def check(document: Any, where: str) -> None:
    """Hold the document preprocess.json to its words.

    Raises:
        InputError: docs/pack.md does not say what a key or value means, or this program cannot do it.
    """
    version = document.get("format_version") if isinstance(document, dict) else None
    if version is not None and not one_of(FORMAT_VERSION).legal(version):
        again = "; run `bgevis-convert pack DIR` again with this version" if one_of(1, 2).legal(version) else ""
        raise InputError(f"{where}: format_version is {version}, this program reads {FORMAT_VERSION}{again}")
    more = {key: steps.OBJECT for key in OPTIONAL if isinstance(document, dict) and key in document}
    parts = {**dict.fromkeys(("texts", "images", "embeddings"), NULL_OR_OBJECT), **more}
    steps.hold(where, document, {"format_version": one_of(FORMAT_VERSION), **parts})
    there = [name for name in MODALITIES if document.get(name) is not None]
    names: list[str] = []
    for name in there:
        MODALITIES[name].check(f"{where}: {name}", document[name])
        names += MODALITIES[name](Path(), document[name]).names
    if len(set(names)) < len(names):
        raise InputError(f"{where}: its inputs are {', '.join(names)}; known: another name for each")
    if document["embeddings"] is not None:
        if not there:
            raise InputError(f"{where}: embeddings is an object; known: null where {', '.join(MODALITIES)} are")
        steps.embeddings(f"{where}: embeddings", document["embeddings"])
    if "transcripts" in document:
        if "spectrogram" not in document.get("sounds", ()):
            raise InputError(f"{where}: transcripts is an object; known: left out where no sounds are prepared")
        steps.transcripts(f"{where}: transcripts", document["transcripts"])
    if "scores" in document:
        if not there or document["embeddings"] is not None:
            raise InputError(f"{where}: scores are stated beside embeddings, or without texts; known: one of them")
        steps.scores(f"{where}: scores", document["scores"])


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
            name: kind(directory, self.rules[name]) for name, kind in MODALITIES.items() if self.rules.get(name)
        }

    def hold_to(self, entries: Mapping[str, EntryPoint]) -> None:
        """Hold names, shapes and limits to the entry points of the network.

        Raises:
            InputError: preprocess.json is another network's.
        """
        where = self.directory / PREPROCESS
        made = {name: modality.shape(name) for modality in self._made.values() for name in modality.names}
        embedding = [self._embedding(entries, *named) for named in self._outputs.items()]
        whole = embedding or [e for e in entries.values() if all(spec.name in made for spec in e.inputs)]
        whole += self._spectrogram(entries)
        for entry in whole:
            for spec in entry.inputs:
                if spec.name not in made or not _made_as(made[spec.name], spec, entry):
                    raise InputError(f"{where}: it makes {_listed(made)}; {entry.name} takes {_told(spec)}")
        concerned = whole or entries.values()
        taken = {s.name for e in concerned for s in e.inputs if s.name in made and _made_as(made[s.name], s, e)}
        if unused := made.keys() - taken:
            several = ", ".join(entry.name for entry in concerned)
            raise InputError(f"{where}: it makes {_listed(made)}; none of {several} takes {', '.join(sorted(unused))}")
        if self.rules["texts"]:
            self._hold_limits(concerned)
        if "transcripts" in self.rules:
            self._hold_transcripts(entries)

    @property
    def _outputs(self) -> Mapping[str, str]:
        stated = self.rules["embeddings"] or self.rules.get("scores")
        return stated["outputs"] if stated else {}

    def _embedding(self, entries: Mapping[str, EntryPoint], name: str, output: str) -> EntryPoint:
        """Give the entry point that preprocess.json says gives an embedding or scores, of the width that it states."""
        where, part = self.directory / PREPROCESS, "embeddings" if self.rules["embeddings"] else "scores"
        stated = self.rules[part]
        width = stated["width"] if part == "embeddings" else len(stated["labels"])
        if name not in entries:
            raise InputError(f"{where}: {part}.outputs names {name}; the network has {', '.join(entries)}")
        for spec in entries[name].outputs:
            if spec.name == output and (spec.dtype, *spec.shape[1:]) == (stated["dtype"], width):
                return entries[name]
        wanted, gives = f"{output}[rows, {width}] {stated['dtype']}", map(_told, entries[name].outputs)
        raise InputError(f"{where}: {part} are {wanted}; {name} gives {', '.join(gives)}")

    def _spectrogram(self, entries: Mapping[str, EntryPoint]) -> list[EntryPoint]:
        """Give the entry point that makes the spectrogram, where one is stated."""
        stated = (self.rules.get("sounds") or {}).get("spectrogram")
        if stated is None:
            return []
        name, output = stated["entry_point"], stated["output"]
        where = f"{self.directory / PREPROCESS}: sounds.spectrogram"
        if name not in entries:
            raise InputError(f"{where} names {name}; the network has {', '.join(entries)}")
        shape = self.sounds.shape(output)
        if not any(spec.name == output and _made_as(shape, spec, entries[name]) for spec in entries[name].outputs):
            wanted, gives = _listed({output: shape}), ", ".join(map(_told, entries[name].outputs))
            raise InputError(f"{where} is {wanted}; {name} gives {gives}")
        return [entries[name]]

    def _hold_transcripts(self, entries: Mapping[str, EntryPoint]) -> None:
        """Hold what is said of texts that come out to the entry points that give their tokens."""
        where, rules = f"{self.directory / PREPROCESS}: transcripts", self.rules["transcripts"]
        for key, name in rules["entry_points"].items():
            if name not in entries:
                raise InputError(f"{where}.entry_points: {key} names {name}; the network has {', '.join(entries)}")
        hear, keep, begin, more = (entries[rules["entry_points"][key]] for key in steps.STAGES)
        features = self.rules["sounds"]["spectrogram"]["output"]
        kept = {spec.name for spec in keep.outputs}
        chain = (
            (hear, {features}),
            (keep, {spec.name for spec in hear.outputs}),
            (begin, kept),
            (more, kept | rules["caches"].keys()),
        )
        for entry, given in chain:
            other = {spec.name for spec in entry.inputs} - given
            if len(other) != (entry in (begin, more)):  # the ids
                raise InputError(
                    f"{where}: {entry.name} takes {', '.join(sorted(other)) or 'no ids'} beside what is made"
                )
        stated, caches = json.dumps(rules["caches"]), set(rules["caches"].values())
        for entry in (begin, more):
            scored = [spec for spec in entry.outputs if spec.name not in caches]
            whole = len(caches) == len(rules["caches"]) == len(entry.outputs) - 1
            fits = len(scored) == 1 and len(scored[0].shape) == 3 and isinstance(scored[0].shape[-1], int)
            if not whole or not fits:
                gives = ", ".join(map(_told, entry.outputs))
                raise InputError(f"{where}: caches are {stated}; {entry.name} gives {gives}, and one must be scores")
        if strange := rules["caches"].keys() - {spec.name for spec in more.inputs}:
            raise InputError(f"{where}: caches are {stated}; {more.name} takes no {', '.join(sorted(strange))}")
        ids = [rules[key] for key in ("start", "end", "pad", "no_timestamps") if rules[key] is not None]
        ids += [*rules["languages"].values(), *rules["tasks"].values(), *rules["suppress"], *rules["suppress_first"]]
        if max(ids) >= (vocabulary := scored[0].shape[-1]):
            raise InputError(f"{where} names the token {max(ids)}; {more.name} scores {vocabulary}")
        read = next(spec for spec in begin.inputs if spec.name not in kept)
        if _beyond(rules["max_tokens"], most := begin.most(read.shape[-1])):
            raise InputError(f"{where}: max_tokens is {rules['max_tokens']}, the network takes at most {most}")

    def _hold_limits(self, concerned: Iterable[EntryPoint]) -> None:
        """Hold max_tokens to the entry points that read text."""
        ids, limits = self.rules["texts"]["inputs"]["ids"], self.rules["texts"]["max_tokens"]
        most = {e.name: e.most(spec.shape[-1]) for e in concerned for spec in e.inputs if spec.name == ids}
        if limits.keys() != most.keys() or any(_beyond(limits[name], most[name]) for name in most):
            raise InputError(
                f"{self.directory / PREPROCESS}: max_tokens is {json.dumps(limits)}, the network takes at most "
                f"{json.dumps(most)}"
            )

    def ids(self, entry_point: str, texts: Sequence[str], prompt: str | None = None) -> list[list[int]]:
        """Give the ids of each text, truncated to what the entry point takes, not padded.

        Args:
            entry_point: that reads them.
            texts: any.
            prompt: what stands before each; None for the default.

        Raises:
            InputError: the run has no tokenizer, or one that is not as preprocess.json says.
            EnvironmentFailure: the package tokenizers is missing.
        """
        return self.texts.ids(entry_point, texts, self.texts.prompt() if prompt is None else prompt)

    def text_inputs(
        self, rows: Sequence[Sequence[int]], tokens: int = 0, *, prompt_tokens: int = 0
    ) -> dict[str, np.ndarray]:
        """Pad rows of ids to the longest, or to `tokens` if that is more, see `Texts.padded`."""
        return self.texts.padded(rows, tokens, prompt_tokens=prompt_tokens)

    @property
    def texts(self) -> Texts:
        """Give what is done to texts.

        Raises:
            InputError: the network reads none.
        """
        found = self._modality("texts")
        assert isinstance(found, Texts)
        return found

    @property
    def sounds(self) -> Sounds:
        """Give what is done to sounds.

        Raises:
            InputError: the network hears none.
        """
        found = self._modality("sounds")
        assert isinstance(found, Sounds)
        return found

    def image_inputs(self, sources: Sequence[Source]) -> dict[str, np.ndarray]:
        """Give pictures as an entry point takes them, (batch, size, size, channels) float32.

        Raises:
            InputError: the network sees no pictures, or one of them cannot be read.
        """
        return dict(self._modality("images").inputs("", sources))

    @property
    def transcripts(self) -> Transcripts:
        """Give what is done to the tokens of texts that come out.

        Raises:
            InputError: the network writes none.
        """
        if "transcripts" not in self.rules:
            raise InputError(f"{self.directory}: this network writes no texts of sounds")
        return Transcripts(self.directory, self.rules["transcripts"])

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


def _made_as(made: Made, spec: TensorSpec, entry: EntryPoint) -> bool:
    """Say whether an entry point takes what is made: any axis is one, by any name; the first is that of the rows."""
    if made is None:
        return True
    dtype, (_, *sizes) = made
    if spec.dtype != dtype or len(spec.shape) != 1 + len(sizes) or isinstance(spec.shape[0], int):
        return False
    dims = zip(sizes, spec.shape[1:], strict=True)
    return all(isinstance(size, str) or _takes(entry, dim, size) for size, dim in dims)


def _takes(entry: EntryPoint, dim: int | str, size: int) -> bool:
    return dim == size if isinstance(dim, int) else not _beyond(size, entry.most(dim))


def _listed(made: Mapping[str, Made]) -> str:
    """Describe what is made, in the order of the names."""
    several = ((name, *(shape or ("as nobody states", ()))) for name, shape in sorted(made.items()))
    return ", ".join(f"{name}[{', '.join(map(str, sizes))}] {dtype}" for name, dtype, sizes in several) or "nothing"


def _told(spec: TensorSpec) -> str:
    return f"{spec.name}[{', '.join(map(str, spec.shape))}] {spec.dtype}"


def _beyond(stated: int | None, most: int | None) -> bool:
    """Say whether a limit, None for none, lets more through than there are positions for."""
    return most is not None and (stated is None or stated > most)

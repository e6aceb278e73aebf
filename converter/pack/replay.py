"""The pack replayed: raw texts, pictures and sounds through tokenizer and rules, held to what they must become."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...validation.cases import Case
from ...validation.compare import Golden
from ...validation.entry_point import EntryPoint
from ...validation.errors import InputError
from ...validation.files import read_json
from ...validation.goldens import read_arrays
from ...validation.report import EVERY, Row
from ..directory import RunDirectory
from . import INDEX, PIXELS, PREPROCESS, RAW, SAMPLES, TOKENIZER, VALUES
from .pictures import pixels, values
from .preprocessor import Preprocessor, Raw
from .steps import SCORED, Rules

WITHIN = 1e-6
"""How far a normalised byte, or a logit's score, may lie from the golden's: runtimes compute in their own order."""


def packed(run: RunDirectory) -> list[str]:
    """Name the files that the replay reads; empty when the run has no pack."""
    manifest = run.manifest()
    if manifest["verdicts"].get("pack") != "pass":
        return []
    return [file for file in manifest["files"] if file in (TOKENIZER, PREPROCESS) or file.startswith(f"{RAW}/")]


class Pack:
    """The raw samples of a run directory.

    Raises:
        InputError: a file is missing or altered beyond reading.
    """

    def __init__(self, directory: Path):
        self.folder = directory / RAW
        self.preprocessor = Preprocessor(directory)
        path = directory / INDEX
        try:
            self._index = read_json(path)
            self.texts: dict[str, dict[str, Any]] = {text["name"]: text for text in self._index["texts"]}
            self.pictures: dict[str, dict[str, Any]] = {image["name"]: image for image in self._index["images"]}
            self.sounds: dict[str, dict[str, Any]] = {sound["name"]: sound for sound in self._index.get("sounds", ())}
            self._transcripts: list[dict[str, Any]] = self._index.get("transcripts", [])
            self.pairs: dict[str, dict[str, Any]] = {pair["name"]: pair for pair in self._index.get("pairs", ())}
            self._cases: dict[str, dict[str, dict[str, list[str]]]] = self._index["cases"]
            self._scores = self._table(self._index, self.preprocessor.rules.get("scores"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} cannot be read ({error!r}); run `bgevis-convert pack {directory}`") from error

    @staticmethod
    def _table(index: Mapping[str, Any], rules: Rules | None) -> list[np.ndarray]:
        """Read logits and the scores that are made of them, (rows, labels) each; nothing where none are made."""
        if rules is None:
            return []
        table, labels = index["scores"], len(rules["labels"])
        return [np.array(table[part], float).reshape(-1, labels) for part in ("logits", "scores")]

    def picture(self, name: str) -> bytes:
        """Read a picture's file."""
        return (self.folder / self.pictures[name]["file"]).read_bytes()

    def sound(self, name: str) -> bytes:
        """Read a sound's file."""
        return (self.folder / self.sounds[name]["file"]).read_bytes()

    def samples_of(self, case: Case) -> list[Any]:
        """Give the raw texts of a case, pairs of them, the files of its pictures, or of each picture file and text.

        Of sounds, which no program of upstream's opens, the samples of each window at the network's rate, as many as
        there are.
        """
        rows = self._cases[case.entry_point][case.name]
        if "sounds" in rows:
            return [window for name in rows["sounds"] for window in self.heard(name)]
        texts = [*map(self._pair, rows.get("pairs", ())), *(self.texts[n]["text"] for n in rows.get("texts", ()))]
        pictures = [*map(self.picture, rows.get("images", ()))]
        return [*zip(pictures, texts, strict=True)] if pictures and texts else pictures or texts

    def has(self, entry_point: str) -> bool:
        """Say whether there are raw cases of an entry point."""
        return bool(self._cases.get(entry_point))

    def heard(self, name: str) -> list[np.ndarray]:
        """Give the samples of each window of a sound, as many as there are."""
        size, sound = self.preprocessor.sounds.rules["samples"], self._opened(name)
        return [sound[at : at + size] for at in range(0, len(sound), size)]

    def _opened(self, name: str) -> np.ndarray:
        return self.preprocessor.sounds.samples(self.sound(name))

    def _pair(self, name: str) -> Raw:
        first, second = self.pairs[name]["texts"]
        return first, second

    def cases(self, entries: Mapping[str, EntryPoint]) -> Iterator[Case]:
        """Make the raw cases, from texts, pictures and sounds to ready inputs."""
        self.preprocessor.hold_to(entries)
        raw: Mapping[str, Callable[[str], Any]] = {
            "texts": lambda name: self.texts[name]["text"],
            "images": self.picture,
            "sounds": self.sound,
            "pairs": self._pair,
        }
        for entry, several in self._cases.items():
            for name, rows in several.items():
                try:
                    samples = {kind: [raw[kind](sample) for sample in named] for kind, named in rows.items()}
                except KeyError as error:
                    raise InputError(f"{self.folder}: the case {name!r} names {error}, which is not there") from error
                if "pairs" in samples:
                    samples["texts"] = samples.pop("pairs")
                yield Case(entry, name, self.preprocessor.inputs(entries[entry], samples))

    def rows(self) -> list[Row]:
        """Judge ids and bytes of every text and picture, exactly, the samples of sounds, and scores made of logits."""
        found = [*self._text_rows(), *self._pair_rows(), *self._score_rows()]
        found += self._picture_rows() if self.pictures else ()
        found += self._sound_rows() if self.sounds else ()
        return [*found, *self._transcript_rows()] if self._transcripts else found

    def _text_rows(self) -> Iterator[Row]:
        entries = dict.fromkeys(entry for text in self.texts.values() for entry in text["ids"])
        for entry in entries:
            wanted = {name: text["ids"][entry] for name, text in self.texts.items()}
            got = self.preprocessor.ids(entry, [text["text"] for text in self.texts.values()])
            wrong = [name for (name, ids), have in zip(wanted.items(), got, strict=True) if ids != have]
            problem = f"other ids for the texts {', '.join(wrong)}" if wrong else ""
            yield Row(EVERY, f"ids of {len(wanted)} raw texts for {entry}", "ids", not wrong, problem)

    def _pair_rows(self) -> Iterator[Row]:
        for entry in dict.fromkeys(entry for pair in self.pairs.values() for entry in pair["ids"]):
            wanted = {n: (pair["ids"][entry], pair["types"][entry]) for n, pair in self.pairs.items()}
            got = self.preprocessor.texts.rows(entry, [self._pair(name) for name in wanted])
            rows = zip(wanted.items(), got, strict=True)
            wrong = [name for (name, ids), have in rows if ids != (have.ids, have.types)]
            problem = f"other ids for the pairs {'; '.join(wrong)}" if wrong else ""
            yield Row(EVERY, f"ids of {len(wanted)} raw pairs of texts for {entry}", "ids", not wrong, problem)

    def _score_rows(self) -> Iterator[Row]:
        if not self._scores:
            return
        logits, wanted = self._scores
        word = self.preprocessor.rules["scores"]["activation"]
        made = SCORED[word](logits)
        error = float(np.abs(made - wanted).max()) if made.size and made.shape == wanted.shape else np.inf
        problem = "" if error <= WITHIN else f"other scores than {word} makes of the logits"
        yield Row("all", "scores of logits", word, not problem, problem, error, WITHIN)

    def _picture_rows(self) -> Iterator[Row]:
        rules, goldens = self.preprocessor.rules["images"], read_arrays(self.folder / Path(PIXELS).name)
        got = {name: pixels(self.picture(name), rules) for name in self.pictures}
        wrong = [name for name, array in got.items() if not _same_pixels(array, goldens.get(name))]
        problem = f"other pixels for the pictures {', '.join(wrong)}" if wrong else ""
        yield Row(EVERY, f"pixels of {len(self.pictures)} raw pictures", "pixels", not wrong, problem)
        error = float(np.max(np.abs(values(rules) - goldens[VALUES])))
        yield Row(
            EVERY, "normalised bytes", VALUES, error <= WITHIN, "" if error <= WITHIN else "differ", error, WITHIN
        )

    def _sound_rows(self) -> Iterator[Row]:
        goldens = read_arrays(self.folder / Path(SAMPLES).name)
        errors = {name: _apart(self._opened(name), goldens.get(name, np.zeros(0))) for name in self.sounds}
        wrong = [name for name, error in errors.items() if not error <= WITHIN]
        problem = f"other samples for the sounds {', '.join(wrong)}" if wrong else ""
        what = f"samples of {len(errors)} raw sounds"
        yield Row(EVERY, what, "samples", not wrong, problem, max(errors.values()), WITHIN)

    def _transcript_rows(self) -> Iterator[Row]:
        text = self.preprocessor.transcripts.text
        wrong = [each["name"] for each in self._transcripts if text(each["ids"]) != each["text"]]
        problem = f"other texts of the tokens of {', '.join(wrong)}" if wrong else ""
        yield Row(EVERY, f"texts of {len(self._transcripts)} rows of tokens", "text", not wrong, problem)

    def fed(self, goldens: Sequence[Golden], entries: Mapping[str, EntryPoint]) -> list[Golden]:
        """Give the goldens with the raw cases' inputs made anew from texts, pictures and sounds.

        Raises:
            InputError: the goldens were made without the pack.
        """
        found = {(golden.case.entry_point, golden.case.name): golden for golden in goldens}
        for case in self.cases(entries):
            key = case.entry_point, case.name
            if key not in found:
                raise InputError(
                    f"the goldens have no case {case.name!r}, which the pack has: run the parity stage again"
                )
            found[key] = dataclasses.replace(found[key], case=case)
        return list(found.values())


def _apart(got: np.ndarray, wanted: np.ndarray) -> float:
    """Give the greatest difference; infinite of another length."""
    return float(np.abs(got - wanted).max()) if got.shape == wanted.shape else np.inf


def _same_pixels(got: np.ndarray, wanted: np.ndarray | None) -> bool:
    """Say whether pixels are those of a golden: bytes exactly, numbers between them as near as a normalised byte."""
    if wanted is None or (got.shape, got.dtype) != (wanted.shape, wanted.dtype):
        return False
    return bool(
        np.abs(got.astype(np.float64) - wanted).max(initial=0.0) <= (255 * WITHIN if got.dtype != np.uint8 else 0)
    )

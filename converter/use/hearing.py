"""Sound to text, by the programs of a network that hears: window after window, greedily; and when each word was said.

The times follow transformers' WhisperGenerationMixin (5.24), which follows OpenAI's timing.py: where the attention of
some heads of the decoder lies is warped in time onto the tokens.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...validation.entry_point import EntryPoint
from ...validation.errors import InputError
from ...validation.procedure import Generated, Greedy, generate
from ...validation.runner import Arrays, Runner
from ..pack import sounds
from ..pack.transcripts import Transcripts
from ..printable import printable

SMOOTHED = 7
"""Places over which a median is taken."""

PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
OPENING, CLOSING = "\"'“¡¿([{-", "\"'.。,，!！?？:：”)]}、"
"""What belongs to the next word, and what to the one before."""

UNSPACED = ("<|zh|>", "<|ja|>", "<|th|>", "<|lo|>", "<|my|>", "<|yue|>")
"""Languages that are written without spaces: each of their signs is a word here."""


@dataclass(frozen=True)
class Word:
    """A word, and when it was said: seconds from the beginning of the sound."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Transcript:
    """What was said.

    Args:
        text: all of it.
        language: its sign, "en"; "" for a network of one language.
        ids: the tokens of all windows, without what each begins and ends with.
        margins: by how much each token's score leads over the next.
        words: when each word was said; empty if that was not asked for.
    """

    text: str
    language: str
    ids: tuple[int, ...]
    margins: tuple[float, ...]
    words: tuple[Word, ...] = ()

    def __str__(self) -> str:
        return self.text


class Transcriber:
    """The greedy loop over a network's programs, as preprocess.json states it.

    Args:
        runner: runs them.
        entries: that it has.
        transcripts: what preprocess.json says of texts, and the text of tokens.
        seconds: of a window.
    """

    def __init__(
        self,
        runner: Runner,
        entries: Mapping[str, EntryPoint],
        transcripts: Transcripts,
        seconds: float,
    ):
        self.runner, self.entries, self.transcripts, self.rules = runner, entries, transcripts, transcripts.rules
        self._names = self.rules["entry_points"]
        places = entries[self._names["hear"]].outputs[0].shape[1]
        assert isinstance(places, int)
        self.place = seconds / places
        """Seconds of a place."""

    @property
    def times_known(self) -> bool:
        """Say whether the network tells when words were said."""
        return "align" in self.entries

    def language(self, given: str | None) -> str | None:
        """Give a language's token by its sign, "de"; None where the network is to tell it, or has one alone.

        Raises:
            InputError: the network does not know it.
        """
        known = self.rules["languages"]
        if given is None:
            return str(self.rules["language"]) if self.rules["language"] else None
        token = f"<|{given.strip('<|>').lower()}|>"
        if token not in known:
            several = ", ".join(name.strip("<|>") for name in known)
            hint = f"expected one of {several}" if several else "but this network has one language, and takes none"
            raise InputError(f"language is {given!r}, {hint}")
        return token

    def task(self, given: str) -> str:
        """Hold a task to those that the network knows.

        Raises:
            InputError: it does not know it.
        """
        known = self.rules["tasks"] or {"transcribe": None}
        if given not in known:
            raise InputError(f"task is {given!r}, expected {' or '.join(known)}")
        return given

    def hear(self, spectrograms: Arrays) -> dict[str, np.ndarray]:
        """Give what the decoder attends to of some windows."""
        given = dict(spectrograms)
        for step in ("hear", "keep"):
            given |= self._run(self._names[step], given)
        return given

    def told(self, heard: Arrays, rows: int) -> list[str | None]:
        """Let the network tell the language of each window; None where it knows but one."""
        known = self.rules["languages"]
        if not known:
            return [None] * rows
        start = np.full((rows, 1), self.rules["start"], np.int32)
        outputs = self._run(self._names["begin"], {**heard, "input_ids": start})
        scores = outputs["logits"][:, -1]
        names = list(known)
        return [names[int(best)] for best in np.argmax(scores[:, list(known.values())], axis=1)]

    def generate(self, heard: Arrays, rows: int, prompt: Sequence[int]) -> Generated:
        """Choose the best token until each row has ended."""
        rules = self.rules
        greedy = Greedy(
            "transcribe",
            self._names["begin"],
            self._names["next"],
            rules["caches"],
            (rules["end"],),
            suppressed=tuple(rules["suppress"]),
            suppressed_first=tuple(rules["suppress_first"]),
        )
        ids = np.tile(np.array(prompt, np.int32), (rows, 1))
        steps = rules["max_tokens"] - len(prompt)
        return generate(self.runner, self.entries, greedy, {**heard, "input_ids": ids}, steps)

    def times(self, heard: Arrays, prompt: Sequence[int], ids: Sequence[int], places: int) -> list[float]:
        """Say in which place of the sound each token of one window begins, and the last one's end.

        Args:
            heard: of that window.
            prompt: what the text begins with.
            ids: its tokens.
            places: of the window that are sound, and no silence behind it.
        """
        given = np.array([[*prompt, *ids]], np.int32)
        weights = self._run("align", {**heard, "input_ids": given})["cross_attention"][0, :, len(prompt) :, :places]
        return aligned(weights.astype(np.float64))

    def _run(self, name: str, given: Arrays) -> Arrays:
        return self.runner.run(name, {spec.name: given[spec.name] for spec in self.entries[name].inputs})

    def words(self, ids: Sequence[int], times: Sequence[float], language: str | None) -> list[Word]:
        """Put tokens together to words; `times` has one more than there are tokens."""
        groups = grouped([self._piece(part) for part in self._whole(ids)], spaced=language not in UNSPACED)
        found, at = [], 0
        for text, count in groups:
            found.append(Word(text, times[at], times[at + count]))
            at += count
        return found

    def _whole(self, ids: Sequence[int]) -> list[list[int]]:
        """Cut tokens where characters are whole: one may be of several tokens."""
        parts: list[list[int]] = []
        current: list[int] = []
        for token in ids:
            current.append(token)
            if "\ufffd" not in self.transcripts.text(current):
                parts.append(current)
                current = []
        return [*parts, current] if current else parts

    def _piece(self, ids: Sequence[int]) -> tuple[str, int]:
        return self.transcripts.text(ids), len(ids)


WINDOWS = 8
"""Windows whose texts are written at once. Each is heard by itself: that takes no longer, and of 8 heads and half a
minute the scores of one layer's attention are 72 megabytes."""


@dataclass(frozen=True)
class Window:
    """A window of a sound.

    Args:
        sound: which one.
        samples: (samples,) float32, silence after the sound.
        begins: seconds from the sound's beginning.
        heard: seconds that are sound.
    """

    sound: int
    samples: np.ndarray
    begins: float
    heard: float


def windowed(several: Sequence[np.ndarray], rules: Mapping[str, Any]) -> list[Window]:
    """Cut sounds, (samples,) each, in windows one after the other."""
    size, rate = rules["samples"], rules["rate"]
    found = []
    for number, samples in enumerate(several):
        for place, window in enumerate(sounds.windows(samples, rules)):
            heard = min(size, len(samples) - place * size)
            found.append(Window(number, window, place * size / rate, heard / rate))
    return found


@dataclass(frozen=True)
class Said:
    """What is known of one window: its language, tokens, their margins, and words."""

    language: str | None
    ids: list[int]
    margins: list[float]
    words: list[Word]


def transcribed(
    transcriber: Transcriber,
    spectrograms: Callable[[np.ndarray], Arrays],
    windows: Sequence[Window],
    *,
    language: str | None,
    task: str,
    words: bool,
    advance: Callable[[int], object],
) -> list[Said]:
    """Say what was said in each window.

    Args:
        transcriber: of the network.
        spectrograms: makes them of (windows, samples).
        windows: in order.
        language: its token; None where the first window of each sound tells it.
        task: what is done with what is heard.
        words: whether it is said when each word was.
        advance: told how many windows were done.
    """
    found: list[Said] = []
    spoken: dict[int, str | None] = {}
    for start in range(0, len(windows), WINDOWS):
        some = windows[start : start + WINDOWS]
        each = [transcriber.hear(spectrograms(window.samples[None])) for window in some]
        heard = {name: np.concatenate([one[name] for one in each]) for name in each[0]}
        if language is None:
            for window, told in zip(some, transcriber.told(heard, len(some)), strict=True):
                spoken.setdefault(window.sound, told)
        languages = [language or spoken.get(window.sound) for window in some]
        said: dict[int, Said] = {}
        for one in dict.fromkeys(languages):
            rows = [row for row, other in enumerate(languages) if other == one]
            said |= _said(transcriber, heard, some, rows, one, task, words=words)
        found += [said[row] for row in range(len(some))]
        advance(len(some))
    return found


def _said(
    transcriber: Transcriber,
    heard: Arrays,
    windows: Sequence[Window],
    rows: Sequence[int],
    language: str | None,
    task: str,
    *,
    words: bool,
) -> dict[int, Said]:
    """Give the texts of some rows, which are of one language."""
    prompt, end = transcriber.transcripts.prompt(language, task), transcriber.rules["end"]
    own = {name: array[list(rows)] for name, array in heard.items()}
    made = transcriber.generate(own, len(rows), prompt)
    found = {}
    for at, row in enumerate(rows):
        chosen = made.ids[at].tolist()
        count = chosen.index(end) if end in chosen else len(chosen)
        ids, said = chosen[:count], list[Word]()
        if words and count:
            alone = {name: array[[row]] for name, array in heard.items()}
            place = transcriber.place
            times = transcriber.times(alone, prompt, ids, max(1, int(windows[row].heard / place)))
            said = moved(transcriber.words(ids, times, language), windows[row].begins, place)
        found[row] = Said(language, ids, made.margins[at, :count].tolist(), said)
    return found


def joined(transcriber: Transcriber, windows: Sequence[Window], said: Sequence[Said], count: int) -> list[Transcript]:
    """Put the windows of each sound together."""
    found = []
    for number in range(count):
        own = [each for window, each in zip(windows, said, strict=True) if window.sound == number]
        texts = [transcriber.transcripts.text(each.ids).strip() for each in own]
        found.append(
            Transcript(
                " ".join(text for text in texts if text),
                (own[0].language or "").strip("<|>"),
                tuple(token for each in own for token in each.ids),
                tuple(margin for each in own for margin in each.margins),
                tuple(word for each in own for word in each.words),
            )
        )
    return found


def aligned(weights: np.ndarray) -> list[float]:
    """Warp time onto tokens: the place where each token begins, and the last one's again.

    Args:
        weights: (heads, tokens, places), how much each head attends.
    """
    if not weights.shape[1] or not weights.shape[2]:
        return [0.0] * (weights.shape[1] + 1)
    spread = weights.std(axis=1, keepdims=True)
    even = (weights - weights.mean(axis=1, keepdims=True)) / np.where(spread, spread, 1)
    half = SMOOTHED // 2
    if even.shape[2] > half:
        padded = np.pad(even, ((0, 0), (0, 0), (half, half)), mode="reflect")
        even = np.median(np.lib.stride_tricks.sliding_window_view(padded, SMOOTHED, axis=2), axis=-1)
    begins = warped(-even.mean(axis=0))
    return [*begins, begins[-1]]


def warped(costs: np.ndarray) -> list[float]:
    """Find the cheapest way through (tokens, places), on which neither goes back; give where each token begins.

    Dynamic time warping (Sakoe and Chiba 1978), diagonal by diagonal. Of equal ways the one that stays with the token.
    """
    tokens, places = costs.shape
    total = np.full((tokens + 1, places + 1), np.inf)
    total[0, 0] = 0
    came = np.full((tokens + 1, places + 1), 2, np.int8)
    came[:, 0], came[0, :] = 1, 2
    for diagonal in range(2, tokens + places + 1):
        i = np.arange(max(1, diagonal - places), min(tokens, diagonal - 1) + 1)
        j = diagonal - i
        both, token, place = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
        best = np.where((both < token) & (both < place), 0, np.where((token < both) & (token < place), 1, 2))
        came[i, j] = best
        total[i, j] = costs[i - 1, j - 1] + np.choose(best, (both, token, place))
    begins = [0.0] * tokens
    i, j = tokens, places
    while i > 0 or j > 0:
        if i:
            begins[i - 1] = float(max(j - 1, 0))
        i, j = i - (came[i, j] != 2), j - (came[i, j] != 1)
    return begins


def grouped(pieces: Sequence[tuple[str, int]], *, spaced: bool) -> list[tuple[str, int]]:
    """Put pieces, each of a text and how many tokens, together to words, with the signs that belong to them."""
    words: list[list[Any]] = []
    for text, count in pieces:
        begins = not spaced or text.startswith(" ") or text.strip() in PUNCTUATION
        if begins or not words:
            words.append([text, count])
        else:
            words[-1][0] += text
            words[-1][1] += count
    return _with_closing(_with_opening(words))


def _with_opening(words: list[list[Any]]) -> list[list[Any]]:
    """Let a sign after a space begin the word that follows."""
    joined: list[list[Any]] = []
    for text, count in reversed(words):
        if joined and text.startswith(" ") and text.strip() in OPENING and text.strip():
            joined[-1] = [text + joined[-1][0], count + joined[-1][1]]
        else:
            joined.append([text, count])
    return joined[::-1]


def _with_closing(words: list[list[Any]]) -> list[tuple[str, int]]:
    """Let a sign end the word before it."""
    joined: list[tuple[str, int]] = []
    for text, count in words:
        if joined and text in CLOSING and text and not joined[-1][0].endswith(" "):
            joined[-1] = joined[-1][0] + text, joined[-1][1] + count
        else:
            joined.append((text, count))
    return joined


def moved(words: Sequence[Word], seconds: float, place: float) -> list[Word]:
    """Give words whose times were places of `place` seconds each, of a window that begins at `seconds`."""
    return [replace(w, start=round(seconds + w.start * place, 2), end=round(seconds + w.end * place, 2)) for w in words]


def written(sound: str, found: Transcript, *, words: bool, as_json: bool, named: bool) -> str:
    """Write a transcript for a terminal: its text, or a line for each word; or a line of JSON.

    Args:
        sound: the file's name.
        found: what was said in it.
        words: whether the times of words are wanted.
        as_json: as JSON.
        named: whether the name stands before the text, there being several sounds.
    """
    if as_json:
        timed = [{"word": w.text.strip(), "start": w.start, "end": w.end} for w in found.words]
        language = {"language": found.language} if found.language else {}
        document = {"sound": sound, "text": found.text, **language, **({"words": timed} if words else {})}
        return json.dumps(document, ensure_ascii=False)
    lines = [f"{w.start:7.2f} {w.end:7.2f}  {printable(w.text.strip())}" for w in found.words]
    return "\n".join([f"{sound}: " * named + printable(found.text), *lines])

"""The words of preprocess.json: which keys each part has and which values this program can do. Others are refused.

docs/pack.md is the same in prose; the readers in JavaScript and C hold documents to the same words. A key that chooses
between ways of doing has the ways here beside their words, so that no word is legal that nothing is done for.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ...model.family import LONGEST_FIRST, QUERY_FIRST
from ...model.steps import MODES
from ...validation.errors import InputError
from .similarities import SIMILARITIES
from .tokenizer import PADDING, TRUNCATION, WHOLE

Rules: TypeAlias = Mapping[str, Any]
"""A part of preprocess.json."""


@dataclass(frozen=True)
class Word:
    """What a key may say.

    Args:
        known: the legal values, for messages.
        legal: whether a value is one.
    """

    known: str
    legal: Callable[[Any], bool]


Keys: TypeAlias = dict[str, Word]


def one_of(*values: Any) -> Word:
    """Make the word that is one of these values; numbers are not truth values here, though Python thinks so."""
    legal = {json.dumps(value) for value in values}
    return Word(" or ".join(json.dumps(value) for value in values), lambda given: json.dumps(given) in legal)


def some_of(*values: str) -> Word:
    """Make the word that is a list of some of these texts, one at least."""

    def legal(given: Any) -> bool:
        return isinstance(given, list) and given != [] and all(isinstance(v, str) and v in values for v in given)

    return Word(f"a list of one or more of {', '.join(map(json.dumps, values))}", legal)


def _between(low: float, given: Any) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool) and low <= given <= LARGEST


def _whole(low: int) -> Word:
    known = f"a whole number from {low} to {LARGEST}"
    return Word(known, lambda given: isinstance(given, int) and _between(low, given))


def _three(low: float) -> Word:
    """Make the word that is a number for each channel."""

    def legal(given: Any) -> bool:
        return isinstance(given, list) and len(given) == 3 and all(_between(low, number) for number in given)

    return Word(f"a list of three numbers from {low} to {LARGEST}", legal)


LARGEST = 2**31 - 1
SIZE, ID, LIMIT = _whole(1), _whole(0), _whole(2)
NAME = Word("a text that is not empty", lambda given: isinstance(given, str) and given != "")
TEXT = Word("a text", lambda given: isinstance(given, str))
OBJECT = Word("an object", lambda given: isinstance(given, dict))
LIST = Word("a list", lambda given: isinstance(given, list))


IDS_LISTED = Word(
    f"a list of whole numbers from 0 to {LARGEST}",
    lambda given: isinstance(given, list) and all(map(ID.legal, given)),
)


def _or_null(word: Word) -> Word:
    return Word(f"null or {word.known}", lambda given: given is None or word.legal(given))


NULL_OR_OBJECT, ID_OR_NULL, LIMIT_OR_NULL = _or_null(OBJECT), _or_null(ID), _or_null(LIMIT)

# Ways that a word chooses between.

HALVES: Mapping[str, Callable[[float], int]] = {"half to even": round, "floor": math.floor}
"""A crop's offset, from half of what is left over; Python's `round` takes halves to the even number."""
LONGER: Mapping[str, Callable[[float], int]] = {"floor": math.floor, "round": round}
"""The longer side, from what it would be exactly."""
POOLING = (*MODES, "first end of text", "last token")
"""What of the states of a text's tokens became the embedding; several of these stood side by side."""
CUT = {
    LONGEST_FIRST: "token by token from the longer one",
    QUERY_FIRST: "the first to three quarters of max_tokens, then the second",
}
"""How a pair of texts that is too long is cut, by the family's word for it."""
SCORED: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "identity": lambda x: x,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "softmax": lambda x: (
        np.exp(x - x.max(axis=-1, keepdims=True))
        / np.exp(x - x.max(axis=-1, keepdims=True)).sum(axis=-1, keepdims=True)
    ),
}
"""What makes scores of logits, (rows, labels)."""
FILTERS = ("bicubic", "bilinear")
FLOAT32 = "float32"
"""A resize of numbers between those that bytes have, which only `normalize` may follow."""
ALPHA = ("dropped", "over white")

# Keys of each part.

TEXTS: Keys = {
    "tokenizer": one_of(None, "tokenizer.json"),
    "inputs": OBJECT,
    "vocab_size": SIZE,
    "first_id": ID_OR_NULL,
    "last_id": ID_OR_NULL,
    "pad_id": ID,
    "max_tokens": OBJECT,
    "truncation": one_of(*TRUNCATION.values()),
    "padding": one_of(*PADDING.values(), WHOLE),
    "prompts": OBJECT,
    "default_prompt": _or_null(TEXT),
}
IDS: Keys = {"ids": NAME}
MASK: Keys = {"mask": NAME}
PROMPT: Keys = {"prompt": NAME}
TYPES: Keys = {"types": NAME}
POSITIONS: Keys = {"positions": NAME}
"""Each there where an entry point takes one."""
PAIRS: Keys = {"pairs": one_of(*CUT.values())}
"""There for a network that reads two texts together."""
MISSING: Keys = {"missing": NAME}
"""Why there is no tokenizer, for people: there if and only if `tokenizer` is null."""

IMAGES: Keys = {
    "input": NAME,
    "layout": one_of("NHWC"),
    "dtype": one_of("float32"),
    "colour": one_of("RGB"),
    "size": SIZE,
    "exif_orientation": one_of("ignored"),
    "frame": one_of(0),
    "steps": LIST,
}

UNSTATED: Keys = {"input": NAME, "missing": NAME}
"""All that is said of pictures or sounds where nobody states how they are prepared: `missing` is why, for people."""

SOUNDS: Keys = {
    "input": NAME,
    "dtype": one_of("float32"),
    "rate": SIZE,
    "channels": one_of("mean"),
    "resample": OBJECT,
    "samples": SIZE,
    "shorter": one_of("silence after the sound"),
    "longer": one_of("windows, one after the other"),
    "least": SIZE,
    "spectrogram": OBJECT,
}
RESAMPLE: Keys = {
    "filter": one_of("windowed sinc"),
    "window": one_of("hann"),
    "zero_crossings": one_of(6),
    "rolloff": one_of(0.99),
    "arithmetic": one_of("float64"),
}
SPECTROGRAM: Keys = {
    "entry_point": NAME,
    "output": NAME,
    "window": one_of("hann"),
    "n_fft": _whole(2),
    "hop": SIZE,
    "edges": one_of("reflected"),
    "bands": SIZE,
    "scale": one_of("slaney"),
    "highest": one_of(8000),
    "least_power": one_of(1e-10),
    "decades": one_of(8),
    "last_frame": one_of("left out"),
}
"""What the entry point does, for runners that make the spectrogram by their own means."""

TRANSCRIPTS: Keys = {
    "tokenizer": one_of(None, "tokenizer.json"),
    "entry_points": OBJECT,
    "caches": OBJECT,
    "start": ID,
    "languages": OBJECT,
    "tasks": OBJECT,
    "language": _or_null(TEXT),
    "no_timestamps": ID_OR_NULL,
    "suppress": IDS_LISTED,
    "suppress_first": IDS_LISTED,
    "end": ID,
    "pad": ID,
    "max_tokens": LIMIT,
}
STAGES: Keys = dict.fromkeys(("hear", "keep", "begin", "next"), NAME)
"""Entry points: the spectrogram's, what it keeps of that, the first tokens', one more token's."""

EMBEDDINGS: Keys = {
    "outputs": OBJECT,
    "width": SIZE,
    "dtype": one_of("float32"),
    "pooling": some_of(*POOLING),
    "normalize": one_of(True, False),
    "similarity": one_of(*SIMILARITIES),
}

SCORES: Keys = {
    "outputs": OBJECT,
    "labels": Word(
        "a list of one text or more",
        lambda given: isinstance(given, list) and given != [] and all(isinstance(label, str) for label in given),
    ),
    "dtype": one_of("float32"),
    "activation": one_of(*SCORED),
}

RESIZE: Keys = {
    "filter": one_of(*FILTERS),
    "antialias": one_of(True),
    "arithmetic": one_of("uint8", FLOAT32),
    "nearest_in_modes": one_of(["1", "P"]),
    "alpha": one_of("premultiplied"),
}
SHORTER: Keys = {"shorter_side": SIZE, "longer_side": one_of(*LONGER)}
EXACT: Keys = {"height": SIZE, "width": SIZE}
BICUBIC: Keys = {"a": one_of(-0.5)}
CROP: Keys = {"height": SIZE, "width": SIZE, "offset": one_of(*HALVES)}
COLOUR: Keys = {"to": one_of("RGB"), "alpha": one_of(*ALPHA)}
NORMALIZE: Keys = {
    "divide": one_of(255),
    "mean": _three(-LARGEST),
    "std": _three(1e-6),
}


def _resize(step: Rules) -> Keys:
    """Give the keys of a resize: to a shorter side, or to height and width; `a` is bicubic's alone."""
    exact = "shorter_side" not in step and ("height" in step or "width" in step)
    return (EXACT if exact else SHORTER) | RESIZE | (BICUBIC if step.get("filter") == "bicubic" else {})


STEPS: Mapping[str, Callable[[Rules], Keys]] = {
    "resize": _resize,
    "crop": lambda step: CROP,
    "colour": lambda step: COLOUR,
    "normalize": lambda step: NORMALIZE,
}


def hold(where: str, given: Any, keys: Keys) -> None:
    """Hold an object to its keys.

    Raises:
        InputError: it is no object, a key is missing or not known, or a value is none that can be done.
    """
    if not isinstance(given, dict):
        raise InputError(f"{where} is {_shown(given)}; known: an object")
    for key in given:
        if key not in keys:
            raise InputError(f"{where} has the key {_shown(key)}, which is not known; known: {', '.join(keys)}")
    for key, word in keys.items():
        if key not in given:
            raise InputError(f"{where} has no {key}; known: {word.known}")
        if not word.legal(given[key]):
            raise InputError(f"{where}: {key} is {_shown(given[key])}; known: {word.known}")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def texts(where: str, rules: Rules) -> None:
    """Check the rules of texts."""
    pairs = PAIRS if "pairs" in rules else {}
    hold(where, rules, TEXTS | pairs | (MISSING if rules.get("tokenizer") is None else {}))
    more = [keys for keys in (MASK, PROMPT, TYPES, POSITIONS) for key in keys if key in rules["inputs"]]
    hold(f"{where}.inputs", rules["inputs"], {key: word for keys in (IDS, *more) for key, word in keys.items()})
    hold(f"{where}.prompts", rules["prompts"], dict.fromkeys(rules["prompts"], TEXT))
    default = rules["default_prompt"]
    if default is not None and default not in rules["prompts"]:
        known = ", ".join(map(_shown, rules["prompts"])) or "null, as there are no prompts"
        raise InputError(f"{where}: default_prompt is {_shown(default)}; known: {known}")
    _by_name(where, "max_tokens", rules, LIMIT_OR_NULL)
    for key in ("first_id", "last_id", "pad_id"):
        if rules[key] is not None and rules[key] >= rules["vocab_size"]:
            raise InputError(f"{where}: {key} is {rules[key]}; known: below vocab_size, {rules['vocab_size']}")


def _by_name(where: str, key: str, rules: Rules, word: Word) -> None:
    """Check what is said of each entry point, or of each cache, of one at least."""
    if not rules[key]:
        what = "a cache's" if key == "caches" else "an entry point's"
        raise InputError(f"{where}: {key} is {{}}; known: {what} name and {word.known}, at least once")
    hold(f"{where}.{key}", rules[key], dict.fromkeys(rules[key], word))


def images(where: str, rules: Rules) -> None:
    """Check the rules of pictures: every step, and that they end with pixels of the size and colour stated."""
    if "missing" in rules:
        hold(where, rules, UNSTATED)
        return
    hold(where, rules, IMAGES)
    least: Mapping[str, int] = {}
    """What the picture measures at least, as far as the steps say."""
    last: Rules = {}
    done: list[str] = []
    floats = False
    for i, step in enumerate(rules["steps"]):
        place = f"{where}.steps[{i}]"
        if not isinstance(step, dict) or "do" not in step:
            raise InputError(f"{place} is {_shown(step)}; known: an object with the key do")
        do = step["do"]
        if not isinstance(do, str) or do not in STEPS:
            raise InputError(f"{place}: do is {_shown(do)}; known: {', '.join(STEPS)}")
        hold(f"{place} ({do})", {key: value for key, value in step.items() if key != "do"}, STEPS[do](step))
        if (floats and do != "normalize") or (step.get("arithmetic") == FLOAT32 and "colour" not in done):
            raise InputError(
                f"{place} ({do}) stands beside a resize in float32; known: it after colour, then normalize"
            )
        floats |= step.get("arithmetic") == FLOAT32
        done.append(do)
        if do not in ("resize", "crop"):
            continue
        for side in ("height", "width"):
            if do == "crop" and step[side] > least.get(side, step[side]):
                raise InputError(
                    f"{place} (crop): {side} is {step[side]}; known: at most {least[side]}, what the steps before leave"
                )
        least = {side: step.get(side) or step["shorter_side"] for side in ("height", "width")}
        last = step
    if done.count("colour") != 1 or done.count("normalize") != 1 or done[-1] != "normalize":
        raise InputError(
            f"{where}.steps are {', '.join(done) or 'none'}; known: colour and normalize once each, normalize last"
        )
    size = rules["size"]
    if (last.get("height"), last.get("width")) != (size, size):
        raise InputError(
            f"{where}: size is {size}; known: height and width of the last step that resizes or crops, which are "
            f"{last.get('height', 'not stated')} and {last.get('width', 'not stated')}"
        )


def sounds(where: str, rules: Rules) -> None:
    """Check the rules of sounds, and that whole frames fill the window."""
    if "missing" in rules:
        hold(where, rules, UNSTATED)
        return
    hold(where, rules, SOUNDS)
    hold(f"{where}.resample", rules["resample"], RESAMPLE)
    hold(f"{where}.spectrogram", rules["spectrogram"], SPECTROGRAM)
    size, hop, points = rules["samples"], rules["spectrogram"]["hop"], rules["spectrogram"]["n_fft"]
    if size % hop:
        raise InputError(f"{where}: samples is {size}; known: a multiple of spectrogram.hop, {hop}")
    if points % 2 or points > size:
        raise InputError(f"{where}.spectrogram: n_fft is {points}; known: an even number up to samples, {size}")
    if rules["least"] > size:
        raise InputError(f"{where}: least is {rules['least']}; known: up to samples, {size}")


def transcripts(where: str, rules: Rules) -> None:
    """Check the rules of texts that come out."""
    hold(where, rules, TRANSCRIPTS | (MISSING if rules.get("tokenizer") is None else {}))
    hold(f"{where}.entry_points", rules["entry_points"], STAGES)
    _by_name(where, "caches", rules, NAME)
    for key in ("languages", "tasks"):
        hold(f"{where}.{key}", rules[key], dict.fromkeys(rules[key], ID))
    if rules["language"] is not None and rules["language"] not in rules["languages"]:
        known = ", ".join(map(_shown, rules["languages"])) or "null, as there are no languages"
        raise InputError(f"{where}: language is {_shown(rules['language'])}; known: {known}")


def embeddings(where: str, rules: Rules) -> None:
    """Check what is said of the outputs."""
    hold(where, rules, EMBEDDINGS)
    _by_name(where, "outputs", rules, NAME)


def scores(where: str, rules: Rules) -> None:
    """Check what is said of a classifier's outputs."""
    hold(where, rules, SCORES)
    _by_name(where, "outputs", rules, NAME)

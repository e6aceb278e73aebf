"""Sounds: from a file's bytes to windows of samples, by the rules of preprocess.json. docs/pack.md has the formulas.

The rules are `sounds` of preprocess.json, checked: steps.py has their words. WAV is read here, as every reader of the
pack does it; what else there is, soundfile decodes.
"""

import io
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ...model.sound import Sound, exact_log_mel
from ...validation.errors import InputError
from ...validation.packages import need
from .steps import Rules

Source: TypeAlias = str | Path | bytes | tuple[np.ndarray, int]
"""A file, its bytes, or an array (samples,) or (samples, channels) and its samples a second."""

RATES = 1000, 768000
"""Least and most samples a second that are read: below, a second of nothing would become an hour."""

SLACK = 0.1
"""How far beyond -1 and 1 samples may reach: what was resampled or compressed overshoots."""

CHANNELS = 64
"""Most that are read: of an array with more, the axes are exchanged."""

DECODED = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3", "AIFF")
"""What soundfile is asked to read; it knows more."""

WHOLE = {"u1": 128.0, "i2": 2.0**15, "i4": 2.0**31}
"""Whole numbers that samples come as, and what is divided by; those of one byte are 128 for silence."""

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
CODES = {(PCM, 8): "u1", (PCM, 16): "i2", (PCM, 24): "i3", (PCM, 32): "i4", (FLOAT, 32): "f4", (FLOAT, 64): "f8"}
"""Kinds of samples in a WAV file: its code and bits."""

UNKNOWN = 0xFFFFFFFF
"""Length of what was written before its end was known."""

BLOCK = 1 << 14
"""Samples that are resampled at once."""


def samples(source: Source, rules: Rules) -> np.ndarray:
    """Open a sound, make its channels one and give it the network's rate: (samples,) float32.

    Raises:
        InputError: it is no sound, holds what is no sample, or is too short.
        EnvironmentFailure: soundfile, which reads all but WAV, is not installed.
    """
    name = str(source) if isinstance(source, str | Path) else "the sound"
    found, rate = _of_array(*source) if isinstance(source, tuple) and len(source) == 2 else _of_file(source, name)
    _hold(found, rate, name)
    one = resample(found.mean(axis=1), rate, rules["rate"], rules["resample"])
    if len(one) < rules["least"]:
        raise InputError(
            f"{name} is {len(found)} samples at {rate} Hz, {len(found) / rate:.3g} s: expected "
            f"{rules['least'] / rules['rate']:.3g} s at least"
        )
    return one.astype(np.float32)


def windows(one: np.ndarray, rules: Rules) -> np.ndarray:
    """Cut samples in windows one after the other, silence after the last: (windows, samples) float32."""
    size = rules["samples"]
    found = np.zeros((max(1, -(-len(one) // size)), size), np.float32)
    found.reshape(-1)[: len(one)] = one
    return found


def spectrograms(rows: np.ndarray, rules: Rules) -> np.ndarray:
    """Give what the program of the spectrogram gives, computed in float64: (windows, bands, frames) float32."""
    made = rules["spectrogram"]
    sound = Sound(rules["rate"], made["n_fft"], made["hop"], feature_size=made["bands"])
    return np.stack([exact_log_mel(row, sound) for row in rows]).astype(np.float32)


def _hold(found: np.ndarray, rate: int, name: str) -> None:
    """Hold a sound to what is a sound, (samples, channels)."""
    low, high = RATES
    if not low <= rate <= high:
        raise InputError(f"{name} has {rate} samples a second: expected {low} to {high}")
    if not found.size:
        raise InputError(f"{name} has no samples: expected one at least")
    if wrong := found.size - np.count_nonzero(np.isfinite(found)):
        raise InputError(f"{name} holds {wrong} samples that are no numbers (NaN or infinite): expected -1 to 1")
    if (loudest := np.abs(found).max()) > 1 + SLACK:
        raise InputError(f"{name} reaches {loudest:.3g}: expected samples between -1 and 1; divide them by their scale")


def _of_array(array: np.ndarray, rate: int) -> tuple[np.ndarray, int]:
    """Take an array as a sound, (samples, channels) float64, and its rate.

    Raises:
        InputError: the array is of another shape or type.
    """
    kind = array.dtype.str[1:] if isinstance(array, np.ndarray) else ""
    fits = (
        kind in ("f2", "f4", "f8", *WHOLE) and array.ndim in (1, 2) and (array.ndim == 1 or array.shape[1] <= CHANNELS)
    )
    if not fits or isinstance(rate, bool) or not isinstance(rate, int | np.integer):
        got = f"{array.shape} of {array.dtype}" if kind else type(array).__name__
        raise InputError(
            f"a sound as an array must be (samples,) or (samples, channels) of float32, int16, int32 or uint8 with a "
            f"whole number of samples a second, got {got} with {rate!r}"
        )
    return _scaled(array[:, None] if array.ndim == 1 else array, kind), int(rate)


def _scaled(values: np.ndarray, kind: str) -> np.ndarray:
    """Make samples between -1 and 1 of whole numbers; others stay as they are."""
    found = values.astype(np.float64)
    return found if kind not in WHOLE else (found - 128 * (kind == "u1")) / WHOLE[kind]


def _of_file(source: Source, name: str) -> tuple[np.ndarray, int]:
    """Read a file's samples, (samples, channels) float64, and its rate."""
    if isinstance(source, bytes):
        content = source
    elif isinstance(source, str | Path):
        try:
            content = Path(source).read_bytes()
        except FileNotFoundError as error:
            raise InputError(f"{name} does not exist") from error
        except OSError as error:
            raise InputError(f"{name} cannot be read: {error.strerror}") from error
    else:
        raise InputError(
            f"a sound must be a file, its bytes, or an array with its samples a second, (array, rate); got "
            f"{type(source).__name__}"
        )
    return wave(content, name) or _decoded(content, name)


def wave(content: bytes, name: str) -> tuple[np.ndarray, int] | None:
    """Read a WAV file of PCM or floats: (samples, channels) float64, and the rate; None where it is another file.

    Raises:
        InputError: the file is cut off, or contradicts itself.
    """
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return None
    form: tuple[int, ...] = ()
    for kind, start, size in _chunks(content):
        if kind == b"fmt " and 16 <= size <= len(content) - start:
            form = struct.unpack_from("<HHIIHH", content, start)
            if form[0] == EXTENSIBLE and size >= 40:
                form = (*struct.unpack_from("<H", content, start + 24), *form[1:])
        if kind != b"data":
            continue
        if not form:
            raise InputError(
                f"{name} is a WAV file whose samples come before what they are: expected a chunk fmt first"
            )
        code, channels, rate, _, frame, bits = form
        if (code, bits) not in CODES:
            return None
        if not 1 <= channels <= CHANNELS or frame != channels * bits // 8:
            raise InputError(
                f"{name} is a WAV file of {channels} channels of {bits} bits in {frame} bytes: expected 1 to "
                f"{CHANNELS} channels, and as many bytes as these have"
            )
        there = len(content) - start
        if size > there and size != UNKNOWN:
            raise InputError(f"{name} is cut off: a WAV file of {size} bytes of samples, of which {there} are there")
        count = min(size, there) // frame
        return _values(content[start : start + count * frame], CODES[code, bits]).reshape(count, channels), rate
    raise InputError(f"{name} is a WAV file without samples: expected a chunk data")


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Give name, place and size of each chunk of a RIFF file; the next one begins at an even place."""
    at = 12
    while at + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, at)
        yield kind, at + 8, size
        at += 8 + size + size % 2


def _values(content: bytes, kind: str) -> np.ndarray:
    if kind != "i3":
        return _scaled(np.frombuffer(content, f"<{kind}"), kind)
    high = np.zeros((len(content) // 3, 4), np.uint8)
    high[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
    return _scaled(high.view("<i4")[:, 0], "i4")


def _decoded(content: bytes, name: str) -> tuple[np.ndarray, int]:
    """Let soundfile read a file."""
    if not content:
        raise InputError(f"{name} is empty: expected a sound, such as WAV or FLAC")
    need("soundfile", f"reading {name}, which is no WAV file of integers or floats,")
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            if file.format not in DECODED:
                raise InputError(f"{name} is {file.format}: expected one of {', '.join(DECODED)}")
            return file.read(dtype="float64", always_2d=True), file.samplerate
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError) as error:
        raise InputError(f"{name} cannot be read as a sound, such as WAV or FLAC: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Give soundfile's message without the object that it read from."""
    return str(error).rpartition("BytesIO object at ")[2].partition(">: ")[2] or str(error)


def resample(one: np.ndarray, rate: int, wanted: int, rules: Rules) -> np.ndarray:
    """Give samples another rate: (samples,) float64 -> (ceil(samples * wanted / rate),).

    y[j] = scale * sum over i of x[i] * sinc(t) * cos(pi t / (2 * crossings))^2, with t = cutoff * (i / o - j / n) and
    |t| < crossings, where o / n is rate / wanted in lowest terms, cutoff = rolloff * min(o, n), scale = cutoff / o.
    """
    if rate == wanted:
        return one
    crossings = rules["zero_crossings"]
    old, new = rate // math.gcd(rate, wanted), wanted // math.gcd(rate, wanted)
    cutoff = rules["rolloff"] * min(old, new)
    reach = math.ceil(crossings * old / cutoff)
    taps = np.arange(-reach, reach + 2)
    phase = np.arange(new)
    first = phase * old // new  # of each output's samples, the last that is not after it
    t = cutoff * ((first[:, None] + taps) / old - phase[:, None] / new)
    weights = np.where(np.abs(t) < crossings, np.sinc(t) * np.cos(np.pi * t / (2 * crossings)) ** 2, 0) * cutoff / old
    padded = np.pad(one, (reach, reach + 2))
    made = np.empty(-(-len(one) * new // old))
    for start in range(0, len(made), BLOCK):
        turn, of = np.divmod(np.arange(start, min(start + BLOCK, len(made))), new)
        places = (turn * old + first[of])[:, None] + taps + reach
        made[start : start + BLOCK] = np.einsum("jk,jk->j", padded[places], weights[of])
    return made

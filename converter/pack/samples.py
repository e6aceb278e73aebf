"""The raw samples: texts, pictures and sounds chosen so that each common mistake of a runner gives something else.

docs/pack.md says which sample tells which mistake. Pictures are drawn for the network's own size: flat areas,
stripes of one sample and a slanted edge compress to a few kilobytes and show every filter. Sounds are a fraction of a
second; those that need a whole window have few samples a second.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .sounds import EXTENSIBLE, FLOAT, PCM
from .steps import LONGER

if TYPE_CHECKING:
    from PIL import Image

LONG = "long"
TEXTS = {
    "plain": "A quick brown fox jumps over the lazy dog.",
    "numbers": "It's $3.50 (or 12,5%) for re-used goods; e.g. #7 & co. don't cost 1_000 / kg!",
    "spaces": "  tabs\tand\nlines\u00a0no-break\u2003wide\u200bzero\u0007bell\r\n",
    "casing": "NASA, iPhone and McDonald's: ÄÖÜ ß ΣΊΣΥΦΟΣ İstanbul ЩИ",
    "accents": "café naïve Ångström élève | cafe\u0301 nai\u0308ve A\u030angstro\u0308m e\u0301le\u0300ve",
    "cjk": "東京は日本の首都。 北京大学 mixed中文text 한국어 ไทย हिन्दी",
    "unknown": f"{'supercalifragilistic' * 6} 🙂 ☃ \U0001f9ec ok",
    "special": "this [SEP] is </s> no [CLS] end [MASK] of <mask> text [UNK]",
    "empty": "",
}
PAIRED = (
    *(("plain", "numbers"), ("plain", "cjk"), ("empty", "casing"), ("special", "empty"), ("accents", "spaces")),
    *((LONG, "plain"), ("plain", LONG), (LONG, LONG)),
)
"""Texts that are read together: neither, the first, the second or both are longer than the limit; one is empty."""
WORDS = "one small step for some long and winding texts that go on till nobody can read what they were about at all"


def texts(limit: int | None) -> dict[str, str]:
    """Give the texts; with a limit, one that has more tokens than that, no two places of which are alike."""
    if limit is None:
        return dict(TEXTS)
    words = WORDS.split()
    several = [f"{words[i % len(words)]} {i}" if i % 3 else words[i % len(words)] for i in range(limit + 8)]
    return TEXTS | {LONG: " ".join(several)}


@dataclass(frozen=True)
class Picture:
    """One raw picture.

    Args:
        core: every decoder gives the same bytes for it.
    """

    name: str
    file: str
    content: bytes
    core: bool
    tells: str


def pictures(size: int, longer: str = "floor") -> Iterator[Picture]:
    """Draw the pictures for a network that sees squares of `size`, a longer side being rounded in a way of LONGER."""
    from PIL import Image

    def png(name: str, image: "Image.Image", core: bool, tells: str, **options: Any) -> Picture:
        return Picture(name, f"{name}.png", _save(image, "PNG", optimize=True, **options), core, tells)

    def rgb(width: int, height: int) -> "Image.Image":
        return Image.fromarray(scene(width, height))

    wide, tall = rgb(*wide_size(size, longer)), rgb(*tall_size(size, longer))
    yield png("exact", rgb(size, size), True, "channels swapped, rows for columns, wrong mean or std")
    yield png("wide", wide, True, "no antialias, another filter, squashed, longer side rounded, crop rounded down")
    yield png("tall", tall, True, "enlarged by another filter, crop rounded up, no bytes between the passes")
    yield png("column", rgb(*column_size(size)), True, "resized across before down, as by Pillow before 13")
    yield png("odd_1", rgb(size + 1, size), True, "halves of a crop rounded up")
    yield png("odd_3", rgb(size, size + 3), True, "halves of a crop rounded down")
    yield png("dot", Image.new("RGB", (1, 1), (200, 60, 20)), True, "one sample")
    yield png("gray", wide.convert("L"), True, "one channel")
    jpeg = _save(_blocks(), "JPEG", quality=100, subsampling=0)
    yield Picture("blocks", "blocks.jpg", jpeg, True, "JPEG, of flat blocks that every exact decoder agrees on")
    yield png("palette", _palette(wide), False, "converted to RGB before it is resized")
    alpha = wide.copy()
    alpha.putalpha(wide.getchannel("G"))
    yield png("clear", _palette(wide), False, "a palette's transparent colour kept or dropped", transparency=0)
    yield png("alpha", alpha, False, "resized without premultiplying, blended with a background")
    deep = Image.fromarray(np.asarray(tall)[..., 0].astype(np.uint16) * 3)
    yield png("deep", deep, False, "16 bits scaled instead of clipped")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = _save(_blocks(), "JPEG", quality=100, subsampling=0, exif=exif)
    yield Picture("turned", "turned.jpg", turned, False, "the EXIF orientation applied")


def scene(width: int, height: int) -> np.ndarray:
    """Draw a picture that is like none of its mirror images, (height, width, 3) uint8.

    Four flat quarters; upon them stripes of one sample, checks of two, a slanted edge and a disc.
    """
    y, x = np.mgrid[0:height, 0:width]
    v, u = y / height, x / width
    flat = np.array([[(230, 40, 90), (30, 160, 220)], [(250, 210, 20), (70, 20, 130)]], np.uint8)
    drawn = flat[(v > 0.55).astype(int), (u > 0.45).astype(int)]
    drawn[(x % 2 == 0) & (u > 0.25) & (u < 0.6) & (v < 0.4)] = (0, 0, 0)
    drawn[((x // 2 + y // 2) % 2 == 0) & (v > 0.65) & (u > 0.55)] = (255, 255, 255)
    drawn[(y % 2 == 0) & (u < 0.45) & (v > 0.4) & (v < 0.7)] = (10, 120, 60)
    drawn[(v - 0.1) > 2.1 * (u - 0.55)] ^= 0x35
    drawn[(u - 0.6) ** 2 + (v - 0.35) ** 2 < 0.02] = (250, 130, 5)
    return drawn


def wide_size(size: int, longer: str = "floor") -> tuple[int, int]:
    """Give a size to shrink, whose longer side is rounded by more than a half and has 3 of 4 to be cropped."""
    return _search(size, range(round(1.4 * size), 4 * size + 40), 1.8, 3, longer)


def tall_size(size: int, longer: str = "floor") -> tuple[int, int]:
    """Give a size to enlarge, whose longer side is rounded by more than a half and has 1 of 4 to be cropped."""
    width, height = _search(size, range(max(2, round(0.6 * size)), 4 * size + 40), 1.7, 1, longer)
    return height, width


def column_size(size: int) -> tuple[int, int]:
    """Give a size to shrink that is so tall that columns are resampled before rows."""
    return round(1.2 * size) + 1, 4 * size + 3


def _search(size: int, shorts: range, ratio: float, remainder: int, longer: str) -> tuple[int, int]:
    """Find the first (long, short) that becomes (size + remainder + 4 n, size) and has a large fraction."""
    for short in shorts:
        for long in range(round(ratio * short), 2 * short + 4):
            new = size * long / short
            if short != size and new % 1 > 0.5 and (LONGER[longer](new) - size) % 4 == remainder:
                return long, short
    raise ValueError(f"no picture fits the size {size}")


def _blocks() -> "Image.Image":
    """Draw flat blocks of 8 x 8, whose colours lie far from where decoders round differently."""
    from PIL import Image

    colours = [(16, 16, 16), (235, 235, 235), (128, 128, 128), (200, 41, 66), (37, 92, 203), (64, 178, 61)]
    blocks = np.array([[colours[(3 * row + column) % 6] for column in range(5)] for row in range(3)], np.uint8)
    return Image.fromarray(np.repeat(np.repeat(blocks, 8, 0), 8, 1))


def _palette(image: "Image.Image") -> "Image.Image":
    """Give the same picture as indices into its own colours."""
    from PIL import Image

    array = np.asarray(image)
    colours, indices = np.unique(array.reshape(-1, 3), axis=0, return_inverse=True)
    found = Image.fromarray(indices.reshape(array.shape[:2]).astype(np.uint8))
    found.putpalette(colours.astype(np.uint8).tobytes())
    return found


def _save(image: "Image.Image", form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@dataclass(frozen=True)
class Sound:
    """One raw sound, a WAV file."""

    name: str
    content: bytes
    tells: str


SLOW = 1000
"""Samples a second of the sound that is longer than a window."""
NOISE = 0.1
"""In every sound: of a tone alone, the bands beside it are what float32 leaves of it, and no judge is exact there."""


def sounds(rate: int, count: int) -> Iterator[Sound]:
    """Make the sounds for a network that hears windows of `count` samples at `rate`."""
    short, window = max(0.25, 0.15 + 1 / rate), count / rate
    one = tones(rate, short)
    two = np.stack([tones(44100, short), 0.7 * tones(44100, short, 1.7)], axis=1)
    yield Sound("plain", wav(one, rate, PCM, 16), "an edge of zeros instead of the mirrored sound, another hop")
    yield Sound("stereo", wav(two, 44100, PCM, 24), "one channel, the sum; resampled without a filter or not at all")
    yield Sound("slow", wav(tones(8000, short), 8000, PCM, 8), "resampled by lines between samples; bytes with a sign")
    yield Sound("deep", wav(one, rate, PCM, 32), "32 bits scaled as 16")
    yield Sound("float", wav(one * (1.05 / np.abs(one).max()), rate, FLOAT, 32), "clipped at 1, scaled to the loudest")
    extended = wav(one, rate, PCM, 16, extended=True)
    yield Sound("extended", extended, "a header of one length, chunks between, the last byte of an odd one")
    yield Sound("quiet", wav(1e-3 * one, rate, PCM, 24), "scaled to the loudest, a floor that is too high")
    yield Sound("silent", wav(np.zeros(round(short * rate)), rate, PCM, 8), "another floor, the logarithm of nothing")
    places = np.arange(count) / count
    late = tones(rate, window)[:count] * np.select([places < 0.1, places < 0.9], [0.03, 0], 1)
    yield Sound("exact", wav(late, rate, PCM, 8), "the loudest of a part and not of the window, a window too many")
    over = np.append(tones(SLOW, window), 0.5)
    yield Sound("longer", wav(over, SLOW, PCM, 8), "one window too few")


def tones(rate: int, seconds: float, pitch: float = 1.0) -> np.ndarray:
    """Give a loud sound that is like none of its mirror images: tones at full strength to both ends, noise and a click.

    The highest is above half of 16000 samples a second where the rate allows it: it must not be heard.
    """
    time = np.arange(round(seconds * rate)) / rate
    heard = [
        (f * pitch, a) for f, a in ((190, 0.25), (440, 0.2), (2900, 0.15), (11000, 0.15)) if f * pitch < 0.45 * rate
    ]
    found = np.sum([a * np.cos(2 * np.pi * f * time + 0.7) for f, a in heard], axis=0)
    found += np.random.default_rng(len(time)).uniform(-NOISE, NOISE, len(time))
    found[len(time) // 5] += 0.2
    return np.asarray(found)


def wav(sound: np.ndarray, rate: int, code: int, bits: int, *, extended: bool = False) -> bytes:
    """Write (samples,) or (samples, channels) between -1 and 1 as a WAV file."""
    channels = 1 if sound.ndim == 1 else sound.shape[1]
    if code == FLOAT:
        data = sound.astype(f"<f{bits // 8}").tobytes()
    else:
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        # Of 20 bits at most, so that the last bits of a cosine, which machines round each in its way, are no bytes.
        fine = 2 ** (min(bits, 20) - 1)
        numbers = (np.round(sound * fine) * (2 ** (bits - 1) // fine)).clip(low, high).astype("<i8")
        numbers = numbers + 128 if bits == 8 else numbers
        data = np.ascontiguousarray(numbers).view(np.uint8).reshape(-1, 8)[:, : bits // 8].tobytes()
    frame = channels * bits // 8
    form = struct.pack("<HHIIHH", EXTENSIBLE if extended else code, channels, rate, rate * frame, frame, bits)
    if extended:
        form += struct.pack("<HHIH", 22, bits, 0, code) + bytes.fromhex("000000001000800000aa00389b71")
    chunks = [(b"fmt ", form), *([(b"LIST", b"odd")] if extended else []), (b"data", data)]
    body = b"WAVE" + b"".join(
        kind + struct.pack("<I", len(chunk)) + chunk + b"\0" * (len(chunk) % 2) for kind, chunk in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body

"""Pictures: from a file's bytes to what an entry point takes, by the rules of preprocess.json. Pillow does the work."""

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ...validation.errors import InputError
from . import need

if TYPE_CHECKING:
    from PIL import Image

Rules: TypeAlias = Mapping[str, Any]
"""`images` of preprocess.json."""

Source: TypeAlias = "str | Path | bytes | np.ndarray | Image.Image"
"""A file, its bytes, an array (height, width, 3) of uint8, or a picture that Pillow has opened."""

LARGEST = 100_000_000
"""Most samples of a resized picture: a thin line, its shorter side made 224, would take gigabytes."""


def open_(source: Source) -> "Image.Image":
    """Open a picture and read its first frame.

    Raises:
        InputError: it is no picture, damaged, or of a size that is meant to do harm.
    """
    need("PIL", "reading pictures")
    from PIL import Image

    if isinstance(source, Image.Image):
        return source
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
            got = f"{source.shape} of {source.dtype}"
            raise InputError(f"a picture as an array must be (height, width, 3) of uint8, got {got}")
        return Image.fromarray(source)
    name = "the picture" if isinstance(source, bytes) else str(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else Path(source))
            image.load()
    except FileNotFoundError as error:
        raise InputError(f"{name} does not exist") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{name} cannot be read as a picture: {error}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{name}: {error}; make it smaller first") from error
    return image


def pixels(source: Source, rules: Rules) -> np.ndarray:
    """Resize, crop and convert: (size, size, 3) uint8, rows from the top."""
    image = open_(source)
    for step in rules["steps"]:
        if step["do"] not in STEPS:
            raise InputError(f"preprocess.json asks for {step['do']!r}, which this version cannot do")
        image = STEPS[step["do"]](image, step)
    return np.asarray(image)


def _resize(image: "Image.Image", step: Rules) -> "Image.Image":
    from PIL import Image

    size, (width, height) = step["shorter_side"], image.size
    short, long = min(width, height), max(width, height)
    if short == size:
        return image
    other = int(size * long / short)
    if size * other > LARGEST:
        raise InputError(f"a picture of {width} x {height} would be {size} x {other} when resized; crop it first")
    new = (size, other) if width == short else (other, size)
    return image.resize(new, Image.Resampling[step["filter"].upper()])


def _crop(image: "Image.Image", step: Rules) -> "Image.Image":
    width, height = step["width"], step["height"]
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)  # Python's halves go to even
    return image.crop((left, top, left + width, top + height))


def _colour(image: "Image.Image", step: Rules) -> "Image.Image":
    return image.convert(step["to"])


STEPS = {"resize": _resize, "crop": _crop, "colour": _colour, "normalize": lambda image, step: image}


def values(rules: Rules) -> np.ndarray:
    """Normalise every byte of every channel: (256, channels) float32."""
    step = next(step for step in rules["steps"] if step["do"] == "normalize")
    mean, std = (np.array(step[key], np.float32) for key in ("mean", "std"))
    return (np.arange(256, dtype=np.float32)[:, None] / np.float32(step["divide"]) - mean) / std


def normalize(bytes_: np.ndarray, rules: Rules) -> np.ndarray:
    """(..., channels) uint8 -> the same in float32, normalised."""
    table = values(rules)
    return table[bytes_, np.arange(table.shape[1])]


def images(sources: Sequence[Source], rules: Rules) -> np.ndarray:
    """Give what an entry point takes: (batch, size, size, 3) float32."""
    size = rules["size"]
    if not sources:
        return np.zeros((0, size, size, len(rules["colour"])), np.float32)
    return np.stack([normalize(pixels(source, rules), rules) for source in sources])

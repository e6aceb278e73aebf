"""Pictures: from a file's bytes to what an entry point takes, by the rules of preprocess.json. Pillow does the work.

The rules are `images` of preprocess.json, checked: steps.py has their words.
"""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ...validation.errors import InputError
from ...validation.packages import need
from .steps import FLOAT32, HALVES, LONGER, Rules

if TYPE_CHECKING:
    from PIL import Image

Source: TypeAlias = "str | Path | bytes | np.ndarray | Image.Image"
"""A file, its bytes, an array (height, width) or (height, width, 3 or 4) of uint8, or a picture of Pillow's."""

PREMULTIPLIED = {"RGBA": "RGBa", "LA": "La"}
"""Modes of Pillow's with alpha, and the same with colours multiplied by it."""

LARGEST = 100_000_000
"""Most samples of a resized picture: a thin line, its shorter side made 224, would take gigabytes."""


FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is read as a picture. Pillow knows more, some of which start other programs, as EPS does."""


def open_(source: Source) -> "Image.Image":
    """Open a picture and read its first frame.

    Raises:
        InputError: it is no picture, empty, damaged, or of a size that is meant to do harm.
    """
    need("PIL", "reading pictures")
    from PIL import Image

    image = _of_array(source) if isinstance(source, np.ndarray) else source
    name = str(source) if isinstance(source, str | Path) else "the picture"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if isinstance(image, str | Path) and not Path(image).is_file() and Path(image).exists():
                raise InputError(f"{name} is no regular file: a picture is read more than once")
            if not isinstance(image, Image.Image):
                image = Image.open(io.BytesIO(image) if isinstance(image, bytes) else Path(image), formats=FORMATS)
            image.load()
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{name} does not exist") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{name} cannot be read as a picture: {error}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{name}: {error}; make it smaller first") from error
    if 0 in image.size:
        raise InputError(f"{name} is empty, {_measures(image)}: expected one pixel at least")
    return image


def _of_array(array: np.ndarray) -> "Image.Image":
    """Make a picture of samples: grey, in colours, or in colours with alpha.

    Raises:
        InputError: the array is of another shape or type.
    """
    from PIL import Image

    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        got = f"{array.shape} of {array.dtype}"
        raise InputError(
            f"a picture as an array must be (height, width) or (height, width, 3 or 4) of uint8, got {got}"
        )
    if 0 in array.shape:
        raise InputError(f"the picture is empty, {array.shape}: expected one pixel at least")
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def pixels(source: Source, rules: Rules) -> np.ndarray:
    """Resize, crop and convert: (size, size, 3) uint8, rows from the top; float32 after a resize in float32."""
    image = open_(source)
    for step in rules["steps"]:
        if step.get("arithmetic") == FLOAT32:
            return _floats(image, step)
        if step["do"] != "normalize":
            image = STEPS[step["do"]](image, step)
    return np.asarray(image)


def _resize(image: "Image.Image", step: Rules) -> "Image.Image":
    mode = image.mode
    if mode in PREMULTIPLIED and _size(image, step) != image.size:
        return _resampled(image.convert(PREMULTIPLIED[mode]), step).convert(mode)
    return _resampled(image, step)


def _floats(image: "Image.Image", step: Rules) -> np.ndarray:
    """Resize channel by channel, each number between those that bytes have: (height, width, 3) float32."""
    from PIL import Image

    samples = np.asarray(image, np.float32)
    channels = (np.ascontiguousarray(samples[..., channel]) for channel in range(samples.shape[-1]))
    return np.stack([np.asarray(_resampled(Image.fromarray(channel), step)) for channel in channels], axis=-1)


def _resampled(image: "Image.Image", step: Rules) -> "Image.Image":
    from PIL import Image

    width, height = _size(image, step)
    if (width, height) == image.size:
        return image
    if width * height > LARGEST:
        raise InputError(f"a picture of {_measures(image)} would be {width} x {height} when resized; crop it first")
    way = Image.Resampling[step["filter"].upper()]
    # One call for each axis: which of them Pillow takes first depends on its version, and in one call it would multiply
    # and divide by alpha itself.
    between = (image.width, height) if down_first(image.size, (width, height)) else (width, image.height)
    return image.resize(between, way).resize((width, height), way)


def down_first(old: tuple[int, int], new: tuple[int, int]) -> bool:
    """Say whether columns are resampled before rows, given (width, height): as Pillow does it since version 13."""
    less = old[1] - new[1]
    return less > 0 and less > 2 * (old[0] - new[0])


def _size(image: "Image.Image", step: Rules) -> tuple[int, int]:
    """Give width and height after a resize."""
    if "shorter_side" not in step:
        return step["width"], step["height"]
    short, (width, height) = step["shorter_side"], image.size
    longer = LONGER[step["longer_side"]](short * max(width, height) / min(width, height))
    return (short, longer) if width <= height else (longer, short)


def longer_side(rules: Rules) -> str:
    """Say how the longer side of a resize is rounded; any way where no step makes one."""
    return next((step["longer_side"] for step in rules["steps"] if "longer_side" in step), next(iter(LONGER)))


def _crop(image: "Image.Image", step: Rules) -> "Image.Image":
    width, height, offset = step["width"], step["height"], HALVES[step["offset"]]
    if image.width < width or image.height < height:
        raise InputError(f"a picture of {_measures(image)} is smaller than the crop of {width} x {height}")
    left, top = offset((image.width - width) / 2), offset((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _measures(image: "Image.Image") -> str:
    return f"{image.width} x {image.height}"


def _colour(image: "Image.Image", step: Rules) -> "Image.Image":
    from PIL import Image

    if step["alpha"] == "over white" and image.has_transparency_data:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert(step["to"])


STEPS: Mapping[str, Callable[["Image.Image", Rules], "Image.Image"]] = {
    "resize": _resize,
    "crop": _crop,
    "colour": _colour,
}


def values(rules: Rules) -> np.ndarray:
    """Normalise every byte of every channel: (256, channels) float32."""
    step = rules["steps"][-1]
    mean, std = (np.array(step[key], np.float32) for key in ("mean", "std"))
    return (np.arange(256, dtype=np.float32)[:, None] / np.float32(step["divide"]) - mean) / std


def normalize(pixels_: np.ndarray, rules: Rules) -> np.ndarray:
    """(..., channels) uint8 or float32 -> the same in float32, normalised."""
    if pixels_.dtype == np.uint8:
        table = values(rules)
        return table[pixels_, np.arange(table.shape[1])]
    step = rules["steps"][-1]
    mean, std = (np.array(step[key], np.float32) for key in ("mean", "std"))
    return (pixels_ / np.float32(step["divide"]) - mean) / std


def images(sources: Sequence[Source], rules: Rules) -> np.ndarray:
    """Give what an entry point takes: (batch, size, size, 3) float32."""
    size = rules["size"]
    if not sources:
        return np.zeros((0, size, size, len(rules["colour"])), np.float32)
    return np.stack([normalize(pixels(source, rules), rules) for source in sources])

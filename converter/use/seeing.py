"""Pictures before texts: the tokens that an image encoder makes of them, which a language model is asked about."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ...validation.errors import InputError
from ...validation.outputs import States
from ..pack.pictures import Source
from .generating import Generator

if TYPE_CHECKING:
    from .artifacts import Artifacts

Seen: TypeAlias = "Source"
"""A picture as `embed` takes it; or, as an array of floats, normalised pixels (height, width, channels), or the tokens
that an image encoder made of one, (places, width)."""


def pictures_of(images: Any, *, alone: bool) -> list[Seen]:
    """Give pictures as a list; where there is one prompt alone, one picture or a list of one."""
    plain = isinstance(images, str | Path | bytes) or (isinstance(images, np.ndarray) and images.ndim <= 3)
    if alone and (plain or not isinstance(images, Iterable)):
        return [images]
    if plain:
        raise InputError("images: expected one picture for each prompt, got one alone")
    return list(images)


def sequences(
    generator: Generator, called: str, images: Sequence[Seen] | None, vision: "Artifacts | None", prompts: int
) -> list[np.ndarray]:
    """Give a picture's tokens for each prompt, (places, width) float32; nothing where texts go on alone.

    Raises:
        InputError: the network reads no pictures, or none are given, too few, or of another encoder's width.
    """
    if generator.picture is None:
        if images is not None or vision is not None:
            raise InputError(f"{called}: this network goes on with texts alone and reads no pictures")
        return []
    if images is None:
        raise InputError(
            f"{called}: this network goes on with a text about a picture; give images=, one for each prompt, and "
            "vision=open_artifacts(DIR) of the first stage, whose image encoder sees them"
        )
    if len(images) != prompts:
        raise InputError(f"images: expected one for each of {prompts} prompts, got {len(images)}")
    found = [_sequence(image, at, vision) for at, image in enumerate(images)]
    spec = generator.picture
    for at, tokens in enumerate(found):
        if tokens.ndim != 2 or tokens.shape[1] != spec.shape[-1]:
            raise InputError(
                f"picture {at} is {tokens.shape} as tokens, but {called} takes (places, {spec.shape[-1]}): they are "
                "another image encoder's; take the first stage that this network was trained on"
            )
    return found


def _sequence(image: Any, at: int, vision: "Artifacts | None") -> np.ndarray:
    """Give the tokens of one picture."""
    pixels = isinstance(image, np.ndarray) and image.dtype.kind == "f"
    if pixels and image.ndim == 2:
        return np.asarray(image, np.float32)
    if vision is None:
        raise InputError(
            f"picture {at}: only an image encoder can see it; give vision=open_artifacts(DIR) of the first stage, or "
            "the tokens that it made, an array of floats (places, width)"
        )
    return vision.picture_tokens([image])[0]


def encoder(artifacts: "Artifacts") -> tuple[str, str, str]:
    """Name the entry point that makes tokens of pictures, its input and its output.

    Raises:
        InputError: there is none.
    """
    for name, entry in artifacts.entry_points.items():
        kept = [spec.name for spec in entry.outputs if isinstance(spec.kind, States)]
        if len(entry.inputs) == 1 and len(entry.inputs[0].shape) == 4 and kept:
            return name, entry.inputs[0].name, kept[0]
    raise InputError(f"{artifacts.path}: this network makes no tokens of pictures")

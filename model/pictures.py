"""preprocessor_config.json of transformers' image processors: how a picture becomes the input, field by field.

By CLIPImageProcessor of transformers 5.24 and its base: RGB first, on a white ground; then resize, crop, normalise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..validation.errors import InputError
from .documents import JSON, Document, Harmless, Only, Settled
from .family import Source

PLACE = "preprocessor_config.json"

FILTERS = {2: "bilinear", 3: "bicubic"}
"""Pillow's number of a filter -> its word in preprocess.json."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""OpenAI's, which CLIPImageProcessor takes where a file is silent."""

_CALL = "names of what a call gives"
HARMLESS: Harmless = {
    **dict.fromkeys(("image_processor_type", "feature_extractor_type", "processor_class"), "which class reads it"),
    **dict.fromkeys(("_processor_class", "_valid_processor_keys", "return_tensors", "data_format"), _CALL),
    **dict.fromkeys(("input_data_format", "device", "disable_grouping", "default_to_square"), "how it is executed"),
    "do_pad": Only((None, False), "nothing is added around a picture"),
    **dict.fromkeys(("pad_size", "size_divisor"), Only((None,), "nothing is added around a picture")),
}


@dataclass(frozen=True)
class Pictures:
    """How a picture becomes the input; nothing of it is known where `std` is empty.

    Args:
        resize: the shorter side, or height and width; empty where nothing is resized.
        resample: the filter.
        crop: whether the middle is cut out, of the network's size.
        rgb_first: whether a picture is converted before it is resized, on a white ground.
        mean: of each channel.
        std: of each channel.
    """

    resize: tuple[int, ...] = ()
    resample: str = "bicubic"
    crop: bool = True
    rgb_first: bool = True
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def settle_pictures(settled: Settled, source: Source, size: int) -> None:
    """Settle the fields of `Pictures`, for pictures of `size` x `size`.

    Raises:
        InputError: the document asks for what is not done here, or does not give pictures of that size.
    """
    document = source.document(PLACE)
    if document is None:
        for name, value in vars(Pictures()).items():
            settled.put(name, value, f"not stated: no {PLACE}")
        return
    resized = document.take("do_resize", bool, default=True)
    resize = _size(document, "size", {"shortest_edge": 224})
    cropped = document.take("do_center_crop", bool, default=True)
    crop = _size(document, "crop_size", {"height": 224, "width": 224})
    crop = crop * 2 if len(crop) == 1 else crop
    settled.put("resize", resize if resized else (), f"{PLACE}: {'size' if resized else 'do_resize'}")
    settled.put("crop", cropped, f"{PLACE}: do_center_crop")
    number = document.take("resample", int, 3, choices=tuple(FILTERS))
    settled.put("resample", FILTERS[number], f"{PLACE}: resample")
    settled.put("rgb_first", document.take("do_convert_rgb", bool, default=True), f"{PLACE}: do_convert_rgb")
    last = crop if cropped else resize if resized else ()
    if last != (size, size):
        given = " x ".join(map(str, last)) if last else "of any size"
        raise InputError(f"{document.origin}: its pictures are {given}, but the network takes {size} x {size}")
    if cropped and (not resized or min(resize) < size):
        raise InputError(
            f"{document.origin}: a picture may be smaller than the {size} x {size} that are cut out of it, and is "
            "then framed in black, which is not done here; let size be crop_size or more"
        )
    document.take("do_rescale", bool, default=True, choices=(True,))
    factor = document.take("rescale_factor", float, 1 / 255)
    if abs(factor * 255 - 1) > 1e-6:
        raise InputError(f"{document.origin}: rescale_factor is {factor}, expected 1 / 255")
    document.take("do_normalize", bool, default=True, choices=(True,))
    for name, field, usual in (("mean", "image_mean", MEAN), ("std", "image_std", STD)):
        settled.put(name, _three(document, field, usual), f"{PLACE}: {field}")
    document.accept(HARMLESS)


def _size(document: Document, field: str, usual: Mapping[str, int]) -> tuple[int, ...]:
    """Read a size: one number (older files), a shorter side, or height and width."""
    if type(document.fields.get(field)) is int:
        return (document.take(field, int, low=1),)
    if field not in document:
        document.note(field, "used")
        return tuple(usual.values())
    part = document.part(field)
    if "shortest_edge" in part:
        return (part.take("shortest_edge", int, low=1),)
    return part.take("height", int, low=1), part.take("width", int, low=1)


def _three(document: Document, field: str, usual: tuple[float, ...]) -> tuple[float, ...]:
    given: JSON = document.take(field, list, list(usual))
    if len(given) != 3 or not all(type(number) in (int, float) for number in given):
        raise InputError(f"{document.origin}: {field} is {given}, expected three numbers")
    return tuple(map(float, given))


def rules(pictures: Pictures, size: int) -> Mapping[str, Any]:
    """State it as preprocess.json does (docs/pack.md), or that nobody does."""
    if not pictures.std:
        return {"input": "images", "missing": f"no {PLACE} lies beside the checkpoint"}
    side = pictures.resize
    to = {"shorter_side": side[0], "longer_side": "floor"} if len(side) == 1 else {}
    to = {"height": side[0], "width": side[1]} if len(side) == 2 else to
    resize = {
        "do": "resize",
        **to,
        "filter": pictures.resample,
        **({"a": -0.5} if pictures.resample == "bicubic" else {}),
        "antialias": True,
        "arithmetic": "uint8",
        "nearest_in_modes": ["1", "P"],
        "alpha": "premultiplied",
    }
    colour = {"do": "colour", "to": "RGB", "alpha": "over white" if pictures.rgb_first else "dropped"}
    steps = [
        *([resize] if side else []),
        *([{"do": "crop", "height": size, "width": size, "offset": "floor"}] if pictures.crop else []),
    ]
    normalize = {"do": "normalize", "divide": 255, "mean": list(pictures.mean), "std": list(pictures.std)}
    return {
        "input": "images",
        "layout": "NHWC",
        "dtype": "float32",
        "colour": "RGB",
        "size": size,
        "exif_orientation": "ignored",
        "frame": 0,
        "steps": [
            *([colour] if pictures.rgb_first else []),
            *steps,
            *([] if pictures.rgb_first else [colour]),
            normalize,
        ],
    }


def documents(pictures: Pictures, size: int) -> Mapping[str, JSON]:
    """Give what transformers writes of it, by place; nothing where nothing is known."""
    if not pictures.std:
        return {}
    side = pictures.resize
    resize = {"shortest_edge": side[0]} if len(side) == 1 else dict(zip(("height", "width"), side, strict=False))
    document = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": pictures.rgb_first,
        "do_resize": bool(side),
        "size": resize or {"shortest_edge": size},
        "resample": {word: number for number, word in FILTERS.items()}[pictures.resample],
        "do_center_crop": pictures.crop,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(pictures.mean),
        "image_std": list(pictures.std),
    }
    return {PLACE: document}

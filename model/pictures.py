"""How a picture becomes the input, as the documents of transformers' image processors say it, field by field.

By the image processors of transformers 5.24 in their form for Pillow, and their base. The document is the part
`image_processor` of processor_config.json where there is one, else preprocessor_config.json.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..validation.errors import InputError
from .documents import JSON, USED, Document, Harmless, Only, Settled, shown
from .family import Source

PLACE = "preprocessor_config.json"
WHOLE, PART = "processor_config.json", "image_processor"

FILTERS = {2: "bilinear", 3: "bicubic"}
"""Pillow's number of a filter -> its word in preprocess.json."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""OpenAI's."""

HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Usual:
    """What a class of transformers takes where a document is silent.

    Args:
        resample: Pillow's number of the filter.
        mean: of each channel.
        std: of each channel.
        size: a shorter side, or height and width.
        crop: height and width.
        cropped: whether it cuts the middle out.
        rgb: whether it converts to RGB first, on a white ground.
        square: whether a size of one number is height and width.
    """

    resample: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, ...]
    crop: tuple[int, ...] = ()
    cropped: bool = False
    rgb: bool = False
    square: bool = True


_CLIP = Usual(3, MEAN, STD, (224,), (224, 224), cropped=True, rgb=True, square=False)
CLASSES: Mapping[str, Usual] = {
    **dict.fromkeys(("CLIPImageProcessor", "BitImageProcessor", "ChineseCLIPImageProcessor"), _CLIP),
    "SiglipImageProcessor": Usual(3, HALF, HALF, (224, 224), rgb=True, square=False),
    "ViTImageProcessor": Usual(2, HALF, HALF, (224, 224)),
    "DeiTImageProcessor": Usual(3, HALF, HALF, (256, 256), (224, 224), cropped=True),
    "BlipImageProcessor": Usual(3, MEAN, STD, (384, 384), rgb=True),
}
"""The classes that do no more than this: resize, crop, scale, normalise."""

_CALL = "names of what a call gives"
HARMLESS: Harmless = {
    "processor_class": "which class reads it",
    **dict.fromkeys(("_processor_class", "_valid_processor_keys", "return_tensors", "data_format"), _CALL),
    **dict.fromkeys(("input_data_format", "device", "disable_grouping"), "how it is executed"),
    "do_pad": Only((None, False), "nothing is added around a picture"),
    **dict.fromkeys(("pad_size", "size_divisor", "image_seq_length"), Only((None,), "nothing is added to a picture")),
}


@dataclass(frozen=True)
class Pictures:
    """How a picture becomes the input; nothing of it is known where `std` is empty.

    Args:
        resize: the shorter side, or height and width; empty where nothing is resized.
        resample: the filter.
        crop: whether the middle is cut out, of the network's size.
        offset: how a half of what is left over at a crop is rounded, by preprocess.json's word.
        rgb_first: whether a picture is converted before it is resized.
        alpha: what becomes of it then, by preprocess.json's word.
        mean: of each channel.
        std: of each channel.
    """

    resize: tuple[int, ...] = ()
    resample: str = "bicubic"
    crop: bool = True
    offset: str = "floor"
    rgb_first: bool = True
    alpha: str = "over white"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def settle_pictures(
    settled: Settled, source: Source, size: int | None, usual: str = "CLIPImageProcessor"
) -> int | None:
    """Settle the fields of `Pictures`; give the height and width that pictures come out in.

    Args:
        settled: nothing yet.
        source: with the documents.
        size: height and width of the network's pictures; None for a network that takes any.
        usual: the class that transformers takes where none is named; "" where one must be.

    Raises:
        InputError: the document asks for what is not done here, or does not give pictures of that size.
    """
    document = _document(source)
    if document is None:
        for name, value in vars(Pictures()).items():
            settled.put(name, value, f"not stated: no {PLACE}")
        return size
    reading = _Reading(document, _class(document, usual))
    resized, cropped = (
        reading.flag("do_resize", usual=True),
        reading.flag("do_center_crop", usual=reading.usual.cropped),
    )
    resize, crop = reading.size("size", reading.usual.size), reading.size("crop_size", reading.usual.crop, square=True)
    settled.put("resize", resize if resized else (), reading.origin("size" if resized else "do_resize"))
    settled.put("crop", cropped, reading.origin("do_center_crop"))
    settled.put("offset", "floor", "transformers' image processors")
    number = document.take("resample", int, reading.usual.resample, choices=tuple(FILTERS))
    settled.put("resample", FILTERS[number], reading.origin("resample"))
    rgb = reading.flag("do_convert_rgb", usual=reading.usual.rgb)
    settled.put("rgb_first", True, reading.origin("do_convert_rgb"))
    # Without a conversion upstream takes RGB alone: what is another mode was converted before, as it is by `convert`.
    settled.put("alpha", "over white" if rgb else "dropped", reading.origin("do_convert_rgb"))
    size = _size(document, size, resize if resized else (), crop if cropped else ())
    document.take("do_rescale", bool, default=True, choices=(True,))
    factor = document.take("rescale_factor", float, 1 / 255)
    if abs(factor * 255 - 1) > 1e-6:
        raise InputError(f"{document.origin}: rescale_factor is {factor}, expected 1 / 255")
    normalised = reading.flag("do_normalize", usual=True)
    for name, field, channels, nothing in (
        ("mean", "image_mean", reading.usual.mean, 0.0),
        ("std", "image_std", reading.usual.std, 1.0),
    ):
        numbers = reading.three(field, channels)
        value = numbers if normalised else (nothing,) * 3
        settled.put(name, value, reading.origin(field if normalised else "do_normalize"))
    document.accept(HARMLESS)
    return size


def _document(source: Source) -> Document | None:
    """Find the image processor's document, as transformers does."""
    whole = source.documents.get(WHOLE)
    if whole is not None and isinstance(whole.content, dict) and PART in whole:
        whole = source.document(WHOLE)
        assert whole
        whole.accept({"processor_class": "which class reads it"})
        return whole.part(PART)
    return source.document(PLACE)


def _class(document: Document, usual: str) -> str:
    """Read which class the document is for.

    Raises:
        InputError: one that does what is not done here.
    """
    fields = ("image_processor_type", "feature_extractor_type")
    named = [(field, document.take(field, str, None)) for field in fields]
    field, name = next(((field, name) for field, name in named if name), ("", usual))
    known = name.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")
    if not known:
        raise InputError(f"{document.origin}: image_processor_type is missing, and so is what its silence means")
    if known not in CLASSES:
        raise InputError(
            f"{document.origin}: {field} is {shown(name)}, which may do to a picture what no field says; what is done "
            f"here is {', '.join(CLASSES)}; if {usual} gives the same, pass --ignore {document.name}:{field}"
        )
    return known


class _Reading:
    """A document read with the defaults of its class, which null is not: upstream keeps it."""

    def __init__(self, document: Document, name: str):
        self.document, self.name, self.usual = document, name, CLASSES[name]

    def origin(self, field: str) -> str:
        """Say where a value is from."""
        return f"{PLACE}: {field}" if field in self.document else f"default of transformers' {self.name}"

    def flag(self, field: str, *, usual: bool) -> bool:
        """Read whether something is done; null is no."""
        if field in self.document and self.document.fields[field] is None:
            self.document.note(field, USED)
            return False
        return bool(self.document.take(field, bool, usual))

    def size(self, field: str, usual: tuple[int, ...], *, square: bool | None = None) -> tuple[int, ...]:
        """Read a size: one number, a shorter side, or height and width."""
        if square is None:
            square = self.flag("default_to_square", usual=self.usual.square)
        if field not in self.document:
            return usual
        if type(self.document.fields[field]) is int:
            side = self.document.take(field, int, low=1)
            return (side, side) if square else (side,)
        part = self.document.part(field)
        for name in part.fields:
            if part.fields[name] is None:
                part.note(name, "null: not stated")
        if "shortest_edge" in part and part.fields["shortest_edge"] is not None:
            return (part.take("shortest_edge", int, low=1),)
        return part.take("height", int, low=1), part.take("width", int, low=1)

    def three(self, field: str, usual: tuple[float, ...]) -> tuple[float, ...]:
        """Read a number for each channel, or one for all."""
        if field not in self.document:
            return usual
        given = self.document.fields[field]
        if type(given) in (int, float):
            return (self.document.take(field, float),) * 3
        listed = self.document.take(field, list)
        if len(listed) != 3 or not all(type(number) in (int, float) for number in listed):
            raise InputError(f"{self.document.origin}: {field} is {shown(listed)}, expected three numbers")
        return tuple(map(float, listed))


def _size(document: Document, size: int | None, resize: tuple[int, ...], crop: tuple[int, ...]) -> int:
    """Give the size that pictures come out in: the network's, none being smaller than what is cut out of it."""
    last = crop or resize
    size = last[0] if size is None and last else size
    if size is None or last != (size, size):
        given = " x ".join(map(str, last)) if len(last) == 2 else "of any size"
        takes = f"{size} x {size}" if size else "squares"
        raise InputError(f"{document.origin}: its pictures are {given}, but the network takes {takes}")
    if crop and (not resize or min(resize) < size):
        raise InputError(
            f"{document.origin}: a picture may be smaller than the {size} x {size} that are cut out of it, and is "
            "then framed in black, which is not done here; let size be crop_size or more"
        )
    return size


def rules(pictures: Pictures, size: int, input_: str = "images") -> Mapping[str, Any]:
    """State it as preprocess.json does (docs/pack.md), or that nobody does."""
    if not pictures.std:
        return {"input": input_, "missing": f"no {PLACE} lies beside the checkpoint"}
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
    colour = {"do": "colour", "to": "RGB", "alpha": pictures.alpha}
    steps = [
        *([resize] if side else []),
        *([{"do": "crop", "height": size, "width": size, "offset": pictures.offset}] if pictures.crop else []),
    ]
    ordered: list[Mapping[str, Any]] = [colour, *steps] if pictures.rgb_first else [*steps, colour]
    return _laid_out(input_, size, [*ordered, _normalize(pictures.mean, pictures.std)])


def squashed(size: int, mean: Sequence[float], std: Sequence[float], input_: str = "images") -> Mapping[str, Any]:
    """State pictures that are made square in float32, whatever their shape, as torchvision does with tensors.

    Bilinear, with the filter grown where a picture shrinks; no crop, and nothing is rounded to bytes on the way.
    """
    resize = {
        "do": "resize",
        "height": size,
        "width": size,
        "filter": "bilinear",
        "antialias": True,
        "arithmetic": "float32",
        "nearest_in_modes": ["1", "P"],
        "alpha": "premultiplied",
    }
    return _laid_out(input_, size, [{"do": "colour", "to": "RGB", "alpha": "dropped"}, resize, _normalize(mean, std)])


def _normalize(mean: Sequence[float], std: Sequence[float]) -> Mapping[str, Any]:
    return {"do": "normalize", "divide": 255, "mean": list(mean), "std": list(std)}


def _laid_out(input_: str, size: int, steps: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return {
        "input": input_,
        "layout": "NHWC",
        "dtype": "float32",
        "colour": "RGB",
        "size": size,
        "exif_orientation": "ignored",
        "frame": 0,
        "steps": list(steps),
    }


def documents(pictures: Pictures, size: int, name: str = "CLIPImageProcessor") -> Mapping[str, JSON]:
    """Give what transformers writes of it, by place; nothing where nothing is known."""
    if not pictures.std:
        return {}
    side = pictures.resize
    resize = {"shortest_edge": side[0]} if len(side) == 1 else dict(zip(("height", "width"), side, strict=False))
    document = {
        "image_processor_type": name,
        "do_convert_rgb": pictures.alpha == "over white",
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

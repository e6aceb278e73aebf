"""What a SigLIP network is, in numbers, and how it is read from shapes and documents.

SigLIP 2 at fixed sizes is the same network with another tokenizer; its form for any size has a class of its own.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...validation.errors import InputError
from ..bert.config import CONFIG_HARMLESS
from ..clip.config import (
    BARE,
    TRANSFORMERS,
    TowerConfig,
    agree,
    bare,
    prefixed,
    settle_limit,
    settle_tower,
    shape_of,
    unseen,
    within_tower,
)
from ..documents import Configured, Document, Harmless, Only, Settled
from ..family import Source
from ..pictures import HALF, Pictures, settle_pictures
from ..tokenizer import SETTINGS, normalizers, settle_tokenizer, special_ids

CONFIG = "config.json"

USUAL: Mapping[str, Any] = {
    "num_attention_heads": 12,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh",
    "pad_token_id": 1,
}
"""What SiglipTextConfig and SiglipVisionConfig of transformers 5.24 take where config.json is silent."""

END = 1
"""SigLIP's own tokenizer ends a text with this id and pads with it."""

TOWER_HARMLESS: Harmless = {
    **CONFIG_HARMLESS,
    "attention_dropout": "dropout, which inference leaves out",
    "projection_size": "the head's shape shows it",
    "model_type": Only(("siglip_text_model", "siglip_vision_model"), "a tower of SigLIP"),
    "vision_use_head": Only((True,), "the head is there"),
}
HARMLESS: Harmless = {**CONFIG_HARMLESS, "initializer_factor": "training only"}
"""config.json, by SiglipConfig of transformers 5.24."""

SPECIAL = {"last_token_id": ("eos_token", ("</s>", "<eos>")), "pad_token_id": ("pad_token", ("</s>", "<pad>"))}
"""Configuration's field -> the tokenizer documents' name of the token, and its usual texts."""

TEXT, VISION = "text_model.head.weight", "vision_model.head.probe"
"""What each tower has that no other network's has."""

BARE_NAMES = {"text": "head.weight", "vision": "head.probe"}

LEFT = ("GemmaTokenizer", "GemmaTokenizerFast")
"""Tokenizers that pad before a text where nothing says otherwise."""


@dataclass(frozen=True)
class TextConfig(TowerConfig):
    """The text tower. Every text has `max_seq_length` tokens, padding included, none of which is masked."""

    vocab_size: int = 32000
    max_position_embeddings: int = 64
    projection_size: int = 768
    pad_token_id: int = 1
    last_token_id: int = END
    """What the tokenizer ends a text with."""
    max_seq_length: int = 64
    truncation_side: str = "right"


@dataclass(frozen=True)
class VisionConfig(TowerConfig):
    """The image tower."""

    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class SiglipConfig:
    """One tower or both, and how pictures are prepared.

    Args:
        text: None where the checkpoint is the image tower alone.
        vision: None where it is the text tower alone.
        pictures: how pictures are prepared.
        normalize: whether embeddings have length one.
        names: whose names the tensors have: `TRANSFORMERS`, or of a tower alone `BARE`.
    """

    text: TextConfig | None
    vision: VisionConfig | None
    pictures: Pictures = field(default_factory=Pictures)
    normalize: bool = True
    names: str = TRANSFORMERS


def _google(width: int, layers: int, heads: int, inner: int, patch: int, size: int) -> SiglipConfig:
    blocks = (width, layers, heads, inner, 1e-6, "gelu_pytorch_tanh")
    pictures = Pictures((size, size), crop=False, mean=HALF, std=HALF)
    return SiglipConfig(TextConfig(*blocks, projection_size=width), VisionConfig(*blocks, size, patch), pictures)


SIZES = {
    "base": _google(768, 12, 12, 3072, 16, 224),
    "large": _google(1024, 24, 16, 4096, 16, 256),
    "tiny": SiglipConfig(
        TextConfig(32, 2, 4, 48, 1e-6, "gelu_pytorch_tanh", 150, 12, 24, 1, 1, 12),
        VisionConfig(24, 2, 2, 40, 1e-6, "gelu_pytorch_tanh", image_size=16, patch_size=4),
        Pictures((16, 16), crop=False, mean=HALF, std=HALF),
    ),
}
"""Published: google/siglip-base-patch16-224, -large-patch16-256. And a tiny one."""


def recognise(source: Source) -> str:
    """Say why a checkpoint belongs here."""
    if within_tower(source):
        return ""
    if tower := bare(source, "siglip", BARE_NAMES):
        return f"names {BARE_NAMES[tower]}, and model_type in {CONFIG}"
    names = [name for name in (TEXT, VISION) if name in source.shapes]
    return f"names {', '.join(names)}" if names else ""


def configure(source: Source) -> Configured:
    """Read the towers: sizes from shapes, the rest from config.json, or transformers' default where that is silent.

    Raises:
        InputError: there is no config.json, or a field contradicts the shapes or is not computed here.
    """
    document = source.document(CONFIG)
    if document is None:
        raise InputError(f"no {CONFIG} lies beside the checkpoint, which says what heads it has; pass --config FILE")
    kinds = ("siglip", "siglip_text_model", "siglip_vision_model")
    kind = document.take("model_type", str, choices=kinds)
    alone = bare(source, "siglip", BARE_NAMES)
    source = prefixed(source, alone)
    has = {"text": TEXT in source.shapes, "vision": VISION in source.shapes}
    wanted = {"text", "vision"} if kind == "siglip" else {kind.removeprefix("siglip_").removesuffix("_model")}
    there = {tower for tower, is_there in has.items() if is_there}
    if not there <= wanted:
        raise InputError(
            f"{document.origin}: model_type is {kind}, but there are tensors of: {', '.join(sorted(there))}"
        )
    whole, pictures = source.settled(), source.settled("pictures.")
    whole.put("names", BARE if alone else TRANSFORMERS, "names of the tensors")
    towers = {tower: source.settled(f"{tower}.") for tower in sorted(there)}
    for tower, settle in (("text", _settle_text), ("vision", _settle_vision)):
        part = document if kind != "siglip" else None
        if tower in towers:
            settle(towers[tower], source, part or document.part(f"{tower}_config"))
        else:
            whole.put(tower, None, f"the checkpoint has no tensors of a {tower} tower")
            document.note(f"{tower}_config", "of a tower that is not in the checkpoint")
    if "vision" in towers:
        settle_pictures(pictures, source, towers["vision"].values["image_size"], "SiglipImageProcessor")
    else:
        unseen(pictures)
    both = len(towers) == 2
    whole.choose("normalize", bool, otherwise=(both, "as SiglipModel gives it" if both else "as the tower gives it"))
    document.accept(HARMLESS)
    text = TextConfig(**towers["text"].values) if "text" in towers else None
    vision = VisionConfig(**towers["vision"].values) if "vision" in towers else None
    values = {**whole.values, "text": text, "vision": vision, "pictures": Pictures(**pictures.values)}
    parts = (whole, *towers.values(), pictures)
    origins = {f"{s.part}{name}": origin for s in parts for name, origin in s.origins.items()}
    return Configured(SiglipConfig(**values), origins)


def _usual(tower: str, name: str) -> tuple[Any, str]:
    return USUAL[name], f"default of transformers' Siglip{tower.title()}Config"


def _settle_text(settled: Settled, source: Source, document: Document) -> None:
    word, place, head = "embeddings.token_embedding.weight", "embeddings.position_embedding.weight", "head.weight"
    vocab_size, width = shape_of(source.shapes, f"text_model.{word}", 2)
    positions = shape_of(source.shapes, f"text_model.{place}", 2)[0]
    out = shape_of(source.shapes, f"text_model.{head}", 2)[0]
    seen = {"vocab_size": (vocab_size, word), "max_position_embeddings": (positions, place)}
    settle_tower(settled, source, document, "text", width, seen, functools.partial(_usual, "text"))
    agree(document, {"projection_size": (out, f"shape of text_model.{head}")}, settled)
    tokens = {name: (number, origin) for name, number, origin in special_ids(source, SPECIAL)}
    stated = [] if "pad_token_id" in tokens else [(document, "pad_token_id")]
    otherwise = tokens.get("pad_token_id", _usual("text", "pad_token_id"))
    settled.choose("pad_token_id", int, *stated, otherwise=otherwise, low=0, high=vocab_size - 1)
    document.note("pad_token_id", document.fates.get("pad_token_id", "the tokenizer has its id"))
    otherwise = tokens.get("last_token_id", (END, "SigLIP's tokenizer"))
    settled.choose("last_token_id", int, otherwise=otherwise, low=0, high=vocab_size - 1)
    document.accept(TOWER_HARMLESS)
    settle_tokenizer(source, "SiglipTokenizer")
    settings = source.document(SETTINGS)
    if settings and settings.fields.get("tokenizer_class") in LEFT and "padding_side" not in settings:
        raise InputError(
            f"{settings.origin}: padding_side is not stated, which means before the text for "
            f"{settings.fields['tokenizer_class']}; SigLIP is padded after it: say padding_side: right there"
        )
    _hold_punctuation(settings, source)
    settle_limit(settled, source, positions)


def _hold_punctuation(settings: Document | None, source: Source) -> None:
    """See that a tokenizer.json of SigLIP's own tokenizer drops punctuation, as its class does before its rules."""
    tokens = source.tokens
    if not tokens or not tokens.wanted or not settings or settings.fields.get("tokenizer_class") != "SiglipTokenizer":
        return
    if not any(each.get("type") == "Replace" and each.get("content") == "" for each in normalizers(tokens.normalizer)):
        raise InputError(
            f"{tokens.origin}: it keeps punctuation, which the tokenizer_class of {settings.origin} drops before; take "
            "it away, so that another is made of spiece.model, or pass --tokenizer with one that does all of it"
        )


def _settle_vision(settled: Settled, source: Source, document: Document) -> None:
    patch, place = "embeddings.patch_embedding.weight", "embeddings.position_embedding.weight"
    width, channels, patch_size, _ = shape_of(source.shapes, f"vision_model.{patch}", 4)
    positions = shape_of(source.shapes, f"vision_model.{place}", 2)[0]
    grid = math.isqrt(positions)
    if grid**2 != positions:
        raise InputError(f"vision_model.{place} has {positions} rows, expected a square number of patches")
    seen = {
        "image_size": (_stated_size(document, grid, patch_size), place),
        "patch_size": (patch_size, patch),
        "num_channels": (channels, patch),
    }
    settle_tower(settled, source, document, "vision", width, seen, functools.partial(_usual, "vision"))
    document.accept(TOWER_HARMLESS)


def _stated_size(document: Document, grid: int, patch_size: int) -> int:
    """Give the pictures' size: it may be some pixels more than the patches cover, as 384 is of patches of 14."""
    stated = document.take("image_size", int, grid * patch_size, low=1)
    return int(stated) if stated // patch_size == grid else grid * patch_size

"""What a CLIP network is, in numbers, and how it is read from shapes and documents."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...validation.errors import GateError, InputError
from ..bert.config import CONFIG_HARMLESS
from ..documents import Configured, Document, Harmless, Only, Settled
from ..family import Shapes, Source
from ..pictures import MEAN, STD, Pictures, settle_pictures
from ..tokenizer import SETTINGS, settle_tokenizer, special_ids

CONFIG = "config.json"
ACTIVATIONS = ("quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "silu", "swish", "relu")

HIGHEST = 2
"""An eos_token_id that is none: such files are older than transformers 4.31, which pools at the highest id for them."""

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "text": {"num_attention_heads": 8, "pad_token_id": 1, "bos_token_id": 49406, "eos_token_id": 49407},
    "vision": {"num_attention_heads": 12},
}
BOTH = {"layer_norm_eps": 1e-5, "hidden_act": "quick_gelu"}
"""What CLIPTextConfig and CLIPVisionConfig of transformers 5.24 take where config.json is silent."""

TOWER_HARMLESS: Harmless = {
    **CONFIG_HARMLESS,
    **dict.fromkeys(("attention_dropout", "dropout"), "dropout, which inference leaves out"),
    **dict.fromkeys(("initializer_factor",), "training only"),
    "projection_dim": "the projections' shapes show it",
    "model_type": Only(("clip_text_model", "clip_vision_model", "clip"), "a tower of CLIP"),
}
HARMLESS: Harmless = {
    **CONFIG_HARMLESS,
    **dict.fromkeys(("initializer_factor", "logit_scale_init_value"), "training only"),
    **dict.fromkeys(("text_config_dict", "vision_config_dict"), Only((None, {}), "nothing beside the towers' own")),
}
"""config.json, by CLIPConfig of transformers 5.24."""

SPECIAL = {
    "bos_token_id": ("bos_token", ("<|startoftext|>",)),
    "last_token_id": ("eos_token", ("<|endoftext|>",)),
    "pad_token_id": ("pad_token", ()),
}
"""Configuration's field -> the tokenizer documents' name of the token, and its usual texts."""


@dataclass(frozen=True)
class TowerConfig:
    """What both towers have. Field names are Hugging Face's."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    layer_norm_eps: float = 1e-5
    hidden_act: str = "quick_gelu"


@dataclass(frozen=True)
class TextConfig(TowerConfig):
    """The text tower."""

    vocab_size: int = 49408
    max_position_embeddings: int = 77
    pad_token_id: int = 49407
    bos_token_id: int = 49406
    eos_token_id: int = 49407
    """Where it first stands, a text is pooled; `HIGHEST` stands for the highest id."""
    last_token_id: int = 49407
    """What the tokenizer ends a text with."""
    max_seq_length: int = 77
    truncation_side: str = "right"


@dataclass(frozen=True)
class VisionConfig(TowerConfig):
    """The image tower."""

    image_size: int = 224
    patch_size: int = 32
    num_channels: int = 3

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class ClipConfig:
    """Both towers, the width that they are projected to, and how pictures are prepared."""

    text: TextConfig
    vision: VisionConfig
    projection_dim: int
    pictures: Pictures = field(default_factory=Pictures)


Four = tuple[int, int, int, int]


def _openai(text: Four, vision: Four, patch_size: int, projection: int) -> ClipConfig:
    pictures = Pictures((224,), mean=MEAN, std=STD)
    return ClipConfig(TextConfig(*text), VisionConfig(*vision, patch_size=patch_size), projection, pictures)


SIZES = {
    "base": _openai((512, 12, 8, 2048), (768, 12, 12, 3072), 32, 512),
    "base-16": _openai((512, 12, 8, 2048), (768, 12, 12, 3072), 16, 512),
    "large": _openai((768, 12, 12, 3072), (1024, 24, 16, 4096), 14, 768),
    "tiny": ClipConfig(
        TextConfig(32, 2, 4, 64, 1e-5, "gelu", 200, 20, 1, 198, 199, 199, 20),
        VisionConfig(24, 2, 2, 40, image_size=16, patch_size=4),
        12,
        Pictures((16,), mean=MEAN, std=STD),
    ),
}
"""Published: openai/clip-vit-base-patch32, -base-patch16, -large-patch14. And a tiny one."""


def recognise(source: Source) -> str:
    """Say why a checkpoint belongs here."""
    names = ("text_projection.weight", "visual_projection.weight", "vision_model.pre_layrnorm.weight")
    return f"names {', '.join(names)}" if source.shapes.keys() >= {*names} else ""


def configure(source: Source) -> Configured:
    """Read both towers: sizes from shapes, the rest from config.json, or transformers' default where that is silent.

    Raises:
        InputError: there is no config.json, or a field contradicts the shapes or is not computed here.
    """
    document = source.document(CONFIG)
    if document is None:
        raise InputError(
            f"no {CONFIG} lies beside the checkpoint: networks of the same shapes are trained with quick_gelu and with "
            "gelu; put it there, or pass --config FILE"
        )
    document.take("model_type", str, "clip", choices=("clip",))
    whole, text, vision = source.settled(), source.settled("text."), source.settled("vision.")
    projection = _shape(source.shapes, "text_projection.weight", 2)[0]
    _agree(document, {"projection_dim": (projection, "shape of text_projection.weight")}, whole)
    _settle_text(text, source, document.part("text_config"))
    _settle_vision(vision, source, document.part("vision_config"))
    pictures = source.settled("pictures.")
    settle_pictures(pictures, source, vision.values["image_size"])
    document.accept(HARMLESS)
    towers = TextConfig(**text.values), VisionConfig(**vision.values)
    config = ClipConfig(*towers, projection, Pictures(**pictures.values))
    parts = (whole, text, vision, pictures)
    return Configured(config, {f"{s.part}{name}": origin for s in parts for name, origin in s.origins.items()})


def _settle_text(settled: Settled, source: Source, document: Document) -> None:
    shapes, word, place = source.shapes, "embeddings.token_embedding.weight", "embeddings.position_embedding.weight"
    vocab_size, width = _shape(shapes, f"text_model.{word}", 2)
    positions = _shape(shapes, f"text_model.{place}", 2)[0]
    seen = {"vocab_size": (vocab_size, word), "max_position_embeddings": (positions, place)}
    _settle_tower(settled, source, document, "text", width, seen)
    end = settled.choose(
        "eos_token_id", int, (document, "eos_token_id"), otherwise=_default("text", "eos_token_id"), low=0
    )
    tokens = {name: (number, origin) for name, number, origin in special_ids(source, SPECIAL)}
    legacy = end == HIGHEST
    last = (vocab_size - 1, "the highest id, as eos_token_id 2 means") if legacy else (end, f"{CONFIG}: eos_token_id")
    silent = {"last_token_id": last, "bos_token_id": _default("text", "bos_token_id")}
    silent["pad_token_id"] = _default("text", "pad_token_id")
    for name in SPECIAL:
        stated = [] if name in tokens or name == "last_token_id" else [(document, name)]
        settled.choose(name, int, *stated, otherwise=tokens.get(name, silent[name]), low=0, high=vocab_size - 1)
        document.note(name, document.fates.get(name, "the tokenizer has its id"))
    if settled.values["last_token_id"] != last[0]:
        raise InputError(
            f"{settled.origins['last_token_id']} has the id {settled.values['last_token_id']}, but {CONFIG} pools a "
            f"text at {last[0]} ({last[1]}); pass the tokenizer of this network with --tokenizer, or --no-tokenizer"
        )
    document.accept(TOWER_HARMLESS)
    settle_tokenizer(source, "CLIPTokenizer")
    settings = source.document(SETTINGS)
    limits = [(settings, "model_max_length")] if settings and "model_max_length" in settings else []
    limit = settled.choose(
        "max_seq_length", float, *limits, otherwise=(positions, "as many as there are positions"), low=3
    )
    settled.values["max_seq_length"] = int(min(limit, positions))
    if settings:
        settings.take("padding_side", str, "right", choices=("right",))
    sides = ("right", "left")
    default = ("right", "default of transformers' tokenizers")
    settled.choose("truncation_side", str, (settings, "truncation_side"), otherwise=default, choices=sides)


def _settle_vision(settled: Settled, source: Source, document: Document) -> None:
    patch, place = "embeddings.patch_embedding.weight", "embeddings.position_embedding.weight"
    width, channels, patch_size, _ = _shape(source.shapes, f"vision_model.{patch}", 4)
    positions = _shape(source.shapes, f"vision_model.{place}", 2)[0]
    grid = math.isqrt(max(positions - 1, 0))
    if grid < 1 or grid**2 != positions - 1:
        raise InputError(f"vision_model.{place} has {positions} rows, expected a square number of patches and 1")
    seen = {
        "image_size": (grid * patch_size, place),
        "patch_size": (patch_size, patch),
        "num_channels": (channels, patch),
    }
    _settle_tower(settled, source, document, "vision", width, seen)
    document.accept(TOWER_HARMLESS)


def _settle_tower(
    settled: Settled, source: Source, document: Document, tower: str, width: int, seen: Mapping[str, tuple[int, str]]
) -> None:
    prefix, inner = f"{tower}_model.", "encoder.layers.0.mlp.fc1.weight"
    numbered = re.compile(rf"{tower}_model\.encoder\.layers\.(\d+)\.")
    layers = {int(match[1]) for name in source.shapes if (match := numbered.match(name))}
    if not layers or len(layers) <= max(layers):
        raise GateError(f"the tensors {prefix}encoder.layers.* do not number the layers 0, 1, 2, ...")
    sizes = {name: (value, f"shape of {prefix}{origin}") for name, (value, origin) in seen.items()}
    sizes["hidden_size"] = (width, f"shape of {prefix}embeddings.position_embedding.weight")
    sizes["num_hidden_layers"] = (len(layers), f"names {prefix}encoder.layers.*")
    sizes["intermediate_size"] = (_shape(source.shapes, prefix + inner, 2)[0], f"shape of {prefix}{inner}")
    _agree(document, sizes, settled)
    for name, kind, expected in (
        ("num_attention_heads", int, {"low": 1}),
        ("layer_norm_eps", float, {"low": 0}),
        ("hidden_act", str, {"choices": ACTIVATIONS}),
    ):
        settled.choose(name, kind, (document, name), otherwise=_default(tower, name), **expected)
    heads = settled.values["num_attention_heads"]
    if width % heads:
        raise InputError(
            f"{settled.origins['num_attention_heads']}: num_attention_heads is {heads}, which does not divide "
            f"hidden_size {width}; say it with --set {settled.part}num_attention_heads="
        )


def _default(tower: str, name: str) -> tuple[Any, str]:
    return {**DEFAULTS[tower], **BOTH}[name], f"default of transformers' CLIP{tower.title()}Config"


def _agree(document: Document, seen: Mapping[str, tuple[int, str]], settled: Settled) -> None:
    """Settle what shapes show; refuse a document that contradicts them."""
    for name, (value, origin) in seen.items():
        settled.put(name, value, origin)
        if document.take(name, int, value) != value:
            raise InputError(
                f"{document.origin}: {settled.part}{name} is {document.fields[name]}, but the checkpoint's tensors say "
                f"{value} ({origin})"
            )


def _shape(shapes: Shapes, name: str, rank: int) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None or len(shape) != rank or 0 in shape:
        raise GateError(f"tensor {name} must be there with {rank} dimensions, got {shape or 'nothing'}")
    return shape

"""CLIP as open_clip saves it: its names, and open_clip_config.json, read field by field.

By open_clip 2 and 3: a model's `model_cfg`, and `preprocess_cfg` for pictures. A text is pooled at its highest id, and
no mask is taken: the end of a text is before all padding, and no token sees what comes after it.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from ...validation.errors import GateError, InputError
from ..documents import JSON, Configured, Document, Harmless, Only, Settled
from ..family import Source
from ..pictures import MEAN, STD
from ..tokenizer import settle_tokenizer, special_ids
from .config import HIGHEST, OPEN_CLIP, SPECIAL, ClipConfig, agree, configured, settle_limit, shape_of

PLACE = "open_clip_config.json"
ANCHOR = "visual.class_embedding"
NAMES = ("token_embedding.weight", "text_projection", ANCHOR, "visual.proj", "visual.conv1.weight")

EPSILON = 1e-5
HEAD_WIDTH, HEADS, MLP_RATIO = 64, 8, 4.0
"""What open_clip's CLIPVisionCfg and CLIPTextCfg take where model_cfg is silent."""

TEXT_HARMLESS: Harmless = {
    "hf_tokenizer_name": "where the tokenizer was from; the one beside the checkpoint is read",
    "tokenizer_kwargs": Only((None, {}), "the tokenizer beside the checkpoint is read"),
    **dict.fromkeys(("ls_init_value", "hf_model_name"), Only((None,), "nothing is scaled or replaced")),
    **dict.fromkeys(("no_causal_mask", "embed_cls", "output_tokens"), Only((False,), "a causal tower without one")),
    "pool_type": Only(("argmax",), "the state at the highest id, as here"),
    "proj_type": Only(("linear",), "a matrix, as here"),
    "proj_bias": Only((False,), "a matrix, as here"),
}
VISION_HARMLESS: Harmless = {
    "patch_dropout": "dropout, which inference leaves out",
    **dict.fromkeys(("ls_init_value", "timm_model_name"), Only((None,), "nothing is scaled or replaced")),
    **dict.fromkeys(("attentional_pool", "no_ln_pre", "output_tokens"), Only((False,), "the class token's state")),
    "pool_type": Only(("tok",), "the class token's state, as here"),
    "pos_embed_type": Only(("learnable",), "a table of positions, as here"),
    "final_ln_after_pool": Only((False,), "of the class token alone, it is the same"),
}


def recognise(source: Source) -> str:
    """Say why a checkpoint belongs here."""
    return f"names {', '.join(NAMES)}" if source.shapes.keys() >= {*NAMES} else ""


def configure(source: Source) -> Configured:
    """Read both towers: sizes from shapes, the rest from open_clip_config.json, or open_clip's default.

    Raises:
        InputError: there is no such document, or a field contradicts the shapes or is not computed here.
    """
    document = source.document(PLACE)
    if document is None:
        raise InputError(
            f"no {PLACE} lies beside the checkpoint: networks of the same shapes are trained with quick_gelu and with "
            "gelu; put it there, or pass --config FILE"
        )
    model = document.part("model_cfg")
    text, vision = source.settled("text."), source.settled("vision.")
    whole, pictures = source.settled(), source.settled("pictures.")
    whole.put("names", OPEN_CLIP, "names of the tensors")
    width, projection = shape_of(source.shapes, "text_projection", 2)
    agree(model, {"embed_dim": (projection, "shape of text_projection")}, Settled({}))
    whole.put("projection_dim", projection, "shape of text_projection")
    quick = model.take("quick_gelu", bool, default=False)
    activation = "quick_gelu" if quick else "gelu"
    _settle_text(text, source, model.part("text_cfg"), width)
    _settle_vision(vision, source, model.part("vision_cfg"))
    for tower in (text, vision):
        tower.put("hidden_act", activation, f"{PLACE}: model_cfg.quick_gelu" if quick else "default of open_clip")
        tower.put("layer_norm_eps", EPSILON, "open_clip's LayerNorm")
    model.accept({"custom_text": Only((False,), "its names are those of the other layout")})
    _settle_pictures(pictures, document.part("preprocess_cfg"), vision.values["image_size"])
    for name, value in (("multimodal", False), ("prompts", ()), ("default_prompt", ""), ("similarity", "cosine")):
        whole.put(name, value, "open_clip has none" if not value else "as open_clip compares them")
    whole.choose("normalize", bool, otherwise=(True, "as open_clip compares them"))
    return configured(whole, {"text": text, "vision": vision}, pictures)


def _settle_text(settled: Settled, source: Source, document: Document, width: int) -> None:
    vocab_size, _ = shape_of(source.shapes, "token_embedding.weight", 2)
    positions, _ = shape_of(source.shapes, "positional_embedding", 2)
    _settle_blocks(settled, source, document, "transformer.", width)
    shown = {"vocab_size": (vocab_size, "vocab_size"), "max_position_embeddings": (positions, "context_length")}
    for name, (value, field) in shown.items():
        settled.put(name, value, f"shape of {'token' if name == 'vocab_size' else 'positional'}_embedding")
        agree(document, {field: (value, settled.origins[name])}, Settled({}))
    settled.choose(
        "num_attention_heads", int, (document, "heads"), otherwise=(HEADS, "default of open_clip's CLIPTextCfg"), low=1
    )
    _hold_heads(settled, width)
    settled.put("eos_token_id", HIGHEST, "open_clip pools at the highest id")
    tokens = {name: (number, origin) for name, number, origin in special_ids(source, SPECIAL)}
    silent = {"last_token_id": vocab_size - 1, "bos_token_id": vocab_size - 2, "pad_token_id": 0}
    for name, value in silent.items():
        otherwise = tokens.get(name, (value, "open_clip's tokenizer"))
        settled.choose(name, int, otherwise=otherwise, low=0, high=vocab_size - 1)
    if settled.values["last_token_id"] != vocab_size - 1:
        raise InputError(
            f"{settled.origins['last_token_id']} has the id {settled.values['last_token_id']}, but open_clip pools a "
            f"text at the highest one, {vocab_size - 1}; pass the network's tokenizer with --tokenizer"
        )
    document.accept(TEXT_HARMLESS)
    settle_tokenizer(source, "CLIPTokenizer")
    settle_limit(settled, source, positions)


def _settle_vision(settled: Settled, source: Source, document: Document) -> None:
    width, channels, patch_size, _ = shape_of(source.shapes, "visual.conv1.weight", 4)
    positions, _ = shape_of(source.shapes, "visual.positional_embedding", 2)
    grid = math.isqrt(max(positions - 1, 0))
    if grid < 1 or grid**2 != positions - 1:
        raise InputError(f"visual.positional_embedding has {positions} rows, expected a square number of patches and 1")
    _settle_blocks(settled, source, document, "visual.transformer.", width)
    seen = {"image_size": grid * patch_size, "patch_size": patch_size}
    for name, value in seen.items():
        agree(document, {name: (value, "shape of visual.positional_embedding and visual.conv1.weight")}, settled)
    settled.put("num_channels", channels, "shape of visual.conv1.weight")
    head = document.take("head_width", int, HEAD_WIDTH, low=1)
    origin = f"{PLACE}: head_width" if "head_width" in document else "default of open_clip's CLIPVisionCfg"
    settled.choose("num_attention_heads", int, otherwise=(width // head, origin), low=1)
    _hold_heads(settled, width)
    document.accept(VISION_HARMLESS)


def _settle_blocks(settled: Settled, source: Source, document: Document, prefix: str, width: int) -> None:
    numbered = re.compile(rf"{re.escape(prefix)}resblocks\.(\d+)\.")
    layers = {int(match[1]) for name in source.shapes if (match := numbered.match(name))}
    if not layers or len(layers) <= max(layers):
        raise GateError(f"the tensors {prefix}resblocks.* do not number the layers 0, 1, 2, ...")
    up = f"{prefix}resblocks.0.mlp.c_fc.weight"
    inner = shape_of(source.shapes, up, 2)[0]
    agree(document, {"layers": (len(layers), f"names {prefix}resblocks.*")}, Settled({}))
    agree(document, {"width": (width, f"shape of {up}")}, Settled({}))
    ratio = document.take("mlp_ratio", float, inner / width, low=0)
    if abs(width * ratio - inner) >= 1:
        raise InputError(f"{document.origin}: mlp_ratio is {ratio}, but {up} is {inner} wide")
    settled.put("num_hidden_layers", len(layers), f"names {prefix}resblocks.*")
    settled.put("hidden_size", width, f"shape of {up}")
    settled.put("intermediate_size", inner, f"shape of {up}")


def _hold_heads(settled: Settled, width: int) -> None:
    heads = settled.values["num_attention_heads"]
    if heads < 1 or width % heads:
        raise InputError(
            f"{settled.origins['num_attention_heads']}: {heads} heads do not divide a width of {width}; say "
            f"how many there are with --set {settled.part}num_attention_heads="
        )


def _settle_pictures(settled: Settled, document: Document, size: int) -> None:
    """Read `preprocess_cfg`, by open_clip's image_transform for inference: resize, crop, RGB, normalise."""
    document.take("size", int, size, choices=(size,)) if type(document.fields.get("size")) is int else None
    if "size" in document and type(document.fields["size"]) is list:
        document.take("size", list, choices=([size, size],))
    document.take("mode", str, "RGB", choices=("RGB",))
    document.accept({"fill_color": "of a frame, which these ways to resize do not need"})
    mode = document.take("resize_mode", str, "shortest", choices=("shortest", "squash"))
    way = document.take("interpolation", str, "bicubic", choices=("bicubic", "bilinear"))
    squash = mode == "squash"
    place = f"{PLACE}: preprocess_cfg.{{}}"
    settled.put("resize", (size, size) if squash else (size,), place.format("resize_mode"))
    settled.put("resample", way, place.format("interpolation"))
    settled.put("crop", not squash, place.format("resize_mode"))
    settled.put("offset", "half to even", "open_clip's crop")
    settled.put("rgb_first", False, "open_clip converts after the crop")
    settled.put("alpha", "dropped", "open_clip's conversion")
    for name, usual in (("mean", MEAN), ("std", STD)):
        given = document.take(name, list, list(usual))
        if len(given) != 3 or not all(type(number) in (int, float) for number in given):
            raise InputError(f"{document.origin}: preprocess_cfg.{name} is {given}, expected three numbers")
        settled.put(name, tuple(map(float, given)), place.format(name))


def documents(config: ClipConfig) -> Mapping[str, JSON]:
    """Give what open_clip writes beside such a checkpoint."""
    text, vision, pictures = config.text, config.vision, config.pictures
    assert text
    assert vision
    model: dict[str, Any] = {
        "embed_dim": config.projection_dim,
        "quick_gelu": text.hidden_act == "quick_gelu",
        "vision_cfg": {
            "image_size": vision.image_size,
            "layers": vision.num_hidden_layers,
            "width": vision.hidden_size,
            "patch_size": vision.patch_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "mlp_ratio": vision.intermediate_size / vision.hidden_size,
        },
        "text_cfg": {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "width": text.hidden_size,
            "heads": text.num_attention_heads,
            "layers": text.num_hidden_layers,
            "mlp_ratio": text.intermediate_size / text.hidden_size,
        },
    }
    seen = {
        "mean": list(pictures.mean),
        "std": list(pictures.std),
        "interpolation": pictures.resample,
        "resize_mode": "shortest" if pictures.crop else "squash",
    }
    return {PLACE: {"model_cfg": model, "preprocess_cfg": seen if pictures.std else {}}}

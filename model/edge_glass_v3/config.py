"""What a model of `train_perceiver_v3.py` is, in numbers, and how it is read from names, shapes and documents."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...validation.errors import InputError
from ..clip.config import shape_of
from ..documents import Configured, Document, Harmless, shown
from ..edge_glass.config import layers_of
from ..family import Source

CONFIG = "config.json"
ANCHOR, LATENTS = "alignment_projector.proj.1.weight", "perceiver.latents"
INNER = "perceiver.layers.0.ffn.net.0.weight"
ADAPTERS = {"vision": "vision_adapter.net.", "text": "text_adapter.net."}
FIELDS = ("num_attn_heads", "mrl_dims", "perceiver_dim", "d_align")
"""By which the script's configuration is known."""

HARMLESS: Harmless = {
    **dict.fromkeys(("vision_model_name", "text_model_name"), "of the features, which others compute"),
    **dict.fromkeys(("temperature", "mrl_weight", "clip_weight", "perceiver_dropout"), "of the training"),
    "perceiver_mlp_ratio": "the tensors' shapes show the inner width",
}
"""The script's configuration."""


@dataclass(frozen=True)
class V3Config:
    """Adapters of two kinds of features, and one perceiver for both.

    Args:
        vision: width of an image encoder's features.
        text: width of a text encoder's features.
        vision_inner: inner width of the image adapter.
        text_inner: inner width of the text adapter.
        width: of the perceiver.
        num_latents: of the perceiver.
        num_hidden_layers: of the perceiver.
        num_heads: of its attentions.
        inner: inner width of its feed-forward parts.
        out: width of what is aligned.
        mrl: widths of the vectors' beginnings that are given, each of length one.
    """

    vision: int
    text: int
    vision_inner: int
    text_inner: int
    width: int
    num_latents: int
    num_hidden_layers: int
    num_heads: int
    inner: int
    out: int
    mrl: tuple[int, ...] = ()


SIZES = {
    "base": V3Config(1024, 384, 2048, 768, 512, 64, 4, 8, 2048, 512, (64, 128, 256, 512)),
    "tiny": V3Config(12, 10, 14, 18, 16, 3, 1, 2, 20, 12, (4, 12)),
}
"""Of upstream's script, for features of CLIP ViT-L/14 and MiniLM. And a tiny one."""


def recognise(source: Source) -> str:
    """Say why a checkpoint belongs here."""
    wanted = (ANCHOR, LATENTS, *(f"{place}4.weight" for place in ADAPTERS.values()))
    return f"names {LATENTS} and {ANCHOR}" if all(name in source.shapes for name in wanted) else ""


def configure(source: Source) -> Configured:
    """Read sizes from shapes; heads and the widths of beginnings from config.json, in the script's words, or --set.

    Raises:
        InputError: these are stated nowhere (both are listed), or something contradicts the shapes.
        GateError: a tensor that shows a size is missing.
    """
    found = source.documents.get(CONFIG)
    own = found is not None and isinstance(found.content, dict) and any(field in found.content for field in FIELDS)
    document = source.document(CONFIG) if own else None
    wanted = {"num_heads": "num_attn_heads", "mrl": "mrl_dims"}
    missing = [
        f"{field} (--set {field}=, or {name} in {CONFIG})"
        for field, name in wanted.items()
        if field not in source.given and (document is None or name not in document)
    ]
    if missing:
        raise InputError(f"no tensor's shape shows {' and '.join(missing)}, and no document states it")
    settled, shapes = source.settled(), source.shapes
    count, width = shape_of(shapes, LATENTS, 2)
    layers, origin = layers_of(shapes, "perceiver.layers")
    seen: dict[str, tuple[int, str, str]] = {
        "width": (width, f"shape of {LATENTS}", "perceiver_dim"),
        "num_latents": (count, f"shape of {LATENTS}", "num_latents"),
        "num_hidden_layers": (layers, origin, "num_perceiver_layers"),
        "inner": (shape_of(shapes, INNER, 2)[0], f"shape of {INNER}", ""),
        "out": (shape_of(shapes, ANCHOR, 2)[0], f"shape of {ANCHOR}", "d_align"),
    }
    for kind, place in ADAPTERS.items():
        inner, features = shape_of(shapes, f"{place}1.weight", 2)
        seen[kind] = features, f"shape of {place}1.weight", f"d_{kind}"
        seen[f"{kind}_inner"] = inner, f"shape of {place}1.weight", ""
    for field, (value, told, name) in seen.items():
        settled.put(field, value, told)
        if document and name and document.take(name, int, value) != value:
            raise InputError(
                f"{document.origin}: {name} is {shown(document.fields[name])}, but the checkpoint's tensors say "
                f"{value} ({told})"
            )
    heads = settled.choose("num_heads", int, (document, "num_attn_heads"), low=1)
    if width % heads:
        raise InputError(f"{settled.origins['num_heads']}: num_heads is {heads}, which does not divide {width}")
    settled.values["mrl"], settled.origins["mrl"] = _beginnings(source, document, settled.values["out"])
    if document:
        document.accept(HARMLESS)
    return Configured(V3Config(**settled.values), settled.origins)


def _beginnings(source: Source, document: Document | None, width: int) -> tuple[tuple[int, ...], str]:
    """Settle the widths of the vectors' beginnings, as they are listed."""
    given = source.given.get("mrl")
    if document and given:
        document.note("mrl_dims", f"{given.option} says {shown(given.value)} in its place")
    listed = given.value if given else document.take("mrl_dims", list) if document else None
    origin = given.option if given else f"{CONFIG}: mrl_dims"
    if not isinstance(listed, list) or not all(type(n) is int and 1 <= n <= width for n in listed):
        raise InputError(
            f"{origin}: mrl is {shown(listed)}, expected a list of whole numbers from 1 to {width}, the width of what "
            "is aligned"
        )
    return tuple(dict.fromkeys(listed)), origin


def documents(config: V3Config) -> Mapping[str, Any]:
    """Give the script's configuration."""
    return {
        CONFIG: {
            "d_vision": config.vision,
            "d_text": config.text,
            "perceiver_dim": config.width,
            "num_latents": config.num_latents,
            "num_perceiver_layers": config.num_hidden_layers,
            "num_attn_heads": config.num_heads,
            "d_align": config.out,
            "mrl_dims": list(config.mrl),
        }
    }

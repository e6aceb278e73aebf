"""Visualized-BGE: an EVA-02 image tower fused into a BGE text encoder."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...validation.entry_point import Axis, EntryPoint, Pixels, TensorSpec
from ..bert import CONFIG, documents, embeddings, embeddings_output, encode_text, text_inputs, text_layout
from ..family import Family, Shapes
from . import probes, rules
from .config import MEAN, SIZES, STD, VISUAL, VisualizedBGEConfig, configure, recognise, rotary_tables

if TYPE_CHECKING:
    from ..network import Network
    from ..reference import Original, Reference


def _entry_points(config: VisualizedBGEConfig) -> tuple[EntryPoint, ...]:
    size, channels = config.vision.image_size, config.vision.channels
    images = TensorSpec(
        "images", "float32", ("batch", size, size, channels), Pixels(MEAN, STD, config.vision.patch_size)
    )
    output = embeddings_output(config.text)
    fused = {"batch": Axis(), "tokens": Axis(1, config.max_fused_tokens)}
    return (
        encode_text(config.text),
        EntryPoint("encode_image", (images,), output, {"batch": Axis()}, rows="batch"),
        EntryPoint("encode_multimodal", (images, *text_inputs(config.text)), output, fused, rows="batch"),
    )


def _network(config: VisualizedBGEConfig) -> "Network":
    from ..network import Network
    from .modeling import BGEVisualized

    return Network(lambda rngs: BGEVisualized(config, rngs=rngs), _entry_points(config))


def _reference(config: VisualizedBGEConfig, original: "Original") -> "Reference":
    from .reference import reference

    return reference(config, original, original.documents.get(CONFIG) or documents(config.text)[CONFIG])


def _layout(config: VisualizedBGEConfig) -> Shapes:
    vision, width = config.vision, config.vision.width
    names = text_layout(config.text, "bge_embeddings.", "bge_encoder.", "bge_pooler.")
    text = {name: names[name] for name in sorted(names, key=lambda n: ("encoder" not in n, "pooler" in n))}
    shapes = text | {
        "model_visual.logit_scale": (),
        f"{VISUAL}cls_token": (1, 1, width),
        f"{VISUAL}pos_embed": (1, vision.patches + 1, width),
        f"{VISUAL}patch_embed.proj.weight": (width, vision.channels, vision.patch_size, vision.patch_size),
        f"{VISUAL}patch_embed.proj.bias": (width,),
    }
    shapes |= dict.fromkeys((f"{VISUAL}rope.freqs_cos", f"{VISUAL}rope.freqs_sin"), (vision.patches, vision.head_dim))
    for i in range(vision.layers):
        shapes |= {f"{VISUAL}blocks.{i}.{name}": shape for name, shape in _block_layout(config).items()}
    head = {"weight": (vision.embed_dim, width), "bias": (vision.embed_dim,)}
    shapes |= {f"{VISUAL}norm.{part}": (width,) for part in head}
    shapes |= {f"{VISUAL}head.{part}": shape for part, shape in head.items()}
    return shapes | {"visual_proj.weight": (width, width), "visual_proj.bias": (width,)}


def _block_layout(config: VisualizedBGEConfig) -> Shapes:
    vision, width, inner = config.vision, config.vision.width, config.vision.mlp_width
    norms = {"norm1": width, "attn.inner_attn_ln": width, "norm2": width, "mlp.ffn_ln": inner}
    dense = {"attn.proj": (width, width), "mlp.w1": (inner, width), "mlp.w2": (inner, width), "mlp.w3": (width, inner)}
    return {
        **{f"{name}.{part}": (size,) for name, size in norms.items() for part in ("weight", "bias")},
        **{f"attn.{name}_proj.weight": (width, width) for name in "qkv"},
        **{f"attn.{name}_bias": (width,) for name in "qv"},
        **{f"attn.rope.freqs_{part}": (vision.patches, vision.head_dim) for part in ("cos", "sin")},
        **{f"{name}.weight": shape for name, shape in dense.items()},
        **{f"{name}.bias": shape[:1] for name, shape in dense.items()},
    }


def _constants(config: VisualizedBGEConfig) -> Mapping[str, np.ndarray]:
    """Give the rotary tables under all their names; one array object per table, as upstream shares one storage."""
    places = [VISUAL, *(f"{VISUAL}blocks.{i}.attn." for i in range(config.vision.layers))]
    tables = dict(zip(("cos", "sin"), rotary_tables(config.vision), strict=True))
    return {f"{place}rope.freqs_{part}": table for place in places for part, table in tables.items()}


def _images(config: VisualizedBGEConfig) -> Mapping[str, Any]:
    """State the preprocessing of FlagEmbedding's validation transform."""
    size = config.vision.image_size
    return {
        "input": "images",
        "layout": "NHWC",
        "dtype": "float32",
        "colour": "RGB",
        "size": size,
        "exif_orientation": "ignored",
        "frame": 0,
        "steps": [
            {
                "do": "resize",
                "shorter_side": size,
                "longer_side": "floor",
                "filter": "bicubic",
                "a": -0.5,
                "antialias": True,
                "arithmetic": "uint8",
                "nearest_in_modes": ["1", "P"],
                "alpha": "premultiplied",
            },
            {"do": "crop", "height": size, "width": size, "offset": "half to even"},
            {"do": "colour", "to": "RGB", "alpha": "dropped"},
            {"do": "normalize", "divide": 255, "mean": list(MEAN), "std": list(STD)},
        ],
    }


FAMILY = Family(
    name="visualized_bge",
    summary="Visualized-BGE: EVA-02 image tower fused into BGE (bge-base-en-v1.5 + B-16, bge-m3 + L-14)",
    recognise=recognise,
    configure=configure,
    config=VisualizedBGEConfig,
    rules=rules.rules,
    axes=rules.axes,
    entry_points=_entry_points,
    network=_network,
    reference=_reference,
    sizes=SIZES,
    layout=_layout,
    constants=_constants,
    images=_images,
    embeddings=lambda config: embeddings(config.text),
    probes=probes.probes,
)

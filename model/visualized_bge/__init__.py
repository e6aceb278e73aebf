"""Visualized-BGE: an EVA-02 image tower fused into a BGE text encoder."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...validation.entry_point import Axis, EntryPoint, Pixels, TensorSpec
from ..bert import CONFIG, documents, encode_text, text_inputs
from ..family import Family
from ..sentences import embeddings, embeddings_output
from . import rules
from .config import MEAN, SIZES, STD, VisualizedBGEConfig, configure, recognise

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
    part=rules.whole,
    entry_points=_entry_points,
    network=_network,
    reference=_reference,
    sizes=SIZES,
    images=_images,
    embeddings=lambda config: embeddings(config.text),
    documents=lambda config: {CONFIG: documents(config.text)[CONFIG]},
)

"""CLIP: a text and an image tower that embed into one space, as transformers' CLIPModel saves them."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from ...validation.cases import Case
from ...validation.entry_point import Axis, EntryPoint, PaddingMask, Pixels, TensorSpec, TokenIds
from ...validation.outputs import Embedding, Scores
from ...validation.taps import tap
from .. import pictures
from ..family import Family, TextRules
from . import rules
from .config import CONFIG, SIZES, ClipConfig, configure, recognise

if TYPE_CHECKING:
    from ..network import Network
    from ..reference import Encode, Original, Reference


UNSTATED = (0.5, 0.5, 0.5)
"""Mean and deviation of the pixels that cases hold where nothing states them."""


def _entry_points(config: ClipConfig) -> tuple[EntryPoint, ...]:
    text, vision, size = config.text, config.vision, config.vision.image_size
    ids = TokenIds(text.vocab_size, text.pad_token_id, text.bos_token_id, text.last_token_id)
    mean, std = config.pictures.mean or UNSTATED, config.pictures.std or UNSTATED
    pixels = Pixels(mean, std, vision.patch_size)

    def texts(rows: str) -> tuple[TensorSpec, TensorSpec]:
        return (
            TensorSpec("input_ids", "int32", (rows, "tokens"), ids),
            TensorSpec("attention_mask", "int32", (rows, "tokens"), PaddingMask("input_ids")),
        )

    def images(rows: str) -> TensorSpec:
        return TensorSpec("images", "float32", (rows, size, size, vision.num_channels), pixels)

    def embeds(name: str) -> tuple[TensorSpec]:
        return (TensorSpec(name, "float32", ("batch", config.projection_dim), kind=Embedding()),)

    batch, tokens = {"batch": Axis()}, {"tokens": Axis(1, text.max_position_embeddings)}
    scores = (TensorSpec("logits_per_image", "float32", ("images", "texts"), kind=Scores()),)
    both = {"images": Axis(), "texts": Axis(), **tokens}
    return (
        EntryPoint("encode_text", texts("batch"), embeds("text_embeds"), batch | tokens, rows="batch"),
        EntryPoint("encode_image", (images("batch"),), embeds("image_embeds"), batch, rows="batch"),
        EntryPoint("similarity", (images("images"), *texts("texts")), scores, both),
    )


def _cases(config: ClipConfig) -> tuple[Case, ...]:
    """Give texts with two ends, the second of which must not count, and one without, which upstream pools at 0."""
    text = config.text
    length = min(8, text.max_position_embeddings)
    end = text.last_token_id
    words = np.setdiff1d(np.arange(text.vocab_size), [text.pad_token_id, text.bos_token_id, end])
    ids = np.resize(words[:: max(1, len(words) // 13)], (3, length)).astype(np.int32)
    ids[:, 0] = text.bos_token_id
    ids[0, [length // 2, length - 1]] = end
    ids[1, [length // 2 - 1, length // 2]] = end
    texts, vision = {"input_ids": ids, "attention_mask": np.ones_like(ids)}, config.vision
    image = np.zeros((1, vision.image_size, vision.image_size, vision.num_channels), np.float32)
    return tuple(
        Case(entry, "two ends of text, and none", inputs)
        for entry, inputs in (("encode_text", texts), ("similarity", {"images": image, **texts}))
    )


def _network(config: ClipConfig) -> "Network":
    from ..network import Network
    from .modeling import Clip

    return Network(lambda rngs: Clip(config, rngs=rngs), _entry_points(config))


def _reference(config: ClipConfig, original: "Original") -> "Reference":
    """Take transformers' CLIPModel."""
    from torch import Tensor
    from torch.nn.functional import normalize

    from .. import upstream
    from ..reference import Function, Reference

    stated = original.documents.get(CONFIG) or _documents(config)[CONFIG]
    library = upstream.transformers()
    state = {n: t for n, t in original.state.items() if not n.endswith("position_ids")}
    model: Any = upstream.load(library.CLIPModel, upstream.configuration(stated), state)

    def seen(images: Tensor) -> Tensor:
        return model.visual_projection(model.vision_model(pixel_values=images.permute(0, 3, 1, 2)).pooler_output)

    def encode_text(input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        pooled = model.text_model(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        return {"text_embeds": normalize(model.text_projection(pooled), dim=-1, eps=0)}

    def encode_image(images: Tensor) -> dict[str, Tensor]:
        return {"image_embeds": normalize(seen(images), dim=-1, eps=0)}

    def similarity(images: Tensor, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        pixels = images.permute(0, 3, 1, 2)
        result = model(input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixels)
        tap("image_embeds", result.image_embeds)
        tap("text_embeds", result.text_embeds)
        return {"logits_per_image": result.logits_per_image}

    entries: dict[str, Function] = {
        "encode_text": encode_text,
        "encode_image": encode_image,
        "similarity": similarity,
    }
    return Reference(f"{upstream.versions('torch', 'transformers')}: CLIPModel", model, entries, state)


def _encode(config: ClipConfig, original: "Original", reference: "Reference") -> Mapping[str, "Encode"]:
    """Let transformers' own tokenizer read raw texts for the text tower."""
    from torch import Tensor

    from .. import upstream

    def embed(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return reference.entries["encode_text"](input_ids=input_ids, attention_mask=attention_mask)["text_embeds"]

    return {"encode_text": upstream.TokenizedEncoder(original, embed, config.text.max_position_embeddings)}


def _documents(config: ClipConfig) -> Mapping[str, Any]:
    """Give what transformers writes beside such a checkpoint."""
    text = {
        n: v for n, v in asdict(config.text).items() if n not in ("last_token_id", "max_seq_length", "truncation_side")
    }
    document = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.projection_dim,
        "text_config": {"model_type": "clip_text_model", **text},
        "vision_config": {"model_type": "clip_vision_model", **asdict(config.vision)},
    }
    return {CONFIG: document, **pictures.documents(config.pictures, config.vision.image_size)}


FAMILY = Family(
    name="clip",
    summary="CLIP: text and image towers in one space, OpenAI's and LAION's in transformers' layout",
    recognise=recognise,
    configure=configure,
    config=ClipConfig,
    part=rules.whole,
    entry_points=_entry_points,
    network=_network,
    reference=_reference,
    sizes=SIZES,
    images=lambda config: pictures.rules(config.pictures, config.vision.image_size),
    embeddings=lambda config: {"pooling": ["first end of text"], "normalize": True},
    anchor="text_model.embeddings.token_embedding.weight",
    documents=_documents,
    texts=lambda config: TextRules(config.text.max_seq_length, config.text.truncation_side),
    cases=_cases,
    encode=_encode,
)

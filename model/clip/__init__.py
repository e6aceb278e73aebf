"""CLIP: a text and an image tower that embed into one space, or one of them: transformers' layout, and open_clip's."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...validation.cases import Case
from ...validation.entry_point import Axis, EntryPoint, PaddingMask, Pixels, TensorSpec, TokenIds
from ...validation.errors import InputError
from ...validation.outputs import Embedding, Scores, States
from .. import pictures
from ..documents import Configured
from ..family import Family, Source, TextRules, Towers
from . import open_clip, rules
from .config import BARE_NAMES, BGE_VL, CONFIG, OPEN_CLIP, SIZES, TEXT, VISION, ClipConfig, configure, recognise

if TYPE_CHECKING:
    from ..network import Network
    from ..reference import Encode, Original, Reference


UNSTATED = (0.5, 0.5, 0.5)
"""Mean and deviation of the pixels that cases hold where nothing states them."""


def _recognise(source: Source) -> str:
    return recognise(source) or open_clip.recognise(source)


def _configure(source: Source) -> Configured:
    return open_clip.configure(source) if open_clip.recognise(source) else configure(source)


def _entry_points(config: ClipConfig) -> tuple[EntryPoint, ...]:
    """Give what each tower embeds, and what both do together."""
    batch = {"batch": Axis()}
    found = []
    if text := config.text:
        tokens = {"tokens": Axis(1, text.max_position_embeddings)}
        states = TensorSpec(
            "last_hidden_state", "float32", ("batch", "tokens", text.hidden_size), kind=States("attention_mask")
        )
        outputs = _outputs(config, "text_embeds", states)
        found.append(EntryPoint("encode_text", _texts(config, "batch"), outputs, batch | tokens, rows="batch"))
    if vision := config.vision:
        states = TensorSpec(
            "last_hidden_state", "float32", ("batch", 1 + vision.patches, vision.hidden_size), kind=States()
        )
        outputs = _outputs(config, "image_embeds", states)
        found.append(EntryPoint("encode_image", (_images(config, "batch"),), outputs, batch, rows="batch"))
    if not text or not vision:
        return tuple(found)
    if config.multimodal:
        inputs = (_images(config, "batch"), *_texts(config, "batch"))
        embeds = (TensorSpec("multimodal_embeds", "float32", ("batch", config.projection_dim), kind=Embedding()),)
        found.append(EntryPoint("encode_multimodal", inputs, embeds, batch | tokens, rows="batch"))
    scores = (TensorSpec("logits_per_image", "float32", ("images", "texts"), kind=Scores()),)
    both = {"images": Axis(), "texts": Axis(), **tokens}
    return (*found, EntryPoint("similarity", (_images(config, "images"), *_texts(config, "texts")), scores, both))


def _texts(config: ClipConfig, rows: str) -> tuple[TensorSpec, ...]:
    text = config.text
    assert text
    ids = TokenIds(text.vocab_size, text.pad_token_id, text.bos_token_id, text.last_token_id)
    mask = TensorSpec("attention_mask", "int32", (rows, "tokens"), PaddingMask("input_ids"))
    return (TensorSpec("input_ids", "int32", (rows, "tokens"), ids), *((mask,) if config.masked else ()))


def _images(config: ClipConfig, rows: str) -> TensorSpec:
    vision, mean, std = config.vision, config.pictures.mean or UNSTATED, config.pictures.std or UNSTATED
    assert vision
    shape = (rows, vision.image_size, vision.image_size, vision.num_channels)
    return TensorSpec("images", "float32", shape, Pixels(mean, std, vision.patch_size))


def _outputs(config: ClipConfig, name: str, states: TensorSpec) -> tuple[TensorSpec, ...]:
    """Give what a tower's entry point gives: features, or without a projection all states and the pooled one."""
    kind = Embedding(unit=config.normalize)
    if config.projection_dim:
        return (TensorSpec(name, "float32", ("batch", config.projection_dim), kind=kind),)
    return states, TensorSpec("pooler_output", "float32", ("batch", states.shape[-1]), kind=kind)


def _cases(config: ClipConfig) -> tuple[Case, ...]:
    """Give texts with two ends, the second of which must not count, and one without, which upstream pools at 0."""
    text, vision = config.text, config.vision
    if text is None:
        return ()
    length = min(8, text.max_position_embeddings)
    end = text.last_token_id
    words = np.setdiff1d(np.arange(text.vocab_size), [text.pad_token_id, text.bos_token_id, end])
    ids = np.resize(words[:: max(1, len(words) // 13)], (3, length)).astype(np.int32)
    ids[:, 0] = text.bos_token_id
    ids[0, [length // 2, length - 1]] = end
    ids[1, [length // 2 - 1, length // 2]] = end
    inputs = {"input_ids": ids, **({"attention_mask": np.ones_like(ids)} if config.masked else {})}
    cases: dict[str, dict[str, np.ndarray]] = {"encode_text": inputs}
    if vision:
        image = np.zeros((1, vision.image_size, vision.image_size, vision.num_channels), np.float32)
        cases["similarity"] = {"images": image, **inputs}
    return tuple(Case(entry, "two ends of text, and none", inputs) for entry, inputs in cases.items())


def _network(config: ClipConfig) -> "Network":
    from ..network import Network
    from .modeling import Clip

    return Network(lambda rngs: Clip(config, rngs=rngs), _entry_points(config))


def _reference(config: ClipConfig, original: "Original") -> "Reference":
    from .reference import reference

    return reference(config, original, original.documents.get(CONFIG) or _documents(config).get(CONFIG))


def _encode(config: ClipConfig, original: "Original", reference: "Reference") -> Mapping[str, "Encode"]:
    """Let transformers' own tokenizer and image processor prepare raw texts and pictures."""
    from torch import Tensor

    from .. import upstream

    outputs = {e.name: e.embedding.name for e in _entry_points(config) if e.embedding}

    def read(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        masks = {"attention_mask": attention_mask} if config.masked else {}
        return reference.entries["encode_text"](input_ids=input_ids, **masks)[outputs["encode_text"]]

    def seen(images: Tensor) -> Tensor:
        return reference.entries["encode_image"](images=images)[outputs["encode_image"]]

    def both(images: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        inputs = {"images": images, "input_ids": input_ids, "attention_mask": attention_mask}
        return reference.entries["encode_multimodal"](**inputs)[outputs["encode_multimodal"]]

    found: dict[str, Encode] = {}
    texts = pictured = None
    if config.text and original.texts:
        before, positions = _texts_rules(config).prefix, config.text.max_position_embeddings
        found["encode_text"] = texts = upstream.TokenizedEncoder(original, read, positions, before)
    if config.vision and config.pictures.std and config.names != OPEN_CLIP:
        found["encode_image"] = pictured = upstream.PictureEncoder(original, seen)
    if config.multimodal and texts and pictured:
        found["encode_multimodal"] = upstream.PairEncoder(texts, pictured, both)
    return found


def _texts_rules(config: ClipConfig) -> TextRules:
    text = config.text
    if text is None:
        return TextRules()
    prompts = dict(config.prompts)
    return TextRules(text.max_seq_length, text.truncation_side, prompts, config.default_prompt)


def _documents(config: ClipConfig) -> Mapping[str, Any]:
    """Give what upstream writes beside such a checkpoint."""
    if config.names == OPEN_CLIP:
        return open_clip.documents(config)
    own = ("last_token_id", "max_seq_length", "truncation_side")
    towers: dict[str, dict[str, Any]] = {}
    if config.text:
        stated = {n: v for n, v in asdict(config.text).items() if n not in own}
        towers["text_config"] = {"model_type": "clip_text_model", **stated}
    if config.vision:
        towers["vision_config"] = {"model_type": "clip_vision_model", **asdict(config.vision)}
    if len(towers) == 2:
        of_its_own = {"auto_map": {"AutoModel": BGE_VL}} if config.multimodal else {}
        document: dict[str, Any] = {"architectures": ["CLIPModel"], "model_type": "clip", **towers, **of_its_own}
    else:
        document = next(iter(towers.values()))
    document |= {"projection_dim": config.projection_dim} if config.projection_dim else {}
    seen = pictures.documents(config.pictures, config.vision.image_size) if config.vision else {}
    return {CONFIG: document, **seen}


def _towers(config: ClipConfig) -> Towers:
    """Give what Transformers.js opens: the features of each tower, and the scores.

    Raises:
        InputError: it has no class for the network.
    """
    from ..network import Network
    from .modeling import Clip

    if not (config.text and config.vision) or config.names == OPEN_CLIP or config.multimodal:
        raise InputError(
            "--layout transformers-js is for CLIP of two towers in transformers' names: it has no class for a tower "
            "alone, for open_clip's or for BGE-VL's pairs"
        )
    seen = _images(config, "batch")
    rows, height, width, channels = seen.shape
    pixels = replace(seen, name="pixel_values", shape=(rows, channels, height, width), domain=None)
    batch, tokens = {"batch": Axis()}, {"tokens": Axis(1, config.text.max_position_embeddings)}
    texts = _texts(config, "batch")
    ids, mask = _texts(config, "texts")
    scores = (TensorSpec("logits_per_image", "float32", ("images", "texts"), kind=Scores()),)
    both = (ids, replace(pixels, shape=("images", *pixels.shape[1:])), mask)

    def gives(name: str) -> tuple[TensorSpec]:
        return (TensorSpec(name, "float32", ("batch", config.projection_dim), kind=Embedding(unit=False)),)

    entries = (
        EntryPoint("text_model", texts, gives("text_embeds"), batch | tokens, rows="batch"),
        EntryPoint("vision_model", (pixels,), gives("image_embeds"), batch, rows="batch"),
        EntryPoint("model", both, scores, {"images": Axis(), "texts": Axis(), **tokens}),
    )
    return Towers(_documents(config), Network(lambda rngs: Clip(config, rngs=rngs), entries))


FAMILY = Family(
    name="clip",
    summary="CLIP: text and image towers in one space, or one of them; OpenAI's, LAION's, BGE-VL, open_clip's names",
    recognise=_recognise,
    configure=_configure,
    config=ClipConfig,
    part=rules.whole,
    entry_points=_entry_points,
    network=_network,
    reference=_reference,
    sizes=SIZES,
    images=lambda config: pictures.rules(config.pictures, config.vision.image_size) if config.vision else None,
    embeddings=lambda config: {
        "pooling": ["first end of text"] if config.text else ["cls"],
        "normalize": config.normalize,
        "similarity": config.similarity,
    },
    anchors=(TEXT, VISION, open_clip.ANCHOR, *BARE_NAMES.values()),
    documents=_documents,
    zero_shot="softmax",
    texts=_texts_rules,
    cases=_cases,
    transformers_js=_towers,
    encode=_encode,
)

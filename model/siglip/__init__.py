"""SigLIP and SigLIP 2 at fixed sizes: a text and an image tower in one space, or one of them."""

import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...validation.cases import Case
from ...validation.entry_point import Axis, EntryPoint, Pixels, TensorSpec, TokenIds
from ...validation.errors import InputError
from ...validation.outputs import Embedding, Scores
from ...validation.taps import scope, tap
from .. import pictures
from ..family import Family, TextRules, Towers
from . import rules
from .config import BARE_NAMES, CONFIG, SIZES, TEXT, VISION, SiglipConfig, configure, recognise

if TYPE_CHECKING:
    from ..network import Network
    from ..reference import Encode, Original, Reference

PROCESSOR = "SiglipImageProcessor"


def _entry_points(config: SiglipConfig) -> tuple[EntryPoint, ...]:
    text, vision, batch, kind = config.text, config.vision, {"batch": Axis()}, Embedding(unit=config.normalize)
    found = []
    if text:
        output = TensorSpec("text_embeds", "float32", ("batch", text.projection_size), kind=kind)
        found.append(EntryPoint("encode_text", (_texts(config, "batch"),), (output,), batch, rows="batch"))
    if vision:
        output = TensorSpec("image_embeds", "float32", ("batch", vision.hidden_size), kind=kind)
        found.append(EntryPoint("encode_image", (_images(config, "batch"),), (output,), batch, rows="batch"))
    if text and vision:
        scores = (TensorSpec("logits_per_image", "float32", ("images", "texts"), kind=Scores()),)
        inputs = (_images(config, "images"), _texts(config, "texts"))
        found.append(EntryPoint("similarity", inputs, scores, {"images": Axis(), "texts": Axis()}))
    return tuple(found)


def _texts(config: SiglipConfig, rows: str) -> TensorSpec:
    """Describe the ids: as many of every text, of which none is masked."""
    text = config.text
    assert text
    ids = TokenIds(text.vocab_size, text.pad_token_id, None, text.last_token_id)
    return TensorSpec("input_ids", "int32", (rows, text.max_seq_length), ids)


def _images(config: SiglipConfig, rows: str) -> TensorSpec:
    vision, seen = config.vision, config.pictures
    assert vision
    shape = (rows, vision.image_size, vision.image_size, vision.num_channels)
    pixels = Pixels(seen.mean or pictures.HALF, seen.std or pictures.HALF, vision.patch_size)
    return TensorSpec("images", "float32", shape, pixels)


def _cases(config: SiglipConfig) -> tuple[Case, ...]:
    """Give short texts and their padding, which counts: no draw has any, since all texts are of one length."""
    text, vision = config.text, config.vision
    if text is None:
        return ()
    length = text.max_seq_length
    words = np.setdiff1d(np.arange(text.vocab_size), [text.pad_token_id, text.last_token_id])
    ids = np.resize(words[:: max(1, len(words) // 13)], (3, length)).astype(np.int32)
    for row, real in zip(ids, (0, length // 3, length - 2), strict=True):
        row[real] = text.last_token_id
        row[real + 1 :] = text.pad_token_id
    cases: dict[str, dict[str, np.ndarray]] = {"encode_text": {"input_ids": ids}}
    if vision:
        image = np.zeros((1, vision.image_size, vision.image_size, vision.num_channels), np.float32)
        cases["similarity"] = {"images": image, "input_ids": ids}
    return tuple(Case(entry, "short texts and their padding", inputs) for entry, inputs in cases.items())


def _network(config: SiglipConfig) -> "Network":
    from ..network import Network
    from .modeling import Siglip

    return Network(lambda rngs: Siglip(config, rngs=rngs), _entry_points(config))


def _reference(config: SiglipConfig, original: "Original") -> "Reference":
    """Take transformers' SiglipModel, or the class of one tower."""
    from torch import Tensor
    from torch.nn.functional import linear, normalize

    from .. import upstream
    from ..reference import Function, Reference

    library = upstream.transformers()
    state = {n: t for n, t in original.state.items() if not n.endswith("position_ids")}
    built = upstream.configuration(original.documents.get(CONFIG) or _documents(config)[CONFIG])
    if config.text and config.vision:
        model: Any = upstream.load(library.SiglipModel, built, state)
    else:
        tower = "Text" if config.text else "Vision"
        of_tower = getattr(built, f"{tower.lower()}_config", built)
        model = upstream.load(getattr(library, f"Siglip{tower}Model"), of_tower, state)
    texts, seeing = getattr(model, "text_model", model), getattr(model, "vision_model", model)

    def attended(module: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Any]) -> None:
        """Record what the packed projections give, which have no modules of their own."""
        weights, biases = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)
        with scope("vision.head.attention"):
            for i, name in enumerate(("query", "key", "value")):
                tap(name, linear(inputs[i], weights[i], biases[i]))
            tap("out", output[0])

    if config.vision:
        seeing.head.attention.register_forward_hook(attended)

    def given(name: str, features: Tensor) -> dict[str, Tensor]:
        return {name: normalize(features, dim=-1, eps=0) if config.normalize else features}

    def encode_text(input_ids: Tensor) -> dict[str, Tensor]:
        return given("text_embeds", texts(input_ids=input_ids).pooler_output)

    def encode_image(images: Tensor) -> dict[str, Tensor]:
        return given("image_embeds", seeing(pixel_values=images.permute(0, 3, 1, 2)).pooler_output)

    def similarity(images: Tensor, input_ids: Tensor) -> dict[str, Tensor]:
        found = model(input_ids=input_ids, pixel_values=images.permute(0, 3, 1, 2))
        tap("image_embeds", found.image_embeds)
        tap("text_embeds", found.text_embeds)
        return {"logits_per_image": found.logits_per_image}

    functions: dict[str, Function] = {
        "encode_text": encode_text,
        "encode_image": encode_image,
        "similarity": similarity,
    }
    entries = {entry.name: functions[entry.name] for entry in _entry_points(config)}
    return Reference(f"{upstream.versions('torch', 'transformers')}: {type(model).__name__}", model, entries, state)


def _encode(config: SiglipConfig, original: "Original", reference: "Reference") -> Mapping[str, "Encode"]:
    """Let transformers' own tokenizer and image processor prepare raw texts and pictures."""
    from torch import Tensor

    from .. import upstream

    def read(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return reference.entries["encode_text"](input_ids=input_ids)["text_embeds"]

    def seen(images: Tensor) -> Tensor:
        return reference.entries["encode_image"](images=images)["image_embeds"]

    found: dict[str, Encode] = {}
    own = original.folder if (original.tokenizer / "converted.json").is_file() else None
    there = own is not None and (own / "spiece.model").is_file() and importlib.util.find_spec("sentencepiece")
    if config.text and original.texts and (own is None or there):  # upstream reads spiece.model with sentencepiece
        found["encode_text"] = upstream.TokenizedEncoder(
            original, read, config.text.max_seq_length, padding="max_length", folder=own
        )
    if config.vision and config.pictures.std:
        found["encode_image"] = upstream.PictureEncoder(original, seen)
    return found


def _documents(config: SiglipConfig) -> Mapping[str, Any]:
    """Give what transformers writes beside such a checkpoint."""
    own = ("last_token_id", "max_seq_length", "truncation_side")
    towers: dict[str, dict[str, Any]] = {}
    if config.text:
        stated = {n: v for n, v in asdict(config.text).items() if n not in own}
        towers["text_config"] = {"model_type": "siglip_text_model", **stated}
    if config.vision:
        towers["vision_config"] = {"model_type": "siglip_vision_model", **asdict(config.vision)}
    document: dict[str, Any] = next(iter(towers.values()))
    if len(towers) == 2:
        document = {"architectures": ["SiglipModel"], "model_type": "siglip", **towers}
    seen = pictures.documents(config.pictures, config.vision.image_size, PROCESSOR) if config.vision else {}
    return {CONFIG: document, **seen}


def _text_rules(config: SiglipConfig) -> TextRules:
    return TextRules(config.text.max_seq_length, config.text.truncation_side) if config.text else TextRules()


def _towers(config: SiglipConfig) -> Towers:
    """Give what Transformers.js opens: the features of each tower, and the scores.

    Raises:
        InputError: there is one tower.
    """
    from ..network import Network
    from .modeling import Siglip

    text, vision = config.text, config.vision
    if text is None or vision is None:
        raise InputError("--layout transformers-js is for SigLIP of two towers, and this is one")
    seen, batch = _images(config, "batch"), {"batch": Axis()}
    rows, height, width, channels = seen.shape
    pixels = replace(seen, name="pixel_values", shape=(rows, channels, height, width), domain=None)
    scores = (TensorSpec("logits_per_image", "float32", ("images", "texts"), kind=Scores()),)
    both = (_texts(config, "texts"), replace(pixels, shape=("images", *pixels.shape[1:])))

    def gives(size: int) -> tuple[TensorSpec]:
        return (TensorSpec("pooler_output", "float32", ("batch", size), kind=Embedding(unit=False)),)

    entries = (
        EntryPoint("text_model", (_texts(config, "batch"),), gives(text.projection_size), batch, rows="batch"),
        EntryPoint("vision_model", (pixels,), gives(vision.hidden_size), batch, rows="batch"),
        EntryPoint("model", both, scores, {"images": Axis(), "texts": Axis()}),
    )
    return Towers(_documents(config), Network(lambda rngs: Siglip(config, rngs=rngs), entries))


FAMILY = Family(
    name="siglip",
    summary="SigLIP and SigLIP 2 at fixed sizes: text and image towers in one space, or one of them",
    recognise=recognise,
    configure=configure,
    config=SiglipConfig,
    part=rules.whole,
    entry_points=_entry_points,
    network=_network,
    reference=_reference,
    sizes=SIZES,
    images=lambda config: pictures.rules(config.pictures, config.vision.image_size) if config.vision else None,
    embeddings=lambda config: {"pooling": ["last token"], "normalize": config.normalize},
    anchors=(TEXT, VISION, *BARE_NAMES.values()),
    documents=_documents,
    zero_shot="sigmoid",
    texts=_text_rules,
    cases=_cases,
    transformers_js=_towers,
    encode=_encode,
)

"""Edge Glass: pictures, texts and sounds aligned in one space, its first stage."""

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

from ...validation.domains import Floats, LogMel
from ...validation.entry_point import Axis, EntryPoint, PaddingMask, Pixels, TensorSpec, TokenIds
from ...validation.outputs import Embedding, Logits, States
from ..bert import documents as bert_documents
from ..bert import text_inputs
from ..family import Family, TextRules
from ..mpnet import FAMILY as MPNET
from ..pictures import MEAN, STD, squashed
from ..pipeline import text_rules
from ..steps import pooling
from . import rules
from .config import CLS, CROSS, GROUPS, PREFIX, SIZES, TRM_FIELDS, EdgeGlassConfig, Text, configure, recognise

if TYPE_CHECKING:
    from ..network import Network
    from ..reference import Original, Reference

CONFIG = "config.json"
BATCH = {"batch": Axis()}
SCALE = 0.6
"""Deviation of a prefix's numbers where they are drawn."""


def _entry_points(config: EdgeGlassConfig) -> tuple[EntryPoint, ...]:
    found = []
    if vision := config.vision:
        size, channels = vision.tower.image_size, vision.tower.num_channels
        pixels = Pixels(MEAN, STD, vision.tower.patch_size)
        images = TensorSpec("images", "float32", ("batch", size, size, channels), pixels)
        outputs = (*_vectors(vision), _sequence(vision.places, vision.projection_dim))
        found.append(EntryPoint("encode_image", (images,), outputs, BATCH, rows="batch"))
    if text := config.text:
        inputs, longest = _texts(text)
        axes = {**BATCH, "tokens": Axis(1, longest)}
        found.append(EntryPoint("encode_text", inputs, _vectors(text), axes, rows="batch"))
    if audio := config.audio:
        shape = ("batch", audio.tower.num_mel_bins, audio.tower.frames)
        features = TensorSpec("input_features", "float32", shape, LogMel(-1.0, 1.5, 2))
        outputs = (*_vectors(audio), _sequence(audio.places, audio.projection_dim))
        found.append(EntryPoint("encode_audio", (features,), outputs, BATCH, rows="batch"))
    for name, modalities in _fusing(config).items():
        assert config.fusion
        widths = [getattr(config, each).projection_dim for each in modalities]
        given = tuple(map(_vector, modalities, widths))
        fused = TensorSpec("fused", "float32", ("batch", config.fusion.fusion_dim), kind=Embedding(unit=False))
        found.append(EntryPoint(name, given, (fused,), BATCH, rows="batch"))
    if config.prompt_dim:
        prefix = TensorSpec("prefix", "float32", ("batch", PREFIX, config.prompt_dim), kind=States())
        found.append(EntryPoint("soft_prompt", (_vector("vector", config.prompted),), (prefix,), BATCH, rows="batch"))
    if decoder := config.decoder:
        prefix = TensorSpec("prefix", "float32", ("batch", PREFIX, decoder.width), Floats(SCALE))
        ids = TensorSpec("input_ids", "int32", ("batch", "tokens"), TokenIds(decoder.vocab_size, 0))
        logits = TensorSpec("logits", "float32", ("batch", f"tokens + {PREFIX}", decoder.vocab_size), kind=Logits())
        axes = {**BATCH, "tokens": Axis(1, decoder.max_seq_len - PREFIX)}
        found.append(EntryPoint("decode_text", (prefix, ids), (logits,), axes, rows="batch"))
    return tuple(found)


def _vector(name: str, width: int) -> TensorSpec:
    """Describe a vector of about length one."""
    return TensorSpec(name, "float32", ("batch", width), Floats(width**-0.5))


def _vectors(encoder: Any) -> tuple[TensorSpec, ...]:
    """Describe the embedding, and those that begin it: (batch, width) each, of length one."""
    named = {"pooled": encoder.projection_dim, **{f"mrl_{width}": width for width in encoder.mrl}}
    return tuple(TensorSpec(name, "float32", ("batch", width), kind=Embedding()) for name, width in named.items())


def _sequence(places: int, width: int) -> TensorSpec:
    return TensorSpec("sequence", "float32", ("batch", places, width), kind=States())


def _texts(text: Text) -> tuple[tuple[TensorSpec, ...], int]:
    """Describe ids and mask, and the longest text."""
    if text.sentences:
        return text_inputs(text.sentences), text.sentences.max_tokens
    tower = text.clip
    assert tower
    ids = TokenIds(tower.vocab_size, tower.pad_token_id, tower.bos_token_id, tower.last_token_id)
    mask = TensorSpec("attention_mask", "int32", ("batch", "tokens"), PaddingMask("input_ids"))
    return (TensorSpec("input_ids", "int32", ("batch", "tokens"), ids), mask), tower.max_position_embeddings


def _fusing(config: EdgeGlassConfig) -> dict[str, tuple[str, ...]]:
    """Say which entry points fuse what: all there is, and where upstream can do with fewer, each pair."""
    if config.fusion is None:
        return {}
    every = config.modalities
    pairs = combinations(every, 2) if config.fusion.strategy == CROSS and len(every) > 2 else ()
    return {"fuse": every, **{f"fuse_{'_'.join(pair)}": pair for pair in pairs}}


def _network(config: EdgeGlassConfig) -> "Network":
    from ..network import Network
    from .modeling import EdgeGlass

    return Network(lambda rngs: EdgeGlass(config, rngs=rngs), _entry_points(config))


def _reference(config: EdgeGlassConfig, original: "Original") -> "Reference":
    from .reference import reference

    return reference(config, original, _documents(config), _fusing(config))


def _documents(config: EdgeGlassConfig) -> Mapping[str, Any]:
    """Give the experiment's configuration, and those of the backbones in a folder each."""
    from dataclasses import asdict

    written: dict[str, Any] = {}
    experiment: dict[str, Any] = {}
    for modality, group in GROUPS.items():
        part = getattr(config, modality)
        if part is None:
            continue
        perceiver = getattr(part, "perceiver", None)
        latents = {f"perceiver_{n}": v for n, v in (asdict(perceiver) if perceiver else {}).items() if n != "inner"}
        mrl = {"use_mrl": bool(part.mrl), "mrl_dimensions": list(part.mrl[1:])}
        experiment[group] = {"projection_dim": part.projection_dim, **mrl}
        experiment[group] |= {"use_perceiver": perceiver is not None, **latents} if modality != "text" else {}
    if decoder := config.decoder:
        fields = {**{name: f"trm_{said}" for name, said in TRM_FIELDS.items()}, "layer_norm_eps": "trm_layer_norm_eps"}
        experiment["decoder"] = {"type": "trm", **{said: getattr(decoder, name) for name, said in fields.items()}}
    if fusion := config.fusion:
        stated = {"strategy": fusion.strategy, "fusion_dim": fusion.fusion_dim}
        layers = {"num_fusion_layers": fusion.num_layers, "num_heads": fusion.num_heads} if fusion.num_heads else {}
        experiment["fusion"] = {**stated, **layers}
    written[CONFIG] = experiment
    if vision := config.vision:
        written[f"{GROUPS['vision']}/{CONFIG}"] = {"model_type": "clip_vision_model", **asdict(vision.tower)}
    if text := config.text:
        of_backbone: Mapping[str, Any] = {}
        if text.bert:
            of_backbone = bert_documents(text.bert)
        elif text.mpnet:
            of_backbone = MPNET.documents(text.mpnet)
        elif text.clip:
            own = ("last_token_id", "max_seq_length", "truncation_side")
            stated = {n: v for n, v in asdict(text.clip).items() if n not in own}
            of_backbone = {CONFIG: {"model_type": "clip_text_model", **stated}}
        written |= {f"{GROUPS['text']}/{place}": document for place, document in of_backbone.items()}
    if audio := config.audio:
        from ..whisper.config import documents

        written[f"{GROUPS['audio']}/{CONFIG}"] = documents(audio.tower)[CONFIG]
    return written


def _text_rules(config: EdgeGlassConfig) -> TextRules:
    text = config.text
    if text and text.sentences:
        return text_rules(text.sentences)
    if text and text.clip:
        return TextRules(text.clip.max_seq_length, text.clip.truncation_side)
    return TextRules()


def _embeddings(config: EdgeGlassConfig) -> Mapping[str, Any]:
    """State how texts are pooled; where there are none, pictures, by the word that is nearest to what is done."""
    text, vision = config.text, config.vision
    if text and text.sentences:
        modes = list(pooling(text.sentences.pipeline).modes)
    else:
        modes = ["cls"] if text or (vision and vision.pooling == CLS) else ["mean"]
    return {"pooling": modes, "normalize": True, "similarity": "cosine"}


def _images(config: EdgeGlassConfig) -> Mapping[str, Any] | None:
    if config.vision is None:
        return None
    return squashed(config.vision.tower.image_size, MEAN, STD)


def _sounds(config: EdgeGlassConfig) -> Mapping[str, Any] | None:
    """Say of a network that only hears that it is given spectrograms; a pack is of sounds or of texts and pictures."""
    if config.audio is None or config.text or config.vision:
        return None
    return {
        "input": "input_features",
        "missing": "the network is given spectrograms, as Whisper's extractor makes them",
    }


FAMILY = Family(
    name="edge_glass",
    summary="Edge Glass, stage 1: pictures, texts and sounds in one space; CLIP, MPNet or MiniLM, Whisper",
    recognise=recognise,
    configure=configure,
    config=EdgeGlassConfig,
    part=rules.whole,
    entry_points=_entry_points,
    network=_network,
    reference=_reference,
    sizes=SIZES,
    images=_images,
    sounds=_sounds,
    embeddings=_embeddings,
    anchors=tuple(f"{group}.{name}.weight" for group in GROUPS.values() for name in ("projector", "projector.net.0")),
    documents=_documents,
    texts=_text_rules,
    holds=("bert", "mpnet", "clip", "whisper", "qwen2", "qwen3"),
)

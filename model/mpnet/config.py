"""What an MPNet text encoder is, in numbers, and how it is read from shapes and documents."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ...validation.errors import GateError, InputError
from ..bert.config import ACTIVATIONS, CONFIG, CONFIG_HARMLESS, OF_SHAPES, SPECIAL, BertConfig, sizes_from_shapes
from ..documents import Configured, Document
from ..family import Source
from ..pipeline import OPTIONS, settle_pipeline, settle_texts
from ..steps import plain
from ..tokenizer import settle_tokenizer, special_ids

PADDING = 1
"""The id that is not counted and the position of what is not: a constant of upstream's, whatever pad_token_id says."""

BUCKETS = 32
"""Of distances: upstream's code makes so many, whatever the size of the table. It never reads what lies behind."""

EXACT = 8
"""Distances below it have a bucket of their own, in either direction; larger ones share seven by their logarithm."""

UPSTREAM_DEFAULTS: Mapping[str, Any] = {
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
"""What MPNetConfig of transformers 5.24 takes where config.json is silent."""

BIAS = "encoder.relative_attention_bias.weight"


@dataclass(frozen=True)
class MPNetConfig(BertConfig):
    """A BERT without token types, whose attention also knows how far from each other tokens are."""

    type_vocab_size: int = 0
    layer_norm_eps: float = 1e-5
    model_type: str = "mpnet"
    pad_token_id: int = 1
    cls_token_id: int = 0
    sep_token_id: int = 2
    relative_attention_num_buckets: int = BUCKETS

    @property
    def first_position(self) -> int:
        """Row of the position table that the first token gets."""
        return PADDING + 1


PUBLISHED = {"base": MPNetConfig(30527, 768, 12, 12, 3072, 514, pipeline=plain(["mean"]))}
"""sentence-transformers/all-mpnet-base-v2; its shapes are those of every MPNet that is known, its pooling is not."""

SIZES = {**PUBLISHED, "tiny": MPNetConfig(300, 32, 2, 4, 64, 122, pipeline=plain(["mean"]))}


def configure(source: Source) -> Configured:
    """Read a sentence encoder: the network, and what its folder says of pooling and texts.

    Raises:
        InputError: a field contradicts the shapes, is not computed here, or is stated nowhere.
    """
    settled, document = source.settled(), source.document(CONFIG)
    of_shapes = {field: name for field, name in OF_SHAPES.items() if field != "type_vocab_size"}
    seen = sizes_from_shapes(source.shapes, "embeddings.", "encoder.", of_shapes)
    buckets, heads = _table(source)
    seen["relative_attention_num_buckets"] = buckets, f"shape of {BIAS}"
    for field, (value, origin) in seen.items():
        settled.put(field, value, origin)
        _agree(document, field, value, origin)
    settled.put("type_vocab_size", 0, "MPNet has no token types")
    settled.put("num_attention_heads", heads, f"shape of {BIAS}")
    _agree(document, "num_attention_heads", heads, f"shape of {BIAS}")
    if settled.values["hidden_size"] % heads:
        raise InputError(f"{BIAS} is of {heads} heads, which do not divide hidden_size {settled.values['hidden_size']}")
    named = document is not None and "model_type" in document
    if document and named:
        document.take("model_type", str, choices=("mpnet",))
    settled.put("model_type", "mpnet", f"{CONFIG}: model_type" if named else f"names {BIAS}")
    settle_tokenizer(source, "MPNetTokenizer")
    silent, where = UPSTREAM_DEFAULTS, "default of transformers' MPNetConfig"
    if document is None:
        published = next((c for c in PUBLISHED.values() if all(getattr(c, f) == settled.values[f] for f in seen)), None)
        silent = {field.name: getattr(published, field.name) for field in fields(MPNetConfig)} if published else {}
        where = "published size base"

    def choose(field: str, kind: type, otherwise: tuple[Any, str] | None = None, **expected: Any) -> Any:
        advice = f"put the model's {CONFIG} beside the checkpoint, pass --config FILE, or say --set {field}="
        otherwise = otherwise or ((silent[field], where) if field in silent else None)
        return settled.choose(field, kind, (document, field), otherwise=otherwise, advice=advice, **expected)

    choose("layer_norm_eps", float, low=0)
    choose("hidden_act", str, choices=ACTIVATIONS)
    last = settled.values["vocab_size"] - 1
    choose("pad_token_id", int, low=0, high=last)
    tokens = {name: (number, origin) for name, number, origin in special_ids(source, SPECIAL)}
    for field, theirs in {"cls_token_id": "bos_token_id", "sep_token_id": "eos_token_id"}.items():
        stated = document.take(theirs, int, UPSTREAM_DEFAULTS[theirs]) if document else UPSTREAM_DEFAULTS[theirs]
        choose(field, int, tokens.get(field, (stated, f"{CONFIG}: {theirs}")), low=0, high=last)
    if document:
        document.accept(CONFIG_HARMLESS)
    config = MPNetConfig(**settled.values)
    if config.max_tokens < 2:
        raise InputError(
            f"{settled.origins['max_position_embeddings']}: {config.max_position_embeddings} positions leave "
            f"{config.max_tokens} for a text, whose first is {config.first_position}; at least 2 are needed"
        )
    settle_pipeline(settled, source, config.hidden_size)
    settle_texts(settled, source, config.max_tokens, left_padding=True)
    return Configured(MPNetConfig(**settled.values), settled.origins, OPTIONS)


def _table(source: Source) -> tuple[int, int]:
    """Give the size of the table of distances: buckets and heads.

    Raises:
        GateError: it is missing.
        InputError: it has fewer buckets than are read.
    """
    shape = source.shapes.get(BIAS, ())
    if len(shape) != 2 or 0 in shape:
        raise GateError(f"tensor {BIAS} must be there with 2 dimensions, got {shape or 'nothing'}")
    if shape[0] < BUCKETS:
        raise InputError(f"{BIAS} has {shape[0]} buckets, but MPNet reads {BUCKETS}: upstream fails on it too")
    return shape[0], shape[1]


def _agree(document: Document | None, field: str, value: int, origin: str) -> None:
    if document and document.take(field, int, UPSTREAM_DEFAULTS.get(field, value)) != value:
        stated = document.fields.get(field, "not stated, which means " + str(UPSTREAM_DEFAULTS.get(field)))
        raise InputError(f"{document.origin}: {field} is {stated}, but the checkpoint's tensors say {value} ({origin})")

"""What a BERT-like text encoder is, in numbers, and how it is read from shapes and configuration files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...validation.errors import GateError, InputError
from ..family import Settings, Shapes

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "silu", "swish", "relu")
ROBERTA = ("xlm-roberta", "roberta", "camembert")


@dataclass(frozen=True)
class BertConfig:
    """A BERT or XLM-RoBERTa encoder with sentence pooling. Field names are Hugging Face's."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    model_type: str = "bert"
    """"bert" numbers positions from 0; "xlm-roberta" counts the tokens that are not padding, from pad_token_id + 1."""
    pad_token_id: int = 0
    cls_token_id: int = 101
    sep_token_id: int = 102
    pooling: str = "cls"
    normalize: bool = True

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def first_position(self) -> int:
        """Row of the position table that the first token gets."""
        return 0 if self.model_type == "bert" else self.pad_token_id + 1

    @property
    def max_tokens(self) -> int:
        """Longest text, special tokens included."""
        return self.max_position_embeddings - self.first_position


XLM_ROBERTA: dict[str, Any] = {
    "layer_norm_eps": 1e-5,
    "model_type": "xlm-roberta",
    "pad_token_id": 1,
    "cls_token_id": 0,
    "sep_token_id": 2,
}

SIZES = {
    "base": BertConfig(30522, 768, 12, 12, 3072, 512, 2),
    "small": BertConfig(30522, 384, 12, 12, 1536, 512, 2),
    "large": BertConfig(30522, 1024, 24, 16, 4096, 512, 2),
    "minilm-l6": BertConfig(30522, 384, 6, 12, 1536, 512, 2, pooling="mean"),
    "m3": BertConfig(250002, 1024, 24, 16, 4096, 8194, 1, **XLM_ROBERTA),
    "tiny": BertConfig(300, 32, 2, 4, 64, 40, 2),
}
"""Published sizes: BAAI/bge-{base,small,large}-en-v1.5, all-MiniLM-L6-v2, BAAI/bge-m3. And a tiny one."""

NUMBERS = re.compile(r"layer\.(\d+)\.")


def sizes_from_shapes(shapes: Shapes, embeddings: str, encoder: str) -> dict[str, int]:
    """Read what the tensors' shapes show, given the prefixes of the embedding's and the encoder's names.

    Raises:
        GateError: a tensor that fixes a size is missing.
    """

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if name not in shapes:
            raise GateError(f"tensor {name} is missing: without it the network's size cannot be known")
        if len(shapes[name]) != rank:
            raise GateError(f"tensor {name} must have {rank} dimensions, got shape {shapes[name]}")
        return shapes[name]

    layers = [int(m[1]) for name in shapes if name.startswith(encoder) and (m := NUMBERS.match(name[len(encoder) :]))]
    if not layers:
        raise GateError(f"no tensor is called {encoder}layer.0.*: the text encoder is missing")
    vocab_size, hidden_size = shape(f"{embeddings}word_embeddings.weight", 2)
    return {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": max(layers) + 1,
        "intermediate_size": shape(f"{encoder}layer.{min(layers)}.intermediate.dense.weight", 2)[0],
        "max_position_embeddings": shape(f"{embeddings}position_embeddings.weight", 2)[0],
        "type_vocab_size": shape(f"{embeddings}token_type_embeddings.weight", 2)[0],
    }


def configure_text(seen: Mapping[str, int], settings: Settings) -> BertConfig:
    """Complete the sizes that shapes show from configuration files, else from a published size.

    Raises:
        InputError: a field contradicts the shapes, is unsupported, or is known from nowhere.
    """
    document = settings.model
    origin = settings.files.get("model", "config.json")
    for field, value in seen.items():
        if field in document and document[field] != value:
            raise InputError(f"{origin}: {field} is {document[field]}, but the checkpoint's tensors say {value}")
    published = next((c for c in SIZES.values() if all(getattr(c, f) == v for f, v in seen.items())), None)
    if published is None and "num_attention_heads" not in document:
        raise InputError(
            "num_attention_heads cannot be known from the checkpoint's shapes "
            f"(hidden_size {seen['hidden_size']}, {seen['num_hidden_layers']} layers match no published size); "
            "put the model's config.json beside the checkpoint or pass --config FILE"
        )
    _refuse_unsupported(document, origin)
    conventions = _conventions(document, published)
    heads = int(document.get("num_attention_heads") or (published.num_attention_heads if published else 0))
    if heads < 1 or seen["hidden_size"] % heads:
        raise InputError(f"{origin}: num_attention_heads {heads} does not divide hidden_size {seen['hidden_size']}")
    values: dict[str, Any] = {**seen, "num_attention_heads": heads, **conventions, **_special_tokens(settings)}
    return BertConfig(**values, **_pooling(settings, published))


def _refuse_unsupported(document: Mapping[str, Any], origin: str) -> None:
    """Refuse what the model does not compute, rather than compute something near it."""
    supported: dict[str, tuple[object, ...]] = {
        "model_type": ("bert", *ROBERTA),
        "hidden_act": ACTIVATIONS,
        "position_embedding_type": ("absolute",),
        "is_decoder": (False,),
    }
    for field, values in supported.items():
        if document.get(field, values[0]) not in values:
            choices = ", ".join(str(v) for v in values)
            raise InputError(f"{origin}: {field} {document[field]!r} is not supported (supported: {choices})")


def _conventions(document: Mapping[str, Any], published: BertConfig | None) -> dict[str, Any]:
    """Give epsilon, activation, positions and special ids: the file's, else the published size's, else the type's."""
    fields = ("layer_norm_eps", "hidden_act", "model_type", "pad_token_id", "cls_token_id", "sep_token_id")
    roberta = document.get("model_type", published.model_type if published else "bert") in ROBERTA
    values = {f: getattr(published or BertConfig, f) for f in fields} | (XLM_ROBERTA if roberta else {})
    values |= {f: document[f] for f in fields[:4] if document.get(f) is not None}
    if roberta:
        names = {"cls_token_id": "bos_token_id", "sep_token_id": "eos_token_id"}
        values |= {f: document[name] for f, name in names.items() if document.get(name) is not None}
        values["model_type"] = "xlm-roberta"
    return values | {"layer_norm_eps": float(values["layer_norm_eps"])}


def _special_tokens(settings: Settings) -> dict[str, int]:
    names = {"cls_token_id": ("[CLS]", "<s>"), "sep_token_id": ("[SEP]", "</s>")}
    ids = settings.special_tokens
    return {f: next(ids[t] for t in texts if t in ids) for f, texts in names.items() if any(t in ids for t in texts)}


def _pooling(settings: Settings, published: BertConfig | None) -> dict[str, Any]:
    """Read sentence-transformers' files; without them CLS pooling and unit length, as BGE is trained."""
    modes = {name.removeprefix("pooling_mode_"): on for name, on in settings.pooling.items()}
    chosen = [name for name, on in modes.items() if on is True and name not in ("include_prompt",)]
    names = {"cls_token": "cls", "mean_tokens": "mean", "cls": "cls", "mean": "mean"}
    if isinstance(modes.get("pooling_mode"), str):
        chosen = [modes["pooling_mode"]]
    if settings.pooling and (len(chosen) != 1 or chosen[0] not in names):
        origin = settings.files.get("pooling", "1_Pooling/config.json")
        raise InputError(f"{origin}: pooling {' + '.join(chosen) or 'none'} is not supported (supported: cls, mean)")
    default = published.pooling if published else "cls"
    return {
        "pooling": names[chosen[0]] if chosen else default,
        "normalize": "Normalize" in settings.modules if settings.modules else True,
    }

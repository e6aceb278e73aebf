"""What a Qwen2 or Qwen3 network is, in numbers, and how it is read from shapes and documents.

Field names are transformers' Qwen2Config's and Qwen3Config's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...validation.errors import GateError, InputError
from ..bert.config import CONFIG_HARMLESS
from ..clip.config import agree, shape_of
from ..documents import JSON, Configured, Document, Harmless, Only, Settled, shown
from ..family import Source
from ..pipeline import MODULES, OPTIONS, POOLING, settle_pipeline, settle_texts
from ..rotary import Rope, settle_rope
from ..steps import Steps, plain
from ..tokenizer import around, settle_tokenizer, special_ids

CONFIG, GENERATION = "config.json", "generation_config.json"

QWEN2, QWEN3 = "qwen2", "qwen3"
CLASSES = {QWEN2: "Qwen2", QWEN3: "Qwen3"}
"""model_type -> what the names of transformers' classes for it begin with."""

PREFIXES = ("model.", "")
"""What stands before the tensors of the decoder: in a class with a head, and in one without."""

WORDS, HEAD = "embed_tokens.weight", "lm_head.weight"
LAYER = "layers.0."
NORM = f"{LAYER}input_layernorm.weight"
QUERY_BIAS, QUERY_NORM = f"{LAYER}self_attn.q_proj.bias", f"{LAYER}self_attn.q_norm.weight"
OUT_BIAS = f"{LAYER}self_attn.o_proj.bias"

TIED, OWN, NONE = "tied", "own", "none"

FULL, SLIDING = "full_attention", "sliding_attention"

ACTIVATIONS = ("silu", "swish", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu")

USUAL: Mapping[str, Any] = {
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "max_window_layers": 28,
    "sliding_window": 4096,
}
"""What Qwen2Config and Qwen3Config of transformers 5.24 take where config.json is silent."""

_GENERATION = "read where tokens are drawn"
HARMLESS: Harmless = {
    **CONFIG_HARMLESS,
    "attention_dropout": "dropout, which inference leaves out",
    "use_mrope": Only((False,), "one position a token"),
    "quantization_config": Only((None,), "the tensors are whole"),
}
"""config.json, by Qwen2Config and Qwen3Config of transformers 5.24 and 4.57."""

GENERATION_HARMLESS: Harmless = {
    **dict.fromkeys(("_from_model_config", "transformers_version", "bos_token_id"), "where it comes from"),
    **dict.fromkeys(("output_attentions", "output_hidden_states", "return_dict_in_generate"), "what a call gives back"),
    **dict.fromkeys(("use_cache", "cache_implementation", "output_scores"), "how it is executed"),
    **dict.fromkeys(("temperature", "top_k", "top_p", "typical_p", "min_p", "do_sample"), _GENERATION),
    **dict.fromkeys(("max_length", "max_new_tokens"), "a call says how many tokens it wants"),
    "num_beams": Only((1, None), "greedy"),
    "length_penalty": Only((1, 1.0, None), "no penalty"),
    "no_repeat_ngram_size": Only((0, None), "nothing is forbidden"),
}
"""generation_config.json, by GenerationConfig of transformers 5.24."""

TOKENIZER_HARMLESS: Harmless = {
    **dict.fromkeys(("add_bos_token", "add_eos_token"), "tokenizer.json holds what it asks for"),
    "chat_template": "makes a text of a conversation, before it is read",
    "response_schema": "takes an answer apart",
}


@dataclass(frozen=True)
class QwenConfig:
    """A decoder with rotary positions: scores of the next token, or one vector of a text.

    Args:
        model_type: "qwen2", whose queries, keys and values have biases; or "qwen3", which normalises queries and keys.
        vocab_size: rows of the words' table.
        hidden_size: width of all states.
        intermediate_size: inner width of the feed-forward part.
        num_hidden_layers: how many layers.
        num_attention_heads: of queries.
        num_key_value_heads: of keys and values, each of which serves several of the queries.
        head_dim: width of a head.
        max_position_embeddings: the longest text.
        rms_norm_eps: of every norm.
        hidden_act: of the feed-forward part.
        rope: how positions turn queries and keys.
        windows: of each layer how many tokens it sees, its own the last; 0 for all.
        biased: the projections that have a bias.
        head: "tied" to the words, "own", or "none" where states are all that it gives.
        prefix: what stands before the names of the decoder's tensors.
        pad_token_id: what stands where no token does.
        eos_token_ids: what ends a text that is made.
        first_token_ids: what the tokenizer puts before every text, one or none.
        last_token_ids: what it puts behind every text, one or none.
        repetition_penalty: by which scores of what was said are lowered where text is made.
        pipeline: what makes one vector of the states; () for one that makes text.
        max_seq_length: the longest text that is embedded; 0: as long as there are positions.
        truncation_side: which end of a longer text is cut off.
        do_lower_case: whether capitals are made small before the tokenizer's own rules.
        prompts: what may stand before a text, by name.
        default_prompt: the name of what stands before every text; "" for none.
        similarity: of embeddings.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    rope: Rope = field(default_factory=Rope)
    windows: tuple[int, ...] = ()
    biased: tuple[str, ...] = ()
    head: str = TIED
    prefix: str = "model."
    pad_token_id: int = 0
    eos_token_ids: tuple[int, ...] = ()
    first_token_ids: tuple[int, ...] = ()
    last_token_ids: tuple[int, ...] = ()
    repetition_penalty: float = 1.0
    pipeline: Steps = ()
    max_seq_length: int = 0
    truncation_side: str = "right"
    do_lower_case: bool = False
    prompts: tuple[tuple[str, str], ...] = ()
    default_prompt: str = ""
    similarity: str = "cosine"

    @property
    def max_tokens(self) -> int:
        """The longest text."""
        return self.max_position_embeddings

    @property
    def text_limit(self) -> int:
        """The longest text that is read, special tokens included."""
        return min(self.max_seq_length or self.max_tokens, self.max_tokens)


def _published(model_type: str, *sizes: int, head: str = TIED, longest: int = 32768, **more: Any) -> QwenConfig:
    vocab, hidden, inner, layers, heads, kept, width = sizes
    biased = ("query", "key", "value") if model_type == QWEN2 else ()
    usual: dict[str, Any] = {"eos_token_ids": (151645, 151643), "pad_token_id": 151643}
    return QwenConfig(
        *(model_type, vocab, hidden, inner, layers, heads, kept, width, longest),
        rope=Rope(1000000.0),
        windows=(0,) * layers,
        biased=biased,
        head=head,
        **usual | more,
    )


_TINY: Any = {"longest": 64, "eos_token_ids": (2,), "pad_token_id": 0}

QWEN2_SIZES = {
    "0.5b": _published(QWEN2, 151936, 896, 4864, 24, 14, 2, 64),
    "1.5b": _published(QWEN2, 151936, 1536, 8960, 28, 12, 2, 128),
    "3b": _published(QWEN2, 151936, 2048, 11008, 36, 16, 2, 128),
    "7b": _published(QWEN2, 152064, 3584, 18944, 28, 28, 4, 128, head=OWN),
    "tiny": _published(QWEN2, 120, 32, 48, 2, 4, 2, 8, head=OWN, **_TINY),
}
"""Published: Qwen/Qwen2.5-*-Instruct. And a tiny one."""

QWEN3_SIZES = {
    "0.6b": _published(QWEN3, 151936, 1024, 3072, 28, 16, 8, 128, longest=40960),
    "4b": _published(QWEN3, 151936, 2560, 9728, 36, 32, 8, 128, longest=40960),
    "embedding-0.6b": _published(
        *(QWEN3, 151669, 1024, 3072, 28, 16, 8, 128),
        head=NONE,
        prefix="",
        pipeline=plain(("lasttoken",)),
    ),
    "tiny": _published(QWEN3, 120, 32, 48, 2, 4, 2, 12, **_TINY),
}
"""Published: Qwen/Qwen3-0.6B, Qwen3-4B, Qwen3-Embedding-0.6B. And a tiny one."""


def prefix_of(source: Source) -> str | None:
    """Say what stands before the names of the decoder's tensors; None where they are none."""
    told = (p for p in PREFIXES if {p + WORDS, p + NORM, f"{p}{LAYER}mlp.gate_proj.weight"} <= source.shapes.keys())
    return next(told, None)


def recognise(source: Source, model_type: str) -> str:
    """Say why a checkpoint belongs here: Qwen3 normalises queries and keys, Qwen2 has biases."""
    prefix = prefix_of(source)
    if prefix is None or (prefix == "" and f".{source.wrappers[-1] if source.wrappers else ''}".endswith(".model.")):
        return ""
    told = prefix + {QWEN2: QUERY_BIAS, QWEN3: QUERY_NORM}[model_type]
    other = prefix + {QWEN2: QUERY_NORM, QWEN3: QUERY_BIAS}[model_type]
    stated = source.documents.get(CONFIG)
    kind = stated.fields.get("model_type") if stated and type(stated.content) is dict else None
    if told not in source.shapes or (other in source.shapes and model_type == QWEN2):
        return ""
    if kind in CLASSES and kind != model_type:
        return ""
    return f"names {prefix}{NORM} and {told}"


def configure(source: Source, model_type: str) -> Configured:
    """Read the network: sizes from shapes, the rest from config.json, generation_config.json and the folder.

    Raises:
        InputError: there is no config.json, or a field contradicts the shapes or is not computed here.
    """
    document, prefix = source.document(CONFIG), prefix_of(source)
    if document is None:
        raise InputError(
            f"no {CONFIG} lies beside the checkpoint, and no shape shows how far positions turn a query; put it there, "
            "or pass --config FILE"
        )
    if prefix is None:
        raise GateError(f"the tensors are not called as {CLASSES[model_type]}'s: {PREFIXES[0]}{WORDS} and the others")
    document.take("model_type", str, choices=(model_type,))
    settled = source.settled()
    settled.put("model_type", model_type, f"{CONFIG}: model_type")
    settled.put("prefix", prefix, "names of the tensors")
    _settle_sizes(settled, source, document, prefix)
    layers = settled.values["num_hidden_layers"]
    usual = {name: (USUAL[name], f"default of transformers' {CLASSES[model_type]}Config") for name in USUAL}
    wanted: dict[str, dict[str, Any]] = {
        "max_position_embeddings": {"kind": int, "low": 2},
        "rms_norm_eps": {"kind": float, "low": 0},
        "hidden_act": {"kind": str, "choices": ACTIVATIONS},
    }
    for name, expected in wanted.items():
        settled.choose(name, expected.pop("kind"), (document, name), otherwise=usual[name], **expected)
    settled.put("windows", *_windows(document, layers))
    rope = source.settled("rope.")
    turning = settle_rope(rope, document, settled.values["max_position_embeddings"])
    embeds = any(name in source.documents for name in (MODULES, POOLING)) or any(n in source.given for n in OPTIONS)
    settled.put("head", *_head(source, document, prefix, embeds=embeds))
    _settle_ids(settled, source, document)
    settle_tokenizer(source, "Qwen2Tokenizer")
    if embeds:
        settle_pipeline(settled, source, settled.values["hidden_size"])
    else:
        settled.put("pipeline", (), f"no {MODULES} lies beside the checkpoint")
    settle_texts(settled, source, settled.values["max_position_embeddings"], left_padding=True)
    for name, harmless in ((CONFIG, HARMLESS), ("tokenizer_config.json", TOKENIZER_HARMLESS)):
        if stated := source.document(name):
            stated.accept(harmless)
    origins = dict(settled.origins) | {f"rope.{name}": origin for name, origin in rope.origins.items()}
    return Configured(QwenConfig(**{**settled.values, "rope": turning}), origins, OPTIONS)


def _settle_sizes(settled: Settled, source: Source, document: Document, prefix: str) -> None:
    """Settle what shapes show: all sizes, but for how many heads there are where no norm shows their width."""
    shapes, attention = source.shapes, f"{prefix}{LAYER}self_attn."
    vocab, width = shape_of(shapes, prefix + WORDS, 2)
    inner = f"{prefix}{LAYER}mlp.gate_proj.weight"
    seen = {
        "vocab_size": (vocab, f"shape of {prefix}{WORDS}"),
        "hidden_size": (width, f"shape of {prefix}{WORDS}"),
        "intermediate_size": (shape_of(shapes, inner, 2)[0], f"shape of {inner}"),
        "num_hidden_layers": _layers(source, prefix),
    }
    agree(document, seen, settled)
    rows, kept = (shape_of(shapes, f"{attention}{name}_proj.weight", 2)[0] for name in ("q", "k"))
    if prefix + QUERY_NORM in shapes:
        head_dim = shape_of(shapes, prefix + QUERY_NORM, 1)[0]
        where = f"shape of {prefix}{QUERY_NORM}"
    else:
        usual = (USUAL["num_attention_heads"], "default of transformers")
        heads = settled.choose("num_attention_heads", int, (document, "num_attention_heads"), otherwise=usual, low=1)
        if rows % heads:
            raise InputError(
                f"{settled.origins['num_attention_heads']}: num_attention_heads is {heads}, which does not divide the "
                f"{rows} rows of {attention}q_proj.weight"
            )
        head_dim, where = rows // heads, f"shape of {attention}q_proj.weight"
    if head_dim % 2 or rows % head_dim or kept % head_dim or (rows // head_dim) % max(kept // head_dim, 1):
        raise InputError(
            f"{attention}q_proj.weight and k_proj.weight have {rows} and {kept} rows, which heads of width {head_dim} "
            f"({where}) do not share: their width is even, and keys serve equally many queries"
        )
    told = f"shape of {attention}q_proj.weight, by head_dim"
    of_heads = {
        "head_dim": (head_dim, where),
        "num_attention_heads": (rows // head_dim, told),
        "num_key_value_heads": (kept // head_dim, told.replace("q_proj", "k_proj")),
    }
    for name, (value, origin) in of_heads.items():
        if name in settled.values:  # chosen above
            continue
        settled.put(name, value, origin)
        stated = document.take(name, int, USUAL.get(name, value))
        if stated != value:
            said = stated if name in document else f"not stated, which means {stated}"
            raise InputError(
                f"{document.origin}: {name} is {said}, but the checkpoint's tensors say {value} ({origin})"
            )
    biases = {"q": "query", "k": "key", "v": "value", "o": "out"}
    biased = tuple(leaf for name, leaf in biases.items() if f"{attention}{name}_proj.bias" in shapes)
    legal = {QWEN2: (("query", "key", "value"),), QWEN3: ((), tuple(biases.values()))}[settled.values["model_type"]]
    if biased not in legal:
        raise InputError(
            f"{attention}*_proj.bias: there are biases of {', '.join(biased) or 'nothing'}, expected of "
            + " or of ".join(", ".join(each) or "nothing" for each in legal)
        )
    settled.put("biased", biased, f"names {attention}*.bias")
    if settled.values["model_type"] == QWEN3 and document.take("attention_bias", bool, default=False) != bool(biased):
        raise InputError(
            f"{document.origin}: attention_bias is not what the tensors' names say ({shown(bool(biased))})"
        )


def _layers(source: Source, prefix: str) -> tuple[int, str]:
    numbered = re.compile(rf"{re.escape(prefix)}layers\.(\d+)\.")
    found = {int(match[1]) for name in source.shapes if (match := numbered.match(name))}
    if not found or len(found) <= max(found):
        raise GateError(f"the tensors {prefix}layers.* do not number the layers 0, 1, 2, ...")
    return len(found), f"names {prefix}layers.*"


def _windows(document: Document, layers: int) -> tuple[tuple[int, ...], str]:
    """Say of each layer how many tokens it sees; 0 for all.

    Where `use_sliding_window` is false, nothing else that is said of windows means anything.

    Raises:
        InputError: layer_types does not name a type of each layer.
    """
    slides = document.take("use_sliding_window", bool, default=False)
    stated = document.take("layer_types", list, None)
    usual = USUAL["sliding_window"] if "sliding_window" not in document else None
    window = (document.take("sliding_window", int, usual, low=1) or 0) if slides else 0
    first = document.take("max_window_layers", int, USUAL["max_window_layers"], low=0) if slides else 0
    for name in ("sliding_window", "max_window_layers"):
        document.note(name, document.fates.get(name, "use_sliding_window is false"))
    if stated is not None:
        if len(stated) != layers or any(kind not in (FULL, SLIDING) for kind in stated):
            raise InputError(
                f"{document.origin}: layer_types is {shown(stated)}, expected one of {FULL} or {SLIDING} for each of "
                f"{layers} layers"
            )
        if SLIDING in stated and not window:
            raise InputError(f"{document.origin}: layer_types names {SLIDING}, but no sliding_window is in use")
        return tuple(window if kind == SLIDING else 0 for kind in stated), f"{CONFIG}: layer_types"
    where = f"{CONFIG}: {'max_window_layers' if slides else 'use_sliding_window'}"
    return tuple(window if i >= first else 0 for i in range(layers)), where


def _head(source: Source, document: Document, prefix: str, *, embeds: bool) -> tuple[str, str]:
    """Say what scores words: a tensor of its own, the words' table, or nothing.

    Raises:
        InputError: a head is wanted and there is none.
    """
    if embeds:
        document.note("tie_word_embeddings", "the folder embeds texts: no word is scored")
        return NONE, "the folder embeds texts"
    if HEAD not in source.shapes and document.fields.get("architectures") in (["Qwen2Model"], ["Qwen3Model"]):
        document.note("tie_word_embeddings", "the class has no head")
        return NONE, f"{CONFIG}: architectures"
    if document.take("tie_word_embeddings", bool, default=False):
        return TIED, f"{CONFIG}: tie_word_embeddings"
    if HEAD in source.shapes:
        return OWN, f"names {HEAD}"
    raise InputError(
        f"{document.origin}: tie_word_embeddings is false, so words are scored by a tensor {HEAD}, which the "
        "checkpoint has not: upstream would draw one at random"
    )


def _settle_ids(settled: Settled, source: Source, document: Document) -> None:
    """Settle which ids pad a text and end it, and by what scores of words that were said are lowered."""
    last = settled.values["vocab_size"] - 1
    generation = source.document(GENERATION)
    ends, origin = _ids(document, "eos_token_id", last), f"{CONFIG}: eos_token_id"
    if generation:
        if chosen := _ids(generation, "eos_token_id", last):
            ends, origin = chosen, f"{GENERATION}: eos_token_id"
        generation.accept(GENERATION_HARMLESS)
    settled.put("eos_token_ids", ends, origin if ends else "no document names one: a text has no end")
    stated = []
    for each in filter(None, (document, generation)):
        if each.fields.get("pad_token_id") is None:
            each.note("pad_token_id", "null: not stated")
        else:
            stated.append((each, "pad_token_id"))
    otherwise = (ends[0], origin) if ends else (0, "no document names one: any id may stand where none counts")
    for _, number, where in special_ids(source, {"pad_token_id": ("pad_token", ())}):
        otherwise = number, where
    for name, ids in zip(("first_token_ids", "last_token_ids"), around(source), strict=True):
        told = "tokenizer.json: post_processor" if ids else "the tokenizer puts none"
        if len(ids) > 1 or any(one > last for one in ids):
            raise InputError(f"{told} puts {ids} around a text; what is done here is one id from 0 to {last}")
        settled.put(name, tuple(ids), told)
    settled.choose("pad_token_id", int, *stated, otherwise=otherwise, low=0, high=last)
    penalty = (generation, "repetition_penalty")
    settled.choose("repetition_penalty", float, penalty, otherwise=(1.0, f"{GENERATION} states none"), low=1e-6)


def _ids(document: Document, name: str, last: int) -> tuple[int, ...]:
    """Read one id or several.

    Raises:
        InputError: something else, or an id outside the vocabulary.
    """
    value = document.fields.get(name)
    listed = [] if value is None else value if isinstance(value, list) else [value]
    if any(type(one) is not int or not 0 <= one <= last for one in listed):
        raise InputError(f"{document.origin}: {name} is {shown(value)}, expected ids from 0 to {last}")
    document.take(name, type(value) if value is not None else int, None)
    return tuple(listed)


def documents(config: QwenConfig) -> Mapping[str, JSON]:
    """Give the config.json and generation_config.json that transformers writes beside such a checkpoint."""
    kind = CLASSES[config.model_type]
    names = (
        *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "hidden_act", "pad_token_id"),
    )
    windows = {window for window in config.windows if window}
    ends: JSON = list(config.eos_token_ids)
    architecture = "Model" if config.head == NONE and not config.pipeline else "ForCausalLM"
    return {
        CONFIG: {
            "architectures": [f"{kind}{architecture}"],
            **{name: getattr(config, name) for name in names},
            "head_dim": config.head_dim,
            "rope_parameters": config.rope.to_json(),
            "tie_word_embeddings": config.head != OWN,
            "use_sliding_window": bool(windows),
            "sliding_window": max(windows, default=None),
            "layer_types": [SLIDING if window else FULL for window in config.windows],
            "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
            **({"attention_bias": bool(config.biased)} if config.model_type == QWEN3 else {}),
        },
        GENERATION: {
            "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
            "pad_token_id": config.pad_token_id,
            "do_sample": False,
            **({} if config.repetition_penalty == 1.0 else {"repetition_penalty": config.repetition_penalty}),
        },
    }

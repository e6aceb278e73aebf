"""What a BERT-like text encoder is, in numbers, and how it is read from shapes and documents."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...validation.errors import GateError, InputError
from ..documents import JSON, Configured, Document, Expected, Harmless, Only, Settled, shown
from ..family import Shapes, Source
from ..pipeline import OPTIONS, settle_pipeline, settle_texts
from ..steps import CLS, Steps, plain
from ..tokenizer import settle_tokenizer, special_ids

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "silu", "swish", "relu")

UPSTREAM_DEFAULTS: Mapping[str, Mapping[str, JSON]] = {
    "bert": {
        "num_attention_heads": 12,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": None,
    },
    **{
        name: {
            "num_attention_heads": 12,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
        }
        for name in ("xlm-roberta", "roberta", "camembert")
    },
}
"""model_type -> what transformers' class for it takes where config.json is silent (5.24)."""

CLASSES = {"bert": "Bert", "xlm-roberta": "XLMRoberta", "roberta": "Roberta", "camembert": "Camembert"}
"""model_type -> what the names of transformers' classes for it begin with."""

_DROPOUT = "dropout, which inference leaves out"
_TRAINING = "training only"
_LABELS = "names of a classifier's outputs"
_CALLS = "what a call gives back beside the states"
_GENERATION = "generation of text only"
CONFIG_HARMLESS: Harmless = {
    **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"), _DROPOUT),
    **dict.fromkeys(("initializer_range", "gradient_checkpointing", "finetuning_task", "problem_type"), _TRAINING),
    **dict.fromkeys(("id2label", "label2id", "num_labels"), _LABELS),
    **dict.fromkeys(("output_attentions", "output_hidden_states", "return_dict", "output_past"), _CALLS),
    **dict.fromkeys(("use_return_dict", "use_cache"), _CALLS),
    **dict.fromkeys(("dtype", "torch_dtype"), "the tensors are taken in their own dtype"),
    **dict.fromkeys(("transformers_version", "_name_or_path", "architectures"), "where it comes from"),
    **dict.fromkeys(("torchscript", "_attn_implementation", "_attn_implementation_autoset"), "how it is executed"),
    **dict.fromkeys(("attn_implementation", "chunk_size_feed_forward"), "how it is executed"),
    **dict.fromkeys(("tie_word_embeddings", "tie_encoder_decoder"), "concerns a language model's head"),
    **dict.fromkeys(("directionality", "pooler_fc_size", "pooler_num_attention_heads"), "of Google's, read by nobody"),
    **dict.fromkeys(("pooler_num_fc_layers", "pooler_size_per_head", "pooler_type"), "of Google's, read by nobody"),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id"), "the tokenizer has its ids"),
    **dict.fromkeys(("decoder_start_token_id", "task_specific_params"), _GENERATION),
    **dict.fromkeys(("max_length", "min_length", "do_sample", "early_stopping", "num_beams"), _GENERATION),
    **dict.fromkeys(
        ("num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p"), _GENERATION
    ),
    **dict.fromkeys(("repetition_penalty", "length_penalty", "no_repeat_ngram_size", "bad_words_ids"), _GENERATION),
    **dict.fromkeys(("encoder_no_repeat_ngram_size", "num_return_sequences", "output_scores"), _GENERATION),
    **dict.fromkeys(("return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id"), _GENERATION),
    **dict.fromkeys(("remove_invalid_values", "exponential_decay_length_penalty"), _GENERATION),
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens"), _GENERATION),
    **dict.fromkeys(("use_bfloat16", "tf_legacy_loss"), "TensorFlow only"),
    "tf_legacy_loss": _TRAINING,
    "transformers.js_config": "concerns Transformers.js only",
    "pruned_heads": Only(({}, None), "no head is taken away"),
    "prefix": Only((None, ""), "none"),
    "tokenizer_class": Only((None,), "not stated"),
    "cross_attention_hidden_size": Only((None,), "there is no decoder"),
    "is_decoder": Only((False,), "an encoder"),
    "add_cross_attention": Only((False,), "an encoder"),
    "is_encoder_decoder": Only((False,), "an encoder"),
    "position_embedding_type": Only(("absolute",), "as is computed here"),
}
"""config.json, by BertConfig, XLMRobertaConfig and PreTrainedConfig of transformers 5.24 and 4.57."""

OF_SHAPES = {
    "vocab_size": "word_embeddings.weight",
    "hidden_size": "word_embeddings.weight",
    "max_position_embeddings": "position_embeddings.weight",
    "type_vocab_size": "token_type_embeddings.weight",
}
"""Configuration's field -> the embedding whose shape shows it."""

SPECIAL = {"cls_token_id": ("cls_token", ("[CLS]", "<s>")), "sep_token_id": ("sep_token", ("[SEP]", "</s>"))}
"""Configuration's field -> the tokenizer documents' name of the token, and its usual texts."""

PUBLISHED_IDS = {"cls_token_id": 101, "sep_token_id": 102}
"""Of every vocabulary that Google published for BERT; taken where there is neither tokenizer nor published size."""

CONFIG = "config.json"

Silent = Callable[[str], tuple[JSON, str]]
"""Gives for a field the value that holds where nothing states it, None if there is none, and where that is from."""


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
    pipeline: Steps = CLS
    """What makes one vector of the states."""
    max_seq_length: int = 0
    """The longest text that is embedded, special tokens included; 0: as long as there are positions."""
    truncation_side: str = "right"
    do_lower_case: bool = False
    """Whether capitals are made small before the tokenizer's own rules."""
    prompts: tuple[tuple[str, str], ...] = ()
    """What may stand before a text, by name."""
    default_prompt: str = ""
    """The name of the prompt that stands before every text; "" for none."""
    similarity: str = "cosine"

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
        """Longest text that there are positions for, special tokens included."""
        return self.max_position_embeddings - self.first_position

    @property
    def text_limit(self) -> int:
        """Longest text that is embedded, special tokens included."""
        return min(self.max_seq_length or self.max_tokens, self.max_tokens)


M3: dict[str, Any] = {
    "layer_norm_eps": 1e-5,
    "model_type": "xlm-roberta",
    "pad_token_id": 1,
    "cls_token_id": 0,
    "sep_token_id": 2,
}

PUBLISHED = {
    "base": BertConfig(30522, 768, 12, 12, 3072, 512, 2),
    "small": BertConfig(30522, 384, 12, 12, 1536, 512, 2),
    "large": BertConfig(30522, 1024, 24, 16, 4096, 512, 2),
    "minilm-l6": BertConfig(30522, 384, 6, 12, 1536, 512, 2, pipeline=plain(["mean"])),
    "m3": BertConfig(250002, 1024, 24, 16, 4096, 8194, 1, **M3),
}
"""BAAI/bge-{base,small,large}-en-v1.5, all-MiniLM-L6-v2, BAAI/bge-m3: their shapes alone say the rest."""

SIZES = {**PUBLISHED, "tiny": BertConfig(300, 32, 2, 4, 64, 40, 2)}
"""What a fixture may be; the tiny one is nobody's, and a network of its shapes may have other heads."""

NUMBERS = re.compile(r"layer\.(\d+)\.")


def sizes_from_shapes(
    shapes: Shapes, embeddings: str, encoder: str, tables: Mapping[str, str] = OF_SHAPES
) -> dict[str, tuple[int, str]]:
    """Read what the tensors' shapes show and where, given the prefixes of the embedding's and the encoder's names.

    Raises:
        GateError: a tensor that fixes a size is missing.
    """

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if name not in shapes:
            raise GateError(f"tensor {name} is missing: without it the network's size cannot be known")
        if len(shapes[name]) != rank or 0 in shapes[name]:
            empty = "; its values lie in other files, as DeepSpeed's" if 0 in shapes[name] else ""
            raise GateError(f"tensor {name} must have {rank} dimensions, got shape {shapes[name]}{empty}")
        return shapes[name]

    layers = {int(m[1]) for name in shapes if name.startswith(encoder) and (m := NUMBERS.match(name[len(encoder) :]))}
    if not layers:
        raise GateError(f"no tensor is called {encoder}layer.0.*: the text encoder is missing")
    if len(layers) <= max(layers):
        missing = next(i for i in range(max(layers)) if i not in layers)
        raise GateError(f"no tensor is called {encoder}layer.{missing}.*, but there is a layer {max(layers)}")
    inner = f"{encoder}layer.0.intermediate.dense.weight"
    seen = {"num_hidden_layers": (len(layers), f"names {encoder}layer.*")}
    for field, name in tables.items():
        seen[field] = shape(embeddings + name, 2)[field == "hidden_size"], f"shape of {embeddings}{name}"
    return seen | {"intermediate_size": (shape(inner, 2)[0], f"shape of {inner}")}


def configure(source: Source) -> Configured:
    """Read a sentence encoder: the network, and what its folder says of pooling and texts.

    Raises:
        InputError: a field contradicts the shapes, is not computed here, or is stated nowhere.
    """
    settled = source.settled()
    settle_network(settled, source, "embeddings.", "encoder.")
    config = BertConfig(**settled.values)
    settle_pipeline(settled, source, config.hidden_size)
    settle_texts(settled, source, config.max_tokens, left_padding=config.model_type != "bert")
    return Configured(BertConfig(**settled.values), settled.origins, OPTIONS)


def settle_network(settled: Settled, source: Source, embeddings: str, encoder: str) -> None:
    """Settle what the network computes and which ids it knows.

    Sizes are the shapes'. The rest is config.json's, or transformers' default where that is silent; without a
    config.json, that of the published size with these shapes.

    Raises:
        InputError: a field contradicts the shapes, is not computed here, or is stated nowhere.
    """
    document = source.document(CONFIG)
    for field, (value, origin) in sizes_from_shapes(source.shapes, embeddings, encoder).items():
        settled.put(field, value, origin)
        if document and document.take(field, int, value) != value:
            raise InputError(
                f"{document.origin}: {field} is {document.fields[field]}, but the checkpoint's tensors say {value} "
                f"({origin})"
            )
    model_type, origin, silent = _model_type(source, document, settled)
    settle_tokenizer(source, f"{CLASSES[model_type]}Tokenizer")
    roberta = model_type != "bert"
    settled.values["model_type"], settled.origins["model_type"] = "xlm-roberta" if roberta else "bert", origin

    def choose(field: str, kind: type, **expected: Any) -> Any:
        value, where = silent(field)
        otherwise = None if value is None else (value, where)
        advice = (
            f"put the model's {CONFIG} beside the checkpoint, pass --config FILE, or say --set {settled.part}{field}="
        )
        return settled.choose(field, kind, (document, field), otherwise=otherwise, advice=advice, **expected)

    heads = choose("num_attention_heads", int, low=1)
    if settled.values["hidden_size"] % heads:
        raise InputError(
            f"{settled.origins['num_attention_heads']}: num_attention_heads is {heads}, which does not divide "
            f"hidden_size {settled.values['hidden_size']}; say it with --set {settled.part}num_attention_heads="
        )
    choose("layer_norm_eps", float, low=0)
    choose("hidden_act", str, choices=ACTIVATIONS)
    last = settled.values["vocab_size"] - 1
    pad = choose("pad_token_id", int, low=0, high=last)
    tokens = {name: (number, where) for name, number, where in special_ids(source, SPECIAL)}
    for field, theirs in {"cls_token_id": "bos_token_id", "sep_token_id": "eos_token_id"}.items():
        number, where = tokens.get(field) or silent(field)
        if field not in tokens and roberta and document:
            number, where = document.take(theirs, int, silent(theirs)[0]), f"{CONFIG}: {theirs}"
        if number is None and source.tokens is None and PUBLISHED_IDS[field] <= last:
            number, where = PUBLISHED_IDS[field], "BERT's published vocabularies, for want of a tokenizer"
        advice = f"put the tokenizer beside the checkpoint, pass --tokenizer DIR, or say --set {settled.part}{field}="
        otherwise = None if number is None else (number, where)
        settled.choose(field, int, otherwise=otherwise, advice=advice, low=0, high=last)
    usable = settled.values["max_position_embeddings"] - (pad + 1 if roberta else 0)
    if usable < 2:
        raise InputError(
            f"{settled.origins['max_position_embeddings']}: {settled.values['max_position_embeddings']} positions "
            f"leave {usable} for a text, whose first is pad_token_id {pad} + 1; at least 2 are needed"
            if roberta
            else f"{settled.origins['max_position_embeddings']}: {usable} position; at least 2 are needed"
        )
    if document:
        document.accept(CONFIG_HARMLESS)


def _model_type(source: Source, document: Document | None, settled: Settled) -> tuple[str, str, Silent]:
    """Tell which of transformers' models it is, and what holds where config.json is silent."""
    given = settled.given.get(f"{settled.part}model_type")
    if document is None:
        values = {field: settled.values[field] for field in (*OF_SHAPES, "num_hidden_layers", "intermediate_size")}
        sizes = ((n, c) for n, c in PUBLISHED.items() if all(getattr(c, f) == v for f, v in values.items()))
        name, published = next(sizes, ("", None))
        where = f"published size {name}"
        if published is not None and (given is None or given.value == published.model_type):
            return published.model_type, where, lambda field: (getattr(published, field, None), where)
    model_type, origin = _named_type(source, document, settled)
    defaults = UPSTREAM_DEFAULTS[model_type] if document else {}
    where = f"default of transformers' {CLASSES[model_type]}Config"
    return model_type, origin, lambda field: (defaults.get(field), where)


def _named_type(source: Source, document: Document | None, settled: Settled) -> tuple[str, str]:
    """Read model_type, else tell it by the name of the class and by the prefix of the tensors' names."""
    given = settled.given.get(f"{settled.part}model_type")
    if given:
        if document:
            document.note("model_type", f"{given.option} says {shown(given.value)} in its place")
        wanted = Expected(str, choices=(*CLASSES,))
        return wanted.checked(given.value, f"{given.option}: {settled.part}model_type"), given.option
    if document and "model_type" in document:
        return document.take("model_type", str, choices=(*CLASSES,)), f"{CONFIG}: model_type"
    told: dict[str, str] = {}
    for written in document.take("architectures", list, None) or [] if document else []:
        prefixes = [
            kind for kind, start in CLASSES.items() if str(written).startswith((f"{start}Model", f"{start}For"))
        ]
        told |= dict.fromkeys(prefixes, f"{CONFIG}: architectures")
    parts = {part for wrapper in source.wrappers for part in wrapper.split(".")}
    if "roberta" in parts and not told.keys() - {"bert"}:
        told["roberta"] = "prefix roberta. of the tensors' names"  # XLM-RoBERTa's is the same, and so are its positions
    if "bert" in parts and not told:
        told["bert"] = "prefix bert. of the tensors' names"
    if len(told) == 1:
        return next(iter(told.items()))
    place = (
        document.origin
        if document
        else f"no {CONFIG} lies beside the checkpoint, and its shapes are of no published size"
    )
    reason = "; ".join(f"{where} says {kind}" for kind, where in told.items()) or "nothing tells it"
    raise InputError(
        f"{place}: model_type is not stated, and {reason}; say --set {settled.part}model_type= with one of "
        f"{', '.join(CLASSES)} (they number positions differently), or put the model's {CONFIG} beside the checkpoint"
    )

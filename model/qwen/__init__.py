"""Qwen2 and Qwen3: language models that make text, token by token, and the embedding models of the same decoders."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ...validation.cases import Case
from ...validation.domains import Cache, PaddingMask, Positions, PromptTokens
from ...validation.domains import places as positions
from ...validation.entry_point import Axis, EntryPoint, TensorSpec, TokenIds
from ...validation.errors import InputError
from ...validation.outputs import Cache as Kept
from ...validation.outputs import Logits, Output, States
from ...validation.procedure import Greedy
from .. import sentences, steps
from ..caches import fed, key_names, named
from ..family import Family, HuggingFace
from ..pipeline import documents as sentence_documents
from ..pipeline import prompt_input, text_rules
from . import clients, rules
from .config import (
    CONFIG,
    LAYER,
    NONE,
    PREFIXES,
    QWEN2,
    QWEN2_SIZES,
    QWEN3,
    QWEN3_SIZES,
    WORDS,
    QwenConfig,
    configure,
    documents,
    recognise,
)

if TYPE_CHECKING:
    from ..network import Network
    from ..reference import Encode, Original, Reference

SCALE = 0.6
"""Deviation of the numbers of keys and values where they are drawn."""


def text_inputs(config: QwenConfig) -> tuple[TensorSpec, TensorSpec]:
    """Describe ids and mask, both (batch, tokens)."""
    first, last = (next(iter(ids), None) for ids in (config.first_token_ids, config.last_token_ids))
    ids = TokenIds(config.vocab_size, config.pad_token_id, first, last)
    mask = PaddingMask("input_ids", leading=not config.pipeline or steps.leading(config.pipeline))
    return (
        TensorSpec("input_ids", "int32", ("batch", "tokens"), ids),
        TensorSpec("attention_mask", "int32", ("batch", "tokens"), mask),
    )


def encode_text(config: QwenConfig) -> EntryPoint:
    """Describe the entry point that embeds texts."""
    axes = {"batch": Axis(), "tokens": Axis(1, config.max_tokens)}
    inputs = (*text_inputs(config), *prompt_input(config.pipeline))
    return EntryPoint("encode_text", inputs, sentences.embeddings_output(config), axes, rows="batch")


def _entry_points(config: QwenConfig) -> tuple[EntryPoint, ...]:
    if config.pipeline:
        return (encode_text(config),)
    ids, mask = text_inputs(config)
    places = TensorSpec("position_ids", "int32", ("batch", "tokens"), Positions("attention_mask"))

    def kept(kind: str, size: str) -> tuple[TensorSpec, ...]:
        shape = ("batch", config.num_key_value_heads, size, config.head_dim)
        domain = Cache(SCALE, past="past") if kind else None
        names = (name for i in range(config.num_hidden_layers) for name in key_names(kind, i))
        return tuple(
            TensorSpec(name, "float32", shape, domain, Output() if kind else Kept("attention_mask")) for name in names
        )

    states = TensorSpec(
        "last_hidden_state", "float32", ("batch", "tokens", config.hidden_size), kind=States("attention_mask")
    )
    logits = TensorSpec("logits", "float32", ("batch", "tokens", config.vocab_size), kind=Logits("attention_mask"))
    result = states if config.head == NONE else logits
    longer = TensorSpec("attention_mask", "int32", ("batch", "past + tokens"), mask.domain)
    more_ids = TensorSpec("input_ids", "int32", ids.shape, TokenIds(config.vocab_size, config.pad_token_id))
    tokens = {"batch": Axis(), "tokens": Axis(1, config.max_tokens)}
    before = {**tokens, "past": Axis(1, config.max_tokens - 1)}
    found = result, *kept("", "tokens")
    more = result, *kept("", "past + tokens")
    return (
        EntryPoint("prefill", (ids, mask, places), found, tokens, rows="batch"),
        EntryPoint("decode", (more_ids, longer, places, *kept("past", "past")), more, before, rows="batch"),
    )


def _cases(config: QwenConfig) -> tuple[Case, ...]:
    """Give padding before texts, as where several are continued: what is drawn has it behind them."""
    rng = np.random.default_rng(0)
    mask = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]], np.int32)
    found = []
    for entry in _entry_points(config):
        past = 2 if entry.name == "decode" else 0
        ids = np.where(mask, rng.integers(0, config.vocab_size, mask.shape), config.pad_token_id).astype(np.int32)
        inputs: dict[str, np.ndarray] = {"input_ids": ids[:, past:], "attention_mask": mask}
        for spec in entry.inputs:
            if isinstance(spec.domain, Positions):
                inputs[spec.name] = positions(mask, mask.shape[1] - past).astype(np.int32)
            elif isinstance(spec.domain, Cache):
                shape = spec.resolve({"batch": 2, "past": past})
                inputs[spec.name] = (SCALE * rng.standard_normal(shape)).astype(np.float32)
            elif isinstance(spec.domain, PromptTokens):
                inputs[spec.name] = np.zeros(2, np.int32)
        found.append(Case(entry.name, "padding before a text", {s.name: inputs[s.name] for s in entry.inputs}))
    return tuple(found)


def _procedures(config: QwenConfig) -> tuple[Greedy, ...]:
    """Declare greedy generation."""
    if config.pipeline or config.head == NONE:
        return ()
    caches, penalty = fed(config.num_hidden_layers), config.repetition_penalty
    return (Greedy("generate", "prefill", "decode", caches, config.eos_token_ids, penalty=penalty),)


def _network(config: QwenConfig) -> "Network":
    from ..network import Network
    from .modeling import Qwen

    return Network(lambda rngs: Qwen(config, rngs=rngs), _entry_points(config))


def _documents(config: QwenConfig) -> Mapping[str, Any]:
    """Give the documents beside such a checkpoint: transformers', and those of sentence-transformers if it embeds."""
    return {**documents(config), **(sentence_documents(config) if config.pipeline else {})}


def _reference(config: QwenConfig, original: "Original") -> "Reference":
    """Take transformers' class; where texts are embedded, its headless one and sentence-transformers' modules."""
    from .. import upstream
    from ..reference import Reference

    stated = original.documents.get(CONFIG) or documents(config)[CONFIG]
    if config.pipeline:
        found = sentences.reference(config, original, stated, WORDS)
        upstream.turned(found.module, config.rope.frequencies(config.head_dim), config.rope.attention_factor)
        return found
    model = upstream_class(config, stated, original.state)
    name = f"{upstream.versions('torch', 'transformers')}: {type(model).__name__}"
    return Reference(name, model, _reading(config, model), original.state)


def upstream_class(config: QwenConfig, stated: Any, state: Any) -> Any:
    """Load transformers' class for a config.json, to turn queries and keys by this project's angles."""
    from .. import upstream

    library = upstream.transformers()
    kind = upstream.configuration(stated)
    classes = library.MODEL_MAPPING if config.head == NONE else library.MODEL_FOR_CAUSAL_LM_MAPPING
    model: Any = upstream.load(classes[type(kind)], kind, state)
    upstream.turned(model, config.rope.frequencies(config.head_dim), config.rope.attention_factor)
    return model


def cached(config: QwenConfig, model: Any, past: Mapping[str, Any], **inputs: Any) -> tuple[Any, dict[str, Any]]:
    """Call a class of transformers with its own caches, which keep all tokens where a window would let go of some.

    Args:
        config: of the network.
        model: the class.
        past: keys and values of the tokens before, by name; empty where there are none.
        inputs: what else it takes.

    Returns:
        What it gives, and keys and values of all tokens by name.
    """
    from transformers import DynamicCache

    from .. import upstream

    layers = range(config.num_hidden_layers)
    pairs = [tuple(past[name] for name in key_names("past", i)) for i in layers] if past else []
    cache_name = upstream.cache_name(model)
    given = model(**inputs, use_cache=True, **{cache_name: DynamicCache(pairs) if past else DynamicCache()})
    return given, named("", given[cache_name])


def _reading(config: QwenConfig, model: Any) -> dict[str, Any]:
    """Give the entry points."""
    from torch import Tensor

    scored = "last_hidden_state" if config.head == NONE else "logits"

    def read(past: Mapping[str, Tensor], **inputs: Tensor) -> dict[str, Tensor]:
        given, kept = cached(config, model, past, **inputs)
        return {scored: given[scored], **kept}

    def prefill(**inputs: Tensor) -> dict[str, Tensor]:
        return read({}, **inputs)

    def decode(input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, **past: Tensor) -> dict[str, Tensor]:
        return read(past, input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids)

    return {"prefill": prefill, "decode": decode}


def _encode(config: QwenConfig, original: "Original", reference: "Reference") -> Mapping[str, "Encode"]:
    """Let sentence-transformers embed raw texts, or transformers' tokenizer read a prompt."""
    from torch import Tensor

    from .. import upstream

    if config.pipeline:
        return sentences.encode(config, original, reference)
    if not original.texts:
        return {}

    def read(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        where = (attention_mask.cumsum(1) - 1).clamp(min=0)
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": where}
        return next(iter(reference.entries["prefill"](**given).values()))

    return {"prefill": upstream.TokenizedEncoder(original, read, config.text_limit, side="right")}


def _embeddings(config: QwenConfig) -> Mapping[str, Any]:
    return sentences.embeddings(config) if config.pipeline else {}


def _hugging_face(config: QwenConfig) -> HuggingFace:
    """Describe the embedding model to transformers' Qwen2Model and Qwen3Model.

    Raises:
        InputError: it makes text.
    """
    from ..network import Network
    from .modeling import Qwen

    if not config.pipeline:
        raise InputError("the network makes text, and clients that embed or classify texts have no use for it")
    entry = sentences.token_states(encode_text(config), config)
    network = Network(lambda rngs: Qwen(config, rngs=rngs), (entry,))
    return HuggingFace(_documents(config), network, sentences.gives(entry), config.pipeline)


def _family(model_type: str, name: str, sizes: Mapping[str, QwenConfig]) -> Family:
    return Family(
        name=model_type,
        summary=f"{name}: language models that make text, and the embedding models of the same decoders",
        recognise=partial(recognise, model_type=model_type),
        configure=partial(configure, model_type=model_type),
        config=QwenConfig,
        part=rules.whole,
        entry_points=_entry_points,
        network=_network,
        reference=_reference,
        sizes=sizes,
        embeddings=_embeddings,
        hugging_face=_hugging_face,
        encode=_encode,
        anchors=tuple(f"{prefix}{LAYER}input_layernorm.weight" for prefix in PREFIXES),
        documents=_documents,
        texts=text_rules,
        cases=_cases,
        procedures=_procedures,
        transformers_js=clients.transformers_js,
        onnxruntime_genai=clients.onnxruntime_genai,
    )


FAMILIES = (_family(QWEN2, "Qwen2 and Qwen2.5", QWEN2_SIZES), _family(QWEN3, "Qwen3", QWEN3_SIZES))

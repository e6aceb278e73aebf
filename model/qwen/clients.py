"""Qwen as other clients open it: one program, whether tokens were kept before or none were.

Names and axes are those of optimum and Transformers.js (`past_key_values.N.key`), which onnxruntime-genai is told in
genai_config.json.
"""

from collections.abc import Mapping

from ...validation.domains import TokenIds
from ...validation.entry_point import Axis, EntryPoint, TensorSpec
from ...validation.errors import InputError
from ..caches import key_names
from ..documents import JSON
from ..family import Transcriber
from .config import CONFIG, GENERATION, NONE, QwenConfig, documents

PROGRAM = "model"
TOKENIZER, GENAI = "tokenizer_config.json", "genai_config.json"
KINDS = "key", "value"


def transformers_js(config: QwenConfig) -> Transcriber:
    """Give what Transformers.js and optimum open.

    Raises:
        InputError: the network scores no words.
    """
    own = documents(config)
    stated: dict[str, JSON] = {
        CONFIG: {**_object(own[CONFIG]), "use_cache": True},
        GENERATION: {**_object(own[GENERATION]), "max_length": config.max_tokens},
        TOKENIZER: _tokenizer(config),
    }
    return _described(config, "transformers-js", stated)


def onnxruntime_genai(config: QwenConfig) -> Transcriber:
    """Give what onnxruntime-genai opens.

    Raises:
        InputError: the network scores no words.
    """
    ends: JSON = list(config.eos_token_ids)
    if not ends:
        raise InputError("--layout onnxruntime-genai needs an eos_token_id: the client goes on until one comes")
    names = "past_key_values.%d.", "present.%d."
    takes: dict[str, JSON] = {name: name for name in ("input_ids", "attention_mask", "position_ids")}
    takes |= {f"past_{kind}_names": names[0] + kind for kind in KINDS}
    gives: dict[str, JSON] = {"logits": "logits"} | {f"present_{kind}_names": names[1] + kind for kind in KINDS}
    decoder: JSON = {
        "filename": f"{PROGRAM}.onnx",
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "hidden_size": config.hidden_size,
        "head_size": config.head_dim,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "inputs": takes,
        "outputs": gives,
    }
    network: JSON = {
        "type": config.model_type,
        "bos_token_id": ends[0],
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
        "pad_token_id": config.pad_token_id,
        "vocab_size": config.vocab_size,
        "context_length": config.max_tokens,
        "decoder": decoder,
    }
    search: JSON = {
        "do_sample": False,
        "num_beams": 1,
        "max_length": config.max_tokens,
        "repetition_penalty": config.repetition_penalty,
        "past_present_share_buffer": False,
    }
    stated: dict[str, JSON] = {GENAI: {"model": network, "search": search}, TOKENIZER: _tokenizer(config)}
    return _described(config, "onnxruntime-genai", stated)


def _described(config: QwenConfig, layout: str, stated: Mapping[str, JSON]) -> Transcriber:
    from ..network import Network
    from .modeling import Qwen

    if config.pipeline or config.head == NONE:
        raise InputError(f"--layout {layout} is for networks that make texts; this one scores no words")

    def kept(before: str, size: str) -> list[TensorSpec]:
        shape = ("batch_size", config.num_key_value_heads, size, config.head_dim)
        layers = range(config.num_hidden_layers)
        return [TensorSpec(f"{before}.{i}.{kind}", "float32", shape) for i in layers for kind in KINDS]

    axes = {"batch_size": Axis(), "tokens": Axis(1, config.max_tokens), "past": Axis(1, config.max_tokens)}
    ids = TokenIds(config.vocab_size, config.pad_token_id)
    inputs = (
        TensorSpec("input_ids", "int32", ("batch_size", "tokens"), ids),
        TensorSpec("attention_mask", "int32", ("batch_size", "past + tokens")),
        TensorSpec("position_ids", "int32", ("batch_size", "tokens")),
        *kept("past_key_values", "past"),
    )
    scores = TensorSpec("logits", "float32", ("batch_size", "tokens", config.vocab_size))
    entry = EntryPoint(PROGRAM, inputs, (scores, *kept("present", "past + tokens")), axes, rows="batch_size")
    feeds = {spec.name: spec.name for spec in inputs[:3]}
    gives = {"logits": "logits"} | _named(config, "present", "")
    programs = {
        "prefill": (PROGRAM, feeds, gives),
        "decode": (PROGRAM, feeds | _named(config, "past_key_values", "past"), gives),
    }
    network = Network(lambda rngs: Qwen(config, rngs=rngs), (entry,))
    return Transcriber(stated, network, programs)


def _named(config: QwenConfig, before: str, kind: str) -> dict[str, str]:
    """Give the clients' names of keys and values -> the entry points'."""
    layers = range(config.num_hidden_layers)
    return {f"{before}.{i}.{n}": own for i in layers for n, own in zip(KINDS, key_names(kind, i), strict=True)}


def _tokenizer(config: QwenConfig) -> JSON:
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_max_length": config.text_limit,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
    }


def _object(document: JSON) -> dict[str, JSON]:
    assert isinstance(document, dict)
    return document

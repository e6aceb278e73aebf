"""Whisper as Transformers.js and optimum open it: an encoder, and one decoder for the first call and all further ones.

Keys and values of what was before are inputs of the decoder, and empty where nothing was. Those of the sound are
computed of the places that are not kept yet: of all in the first call, of none in those that follow.

Source: names of inputs, outputs and files are those of modeling_utils.js of Transformers.js 4.3 and of
modeling_seq2seq.py of optimum-onnx 0.1. Both give empty pasts first, whose axes are called anything but `batch_size`,
and keep what the first call gave of the sound.
"""

from collections.abc import Mapping

from ...validation.entry_point import Axis, EntryPoint, TensorSpec
from ...validation.errors import InputError
from .. import sound
from ..documents import JSON
from ..family import Transcriber
from ..sound import PLACE as EXTRACTOR
from .config import CONFIG, GENERATION, HEADLESS, Decoder, WhisperConfig, documents, key_names

ENCODER, DECODER = "encoder_model", "decoder_model_merged"
TOKENIZER = "tokenizer_config.json"

MEDIAN = 7
"""Tokens over which the times of words are smoothed: WhisperConfig's own number, which no family of sizes changes."""

KINDS = "key", "value"


def transcriber(config: WhisperConfig) -> Transcriber:
    """Give what the clients open.

    Raises:
        InputError: they have no class for the network, or nothing says how samples become its input.
    """
    from ..network import Network
    from .modeling import Whisper

    decoder = config.decoder
    if decoder is None or config.names == HEADLESS:
        raise InputError("--layout transformers-js is for Whisper that writes: an encoder with a decoder and its head")
    if config.sound is None:
        raise InputError(f"--layout transformers-js needs {EXTRACTOR}: the client makes the spectrogram by it")
    entries = _encoder(config), _decoder(config, decoder)
    return Transcriber(
        documents=_documents(config, decoder),
        network=Network(lambda rngs: Whisper(config, rngs=rngs), entries),
        programs=_programs(decoder),
        heads=decoder.alignment_heads,
    )


def _encoder(config: WhisperConfig) -> EntryPoint:
    features = TensorSpec("input_features", "float32", ("batch_size", config.num_mel_bins, config.frames))
    states = TensorSpec("last_hidden_state", "float32", ("batch_size", config.max_source_positions, config.d_model))
    vectors = TensorSpec("embeddings", "float32", ("batch_size", config.d_model))
    return EntryPoint(ENCODER, (features,), (states, vectors), {"batch_size": Axis()}, rows="batch_size")


def _decoder(config: WhisperConfig, decoder: Decoder) -> EntryPoint:
    """Describe the decoder. That what is kept may be empty is the layout's to check: no array is, in an entry point."""
    heads, places, longest = decoder.decoder_attention_heads, config.max_source_positions, decoder.max_target_positions
    layers = range(decoder.decoder_layers)

    def kept(before: str, part: str, size: str, layer: int) -> list[TensorSpec]:
        shape = ("batch_size", heads, size, config.d_model // heads)
        return [TensorSpec(f"{before}.{layer}.{part}.{kind}", "float32", shape) for kind in KINDS]

    texts = TensorSpec("input_ids", "int32", ("batch_size", "tokens"))
    states = TensorSpec("encoder_hidden_states", "float32", ("batch_size", "heard + ahead", config.d_model))
    past = [spec for i in layers for part in PASTS.items() for spec in kept("past_key_values", *part, i)]
    scores = TensorSpec("logits", "float32", ("batch_size", "tokens", decoder.vocab_size))
    present = [spec for part in PRESENTS.items() for i in layers for spec in kept("present", *part, i)]
    shape = ("batch_size", heads, "tokens", "heard + ahead")
    seen = [TensorSpec(f"cross_attentions.{i}", "float32", shape) for i in layers] if decoder.alignment_heads else []
    axes = {"batch_size": Axis(), "tokens": Axis(1, longest), "past": Axis(1, longest)}
    axes |= dict.fromkeys(("heard", "ahead"), Axis(1, places))
    return EntryPoint(DECODER, (texts, states, *past), (scores, *present, *seen), axes, rows="batch_size")


PASTS = {"decoder": "past", "encoder": "heard"}
PRESENTS = {"decoder": "past + tokens", "encoder": "ahead"}
"""Whose keys and values -> how many are taken, and given: of the tokens all so far, of the sound those not taken."""


def _programs(decoder: Decoder) -> dict[str, tuple[str, dict[str, str], dict[str, str]]]:
    """Say of each entry point which program computes it, what is fed with what, and what is which output.

    What is not fed is empty, or is not read.
    """
    layers = range(decoder.decoder_layers)

    def named(before: str, part: str, kind: str) -> dict[str, str]:
        return {
            f"{before}.{i}.{part}.{name}": own
            for i in layers
            for name, own in zip(KINDS, key_names(kind, i), strict=True)
        }

    text, heard = {"input_ids": "input_ids"}, named("past_key_values", "encoder", "cross")
    past, scores = named("past_key_values", "decoder", "past"), {"logits": "logits"} | named("present", "decoder", "")
    features = {"input_features": "input_features"}
    states = {"last_hidden_state": "last_hidden_state", "embeddings": "embeddings"}
    found = {
        "encode_audio": (ENCODER, features, states),
        "cross_kv": (DECODER, {"encoder_hidden_states": "last_hidden_state"}, named("present", "encoder", "cross")),
        "decode_prefill": (DECODER, text | heard, scores),
        "decode_step": (DECODER, text | past | heard, scores),
    }
    return found | ({"align": (DECODER, text | heard, {})} if decoder.alignment_heads else {})


def _documents(config: WhisperConfig, decoder: Decoder) -> Mapping[str, JSON]:
    """Give what lies beside the programs: the checkpoint's own, and what the clients ask for beyond."""
    own = {**documents(config), **sound.documents(config.sound)}
    times = {"median_filter_width": MEDIAN} if decoder.alignment_heads else {}
    whole = {"is_encoder_decoder": True, "use_cache": True, **times}
    spoken = {"is_multilingual": bool(decoder.languages), "max_length": decoder.max_target_positions}
    return {
        CONFIG: _with(own[CONFIG], whole),
        GENERATION: _with(own[GENERATION], spoken),
        EXTRACTOR: _with(own[EXTRACTOR], {"processor_class": "WhisperProcessor"}),
        TOKENIZER: {
            "tokenizer_class": "WhisperTokenizer",
            "processor_class": "WhisperProcessor",
            "model_max_length": decoder.max_target_positions,
            "clean_up_tokenization_spaces": False,
        },
    }


def _with(document: JSON, more: Mapping[str, JSON]) -> JSON:
    assert isinstance(document, dict)
    return {**document, **more}

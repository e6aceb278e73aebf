"""Whisper as other clients open it.

Transformers.js and optimum have an encoder, and one decoder for the first call and all further ones. Keys and values of
what was before are inputs of the decoder, and empty where nothing was. Those of the sound are computed of the places
that are not kept yet: of all in the first call, of none later. onnxruntime-genai and sherpa-onnx have them of the
encoder.

Source: names of inputs, outputs and files are those of modeling_utils.js of Transformers.js 4.3, of modeling_seq2seq.py
of optimum-onnx 0.1, of models/builders/whisper.py of onnxruntime-genai 0.18, and of csrc/offline-whisper-model.cc of
sherpa-onnx. The first two give empty pasts first, whose axes are called anything but `batch_size`, and keep what the
first call gave of the sound.
"""

from collections.abc import Mapping

from ...validation.entry_point import Axis, EntryPoint, TensorSpec
from ...validation.errors import InputError
from .. import sound
from ..caches import key_names
from ..documents import JSON
from ..family import Transcriber
from ..sound import PLACE as EXTRACTOR
from ..sound import Sound, window
from .config import CONFIG, GENERATION, HEADLESS, Decoder, WhisperConfig, documents

ENCODER, DECODER = "encoder_model", "decoder_model_merged"
TOKENIZER = "tokenizer_config.json"

MEDIAN = 7
"""Tokens over which the times of words are smoothed: WhisperConfig's own number, which no family of sizes changes."""

KINDS = "key", "value"

ENDS = "bos_token", "eos_token", "unk_token"
"""Special tokens that are the end: Whisper has one for all."""


def transcriber(config: WhisperConfig) -> Transcriber:
    """Give what the clients open.

    Raises:
        InputError: they have no class for the network, or nothing says how samples become its input.
    """
    from ..network import Network
    from .modeling import Whisper

    decoder, _ = _writes(config, "transformers-js")
    entries = _encoder(config), _decoder(config, decoder)
    return Transcriber(
        documents=_documents(config, decoder),
        network=Network(lambda rngs: Whisper(config, rngs=rngs), entries),
        programs=_programs(decoder),
        ends=ENDS,
        heads=decoder.alignment_heads,
    )


def _writes(config: WhisperConfig, layout: str) -> tuple[Decoder, Sound]:
    """Give what a client's network must have.

    Raises:
        InputError: the network has no head, or nothing says how samples become its input.
    """
    if config.decoder is None or config.names == HEADLESS:
        raise InputError(f"--layout {layout} is for Whisper that writes: an encoder with a decoder and its head")
    if config.sound is None:
        raise InputError(f"--layout {layout} needs {EXTRACTOR}: the client makes the spectrogram by it")
    return config.decoder, config.sound


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
        TOKENIZER: _tokenizer(decoder),
    }


def _tokenizer(decoder: Decoder) -> JSON:
    return {
        "tokenizer_class": "WhisperTokenizer",
        "processor_class": "WhisperProcessor",
        "model_max_length": decoder.max_target_positions,
        "clean_up_tokenization_spaces": False,
    }


def _with(document: JSON, more: Mapping[str, JSON]) -> JSON:
    assert isinstance(document, dict)
    return {**document, **more}


HEARING, WRITING = "encoder_with_cross", "decoder_with_cross"
"""Programs of onnxruntime-genai. It takes whatever names its configuration states: they are the entry points' own."""

BANDS = 80, 128
"""Of the spectrograms that onnxruntime-genai and sherpa-onnx make; all else of it is as `Sound` has it by default."""


def genai(config: WhisperConfig) -> Transcriber:
    """Give what onnxruntime-genai opens: what is heard comes of the encoder, and the decoder takes it.

    Raises:
        InputError: it makes another spectrogram, or the network does not write.
    """
    from ..network import Network
    from .modeling import Whisper

    decoder, heard = _writes(config, "onnxruntime-genai")
    _hold_spectrogram(heard, "onnxruntime-genai")
    heads, places, layers = decoder.decoder_attention_heads, config.max_source_positions, range(decoder.decoder_layers)

    def kept(kind: str, size: int | str) -> list[TensorSpec]:
        shape = ("batch_size", heads, size, config.d_model // heads)
        return [TensorSpec(name, "float32", shape) for i in layers for name in key_names(kind, i)]

    encoder, cross = _encoder(config), kept("cross", "places")
    hearing = EntryPoint(
        HEARING, encoder.inputs, (*encoder.outputs, *kept("cross", places)), encoder.axes, rows="batch_size"
    )
    texts = TensorSpec("input_ids", "int32", ("batch_size", "tokens"))
    scores = TensorSpec("logits", "float32", ("batch_size", "tokens", decoder.vocab_size))
    longest = decoder.max_target_positions
    axes = {"batch_size": Axis(), "tokens": Axis(1, longest), "past": Axis(1, longest), "places": Axis(1, places)}
    past, present = kept("past", "past"), kept("", "past + tokens")
    writing = EntryPoint(WRITING, (texts, *past, *cross), (scores, *present), axes, rows="batch_size")
    own, prefill = {spec.name: spec.name for spec in writing.inputs}, {spec.name for spec in past}
    given = {spec.name: spec.name for spec in writing.outputs}
    programs = {
        "encode_audio": (HEARING, {"input_features": "input_features"}, {s.name: s.name for s in encoder.outputs}),
        "decode_prefill": (WRITING, {name: name for name in own if name not in prefill}, given),
        "decode_step": (WRITING, own, given),
    }
    network = Network(lambda rngs: Whisper(config, rngs=rngs), (hearing, writing))
    return Transcriber(_genai_documents(config, decoder, heard), network, programs, ENDS)


def _hold_spectrogram(heard: Sound, layout: str) -> None:
    """Hold a network's spectrogram to the one that clients make.

    Raises:
        InputError: it is another.
    """
    if heard.feature_size not in BANDS or heard != Sound(feature_size=heard.feature_size):
        raise InputError(
            f"--layout {layout}: the client makes spectrograms of {BANDS[0]} or {BANDS[1]} bands, of half a minute at "
            f"16000 Hz; this network's are {heard}"
        )


def _genai_documents(config: WhisperConfig, decoder: Decoder, heard: Sound) -> Mapping[str, JSON]:
    """Give the configuration, and what makes the spectrogram."""
    keys, values = (f"{kind}s_%d" for kind in KINDS)
    ids = {"bos": decoder.eos_token_id, "eos": decoder.eos_token_id, "pad": decoder.pad_token_id}

    def sized(heads: int, layers: int, name: str, inputs: JSON, outputs: JSON) -> JSON:
        width = {"hidden_size": config.d_model, "head_size": config.d_model // heads}
        count = {"num_attention_heads": heads, "num_key_value_heads": heads, "num_hidden_layers": layers}
        session: JSON = {"log_id": "onnxruntime-genai", "provider_options": []}
        return (
            {"filename": f"{name}.onnx", "session_options": session}
            | width
            | count
            | {
                "inputs": inputs,
                "outputs": outputs,
            }
        )

    hears: JSON = {"encoder_hidden_states": "last_hidden_state"}
    hears |= {"cross_present_key_names": f"cross_{keys}", "cross_present_value_names": f"cross_{values}"}
    takes: JSON = {"input_ids": "input_ids", "past_key_names": f"past_{keys}", "past_value_names": f"past_{values}"}
    takes |= {"cross_past_key_names": f"cross_{keys}", "cross_past_value_names": f"cross_{values}"}
    gives: JSON = {"logits": "logits", "present_key_names": keys, "present_value_names": values}
    features: JSON = {"audio_features": "input_features"}
    steps: list[JSON] = [
        {"operation": {"name": "audio_decoder", "type": "AudioDecoder"}},
        {
            "operation": {
                "name": "STFT",
                "type": "STFTNorm",
                "attrs": _frames(heard) | {"_comment": window(heard).tolist()},
            }
        },
        {"operation": {"name": "log_mel_spectrogram", "type": "LogMelSpectrum", "attrs": _bands(heard)}},
    ]
    network: JSON = {
        "type": "whisper",
        **{f"{name}_token_id": i for name, i in ids.items()},
        "vocab_size": decoder.vocab_size,
        "context_length": decoder.max_target_positions,
        "encoder": sized(config.encoder_attention_heads, config.encoder_layers, HEARING, features, hears),
        "decoder": sized(decoder.decoder_attention_heads, decoder.decoder_layers, WRITING, takes, gives),
    }
    search: JSON = {"do_sample": False, "num_beams": 1, "max_length": decoder.max_target_positions}
    search |= {"past_present_share_buffer": False}
    return {
        "genai_config.json": {"model": network, "search": search},
        "audio_processor_config.json": {"feature_extraction": {"sequence": steps}},
        TOKENIZER: _tokenizer(decoder),
    }


def _frames(heard: Sound) -> dict[str, JSON]:
    shown = window(heard).tolist()  # under the name that the operator reads it by
    return {"n_fft": heard.n_fft, "frame_length": heard.n_fft, "hop_length": heard.hop_length, "_comment": shown}


def _bands(heard: Sound) -> dict[str, JSON]:
    sizes = {"n_fft": heard.n_fft, "hop_length": heard.hop_length}
    return {"chunk_size": heard.chunk_length, "n_mel": heard.feature_size, **sizes}


LAYERED, OFFSET = "encoder_with_layers", "decoder_with_offset"
"""Programs of sherpa-onnx. It takes inputs and outputs by their order, and any program by its path."""


def sherpa(config: WhisperConfig) -> Transcriber:
    """Give what sherpa-onnx opens: keys and values of all layers in one array each, caches as long as any text.

    Raises:
        InputError: it makes another spectrogram, or the network does not write, or has no token that says that no
            times are wanted, which the client always gives.
    """
    from ..network import Network
    from .modeling import Whisper

    decoder, heard = _writes(config, "sherpa-onnx")
    _hold_spectrogram(heard, "sherpa-onnx")
    if decoder.no_timestamps_token_id is None:
        raise InputError(
            "--layout sherpa-onnx: the client begins each text with the token that says that no times are wanted, and "
            f"{GENERATION} names no no_timestamps_token_id"
        )
    layers, width, longest = decoder.decoder_layers, config.d_model, decoder.max_target_positions

    def arrays(name: str, size: int | str, kinds: str = "kv") -> list[TensorSpec]:
        return [TensorSpec(name.format(kind), "float32", (layers, "batch_size", size, width)) for kind in kinds]

    features = TensorSpec("mel", "float32", ("batch_size", config.num_mel_bins, "some"))
    states, vectors = _encoder(config).outputs
    axes = {"batch_size": Axis(), "some": Axis(1, config.frames)}
    hearing = EntryPoint(
        LAYERED,
        (features,),
        (*arrays("n_layer_cross_{}", config.max_source_positions), states, vectors),
        axes,
        rows="batch_size",
    )
    tokens = TensorSpec("tokens", "int32", ("batch_size", "tokens"))
    caches, cross = arrays("in_n_layer_self_{}_cache", longest), arrays("n_layer_cross_{}", "places")
    scores = TensorSpec("logits", "float32", ("batch_size", "tokens", decoder.vocab_size))
    axes = {"batch_size": Axis(), "tokens": Axis(1, longest), "places": Axis(1, config.max_source_positions)}
    given = (tokens, *caches, *cross, TensorSpec("offset", "int32", (1,)))
    writing = EntryPoint(
        OFFSET, given, (scores, *arrays("out_n_layer_self_{}_cache", longest)), axes, rows="batch_size"
    )
    programs: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
        "encode_audio": (LAYERED, {"mel": "input_features"}, {spec.name: spec.name for spec in (states, vectors)}),
        "decode_prefill": (OFFSET, {"tokens": "input_ids"}, {"logits": "logits"}),
        "decode_step": (OFFSET, {"tokens": "input_ids"}, {"logits": "logits"}),
    }
    network = Network(lambda rngs: Whisper(config, rngs=rngs), (hearing, writing))
    return Transcriber({f"{LAYERED}.onnx": _sherpa_metadata(config, decoder)}, network, programs)


def _sherpa_metadata(config: WhisperConfig, decoder: Decoder) -> JSON:
    """Give what the client reads in the encoder; ids of tokens that no document names are added by the tokenizer."""
    several = bool(decoder.languages and decoder.tasks)
    begin = decoder.prompt(decoder.language or decoder.languages[0][0]) if several else decoder.prompt()
    spoken = {
        "all_language_tokens": ",".join(str(i) for _, i in decoder.languages),
        "all_language_codes": ",".join(name.strip("<|>") for name, _ in decoder.languages),
    }
    return {
        "model_type": "whisper",
        "n_mels": str(config.num_mel_bins),
        "n_text_layer": str(decoder.decoder_layers),
        "n_text_ctx": str(decoder.max_target_positions),
        "n_text_state": str(config.d_model),
        "n_vocab": str(decoder.vocab_size),
        "sot": str(decoder.decoder_start_token_id),
        "eot": str(decoder.eos_token_id),
        "no_timestamps": str(decoder.no_timestamps_token_id),
        "is_multilingual": str(int(several)),
        "sot_sequence": ",".join(map(str, begin[:-1])),
        **(spoken if several else {}),
    }

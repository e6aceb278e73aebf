"""Whisper: sound to text, or to one vector."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...validation.cases import Case
from ...validation.domains import Cache, Floats, LogMel, Waveform
from ...validation.entry_point import Axis, EntryPoint, TensorSpec, TokenIds
from ...validation.outputs import Cache as Kept
from ...validation.outputs import Embedding, Logits, Output, States
from ...validation.procedure import Greedy
from ...validation.taps import record, recording
from .. import sound
from ..caches import fed, key_names, named
from ..family import Family
from . import clients, rules
from .config import (
    ARROW,
    CONFIG,
    CONV,
    ENCODER,
    PREFIXES,
    SIZES,
    Decoder,
    WhisperConfig,
    configure,
    documents,
    recognise,
)

if TYPE_CHECKING:
    from ..network import Network
    from ..reference import Encode, Original, Reference

BATCH = {"batch": Axis()}
FAR = 2.0**24
"""Deviation of keys of which no two are nearly alike to a query."""

SCALE = 0.6
"""Deviation of a vector's numbers where states are drawn: about that of a trained encoder's."""


def _entry_points(config: WhisperConfig) -> tuple[EntryPoint, ...]:
    width, places = config.d_model, config.max_source_positions
    features = TensorSpec(
        "input_features", "float32", ("batch", config.num_mel_bins, config.frames), LogMel(-1.0, 1.5, 2)
    )
    states = TensorSpec("last_hidden_state", "float32", ("batch", places, width), kind=States())
    vectors = TensorSpec("embeddings", "float32", ("batch", width), kind=Embedding())
    found = [EntryPoint("encode_audio", (features,), (states, vectors), BATCH, rows="batch")]
    if config.sound:
        hop = config.sound.hop_length
        samples = TensorSpec("samples", "float32", ("batch", config.sound.samples), Waveform(hop))
        given = TensorSpec("input_features", "float32", features.shape)
        found.insert(0, EntryPoint("log_mel", (samples,), (given,), BATCH, rows="batch"))
    return (*found, *(_of_texts(config, config.decoder) if config.decoder else ()))


def _of_texts(config: WhisperConfig, decoder: Decoder) -> tuple[EntryPoint, ...]:
    """Describe what the decoder does: keys and values of layer i are called by their number."""
    heads, layers = decoder.decoder_attention_heads, range(decoder.decoder_layers)
    width = config.d_model // heads
    longest = decoder.max_target_positions
    # A text begins with the start and has no end yet: what is behind a shorter one is padding, which none sees.
    ids = TokenIds(decoder.vocab_size, decoder.pad_token_id, decoder.decoder_start_token_id)

    def kept(kind: str, places: int | str, domain: Floats | None = None) -> tuple[TensorSpec, ...]:
        shape = ("batch", heads, places, width)
        return tuple(
            TensorSpec(name, "float32", shape, domain, Output() if domain else Kept())
            for i in layers
            for name in key_names(kind, i)
        )

    def result(tokens: int | str) -> TensorSpec:
        if decoder.head == "none":
            return TensorSpec("last_hidden_state", "float32", ("batch", tokens, config.d_model), kind=States())
        return TensorSpec("logits", "float32", ("batch", tokens, decoder.vocab_size), kind=Logits())

    # Of a sound that is known, any part may be attended to: so its cases are small, though a window is long.
    heard = kept("cross", "places", Floats(SCALE))
    text = TensorSpec("input_ids", "int32", ("batch", "tokens"), ids)
    word = TensorSpec("input_ids", "int32", ("batch", 1), TokenIds(decoder.vocab_size, decoder.pad_token_id))
    past = kept("past", "past", Cache(SCALE, past="past"))
    given = TensorSpec("last_hidden_state", "float32", ("batch", "places", config.d_model), Floats(SCALE))
    sound = {**BATCH, "places": Axis(1, config.max_source_positions)}
    tokens, before = {**sound, "tokens": Axis(1, longest)}, {**sound, "past": Axis(1, longest - 1)}
    found = (
        EntryPoint("cross_kv", (given,), kept("cross", "places"), sound, rows="batch"),
        EntryPoint("decode_prefill", (text, *heard), (result("tokens"), *kept("", "tokens")), tokens, rows="batch"),
        EntryPoint("decode_step", (word, *past, *heard), (result(1), *kept("", "past + 1")), before, rows="batch"),
    )
    if not decoder.alignment_heads:
        return found
    shape = ("batch", len(decoder.alignment_heads), "tokens", "places")
    seen = TensorSpec("cross_attention", "float32", shape)
    return (*found, EntryPoint("align", (text, *heard), (seen,), tokens, rows="batch"))


def _cases(config: WhisperConfig) -> tuple[Case, ...]:
    """Give what no draw shows: silence and what is next to it, and sounds of which each token hears one place alone."""
    return (*_silence(config), *(_one_place(config, config.decoder) if config.decoder else ()))


def _silence(config: WhisperConfig) -> tuple[Case, ...]:
    """Of a sound that is drawn, nothing lies as low as the least power."""
    if config.sound is None:
        return ()
    samples = np.zeros((2, config.sound.samples), np.float32)
    samples[1] = 1e-5 * np.random.default_rng(0).standard_normal(config.sound.samples)
    return (Case("log_mel", "silence, and what is next to it", {"samples": samples}),)


def _one_place(config: WhisperConfig, decoder: Decoder) -> tuple[Case, ...]:
    """Scores that are so far apart that exp() overflows: the probes go through steps, and not through `align`."""
    rng = np.random.default_rng(0)
    shape = (2, decoder.decoder_attention_heads, 5, config.d_model // decoder.decoder_attention_heads)
    ids = rng.integers(0, decoder.vocab_size, (2, 3)).astype(np.int32)
    inputs = {"input_ids": ids}
    for key, value in (key_names("cross", i) for i in range(decoder.decoder_layers)):
        inputs[key] = (FAR * rng.standard_normal(shape)).astype(np.float32)
        inputs[value] = (SCALE * rng.standard_normal(shape)).astype(np.float32)
    return (Case("align", "one place alone", inputs),) if decoder.alignment_heads else ()


def _procedures(config: WhisperConfig) -> tuple[Greedy, ...]:
    """Declare greedy transcription: what a text begins with, then each best token that is not suppressed."""
    decoder = config.decoder
    if decoder is None or decoder.head == "none":
        return ()
    language = decoder.language or next((name for name, _ in decoder.languages), "")
    return (
        Greedy(
            "transcribe",
            "decode_prefill",
            "decode_step",
            fed(decoder.decoder_layers),
            (decoder.eos_token_id,),
            before=(*(("log_mel",) if config.sound else ()), "encode_audio", "cross_kv"),
            forced=decoder.prompt(language),
            suppressed=decoder.suppress_tokens,
            suppressed_first=decoder.begin_suppress_tokens,
        ),
    )


def _transcripts(config: WhisperConfig) -> dict[str, Any] | None:
    """State greedy transcription as preprocess.json does (docs/pack.md)."""
    decoder = config.decoder
    if decoder is None or decoder.head == "none" or config.sound is None:
        return None
    names = {"hear": "encode_audio", "keep": "cross_kv", "begin": "decode_prefill", "next": "decode_step"}
    return {
        "entry_points": names,
        "caches": fed(decoder.decoder_layers),
        "start": decoder.decoder_start_token_id,
        "languages": dict(decoder.languages),
        "tasks": dict(decoder.tasks),
        "language": decoder.language or None,
        "no_timestamps": decoder.no_timestamps_token_id,
        "suppress": list(decoder.suppress_tokens),
        "suppress_first": list(decoder.begin_suppress_tokens),
        "end": decoder.eos_token_id,
        "pad": decoder.pad_token_id,
        "max_tokens": decoder.max_target_positions,
    }


def _network(config: WhisperConfig) -> "Network":
    from ..network import Network
    from .modeling import Whisper

    return Network(lambda rngs: Whisper(config, rngs=rngs), _entry_points(config))


def _reference(config: WhisperConfig, original: "Original") -> "Reference":
    """Take transformers' WhisperForConditionalGeneration, WhisperModel, or the encoder of it."""
    from torch import Tensor
    from torch.nn.functional import normalize

    from .. import upstream
    from ..reference import Function, Reference

    library = upstream.transformers()
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    state = original.state
    built = upstream.configuration(original.documents.get(CONFIG) or documents(config)[CONFIG])
    if config.decoder is None:
        prefix = ENCODER[config.names]
        own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        if config.names == ARROW:
            own["embed_positions.weight"] = own.pop("position_embedding")
        model: Any = upstream.load(WhisperEncoder, built, own)
        hearing = model
    else:
        cls = library.WhisperModel if config.decoder.head == "none" else library.WhisperForConditionalGeneration
        model = upstream.load(cls, built, state)
        hearing = model.get_encoder()

    def encode_audio(input_features: Tensor) -> dict[str, Tensor]:
        states = hearing(input_features).last_hidden_state
        return {"last_hidden_state": states, "embeddings": normalize(states.mean(1), dim=-1, eps=0)}

    def log_mel(samples: Tensor) -> dict[str, Tensor]:
        assert config.sound
        return {"input_features": extractor(samples)}

    functions: dict[str, Function] = {"encode_audio": encode_audio}
    if config.sound:
        extractor = upstream.FeatureExtractor(original.documents, sound.documents(config.sound))
        functions["log_mel"] = log_mel
    if config.decoder:
        functions |= _reading(config, config.decoder, model)
    entries = {entry.name: functions[entry.name] for entry in _entry_points(config)}
    return Reference(f"{upstream.versions('torch', 'transformers')}: {type(model).__name__}", model, entries, state)


def _reading(config: WhisperConfig, decoder: Decoder, model: Any) -> dict[str, Any]:
    """Give the decoder's entry points, by upstream's own caches."""
    import torch
    from torch import Tensor
    from transformers import DynamicCache, EncoderDecoderCache
    from transformers.modeling_outputs import BaseModelOutput

    from .. import upstream

    layers, cache_name = range(decoder.decoder_layers), upstream.cache_name(model)
    scored = "last_hidden_state" if decoder.head == "none" else "logits"

    def call(input_ids: Tensor, sound: Tensor, cache: Any, **options: Any) -> Any:
        encoded = BaseModelOutput(last_hidden_state=sound)
        return model(
            encoder_outputs=encoded, decoder_input_ids=input_ids, use_cache=True, **{cache_name: cache}, **options
        )

    def pairs(kind: str, given: Mapping[str, Tensor]) -> Any:
        found = [tuple(given[name] for name in key_names(kind, i)) for i in layers]
        return DynamicCache(found)

    def cross_kv(last_hidden_state: Tensor) -> dict[str, Tensor]:
        ids = torch.full((len(last_hidden_state), 1), decoder.decoder_start_token_id)
        with recording() as taps:  # of the token that is read with it nobody asks
            given = call(ids, last_hidden_state, EncoderDecoderCache(DynamicCache(), DynamicCache()))
        record({name: value for name, value in taps.items() if name.startswith("decoder.sound.")})
        return named("cross", given[cache_name].cross_attention_cache)

    def read(input_ids: Tensor, past: Any, given: Mapping[str, Tensor], **options: Any) -> Any:
        heard = pairs("cross", given)
        some = given[key_names("cross", 0)[0]]
        nothing = some.new_zeros(len(input_ids), some.shape[2], config.d_model)  # the cache is read
        return call(input_ids, nothing, EncoderDecoderCache(past, heard), **options)

    def results(given: Any) -> dict[str, Tensor]:
        return {scored: given[scored], **named("", given[cache_name].self_attention_cache)}

    def decode_prefill(input_ids: Tensor, **sound: Tensor) -> dict[str, Tensor]:
        return results(read(input_ids, DynamicCache(), sound))

    def decode_step(input_ids: Tensor, **kept: Tensor) -> dict[str, Tensor]:
        return results(read(input_ids, pairs("past", kept), kept))

    def align(input_ids: Tensor, **sound: Tensor) -> dict[str, Tensor]:
        with recording() as taps:  # what comes after the last of these heads nobody asks
            seen = read(input_ids, DynamicCache(), sound, output_attentions=True).cross_attentions
        record({name: value for name, value in taps.items() if not _after(name, decoder.alignment_heads[-1][0])})
        return {"cross_attention": torch.stack([seen[i][:, head] for i, head in decoder.alignment_heads], 1)}

    return {"cross_kv": cross_kv, "decode_prefill": decode_prefill, "decode_step": decode_step, "align": align}


def _encode(config: WhisperConfig, original: "Original", reference: "Reference") -> Mapping[str, "Encode"]:
    """Let transformers' own extractor prepare sounds; without its document, none can be."""
    from torch import Tensor

    from .. import upstream

    if config.sound is None:
        return {}

    def heard(features: Tensor) -> Tensor:
        return reference.entries["encode_audio"](input_features=features)["embeddings"]

    extractor = upstream.FeatureExtractor(original.documents, sound.documents(config.sound))
    functions = {"log_mel": None, "encode_audio": heard}
    return {name: upstream.SoundEncoder(extractor, function) for name, function in functions.items()}


def _after(module: str, layer: int) -> bool:
    """Say whether a module of the decoder comes after a layer's queries to the sound."""
    found = re.match(r"decoder\.blocks\.(\d+)\.(.*)", module)
    if found is None:
        return module == "decoder.norm"
    return int(found[1]) > layer or (int(found[1]) == layer and found[2].startswith(("cross.out", "norm2", "mlp")))


FAMILY = Family(
    name="whisper",
    summary="Whisper: sound to text, or to one vector; its encoder alone",
    recognise=recognise,
    configure=configure,
    config=WhisperConfig,
    part=rules.whole,
    entry_points=_entry_points,
    network=_network,
    reference=_reference,
    sizes=SIZES,
    sounds=lambda config: sound.rules(config.sound),
    transcripts=_transcripts,
    encode=_encode,
    embeddings=lambda config: {"pooling": ["mean"], "normalize": True},
    anchors=tuple(dict.fromkeys(ENCODER[names] + CONV for names in PREFIXES)),
    documents=lambda config: {**documents(config), **sound.documents(config.sound)},
    cases=_cases,
    procedures=_procedures,
    transformers_js=clients.transcriber,
    onnxruntime_genai=clients.genai,
    sherpa_onnx=clients.sherpa,
)

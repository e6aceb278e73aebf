"""What a Whisper network is, in numbers, and how it is read from shapes and documents.

Field names are transformers' WhisperConfig's and GenerationConfig's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...validation.errors import GateError, InputError
from ..bert.config import CONFIG_HARMLESS
from ..clip.config import agree, shape_of
from ..documents import JSON, Configured, Document, Harmless, Only, Settled, shown
from ..family import Source
from ..sound import Sound, settle_sound
from ..tokenizer import SETTINGS, settle_tokenizer

CONFIG, GENERATION = "config.json", "generation_config.json"

WITH_HEAD, HEADLESS, BARE = "ForConditionalGeneration", "WhisperModel", "WhisperEncoder"
ARROW = "ArrowEngine"
"""Whose names the tensors have: transformers' classes, or the encoder as ArrowEngine stores it."""

PREFIXES = {WITH_HEAD: "model.", HEADLESS: "", BARE: "", ARROW: ""}
ENCODER = {WITH_HEAD: "model.encoder.", HEADLESS: "encoder.", BARE: "", ARROW: "encoder."}
"""What stands before the encoder's tensors."""

TABLE = {BARE: "embed_positions.weight", ARROW: "position_embedding"}
"""What the encoder's positions are called, where not `embed_positions.weight`."""

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish")

USUAL: Mapping[str, Any] = {
    "encoder_attention_heads": 6,
    "decoder_attention_heads": 6,
    "activation_function": "gelu",
    "decoder_start_token_id": 50257,
    "eos_token_id": 50256,
    "pad_token_id": 50256,
}
"""What WhisperConfig of transformers 5.24 takes where config.json is silent."""

EPSILON = 1e-5
"""Of every norm: torch's default, which no field of upstream's changes."""

_TRAINING = "training only"
_DECODER = "of a decoder that is not in the checkpoint"
HARMLESS: Harmless = {
    **CONFIG_HARMLESS,
    **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), "dropout, which inference leaves out"),
    **dict.fromkeys(("encoder_layerdrop", "decoder_layerdrop", "init_std", "apply_spec_augment"), _TRAINING),
    **dict.fromkeys(("mask_time_prob", "mask_time_length", "mask_time_min_masks"), _TRAINING),
    **dict.fromkeys(("mask_feature_prob", "mask_feature_length", "mask_feature_min_masks"), _TRAINING),
    **dict.fromkeys(("classifier_proj_size", "use_weighted_layer_sum"), "of classes that classify sounds"),
    "scale_embedding": "transformers' Whisper reads it and does nothing with it",
    "median_filter_width": "smooths the times of words",
    "num_hidden_layers": "another name of encoder_layers",
    "is_encoder_decoder": Only((True, False), "what the class says"),
    "model_type": Only(("whisper",), "what it is"),
    "forced_decoder_ids": "generation_config.json says what a text begins with",
    "max_length": "max_target_positions bounds a text",
}
"""config.json, by WhisperConfig of transformers 5.24."""

GENERATION_HARMLESS: Harmless = {
    **dict.fromkeys(("_from_model_config", "transformers_version", "bos_token_id"), "where it comes from"),
    **dict.fromkeys(("output_attentions", "output_hidden_states", "return_dict_in_generate"), "what a call gives back"),
    **dict.fromkeys(("use_cache", "cache_implementation", "output_scores"), "how it is executed"),
    **dict.fromkeys(("max_initial_timestamp_index", "prev_sot_token_id"), "of texts with time stamps or a context"),
    **dict.fromkeys(("temperature", "top_k", "top_p", "typical_p"), "read where tokens are drawn"),
    "forced_decoder_ids": "what a text begins with is said by the language and the task",
    "max_length": "max_target_positions bounds a text",
    "is_multilingual": "lang_to_id says it",
    "num_beams": Only((1, None), "greedy"),
    "do_sample": Only((False, None), "greedy"),
    "return_timestamps": Only((False, None), "texts without time stamps"),
    **dict.fromkeys(("repetition_penalty", "length_penalty"), Only((1, 1.0, None), "no penalty")),
    "no_repeat_ngram_size": Only((0, None), "nothing is forbidden"),
}
"""generation_config.json, by GenerationConfig of transformers 5.24, and by WhisperGenerationMixin."""


TOKENIZER_HARMLESS: Harmless = {
    **dict.fromkeys(("language", "task"), "generation_config.json says what a text begins with"),
    **dict.fromkeys(("add_bos_token", "return_attention_mask"), "no text is read"),
    "predict_timestamps": Only((False, None), "texts without time stamps"),
    "model_max_length": "max_target_positions bounds a text",
}
"""tokenizer_config.json, by WhisperTokenizer of transformers 5.24, beside what every tokenizer's has."""


@dataclass(frozen=True)
class Decoder:
    """The decoder, and how its tokens are chosen.

    Args:
        decoder_layers: how many.
        decoder_attention_heads: of each.
        decoder_ffn_dim: inner width.
        vocab_size: tokens.
        max_target_positions: most tokens of a text, with what it begins with.
        head: "tied" to the words, "own", or "none" where states are all that it gives.
        decoder_start_token_id: what every text begins with.
        eos_token_id: what it ends with.
        pad_token_id: what stands behind its end.
        suppress_tokens: never chosen.
        begin_suppress_tokens: not chosen first.
        languages: name and token of each, "<|en|>"; none for a network of English.
        tasks: name and token of each.
        no_timestamps_token_id: what says that no times are wanted.
        alignment_heads: (layer, head) whose attention to the sound tells when a word was said.
        language: what is spoken, if nothing else is said; "" where the network tells it.
    """

    decoder_layers: int
    decoder_attention_heads: int
    decoder_ffn_dim: int
    vocab_size: int
    max_target_positions: int
    head: str = "tied"
    decoder_start_token_id: int = 50257
    eos_token_id: int = 50256
    pad_token_id: int = 50256
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    languages: tuple[tuple[str, int], ...] = ()
    tasks: tuple[tuple[str, int], ...] = ()
    no_timestamps_token_id: int | None = None
    alignment_heads: tuple[tuple[int, int], ...] = ()
    language: str = ""

    def prompt(self, language: str = "", task: str = "transcribe") -> tuple[int, ...]:
        """Give what a text begins with: start, language and task where there are several, and that no times follow."""
        words = [dict(self.languages)[language], dict(self.tasks)[task]] if self.languages and self.tasks else []
        last = [] if self.no_timestamps_token_id is None else [self.no_timestamps_token_id]
        return self.decoder_start_token_id, *words, *last


@dataclass(frozen=True)
class WhisperConfig:
    """An encoder of sound, alone or with its decoder.

    Args:
        d_model: width of all states.
        encoder_layers: how many.
        encoder_attention_heads: of each.
        encoder_ffn_dim: inner width.
        num_mel_bins: bands of the spectrogram.
        max_source_positions: places of the encoder, two frames each.
        activation_function: of the feed-forward parts; the convolutions' is gelu.
        decoder: None for the encoder alone.
        sound: how samples become the spectrogram; None where no document says it.
        names: whose names the tensors have.
    """

    d_model: int
    encoder_layers: int
    encoder_attention_heads: int
    encoder_ffn_dim: int
    num_mel_bins: int
    max_source_positions: int
    activation_function: str = "gelu"
    decoder: Decoder | None = None
    sound: Sound | None = None
    names: str = WITH_HEAD

    @property
    def frames(self) -> int:
        """Frames of the spectrogram that the encoder reads: exactly these."""
        return 2 * self.max_source_positions


def _openai(
    width: int, layers: int, heads: int, *, decoder: int = 0, vocab: int = 51865, mels: int = 80
) -> WhisperConfig:
    texts = Decoder(decoder or layers, heads, 4 * width, vocab, 448)
    return WhisperConfig(width, layers, heads, 4 * width, mels, 1500, "gelu", texts, Sound(feature_size=mels))


SIZES = {
    "tiny.en": _openai(384, 4, 6, vocab=51864),
    "base": _openai(512, 6, 8),
    "small": _openai(768, 12, 12),
    "medium": _openai(1024, 24, 16),
    "large-v2": _openai(1280, 32, 20),
    "large-v3": _openai(1280, 32, 20, vocab=51866, mels=128),
    "turbo": _openai(1280, 32, 20, decoder=4, vocab=51866, mels=128),
    "tiny": WhisperConfig(
        32,
        2,
        4,
        64,
        16,
        50,
        "gelu",
        Decoder(
            *(2, 4, 48, 120, 24, "tied", 3, 2, 0, (7, 11), (5, 2)),
            (("<|de|>", 101), ("<|en|>", 100)),
            (("transcribe", 103), ("translate", 102)),
            104,
            ((0, 1), (1, 3)),
            "<|en|>",
        ),
        Sound(chunk_length=1, feature_size=16),
    ),
}
"""Published: openai/whisper-*, whose tiny has a name of its own here. And a tiny one."""


CONV = "conv1.weight"


def layout_of(source: Source) -> str:
    """Say whose names the tensors have; "" for none."""
    shapes = source.shapes
    told = {
        ARROW: ("encoder.position_embedding", "encoder.conv2.weight"),
        WITH_HEAD: ("model.encoder.embed_positions.weight", "model.encoder.conv2.weight"),
        HEADLESS: ("encoder.embed_positions.weight", "encoder.conv2.weight"),
        BARE: ("embed_positions.weight", "conv2.weight"),
    }
    for layout, names in told.items():
        key = f"{ENCODER[layout]}layers.0.self_attn.k_proj.weight"
        if all(name in shapes for name in (*names, ENCODER[layout] + CONV, key)):
            return layout
    return ""


def recognise(source: Source) -> str:
    """Say why a checkpoint belongs here."""
    layout = layout_of(source)
    wrapper = f".{source.wrappers[-1] if source.wrappers else ''}"
    halved = {HEADLESS: ".model.", BARE: ".encoder."}.get(layout)  # of a name, taken for a wrapper
    if not layout or (halved and wrapper.endswith(halved)):
        return ""
    return f"names {ENCODER[layout]}{CONV} and {ENCODER[layout]}{TABLE.get(layout, TABLE[BARE])}"


def configure(source: Source) -> Configured:
    """Read the network: sizes from shapes, the rest from config.json, generation_config.json and the extractor's.

    Raises:
        InputError: there is no config.json, or a field contradicts the shapes or is not computed here.
    """
    document, layout = source.document(CONFIG), layout_of(source)
    if document is None:
        raise InputError(
            f"no {CONFIG} lies beside the checkpoint, and no shape shows how many heads attend; put it there, or pass "
            "--config FILE"
        )
    if not layout:
        raise GateError("the tensors are not called as Whisper's: encoder.conv1.weight and what belongs to it")
    settled, prefix = source.settled(), ENCODER[layout]
    settled.put("names", layout, "names of the tensors")
    table = prefix + TABLE.get(layout, TABLE[BARE])
    width, bands, _ = shape_of(source.shapes, prefix + CONV, 3)
    sizes = {
        "d_model": (width, f"shape of {prefix}{CONV}"),
        "num_mel_bins": (bands, f"shape of {prefix}{CONV}"),
        "max_source_positions": (shape_of(source.shapes, table, 2)[0], f"shape of {table}"),
        "encoder_layers": _layers(source, prefix),
        "encoder_ffn_dim": _inner(source, prefix),
    }
    agree(document, sizes, settled)
    _heads(settled, document, "encoder_attention_heads", width)
    usual = (USUAL["activation_function"], "default of transformers' WhisperConfig")
    settled.choose("activation_function", str, (document, "activation_function"), otherwise=usual, choices=ACTIVATIONS)
    texts = _settle_decoder(settled, source, document, layout)
    sound = source.settled("sound.")
    heard = settle_sound(sound, source, bands, 2 * settled.values["max_source_positions"])
    if heard is None:
        settled.put("sound", None, "no preprocessor_config.json lies beside the checkpoint")
    document.accept(HARMLESS)
    parts = [sound] if heard else []
    parts += [texts] if texts else []
    origins = dict(settled.origins) | {f"{p.part}{name}": o for p in parts for name, o in p.origins.items()}
    values = {**settled.values, "sound": heard, "decoder": Decoder(**texts.values) if texts else None}
    return Configured(WhisperConfig(**values), origins)


def _heads(settled: Settled, document: Document, name: str, width: int) -> None:
    usual = (USUAL[name], "default of transformers' WhisperConfig")
    heads = settled.choose(name, int, (document, name), otherwise=usual, low=1)
    if width % heads:
        raise InputError(f"{settled.origins[name]}: {settled.part}{name} is {heads}, which does not divide {width}")


def _layers(source: Source, prefix: str) -> tuple[int, str]:
    numbered = re.compile(rf"{re.escape(prefix)}layers\.(\d+)\.")
    found = {int(match[1]) for name in source.shapes if (match := numbered.match(name))}
    if not found or len(found) <= max(found):
        raise GateError(f"the tensors {prefix}layers.* do not number the layers 0, 1, 2, ...")
    return len(found), f"names {prefix}layers.*"


def _inner(source: Source, prefix: str) -> tuple[int, str]:
    name = f"{prefix}layers.0.fc1.weight"
    return shape_of(source.shapes, name, 2)[0], f"shape of {name}"


def _settle_decoder(settled: Settled, source: Source, document: Document, layout: str) -> Settled | None:
    """Settle the decoder's sizes, its head, and how tokens are chosen; None for an encoder alone."""
    prefix = f"{PREFIXES[layout]}decoder."
    word, place = f"{prefix}embed_tokens.weight", f"{prefix}embed_positions.weight"
    if layout in (BARE, ARROW) or word not in source.shapes:
        settled.put("decoder", None, "the checkpoint has no tensors of a decoder")
        for name in (*document.fields, *USUAL):
            if name.startswith("decoder_") or name in ("vocab_size", "max_target_positions", *GENERATED, *IDS):
                document.note(name, _DECODER)
        return None
    texts = source.settled("decoder.")
    width = settled.values["d_model"]
    vocab = shape_of(source.shapes, word, 2)[0]
    sizes = {
        "vocab_size": (vocab, f"shape of {word}"),
        "max_target_positions": (shape_of(source.shapes, place, 2)[0], f"shape of {place}"),
        "decoder_layers": _layers(source, prefix),
        "decoder_ffn_dim": _inner(source, prefix),
    }
    agree(document, sizes, texts)
    _heads(texts, document, "decoder_attention_heads", width)
    texts.put("head", *_head(source, document, layout))
    _settle_choice(texts, source, document, vocab)
    if settings := source.document(SETTINGS):
        settings.accept(TOKENIZER_HARMLESS)
    settle_tokenizer(source, "WhisperTokenizer")
    return texts


def _head(source: Source, document: Document, layout: str) -> tuple[str, str]:
    """Say what makes scores of states: the words themselves, or a head of its own.

    Raises:
        InputError: the document says that the head is not the words', and there is none.
    """
    tied = document.take("tie_word_embeddings", bool, default=True)
    if layout == HEADLESS:
        return "none", "names without model. before them: transformers' WhisperModel"
    if tied:
        return "tied", f"{CONFIG}: tie_word_embeddings"
    if "proj_out.weight" not in source.shapes:
        raise InputError(f"{document.origin}: tie_word_embeddings is false, but the checkpoint has no proj_out.weight")
    return "own", f"{CONFIG}: tie_word_embeddings is false"


IDS = ("decoder_start_token_id", "eos_token_id", "pad_token_id")
GENERATED = ("suppress_tokens", "begin_suppress_tokens")


def _settle_choice(texts: Settled, source: Source, document: Document, vocab: int) -> None:
    """Settle what is forced and what is suppressed: by generation_config.json, or config.json where that is missing."""
    own = source.document(GENERATION)
    last = vocab - 1
    for name in IDS:
        usual = (min(USUAL[name], last), "default of transformers' WhisperConfig")
        texts.choose(name, int, (own, name), (document, name), otherwise=usual, low=0, high=last)
        document.note(name, document.fates.get(name, f"{GENERATION} says it"))
    for name in GENERATED:
        said = own if own is not None else document
        numbers = tuple(said.take(name, list, None) or ())
        _hold_ids(said, name, numbers, last)
        texts.put(name, numbers, f"{said.name}: {name}" if name in said else "nothing is suppressed")
        document.note(name, document.fates.get(name, f"{GENERATION} says it"))
    for name, field in (("languages", "lang_to_id"), ("tasks", "task_to_id")):
        known = own.take(field, dict, {}) if own is not None else {}
        _hold_ids(own, field, known.values(), last)
        texts.put(name, tuple(sorted(known.items())), f"{GENERATION}: {field}" if known else "none are stated")
    usual = (None, "none is stated")
    number = own.take("no_timestamps_token_id", int, None, low=0, high=last) if own is not None else None
    texts.put("no_timestamps_token_id", number, usual[1] if number is None else f"{GENERATION}: no_timestamps_token_id")
    _settle_heads(texts, own)
    names = {name for name, _ in texts.values["languages"]}
    spoken = own.take("language", str, None) if own is not None else None
    wanted = f"<|{spoken.strip('<|>')}|>" if spoken else ""
    if wanted and wanted not in names:
        raise InputError(f"{GENERATION}: language is {shown(spoken)}, expected one of lang_to_id: {', '.join(names)}")
    texts.put("language", wanted, f"{GENERATION}: language" if wanted else "none is stated")
    if own is not None:
        own.take("task", str, "transcribe", choices=("transcribe",))
        own.accept(GENERATION_HARMLESS)


def _settle_heads(texts: Settled, own: Document | None) -> None:
    listed: JSON = (own.take("alignment_heads", list, None) if own is not None else None) or []
    layers, heads = texts.values["decoder_layers"], texts.values["decoder_attention_heads"]
    for pair in listed:
        fits = isinstance(pair, list) and len(pair) == 2 and all(type(n) is int for n in pair)
        if not fits or not (0 <= pair[0] < layers and 0 <= pair[1] < heads):
            raise InputError(
                f"{GENERATION}: alignment_heads holds {shown(pair)}, expected a layer below {layers} and a head below "
                f"{heads}"
            )
    found = tuple(sorted((layer, head) for layer, head in listed))
    texts.put("alignment_heads", found, f"{GENERATION}: alignment_heads" if found else "none are stated")


def _hold_ids(document: Document | None, field: str, numbers: Any, last: int) -> None:
    for number in numbers:
        if type(number) is not int or not 0 <= number <= last:
            assert document
            raise InputError(f"{document.origin}: {field} holds {shown(number)}, expected an id of 0 to {last}")


def documents(config: WhisperConfig) -> Mapping[str, JSON]:
    """Give what transformers writes of the network and of how tokens are chosen, by place."""
    texts = config.decoder
    own = ("d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "num_mel_bins")
    network: dict[str, JSON] = {
        "architectures": ["WhisperModel" if config.names == HEADLESS else "WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "max_source_positions": config.max_source_positions,
        "activation_function": config.activation_function,
        **{name: getattr(config, name) for name in own},
    }
    if texts is None:
        return {CONFIG: network}
    sized = ("decoder_layers", "decoder_attention_heads", "decoder_ffn_dim", "vocab_size", "max_target_positions")
    network |= {name: getattr(texts, name) for name in (*sized, *IDS)}
    network |= {"tie_word_embeddings": texts.head != "own"}
    choice: dict[str, JSON] = {name: getattr(texts, name) for name in IDS}
    choice |= {name: list(getattr(texts, name)) or None for name in GENERATED}
    if texts.languages:
        choice |= {"is_multilingual": True, "lang_to_id": dict(texts.languages), "task_to_id": dict(texts.tasks)}
    if texts.no_timestamps_token_id is not None:
        choice["no_timestamps_token_id"] = texts.no_timestamps_token_id
    if texts.alignment_heads:
        choice["alignment_heads"] = [list(pair) for pair in texts.alignment_heads]
    if texts.language:
        choice["language"] = texts.language
    return {CONFIG: network, GENERATION: choice}

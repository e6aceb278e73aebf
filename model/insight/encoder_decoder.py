"""EncoderDecoderTransformer: both sides by themselves, the whole, and generation. Axes: see `pieces.py`."""

from dataclasses import dataclass

from ...validation.domains import RandomMask
from ...validation.entry_point import EntryPoint, TensorSpec
from ...validation.errors import InputError
from ...validation.outputs import Logits, States
from ...validation.procedure import Greedy
from ..family import Tie
from ..parts import Part, join
from .entries import floats, given, masks, method, tokens
from .kind import Kind, Reading
from .pieces import linear
from .transformer import (
    CROSS_MEMORY,
    DECODER,
    ENCODER,
    PAIR,
    PRE_NORM,
    TURNED,
    EncoderConfig,
    body_part,
    encoder_of,
    read_body,
)

START = 1
"""What a generation begins with where nobody says: any word shows whether two networks choose alike."""


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """EncoderDecoderTransformer."""

    model_type: str
    src_vocab_size: int
    tgt_vocab_size: int
    d_model: int
    num_heads: int
    num_encoder_layers: int
    num_decoder_layers: int
    d_ff: int
    max_seq_length: int
    positional_encoding: str
    share_embeddings: bool
    bos_token_id: int = START
    eos_token_id: int = -1
    """-1: none is known."""
    dropout: float = 0.0

    @property
    def encoder(self) -> EncoderConfig:
        """What reads the source."""
        return encoder_of(self, self.src_vocab_size, self.num_encoder_layers)

    @property
    def decoder(self) -> EncoderConfig:
        """What reads the target; with shared embeddings it has no words."""
        return encoder_of(self, 0 if self.share_embeddings else self.tgt_vocab_size, self.num_decoder_layers)


def _read_both(reading: Reading) -> None:
    shared = "output_projection.weight" in reading.shapes
    head = "output_projection.weight" if shared else "decoder.output_projection.weight"
    reading.size("src_vocab_size", "encoder.token_embedding.embedding.weight", 0)
    reading.size("tgt_vocab_size", head, 0)
    read_body(reading, reading.behind("encoder."), "num_encoder_layers")
    layers = reading.count(r"decoder\.layers\.(\d+)\.")
    reading.show("num_decoder_layers", layers, "names decoder.layers.*")
    reading.show(
        "share_embeddings",
        shared,
        "name output_projection: the decoder then takes ids as numbers, and looks no word up, as upstream computes"
        if shared
        else "name decoder.output_projection",
    )
    if shared and reading.settled.values["positional_encoding"] == "rotary":
        raise InputError(
            "an EncoderDecoderTransformer with share_embeddings and positional_encoding rotary cannot be converted: "
            "upstream itself cannot run it, since its decoder gives the ids to a norm; train it with another of both"
        )
    most = reading.settled.values["tgt_vocab_size"] - 1
    why = f"nobody says; generation in the proof begins with {min(START, most)}"
    reading.option("bos_token_id", min(START, most), why, low=0, high=most)
    reading.option("eos_token_id", -1, "nobody says; generation in the proof has no end", low=-1, high=most)


def _both_part(config: EncoderDecoderConfig) -> Part:
    shared, table = config.share_embeddings, "token_embedding.embedding.weight"
    head = linear(config.d_model, config.tgt_vocab_size)
    parts = [
        body_part(config.encoder, cross=False).mounted("encoder.", "encoder."),
        body_part(config.decoder, cross=True).mounted("decoder.", "decoder."),
        head.mounted("output_projection." if shared else "decoder.output_projection.", "head."),
    ]
    if shared:
        tie = Tie(f"decoder.{table}", f"encoder.{table}", "embeddings are shared")
        parts.append(Part((tie,), {}, {f"decoder.{table}": (config.src_vocab_size, config.d_model)}))
    return join(*parts)


def _both_entries(config: EncoderDecoderConfig) -> tuple[EntryPoint, ...]:
    """Describe both sides by themselves, the whole, and the choice of a next word among those so far."""
    most = config.max_seq_length or None
    source = tokens("src", config.src_vocab_size, "source_tokens")
    target = tokens("tgt", config.tgt_vocab_size)
    shape = ("batch", "source_tokens", config.d_model)
    seen = floats("memory", *shape)
    logits = (given("logits", "batch", "tokens", config.tgt_vocab_size, kind=Logits()),)
    following = (given("logits", "batch", config.tgt_vocab_size, kind=Logits()),)
    encoded = (given("memory", *shape, kind=States()),)
    both = masks("tgt_mask", "memory_mask")
    hidden = TensorSpec("memory_mask", "bool", ("batch", "source_tokens"), RandomMask())
    return (
        method("forward", [source, target, *masks("src_mask"), *both], logits, source_tokens=most, tokens=most),
        method("encode", [source, *masks("src_mask")], encoded, source_tokens=most),
        method("decode", [target, seen, *both], logits, tokens=most),
        method("next_token", [target, seen, hidden], following, tokens=most),
    )


def _generation(config: EncoderDecoderConfig) -> tuple[Greedy, ...]:
    ends = () if config.eos_token_id < 0 else (config.eos_token_id,)
    steps = min(8, config.max_seq_length - 1) if config.max_seq_length else 8
    loop = Greedy("generate", "encode", "next_token", {"memory": "memory"}, ends, steps, start=config.bos_token_id)
    return (loop,) if steps > 0 else ()


TINY = EncoderDecoderConfig(
    *("EncoderDecoderTransformer", 17, 13, 8, 2, 1, 1, 6, 12, "sinusoidal"), share_embeddings=False
)


BASE = EncoderDecoderConfig(
    *("EncoderDecoderTransformer", 10000, 10000, 512, 8, 6, 6, 2048, 512, "sinusoidal"),
    share_embeddings=True,
    dropout=0.1,
)
"""As upstream's document builds it."""


KINDS = (
    Kind(
        name="EncoderDecoderTransformer",
        config=EncoderDecoderConfig,
        read=_read_both,
        part=_both_part,
        entries=_both_entries,
        tiny=TINY,
        documented=BASE,
        marks=(
            r"encoder\.layers\.0\.self_attn\.query_projection\.weight",
            r"decoder\.layers\.0\.cross_attn\.query_projection\.weight",
        ),
        others=(rf"encoder\.({ENCODER})", rf"decoder\.({DECODER})", rf"output_projection{PAIR}"),
        oddities=(
            PRE_NORM,
            TURNED,
            CROSS_MEMORY,
            "with share_embeddings the decoder looks no word up but takes ids as numbers; no head is tied",
            "with share_embeddings and rotary encodings upstream cannot run it, and it is refused",
            "generate samples, at any temperature; the proof's generation takes the best word",
        ),
        procedures=_generation,
    ),
)

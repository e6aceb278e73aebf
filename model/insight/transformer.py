"""Transformers: their layers, encoder and decoder, alone and together. Axes: see `pieces.py`.

Every norm stands before what it is for, and one more at the end. Words are scaled, then places are added. Rotary
encodings are kept by every layer and change nothing: upstream rotates a head's queries and keys by the head's number.
"""

from dataclasses import dataclass

from ...validation.entry_point import EntryPoint
from ...validation.outputs import Logits, States
from ..family import Drop
from ..parts import Part, join
from .attention import PROJECTIONS
from .embeddings import ROTARY_ROWS, encoding, read_positions, words
from .entries import floats, given, mask, masks, method, tokens
from .kind import Config, Kind, Reading
from .pieces import attention, feed_forward, lead, linear, norm, rotations, stack

ROTARY, INNER = "rotary_emb.cos_cached", "feed_forward.linear1.linear.weight"


NO_PLACES = (
    "names rotary_emb.*: each head is turned by its own number, which changes no score, so that places do not count"
)


ENCODINGS = ("sinusoidal", "rotary")
"""Of positional_encoding; upstream takes any other word for "learned"."""


@dataclass(frozen=True)
class LayerConfig:
    """TransformerEncoderLayer or TransformerDecoderLayer."""

    model_type: str
    d_model: int
    num_heads: int
    d_ff: int
    use_rotary_embeddings: bool
    dropout: float = 0.0


@dataclass(frozen=True)
class EncoderConfig:
    """TransformerEncoder, alone or as the encoder of another class, which `model_type` names then."""

    model_type: str
    vocab_size: int
    """0: it reads vectors."""
    d_model: int
    num_heads: int
    num_layers: int
    d_ff: int
    max_seq_length: int
    """0: no bound."""
    positional_encoding: str
    dropout: float = 0.0


@dataclass(frozen=True)
class TransformerConfig:
    """Transformer: an encoder of vectors."""

    model_type: str
    input_dim: int
    d_model: int
    num_heads: int
    num_layers: int
    d_ff: int
    max_seq_length: int
    positional_encoding: str
    output_dim: int
    dropout: float = 0.0

    @property
    def encoder(self) -> EncoderConfig:
        """What is between the projections."""
        return encoder_of(self, 0, self.num_layers)


@dataclass(frozen=True)
class DecoderConfig:
    """TransformerDecoder."""

    model_type: str
    vocab_size: int
    d_model: int
    num_heads: int
    num_layers: int
    d_ff: int
    max_seq_length: int
    positional_encoding: str
    dropout: float = 0.0


def encoder_of(config: Config, words: int, layers: int) -> EncoderConfig:
    """Give one side of a network as an encoder's configuration."""
    sizes = config.d_model, config.num_heads, layers, config.d_ff, config.max_seq_length
    return EncoderConfig(config.model_type, words, *sizes, config.positional_encoding, config.dropout)


def _read_layer(reading: Reading) -> None:
    _read_widths(reading, reading)
    turned = ROTARY in reading.shapes
    reading.show("use_rotary_embeddings", turned, NO_PLACES if turned else "there are no names rotary_emb.*")
    reading.dropout()


def _read_widths(reading: Reading, layer: Reading) -> None:
    """Settle what a layer shows: its widths, and by tables of angles that of its heads."""
    inner, width = layer.shape(INNER, 2)
    reading.show("d_model", width, f"shape of {layer.prefix}{INNER}")
    reading.show("d_ff", inner, f"shape of {layer.prefix}{INNER}")
    if ROTARY in layer.shapes:
        half = layer.shape(ROTARY, 2)[1]
        reading.show("num_heads", width // (2 * half), f"shape of {layer.prefix}{ROTARY}")
    else:
        reading.heads("num_heads", width, "d_model")


def read_body(reading: Reading, side: Reading, layers: str) -> None:
    """Settle what encoder and decoder have in common; `layers` is the field that counts this side's."""
    layer = side.behind("layers.0.")
    _read_widths(reading, layer)
    reading.show(layers, side.count(r"layers\.(\d+)\."), f"names {side.prefix}layers.*", "num_encoder_layers")
    kind, rows = read_positions(side.behind("positional_encoding."))
    if kind == "rotary":
        layer.shape(ROTARY, 2)
        reading.option("max_seq_length", 0, "no place counts, so that none is the last", low=0)
        reading.settled.values["max_seq_length"] = 0
    else:
        reading.show("max_seq_length", rows, f"shape of {side.prefix}positional_encoding.*")
    why = NO_PLACES if kind == "rotary" else "names positional_encoding.*"
    reading.show("positional_encoding", kind, why, also=lambda stated: kind == "learned" and stated not in ENCODINGS)
    reading.dropout()


def read_encoder(reading: Reading) -> None:
    """Read an encoder, alone or behind a prefix."""
    word = reading.shapes.get("token_embedding.embedding.weight")
    why = "shape of token_embedding.embedding.weight" if word else "there is no token_embedding: it reads vectors"
    reading.show("vocab_size", word[0] if word else 0, why, "src_vocab_size")
    read_body(reading, reading, "num_layers")


def _read_transformer(reading: Reading) -> None:
    width = reading.shape("encoder.norm.weight", 1)[0]
    ends = {"input_dim": ("input_projection.weight", 1), "output_dim": ("output_projection.weight", 0)}
    for name, (tensor, axis) in ends.items():
        there = tensor in reading.shapes
        size = reading.shape(tensor, 2)[axis] if there else width
        reading.show(name, size, f"shape of {tensor}" if there else f"there is no {tensor}")
    read_body(reading, reading.behind("encoder."), "num_layers")


def _read_decoder(reading: Reading) -> None:
    reading.size("vocab_size", "output_projection.weight", 0)
    read_body(reading, reading, "num_layers")


def layer_part(width: int, heads: int, inner: int, *, cross: bool, rotary: bool) -> Part:
    """A layer: attention to the same tokens, to those of another sequence perhaps, and a feed-forward part."""
    beside = [
        norm(width).mounted("norm2.", "cross_norm."),
        attention(PROJECTIONS, width, heads).mounted("cross_attn.", "cross."),
    ]
    return join(
        norm(width).mounted("norm1.", "norm1."),
        attention(PROJECTIONS, width, heads).mounted("self_attn.", "attention."),
        *(beside if cross else []),
        norm(width).mounted("norm3." if cross else "norm2.", "norm2."),
        feed_forward(width, inner, width, normed=False).mounted("feed_forward.", "mlp."),
        *([_turned(width // heads)] if rotary else []),
    )


def _turned(head: int) -> Part:
    """The tables of angles of a layer."""
    reason = "upstream turns all queries and keys of a head by one angle, which changes none of their products"
    names = [f"rotary_emb.{part}_cached" for part in ("cos", "sin")]
    tables = dict(zip(names, rotations(ROTARY_ROWS, head // 2), strict=True))
    shapes = dict.fromkeys(names, (ROTARY_ROWS, head // 2))
    return Part((Drop("rotary_emb.{:cos|sin}_cached", reason),), {}, shapes, constants=tables)


def body_part(config: EncoderConfig | DecoderConfig, *, cross: bool) -> Part:
    """Words, places, layers and the last norm."""
    rotary = config.positional_encoding == "rotary"
    width, places = config.d_model, config.positional_encoding
    layer = layer_part(width, config.num_heads, config.d_ff, cross=cross, rotary=rotary)
    table = words(config.vocab_size, width).mounted("token_embedding.embedding.", "word.")
    return join(
        *([table] if config.vocab_size else []),
        *([] if rotary else [encoding(places, config.max_seq_length, width).mounted("positional_encoding.", "", "p.")]),
        stack(layer, config.num_layers, "layers", "layers"),
        norm(width).mounted("norm.", "norm."),
    )


def _transformer_part(config: TransformerConfig) -> Part:
    width, first, last = config.d_model, config.input_dim, config.output_dim
    return join(
        *lead(first, width, "input_projection.", "lead."),
        body_part(config.encoder, cross=False).mounted("encoder.", "encoder."),
        *lead(width, last, "output_projection.", "head."),
    )


def _decoder_part(config: DecoderConfig) -> Part:
    head = linear(config.d_model, config.vocab_size).mounted("output_projection.", "head.")
    return join(body_part(config, cross=True), head)


def _layer_entries(config: LayerConfig) -> tuple[EntryPoint, ...]:
    x, output = floats("x", "batch", "tokens", config.d_model), given("output", "batch", "tokens", config.d_model)
    if config.model_type == "TransformerEncoderLayer":
        return (method("forward", [x, mask("mask", "batch", "tokens", "tokens")], [output]),)
    seen = floats("memory", "batch", "source_tokens", config.d_model)
    return (method("forward", [x, seen, *masks("tgt_mask", "memory_mask")], [output]),)


def _encoder_entries(config: EncoderConfig) -> tuple[EntryPoint, ...]:
    most, seen = config.max_seq_length or None, mask("mask", "batch", "tokens", "tokens")
    states = (given("last_hidden_state", "batch", "tokens", config.d_model, kind=States()),)
    x, ids = floats("x", "batch", "tokens", config.d_model), tokens("ids", config.vocab_size)
    embedded = method("forward_embeddings", [x, seen], states, tokens=most)
    return (method("forward", [ids, seen], states, tokens=most), embedded) if config.vocab_size else (embedded,)


def _transformer_entries(config: TransformerConfig) -> tuple[EntryPoint, ...]:
    inputs = (floats("x", "batch", "tokens", config.input_dim), mask("mask", "batch", "tokens", "tokens"))
    output = given("output", "batch", "tokens", config.output_dim)
    return (method("forward", inputs, [output], tokens=config.max_seq_length or None),)


def _decoder_entries(config: DecoderConfig) -> tuple[EntryPoint, ...]:
    seen = floats("memory", "batch", "source_tokens", config.d_model)
    inputs = (tokens("ids", config.vocab_size), seen, *masks("tgt_mask", "memory_mask"))
    logits = given("logits", "batch", "tokens", config.vocab_size, kind=Logits())
    return (method("forward", inputs, [logits], tokens=config.max_seq_length or None),)


PAIR = r"\.(weight|bias)"


ENDS = rf"positional_encoding\.(pe|position_embeddings)|token_embedding\.embedding\.weight|norm{PAIR}"


OWN = rf"(self_attn\.\w+|feed_forward\.linear[12]\.linear|norm[12]){PAIR}|rotary_emb\.\w+"


CROSSED = rf"(self_attn\.\w+|cross_attn\.\w+|feed_forward\.linear[12]\.linear|norm[123]){PAIR}|rotary_emb\.\w+"


ENCODER = rf"{ENDS}|layers\.\d+\.({OWN})"


DECODER = rf"{ENDS}|layers\.\d+\.({CROSSED})|output_projection{PAIR}"


PRE_NORM = "norms stand before what they are for, and one more at the end"


TURNED = "rotary encodings change nothing: queries and keys of a head are turned by one angle"


SCALED = "words are multiplied by the root of their width; forward_embeddings, which looks none up, multiplies nothing"


CROSS_MEMORY = "the decoder sees what the encoder gives as it is: no norm stands before its keys and values"


KINDS = (
    Kind(
        name="TransformerEncoderLayer",
        config=LayerConfig,
        read=_read_layer,
        part=lambda c: layer_part(c.d_model, c.num_heads, c.d_ff, cross=False, rotary=c.use_rotary_embeddings),
        entries=_layer_entries,
        tiny=LayerConfig("TransformerEncoderLayer", 6, 2, 5, use_rotary_embeddings=False),
        documented=LayerConfig("TransformerEncoderLayer", 512, 8, 2048, use_rotary_embeddings=False, dropout=0.1),
        marks=(r"self_attn\.query_projection\.weight", r"norm2\.weight"),
        others=(OWN,),
        oddities=(PRE_NORM, TURNED),
    ),
    Kind(
        name="TransformerDecoderLayer",
        config=LayerConfig,
        read=_read_layer,
        part=lambda c: layer_part(c.d_model, c.num_heads, c.d_ff, cross=True, rotary=c.use_rotary_embeddings),
        entries=_layer_entries,
        tiny=LayerConfig("TransformerDecoderLayer", 8, 2, 5, use_rotary_embeddings=True),
        documented=LayerConfig("TransformerDecoderLayer", 512, 8, 2048, use_rotary_embeddings=False, dropout=0.1),
        marks=(r"cross_attn\.query_projection\.weight", r"norm3\.weight"),
        others=(CROSSED,),
        oddities=(PRE_NORM, TURNED, CROSS_MEMORY),
    ),
    Kind(
        name="TransformerEncoder",
        config=EncoderConfig,
        read=read_encoder,
        part=lambda config: body_part(config, cross=False),
        entries=_encoder_entries,
        tiny=EncoderConfig("TransformerEncoder", 13, 6, 2, 1, 5, 12, "learned"),
        documented=EncoderConfig("TransformerEncoder", 10000, 512, 8, 6, 2048, 512, "sinusoidal", 0.1),
        marks=(r"layers\.0\.self_attn\.query_projection\.weight", r"norm\.weight"),
        others=(ENCODER,),
        oddities=(PRE_NORM, TURNED, SCALED),
    ),
    Kind(
        name="TransformerDecoder",
        config=DecoderConfig,
        read=_read_decoder,
        part=_decoder_part,
        entries=_decoder_entries,
        tiny=DecoderConfig("TransformerDecoder", 13, 6, 2, 1, 5, 12, "sinusoidal"),
        marks=(r"layers\.0\.cross_attn\.query_projection\.weight", r"output_projection\.weight"),
        others=(DECODER,),
        oddities=(PRE_NORM, TURNED, CROSS_MEMORY),
    ),
    Kind(
        name="Transformer",
        config=TransformerConfig,
        read=_read_transformer,
        part=_transformer_part,
        entries=_transformer_entries,
        tiny=TransformerConfig("Transformer", 5, 6, 2, 1, 5, 12, "sinusoidal", 4),
        marks=(r"encoder\.layers\.0\.self_attn\.query_projection\.weight",),
        others=(rf"encoder\.({ENCODER})", rf"(in|out)put_projection{PAIR}"),
        oddities=(PRE_NORM, TURNED),
    ),
)

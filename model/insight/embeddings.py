"""Tables of words and of places, each as an entry point of its own. Axes: see `pieces.py`."""

from dataclasses import dataclass

from ...validation.domains import Integers, TokenIds
from ...validation.entry_point import EntryPoint, TensorSpec
from ..family import Rule
from ..parts import Part
from .entries import axes, floats, given
from .kind import Kind, Reading
from .pieces import TABLE, positions, rotations

ROTARY_ROWS = 5000
"""Of the tables that each layer keeps, whatever its texts' greatest length."""


@dataclass(frozen=True)
class WordsConfig:
    """TokenEmbedding."""

    model_type: str
    vocab_size: int
    d_model: int


@dataclass(frozen=True)
class PositionsConfig:
    """PositionalEncoding."""

    model_type: str
    d_model: int
    max_seq_length: int
    encoding_type: str
    dropout: float = 0.0


@dataclass(frozen=True)
class RotaryConfig:
    """RotaryPositionEncoding."""

    model_type: str
    head_dim: int
    max_seq_length: int


def _read_words(reading: Reading) -> None:
    size, width = reading.shape("embedding.weight", 2)
    reading.show("vocab_size", size, "shape of embedding.weight")
    reading.show("d_model", width, "shape of embedding.weight")


def words(size: int, width: int) -> Part:
    """A table of words."""
    return Part(
        (Rule("weight", "embedding", "v w"),),
        {"v": size, "w": width},
        {"weight": (size, width)},
        draws={"weight": TABLE},
    )


def _words_entries(config: WordsConfig) -> tuple[EntryPoint, ...]:
    ids = TensorSpec("ids", "int32", ("batch", "tokens"), TokenIds(config.vocab_size, 0))
    output = given("output", "batch", "tokens", config.d_model)
    return (EntryPoint("forward", (ids,), (output,), axes("batch", "tokens"), rows="batch"),)


def read_positions(reading: Reading) -> tuple[str, int]:
    """Give the kind of a table of positions and how many rows it has; ("rotary", 0) where there is none."""
    for name, kind in (("pe", "sinusoidal"), ("position_embeddings", "learned")):
        if name in reading.shapes:
            return kind, reading.shape(name, 3)[1]
    return "rotary", 0


def encoding(kind: str, rows: int, width: int) -> Part:
    """A table of positions as PositionalEncoding keeps it."""
    name = "pe" if kind == "sinusoidal" else "position_embeddings"
    return positions(name, rows, width, computed=kind == "sinusoidal")


def _read_encoding(reading: Reading) -> None:
    kind, rows = read_positions(reading)
    name = "pe" if kind == "sinusoidal" else "position_embeddings"
    reading.show("d_model", reading.shape(name, 3)[2], f"shape of {name}")
    reading.show("max_seq_length", rows, f"shape of {name}")
    reading.show("encoding_type", kind, f"the name {name}")
    reading.dropout()


def _encoding_entries(config: PositionsConfig) -> tuple[EntryPoint, ...]:
    free = axes("batch", tokens=config.max_seq_length)
    x = floats("x", "batch", "tokens", config.d_model)
    ids = TensorSpec("ids", "int32", ("batch", "tokens"), Integers(50))
    output = given("output", "batch", "tokens", config.d_model)
    return (
        EntryPoint("forward", (x,), (output,), free, rows="batch"),
        EntryPoint("forward_ids", (ids,), (output,), free, rows="batch"),
    )


def _read_rotary(reading: Reading) -> None:
    rows, half = reading.shape("cos_cached", 2)
    reading.show("head_dim", 2 * half, "shape of cos_cached")
    reading.show("max_seq_length", rows, "shape of cos_cached")


def rotary_tables(head: int, rows: int) -> Part:
    """Cosine and sine by position."""
    half = head // 2
    cos, sin = rotations(rows, half)
    return Part(
        (Rule("{part:cos|sin}_cached", "{part}", "t p"),),
        {"t": rows, "p": half},
        {"cos_cached": (rows, half), "sin_cached": (rows, half)},
        constants={"cos_cached": cos, "sin_cached": sin},
    )


def _rotary_entries(config: RotaryConfig) -> tuple[EntryPoint, ...]:
    shape = ("batch", "tokens", "heads", config.head_dim)
    free = axes("batch", "heads", tokens=config.max_seq_length)
    outputs = (given("query", *shape), given("key", *shape))
    return (EntryPoint("forward", (floats("q", *shape), floats("k", *shape)), outputs, free, rows="batch"),)


KINDS = (
    Kind(
        name="TokenEmbedding",
        config=WordsConfig,
        read=_read_words,
        part=lambda config: words(config.vocab_size, config.d_model).mounted("embedding.", "word."),
        entries=_words_entries,
        tiny=WordsConfig("TokenEmbedding", 11, 6),
        marks=(r"embedding\.weight",),
        telling=False,
        oddities=("words are multiplied by the root of their width, and no row is that of padding",),
    ),
    Kind(
        name="PositionalEncoding",
        config=PositionsConfig,
        read=_read_encoding,
        part=lambda config: encoding(config.encoding_type, config.max_seq_length, config.d_model),
        entries=_encoding_entries,
        tiny=PositionsConfig("PositionalEncoding", 6, 12, "sinusoidal"),
        marks=(r"pe|position_embeddings",),
        telling=False,
        oddities=("ids instead of vectors are taken as numbers, the same in all places of a vector: forward_ids",),
    ),
    Kind(
        name="RotaryPositionEncoding",
        config=RotaryConfig,
        read=_read_rotary,
        part=lambda config: rotary_tables(config.head_dim, config.max_seq_length),
        entries=_rotary_entries,
        tiny=RotaryConfig("RotaryPositionEncoding", 4, 12),
        marks=("cos_cached", "sin_cached"),
        oddities=("places are along the second axis, which is that of heads where MultiHeadAttention calls it",),
    ),
)

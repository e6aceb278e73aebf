"""Tables of words and of places, each as an entry point of its own. Axes: see `pieces.py`."""

from dataclasses import dataclass

from ...validation.domains import Integers
from ...validation.entry_point import EntryPoint, TensorSpec
from ..family import Rule
from ..parts import Part
from .entries import floats, given, method, tokens
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
    reading.size("vocab_size", "embedding.weight", 0)
    reading.size("d_model", "embedding.weight", 1)


def words(size: int, width: int) -> Part:
    """A table of words."""
    return Part(
        (Rule("weight", "embedding", "v w"),),
        {"v": size, "w": width},
        {"weight": (size, width)},
        draws={"weight": TABLE},
    )


def _words_entries(config: WordsConfig) -> tuple[EntryPoint, ...]:
    output = given("output", "batch", "tokens", config.d_model)
    return (method("forward", [tokens("ids", config.vocab_size)], [output]),)


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
    kind, _ = read_positions(reading)
    name = "pe" if kind == "sinusoidal" else "position_embeddings"
    reading.size("d_model", name, 2, rank=3)
    reading.size("max_seq_length", name, 1, rank=3)
    reading.show("encoding_type", kind, f"the name {name}")
    reading.dropout()


def _encoding_entries(config: PositionsConfig) -> tuple[EntryPoint, ...]:
    x = floats("x", "batch", "tokens", config.d_model)
    ids = TensorSpec("ids", "int32", ("batch", "tokens"), Integers(50))
    output = given("output", "batch", "tokens", config.d_model)
    return (
        method("forward", [x], [output], tokens=config.max_seq_length),
        method("forward_ids", [ids], [output], tokens=config.max_seq_length),
    )


def _read_rotary(reading: Reading) -> None:
    reading.show("head_dim", 2 * reading.shape("cos_cached", 2)[1], "shape of cos_cached")
    reading.size("max_seq_length", "cos_cached", 0)


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
    inputs, outputs = (floats("q", *shape), floats("k", *shape)), (given("query", *shape), given("key", *shape))
    return (method("forward", inputs, outputs, tokens=config.max_seq_length),)


KINDS = (
    Kind(
        name="TokenEmbedding",
        config=WordsConfig,
        read=_read_words,
        part=lambda config: words(config.vocab_size, config.d_model).mounted("embedding.", "word."),
        entries=_words_entries,
        tiny=WordsConfig("TokenEmbedding", 11, 6),
        documented=WordsConfig("TokenEmbedding", 10000, 512),
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
        documented=PositionsConfig("PositionalEncoding", 512, 5000, "sinusoidal", 0.1),
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
        documented=RotaryConfig("RotaryPositionEncoding", 64, 5000),
        marks=("cos_cached", "sin_cached"),
        oddities=("places are along the second axis, which is that of heads where MultiHeadAttention calls it",),
    ),
)

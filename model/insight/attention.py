"""Layers of attention, of positions and of words, each as an entry point of its own. Axes: see `pieces.py`.

Masks are True where a position counts; what upstream broadcasts is given whole here. Its MultiHeadAttention and its
cross-modal layers take (batch, queries, keys); GroupedQueryAttention and ALiBiAttention add no axis of heads, so theirs
is (batch, heads, queries, keys), which says everything that they can be told, a mask by head included.
"""

import math
from dataclasses import dataclass

import numpy as np

from ...validation.entry_point import EntryPoint
from ...validation.errors import InputError
from ..family import Drop, Rule, Split
from ..parts import Part, join
from .entries import floats, given, mask, method
from .kind import Kind, Reading, divisors
from .pieces import attention, nothing

PROJECTIONS = tuple(f"{name}_projection" for name in ("query", "key", "value", "output"))


SHORT = ("q_proj", "k_proj", "v_proj", "out_proj")


PAIR = r"\.(weight|bias)"


@dataclass(frozen=True)
class AttentionConfig:
    """MultiHeadAttention, or SimpleAttention: one head of any width."""

    model_type: str
    input_dim: int
    attention_dim: int
    num_heads: int
    dropout: float = 0.0


@dataclass(frozen=True)
class PlainConfig:
    """ScaledDotProductAttention: no tensors, no sizes."""

    model_type: str
    dropout: float = 0.0


@dataclass(frozen=True)
class GroupedConfig:
    """GroupedQueryAttention."""

    model_type: str
    d_model: int
    num_heads: int
    num_key_value_heads: int
    square: bool
    """Whether keys and values are projected to the whole width, as upstream makes them, used or not."""

    @property
    def as_documented(self) -> bool:
        """Whether upstream documents it but cannot run it: fewer heads of keys and values."""
        return self.num_key_value_heads < self.num_heads


@dataclass(frozen=True)
class AlibiConfig:
    """ALiBiAttention."""

    model_type: str
    hidden_size: int
    num_heads: int
    max_seq_length: int


def _read(reading: Reading) -> None:
    _read_widths(reading)
    reading.heads("num_heads", reading.settled.values["attention_dim"], "input_dim")


def _read_simple(reading: Reading) -> None:
    _read_widths(reading)
    reading.show("num_heads", 1, "SimpleAttention has one head")


def _read_widths(reading: Reading) -> None:
    reading.size("input_dim", "query_projection.weight", 1)
    reading.size("attention_dim", "query_projection.weight", 0)
    reading.dropout()


def _part(config: AttentionConfig) -> Part:
    inner, width = config.attention_dim, config.input_dim
    return attention(PROJECTIONS, width, config.num_heads, inner=inner).mounted("", "attention.", "")


def _attend(query: int | str, value: int | str, result: str, out: int | str) -> EntryPoint:
    """Describe what takes queries, keys and values of two sequences."""
    inputs = (
        floats("query", "batch", "tokens", query),
        floats("key", "batch", "source_tokens", query),
        floats("value", "batch", "source_tokens", value),
        mask("mask", "batch", "tokens", "source_tokens"),
    )
    outputs = (given(result, "batch", "tokens", out), given("weights", "batch", "tokens", "source_tokens"))
    return method("forward", inputs, outputs)


def _entries(config: AttentionConfig) -> tuple[EntryPoint, ...]:
    return (_attend(config.input_dim, config.input_dim, "output", config.input_dim),)


def _read_grouped(reading: Reading) -> None:
    width, kept = reading.size("d_model", "q_proj.weight", 0), reading.shape("k_proj.weight", 2)[0]
    heads = reading.heads("num_heads", width, "d_model")
    fewer = "" if kept == width else f"k_proj has {kept} rows"
    pairs = [n for n in reversed(divisors(heads)) if kept in (width, n * width // heads)]
    reading.ask("num_key_value_heads", pairs or [heads], fewer or "what divides num_heads")
    reading.show("square", kept == width, "shape of k_proj.weight")


def _grouped_part(config: GroupedConfig) -> Part:
    width, kept = config.d_model, config.num_key_value_heads
    whole = attention(SHORT, width, config.num_heads)
    if not config.as_documented:
        return whole.mounted("", "attention.", "")
    head = width // config.num_heads
    rules = [rule for rule in whole.rules if not rule.source.startswith(("k_proj", "v_proj"))]
    shapes = dict(whole.checkpoint_shapes)
    for name, leaf in (("k_proj", "key"), ("v_proj", "value")):
        places = (f"{name}.weight", f"{name}.bias")
        if config.square:
            rules += [
                Split(places[0], (f"{leaf}.weight", f"{leaf}.spare.weight"), "n s", "n", ("kv_heads d", "rest")),
                Split(places[1], (f"{leaf}.bias", f"{leaf}.spare.bias"), "n", "n", ("kv_heads d", "rest")),
                Drop(f"{leaf}.spare.{{:weight|bias}}", "rows of heads that the documented layer does not have"),
            ]
            places = (f"{leaf}.weight", f"{leaf}.bias")
        else:
            shapes |= {places[0]: (kept * head, width), places[1]: (kept * head,)}
        rules += [
            Rule(places[0], f"{leaf}.kernel", "(kv_heads d) s -> s kv_heads d"),
            Rule(places[1], f"{leaf}.bias", "(kv_heads d) -> kv_heads d"),
        ]
    sizes = {**whole.axis_sizes, "kv_heads": kept, "n": width, "rest": width - kept * head}
    return Part(tuple(rules), sizes, shapes).mounted("", "attention.", "")


def _by_head(width: int, heads: int, name: str = "forward", longest: int | None = None) -> tuple[EntryPoint, ...]:
    """Describe self-attention whose mask may differ from head to head."""
    inputs = (floats("x", "batch", "tokens", width), mask("mask", "batch", heads, "tokens", "tokens"))
    return (method(name, inputs, [given("output", "batch", "tokens", width)], tokens=longest),)


def _grouped_entries(config: GroupedConfig) -> tuple[EntryPoint, ...]:
    return _by_head(config.d_model, config.num_heads, "forward_as_documented" if config.as_documented else "forward")


def _read_alibi(reading: Reading) -> None:
    reading.size("hidden_size", "q_proj.weight", 0)
    reading.size("num_heads", "bias", 0, rank=3)
    reading.size("max_seq_length", "bias", 1, rank=3)


def slopes(heads: int) -> list[float]:
    """Compute upstream's slopes: each half of the one before, and of another number of heads than 2^n the rest.

    The paper's ratio is the first slope, which is one half for eight heads only.
    """
    whole = 2 ** int(math.log2(heads))
    first = 2.0 ** -(2.0 ** -(math.log2(whole) - 3))
    found = [first * 0.5**i for i in range(whole)]
    return found + (slopes(2 * whole)[: heads - whole] if whole < heads else [])


def _alibi_part(config: AlibiConfig) -> Part:
    heads, longest = config.num_heads, config.max_seq_length
    sizes = {"h": heads, "t": longest, "u": longest}
    places = np.arange(longest, dtype=np.float32)
    table = np.array(slopes(heads), np.float32)[:, None, None] * (places - places[:, None])
    rules = (Rule("bias", "slopes.bias", "h t u -> h t u"),)
    biases = Part(rules, sizes, {"bias": (heads, longest, longest)}, constants={"bias": table})
    return join(attention(SHORT, config.hidden_size, heads).mounted("", "attention."), biases)


def _read_plain(reading: Reading) -> None:
    if reading.shapes:
        raise InputError("ScaledDotProductAttention has no tensors, but the checkpoint has")
    reading.dropout()


UNIFORM = "a query that may see nothing sees all keys alike: scores are set to -1e9, not left out"


KINDS = (
    Kind(
        name="ScaledDotProductAttention",
        config=PlainConfig,
        read=_read_plain,
        part=lambda config: nothing(),
        entries=lambda config: (_attend("width", "value_width", "context", "value_width"),),
        tiny=PlainConfig("ScaledDotProductAttention"),
        documented=PlainConfig("ScaledDotProductAttention", 0.1),
        telling=False,
        oddities=(UNIFORM,),
    ),
    Kind(
        name="MultiHeadAttention",
        config=AttentionConfig,
        read=_read,
        part=_part,
        entries=_entries,
        tiny=AttentionConfig("MultiHeadAttention", 6, 6, 2),
        documented=AttentionConfig("MultiHeadAttention", 512, 512, 8, 0.1),
        marks=tuple(rf"{name}\.weight" for name in PROJECTIONS),
        others=(rf"({'|'.join(PROJECTIONS)})\.bias",),
        oddities=(UNIFORM, "rotary encodings that it is given rotate by head and not by place, which changes no score"),
    ),
    Kind(
        name="SimpleAttention",
        config=AttentionConfig,
        read=_read_simple,
        part=_part,
        entries=_entries,
        tiny=AttentionConfig("SimpleAttention", 6, 4, 1),
        marks=tuple(rf"{name}\.weight" for name in PROJECTIONS),
        others=(rf"({'|'.join(PROJECTIONS)})\.bias",),
        oddities=(UNIFORM, "the weights that it gives went through softmax twice; its output is of one"),
    ),
    Kind(
        name="GroupedQueryAttention",
        config=GroupedConfig,
        read=_read_grouped,
        part=_grouped_part,
        entries=_grouped_entries,
        tiny=GroupedConfig("GroupedQueryAttention", 8, 4, 2, square=True),
        documented=GroupedConfig("GroupedQueryAttention", 512, 8, 4, square=True),
        marks=tuple(rf"{name}{PAIR}" for name in SHORT),
        telling=False,
        oddities=(
            UNIFORM,
            "a mask gets no axis of heads: one of three axes is by head where batch and heads are as many",
            "upstream cannot run fewer heads of keys and values; forward_as_documented computes what it documents",
        ),
    ),
    Kind(
        name="ALiBiAttention",
        config=AlibiConfig,
        read=_read_alibi,
        part=_alibi_part,
        entries=lambda config: _by_head(config.hidden_size, config.num_heads, longest=config.max_seq_length),
        tiny=AlibiConfig("ALiBiAttention", 8, 2, 12),
        documented=AlibiConfig("ALiBiAttention", 512, 8, 2048),
        marks=("bias", *(rf"{name}{PAIR}" for name in SHORT)),
        oddities=(
            UNIFORM,
            "keys to come are favoured, and nothing hides them",
            "the slopes are the buffer's own; upstream's formula is the paper's for eight heads only",
        ),
    ),
)

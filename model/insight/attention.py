"""Layers of attention, of positions and of words, each as an entry point of its own. Axes: see `pieces.py`.

Masks are True where a position counts; what upstream broadcasts is given whole here. Its MultiHeadAttention and its
cross-modal layers take (batch, queries, keys); GroupedQueryAttention and ALiBiAttention add no axis of heads, so theirs
is (batch, heads, queries, keys), which says everything that they can be told, a mask by head included.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...validation.domains import Floats, Integers, RandomMask, TokenIds
from ...validation.entry_point import Axis, EntryPoint, TensorSpec
from ...validation.errors import InputError
from ..family import Drop, Rule, Split
from ..parts import Part, join
from .kind import Kind, Reading, divisors
from .pieces import TABLE, alone, attention, linear, norm, nothing, positions, rotations, stack

MASK = RandomMask(empty_rows=True)
PROJECTIONS = tuple(f"{name}_projection" for name in ("query", "key", "value", "output"))
SHORT = ("q_proj", "k_proj", "v_proj", "out_proj")
CROSS = tuple(f"{name}_proj" for name in ("query", "key", "value", "output"))
PAIR = r"\.(weight|bias)"
ROTARY_ROWS = 5000
"""Of the tables that each layer keeps, whatever its texts' greatest length."""


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


@dataclass(frozen=True)
class CrossConfig:
    """CrossModalAttention or GatedCrossModalAttention."""

    model_type: str
    query_dim: int
    key_dim: int
    embed_dim: int
    num_heads: int
    dropout: float = 0.0


@dataclass(frozen=True)
class FusionConfig:
    """BidirectionalCrossAttention, or CoAttentionFusion, which stacks it."""

    model_type: str
    vision_dim: int
    text_dim: int
    fusion_dim: int
    num_heads: int
    num_layers: int = 1
    dropout: float = 0.0


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


def floats(name: str, *shape: int | str) -> TensorSpec:
    """An input or output of numbers."""
    return TensorSpec(name, "float32", shape, Floats())


def given(name: str, *shape: int | str, kind: Any = None) -> TensorSpec:
    """An output of numbers."""
    return TensorSpec(name, "float32", shape, **({"kind": kind} if kind else {}))


def mask(name: str, *shape: int | str) -> TensorSpec:
    """An input of truths; of one row nothing counts."""
    return TensorSpec(name, "bool", shape, MASK)


def axes(*names: str, **most: int | None) -> dict[str, Axis]:
    """Give the axes, with the greatest size of some."""
    return {name: Axis() for name in names} | {name: Axis(1, high) for name, high in most.items()}


def _read(reading: Reading) -> None:
    inner, width = reading.shape("query_projection.weight", 2)
    reading.show("input_dim", width, "shape of query_projection.weight")
    reading.show("attention_dim", inner, "shape of query_projection.weight")
    reading.heads("num_heads", inner, "input_dim")
    reading.dropout()


def _read_simple(reading: Reading) -> None:
    inner, width = reading.shape("query_projection.weight", 2)
    reading.show("input_dim", width, "shape of query_projection.weight")
    reading.show("attention_dim", inner, "shape of query_projection.weight")
    reading.show("num_heads", 1, "SimpleAttention has one head")
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
    free = [axis for axis in dict.fromkeys((query, value)) if isinstance(axis, str)]
    return EntryPoint("forward", inputs, outputs, axes("batch", "tokens", "source_tokens", *free), rows="batch")


def _entries(config: AttentionConfig) -> tuple[EntryPoint, ...]:
    return (_attend(config.input_dim, config.input_dim, "output", config.input_dim),)


def _read_grouped(reading: Reading) -> None:
    width = reading.shape("q_proj.weight", 2)[0]
    kept = reading.shape("k_proj.weight", 2)[0]
    reading.show("d_model", width, "shape of q_proj.weight")
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
    output = given("output", "batch", "tokens", width)
    return (EntryPoint(name, inputs, (output,), axes("batch", tokens=longest), rows="batch"),)


def _grouped_entries(config: GroupedConfig) -> tuple[EntryPoint, ...]:
    return _by_head(config.d_model, config.num_heads, "forward_as_documented" if config.as_documented else "forward")


def _read_alibi(reading: Reading) -> None:
    heads, longest, _ = reading.shape("bias", 3)
    reading.show("hidden_size", reading.shape("q_proj.weight", 2)[0], "shape of q_proj.weight")
    reading.show("num_heads", heads, "shape of bias")
    reading.show("max_seq_length", longest, "shape of bias: whatever slopes it has are the layer's")


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


def _read_cross(reading: Reading) -> None:
    base = "" if "query_proj.weight" in reading.shapes else "cross_attention."
    inner, query = reading.shape(f"{base}query_proj.weight", 2)
    reading.show("query_dim", query, f"shape of {base}query_proj.weight")
    reading.show("key_dim", reading.shape(f"{base}key_proj.weight", 2)[1], f"shape of {base}key_proj.weight")
    reading.show("embed_dim", inner, f"shape of {base}query_proj.weight")
    reading.heads("num_heads", inner, "embed_dim")
    reading.dropout()


def cross_part(config: CrossConfig) -> Part:
    """Norms of both sides, and projections."""
    width = config.embed_dim
    sides = attention(CROSS, config.query_dim, config.num_heads, source=config.key_dim, inner=width, output=width)
    return join(
        norm(config.query_dim).mounted("norm_query.", "query_norm."),
        norm(config.key_dim).mounted("norm_key.", "key_norm."),
        sides.mounted("", "attention."),
    )


def gated_part(config: CrossConfig) -> Part:
    """A cross-modal attention, and the gate of what it gives."""
    width = config.embed_dim
    leads = [linear(config.query_dim, width).mounted("query_proj_gate.", "lead.")] if config.query_dim != width else []
    return join(
        cross_part(config).mounted("cross_attention.", "cross."),
        *leads,
        linear(2 * width, width).mounted("gate.0.", "gate_in."),
        norm(width).mounted("gate.1.", "gate_norm."),
        linear(width, width).mounted("gate.3.", "gate_out."),
    )


def _cross_entries(config: CrossConfig) -> tuple[EntryPoint, ...]:
    inputs = (
        floats("query_features", "batch", "tokens", config.query_dim),
        floats("key_features", "batch", "source_tokens", config.key_dim),
        mask("attention_mask", "batch", "tokens", "source_tokens"),
    )
    outputs = (
        given("output", "batch", "tokens", config.embed_dim),
        given("weights", "batch", config.num_heads, "tokens", "source_tokens"),
    )
    return (EntryPoint("forward", inputs, outputs, axes("batch", "tokens", "source_tokens"), rows="batch"),)


def _read_fusion(reading: Reading) -> None:
    stacked = "fusion_token" in reading.shapes
    layer = "fusion_layers.0." if stacked else ""
    side = f"{layer}text_to_vision_attn.cross_attention."
    width, text = reading.shape(f"{side}query_proj.weight", 2)
    vision = reading.shape(f"{side}key_proj.weight", 2)[1]
    if stacked:
        text, vision = (reading.shape(f"{each}_proj.0.weight", 2)[1] for each in ("text", "vision"))
    reading.show("vision_dim", vision, "shapes")
    reading.show("text_dim", text, "shapes")
    reading.show("fusion_dim", width, f"shape of {side}query_proj.weight")
    reading.heads("num_heads", width, "fusion_dim")
    layers = reading.count(r"fusion_layers\.(\d+)\.") if stacked else 1
    reading.show("num_layers", layers, "names fusion_layers.*" if stacked else "one layer")
    reading.dropout()


def bidirectional_part(config: FusionConfig) -> Part:
    """Both sides attend to each other; each then has a feed-forward part."""
    vision, text, width = config.vision_dim, config.text_dim, config.fusion_dim
    parts = [
        gated_part(CrossConfig("", text, vision, width, config.num_heads)).mounted("text_to_vision_attn.", "text."),
        gated_part(CrossConfig("", vision, text, width, config.num_heads)).mounted("vision_to_text_attn.", "vision."),
    ]
    for side, own in (("vision", vision), ("text", text)):
        parts += [
            norm(width).mounted(f"{side}_ff.0.", f"{side}_mlp_norm."),
            linear(width, 4 * width).mounted(f"{side}_ff.1.", f"{side}_mlp.up."),
            linear(4 * width, width).mounted(f"{side}_ff.4.", f"{side}_mlp.down."),
        ]
        parts += [linear(own, width).mounted(f"{side}_input_proj.", f"{side}_lead.")] if own != width else []
    return join(*parts)


def co_attention_part(config: FusionConfig) -> Part:
    """Projections of both sides, layers that fuse them, and what leads back."""
    width = config.fusion_dim
    layer = bidirectional_part(FusionConfig("", width, width, width, config.num_heads))
    token = alone("fusion_token", "token", "1 1 w -> w", {"w": width}, (1, 1, width))
    parts = [token, stack(layer, config.num_layers, "fusion_layers", "layers")]
    for side, own in (("vision", config.vision_dim), ("text", config.text_dim)):
        parts += [
            linear(own, width).mounted(f"{side}_proj.0.", f"{side}_in.first."),
            norm(width).mounted(f"{side}_proj.1.", f"{side}_in.norm."),
            linear(width, width).mounted(f"{side}_proj.3.", f"{side}_in.last."),
            linear(width, own).mounted(f"{side}_output_proj.", f"{side}_out."),
        ]
    return join(
        *parts,
        norm(2 * width).mounted("final_fusion.0.", "fuse_norm."),
        linear(2 * width, width).mounted("final_fusion.1.", "fuse."),
        norm(width).mounted("final_fusion.4.", "fused_norm."),
    )


def _fusion_entries(config: FusionConfig) -> tuple[EntryPoint, ...]:
    inputs = (
        floats("vision", "batch", "vision_tokens", config.vision_dim),
        floats("text", "batch", "text_tokens", config.text_dim),
    )
    free = axes("batch", "vision_tokens", "text_tokens")
    heads, width = config.num_heads, config.fusion_dim
    if config.model_type == "CoAttentionFusion":
        outputs = (
            given("vision_features", "batch", "vision_tokens", config.vision_dim),
            given("text_features", "batch", "text_tokens", config.text_dim),
            given("fusion_features", "batch", width),
            given("pooled_fusion", "batch", width),
        )
    else:
        outputs = (
            given("vision_features", "batch", "vision_tokens", width),
            given("text_features", "batch", "text_tokens", width),
            given("vision_to_text_attn", "batch", heads, "vision_tokens", "text_tokens"),
            given("text_to_vision_attn", "batch", heads, "text_tokens", "vision_tokens"),
        )
    return (EntryPoint("forward", inputs, outputs, free, rows="batch"),)


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
        marks=("bias", *(rf"{name}{PAIR}" for name in SHORT)),
        oddities=(
            UNIFORM,
            "keys to come are favoured, and nothing hides them",
            "the slopes are the buffer's own; upstream's formula is the paper's for eight heads only",
        ),
    ),
    Kind(
        name="CrossModalAttention",
        config=CrossConfig,
        read=_read_cross,
        part=cross_part,
        entries=_cross_entries,
        tiny=CrossConfig("CrossModalAttention", 5, 6, 8, 2),
        marks=(*(rf"{name}\.weight" for name in CROSS), rf"norm_query{PAIR}", rf"norm_key{PAIR}"),
        others=(rf"({'|'.join(CROSS)})\.bias",),
        oddities=(UNIFORM,),
    ),
    Kind(
        name="GatedCrossModalAttention",
        config=CrossConfig,
        read=_read_cross,
        part=gated_part,
        entries=_cross_entries,
        tiny=CrossConfig("GatedCrossModalAttention", 5, 6, 8, 2),
        marks=(r"cross_attention\.query_proj\.weight", rf"gate\.0{PAIR}"),
        others=(rf"cross_attention\.\w+{PAIR}", rf"gate\.[13]{PAIR}", rf"query_proj_gate{PAIR}"),
        oddities=(UNIFORM,),
    ),
    Kind(
        name="BidirectionalCrossAttention",
        config=FusionConfig,
        read=_read_fusion,
        part=bidirectional_part,
        entries=_fusion_entries,
        tiny=FusionConfig("BidirectionalCrossAttention", 5, 6, 8, 2),
        marks=(r"text_to_vision_attn\..*", r"vision_to_text_attn\..*"),
        others=(r"(vision|text)_(ff\.\d|input_proj)\.(weight|bias)",),
        oddities=("masks that upstream's method takes are replaced by ones: here it takes none",),
    ),
    Kind(
        name="CoAttentionFusion",
        config=FusionConfig,
        read=_read_fusion,
        part=co_attention_part,
        entries=_fusion_entries,
        tiny=FusionConfig("CoAttentionFusion", 5, 6, 8, 2, 1),
        marks=("fusion_token", r"fusion_layers\.0\..*"),
        others=(r"fusion_layers\..*", r"(vision|text)_(output_)?proj\..*", r"final_fusion\..*"),
        oddities=("masks that upstream's method takes are replaced by ones: here it takes none",),
    ),
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

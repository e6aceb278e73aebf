"""Attention of two sequences to each other, of pictures and texts. Axes: see `pieces.py`."""

from dataclasses import dataclass

from ...validation.entry_point import EntryPoint
from ..parts import Part, join
from .attention import PAIR, UNIFORM
from .entries import floats, given, mask, method
from .kind import Kind, Reading
from .pieces import alone, attention, lead, linear, norm, normed_mlp, stack

CROSS = tuple(f"{name}_proj" for name in ("query", "key", "value", "output"))


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


def _read_cross(reading: Reading) -> None:
    base = "" if "query_proj.weight" in reading.shapes else "cross_attention."
    reading.size("query_dim", f"{base}query_proj.weight", 1)
    reading.size("key_dim", f"{base}key_proj.weight", 1)
    reading.heads("num_heads", reading.size("embed_dim", f"{base}query_proj.weight", 0), "embed_dim")
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
    return join(
        cross_part(config).mounted("cross_attention.", "cross."),
        *lead(config.query_dim, width, "query_proj_gate.", "lead."),
        normed_mlp(2 * width, width, width).mounted("gate.", "gate."),
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
    return (method("forward", inputs, outputs),)


def _read_fusion(reading: Reading) -> None:
    stacked = "fusion_token" in reading.shapes
    layer = "fusion_layers.0." if stacked else ""
    side = f"{layer}text_to_vision_attn.cross_attention."
    reading.size("vision_dim", "vision_proj.0.weight" if stacked else f"{side}key_proj.weight", 1)
    reading.size("text_dim", "text_proj.0.weight" if stacked else f"{side}query_proj.weight", 1)
    reading.heads("num_heads", reading.size("fusion_dim", f"{side}query_proj.weight", 0), "fusion_dim")
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
            *lead(own, width, f"{side}_input_proj.", f"{side}_lead."),
        ]
    return join(*parts)


def co_attention_part(config: FusionConfig) -> Part:
    """Projections of both sides, layers that fuse them, and what leads back."""
    width = config.fusion_dim
    layer = bidirectional_part(FusionConfig("", width, width, width, config.num_heads))
    token = alone("fusion_token", "token", "1 1 w -> w", {"w": width}, (1, 1, width))
    parts = [token, stack(layer, config.num_layers, "fusion_layers", "layers")]
    for side, own in (("vision", config.vision_dim), ("text", config.text_dim)):
        parts += [
            normed_mlp(own, width, width).mounted(f"{side}_proj.", f"{side}_in."),
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
    return (method("forward", inputs, outputs),)


KINDS = (
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
)

"""The parts of FlagEmbedding's Visualized_BGE: a text encoder, an image tower, a projection between them.

Axes of the tower: c channels, r and s patch rows and columns, n patches, t patches and class token, w width, f head
width, m inner width. Two axes of one size, w is what goes into a matrix and u what comes out.
"""

from collections.abc import Mapping

import numpy as np

from ..bert.rules import text
from ..family import Drop, Rule, Rules, Shapes, Tie
from ..parts import Part, join
from . import probes
from .config import VISUAL, VisionConfig, VisualizedBGEConfig, rotary_tables

NORM = ((".weight", ".scale"), (".bias", ".bias"))
BLOCK = "blocks.{i}."


def whole(config: VisualizedBGEConfig) -> Part:
    """Declare the whole checkpoint."""
    tower = _tower(config.vision).mounted(VISUAL, "vision.")
    return join(text(config.text).mounted("bge_", "text."), tower, _projection(config))


def _projection(config: VisualizedBGEConfig) -> Part:
    width = config.vision.width
    rules = (
        Rule("visual_proj.weight", "visual_projection.kernel", "u w -> w u"),
        Rule("visual_proj.bias", "visual_projection.bias", "u"),
        Drop("model_visual.logit_scale", "the image tower's contrastive temperature: a training-time scalar"),
    )
    shapes = {"model_visual.logit_scale": (), "visual_proj.weight": (width, width), "visual_proj.bias": (width,)}
    draws = {"model_visual.logit_scale": (float(np.log(100)), 0.0)}
    return Part(rules, {"w": width, "u": width}, shapes, probes.projection(config), draws=draws)


def _tower(config: VisionConfig) -> Part:
    axis_sizes = {
        "c": config.channels,
        "r": config.patch_size,
        "s": config.patch_size,
        "n": config.patches,
        "t": config.patches + 1,
        "w": config.width,
        "u": config.width,
        "heads": config.heads,
        "f": config.head_dim,
        "m": config.mlp_width,
    }
    draws = {"cls_token": (0.0, 0.3), "pos_embed": (0.0, 0.3)}
    return Part(_rules(), axis_sizes, _shapes(config), probes.tower(config), _constants(config), draws)


def _rules() -> Rules:
    return (
        Rule("cls_token", "cls_token", "1 1 w -> w"),
        Rule("pos_embed", "position_embedding", "1 t w -> t w"),
        Rule("patch_embed.proj.weight", "patch_embed.kernel", "w c r s -> r s c w"),
        Rule("patch_embed.proj.bias", "patch_embed.bias", "w"),
        Rule("rope.freqs_{part:cos|sin}", "rope.{part}", "n f"),
        Tie(
            BLOCK + "attn.rope.freqs_{part:cos|sin}",
            "rope.freqs_{part}",
            "every block registers the same rotary table",
        ),
        *(Rule(BLOCK + "norm{n}" + s, BLOCK + "norm{n}" + t, "w") for s, t in NORM),
        Rule(BLOCK + "attn.q_proj.weight", BLOCK + "attention.query.kernel", "(heads f) w -> w heads f"),
        Rule(BLOCK + "attn.k_proj.weight", BLOCK + "attention.key.kernel", "(heads f) w -> w heads f"),
        Rule(BLOCK + "attn.v_proj.weight", BLOCK + "attention.value.kernel", "(heads f) w -> w heads f"),
        Rule(BLOCK + "attn.q_bias", BLOCK + "attention.query.bias", "(heads f) -> heads f"),
        Rule(BLOCK + "attn.v_bias", BLOCK + "attention.value.bias", "(heads f) -> heads f"),
        *(Rule(BLOCK + "attn.inner_attn_ln" + s, BLOCK + "attention.norm" + t, "w") for s, t in NORM),
        Rule(BLOCK + "attn.proj.weight", BLOCK + "attention.out.kernel", "u w -> w u"),
        Rule(BLOCK + "attn.proj.bias", BLOCK + "attention.out.bias", "u"),
        Rule(BLOCK + "mlp.w1.weight", BLOCK + "mlp.gate.kernel", "m w -> w m"),
        Rule(BLOCK + "mlp.w1.bias", BLOCK + "mlp.gate.bias", "m"),
        Rule(BLOCK + "mlp.w2.weight", BLOCK + "mlp.up.kernel", "m w -> w m"),
        Rule(BLOCK + "mlp.w2.bias", BLOCK + "mlp.up.bias", "m"),
        *(Rule(BLOCK + "mlp.ffn_ln" + s, BLOCK + "mlp.norm" + t, "m") for s, t in NORM),
        Rule(BLOCK + "mlp.w3.weight", BLOCK + "mlp.down.kernel", "w m -> m w"),
        Rule(BLOCK + "mlp.w3.bias", BLOCK + "mlp.down.bias", "w"),
        Drop("norm.{:weight|bias}", "the tower's final norm: its raw residual stream is fused"),
        Drop("head.{:weight|bias}", "the tower's contrastive head: its patch tokens are fused"),
    )


def _shapes(config: VisionConfig) -> Shapes:
    width = config.width
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, config.patches + 1, width),
        "patch_embed.proj.weight": (width, config.channels, config.patch_size, config.patch_size),
        "patch_embed.proj.bias": (width,),
    }
    shapes |= dict.fromkeys(("rope.freqs_cos", "rope.freqs_sin"), (config.patches, config.head_dim))
    for i in range(config.layers):
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in _block_shapes(config).items()}
    head = {"weight": (config.embed_dim, width), "bias": (config.embed_dim,)}
    shapes |= {f"norm.{part}": (width,) for part in head}
    return shapes | {f"head.{part}": shape for part, shape in head.items()}


def _block_shapes(config: VisionConfig) -> Shapes:
    width, inner = config.width, config.mlp_width
    norms = {"norm1": width, "attn.inner_attn_ln": width, "norm2": width, "mlp.ffn_ln": inner}
    dense = {"attn.proj": (width, width), "mlp.w1": (inner, width), "mlp.w2": (inner, width), "mlp.w3": (width, inner)}
    return {
        **{f"{name}.{part}": (size,) for name, size in norms.items() for part in ("weight", "bias")},
        **{f"attn.{name}_proj.weight": (width, width) for name in "qkv"},
        **{f"attn.{name}_bias": (width,) for name in "qv"},
        **{f"attn.rope.freqs_{part}": (config.patches, config.head_dim) for part in ("cos", "sin")},
        **{f"{name}.weight": shape for name, shape in dense.items()},
        **{f"{name}.bias": shape[:1] for name, shape in dense.items()},
    }


def _constants(config: VisionConfig) -> Mapping[str, np.ndarray]:
    """Give the rotary tables under all their names; one array object per table, as upstream shares one storage."""
    places = ["", *(f"blocks.{i}.attn." for i in range(config.layers))]
    tables = dict(zip(("cos", "sin"), rotary_tables(config), strict=True))
    return {f"{place}rope.freqs_{part}": table for place in places for part, table in tables.items()}

"""Names of FlagEmbedding's Visualized_BGE -> parameter paths, as data.

Axes beyond the text encoder's: c channels, r and s patch rows and columns, n patches, t patches and class
token, w tower width, k heads, f head width, m2 inner width of the tower.
"""

from collections.abc import Mapping

from ..bert import rules as bert
from ..family import Drop, Rule, Rules, Tie
from .config import VISUAL, VisualizedBGEConfig

NORM = ((".weight", ".scale"), (".bias", ".bias"))
BLOCK = VISUAL + "blocks.{i}."


def rules(config: VisualizedBGEConfig) -> Rules:
    """Give the rules; they hold for every size."""
    del config
    target = "vision.blocks.{i}."
    return (
        *bert.text_rules("bge_embeddings.", "bge_encoder."),
        Rule(VISUAL + "cls_token", "vision.cls_token", "1 1 w -> w"),
        Rule(VISUAL + "pos_embed", "vision.position_embedding", "1 t w -> t w"),
        Rule(VISUAL + "patch_embed.proj.weight", "vision.patch_embed.kernel", "w c r s -> r s c w"),
        Rule(VISUAL + "patch_embed.proj.bias", "vision.patch_embed.bias", "w"),
        Rule(VISUAL + "rope.freqs_{part:cos|sin}", "vision.rope.{part}", "n f"),
        Tie(
            BLOCK + "attn.rope.freqs_{part:cos|sin}",
            VISUAL + "rope.freqs_{part}",
            "every block registers the same rotary table",
        ),
        *(Rule(BLOCK + "norm{n}" + s, target + "norm{n}" + t, "w") for s, t in NORM),
        Rule(BLOCK + "attn.q_proj.weight", target + "attention.query.kernel", "(k f) w -> w k f"),
        Rule(BLOCK + "attn.k_proj.weight", target + "attention.key.kernel", "(k f) w -> w k f"),
        Rule(BLOCK + "attn.v_proj.weight", target + "attention.value.kernel", "(k f) w -> w k f"),
        Rule(BLOCK + "attn.q_bias", target + "attention.query.bias", "(k f) -> k f"),
        Rule(BLOCK + "attn.v_bias", target + "attention.value.bias", "(k f) -> k f"),
        *(Rule(BLOCK + "attn.inner_attn_ln" + s, target + "attention.norm" + t, "w") for s, t in NORM),
        # Two axes of one size: w is what goes in, u what comes out.
        Rule(BLOCK + "attn.proj.weight", target + "attention.out.kernel", "u w -> w u"),
        Rule(BLOCK + "attn.proj.bias", target + "attention.out.bias", "u"),
        Rule(BLOCK + "mlp.w1.weight", target + "mlp.gate.kernel", "m2 w -> w m2"),
        Rule(BLOCK + "mlp.w1.bias", target + "mlp.gate.bias", "m2"),
        Rule(BLOCK + "mlp.w2.weight", target + "mlp.up.kernel", "m2 w -> w m2"),
        Rule(BLOCK + "mlp.w2.bias", target + "mlp.up.bias", "m2"),
        *(Rule(BLOCK + "mlp.ffn_ln" + s, target + "mlp.norm" + t, "m2") for s, t in NORM),
        Rule(BLOCK + "mlp.w3.weight", target + "mlp.down.kernel", "w m2 -> m2 w"),
        Rule(BLOCK + "mlp.w3.bias", target + "mlp.down.bias", "w"),
        Rule("visual_proj.weight", "visual_projection.kernel", "u w -> w u"),
        Rule("visual_proj.bias", "visual_projection.bias", "u"),
        Drop("bge_pooler.dense.{:weight|bias}", "the next-sentence pooler: embeddings are pooled without it"),
        Drop("model_visual.logit_scale", "the image tower's contrastive temperature: a training-time scalar"),
        Drop(VISUAL + "norm.{:weight|bias}", "the tower's final norm: its raw residual stream is fused"),
        Drop(VISUAL + "head.{:weight|bias}", "the tower's contrastive head: its patch tokens are fused"),
    )


def axes(config: VisualizedBGEConfig) -> Mapping[str, int]:
    """Give the sizes of the axes that the layouts name."""
    vision = config.vision
    return {
        **bert.axes(config.text),
        "c": vision.channels,
        "r": vision.patch_size,
        "s": vision.patch_size,
        "n": vision.patches,
        "t": vision.patches + 1,
        "w": vision.width,
        "u": vision.width,
        "k": vision.heads,
        "f": vision.head_dim,
        "m2": vision.mlp_width,
    }

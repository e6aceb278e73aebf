"""The parts of SiglipModel: two towers of CLIP's kind, each with a head of its own, and what scores them.

Axes as in `clip/rules.py`; of the text tower's head o what comes out; n the one number of scale and bias.
"""

from dataclasses import replace

from ...validation.probe import LOUD, LOW_VARIANCE, exponent
from ..clip.config import TRANSFORMERS
from ..clip.rules import NAMES, SHORT, norm, norm_shapes, tower
from ..family import Rule, Rules, Split
from ..parts import Part, join
from .config import SiglipConfig, TextConfig, VisionConfig

LAYOUT = NAMES[TRANSFORMERS]
HEADS = {"q": "query", "k": "key", "v": "value"}


def whole(config: SiglipConfig) -> Part:
    """Declare the whole checkpoint."""
    layout = NAMES[config.names]
    parts = [_text(config.text).mounted(layout.text, "text.")] if config.text else []
    parts += [_vision(config.vision).mounted(layout.vision, "vision.")] if config.vision else []
    if config.text and config.vision:
        names = ("logit_scale", "logit_bias")
        rules = tuple(Rule(name, name, "n") for name in names)
        draws = {"logit_scale": (2.3, 0.0), "logit_bias": (-10.0, 0.0)}
        parts.append(Part(rules, {"n": 1}, dict.fromkeys(names, (1,)), draws=draws))
    return join(*parts)


def _text(config: TextConfig) -> Part:
    width, positions, out = config.hidden_size, config.max_position_embeddings, config.projection_size
    word, position, *_ = LAYOUT.tables
    rules = (
        Rule(word, "word.embedding", "v e"),
        Rule(position, "position.embedding", "p e"),
        *norm("final_layer_norm", "norm"),
        Rule("head.weight", "head.kernel", "o e -> e o"),
        Rule("head.bias", "head.bias", "o"),
    )
    shapes = {word: (config.vocab_size, width), position: (positions, width), **norm_shapes("final_layer_norm", width)}
    shapes |= {"head.weight": (out, width), "head.bias": (out,)}
    sizes = {"v": config.vocab_size, "p": positions, "o": out}
    part = tower(config, LAYOUT, rules, sizes, shapes, ("word.embedding", "position.embedding"))
    short = dict.fromkeys(("head.kernel", "head.bias"), SHORT)
    return replace(part, probes={**part.probes, LOW_VARIANCE: {**part.probes[LOW_VARIANCE], **short}})


def _vision(config: VisionConfig) -> Part:
    width, inner, side = config.hidden_size, config.intermediate_size, config.patch_size
    *_, patches, position = LAYOUT.tables
    head = "head.attention."
    own: Rules = tuple(
        rule
        for part, leaf in HEADS.items()
        for rule in (
            Rule(f"{head}{part}.weight", f"{head}{leaf}.kernel", "(heads d) e -> e heads d"),
            Rule(f"{head}{part}.bias", f"{head}{leaf}.bias", "(heads d) -> heads d"),
        )
    )
    rules: Rules = (
        Rule(patches, "patch_embed.kernel", "e c r s -> r s c e"),
        Rule("embeddings.patch_embedding.bias", "patch_embed.bias", "e"),
        Rule(position, "position.embedding", "p e"),
        *norm("post_layernorm", "post_norm"),
        Rule("head.probe", "head.probe", "1 1 e -> e"),
        Split(f"{head}in_proj_weight", tuple(f"{head}{part}.weight" for part in HEADS), "(q heads d) e", "q"),
        Split(f"{head}in_proj_bias", tuple(f"{head}{part}.bias" for part in HEADS), "(q heads d)", "q"),
        *own,
        Rule(f"{head}out_proj.weight", f"{head}out.kernel", "e (heads d) -> heads d e"),
        Rule(f"{head}out_proj.bias", f"{head}out.bias", "e"),
        *norm("head.layernorm", "head.norm"),
        Rule("head.mlp.fc1.weight", "head.mlp.up.kernel", "m e -> e m"),
        Rule("head.mlp.fc1.bias", "head.mlp.up.bias", "m"),
        Rule("head.mlp.fc2.weight", "head.mlp.down.kernel", "e m -> m e"),
        Rule("head.mlp.fc2.bias", "head.mlp.down.bias", "e"),
    )
    shapes = {
        patches: (width, config.num_channels, side, side),
        "embeddings.patch_embedding.bias": (width,),
        position: (config.patches, width),
        **norm_shapes("post_layernorm", width),
        "head.probe": (1, 1, width),
        f"{head}in_proj_weight": (3 * width, width),
        f"{head}in_proj_bias": (3 * width,),
        f"{head}out_proj.weight": (width, width),
        f"{head}out_proj.bias": (width,),
        **norm_shapes("head.layernorm", width),
        "head.mlp.fc1.weight": (inner, width),
        "head.mlp.fc1.bias": (inner,),
        "head.mlp.fc2.weight": (width, inner),
        "head.mlp.fc2.bias": (width,),
    }
    sizes = {"p": config.patches, "c": config.num_channels, "r": side, "s": side}
    inputs = ("patch_embed.kernel", "patch_embed.bias", "position.embedding")
    part = tower(config, LAYOUT, rules, sizes, shapes, inputs)
    small = exponent(config.layer_norm_eps)
    biases = ("attention.value", "attention.out", "mlp.up", "mlp.down")
    low = {**part.probes[LOW_VARIANCE], **{f"head.{name}.bias": small for name in biases}}
    # What the head gives is not short where its norm's epsilon shows: the division by its length is told apart here.
    loud = {**part.probes[LOUD], **dict.fromkeys(("head.attention.out.*", "head.mlp.down.*"), SHORT - 8)}
    return replace(part, probes={**part.probes, LOW_VARIANCE: low, LOUD: loud})

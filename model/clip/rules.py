"""The parts of CLIPModel: two towers of one kind, and what projects them into one space.

Axes of a tower: e width, d head width, m inner width, p positions, v vocabulary, c channels, r and s patch rows and
columns; of both projections: t and i what comes in, o what comes out.
"""

from ...validation.probe import LOUD, LOW_VARIANCE, MASKED, exponent
from ..bert.probes import ALIKE, APART, LOUDER
from ..family import Drop, Rule, Rules, Shapes
from ..parts import Part, join
from .config import ClipConfig, TextConfig, TowerConfig, VisionConfig

NORM = ((".weight", ".scale"), (".bias", ".bias"))
LAYER, BLOCK = "encoder.layers.{i}.", "blocks.{i}."
DENSE = {"mlp.fc1": ("mlp.up", "m e -> e m", "m"), "mlp.fc2": ("mlp.down", "e m -> m e", "e")}
POSITIONS = Drop("embeddings.position_ids", "a buffer that counts 0, 1, 2, ...; it holds no weights")
TABLE = (0.0, 0.3)
SHORT = -40
"""Power of two for what gives an embedding its length: were the last division to have an epsilon, it would show."""


def whole(config: ClipConfig) -> Part:
    """Declare the whole checkpoint."""
    text = _text(config.text).mounted("text_model.", "text.")
    return join(text, _vision(config.vision).mounted("vision_model.", "vision."), _projections(config))


def _projections(config: ClipConfig) -> Part:
    text, vision, out = config.text.hidden_size, config.vision.hidden_size, config.projection_dim
    rules = (
        Rule("text_projection.weight", "text_projection.kernel", "o t -> t o"),
        Rule("visual_projection.weight", "visual_projection.kernel", "o i -> i o"),
        Rule("logit_scale", "logit_scale", ""),
    )
    shapes = {"logit_scale": (), "visual_projection.weight": (out, vision), "text_projection.weight": (out, text)}
    probes = {LOW_VARIANCE: dict.fromkeys(("text_projection.kernel", "visual_projection.kernel"), SHORT)}
    return Part(rules, {"t": text, "i": vision, "o": out}, shapes, probes, draws={"logit_scale": (2.6592, 0.0)})


def _text(config: TextConfig) -> Part:
    width, positions = config.hidden_size, config.max_position_embeddings
    rules = (
        Rule("embeddings.token_embedding.weight", "word.embedding", "v e"),
        Rule("embeddings.position_embedding.weight", "position.embedding", "p e"),
        *_norm("final_layer_norm", "norm"),
    )
    shapes = {
        "embeddings.token_embedding.weight": (config.vocab_size, width),
        "embeddings.position_embedding.weight": (positions, width),
        **_norm_shapes("final_layer_norm", width),
    }
    sizes = {"v": config.vocab_size, "p": positions}
    return _tower(config, rules, sizes, shapes, ("word.embedding", "position.embedding"), causal=True)


def _vision(config: VisionConfig) -> Part:
    width, positions, side = config.hidden_size, 1 + config.patches, config.patch_size
    rules = (
        Rule("embeddings.class_embedding", "class_embedding", "e"),
        Rule("embeddings.patch_embedding.weight", "patch_embed.kernel", "e c r s -> r s c e"),
        Rule("embeddings.position_embedding.weight", "position.embedding", "p e"),
        *_norm("pre_layrnorm", "pre_norm"),
        *_norm("post_layernorm", "post_norm"),
    )
    shapes = {
        "embeddings.class_embedding": (width,),
        "embeddings.patch_embedding.weight": (width, config.num_channels, side, side),
        "embeddings.position_embedding.weight": (positions, width),
        **_norm_shapes("pre_layrnorm", width),
        **_norm_shapes("post_layernorm", width),
    }
    sizes = {"p": positions, "c": config.num_channels, "r": side, "s": side}
    inputs = ("class_embedding", "patch_embed.kernel", "position.embedding")
    return _tower(config, rules, sizes, shapes, inputs, causal=False)


def _tower(
    config: TowerConfig, rules: Rules, sizes: dict[str, int], shapes: Shapes, inputs: tuple[str, ...], *, causal: bool
) -> Part:
    """Declare the blocks beside what is the tower's own; `inputs` are the leaves that its stream begins with."""
    width, inner = config.hidden_size, config.intermediate_size
    own = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}
    blocks: Rules = (
        *_norm(LAYER + "layer_norm{n}", BLOCK + "norm{n}"),
        *(
            Rule(f"{LAYER}self_attn.{n}.weight", f"{BLOCK}attention.{leaf}.kernel", "(heads d) e -> e heads d")
            for n, leaf in own.items()
        ),
        *(
            Rule(f"{LAYER}self_attn.{n}.bias", f"{BLOCK}attention.{leaf}.bias", "(heads d) -> heads d")
            for n, leaf in own.items()
        ),
        Rule(LAYER + "self_attn.out_proj.weight", BLOCK + "attention.out.kernel", "e (heads d) -> heads d e"),
        Rule(LAYER + "self_attn.out_proj.bias", BLOCK + "attention.out.bias", "e"),
        *(Rule(f"{LAYER}{n}.weight", f"{BLOCK}{leaf}.kernel", layout) for n, (leaf, layout, _) in DENSE.items()),
        *(Rule(f"{LAYER}{n}.bias", f"{BLOCK}{leaf}.bias", axis) for n, (leaf, _, axis) in DENSE.items()),
        POSITIONS,
    )
    every = dict(shapes)
    for i in range(config.num_hidden_layers):
        layer = f"encoder.layers.{i}."
        every |= _norm_shapes(layer + "layer_norm1", width) | _norm_shapes(layer + "layer_norm2", width)
        for name in (*own, "out_proj"):
            every |= {f"{layer}self_attn.{name}.weight": (width, width), f"{layer}self_attn.{name}.bias": (width,)}
        every |= {f"{layer}mlp.fc1.weight": (inner, width), f"{layer}mlp.fc1.bias": (inner,)}
        every |= {f"{layer}mlp.fc2.weight": (width, inner), f"{layer}mlp.fc2.bias": (width,)}
    heads = config.num_attention_heads
    axes = {"e": width, "heads": heads, "d": width // heads, "m": inner, **sizes}
    draws = {f"embeddings.{name}": TABLE for name in ("token_*", "position_*", "class_*")}
    return Part((*rules, *blocks), axes, every, _probes(config, inputs, causal=causal), draws=draws)


def _probes(config: TowerConfig, inputs: tuple[str, ...], *, causal: bool) -> dict[str, dict[str, int]]:
    """Make the tower's stream tiny; make its tokens alike and their scores large; let scores pass what masks."""
    small = exponent(config.layer_norm_eps)
    biases = ("attention.value", "attention.out", "mlp.up", "mlp.down")
    low_variance = {**dict.fromkeys(inputs, small), "*norm*": small}
    low_variance |= {f"blocks.*.{name}.bias": small for name in biases}
    loud = {**dict.fromkeys(inputs, ALIKE), "blocks.*.attention.query.*": LOUDER}
    masked = {MASKED: {"blocks.0.attention.query.*": APART}} if causal else {}
    return {LOW_VARIANCE: low_variance, LOUD: loud, **masked}


def _norm(source: str, target: str) -> tuple[Rule, ...]:
    return tuple(Rule(source + s, target + t, "e") for s, t in NORM)


def _norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{part}": (width,) for part in ("weight", "bias")}

"""The parts of CLIP: two towers of one kind, and what projects them into one space.

Names are transformers' or open_clip's, which packs queries, keys and values, and holds its projections the other way
round. Axes of a tower: e width, d head width, m inner width, p positions, v vocabulary, c channels, r and s patch rows
and columns; of both projections: t and i what comes in, o what comes out.
"""

from dataclasses import dataclass, replace

from ...validation.probe import LOUD, LOW_VARIANCE, MASKED, exponent
from ..bert.probes import ALIKE, APART, LOUDER
from ..family import Drop, Rule, Rules, Shapes, Split
from ..parts import Part, join
from .config import BARE, OPEN_CLIP, TRANSFORMERS, ClipConfig, TextConfig, TowerConfig, VisionConfig

NORM = ((".weight", ".scale"), (".bias", ".bias"))
BLOCK = "blocks.{i}."
HEADS = {"q": "query", "k": "key", "v": "value"}
POSITIONS = Drop("embeddings.position_ids", "a buffer that counts 0, 1, 2, ...; it holds no weights")
JIT = Drop("{:input_resolution|context_length|vocab_size}", "a number that OpenAI's archives keep beside the weights")
TABLE = (0.0, 0.3)
UNPOOLED = "the norm of the class token's pooled state, which nothing takes: the states of all tokens do not pass it"
SHORT = -40
"""Power of two for what gives an embedding its length: were the last division to have an epsilon, it would show."""


@dataclass(frozen=True)
class Names:
    """What a layout calls the tensors.

    Args:
        text: what stands before those of the text tower.
        vision: of the image tower.
        tables: of the text tower's words and positions, then the image tower's class token, patches and positions.
        norms: of the text tower's norm, then the image tower's before and after its blocks.
        projections: of text and image, with what their layouts are.
        layer: what stands before those of a block.
        block: of a block's norms, its attention's projection out, and its feed-forward part.
        packed: whether queries, keys and values are one tensor, behind this name; "" where each has one of its own.
        own: names of these three, where they have one of their own, or once they are cut apart.
        dropped: what holds no weights; in a tower, then beside them.
    """

    text: str
    vision: str
    tables: tuple[str, str, str, str, str]
    norms: tuple[str, str, str]
    projections: tuple[tuple[str, str], tuple[str, str]]
    layer: str
    block: tuple[str, str, str, str, str]
    packed: str
    own: tuple[str, str, str]
    dropped: tuple[Rules, Rules] = ((), ())


NAMES = {
    TRANSFORMERS: Names(
        "text_model.",
        "vision_model.",
        (
            *("embeddings.token_embedding.weight", "embeddings.position_embedding.weight"),
            *("embeddings.class_embedding", "embeddings.patch_embedding.weight"),
            "embeddings.position_embedding.weight",
        ),
        ("final_layer_norm", "pre_layrnorm", "post_layernorm"),
        (("text_projection.weight", "o t -> t o"), ("visual_projection.weight", "o i -> i o")),
        "encoder.layers.{i}.",
        ("layer_norm1", "layer_norm2", "self_attn.out_proj", "mlp.fc1", "mlp.fc2"),
        "",
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ((POSITIONS,), ()),
    ),
    OPEN_CLIP: Names(
        "",
        "visual.",
        ("token_embedding.weight", "positional_embedding", "class_embedding", "conv1.weight", "positional_embedding"),
        ("ln_final", "ln_pre", "ln_post"),
        (("text_projection", "t o"), ("visual.proj", "i o")),
        "transformer.resblocks.{i}.",
        ("ln_1", "ln_2", "attn.out_proj", "mlp.c_fc", "mlp.c_proj"),
        "attn.in_proj",
        ("attn.q", "attn.k", "attn.v"),
        ((), (JIT,)),
    ),
}


NAMES[BARE] = replace(NAMES[TRANSFORMERS], text="", vision="")


def whole(config: ClipConfig) -> Part:
    """Declare the whole checkpoint."""
    names = NAMES[config.names]
    parts = [text(config.text, names).mounted(names.text, "text.")] if config.text else []
    parts += [vision(config.vision, names).mounted(names.vision, "vision.")] if config.vision else []
    return join(*parts, _projections(config, names))


def _projections(config: ClipConfig, names: Names) -> Part:
    """Declare what stands beside the towers; nothing, beside one without a projection."""
    out, draws = config.projection_dim, {}
    shapes: dict[str, tuple[int, ...]] = {}
    sizes, rules, small = {"o": out}, list(names.dropped[1]), {}
    for tower, axis, leaf, (name, layout) in zip(
        (config.text, config.vision), "ti", ("text_projection", "visual_projection"), names.projections, strict=True
    ):
        if tower and out:
            rules.append(Rule(name, f"{leaf}.kernel", layout))
            sizes[axis], small[f"{leaf}.kernel"] = tower.hidden_size, SHORT
            shapes[name] = tuple(sizes[part] for part in layout.split()[:2])
    if config.text and config.vision:
        rules.append(Rule("logit_scale", "logit_scale", ""))
        shapes["logit_scale"], draws["logit_scale"] = (), (2.6592, 0.0)
    return Part(tuple(rules), sizes, shapes, {LOW_VARIANCE: small} if small else {}, draws=draws)


def text(config: TextConfig, names: Names) -> Part:
    """Declare the text tower."""
    width, positions = config.hidden_size, config.max_position_embeddings
    word, position, *_ = names.tables
    rules = (
        Rule(word, "word.embedding", "v e"),
        Rule(position, "position.embedding", "p e"),
        *norm(names.norms[0], "norm"),
    )
    shapes = {word: (config.vocab_size, width), position: (positions, width), **norm_shapes(names.norms[0], width)}
    sizes = {"v": config.vocab_size, "p": positions}
    return tower(config, names, rules, sizes, shapes, ("word.embedding", "position.embedding"))


def vision(config: VisionConfig, names: Names, *, pools: bool = True) -> Part:
    """Declare the image tower; without `pools`, nothing reads the norm of the class token's state."""
    width, positions, side = config.hidden_size, 1 + config.patches, config.patch_size
    *_, first, patches, position = names.tables
    _, before, after = names.norms
    rules = (
        Rule(first, "class_embedding", "e"),
        Rule(patches, "patch_embed.kernel", "e c r s -> r s c e"),
        Rule(position, "position.embedding", "p e"),
        *norm(before, "pre_norm"),
        *(norm(after, "post_norm") if pools else (Drop(after + ".{:weight|bias}", UNPOOLED),)),
    )
    shapes = {
        first: (width,),
        patches: (width, config.num_channels, side, side),
        position: (positions, width),
        **norm_shapes(before, width),
        **norm_shapes(after, width),
    }
    sizes = {"p": positions, "c": config.num_channels, "r": side, "s": side}
    inputs = ("class_embedding", "patch_embed.kernel", "position.embedding")
    return tower(config, names, rules, sizes, shapes, inputs)


def tower(
    config: TowerConfig,
    names: Names,
    rules: Rules,
    sizes: dict[str, int],
    shapes: Shapes,
    inputs: tuple[str, ...],
) -> Part:
    """Declare the blocks beside what is the tower's own; `inputs` are the leaves that its stream begins with."""
    width, inner, layer = config.hidden_size, config.intermediate_size, names.layer
    norm1, norm2, out, up, down = names.block
    own = tuple(zip(names.own, HEADS.values(), strict=True))
    packed: Rules = (
        Split(f"{layer}{names.packed}_weight", tuple(f"{layer}{n}.weight" for n in names.own), "(q heads d) e", "q"),
        Split(f"{layer}{names.packed}_bias", tuple(f"{layer}{n}.bias" for n in names.own), "(q heads d)", "q"),
    )
    blocks: Rules = (
        *norm(layer + norm1, BLOCK + "norm1"),
        *norm(layer + norm2, BLOCK + "norm2"),
        *(packed if names.packed else ()),
        *(Rule(f"{layer}{n}.weight", f"{BLOCK}attention.{leaf}.kernel", "(heads d) e -> e heads d") for n, leaf in own),
        *(Rule(f"{layer}{n}.bias", f"{BLOCK}attention.{leaf}.bias", "(heads d) -> heads d") for n, leaf in own),
        Rule(f"{layer}{out}.weight", BLOCK + "attention.out.kernel", "e (heads d) -> heads d e"),
        Rule(f"{layer}{out}.bias", BLOCK + "attention.out.bias", "e"),
        Rule(f"{layer}{up}.weight", BLOCK + "mlp.up.kernel", "m e -> e m"),
        Rule(f"{layer}{down}.weight", BLOCK + "mlp.down.kernel", "e m -> m e"),
        Rule(f"{layer}{up}.bias", BLOCK + "mlp.up.bias", "m"),
        Rule(f"{layer}{down}.bias", BLOCK + "mlp.down.bias", "e"),
        *names.dropped[0],
    )
    every = dict(shapes)
    for i in range(config.num_hidden_layers):
        place = layer.format(i=i)
        every |= norm_shapes(place + norm1, width) | norm_shapes(place + norm2, width)
        if names.packed:
            every |= {f"{place}{names.packed}_weight": (3 * width, width), f"{place}{names.packed}_bias": (3 * width,)}
        for name in (*(() if names.packed else names.own), out):
            every |= {f"{place}{name}.weight": (width, width), f"{place}{name}.bias": (width,)}
        every |= {f"{place}{up}.weight": (inner, width), f"{place}{up}.bias": (inner,)}
        every |= {f"{place}{down}.weight": (width, inner), f"{place}{down}.bias": (width,)}
    heads = config.num_attention_heads
    axes = {"e": width, "heads": heads, "d": width // heads, "m": inner, **sizes}
    draws = dict.fromkeys((name for name in shapes if name in names.tables and name != names.tables[3]), TABLE)
    return Part((*rules, *blocks), axes, every, _probes(config, inputs), draws=draws)


def _probes(config: TowerConfig, inputs: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Make the tower's stream tiny; make its tokens alike and their scores large; let scores pass what masks."""
    small = exponent(config.layer_norm_eps)
    biases = ("attention.value", "attention.out", "mlp.up", "mlp.down")
    low_variance = {**dict.fromkeys(inputs, small), "*norm*": small}
    low_variance |= {f"blocks.*.{name}.bias": small for name in biases}
    loud = {**dict.fromkeys(inputs, ALIKE), "blocks.*.attention.query.*": LOUDER}
    # Of patches none is masked, but so far apart the least score is no largest one.
    return {LOW_VARIANCE: low_variance, LOUD: loud, MASKED: {"blocks.0.attention.query.*": APART}}


def norm(source: str, target: str) -> tuple[Rule, ...]:
    """Declare a norm."""
    return tuple(Rule(source + s, target + t, "e") for s, t in NORM)


def norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    """Give names and shapes of a norm's tensors."""
    return {f"{name}.{part}": (width,) for part in ("weight", "bias")}

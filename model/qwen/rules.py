"""The parts of a Qwen2 or Qwen3 checkpoint: a decoder, and what scores words or makes one vector of a text.

Axes: e width, d head width, m inner width, v vocabulary; heads of queries, kv_heads of keys and values.
"""

from ...validation.probe import LOW_VARIANCE, MASKED, exponent
from .. import steps
from ..bert.probes import APART
from ..clip.rules import TABLE
from ..family import Drop, Rule, Tie
from ..parts import Part, join
from .config import HEAD, NONE, OWN, QWEN3, TIED, WORDS, QwenConfig

LAYER, BLOCK = "layers.{i}.", "blocks.{i}."
HEADS = {"query": ("q", "heads"), "key": ("k", "kv_heads"), "value": ("v", "kv_heads")}
DENSE = {"gate": "m e -> e m", "up": "m e -> e m", "down": "e m -> m e"}
NORMS = {"input_layernorm": "norm1", "post_attention_layernorm": "norm2"}
QK_NORMS = {"q_norm": "query_norm", "k_norm": "key_norm"}


def whole(config: QwenConfig) -> Part:
    """Declare the whole checkpoint."""
    parts = [decoder(config).mounted(config.prefix, "text.", ""), head(config)]
    if config.pipeline:
        parts.append(steps.part(config.pipeline).mounted(target="text.", axes="pipeline."))
    return join(*parts)


def decoder(config: QwenConfig) -> Part:
    """Declare the decoder, by the names that transformers gives it."""
    width, inner, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
    normed = QK_NORMS if config.model_type == QWEN3 else {}
    rules = [Rule(WORDS, "word.embedding", "v e"), Rule("norm.weight", "norm.scale", "e")]
    shapes: dict[str, tuple[int, ...]] = {WORDS: (config.vocab_size, width), "norm.weight": (width,)}
    of_layer: dict[str, tuple[int, ...]] = {}

    def add(name: str, target: str, layout: str, *shape: int) -> None:
        rules.append(Rule(LAYER + name, BLOCK + target, layout))
        of_layer[name] = shape

    for name, leaf in NORMS.items():
        add(f"{name}.weight", f"{leaf}.scale", "e", width)
    rows = {"heads": config.num_attention_heads * head_dim, "kv_heads": config.num_key_value_heads * head_dim}
    for leaf, (name, heads) in HEADS.items():
        layout = f"({heads} d) e -> e {heads} d"
        add(f"self_attn.{name}_proj.weight", f"attention.{leaf}.kernel", layout, rows[heads], width)
        if leaf in config.biased:
            layout = f"({heads} d) -> {heads} d"
            add(f"self_attn.{name}_proj.bias", f"attention.{leaf}.bias", layout, rows[heads])
    add("self_attn.o_proj.weight", "attention.out.kernel", "e (heads d) -> heads d e", width, rows["heads"])
    if "out" in config.biased:
        add("self_attn.o_proj.bias", "attention.out.bias", "e", width)
    for name, leaf in normed.items():
        add(f"self_attn.{name}.weight", f"attention.{leaf}.scale", "d", head_dim)
    for name, layout in DENSE.items():
        shape = (width, inner) if name == "down" else (inner, width)
        add(f"mlp.{name}_proj.weight", f"mlp.{name}.kernel", layout, *shape)
    for i in range(config.num_hidden_layers):
        shapes |= {LAYER.format(i=i) + name: shape for name, shape in of_layer.items()}
    sizes = {"e": width, "m": inner, "d": head_dim, "v": config.vocab_size}
    sizes |= {"heads": config.num_attention_heads, "kv_heads": config.num_key_value_heads}
    parallel = ("heads", "kv_heads", "m", "v")
    return Part(tuple(rules), sizes, shapes, _probes(config), draws={WORDS: TABLE}, parallel=parallel)


def _probes(config: QwenConfig) -> dict[str, dict[str, int]]:
    """Say what to scale so that epsilons and masks decide. Normalised queries are as large as their norm's scale.

    Tokens cannot be made alike where nothing is added to what is normalised, and scores that are merely loud multiply
    what rounding costs: here they are so far apart that one token is all that counts, and exp() overflows.
    """
    small, normed = exponent(config.rms_norm_eps), config.model_type == QWEN3
    stream = {"word.embedding": small, "blocks.*.attention.out.*": small, "blocks.*.mlp.down.kernel": small}
    heads = dict.fromkeys(("blocks.*.attention.query.*", "blocks.*.attention.key.*"), small) if normed else {}
    query = "attention.query_norm.scale" if normed else "attention.query.*"
    return {LOW_VARIANCE: {**stream, **heads}, MASKED: {f"blocks.*.{query}": APART}}


def head(config: QwenConfig) -> Part:
    """Declare what scores words: the words' own table, which files of PyTorch hold again, or one beside it."""
    if config.head == TIED:
        return Part(
            (Tie(HEAD, config.prefix + WORDS, "the head is the words' own table (tie_word_embeddings)"),), {}, {}
        )
    if config.head == NONE:
        return Part((Drop(HEAD, "it scores words, of which nobody asks where texts are embedded"),), {}, {})
    assert config.head == OWN
    sizes = {"v": config.vocab_size, "e": config.hidden_size}
    shapes = {HEAD: (config.vocab_size, config.hidden_size)}
    part = Part((Rule(HEAD, "kernel", "v e -> e v"),), sizes, shapes, parallel=("v",))
    return part.mounted(target="head.")

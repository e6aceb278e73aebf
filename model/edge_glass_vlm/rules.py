"""The parts of a language model of Edge Glass's second stage: Qwen as its own family declares it, and what is around.

Axes of the recursion: e its width, d head width, m inner width, p places of the tables.
"""

import numpy as np

from ...validation.probe import LOW_VARIANCE, MASKED, exponent
from ..bert.probes import APART
from ..edge_glass.rules import linear
from ..family import Drop, Rule
from ..parts import Part, join
from ..qwen import rules as qwen
from .config import Recursion, VLMConfig

LAYER, BLOCK, TABLES = "trm_layers.{i}.", "trm.blocks.{i}.", "attention.rotary_emb."
UNREAD = "upstream's code never reads it"
DEAD = "it stands behind all that it could change, under a causal mask: no output depends on it"


def whole(config: VLMConfig) -> Part:
    """Declare the whole checkpoint."""
    hidden = config.qwen.hidden_size
    parts = [
        qwen.whole(config.qwen).mounted(config.place, "qwen."),
        linear(config.vision_token_dim, hidden).mounted("vision_proj.", "vision_proj."),
    ]
    if trm := config.trm:
        parts += [recursion(trm), _around(trm)]
        if trm.projected:
            parts.append(linear(hidden, trm.width).mounted("down_proj.", "trm.down."))
            parts.append(linear(trm.width, hidden).mounted("up_proj.", "trm.up."))
    return join(*parts)


def recursion(config: Recursion) -> Part:
    """Declare the layers of a recursion; the tables of positions are taken as they are stored, rounded or not."""
    width, inner = config.width, config.inner
    rules: list[Rule | Drop] = []
    of_layer: dict[str, tuple[int, ...]] = {}

    def add(name: str, target: str, layout: str, *shape: int) -> None:
        rules.append(Rule(LAYER + name, BLOCK + target, layout))
        of_layer[name] = shape

    for name, leaf in (("q", "query"), ("k", "key"), ("v", "value")):
        add(f"attention.{name}_proj.weight", f"attention.{leaf}.kernel", "(heads d) e -> e heads d", width, width)
    add("attention.o_proj.weight", "attention.out.kernel", "e (heads d) -> heads d e", width, width)
    for name, leaf in (("cos", "cosines"), ("sin", "sines")):
        add(f"{TABLES}{name}_cached", f"attention.{leaf}", "p d", config.max_seq_len, config.head_dim)
    for name, leaf, out, into in (("fc1", "up", inner, width), ("fc2", "down", width, inner)):
        layout = "m e -> e m" if name == "fc1" else "e m -> m e"
        add(f"mlp.{name}.weight", f"mlp.{leaf}.kernel", layout, out, into)
        add(f"mlp.{name}.bias", f"mlp.{leaf}.bias", layout.split()[0], out)
    for n in (1, 2):
        add(f"norm{n}.weight", f"norm{n}.scale", "e", width)
    rules.append(Drop(f"{LAYER}{TABLES}inv_freq", "the tables hold what it gives"))
    of_layer[f"{TABLES}inv_freq"] = (config.head_dim // 2,)
    layers = [LAYER.format(i=i) for i in range(config.num_layers)]
    tables = {f"{TABLES}{name}": table for name, table in _tables(config).items()}
    return Part(
        tuple(rules),
        {"e": width, "heads": config.num_heads, "d": config.head_dim, "m": inner, "p": config.max_seq_len},
        {layer + name: shape for layer in layers for name, shape in of_layer.items()},
        constants={layer + name: table for layer in layers for name, table in tables.items()},
        parallel=("heads", "m"),
    ).mounted(axes="trm.")


def _tables(config: Recursion) -> dict[str, np.ndarray]:
    """Compute what upstream stores of positions: both halves of a head turn by the same angles."""
    width = config.head_dim
    turns = (1 / 10000.0 ** (np.arange(0, width, 2) / width)).astype(np.float32)
    angles = np.tile(np.arange(config.max_seq_len, dtype=np.float32)[:, None] * turns, 2)
    return {"inv_freq": turns, "cos_cached": np.cos(angles), "sin_cached": np.sin(angles)}


def _around(config: Recursion) -> Part:
    """Declare what of the recursion nothing reads, and what to scale so that its norms' epsilon and its mask show.

    What is refined is as large as the language model's last norm, or as the projection makes it.
    """
    small, layer = exponent(config.layer_norm_eps), "trm.blocks.*."
    enters = "trm.down.*" if config.projected else "qwen.text.norm.scale"
    added = (f"{layer}attention.out.kernel", f"{layer}mlp.down.*")
    return Part(
        (Drop("z_init", DEAD), Drop("trm_norm.weight", UNREAD)),
        {},
        {"z_init": (1, 1, config.width), "trm_norm.weight": (config.width,)},
        {
            LOW_VARIANCE: dict.fromkeys((enters, *added), small),
            MASKED: {f"{layer}attention.query.kernel": APART},
        },
    )

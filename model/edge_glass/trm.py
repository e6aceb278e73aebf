"""The layers of Edge Glass's own decoder, alone or as what refines another's states: sizes, and what is declared.

Axes: e width, d head width, m inner width, p places of the tables.
"""

from dataclasses import dataclass

import numpy as np

from ..family import Drop, Rule
from ..parts import Part

LAYER, BLOCK, TABLES = "{i}.", "{i}.", "attention.rotary_emb."
QUERY, TABLE, INNER = "0.attention.q_proj.weight", "0.attention.rotary_emb.cos_cached", "0.mlp.fc1.weight"
"""What shows sizes, behind the place of the layers."""


@dataclass(frozen=True)
class TRM:
    """Layers with rotary positions from stored tables: what upstream calls a tiny recursive model.

    Args:
        width: of the layers.
        num_layers: how many there are.
        num_heads: of their attention.
        inner: inner width of their feed-forward part.
        max_seq_len: places of the stored tables of positions.
        layer_norm_eps: of their norms.
    """

    width: int
    num_layers: int
    num_heads: int
    inner: int
    max_seq_len: int
    layer_norm_eps: float

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.width // self.num_heads


def layers(config: TRM) -> Part:
    """Declare the layers; the tables of positions are taken as they are stored, rounded or not."""
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
    places = [LAYER.format(i=i) for i in range(config.num_layers)]
    tables = {f"{TABLES}{name}": table for name, table in _tables(config).items()}
    return Part(
        tuple(rules),
        {"e": width, "heads": config.num_heads, "d": config.head_dim, "m": inner, "p": config.max_seq_len},
        {layer + name: shape for layer in places for name, shape in of_layer.items()},
        constants={layer + name: table for layer in places for name, table in tables.items()},
        parallel=("heads", "m"),
    )


def _tables(config: TRM) -> dict[str, np.ndarray]:
    """Compute what upstream stores of positions: both halves of a head turn by the same angles."""
    width = config.head_dim
    turns = (1 / 10000.0 ** (np.arange(0, width, 2) / width)).astype(np.float32)
    angles = np.tile(np.arange(config.max_seq_len, dtype=np.float32)[:, None] * turns, 2)
    return {"inv_freq": turns, "cos_cached": np.cos(angles), "sin_cached": np.sin(angles)}

"""The parts of a language model of Edge Glass's second stage: Qwen as its family declares it, and what is around."""

from ...validation.probe import LOW_VARIANCE, MASKED, exponent
from ..bert.probes import APART
from ..edge_glass.rules import linear
from ..edge_glass.trm import layers
from ..family import Drop
from ..parts import Part, join
from ..qwen import rules as qwen
from .config import Recursion, VLMConfig

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
        parts += [layers(trm).mounted("trm_layers.", "trm.blocks.", "trm."), _around(trm)]
        if trm.projected:
            parts.append(linear(hidden, trm.width).mounted("down_proj.", "trm.down."))
            parts.append(linear(trm.width, hidden).mounted("up_proj.", "trm.up."))
    return join(*parts)


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

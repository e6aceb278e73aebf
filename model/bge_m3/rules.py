"""bge-m3's parts: the text encoder's, and two linear layers on the states of its tokens.

Axes of the heads: f what they take, w a token's weight, c a token's vector.
"""

from ...validation.probe import LOW_VARIANCE
from .. import steps
from ..bert import rules as bert
from ..family import Rule
from ..parts import Part, join
from .config import COLBERT, SPARSE, M3Config


def whole(config: M3Config) -> Part:
    """Declare the encoder's checkpoint and those of the heads beside it."""
    return join(bert.encoder(config), _heads(config), Part((bert.HEADS,), {}, {}))


def _heads(config: M3Config) -> Part:
    rules = (
        Rule(f"{SPARSE}.weight", "sparse.kernel", "w f -> f w"),
        Rule(f"{SPARSE}.bias", "sparse.bias", "w"),
        Rule(f"{COLBERT}.weight", "colbert.kernel", "c f -> f c"),
        Rule(f"{COLBERT}.bias", "colbert.bias", "c"),
    )
    shapes = {f"{SPARSE}.weight": (1, config.hidden_size), f"{SPARSE}.bias": (1,)}
    shapes |= {f"{COLBERT}.weight": (config.colbert_dim, config.hidden_size), f"{COLBERT}.bias": (config.colbert_dim,)}
    sizes = {"f": config.hidden_size, "w": 1, "c": config.colbert_dim}
    return Part(rules, sizes, shapes, {LOW_VARIANCE: {"colbert.*": steps.SMALL}})

"""A classifier's parts: the text encoder's, without a pooler that is only dropped, and the head's two layers.

Axes of the head: a what its first layer takes, b what it gives, l labels.
"""

from dataclasses import replace

from ...validation.probe import LOW_VARIANCE
from ..bert import rules as bert
from ..family import Rule
from ..parts import Part, join
from .config import POOLED, ClassifierConfig


def whole(config: ClassifierConfig) -> Part:
    """Declare a checkpoint of transformers' ...ForSequenceClassification, the encoder's prefix taken away."""
    text = bert.text(config)
    own = {name: shape for name, shape in text.checkpoint_shapes.items() if not name.startswith("pooler.")}
    kept = tuple(rule for rule in text.rules if config.head != POOLED or rule != bert.POOLER)
    # The head reads what the last norm gives: were that tiny too, its bias alone would be seen.
    low = {**text.probes[LOW_VARIANCE], f"layers.{config.num_hidden_layers - 1}.down_norm.*": 0}
    probes = {**text.probes, LOW_VARIANCE: low}
    return join(
        replace(text, rules=kept, checkpoint_shapes=own, probes=probes).mounted(target="text.", axes=""),
        _head(config),
        Part((bert.HEADS,), {}, {}),
    )


def _head(config: ClassifierConfig) -> Part:
    dense, out = config.head
    width, labels = config.hidden_size, len(config.labels)
    rules = (
        Rule(f"{dense}.weight", "dense.kernel", "b a -> a b"),
        Rule(f"{dense}.bias", "dense.bias", "b"),
        Rule(f"{out}.weight", "out.kernel", "l b -> b l"),
        Rule(f"{out}.bias", "out.bias", "l"),
    )
    shapes = {f"{dense}.weight": (width, width), f"{dense}.bias": (width,)}
    shapes |= {f"{out}.weight": (labels, width), f"{out}.bias": (labels,)}
    return Part(rules, {"a": width, "b": width, "l": labels}, shapes)

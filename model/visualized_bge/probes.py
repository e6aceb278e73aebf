"""What to scale so that the constants of both towers show, see `validation/probe.py`."""

from collections.abc import Mapping

from ...validation.probe import LOUD, LOW_VARIANCE, Exponents, exponent
from ..bert.probes import ALIKE, LOUDER
from .config import VisionConfig, VisualizedBGEConfig

INPUTS = ("cls_token", "position_embedding", "patch_embed.*")


def tower(config: VisionConfig) -> Mapping[str, Exponents]:
    """Give the probes of the image tower: its stream tiny; its tokens alike, and their scores large."""
    small = exponent(config.layer_norm_eps)
    biases = ("attention.value", "attention.out", "mlp.up", "mlp.down")
    low_variance = {
        **dict.fromkeys(INPUTS, small),
        "blocks.*.*norm*": small,
        **{f"blocks.*.{name}.bias": small for name in biases},
    }
    return {
        LOW_VARIANCE: low_variance,
        LOUD: {**dict.fromkeys(INPUTS, ALIKE), "blocks.*.attention.query.*": LOUDER},
    }


def projection(config: VisualizedBGEConfig) -> Mapping[str, Exponents]:
    """Give the probes of what leads from the image tower's stream, tiny by its own epsilon, to the text encoder's."""
    text, vision = exponent(config.text.layer_norm_eps), exponent(config.vision.layer_norm_eps)
    return {
        LOW_VARIANCE: {"visual_projection.kernel": text - vision, "visual_projection.bias": text},
        LOUD: {"visual_projection.*": ALIKE},
    }

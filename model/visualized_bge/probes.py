"""What to scale so that the constants of both towers show, see `validation/probe.py`."""

from collections.abc import Mapping

from ...validation.probe import LOUD, LOW_VARIANCE, MASKED, Exponents, exponent
from ..bert import probes as bert
from .config import VisualizedBGEConfig

BLOCK = "vision.blocks.*."
INPUTS = ("vision.cls_token", "vision.position_embedding", "vision.patch_embed.*")


def low_variance(config: VisualizedBGEConfig) -> Exponents:
    """Make the streams through both towers tiny, each by its own epsilon; the projection leads over."""
    text, vision = exponent(config.text.layer_norm_eps), exponent(config.vision.layer_norm_eps)
    biases = ("attention.value", "attention.out", "mlp.up", "mlp.down")
    return {
        **bert.low_variance(config.text),
        **dict.fromkeys(INPUTS, vision),
        f"{BLOCK}*norm*": vision,
        **{f"{BLOCK}{name}.bias": vision for name in biases},
        "visual_projection.kernel": text - vision,
        "visual_projection.bias": text,
    }


def loud(config: VisualizedBGEConfig) -> Exponents:
    """Make all tokens alike, those of the image too, and their scores large."""
    return {
        **bert.loud(config.text),
        **dict.fromkeys(INPUTS, bert.ALIKE),
        f"{BLOCK}attention.query.*": bert.LOUDER,
        "visual_projection.*": bert.ALIKE,
    }


def probes(config: VisualizedBGEConfig) -> Mapping[str, Exponents]:
    """Give the probes."""
    return {LOW_VARIANCE: low_variance(config), LOUD: loud(config), MASKED: bert.masked(config.text)}

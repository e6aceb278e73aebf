"""What to scale so that the constants of a text encoder show, see `validation/probe.py`."""

from collections.abc import Mapping

from ...validation.probe import LOUD, LOW_VARIANCE, MASKED, Exponents, exponent
from ..steps import before
from .config import BertConfig

ALIKE = -40
"""Power of two that leaves nothing of an embedding beside the epsilon of its norm: all tokens become the same."""

NEARLY = -10
"""Power of two, beside the epsilon's: tokens differ by a ten-thousandth. Were they the same, what float32 costs a
trained network, in which a few numbers are far larger than the others, would be one draw of luck."""

LOUDER = 8
"""Power of two for queries: scores near 1 become hundreds, where exp() overflows."""

APART = 24
"""Power of two for queries: scores near 1 become some ten million. So far apart are they that two of them, as near to
each other as rounding is large, are not to be expected."""


def low_variance(config: BertConfig) -> Exponents:
    """Make the stream through the text encoder tiny: embeddings, norms, and the biases that add to it."""
    small, layer = exponent(config.layer_norm_eps), "layers.*."
    biases = ("attention.value", "attention.out", "up", "down")
    return {
        "embeddings.*": small,
        f"{layer}*_norm.*": small,
        **{f"{layer}{name}.bias": small for name in biases},
        f"layers.{config.num_hidden_layers - 1}.down_norm.*": before(config.pipeline),
    }


def loud(config: BertConfig) -> Exponents:
    """Make all tokens nearly alike and their scores large."""
    return {"embeddings.*.embedding": exponent(config.layer_norm_eps) + NEARLY, "layers.*.attention.query.*": LOUDER}


def masked(config: BertConfig) -> Exponents:
    """Let scores pass what masks a token, in the first layer."""
    del config
    return {"layers.0.attention.query.*": APART}


def probes(config: BertConfig) -> Mapping[str, Exponents]:
    """Give the probes."""
    return {LOW_VARIANCE: low_variance(config), LOUD: loud(config), MASKED: masked(config)}

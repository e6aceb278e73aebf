"""What is declared of a model of `train_perceiver_v3.py`.

Axes: e width of the perceiver, d head width, m inner width, k latents.
"""

from typing import Any

from ...validation.probe import LOW_VARIANCE, exponent
from ..clip import rules as clip
from ..edge_glass.config import EPSILON
from ..edge_glass.rules import adapter, feed_forward, feed_forward_shapes, linear, norm
from ..family import Rule
from ..parts import Part, join
from ..steps import SMALL
from .config import ADAPTERS, V3Config

ATTENTIONS = {"cross_attn": "", "self_attn": "own."}
"""Upstream's name -> what stands before the leaves in a layer."""

NORMS = {"ln_q": "query_norm", "ln_kv": "source_norm"}
HEADS = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}


def whole(config: V3Config) -> Part:
    """Declare the whole checkpoint."""
    return join(
        adapter(config.vision, config.vision_inner, config.width).mounted(ADAPTERS["vision"], "vision."),
        adapter(config.text, config.text_inner, config.width).mounted(ADAPTERS["text"], "text."),
        _perceiver(config),
        norm(config.width).mounted("alignment_projector.proj.0.", "head.norm."),
        linear(config.width, config.out).mounted("alignment_projector.proj.1.", "head.linear."),
        Part((), {}, {}, {LOW_VARIANCE: {"head.linear.*": SMALL}}),
    )


def _perceiver(config: V3Config) -> Part:
    width, layer = config.width, "layers.{i}."
    rules: list[Any] = [
        Rule("latents", "latents", "k e"),
        *clip.norm("ln_out", "norm"),
        *clip.norm(f"{layer}ln_ffn", f"{layer}norm"),
    ]
    of_layer = {**clip.norm_shapes("ln_ffn", width), **feed_forward_shapes("ffn.net.", width, config.inner)}
    for source, target in ATTENTIONS.items():
        for name, leaf in NORMS.items():
            rules += clip.norm(f"{layer}{source}.{name}", f"{layer}{target}{leaf}")
            of_layer |= clip.norm_shapes(f"{source}.{name}", width)
        for name, leaf in HEADS.items():
            place, own = f"{layer}{source}.{name}", f"{layer}{target}attention.{leaf}"
            rules.append(Rule(f"{place}.weight", f"{own}.kernel", "(heads d) e -> e heads d"))
            rules.append(Rule(f"{place}.bias", f"{own}.bias", "(heads d) -> heads d"))
        place, own = f"{layer}{source}.out_proj", f"{layer}{target}attention.out"
        rules.append(Rule(f"{place}.weight", f"{own}.kernel", "e (heads d) -> heads d e"))
        rules.append(Rule(f"{place}.bias", f"{own}.bias", "e"))
        for name in (*HEADS, "out_proj"):
            of_layer |= {f"{source}.{name}.weight": (width, width), f"{source}.{name}.bias": (width,)}
    rules += feed_forward(f"{layer}ffn.net.", layer)
    shapes: dict[str, tuple[int, ...]] = {"latents": (config.num_latents, width), **clip.norm_shapes("ln_out", width)}
    for i in range(config.num_hidden_layers):
        shapes |= {f"layers.{i}.{name}": shape for name, shape in of_layer.items()}
    heads = config.num_heads
    sizes = {"k": config.num_latents, "e": width, "heads": heads, "d": width // heads, "m": config.inner}
    small = exponent(EPSILON)
    added = (f"layers.*.{name}" for name in ("*attention.out.bias", "mlp.up.bias", "mlp.down.bias"))
    probes = {LOW_VARIANCE: {"latents": small, "norm.*": small, "layers.*norm.*": small, **dict.fromkeys(added, small)}}
    part = Part(tuple(rules), sizes, shapes, probes, draws={"latents": (0.0, 0.5)})
    return part.mounted("perceiver.", "", "perceiver.")

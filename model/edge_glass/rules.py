"""The parts of an alignment model of Edge Glass: backbones as their own families declare them, and what is between.

Axes of what is between: i and m and o for what goes into a layer, is inside and comes out; of attention e width, d head
width.
"""

from ...validation.probe import LOW_VARIANCE, MASKED, exponent
from .. import steps
from ..bert import rules as bert
from ..bert.probes import APART
from ..clip import rules as clip
from ..clip.config import TRANSFORMERS
from ..clip.rules import NAMES, NORM, TABLE
from ..family import Drop, Rule, Rules, Split, Tie
from ..mpnet import rules as mpnet
from ..parts import Part, join
from ..whisper import rules as whisper
from .config import (
    CONCAT,
    CROSS,
    EPSILON,
    MULTIHEAD,
    POOLED_HEADS,
    PREFIX,
    SIMPLE,
    Audio,
    Decoder,
    EdgeGlassConfig,
    Fusion,
    Perceiver,
    Text,
    Vision,
)
from .trm import layers

Shape = dict[str, tuple[int, ...]]
DECODER = Drop("decoder.{:*}", "a language model: the alignment never feeds it, and no entry point here runs it")


def whole(config: EdgeGlassConfig) -> Part:
    """Declare the whole checkpoint."""
    parts = [_decoder(config.decoder) if config.decoder else Part((DECODER,), {}, {})]
    parts += [_vision(config.vision).mounted("vision_encoder.", "vision.")] if config.vision else []
    parts += [_text(config.text).mounted("text_encoder.", "text.")] if config.text else []
    parts += [_audio(config.audio).mounted("audio_encoder.", "audio.")] if config.audio else []
    parts += [_fusion(config, config.fusion).mounted("fusion.", "fusion.")] if config.fusion else []
    if config.prompt_dim:
        width = PREFIX * config.prompt_dim
        parts.append(adapter(config.prompted, width, width).mounted("llm_projector.projector.net.", "prompt."))
    return join(*parts)


def _decoder(config: Decoder) -> Part:
    """Declare upstream's own decoder of texts; the words' table scores them too."""
    words, shape = "embed_tokens.weight", (config.vocab_size, config.width)
    rules = (
        Rule(words, "word.embedding", "v e"),
        Rule("norm.weight", "norm.scale", "e"),
        Tie("lm_head.weight", words, "upstream scores words by their own table"),
    )
    small = exponent(config.layer_norm_eps)
    added = ("attention.out.kernel", "mlp.down.*")
    probes = {
        LOW_VARIANCE: {"word.embedding": small, **{f"blocks.*.{name}": small for name in added}},
        MASKED: {"blocks.*.attention.query.kernel": APART},
    }
    shapes: Shape = {words: shape, "norm.weight": (config.width,)}
    own = Part(rules, {"v": config.vocab_size, "e": config.width}, shapes, probes, draws={words: TABLE})
    return join(
        own.mounted("decoder.", "decoder.", "decoder.words."),
        layers(config).mounted("decoder.layers.", "decoder.blocks.", "decoder."),
    )


def _vision(config: Vision) -> Part:
    width, out, perceiver = config.tower.hidden_size, config.projection_dim, config.perceiver
    names = NAMES[config.names]
    tower = clip.vision(config.tower, names, pools=False).mounted(f"encoder.{names.vision}", "tower.")
    inside = perceiver.latent_dim if perceiver else out
    if config.adapter:
        projector = adapter(width, config.adapter, inside).mounted("projector.net.", "projector.")
    else:
        projector = linear(width, inside).mounted("projector.", "projector.")
    parts = [tower, projector]
    if perceiver:
        parts.append(_resampler(perceiver))
        if config.adapter:
            parts.append(norm(inside).mounted("final_projector.0.", "head.norm."))
        name = "final_projector.1." if config.adapter else "final_projector."
        parts.append(linear(inside, out).mounted(name, "head.linear."))
    elif config.pooling == SIMPLE:
        parts += _simple(out)
    elif config.pooling == MULTIHEAD:
        parts += _multihead(out)
    return join(*parts)


def _text(config: Text) -> Part:
    projector = linear(config.width, config.projection_dim).mounted("projector.", "projector.")
    if config.clip:
        return join(clip.text(config.clip, NAMES[TRANSFORMERS]).mounted(config.place, "clip."), projector)
    if config.bert:
        tower, kind, pipeline = bert.text(config.bert), "bert.", config.bert.pipeline
    else:
        assert config.mpnet
        tower, kind, pipeline = mpnet.text(config.mpnet), "mpnet.", config.mpnet.pipeline
    return join(join(tower, steps.part(pipeline)).mounted(config.place, kind), projector)


def _audio(config: Audio) -> Part:
    width, out, perceiver = config.tower.d_model, config.projection_dim, config.perceiver
    inside = perceiver.latent_dim if perceiver else out
    parts = [whisper.encoder(config.tower).mounted("encoder.", "tower.")]
    parts.append(linear(width, inside).mounted("projector.", "projector."))
    if perceiver:
        parts += [_resampler(perceiver), linear(inside, out).mounted("final_projector.", "head.linear.")]
    return join(*parts)


def _resampler(config: Perceiver) -> Part:
    """Declare a perceiver; keys stand before values in one tensor."""
    width, heads, layer, own = config.latent_dim, config.num_heads, "layers.{i}.", "layers.{i}.attention."
    rules: Rules = (
        Rule("latents", "latents", "k e"),
        *clip.norm("norm", "norm"),
        *(rule for n in (1, 2) for rule in clip.norm(f"{layer}norm{n}", f"{layer}norm{n}")),
        Rule(layer + "attn.to_q.weight", own + "query.kernel", "(heads d) e -> e heads d"),
        Split(layer + "attn.to_kv.weight", (layer + "attn.to_k", layer + "attn.to_v"), "(p heads d) e", "p"),
        Rule(layer + "attn.to_k", own + "key.kernel", "(heads d) e -> e heads d"),
        Rule(layer + "attn.to_v", own + "value.kernel", "(heads d) e -> e heads d"),
        Rule(layer + "attn.to_out.weight", own + "out.kernel", "e (heads d) -> heads d e"),
        Rule(layer + "attn.to_out.bias", own + "out.bias", "e"),
        *feed_forward(layer + "ff.net.", layer),
    )
    shapes: Shape = {"latents": (config.num_latents, width), **clip.norm_shapes("norm", width)}
    for i in range(config.num_layers):
        place = f"layers.{i}."
        shapes |= clip.norm_shapes(f"{place}norm1", width) | clip.norm_shapes(f"{place}norm2", width)
        shapes |= {f"{place}attn.to_q.weight": (width, width), f"{place}attn.to_kv.weight": (2 * width, width)}
        shapes |= {f"{place}attn.to_out.weight": (width, width), f"{place}attn.to_out.bias": (width,)}
        shapes |= feed_forward_shapes(f"{place}ff.net.", width, config.inner)
    sizes = {"k": config.num_latents, "e": width, "heads": heads, "d": width // heads, "m": config.inner}
    small = exponent(EPSILON)
    added = ("attention.out.bias", "mlp.up.bias", "mlp.down.bias")
    probes = {LOW_VARIANCE: {"latents": small, "*norm*": small, **{f"layers.*.{name}": small for name in added}}}
    return Part(rules, sizes, shapes, probes, draws={"latents": (0.0, 0.5)}).mounted("perceiver.", "resampler.")


def feed_forward(source: str, target: str) -> Rules:
    """Declare linear, gelu, linear; e what goes in and comes out, m what is inside."""
    return (
        Rule(source + "0.weight", target + "mlp.up.kernel", "m e -> e m"),
        Rule(source + "0.bias", target + "mlp.up.bias", "m"),
        Rule(source + "3.weight", target + "mlp.down.kernel", "e m -> m e"),
        Rule(source + "3.bias", target + "mlp.down.bias", "e"),
    )


def feed_forward_shapes(place: str, width: int, inner: int) -> Shape:
    """Give names and shapes of a feed-forward part."""
    up: Shape = {f"{place}0.weight": (inner, width), f"{place}0.bias": (inner,)}
    return up | {f"{place}3.weight": (width, inner), f"{place}3.bias": (width,)}


def _simple(width: int) -> list[Part]:
    unread = Part((Drop("query", "upstream's code never reads it"),), {}, {"query": (width,)})
    score = linear(width, 1).mounted("attn_proj.", "score.")
    return [
        part.mounted("attention_pool.", "pool.")
        for part in (unread, score, norm(width).mounted("layer_norm.", "norm."))
    ]


def _multihead(width: int) -> list[Part]:
    attention, sizes, shapes = _packed("attention.", "attention.", width, POOLED_HEADS)
    rules = (Rule("queries", "query", "1 1 e -> e"), *attention)
    part = Part(rules, sizes, {"queries": (1, 1, width), **shapes}, draws={"queries": (0.0, 0.5)})
    normed = norm(width).mounted("layer_norm.", "norm.")
    return [each.mounted("attention_pool.", "pool.") for each in (part, normed)]


def _packed(source: str, target: str, width: int, heads: int) -> tuple[Rules, dict[str, int], Shape]:
    """Declare an attention of torch.nn, whose queries, keys and values are one tensor."""
    parts = ("query", "key", "value")
    rules: list[Rule | Split] = []
    for kind, layout in (("weight", "(q heads d) e"), ("bias", "(q heads d)")):
        rules.append(Split(f"{source}in_proj_{kind}", tuple(f"{source}{name}.{kind}" for name in parts), layout, "q"))
    for name in parts:
        rules.append(Rule(f"{source}{name}.weight", f"{target}{name}.kernel", "(heads d) e -> e heads d"))
        rules.append(Rule(f"{source}{name}.bias", f"{target}{name}.bias", "(heads d) -> heads d"))
    rules.append(Rule(f"{source}out_proj.weight", f"{target}out.kernel", "e (heads d) -> heads d e"))
    rules.append(Rule(f"{source}out_proj.bias", f"{target}out.bias", "e"))
    shapes: Shape = {f"{source}in_proj_weight": (3 * width, width), f"{source}in_proj_bias": (3 * width,)}
    shapes |= {f"{source}out_proj.weight": (width, width), f"{source}out_proj.bias": (width,)}
    return tuple(rules), {"e": width, "heads": heads, "d": width // heads}, shapes


def _fusion(config: EdgeGlassConfig, fusion: Fusion) -> Part:
    widths = {name: getattr(config, name).projection_dim for name in config.modalities}
    out = fusion.fusion_dim
    if fusion.strategy == CONCAT:
        return join(
            linear(sum(widths.values()), fusion.inner).mounted("projector.0.", "up."),
            linear(fusion.inner, out).mounted("projector.3.", "down."),
            norm(out).mounted("projector.4.", "norm."),
        )
    parts = [linear(n, out).mounted(f"modality_projectors.{name}.", f"{name}.") for name, n in widths.items()]
    parts.append(norm(out).mounted("norm.", "norm."))
    if fusion.strategy != CROSS:
        return join(*parts, linear(len(widths) * out, len(widths)).mounted("gate.0.", "gate."))
    source, target = "fusion_layers.{i}.", "layers.{i}."
    attention, sizes, own = _packed(source + "self_attn.", target + "attention.", out, fusion.num_heads)
    norms = tuple(rule for n in (1, 2) for rule in clip.norm(f"{source}norm{n}", f"{target}norm{n}"))
    shapes: Shape = {}
    for i in range(fusion.num_layers):
        place = source.format(i=i)
        shapes |= {name.format(i=i): shape for name, shape in own.items()}
        shapes |= clip.norm_shapes(f"{place}norm1", out) | clip.norm_shapes(f"{place}norm2", out)
        shapes |= feed_forward_shapes(f"{place}ff.", out, fusion.inner)
    layers = Part((*attention, *norms, *feed_forward(source + "ff.", target)), {**sizes, "m": fusion.inner}, shapes)
    return join(*parts, layers)


def adapter(inputs: int, inner: int, outputs: int) -> Part:
    """Declare a norm, and two linear layers with gelu between."""
    return join(
        norm(inputs).mounted("0.", "norm."),
        linear(inputs, inner).mounted("1.", "up."),
        linear(inner, outputs).mounted("4.", "down."),
    )


def linear(inputs: int, outputs: int) -> Part:
    """Declare a linear layer: i what goes in, o what comes out."""
    rules = (Rule("weight", "kernel", "o i -> i o"), Rule("bias", "bias", "o"))
    return Part(rules, {"i": inputs, "o": outputs}, {"weight": (outputs, inputs), "bias": (outputs,)})


def norm(width: int) -> Part:
    """Declare a layer norm: e its width."""
    rules = tuple(Rule(source[1:], target[1:], "e") for source, target in NORM)
    return Part(rules, {"e": width}, {"weight": (width,), "bias": (width,)})

"""The parts of a Whisper checkpoint: an encoder of sound, and a decoder beside it.

Names are those of transformers' WhisperForConditionalGeneration, WhisperModel or WhisperEncoder, or ArrowEngine's. Axes
of either: e width, d head width, m inner width, p positions; of the encoder, b bands and k frames of a kernel, c what a
convolution gives; of the decoder, v vocabulary.
"""

from ...validation.probe import LOUD, LOW_VARIANCE, MASKED, exponent
from ..bert.probes import ALIKE, APART, LOUDER
from ..clip.rules import SHORT, norm, norm_shapes
from ..clip.rules import TABLE as DRAWN
from ..family import Rule, Rules, Tie
from ..parts import Part, join
from .config import ENCODER, EPSILON, PREFIXES, TABLE, Decoder, WhisperConfig

LAYER, BLOCK = "layers.{i}.", "blocks.{i}."
HEADS = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}
TOKENS, PLACES, HEAD = "embed_tokens.weight", "embed_positions.weight", "proj_out.weight"


def whole(config: WhisperConfig) -> Part:
    """Declare the whole checkpoint."""
    parts = [encoder(config).mounted(ENCODER[config.names], "encoder.")]
    if config.decoder:
        prefix = f"{PREFIXES[config.names]}decoder."
        parts += [_decoder(config, config.decoder).mounted(prefix, "decoder."), _head(config, config.decoder, prefix)]
    return join(*parts)


def encoder(config: WhisperConfig) -> Part:
    """Declare the encoder of sound."""
    width, inner = config.d_model, config.encoder_ffn_dim
    table = TABLE.get(config.names, PLACES)
    rules: list[Rule] = [
        Rule("conv1.weight", "conv1.kernel", "c b k -> k b c"),
        Rule("conv2.weight", "conv2.kernel", "c e k -> k e c"),
        *(Rule(f"conv{i}.bias", f"conv{i}.bias", "c") for i in (1, 2)),
        Rule(table, "position.embedding", "p e"),
        *norm("layer_norm", "norm"),
    ]
    shapes: dict[str, tuple[int, ...]] = {
        "conv1.weight": (width, config.num_mel_bins, 3),
        "conv1.bias": (width,),
        "conv2.weight": (width, width, 3),
        "conv2.bias": (width,),
        table: (config.max_source_positions, width),
        **norm_shapes("layer_norm", width),
    }
    own, more = _layers(config.encoder_layers, width, inner, ())
    heads = config.encoder_attention_heads
    sizes = {"e": width, "c": width, "b": config.num_mel_bins, "k": 3, "p": config.max_source_positions, "m": inner}
    sizes |= {"heads": heads, "d": width // heads}
    small = exponent(EPSILON)
    stream = dict.fromkeys(("conv2.*", "position.embedding"), small)
    alike = dict.fromkeys(("conv2.*", "position.embedding"), ALIKE)
    probes = {
        # What the last norm gives is short besides: were its division by a length to have an epsilon, it would show.
        LOW_VARIANCE: {**stream, "*norm*": small, "norm.*": SHORT - 8, **_added(small)},
        LOUD: {**alike, "blocks.*.attention.query.*": LOUDER},
    }
    return Part((*rules, *own), sizes, shapes | more, probes, draws={table: DRAWN})


def _decoder(config: WhisperConfig, decoder: Decoder) -> Part:
    width, inner = config.d_model, decoder.decoder_ffn_dim
    rules = (
        Rule(TOKENS, "word.embedding", "v e"),
        Rule(PLACES, "position.embedding", "p e"),
        *norm("layer_norm", "norm"),
    )
    shapes = {
        TOKENS: (decoder.vocab_size, width),
        PLACES: (decoder.max_target_positions, width),
        **norm_shapes("layer_norm", width),
    }
    own, more = _layers(decoder.decoder_layers, width, inner, (("encoder_attn", "cross", "cross_norm"),))
    heads = decoder.decoder_attention_heads
    sizes = {"e": width, "v": decoder.vocab_size, "p": decoder.max_target_positions, "m": inner}
    sizes |= {"heads": heads, "d": width // heads}
    small, inputs = exponent(EPSILON), ("word.embedding", "position.embedding")
    # What is heard is no small input, nor are the tokens before a step.
    heard = dict.fromkeys(("blocks.*.cross.out.*", "blocks.*.attention.out.*"), small)
    probes = {
        LOW_VARIANCE: {**dict.fromkeys(inputs, small), "*norm*": small, **_added(small), **heard},
        LOUD: {**dict.fromkeys(inputs, ALIKE), "blocks.*.attention.query.*": LOUDER, "blocks.*.cross.query.*": LOUDER},
        MASKED: {"blocks.0.attention.query.*": APART},
    }
    return Part((*rules, *own), sizes, shapes | more, probes, draws=dict.fromkeys((TOKENS, PLACES), DRAWN))


def _head(config: WhisperConfig, decoder: Decoder, prefix: str) -> Part:
    """Declare what scores words: the words' own table, which files of PyTorch hold again, or one beside it."""
    if decoder.head == "tied":
        return Part((Tie(HEAD, prefix + TOKENS, "the head is the words' own table (tie_word_embeddings)"),), {}, {})
    if decoder.head == "none":
        return Part((), {}, {})
    sizes = {"v": decoder.vocab_size, "e": config.d_model}
    part = Part((Rule(HEAD, "head.kernel", "v e -> e v"),), sizes, {HEAD: (decoder.vocab_size, config.d_model)})
    return part.mounted(target="decoder.", axes="head.")


def _layers(
    count: int, width: int, inner: int, beside: tuple[tuple[str, str, str], ...]
) -> tuple[Rules, dict[str, tuple[int, ...]]]:
    """Declare layers of attention to itself, to what is `beside` (name, leaf, norm), and a feed-forward part."""
    attentions = (("self_attn", "attention", "norm1"), *beside)
    norms = [(f"{name}_layer_norm", leaf) for name, _, leaf in attentions] + [("final_layer_norm", "norm2")]
    dense = {"fc1": ("up", "m e -> e m", (inner, width)), "fc2": ("down", "e m -> m e", (width, inner))}
    rules: list[Rule] = [rule for name, leaf in norms for rule in norm(LAYER + name, BLOCK + leaf)]
    for name, target, _ in attentions:
        for part, leaf in HEADS.items():
            place, into = f"{LAYER}{name}.{part}", f"{BLOCK}{target}.{leaf}"
            if target == "cross" and leaf != "query":
                into = f"sound.{{i}}.{leaf}"
            rules.append(Rule(f"{place}.weight", f"{into}.kernel", "(heads d) e -> e heads d"))
            rules += [] if leaf == "key" else [Rule(f"{place}.bias", f"{into}.bias", "(heads d) -> heads d")]
        rules += [
            Rule(f"{LAYER}{name}.out_proj.weight", f"{BLOCK}{target}.out.kernel", "e (heads d) -> heads d e"),
            Rule(f"{LAYER}{name}.out_proj.bias", f"{BLOCK}{target}.out.bias", "e"),
        ]
    for name, (leaf, layout, _) in dense.items():
        rules.append(Rule(f"{LAYER}{name}.weight", f"{BLOCK}mlp.{leaf}.kernel", layout))
        rules.append(Rule(f"{LAYER}{name}.bias", f"{BLOCK}mlp.{leaf}.bias", layout.split()[0]))
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(count):
        place = LAYER.format(i=i)
        for name, _ in norms:
            shapes |= norm_shapes(place + name, width)
        for name, _, _ in attentions:
            for part in (*HEADS, "out_proj"):
                shapes[f"{place}{name}.{part}.weight"] = (width, width)
                shapes |= {} if part == "k_proj" else {f"{place}{name}.{part}.bias": (width,)}
        for name, (_, _, shape) in dense.items():
            shapes |= {f"{place}{name}.weight": shape, f"{place}{name}.bias": shape[:1]}
    return tuple(rules), shapes


def _added(small: int) -> dict[str, int]:
    """Name the biases that the layers add to the stream."""
    parts = ("attention.value", "attention.out", "mlp.up", "mlp.down")
    return {f"blocks.*.{part}.bias": small for part in parts}

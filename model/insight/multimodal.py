"""Two towers, and what brings pictures and texts together. The text tower's decoder and the pictures' head are idle."""

from dataclasses import dataclass

from ...validation.entry_point import EntryPoint, TensorSpec
from ...validation.outputs import Embedding, Logits, Scores, States
from ..family import Drop, Rule
from ..parts import Part, join
from .entries import given, mask, method, tokens
from .fusion import FusionConfig, bidirectional_part, co_attention_part
from .kind import Kind, Reading
from .pieces import batch_norm, linear, norm, normed_mlp
from .transformer import EncoderConfig, body_part, read_encoder
from .vision import VisionConfig, pixels, read_vision, vision_part

IDLE = ("src_vocab_size", "tgt_vocab_size", "num_encoder_layers", "num_decoder_layers", "share_embeddings")


@dataclass(frozen=True)
class DualConfig:
    """DualEncoder or MultiModalTransformer."""

    model_type: str
    vision_model: VisionConfig
    text_model: EncoderConfig
    projection_dim: int
    dropout: float = 0.0


@dataclass(frozen=True)
class CrossAttentionConfig:
    """CrossAttentionMultiModalTransformer."""

    model_type: str
    vision_model: VisionConfig
    text_model: EncoderConfig
    fusion_dim: int
    num_fusion_layers: int
    num_heads: int
    fusion_type: str
    dropout: float = 0.0

    @property
    def fusion(self) -> FusionConfig:
        """What fuses both."""
        sizes = self.vision_model.embed_dim, self.text_model.d_model, self.fusion_dim, self.num_heads
        name = "CoAttentionFusion" if self.fused else "BidirectionalCrossAttention"
        return FusionConfig(name, *sizes, self.num_fusion_layers if self.fused else 1, self.dropout)

    @property
    def fused(self) -> bool:
        """Whether there is one vector of both."""
        return self.fusion_type == "co_attention"


Both = DualConfig | CrossAttentionConfig


def _read_towers(reading: Reading) -> None:
    vision = reading.within("vision_model.", "vision_model")
    vision.show("model_type", "VisionTransformer", "names vision_model.*")
    read_vision(vision)
    masked = any(name.startswith("text_model.encoder.") for name in reading.shapes)
    text = reading.within("text_model.encoder." if masked else "text_model.", "text_model")
    name = "EncoderDecoderTransformer" if masked else "TransformerEncoder"
    text.show("model_type", name, "names text_model.*")
    read_encoder(text)
    for document in text.documents:
        document.accept(dict.fromkeys(IDLE, "of the decoder, which nothing reads here, or as the tensors show"))
    for part, cls in (("vision_model", VisionConfig), ("text_model", EncoderConfig)):
        inner = vision if part == "vision_model" else text
        reading.settled.values[part] = cls(**inner.settled.values)
        reading.settled.origins |= {f"{part}.{field}": origin for field, origin in inner.settled.origins.items()}


def _read_dual(reading: Reading) -> None:
    _read_towers(reading)
    name = "vision_proj.3.weight" if "vision_proj.3.weight" in reading.shapes else "vision_projection.0.weight"
    reading.size("projection_dim", name, 0)
    reading.dropout()


def _read_crossed(reading: Reading) -> None:
    _read_towers(reading)
    fused = "fusion_module.fusion_token" in reading.shapes
    width = reading.size("fusion_dim", "classifier.0.weight", 0, rank=1)
    if fused:
        layers = reading.count(r"fusion_module\.fusion_layers\.(\d+)\.")
        reading.show("num_fusion_layers", layers, "names fusion_module.fusion_layers.*")
    else:
        reading.option("num_fusion_layers", 1, "bidirectional fusion has one layer, whatever was asked for", low=1)
    reading.heads("num_heads", width, "fusion_dim")
    why = f"{'name' if fused else 'no name'} fusion_module.fusion_token"
    reading.show("fusion_type", "co_attention" if fused else "bidirectional", why)
    reading.dropout()


def _masked(config: Both) -> bool:
    """Whether texts come with a mask: a TransformerEncoder is called without."""
    return config.text_model.model_type == "EncoderDecoderTransformer"


def _towers_part(config: Both, *dropped: Drop) -> Part:
    """Both towers, less what nothing reads."""
    vision = vision_part(config.vision_model)
    rules = tuple(rule for rule in vision.rules if not rule.source.startswith("head."))
    sizes = {axis: size for axis, size in vision.axis_sizes.items() if not axis.startswith("head.")}
    idle = Drop("head.{:weight|bias}", "it scores classes, which nothing here asks for")
    seen = Part((*rules, idle), sizes, vision.checkpoint_shapes, draws=vision.draws)
    text, masked = body_part(config.text_model, cross=False), _masked(config)
    beside = (
        Drop("text_model.decoder.{:*}", "only the text model's encoder is read"),
        Drop("text_model.output_projection.{:weight|bias}", "it scores words, which nothing here asks for"),
    )
    return join(
        seen.mounted("vision_model.", "vision."),
        text.mounted("text_model.encoder." if masked else "text_model.", "text."),
        Part((*(beside if masked else ()), *dropped), {}, {}),
    )


def _dual_part(config: DualConfig) -> Part:
    parts = [_towers_part(config)]
    for side, own in (("vision", config.vision_model.embed_dim), ("text", config.text_model.d_model)):
        parts += [
            normed_mlp(own, own, config.projection_dim).mounted(f"{side}_proj.", f"{side}_projection."),
            batch_norm(config.projection_dim).mounted(f"{side}_proj.4.", f"{side}_projection.batch_norm."),
        ]
    scale = Part((Rule("logit_scale", "logit_scale", ""),), {}, {"logit_scale": ()}, draws={"logit_scale": (2.5, 0.2)})
    return join(*parts, scale)


def _simple_part(config: DualConfig) -> Part:
    parts = [_towers_part(config)]
    for side, own in (("vision", config.vision_model.embed_dim), ("text", config.text_model.d_model)):
        parts += [
            linear(own, config.projection_dim).mounted(f"{side}_projection.0.", f"{side}_projection.linear."),
            norm(config.projection_dim).mounted(f"{side}_projection.1.", f"{side}_projection.norm."),
        ]
    return join(*parts)


def _crossed_part(config: CrossAttentionConfig) -> Part:
    width = config.fusion_dim
    fusion = co_attention_part(config.fusion) if config.fused else bidirectional_part(config.fusion)
    fused = fusion.mounted("fusion_module.", "fusion.")
    classifier = {"classifier.0": (width,), "classifier.1": (width, width), "classifier.4": (2, width)}
    if not config.fused:
        shapes = {f"{n}.weight": s for n, s in classifier.items()} | {f"{n}.bias": s[:1] for n, s in classifier.items()}
        idle = Drop(
            "classifier.{:*}", "it classifies the one vector of both sides, which bidirectional fusion does not make"
        )
        return join(_towers_part(config), fused, Part((idle,), {}, shapes))
    return join(
        _towers_part(config),
        fused,
        norm(width).mounted("classifier.0.", "match_norm."),
        linear(width, width).mounted("classifier.1.", "match_in."),
        linear(width, 2).mounted("classifier.4.", "match_out."),
    )


def _texts(config: Both, rows: str) -> tuple[TensorSpec, ...]:
    ids = tokens("src", config.text_model.vocab_size, rows=rows)
    return (ids, mask("src_mask", rows, "tokens", "tokens")) if _masked(config) else (ids,)


def _most(config: Both) -> int | None:
    return config.text_model.max_seq_length or None


def _scores(config: Both, name: str) -> EntryPoint:
    """Describe scores of pictures against texts."""
    both = (pixels(config.vision_model, "images"), *_texts(config, "texts"))
    return method(name, both, [given(name, "images", "texts", kind=Scores())], rows=None, tokens=_most(config))


def _dual_entries(config: DualConfig) -> tuple[EntryPoint, ...]:
    """Each side by itself, and scores of pictures against texts."""
    seen, read = (
        given(name, "batch", config.projection_dim, kind=Embedding(unit=False))
        for name in ("vision_features" if config.model_type == "DualEncoder" else "image_features", "text_features")
    )
    return (
        method("encode_image", [pixels(config.vision_model)], [seen]),
        method("encode_text", _texts(config, "batch"), [read], tokens=_most(config)),
        _scores(config, "similarity"),
    )


def _crossed_entries(config: CrossAttentionConfig) -> tuple[EntryPoint, ...]:
    """Each side by itself, both together, and what compares rows with each other."""
    vision, text, width, most = config.vision_model, config.text_model, config.fusion_dim, _most(config)
    picture, seen = pixels(vision), given("vision_features", "batch", vision.tokens, vision.embed_dim, kind=States())
    read = given("text_features", "batch", "tokens", text.d_model, kind=States())
    pairs = (picture, *_texts(config, "batch"))
    inner = (vision.embed_dim, text.d_model) if config.fused else (width, width)
    enhanced = [
        given("vision_features_enhanced", "batch", vision.tokens, inner[0]),
        given("text_features_enhanced", "batch", "tokens", inner[1]),
    ]
    entries = [
        method("extract_vision_features", [picture], [seen]),
        method("extract_text_features", _texts(config, "batch"), [read], tokens=most),
    ]
    if config.fused:
        enhanced += (
            given("fusion_features", "batch", width),
            given("classification", "batch", 2, kind=Logits()),
            given("pooled_fusion", "batch", width),
        )
        scores = given("similarity", "batch", "batch", kind=Scores())
        entries.append(method("similarity", pairs, [scores], rows=None, tokens=most))
    entries.append(method("forward", pairs, enhanced, tokens=most))
    if vision.embed_dim == text.d_model:
        entries.append(_scores(config, "raw_similarity"))
    return tuple(entries)


TINY_VISION = VisionConfig(
    "VisionTransformer", 6, 3, 3, 5, 8, 1, 2, 6, qkv_bias=True, pool="cls", positional_encoding="learned"
)
TINY_TEXT = EncoderConfig("TransformerEncoder", 13, 6, 2, 1, 5, 12, "sinusoidal")
TINY_SOURCE = EncoderConfig("EncoderDecoderTransformer", 13, 8, 2, 1, 5, 12, "learned")
TOWERS = (r"vision_model\..*", r"text_model\..*")
FIRST = "a text is the state of its first token"
IDLE_PARTS = "the text model's decoder and the head of classes are kept in the checkpoint, and read by nothing"

KINDS = (
    Kind(
        name="DualEncoder",
        config=DualConfig,
        read=_read_dual,
        part=_dual_part,
        entries=_dual_entries,
        tiny=DualConfig("DualEncoder", TINY_VISION, TINY_TEXT, 5),
        marks=(*TOWERS, r"vision_proj\.4\.running_mean", "logit_scale"),
        others=(r"(vision|text)_proj\.\d\.\w+",),
        oddities=(
            FIRST,
            IDLE_PARTS,
            "features are not normalised; similarity normalises them, and its scale is held between 1 and 100",
            "batch norms use what training kept; the scaling by a batch's variance is training's alone",
            "a TransformerEncoder gets no mask, so that padding counts",
        ),
    ),
    Kind(
        name="MultiModalTransformer",
        config=DualConfig,
        read=_read_dual,
        part=_simple_part,
        entries=_dual_entries,
        tiny=DualConfig("MultiModalTransformer", TINY_VISION, TINY_SOURCE, 5),
        marks=(*TOWERS, r"vision_projection\.0\.weight"),
        others=(r"(vision|text)_projection\.[01]\.\w+",),
        oddities=(FIRST, IDLE_PARTS, "features are not normalised; similarity normalises them, and learns no scale"),
    ),
    Kind(
        name="CrossAttentionMultiModalTransformer",
        config=CrossAttentionConfig,
        read=_read_crossed,
        part=_crossed_part,
        entries=_crossed_entries,
        tiny=CrossAttentionConfig(
            "CrossAttentionMultiModalTransformer", TINY_VISION, TINY_SOURCE, 6, 1, 2, "co_attention"
        ),
        marks=(*TOWERS, r"fusion_module\..*", r"classifier\.0\.weight"),
        others=(r"classifier\.\d\.\w+",),
        oddities=(
            IDLE_PARTS,
            "fusion heeds no mask: padding is seen by pictures",
            "similarity compares the fused vectors of rows with each other: a row with itself gives 1",
            "raw_similarity of sides of different width goes through new random weights upstream, and is left out",
        ),
    ),
)

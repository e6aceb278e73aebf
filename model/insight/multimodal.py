"""Two towers, and what brings pictures and texts together. The text tower's decoder and the pictures' head are idle."""

from dataclasses import dataclass

from ...validation.entry_point import Axis, EntryPoint, TensorSpec, TokenIds
from ...validation.outputs import Embedding, Logits, Scores, States
from ..family import Drop, Rule
from ..parts import Part, join
from .entries import MASK, axes, given
from .fusion import FusionConfig, bidirectional_part, co_attention_part
from .kind import Kind, Reading
from .pieces import batch_norm, linear, norm
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
    reading.show("projection_dim", reading.shape(name, 2)[0], f"shape of {name}")
    reading.dropout()


def _read_crossed(reading: Reading) -> None:
    _read_towers(reading)
    fused = "fusion_module.fusion_token" in reading.shapes
    reading.show("fusion_dim", reading.shape("classifier.0.weight", 1)[0], "shape of classifier.0.weight")
    if fused:
        layers = reading.count(r"fusion_module\.fusion_layers\.(\d+)\.")
        reading.show("num_fusion_layers", layers, "names fusion_module.fusion_layers.*")
    else:
        reading.option("num_fusion_layers", 1, "bidirectional fusion has one layer, whatever was asked for", low=1)
    reading.heads("num_heads", reading.settled.values["fusion_dim"], "fusion_dim")
    why = f"{'name' if fused else 'no name'} fusion_module.fusion_token"
    reading.show("fusion_type", "co_attention" if fused else "bidirectional", why)
    reading.dropout()


def _masked(config: Both) -> bool:
    """Whether texts come with a mask: a TransformerEncoder is called without."""
    return config.text_model.model_type == "EncoderDecoderTransformer"


def _towers_part(config: Both, *dropped: Drop) -> Part:
    """Both towers, less what nothing reads."""
    vision = vision_part(config.vision_model)
    head = tuple(name for name in vision.checkpoint_shapes if name.startswith("head."))
    rules = tuple(rule for rule in vision.rules if not rule.source.startswith("head."))
    sizes = {axis: size for axis, size in vision.axis_sizes.items() if not axis.startswith("head.")}
    idle = Drop("head.{:weight|bias}", "it scores classes, which nothing here asks for")
    seen = Part((*rules, idle), sizes, vision.checkpoint_shapes, draws=vision.draws)
    assert head
    text = body_part(config.text_model, cross=False)
    masked = _masked(config)
    beside = [Drop("text_model.decoder.{:*}", "only the text model's encoder is read")] if masked else []
    beside += (
        [Drop("text_model.output_projection.{:weight|bias}", "it scores words, which nothing here asks for")]
        if masked
        else []
    )
    return join(
        seen.mounted("vision_model.", "vision."),
        text.mounted("text_model.encoder." if masked else "text_model.", "text."),
        Part((*beside, *dropped), {}, {}),
    )


def _dual_part(config: DualConfig) -> Part:
    parts = [_towers_part(config)]
    for side, own in (("vision", config.vision_model.embed_dim), ("text", config.text_model.d_model)):
        parts += [
            linear(own, own).mounted(f"{side}_proj.0.", f"{side}_projection.first."),
            norm(own).mounted(f"{side}_proj.1.", f"{side}_projection.norm."),
            linear(own, config.projection_dim).mounted(f"{side}_proj.3.", f"{side}_projection.last."),
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
    ids = TensorSpec("src", "int32", (rows, "tokens"), TokenIds(config.text_model.vocab_size, 0))
    seen = TensorSpec("src_mask", "bool", (rows, "tokens", "tokens"), MASK)
    return (ids, seen) if _masked(config) else (ids,)


def _tokens(config: Both) -> Axis:
    return Axis(1, config.text_model.max_seq_length or None)


def _dual_entries(config: DualConfig) -> tuple[EntryPoint, ...]:
    """Each side by itself, and scores of pictures against texts."""
    images, reading = axes("batch"), {"batch": Axis(), "tokens": _tokens(config)}
    dual = config.model_type == "DualEncoder"
    seen, read = (
        given(name, "batch", config.projection_dim, kind=Embedding(unit=False))
        for name in ("vision_features" if dual else "image_features", "text_features")
    )
    scores = given("similarity", "images", "texts", kind=Scores())
    both = (pixels(config.vision_model, "images"), *_texts(config, "texts"))
    return (
        EntryPoint("encode_image", (pixels(config.vision_model),), (seen,), images, rows="batch"),
        EntryPoint("encode_text", _texts(config, "batch"), (read,), reading, rows="batch"),
        EntryPoint("similarity", both, (scores,), {**axes("images", "texts"), "tokens": _tokens(config)}),
    )


def _crossed_entries(config: CrossAttentionConfig) -> tuple[EntryPoint, ...]:
    """Each side by itself, both together, and what compares rows with each other."""
    vision, text, width = config.vision_model, config.text_model, config.fusion_dim
    tokens, own = {"batch": Axis(), "tokens": _tokens(config)}, (vision.tokens, vision.embed_dim)
    picture, seen = pixels(vision), given("vision_features", "batch", *own, kind=States())
    read = given("text_features", "batch", "tokens", text.d_model, kind=States())
    pairs = (picture, *_texts(config, "batch"))
    inner = (vision.embed_dim, text.d_model) if config.fused else (width, width)
    enhanced: tuple[TensorSpec, ...] = (
        given("vision_features_enhanced", "batch", vision.tokens, inner[0]),
        given("text_features_enhanced", "batch", "tokens", inner[1]),
    )
    entries = [
        EntryPoint("extract_vision_features", (picture,), (seen,), axes("batch"), rows="batch"),
        EntryPoint("extract_text_features", _texts(config, "batch"), (read,), tokens, rows="batch"),
    ]
    if config.fused:
        enhanced += (
            given("fusion_features", "batch", width),
            given("classification", "batch", 2, kind=Logits()),
            given("pooled_fusion", "batch", width),
        )
        scores = given("similarity", "batch", "batch", kind=Scores())
        entries.append(EntryPoint("similarity", pairs, (scores,), tokens))
    entries.append(EntryPoint("forward", pairs, enhanced, tokens, rows="batch"))
    if vision.embed_dim == text.d_model:
        both = (pixels(vision, "images"), *_texts(config, "texts"))
        raw = given("raw_similarity", "images", "texts", kind=Scores())
        entries.append(
            EntryPoint("raw_similarity", both, (raw,), {**axes("images", "texts"), "tokens": tokens["tokens"]})
        )
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

"""What an alignment model of Edge Glass is, in numbers, and how it is read from names, shapes and documents.

Which generation of the code wrote a checkpoint, its names show. What no shape shows - heads, activations, the widths of
Matryoshka embeddings - is said by the experiment's configuration, by the configurations of the backbones, or by --set.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...validation.errors import GateError, InputError
from ..bert import config as bert
from ..bert.config import BertConfig
from ..clip import config as clip
from ..clip.config import BARE, TRANSFORMERS, TextConfig, VisionConfig, shape_of
from ..documents import Configured, Document, Harmless, Settled, shown
from ..family import Source
from ..mpnet import config as mpnet
from ..mpnet.config import MPNetConfig
from ..pipeline import OPTIONS
from ..steps import Normalize, Pooling, plain
from ..whisper import config as whisper
from ..whisper.config import WhisperConfig
from .trm import INNER, QUERY, TABLE, TRM

CONFIG = "config.json"
GROUPS = {"vision": "vision_encoder", "text": "text_encoder", "audio": "audio_encoder"}
"""Modality, in the order in which they are fused with the audio before the text -> what its names begin with."""

ORDER = ("vision", "audio", "text")
"""In which order upstream fuses."""

EPSILON = 1e-5
"""Of every norm beside the backbones: torch's default, which upstream takes."""

POOLED_HEADS = 8
"""Of the attention that pools: a constant of upstream's code."""

PREFIX = 8
"""Tokens of a soft prompt: a constant of upstream's code."""

WORDS, DECODER_LAYERS = "decoder.embed_tokens.weight", "decoder.layers."
"""Of upstream's own decoder of texts."""

TRM_FIELDS = {
    "width": "hidden_dim",
    "num_layers": "num_layers",
    "num_heads": "num_heads",
    "inner": "intermediate_dim",
    "max_seq_len": "max_seq_len",
}
"""Field of a TRM -> the same in upstream's words."""

CLS, SIMPLE, MULTIHEAD, PERCEIVER = "cls", "simple", "multihead", "perceiver"
CONCAT, CROSS, GATED = "concat", "cross_attention", "gated"

_FREEZE = "training only"
UNASKED = "texts pass no perceiver, whatever is asked for"
_UNREAD = "upstream's model does not pass it on"
ENCODER_HARMLESS: Harmless = {
    **dict.fromkeys(("freeze", "trainable", "mrl_loss_weight"), _FREEZE),
    **dict.fromkeys(("use_attention_pooling", "pooling_type"), f"{_UNREAD}; the tensors' names show the pooling"),
    "perceiver_dropout": "dropout, which inference leaves out",
    "model_name": "a name; the backbone's own configuration says what it is",
}
FUSION_HARMLESS: Harmless = {"dropout": "dropout, which inference leaves out"}
EXPERIMENT_HARMLESS: Harmless = {
    **dict.fromkeys(("name", "description", "tags"), "a name"),
    **dict.fromkeys(("seed", "optimization", "training", "losses", "trainer", "use_instruction_tuning"), _FREEZE),
    "dataset": "of the training; the positions of the image tower show the size of its pictures",
    "mode": "what was trained; the tensors' names show what there is",
    "decoder": "of a language model, which no entry point runs",
}
"""The experiment's configuration, by the dataclasses of Edge Glass's config.py."""


@dataclass(frozen=True)
class Perceiver:
    """Latents that attend to tokens: how many, their width, layers and heads, and the inner width of a layer."""

    num_latents: int
    latent_dim: int
    num_layers: int
    num_heads: int
    inner: int


@dataclass(frozen=True)
class Vision:
    """The image encoder.

    Args:
        tower: CLIP's.
        projection_dim: width of an embedding.
        pooling: what makes one vector of the tokens: the first one, a simple or a multi-head attention, or the mean
            over a perceiver's latents.
        perceiver: None where none is between.
        adapter: inner width of what is before the perceiver in the newest code, where the head after it has a norm;
            0 where both are linear.
        mrl: widths of the Matryoshka embeddings, the whole one first; none where they were not asked for.
        names: whose names the tower's tensors have.
    """

    tower: VisionConfig
    projection_dim: int
    pooling: str = CLS
    perceiver: Perceiver | None = None
    adapter: int = 0
    mrl: tuple[int, ...] = ()
    names: str = TRANSFORMERS

    @property
    def places(self) -> int:
        """Tokens of the sequence: latents, or patches, with the class token where an attention pools them."""
        if self.perceiver:
            return self.perceiver.num_latents
        return self.tower.patches + (self.pooling != CLS)


@dataclass(frozen=True)
class Text:
    """The text encoder: one of three backbones, and a projection.

    Args:
        bert: None where it is another.
        mpnet: None where it is another.
        clip: None where it is another; the state of its first token is what is projected.
        projection_dim: width of an embedding.
        mrl: see `Vision`.
        place: what stands before the backbone's names, behind text_encoder.
    """

    bert: BertConfig | None
    mpnet: MPNetConfig | None
    clip: TextConfig | None
    projection_dim: int
    mrl: tuple[int, ...] = ()
    place: str = "encoder.0.auto_model."

    @property
    def sentences(self) -> BertConfig | None:
        """The backbone of a sentence-transformers folder, if it is one."""
        return self.bert or self.mpnet

    @property
    def width(self) -> int:
        """Width of what is projected."""
        backbone = self.sentences or self.clip
        assert backbone
        return backbone.hidden_size


@dataclass(frozen=True)
class Audio:
    """The sound encoder: Whisper's, a projection, and perhaps a perceiver; the mean over time. See `Vision`."""

    tower: WhisperConfig
    projection_dim: int
    perceiver: Perceiver | None = None
    mrl: tuple[int, ...] = ()

    @property
    def places(self) -> int:
        """Tokens of the sequence."""
        return self.perceiver.num_latents if self.perceiver else self.tower.max_source_positions


@dataclass(frozen=True)
class Fusion:
    """What makes one vector of several modalities'.

    Args:
        strategy: "concat", "cross_attention" or "gated".
        fusion_dim: width of the result.
        inner: width inside: of the concatenation's first layer, or of the feed-forward parts; 0 for a gate.
        num_layers: of cross-attention; 0 for the others.
        num_heads: of cross-attention; 0 for the others.
    """

    strategy: str
    fusion_dim: int
    inner: int = 0
    num_layers: int = 0
    num_heads: int = 0


@dataclass(frozen=True)
class Decoder(TRM):
    """Upstream's own decoder of texts.

    Args:
        vocab_size: rows of the words' table, which scores them too.
    """

    vocab_size: int


@dataclass(frozen=True)
class EdgeGlassConfig:
    """The encoders that there are, what fuses them, and what makes a prompt of a vector.

    Args:
        vision: None where there is none.
        text: None where there is none.
        audio: None where there is none.
        fusion: None where nothing fuses them.
        prompt_dim: width of the tokens of a soft prompt; 0 where none is made.
        decoder: what scores texts behind a soft prompt; None where there is none, or it is a language model, which the
            alignment never feeds.
    """

    vision: Vision | None
    text: Text | None
    audio: Audio | None
    fusion: Fusion | None = None
    prompt_dim: int = 0
    decoder: Decoder | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that there are, in the order in which they are fused."""
        return tuple(name for name in ORDER if getattr(self, name))

    @property
    def prompted(self) -> int:
        """Width of what a soft prompt is made of: the fused vector, or the picture's."""
        if self.fusion:
            return self.fusion.fusion_dim
        assert self.vision
        return self.vision.projection_dim


LARGE = VisionConfig(1024, 24, 16, 4096, image_size=336, patch_size=14)
"""openai/clip-vit-large-patch14-336."""

SIZES = {
    "pixmo": EdgeGlassConfig(
        Vision(LARGE, 4096, SIMPLE, mrl=(4096, 2048, 1024, 512, 256, 128)),
        Text(None, replace(mpnet.PUBLISHED["base"], max_seq_length=384), None, 4096, (4096, 2048, 1024, 512, 256, 128)),
        None,
        prompt_dim=3584,
    ),
    "tiny": EdgeGlassConfig(
        Vision(VisionConfig(16, 1, 2, 24, image_size=8, patch_size=4), 12, PERCEIVER, Perceiver(3, 8, 1, 2, 16), 20),
        Text(
            BertConfig(110, 16, 1, 2, 24, 20, 2, pipeline=plain(["mean"]), max_seq_length=20), None, None, 12, (12, 6)
        ),
        None,
        Fusion(CROSS, 8, 16, 1, 2),
        4,
    ),
}
"""Of upstream's pixmo_alignment.yaml, with all-mpnet-base-v2, for Qwen2.5-7B. And a tiny one."""


def recognise(source: Source) -> str:
    """Say why a checkpoint belongs here."""
    shapes = source.shapes
    known = {
        "vision": lambda name: name.endswith("pre_layrnorm.weight"),
        "text": lambda name: name.endswith(("embeddings.word_embeddings.weight", "token_embedding.weight")),
        "audio": lambda name: name.endswith("encoder.embed_positions.weight"),
    }
    found = []
    for modality, group in GROUPS.items():
        projected = any(f"{group}.{name}.weight" in shapes for name in ("projector", "projector.net.0"))
        if projected and any(n.startswith(f"{group}.encoder.") and known[modality](n) for n in shapes):
            found.append(group)
    return f"names {', '.join(f'{group}.encoder.* and {group}.projector.*' for group in found)}" if found else ""


Missing = list[str]
"""What nobody states, with what to do."""


def configure(source: Source) -> Configured:
    """Read the encoders that there are, what fuses them and what prompts.

    Raises:
        InputError: what no shape shows is stated nowhere (all of it at once), or contradicts the shapes.
        GateError: a tensor that shows a size is missing.
    """
    experiment = _Experiment(source)
    has = {modality: any(n.startswith(f"{group}.") for n in source.shapes) for modality, group in GROUPS.items()}
    if missing := _missing(source, experiment, has):
        raise InputError(
            f"no tensor's shape shows {len(missing)} fields of this network, and no document states them: "
            f"{'; '.join(missing)}"
        )
    read: dict[str, Callable[[Source, _Experiment], tuple[Any, dict[str, str]]]] = {
        "vision": _vision,
        "text": _text,
        "audio": _audio,
        "fusion": _fusion,
    }
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    has["fusion"] = any(name.startswith("fusion.") for name in source.shapes)
    for part, settle in read.items():
        if has[part]:
            values[part], of_part = settle(source, experiment)
            origins |= {f"{part}.{field}": origin for field, origin in of_part.items()}
        else:
            values[part], origins[part] = None, f"the checkpoint has no tensors of a {part} part"
            experiment.pass_over(GROUPS.get(part, part), "of a part that is not in the checkpoint")
    values["prompt_dim"], origins["prompt_dim"] = _prompt(source)
    values["decoder"], of_part = _decoder(source, experiment)
    origins |= of_part
    experiment.accept()
    config = EdgeGlassConfig(**values)
    _agreeing(source, config)
    return Configured(config, origins, OPTIONS)


class _Experiment:
    """The experiment's configuration: the document beside the checkpoint, then what the checkpoint's file holds."""

    def __init__(self, source: Source):
        self.documents: list[Document] = []
        beside = source.documents.get(CONFIG)
        if beside and isinstance(beside.content, dict) and any(group in beside.content for group in GROUPS.values()):
            document = source.document(CONFIG)
            assert document
            self.documents.append(document)
        held = source.facts.get("config")
        if isinstance(held, dict):
            self.documents.append(Document("config", "the checkpoint's own config", held))

    def part(self, name: str) -> list[Document]:
        """Give what the documents say of a part; a part that is null says nothing."""
        return [each.part(name) for each in self.documents if isinstance(each.fields.get(name), dict)]

    def pass_over(self, name: str, reason: str) -> None:
        for each in self.documents:
            each.note(name, reason)

    def accept(self) -> None:
        for each in self.documents:
            each.accept(EXPERIMENT_HARMLESS)


NEEDED = {
    "vision.tower": ("num_attention_heads", "layer_norm_eps", "hidden_act"),
    "text.clip": ("num_attention_heads", "layer_norm_eps", "hidden_act"),
    "text.bert": ("model_type", "num_attention_heads", "layer_norm_eps", "hidden_act", "pad_token_id"),
    "text.mpnet": ("layer_norm_eps", "hidden_act", "pad_token_id"),
    "audio.tower": ("encoder_attention_heads", "activation_function"),
}
"""Part -> what its backbone's config.json says and no shape shows."""


def _missing(source: Source, experiment: _Experiment, has: Mapping[str, bool]) -> Missing:
    """List what is stated nowhere, each with how to state it."""
    missing: Missing = []

    def need(field: str, place: str) -> None:
        if field not in source.given:
            missing.append(f"{field} (--set {field}=, or {place})")

    for modality, group in GROUPS.items():
        if not has[modality]:
            continue
        part = f"text.{_backbone(source)[0]}" if modality == "text" else f"{modality}.tower"
        if f"{group}/{CONFIG}" not in source.documents and not (part == "text.bert" and _published(source)):
            for field in NEEDED[part]:
                need(f"{part}.{field}", f"the backbone's {CONFIG} as {group}/{CONFIG}")
        if part in ("text.bert", "text.mpnet"):
            for option in OPTIONS if f"{group}/modules.json" not in source.documents else ():
                if option not in source.given:
                    missing.append(f"{option} (--{option}, or the backbone's modules.json as {group}/modules.json)")
        if part == "text.bert" and not _numbered(source):
            for field in bert.PUBLISHED_IDS:
                need(f"{part}.{field}", "--tokenizer DIR, the backbone's own")
        stated = experiment.part(group)
        if not stated:
            need(f"{modality}.mrl", f"the experiment's {CONFIG}")
        if not stated and f"{group}.perceiver.latents" in source.shapes:
            need(f"{modality}.perceiver.num_heads", f"the experiment's {CONFIG}")
    if WORDS in source.shapes and not experiment.part("decoder"):
        need("decoder.layer_norm_eps", f"the experiment's {CONFIG}")
    if any(name.startswith("fusion.fusion_layers.") for name in source.shapes) and not experiment.part("fusion"):
        need("fusion.num_heads", f"the experiment's {CONFIG}")
    return missing


def _numbered(source: Source) -> bool:
    """Say whether a text's first and last token are known: by a tokenizer, or as BERT's published vocabularies are."""
    words = f"{GROUPS['text']}.{_backbone(source)[1]}embeddings.word_embeddings.weight"
    return source.tokens is not None or shape_of(source.shapes, words, 2)[0] > max(bert.PUBLISHED_IDS.values())


def _published(source: Source) -> bool:
    place = GROUPS["text"] + "." + _backbone(source)[1]
    shapes = {name.removeprefix(place): shape for name, shape in source.shapes.items() if name.startswith(place)}
    seen = bert.sizes_from_shapes(shapes, "embeddings.", "encoder.")
    return any(all(getattr(c, f) == value for f, (value, _) in seen.items()) for c in bert.PUBLISHED.values())


def _inner(source: Source, place: str, group: str, given: Mapping[str, str], stated: Mapping[str, Any]) -> Source:
    """Give what a backbone's own family is told: its tensors, its documents, and what the command line says of it.

    `given` renames the front of dotted fields. Where it has no config.json, `stated` stands for one; what that does not
    say is on the command line: `_missing` has seen to it.
    """
    shapes = {name.removeprefix(place): shape for name, shape in source.shapes.items() if name.startswith(place)}
    documents = {n.removeprefix(f"{group}/"): d for n, d in source.documents.items() if n.startswith(f"{group}/")}
    if group == GROUPS["text"]:
        documents |= {n: d for n, d in source.documents.items() if n in OF_TOKENIZER}
    if stated and CONFIG not in documents:
        documents[CONFIG] = Document(CONFIG, "the command line", dict(stated))
    said = {f: v for f, v in source.given.items() if f in OPTIONS}
    said |= {
        to + f.removeprefix(was): v for f, v in source.given.items() for was, to in given.items() if f.startswith(was)
    }
    return replace(source, shapes=shapes, documents=documents, given=said, facts={}, wrappers=())


OF_TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def _vision(source: Source, experiment: _Experiment) -> tuple[Vision, dict[str, str]]:
    group, settled = GROUPS["vision"], source.settled("vision.")
    kind = {"model_type": "clip_vision_model"}
    told = clip.configure(_inner(source, f"{group}.encoder.", group, {"vision.tower.": "vision."}, kind))
    tower = told.config.vision
    if tower is None:
        raise GateError(f"{group}.encoder.* has no pre_layrnorm: it is no image tower of CLIP")
    settled.put("names", told.config.names if told.config.names == BARE else TRANSFORMERS, "names of the tensors")
    perceiver, origins = _perceiver(source, experiment, "vision")
    adapter = f"{group}.projector.net.1.weight"
    if adapter in source.shapes:
        settled.put("adapter", shape_of(source.shapes, adapter, 2)[0], f"shape of {adapter}")
    else:
        settled.put("adapter", 0, f"no {adapter}")
    pools = {
        f"{group}.attention_pool.attn_proj.weight": SIMPLE,
        f"{group}.attention_pool.attention.in_proj_weight": MULTIHEAD,
        f"{group}.perceiver.latents": PERCEIVER,
    }
    found = [(pooling, name) for name, pooling in pools.items() if name in source.shapes]
    if len(found) > 1:
        raise GateError(f"{' and '.join(name for _, name in found)}: one of them pools, not both")
    pooling, shown_by = found[0] if found else (CLS, "names of the tensors: nothing pools")
    settled.put("pooling", pooling, f"name {shown_by}" if found else shown_by)
    head = ("final_projector.1" if settled.values["adapter"] else "final_projector") if perceiver else "projector"
    _projection(settled, source, experiment, group, head)
    if pooling == MULTIHEAD and settled.values["projection_dim"] % POOLED_HEADS:
        width = settled.values["projection_dim"]
        raise InputError(f"{shown_by}: {POOLED_HEADS} heads, as upstream has, do not divide its width {width}")
    told_of = {f"tower.{f.removeprefix('vision.')}": o for f, o in told.origins.items() if f.startswith("vision.")}
    return Vision(tower, perceiver=perceiver, **settled.values), {**told_of, **origins, **settled.origins}


def _audio(source: Source, experiment: _Experiment) -> tuple[Audio, dict[str, str]]:
    group, settled = GROUPS["audio"], source.settled("audio.")
    told = whisper.configure(
        _inner(source, f"{group}.encoder.", group, {"audio.tower.": ""}, {"model_type": "whisper"})
    )
    perceiver, origins = _perceiver(source, experiment, "audio")
    _projection(settled, source, experiment, group, "final_projector" if perceiver else "projector")
    told_of = {f"tower.{field}": origin for field, origin in told.origins.items()}
    told_of["tower.sound"] = "the network is given spectrograms"
    return Audio(told.config, perceiver=perceiver, **settled.values), {**told_of, **origins, **settled.origins}


def _backbone(source: Source) -> tuple[str, str]:
    """Say which backbone the text encoder has, and what stands before its names.

    Raises:
        GateError: it is none that is known here.
    """
    group = GROUPS["text"]
    known = {
        r"(encoder\.0\.(?:auto_model|model)\.)encoder\.relative_attention_bias\.weight": "mpnet",
        r"(encoder\.0\.(?:auto_model|model)\.)embeddings\.token_type_embeddings\.weight": "bert",
        r"(encoder\.(?:text_model\.)?)embeddings\.token_embedding\.weight": "clip",
    }
    for pattern, kind in known.items():
        for name in source.shapes:
            if match := re.fullmatch(rf"{group}\.{pattern}", name):
                return kind, match[1]
    raise GateError(f"{group}.encoder.* is neither a BERT nor an MPNet of sentence-transformers nor CLIP's text tower")


def _text(source: Source, experiment: _Experiment) -> tuple[Text, dict[str, str]]:
    group, settled = GROUPS["text"], source.settled("text.")
    kind, place = _backbone(source)
    settled.put("place", place, "names of the tensors")
    for other in ("bert", "mpnet", "clip"):
        if other != kind:
            settled.put(other, None, f"the names of the tensors are those of {kind}")
    if kind == "clip":
        stated = {"model_type": "clip_text_model"}
        told = clip.configure(_inner(source, f"{group}.encoder.", group, {"text.clip.": "text."}, stated))
        backbone, front = told.config.text, "text."
    else:
        reading = bert.configure if kind == "bert" else mpnet.configure
        told = reading(_inner(source, f"{group}.{place}", group, {f"text.{kind}.": ""}, {}))
        backbone, front = told.config, ""
        if not all(isinstance(step, Pooling | Normalize) for step in backbone.pipeline):
            listed = ", ".join(type(step).__name__ for step in backbone.pipeline)
            raise InputError(
                f"{told.origins['pipeline']}: its modules are {listed}; what is computed here is a Pooling, and "
                "Normalize after it"
            )
    settled.values[kind] = backbone
    for document in experiment.part(group):
        document.accept(dict.fromkeys(("use_perceiver", *(f"perceiver_{n}" for n in _OF_SHAPES)), UNASKED))
    _projection(settled, source, experiment, group, "projector")
    told_of = {f"{kind}.{f.removeprefix(front)}": o for f, o in told.origins.items() if f.startswith(front)}
    return Text(**settled.values), {**told_of, **settled.origins}


def _projection(settled: Settled, source: Source, experiment: _Experiment, group: str, head: str) -> None:
    """Settle the width of an encoder's embeddings, and of those that begin them."""
    name = f"{group}.{head}.weight"
    width = settled.put("projection_dim", shape_of(source.shapes, name, 2)[0], f"shape of {name}")
    stated = experiment.part(group)
    _agree(stated, "projection_dim", width, f"shape of {name}")
    given, origin, listed = source.given.get(f"{settled.part}mrl"), "default of Edge Glass's EncoderConfig", None
    for document in stated:
        asked = document.take("use_mrl", bool, default=False)
        wanted = document.take("mrl_dimensions", list, [512, 256, 128])
        if listed is None:
            listed = wanted if asked else []
            origin = f"{document.name}: {document._prefix}mrl_dimensions" if "use_mrl" in document else origin
        if given:
            document.note("mrl_dimensions", f"{given.option} says {shown(given.value)} in its place")
        document.accept(ENCODER_HARMLESS)
    if given:
        listed, origin = given.value, given.option
    if not isinstance(listed, list) or not all(type(n) is int and 1 <= n <= width for n in listed):
        raise InputError(
            f"{origin}: {settled.part}mrl is {shown(listed)}, expected a list of whole numbers from 1 to {width}, the "
            "width of an embedding"
        )
    whole = [width, *sorted({n for n in listed if n != width}, reverse=True)] if listed else []
    settled.values["mrl"], settled.origins["mrl"] = tuple(whole), origin


def _perceiver(source: Source, experiment: _Experiment, modality: str) -> tuple[Perceiver | None, dict[str, str]]:
    """Settle a perceiver, if there is one; see that the experiment says the same."""
    group, settled = GROUPS[modality], source.settled(f"{modality}.perceiver.")
    latents, stated = f"{group}.perceiver.latents", experiment.part(GROUPS[modality])
    if latents not in source.shapes:
        _agree(stated, "use_perceiver", False, f"no tensor {latents}")
        for document in stated:
            document.accept(dict.fromkeys((f"perceiver_{n}" for n in _OF_SHAPES), "of a perceiver that is not there"))
        return None, {"perceiver": f"no tensor {latents}"}
    _agree(stated, "use_perceiver", True, f"tensor {latents}")
    count, width = shape_of(source.shapes, latents, 2)
    inner = f"{group}.perceiver.layers.0.ff.net.0.weight"
    seen = {
        "num_latents": (count, f"shape of {latents}"),
        "latent_dim": (width, f"shape of {latents}"),
        "num_layers": _layers(source, f"{group}.perceiver.layers"),
    }
    for field, (value, origin) in seen.items():
        settled.put(field, value, origin)
        _agree(stated, f"perceiver_{field}", value, origin)
    settled.put("inner", shape_of(source.shapes, inner, 2)[0], f"shape of {inner}")
    _heads(settled, stated, "perceiver_num_heads", width)
    return Perceiver(**settled.values), {f"perceiver.{field}": origin for field, origin in settled.origins.items()}


_OF_SHAPES = ("num_latents", "latent_dim", "num_layers", "num_heads")


def _heads(settled: Settled, stated: list[Document], field: str, width: int) -> None:
    default = (8, "default of Edge Glass's configuration") if stated else None
    heads = settled.choose("num_heads", int, *((document, field) for document in stated), otherwise=default, low=1)
    if width % heads:
        raise InputError(
            f"{settled.origins['num_heads']}: {settled.part}num_heads is {heads}, which does not divide {width}"
        )


def _layers(source: Source, place: str) -> tuple[int, str]:
    return layers_of(source.shapes, place)


def layers_of(shapes: Mapping[str, tuple[int, ...]], place: str) -> tuple[int, str]:
    """Count the layers whose tensors' names begin with a place and a number.

    Raises:
        GateError: a number is missing.
    """
    numbered = re.compile(rf"{re.escape(place)}\.(\d+)\.")
    found = {int(match[1]) for name in shapes if (match := numbered.match(name))}
    if not found or len(found) <= max(found):
        raise GateError(f"the tensors {place}.* do not number the layers 0, 1, 2, ...")
    return len(found), f"names {place}.*"


def _fusion(source: Source, experiment: _Experiment) -> tuple[Fusion, dict[str, str]]:
    settled, stated = source.settled("fusion."), experiment.part("fusion")
    known = {
        "fusion.projector.3.weight": (CONCAT, "fusion.projector.0.weight"),
        "fusion.fusion_layers.0.ff.3.weight": (CROSS, "fusion.fusion_layers.0.ff.0.weight"),
        "fusion.gate.0.weight": (GATED, ""),
    }
    name = next((name for name in known if name in source.shapes), None)
    if name is None:
        raise GateError(f"the tensors fusion.* are of none of its three ways: there is no {', '.join(known)}")
    strategy, inner = known[name]
    settled.put("strategy", strategy, f"name {name}")
    _agree(stated, "strategy", strategy, f"name {name}")
    width = "fusion.norm.weight" if strategy != CONCAT else "fusion.projector.4.weight"
    dim = settled.put("fusion_dim", shape_of(source.shapes, width, 1)[0], f"shape of {width}")
    _agree(stated, "fusion_dim", dim, f"shape of {width}")
    if inner:
        settled.put("inner", shape_of(source.shapes, inner, 2)[0], f"shape of {inner}")
    else:
        settled.put("inner", 0, f"name {name}: a gate has no layer inside")
    if strategy == CROSS:
        layers, origin = _layers(source, "fusion.fusion_layers")
        settled.put("num_layers", layers, origin)
        _agree(stated, "num_fusion_layers", layers, origin)
        _heads(settled, stated, "num_heads", dim)
    else:
        for field in ("num_layers", "num_heads"):
            settled.put(field, 0, f"name {name}: nothing attends")
        for document in stated:
            document.accept(dict.fromkeys(("num_fusion_layers", "num_heads"), "of cross-attention"))
    for document in stated:
        document.accept(FUSION_HARMLESS)
    return Fusion(**settled.values), settled.origins


def _prompt(source: Source) -> tuple[int, str]:
    name = "llm_projector.projector.net.4.weight"
    if name not in source.shapes:
        return 0, f"no tensor {name}"
    out = shape_of(source.shapes, name, 2)[0]
    if out % PREFIX:
        raise InputError(f"{name} gives {out} numbers, which are no {PREFIX} tokens, as upstream cuts them")
    return out // PREFIX, f"shape of {name}: {PREFIX} tokens, as upstream cuts them"


def _decoder(source: Source, experiment: _Experiment) -> tuple[Decoder | None, dict[str, str]]:
    """Settle upstream's own decoder, if it is one."""
    settled, stated = source.settled("decoder."), experiment.part("decoder")
    if WORDS not in source.shapes:
        for document in stated:
            document.accept(dict.fromkeys(document.fields, "of a decoder that no entry point runs"))
        return None, {"decoder": f"no tensor {WORDS}"}
    named = {name: f"trm_{field}" for name, field in TRM_FIELDS.items()}
    vocab, width = shape_of(source.shapes, WORDS, 2)
    sizes = trm_sizes(source.shapes, DECODER_LAYERS)
    for field, (value, origin, name) in {**sizes, "vocab_size": (vocab, f"shape of {WORDS}", "vocab_size")}.items():
        settled.put(field, value, origin)
        _agree(stated, f"trm_{name}", value, origin)
    if width != settled.values["width"]:
        raise InputError(f"{WORDS} is {width} wide, but {sizes['width'][1]} says {settled.values['width']}")
    usual = (1e-6, "default of Edge Glass's DecoderConfig") if stated else None
    eps = [(document, "trm_layer_norm_eps") for document in stated]
    settled.choose("layer_norm_eps", float, *eps, otherwise=usual, low=0)
    for document in stated:
        _agree([document], "trm_use_rope", True, f"names {DECODER_LAYERS}*")
        of_others = (name for name in document.fields if name not in named.values())
        document.accept(dict.fromkeys(of_others, "of another decoder, or of the training"))
    return Decoder(**settled.values), {f"decoder.{field}": origin for field, origin in settled.origins.items()}


def trm_sizes(shapes: Mapping[str, tuple[int, ...]], place: str) -> dict[str, tuple[int, str, str]]:
    """Give what shapes show of a TRM's layers: field -> value, where it is from, the field in upstream's words.

    Raises:
        InputError: the width of a head does not divide that of the layers.
        GateError: a tensor is missing.
    """
    query, table, inner = (f"{place}{name}" for name in (QUERY, TABLE, INNER))
    width, (places, head_dim) = shape_of(shapes, query, 2)[0], shape_of(shapes, table, 2)
    if head_dim % 2 or width % head_dim:
        raise InputError(f"{table} has {head_dim} columns, which is the width of a head: it does not divide {width}")
    count, origin = layers_of(shapes, place.removesuffix("."))
    found = {
        "width": (width, f"shape of {query}"),
        "num_layers": (count, origin),
        "num_heads": (width // head_dim, f"shape of {table}, by the width"),
        "inner": (shape_of(shapes, inner, 2)[0], f"shape of {inner}"),
        "max_seq_len": (places, f"shape of {table}"),
    }
    return {field: (*seen, TRM_FIELDS[field]) for field, seen in found.items()}


def _agreeing(source: Source, config: EdgeGlassConfig) -> None:
    """See that what is fused and what prompts are as wide as what they take."""
    widths = [getattr(config, name).projection_dim for name in config.modalities]
    if config.fusion and len(widths) < 2:
        raise InputError(f"fusion.* fuses vectors, but the checkpoint has one encoder: {config.modalities[0]}")
    taken: dict[str, int] = {}
    if config.fusion and config.fusion.strategy == CONCAT:
        taken["fusion.projector.0.weight"] = sum(widths)
    elif config.fusion:
        named = zip(config.modalities, widths, strict=True)
        taken |= {f"fusion.modality_projectors.{name}.weight": width for name, width in named}
    if config.prompt_dim and not config.fusion and not config.vision:
        raise InputError("llm_projector.* makes a prompt of a picture's vector, but there is no image encoder")
    if config.prompt_dim:
        taken["llm_projector.projector.net.1.weight"] = config.prompted
    for name, width in taken.items():
        if shape_of(source.shapes, name, 2)[1] != width:
            raise InputError(f"{name} takes {source.shapes[name][1]} numbers, but what it is given has {width}")


def _agree(stated: list[Document], field: str, value: Any, origin: str) -> None:
    """Refuse a document that contradicts the tensors."""
    for document in stated:
        if document.take(field, type(value), value) != value:
            raise InputError(
                f"{document.origin}: {document._prefix}{field} is {shown(document.fields[field])}, but the "
                f"checkpoint's tensors say {shown(value)} ({origin})"
            )

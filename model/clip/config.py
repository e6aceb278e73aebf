"""What a CLIP network is, in numbers, and how it is read from shapes and documents.

Of transformers' names and documents; `open_clip.py` reads open_clip's.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...validation.errors import GateError, InputError
from ..bert.config import CONFIG_HARMLESS
from ..documents import USED, Configured, Document, Harmless, Only, Settled
from ..family import REFUSED, Shapes, Source
from ..pictures import MEAN, STD, Pictures, settle_pictures
from ..pipeline import MODULE_HARMLESS, MODULES, SENTENCES, TYPES, settle_sentences
from ..tokenizer import SETTINGS, settle_tokenizer, special_ids

CONFIG = "config.json"
TRANSFORMERS, OPEN_CLIP = "transformers", "open_clip"
BARE = "transformers, a tower alone"
"""Names without a tower's prefix, as transformers 5 saves a tower without a projection."""

BGE_VL = "modeling_MMRet_CLIP.CLIPModel"
"""The class that BGE-VL's config.json names as its own: CLIPModel, and texts and pictures embedded together."""

CLIP_MODULES = (
    "sentence_transformers.models.CLIPModel",
    "sentence_transformers.sentence_transformer.modules.clip_model.CLIPModel",
)
"""The first module of sentence-transformers' folders of CLIP, by the names that it writes to 6.2."""

ACTIVATIONS = ("quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "silu", "swish", "relu")

HIGHEST = 2
"""An eos_token_id that is none: such files are older than transformers 4.31, which pools at the highest id for them."""

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "text": {"num_attention_heads": 8, "pad_token_id": 1, "bos_token_id": 49406, "eos_token_id": 49407},
    "vision": {"num_attention_heads": 12},
}
BOTH = {"layer_norm_eps": 1e-5, "hidden_act": "quick_gelu"}
"""What CLIPTextConfig and CLIPVisionConfig of transformers 5.24 take where config.json is silent."""

TOWER_HARMLESS: Harmless = {
    **CONFIG_HARMLESS,
    **dict.fromkeys(("attention_dropout", "dropout"), "dropout, which inference leaves out"),
    **dict.fromkeys(("initializer_factor",), "training only"),
    "projection_dim": "the projections' shapes show it",
    "model_type": Only(("clip_text_model", "clip_vision_model", "clip"), "a tower of CLIP"),
}
HARMLESS: Harmless = {
    **CONFIG_HARMLESS,
    **dict.fromkeys(("initializer_factor", "logit_scale_init_value"), "training only"),
    "auto_map": Only((None,), "no code of its own"),
    **dict.fromkeys(("text_config_dict", "vision_config_dict"), Only((None, {}), "nothing beside the towers' own")),
}
"""config.json, by CLIPConfig of transformers 5.24."""

SPECIAL = {
    "bos_token_id": ("bos_token", ("<|startoftext|>",)),
    "last_token_id": ("eos_token", ("<|endoftext|>",)),
    "pad_token_id": ("pad_token", ()),
}
"""Configuration's field -> the tokenizer documents' name of the token, and its usual texts."""


@dataclass(frozen=True)
class TowerConfig:
    """What both towers have. Field names are Hugging Face's."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    layer_norm_eps: float = 1e-5
    hidden_act: str = "quick_gelu"


@dataclass(frozen=True)
class TextConfig(TowerConfig):
    """The text tower."""

    vocab_size: int = 49408
    max_position_embeddings: int = 77
    pad_token_id: int = 49407
    bos_token_id: int = 49406
    eos_token_id: int = 49407
    """Where it first stands, a text is pooled; `HIGHEST` stands for the highest id."""
    last_token_id: int = 49407
    """What the tokenizer ends a text with."""
    max_seq_length: int = 77
    truncation_side: str = "right"


@dataclass(frozen=True)
class VisionConfig(TowerConfig):
    """The image tower."""

    image_size: int = 224
    patch_size: int = 32
    num_channels: int = 3

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class ClipConfig:
    """One tower or both, what they are projected to, and what is done to raw texts and pictures.

    Args:
        text: None where the checkpoint is the image tower alone.
        vision: None where it is the text tower alone.
        projection_dim: width of the shared space; 0 where a tower alone has no projection.
        pictures: how pictures are prepared.
        normalize: whether embeddings have length one.
        multimodal: whether a text and a picture are embedded together, as BGE-VL does it: the sum of both features, of
            length one. Its processor cuts no text.
        names: whose names the tensors have: `TRANSFORMERS`, `BARE` or `OPEN_CLIP`.
        prompts: name and text of each.
        default_prompt: the name of the one that stands before every text; "" for none.
        similarity: how sentence-transformers compares embeddings.
    """

    text: TextConfig | None
    vision: VisionConfig | None
    projection_dim: int
    pictures: Pictures = field(default_factory=Pictures)
    normalize: bool = True
    multimodal: bool = False
    names: str = TRANSFORMERS
    prompts: tuple[tuple[str, str], ...] = ()
    default_prompt: str = ""
    similarity: str = "cosine"

    @property
    def masked(self) -> bool:
        """Say whether the text tower takes a mask: open_clip's does not, since padding comes after what is pooled."""
        return self.names != OPEN_CLIP


Four = tuple[int, int, int, int]


def _openai(text: Four, vision: Four, patch_size: int, projection: int) -> ClipConfig:
    pictures = Pictures((224,), mean=MEAN, std=STD)
    return ClipConfig(TextConfig(*text), VisionConfig(*vision, patch_size=patch_size), projection, pictures)


SIZES = {
    "base": _openai((512, 12, 8, 2048), (768, 12, 12, 3072), 32, 512),
    "base-16": _openai((512, 12, 8, 2048), (768, 12, 12, 3072), 16, 512),
    "large": _openai((768, 12, 12, 3072), (1024, 24, 16, 4096), 14, 768),
    "tiny": ClipConfig(
        TextConfig(32, 2, 4, 64, 1e-5, "gelu", 200, 20, 1, 198, 199, 199, 20),
        VisionConfig(24, 2, 2, 40, image_size=16, patch_size=4),
        12,
        Pictures((16,), mean=MEAN, std=STD),
    ),
}
"""Published: openai/clip-vit-base-patch32, -base-patch16, -large-patch14. And a tiny one."""


TEXT, VISION = "text_model.final_layer_norm.weight", "vision_model.pre_layrnorm.weight"
"""What each tower has that no other network's has, SigLIP's text tower apart, which has a head besides."""

BARE_NAMES = {"text": "final_layer_norm.weight", "vision": "pre_layrnorm.weight"}
PROJECTIONS = {"text": "text_projection.weight", "vision": "visual_projection.weight"}
HEAD = "text_model.head.weight"


def recognise(source: Source) -> str:
    """Say why a checkpoint belongs here."""
    if within_tower(source):
        return ""
    if tower := bare(source, "clip", BARE_NAMES):
        return f"names {BARE_NAMES[tower]}, and model_type in {CONFIG}"
    has = {"text": TEXT in source.shapes and HEAD not in source.shapes, "vision": VISION in source.shapes}
    projected = [tower for tower, name in PROJECTIONS.items() if name in source.shapes]
    if all(has.values()) and len(projected) < 2:
        return ""  # a network around two towers, or half a checkpoint
    if not any(has.values()) or any(not has[tower] for tower in projected):
        return ""
    names = [name for tower, name in (("text", TEXT), ("vision", VISION)) if has[tower]]
    return f"names {', '.join([*names, *(PROJECTIONS[tower] for tower in projected)])}"


def within_tower(source: Source) -> bool:
    """Say whether what was taken for a wrapper is the prefix of a tower, so that half a network is seen."""
    return bool(source.wrappers) and source.wrappers[-1].endswith(("text_model.", "vision_model."))


def bare(source: Source, kind: str, names: Mapping[str, str]) -> str:
    """Say which tower a checkpoint is without its prefix, by model_type and a name of it; "" for none."""
    document = source.documents.get(CONFIG)
    stated = document.content.get("model_type") if document and isinstance(document.content, dict) else None
    return next((t for t, name in names.items() if stated == f"{kind}_{t}_model" and name in source.shapes), "")


def prefixed(source: Source, tower: str) -> Source:
    """Give the checkpoint of a bare tower with its prefix before the names."""
    shapes = {f"{tower}_model.{name}": shape for name, shape in source.shapes.items()}
    return replace(source, shapes=shapes) if tower else source


def configure(source: Source) -> Configured:
    """Read the towers: sizes from shapes, the rest from config.json, or transformers' default where that is silent.

    Raises:
        InputError: there is no config.json, or a field contradicts the shapes or is not computed here.
    """
    document = source.document(CONFIG)
    if document is None:
        raise InputError(
            f"no {CONFIG} lies beside the checkpoint: networks of the same shapes are trained with quick_gelu and with "
            "gelu; put it there, or pass --config FILE"
        )
    alone = bare(source, "clip", BARE_NAMES)
    source = prefixed(source, alone)
    has = {"text": TEXT in source.shapes, "vision": VISION in source.shapes}
    documents = _of_towers(document, has)
    whole, pictures = source.settled(), source.settled("pictures.")
    towers = {tower: source.settled(f"{tower}.") for tower in documents}
    whole.put("names", BARE if alone else TRANSFORMERS, "names of the tensors")
    _settle_projection(whole, source, document, has)
    for tower, settle in (("text", _settle_text), ("vision", _settle_vision)):
        if tower in documents:
            settle(towers[tower], source, documents[tower])
        else:
            whole.put(tower, None, f"the checkpoint has no tensors of a {tower} tower")
    if not all(has.values()):
        whole.put("multimodal", False, "the checkpoint has one tower")
    elif _settle_multimodal(whole, document):
        towers["text"].values["truncation_side"] = REFUSED
        towers["text"].origins["truncation_side"] = "BGE-VL's processor cuts no text"
    if "vision" in towers:
        settle_pictures(pictures, source, towers["vision"].values["image_size"])
    else:
        unseen(pictures)
    _settle_pipeline(whole, source, both=all(has.values()))
    document.accept(HARMLESS)
    return configured(whole, towers, pictures)


def configured(whole: Settled, towers: Mapping[str, Settled], pictures: Settled) -> Configured:
    """Put the settled parts together."""
    text = TextConfig(**towers["text"].values) if "text" in towers else None
    vision = VisionConfig(**towers["vision"].values) if "vision" in towers else None
    values = {"text": text, "vision": vision, "pictures": Pictures(**pictures.values)}
    parts = (whole, *towers.values(), pictures)
    origins = {f"{s.part}{name}": origin for s in parts for name, origin in s.origins.items()}
    return Configured(ClipConfig(**{**whole.values, **values}), origins)


def unseen(pictures: Settled) -> None:
    """Settle how pictures are prepared for a network that sees none."""
    for name, value in vars(Pictures()).items():
        pictures.put(name, value, "the network sees no pictures")


def _of_towers(document: Document, has: Mapping[str, bool]) -> dict[str, Document]:
    """Find what config.json says of each tower: a part of it, or all of it where it is one tower's own.

    Raises:
        InputError: it is of another network than the tensors.
    """
    kind = document.take("model_type", str, "clip", choices=("clip", "clip_text_model", "clip_vision_model"))
    alone = next((tower for tower in has if kind == f"clip_{tower}_model"), "")
    if alone and (not has[alone] or all(has.values())):
        towers = " and ".join(tower for tower, there in has.items() if there)
        raise InputError(f"{document.origin}: model_type is {kind}, but the checkpoint has tensors of: {towers}")
    if alone:
        return {alone: document}
    for tower in (tower for tower, there in has.items() if not there):
        document.note(f"{tower}_config", "of a tower that is not in the checkpoint")
    return {tower: document.part(f"{tower}_config") for tower, there in has.items() if there}


def _settle_projection(whole: Settled, source: Source, document: Document, has: Mapping[str, bool]) -> None:
    names = [name for tower, name in PROJECTIONS.items() if has[tower] and name in source.shapes]
    if not names:
        asked = [str(name) for name in document.fields.get("architectures") or []]
        if any(name.endswith("WithProjection") for name in asked):
            wanted = " or ".join(name for tower, name in PROJECTIONS.items() if has[tower])
            raise InputError(f"{document.origin}: architectures is {', '.join(asked)}, but there is no {wanted}")
        document.note("projection_dim", "nothing is projected")
        whole.put("projection_dim", 0, "the checkpoint has no projection")
        return
    projection = shape_of(source.shapes, names[0], 2)[0]
    agree(document, {"projection_dim": (projection, f"shape of {names[0]}")}, whole)


def _settle_multimodal(whole: Settled, document: Document) -> bool:
    """Tell BGE-VL by the class that its config.json names; other code of its own stays unread, and is refused."""
    stated = document.fields.get("auto_map") if "auto_map" in document else None
    named = stated.get("AutoModel") if isinstance(stated, dict) else None
    is_bge_vl = isinstance(named, str) and named.rpartition("--")[2] == BGE_VL
    if is_bge_vl:
        document.part("auto_map").note("AutoModel", USED)
    origin = f"{CONFIG}: auto_map" if is_bge_vl else f"{CONFIG} does not name {BGE_VL}"
    return bool(whole.choose("multimodal", bool, otherwise=(is_bge_vl, origin)))


def _settle_pipeline(whole: Settled, source: Source, *, both: bool) -> None:
    """Read what sentence-transformers does with the features: nothing, or length one.

    Raises:
        InputError: a module that is not computed here, named with its place.
    """
    document = source.document(MODULES)
    if document is None:
        whole.choose("normalize", bool, otherwise=(both, "as CLIPModel gives it" if both else "as the tower gives it"))
    else:
        kinds = []
        for at, item in enumerate(document.items()):
            kind = item.take("type", str)
            kinds.append(kind)
            known = CLIP_MODULES if at == 0 else TYPES["Normalize"]
            if kind not in known:
                raise InputError(
                    f"{document.origin}: module {at} is {kind}; what is computed here is CLIPModel, and Normalize "
                    "after it: the embeddings would be others"
                )
            item.accept({**dict.fromkeys(("idx", "name", "path"), "where it is"), **MODULE_HARMLESS})
        whole.choose("normalize", bool, otherwise=(len(kinds) > 1, MODULES))
    settle_sentences(whole, source)
    if sentences := source.document(SENTENCES):
        sentences.accept({"truncate_dim": Only((None,), "embeddings are whole")})


def _settle_text(settled: Settled, source: Source, document: Document) -> None:
    shapes, word, place = source.shapes, "embeddings.token_embedding.weight", "embeddings.position_embedding.weight"
    vocab_size, width = shape_of(shapes, f"text_model.{word}", 2)
    positions = shape_of(shapes, f"text_model.{place}", 2)[0]
    seen = {"vocab_size": (vocab_size, word), "max_position_embeddings": (positions, place)}
    settle_tower(settled, source, document, "text", width, seen, functools.partial(_default, "text"))
    end = settled.choose(
        "eos_token_id", int, (document, "eos_token_id"), otherwise=_default("text", "eos_token_id"), low=0
    )
    tokens = {name: (number, origin) for name, number, origin in special_ids(source, SPECIAL)}
    legacy = end == HIGHEST
    last = (vocab_size - 1, "the highest id, as eos_token_id 2 means") if legacy else (end, f"{CONFIG}: eos_token_id")
    silent = {"last_token_id": last, "bos_token_id": _default("text", "bos_token_id")}
    silent["pad_token_id"] = _default("text", "pad_token_id")
    for name in SPECIAL:
        stated = [] if name in tokens or name == "last_token_id" else [(document, name)]
        settled.choose(name, int, *stated, otherwise=tokens.get(name, silent[name]), low=0, high=vocab_size - 1)
        document.note(name, document.fates.get(name, "the tokenizer has its id"))
    if settled.values["last_token_id"] != last[0]:
        raise InputError(
            f"{settled.origins['last_token_id']} has the id {settled.values['last_token_id']}, but {CONFIG} pools a "
            f"text at {last[0]} ({last[1]}); pass the tokenizer of this network with --tokenizer, or --no-tokenizer"
        )
    document.accept(TOWER_HARMLESS)
    settle_tokenizer(source, "CLIPTokenizer")
    settle_limit(settled, source, positions)


def settle_limit(settled: Settled, source: Source, positions: int) -> None:
    """Settle how long a text may be, and which end of a longer one is cut off."""
    settings = source.document(SETTINGS)
    limits = [(settings, "model_max_length")] if settings and "model_max_length" in settings else []
    limit = settled.choose(
        "max_seq_length", float, *limits, otherwise=(positions, "as many as there are positions"), low=3
    )
    settled.values["max_seq_length"] = int(min(limit, positions))
    if settings:
        settings.take("padding_side", str, "right", choices=("right",))
    sides = ("right", "left")
    default = ("right", "default of transformers' tokenizers")
    settled.choose("truncation_side", str, (settings, "truncation_side"), otherwise=default, choices=sides)


def _settle_vision(settled: Settled, source: Source, document: Document) -> None:
    patch, place = "embeddings.patch_embedding.weight", "embeddings.position_embedding.weight"
    width, channels, patch_size, _ = shape_of(source.shapes, f"vision_model.{patch}", 4)
    positions = shape_of(source.shapes, f"vision_model.{place}", 2)[0]
    grid = math.isqrt(max(positions - 1, 0))
    if grid < 1 or grid**2 != positions - 1:
        raise InputError(f"vision_model.{place} has {positions} rows, expected a square number of patches and 1")
    seen = {
        "image_size": (grid * patch_size, place),
        "patch_size": (patch_size, patch),
        "num_channels": (channels, patch),
    }
    settle_tower(settled, source, document, "vision", width, seen, functools.partial(_default, "vision"))
    document.accept(TOWER_HARMLESS)


def settle_tower(
    settled: Settled,
    source: Source,
    document: Document,
    tower: str,
    width: int,
    seen: Mapping[str, tuple[int, str]],
    usual: Callable[[str], tuple[Any, str]],
) -> None:
    """Settle what a tower's blocks are made of.

    Args:
        settled: what is settled so far.
        source: with the tensors' shapes.
        document: what config.json says of the tower.
        tower: "text" or "vision".
        width: of its states.
        seen: further fields that shapes show, with the tensors behind the tower's prefix that show them.
        usual: gives a field's value where the document is silent, and where that is from.

    Raises:
        InputError: the document contradicts the shapes.
        GateError: layers are missing.
    """
    prefix, inner = f"{tower}_model.", "encoder.layers.0.mlp.fc1.weight"
    numbered = re.compile(rf"{tower}_model\.encoder\.layers\.(\d+)\.")
    layers = {int(match[1]) for name in source.shapes if (match := numbered.match(name))}
    if not layers or len(layers) <= max(layers):
        raise GateError(f"the tensors {prefix}encoder.layers.* do not number the layers 0, 1, 2, ...")
    sizes = {name: (value, f"shape of {prefix}{origin}") for name, (value, origin) in seen.items()}
    sizes["hidden_size"] = (width, f"shape of {prefix}embeddings.position_embedding.weight")
    sizes["num_hidden_layers"] = (len(layers), f"names {prefix}encoder.layers.*")
    sizes["intermediate_size"] = (shape_of(source.shapes, prefix + inner, 2)[0], f"shape of {prefix}{inner}")
    agree(document, sizes, settled)
    for name, kind, expected in (
        ("num_attention_heads", int, {"low": 1}),
        ("layer_norm_eps", float, {"low": 0}),
        ("hidden_act", str, {"choices": ACTIVATIONS}),
    ):
        settled.choose(name, kind, (document, name), otherwise=usual(name), **expected)
    heads = settled.values["num_attention_heads"]
    if width % heads:
        raise InputError(
            f"{settled.origins['num_attention_heads']}: num_attention_heads is {heads}, which does not divide "
            f"hidden_size {width}; say it with --set {settled.part}num_attention_heads="
        )


def _default(tower: str, name: str) -> tuple[Any, str]:
    return {**DEFAULTS[tower], **BOTH}[name], f"default of transformers' CLIP{tower.title()}Config"


def agree(document: Document, seen: Mapping[str, tuple[int, str]], settled: Settled) -> None:
    """Settle what shapes show; refuse a document that contradicts them."""
    for name, (value, origin) in seen.items():
        settled.put(name, value, origin)
        if document.take(name, int, value) != value:
            raise InputError(
                f"{document.origin}: {settled.part}{name} is {document.fields[name]}, but the checkpoint's tensors say "
                f"{value} ({origin})"
            )


def shape_of(shapes: Shapes, name: str, rank: int) -> tuple[int, ...]:
    """Give a tensor's shape.

    Raises:
        GateError: it is not there, or not of that rank.
    """
    shape = shapes.get(name)
    if shape is None or len(shape) != rank or 0 in shape:
        raise GateError(f"tensor {name} must be there with {rank} dimensions, got {shape or 'nothing'}")
    return shape

"""What a Visualized-BGE network is, in numbers: a text encoder, an EVA-02 image tower of the same width."""

import math
import re
from dataclasses import dataclass

import numpy as np

from ...validation.errors import GateError, InputError
from ..bert.config import SIZES as TEXT_SIZES
from ..bert.config import BertConfig, settle_network
from ..documents import JSON, Configured, Harmless, Only, Settled
from ..family import Shapes, Source
from ..steps import CLS
from ..tokenizer import SETTINGS

VISUAL = "model_visual.visual."
BLOCKS = re.compile(re.escape(VISUAL) + r"blocks\.(\d+)\.")

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class VisionConfig:
    """EVA-02's image tower as EVA-CLIP builds it: pre-norm, sub-norm, SwiGLU, 2-D rotary positions."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    pretrained_grid: int = 16
    """Side of the grid that the rotary coordinates are scaled to (`pt_hw_seq_len`)."""
    layer_norm_eps: float = 1e-6
    channels: int = 3
    embed_dim: int = 512
    """Width of the unused contrastive head; only a fixture needs it."""

    @property
    def grid(self) -> int:
        """Patches on a side."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return self.grid**2

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads


@dataclass(frozen=True)
class VisualizedBGEConfig:
    """The two towers; the text encoder's width is the image tower's."""

    text: BertConfig
    vision: VisionConfig

    @property
    def max_fused_tokens(self) -> int:
        """Longest text beside an image: the image takes the positions 1 to `patches`."""
        return self.text.max_position_embeddings - self.vision.patches


SIZES = {
    "base": VisualizedBGEConfig(TEXT_SIZES["base"], VisionConfig(224, 16, 768, 12, 12, 2048)),
    "m3": VisualizedBGEConfig(TEXT_SIZES["m3"], VisionConfig(224, 14, 1024, 24, 16, 2730, embed_dim=768)),
    "tiny": VisualizedBGEConfig(TEXT_SIZES["tiny"], VisionConfig(16, 4, 32, 2, 2, 85, embed_dim=24)),
}
"""Published: bge-base-en-v1.5 + EVA02-CLIP-B-16, bge-m3 + EVA02-CLIP-L-14. And a tiny one."""


EVA = "eva_config.json"
UPSTREAM = "code of FlagEmbedding's Visualized_BGE"

_TRAINING = "training only"
_EXECUTION = "how it is executed"
VISION_HARMLESS: Harmless = {
    "drop_path_rate": _TRAINING,
    "patch_dropout": _TRAINING,
    "xattn": _EXECUTION,
    "fusedLN": _EXECUTION,
    "mlp_ratio": "the tensors' shapes show the inner width",
    "eva_model_name": "a name",
    "layer_norm_eps": Only((1e-6,), "as is computed here"),
    "qkv_bias": Only((True,), "as the tensors' names show"),
    "intp_freq": Only((True,), "the rotary tables are the checkpoint's own"),
}
"""vision_cfg, by CLIPVisionCfg of EVA-CLIP."""
EVA_HARMLESS: Harmless = {
    "embed_dim": "the width of a head that no embedding passes",
    "text_cfg": "EVA-CLIP's own text tower, which BGE stands in for",
    "custom_text": "EVA-CLIP's own text tower, which BGE stands in for",
}


def recognise(source: Source) -> str:
    """Say why a checkpoint belongs here."""
    text = any(name.startswith("bge_encoder.") for name in source.shapes)
    seen = any(name.startswith(VISUAL) for name in source.shapes)
    return f"names bge_encoder.* and {VISUAL}*" if text and seen else ""


def configure(source: Source) -> Configured:
    """Read both towers; the image tower's shapes, with its rotary tables, show everything but the pretraining grid.

    Pooling, length and texts are upstream's code, which reads no file for them: it cuts off no text.
    """
    settled = source.settled("text.")
    settle_network(settled, source, "bge_embeddings.", "bge_encoder.")
    if document := source.document(SETTINGS):
        document.accept(dict.fromkeys(("model_max_length", "truncation_side"), f"{UPSTREAM} cuts off no text"))
        document.take("padding_side", str, "right", choices=("right",))
    for field, value in {"pipeline": CLS, "max_seq_length": 0, "truncation_side": "right"}.items():
        settled.put(field, value, UPSTREAM)
    for field, value in {"do_lower_case": False, "prompts": (), "default_prompt": "", "similarity": "cosine"}.items():
        settled.put(field, value, UPSTREAM)
    text, vision = BertConfig(**settled.values), _vision(source)
    if vision.values["width"] != text.hidden_size:
        raise InputError(
            f"the image tower is {vision.values['width']} wide and the text encoder {text.hidden_size}: "
            "Visualized-BGE adds their tokens, so both must be equal"
        )
    config = VisualizedBGEConfig(text, VisionConfig(**vision.values))
    if config.max_fused_tokens < 2:
        raise InputError(
            f"{text.max_position_embeddings} positions leave {config.max_fused_tokens} for a text beside an image of "
            f"{config.vision.patches} patches; at least 2 are needed"
        )
    origins = {f"{s.part}{field}": origin for s in (settled, vision) for field, origin in s.origins.items()}
    return Configured(config, origins)


def _vision(source: Source) -> Settled:
    shapes, settled = source.shapes, source.settled("vision.")
    width, channels, patch_size, _ = _shape(shapes, "patch_embed.proj.weight", 4)
    patches, head_dim = _shape(shapes, "rope.freqs_cos", 2)
    grid = math.isqrt(patches)
    blocks = {int(match[1]) for name in shapes if (match := BLOCKS.match(name))}
    if not blocks or len(blocks) <= max(blocks):
        raise GateError(f"the tensors {VISUAL}blocks.* do not number the image tower's blocks 0, 1, 2, ...")
    if grid**2 != patches or head_dim < 4 or head_dim % 4 or width % head_dim:
        raise InputError(
            f"{VISUAL}rope.freqs_cos must be (grid * grid, head_dim), head_dim dividing {width} and a multiple of 4, "
            f"got {(patches, head_dim)}"
        )
    proj, rope, mlp = (
        f"shape of {VISUAL}{name}" for name in ("patch_embed.proj.weight", "rope.freqs_cos", "blocks.0.mlp.w1.weight")
    )
    settled.put("image_size", grid * patch_size, rope)
    settled.put("patch_size", patch_size, proj)
    settled.put("width", width, proj)
    settled.put("layers", len(blocks), f"names {VISUAL}blocks.*")
    settled.put("heads", width // head_dim, rope)
    settled.put("mlp_width", _shape(shapes, "blocks.0.mlp.w1.weight", 2)[0], mlp)
    settled.put("channels", channels, proj)
    head = shapes.get(f"{VISUAL}head.weight", (512,))
    settled.put("embed_dim", head[0] if head else 512, f"shape of {VISUAL}head.weight")
    settled.put("layer_norm_eps", 1e-6, "code of EVA-CLIP")
    _read_eva(settled, source, head_dim)
    return settled


def _shape(shapes: Shapes, name: str, rank: int) -> tuple[int, ...]:
    shape = shapes.get(VISUAL + name)
    if shape is None or len(shape) != rank or 0 in shape:
        raise GateError(f"tensor {VISUAL}{name} must be there with {rank} dimensions, got {shape or 'nothing'}")
    return shape


def _read_eva(settled: Settled, source: Source, head_dim: int) -> None:
    """Settle the pretraining grid; refuse a document that contradicts the tensors or asks for another construction."""
    whole = source.document(EVA)
    document = whole.part("vision_cfg") if whole else None
    settled.choose(
        "pretrained_grid",
        int,
        (document, "pt_hw_seq_len"),
        otherwise=(16, "default of EVA-CLIP's CLIPVisionCfg"),
        low=1,
    )
    if not whole or not document:
        return
    seen: dict[str, JSON] = {name: settled.values[name] for name in ("image_size", "patch_size", "width", "layers")}
    for field, value in seen.items() | {("head_width", head_dim)}:
        if document.take(field, int, value) != value:
            raise InputError(
                f"{whole.origin}: vision_cfg.{field} is {document.fields[field]}, "
                f"but the checkpoint's tensors say {value}"
            )
    for field, built in {"rope": True, "subln": True, "naiveswiglu": True, "postnorm": False}.items():
        document.take(field, bool, built, choices=(built,))
    document.accept(VISION_HARMLESS)
    whole.accept(EVA_HARMLESS)


def rotary_tables(config: VisionConfig) -> tuple[np.ndarray, np.ndarray]:
    """Compute cos and sin, each (patches, head_dim) float32, as EVA-CLIP registers them.

    Angles 10000^(-j / half) for j = 0, 2, ..., each twice in a row; rows of the grid in the first half of the
    head, columns in the second; coordinates scaled from the grid to the pretraining grid.
    """
    half = config.head_dim // 2
    frequencies = 1.0 / 10000.0 ** (np.arange(0, half, 2, dtype=np.float32) / np.float32(half))
    coordinates = (
        np.arange(config.grid, dtype=np.float32) / np.float32(config.grid) * np.float32(config.pretrained_grid)
    )
    angles = np.repeat(coordinates[:, None] * frequencies.astype(np.float32), 2, axis=1)
    rows = np.repeat(angles, config.grid, axis=0)
    columns = np.tile(angles, (config.grid, 1))
    table = np.concatenate([rows, columns], axis=1)
    return np.cos(table), np.sin(table)

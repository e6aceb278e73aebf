"""What a Visualized-BGE network is, in numbers: a text encoder, an EVA-02 image tower of the same width."""

import math
import re
from dataclasses import dataclass

import numpy as np

from ...validation.errors import GateError, InputError
from ..bert.config import SIZES as TEXT_SIZES
from ..bert.config import BertConfig, configure_text, sizes_from_shapes
from ..family import Settings, Shapes

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


def configure(shapes: Shapes, settings: Settings) -> VisualizedBGEConfig:
    """Read both towers; the image tower's shapes, with its rotary tables, show everything but the pretraining grid."""
    text = configure_text(sizes_from_shapes(shapes, "bge_embeddings.", "bge_encoder."), settings)
    vision = _vision(shapes, settings)
    if vision.width != text.hidden_size:
        raise InputError(
            f"the image tower is {vision.width} wide and the text encoder {text.hidden_size}: "
            "Visualized-BGE adds their tokens, so both must be equal"
        )
    return VisualizedBGEConfig(text, vision)


def _vision(shapes: Shapes, settings: Settings) -> VisionConfig:
    width, channels, patch_size, _ = _shape(shapes, "patch_embed.proj.weight", 4)
    patches, head_dim = _shape(shapes, "rope.freqs_cos", 2)
    grid = math.isqrt(patches)
    blocks = [int(match[1]) for name in shapes if (match := BLOCKS.match(name))]
    if not blocks:
        raise GateError(f"no tensor is called {VISUAL}blocks.*: the image tower has no blocks")
    if grid**2 != patches or head_dim < 4 or head_dim % 4 or width % head_dim:
        raise InputError(
            f"{VISUAL}rope.freqs_cos must be (grid * grid, head_dim), head_dim dividing {width} and a multiple of 4, "
            f"got {(patches, head_dim)}"
        )
    seen = VisionConfig(
        image_size=grid * patch_size,
        patch_size=patch_size,
        width=width,
        layers=max(blocks) + 1,
        heads=width // head_dim,
        mlp_width=_shape(shapes, f"blocks.{min(blocks)}.mlp.w1.weight", 2)[0],
        pretrained_grid=int(settings.vision.get("pt_hw_seq_len", 16)),
        channels=channels,
        embed_dim=shapes.get(f"{VISUAL}head.weight", (512,))[0],
    )
    _agree(seen, settings)
    return seen


def _shape(shapes: Shapes, name: str, rank: int) -> tuple[int, ...]:
    shape = shapes.get(VISUAL + name)
    if shape is None or len(shape) != rank:
        raise GateError(f"tensor {VISUAL}{name} must be there with {rank} dimensions, got {shape or 'nothing'}")
    return shape


def _agree(seen: VisionConfig, settings: Settings) -> None:
    """Refuse a configuration file that contradicts the tensors or asks for another construction."""
    stated = {
        "image_size": seen.image_size,
        "patch_size": seen.patch_size,
        "width": seen.width,
        "layers": seen.layers,
        "head_width": seen.head_dim,
        "rope": True,
        "subln": True,
        "naiveswiglu": True,
        "postnorm": False,
    }
    for field, value in stated.items():
        if settings.vision.get(field, value) != value:
            origin = settings.files.get("vision", "eva_config.json")
            raise InputError(
                f"{origin}: vision_cfg.{field} is {settings.vision[field]}, but the checkpoint's tensors say {value}"
            )


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

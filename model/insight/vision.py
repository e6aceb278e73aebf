"""VisionTransformer and PatchEmbedding. Pictures are given channels last; each patch is one vector, row by row."""

import math
from dataclasses import dataclass

import numpy as np

from ...validation.entry_point import EntryPoint, Pixels, TensorSpec
from ...validation.errors import InputError
from ...validation.outputs import Embedding, Logits
from ..family import Drop, Rule
from ..parts import Part, join
from .entries import given, method
from .kind import Kind, Reading
from .pieces import TABLE, alone, attention, linear, norm, packed, positions, stack, without

HALF = 0.5
"""Mean and deviation of the pixels that cases hold: upstream normalises by what its user's data say."""


@dataclass(frozen=True)
class VisionConfig:
    """VisionTransformer."""

    model_type: str
    image_size: int
    patch_size: int
    in_channels: int
    num_classes: int
    embed_dim: int
    depth: int
    num_heads: int
    mlp_width: int
    qkv_bias: bool
    pool: str
    positional_encoding: str
    dropout: float = 0.0

    @property
    def tokens(self) -> int:
        """Patches, and the class token if there is one."""
        return (self.image_size // self.patch_size) ** 2 + (self.pool == "cls")


@dataclass(frozen=True)
class PatchConfig:
    """PatchEmbedding."""

    model_type: str
    image_size: int
    patch_size: int
    in_channels: int
    embed_dim: int
    use_cls_token: bool
    positional_encoding: str
    dropout: float = 0.0

    @property
    def tokens(self) -> int:
        """Patches, and the class token if there is one."""
        return (self.image_size // self.patch_size) ** 2 + self.use_cls_token


def _read_picture(reading: Reading, projection: str, places: str, tokens: int, first: int) -> None:
    """Settle the picture's size and channels, of the patches' projection and of how many tokens there are.

    Args:
        reading: what is read.
        projection: the tensor that makes vectors of patches.
        places: the tensor with a row for each token; "" where none is stored.
        tokens: how many rows it has.
        first: how many of these are no patches.
    """
    _, channels, side, _ = reading.shape(projection, 4)
    grid = math.isqrt(max(tokens - first, 0))
    if not places:
        reading.ask_size("image_size", side, "places are computed and not stored, so that no tensor shows it")
    elif grid < 1 or grid**2 != tokens - first:
        raise InputError(f"{reading.prefix}{places} has {tokens} rows, expected a square number of patches and {first}")
    else:
        why = f"shape of {reading.prefix}{places}"
        reading.option("image_size", grid * side, why, low=grid * side, high=grid * side + side - 1)
    reading.show("patch_size", side, f"shape of {reading.prefix}{projection}")
    reading.show("in_channels", channels, f"shape of {reading.prefix}{projection}")


def read_vision(reading: Reading) -> None:
    """Read a VisionTransformer, alone or behind a prefix."""
    first = "cls_token" in reading.shapes
    learned = "pos_embed" in reading.shapes
    rows = reading.shape("pos_embed", 3)[1] if learned else 0
    _read_picture(reading, "patch_embed.proj.weight", "pos_embed" if learned else "", rows, int(first))
    reading.size("num_classes", "head.weight", 0)
    width = reading.size("embed_dim", "patch_embed.proj.weight", 0, rank=4)
    reading.show("depth", reading.count(r"blocks\.(\d+)\."), f"names {reading.prefix}blocks.*")
    reading.heads("num_heads", width, "embed_dim")
    inner = reading.size("mlp_width", "blocks.0.mlp.fc1.weight", 0)
    for document in reading.documents:
        ratio = document.take("mlp_ratio", float, inner / width)
        if int(width * ratio) != inner:
            raise InputError(
                f"{document.origin}: mlp_ratio is {ratio}, but the inner width is {inner} and not {width} times that"
            )
    reading.show("qkv_bias", "blocks.0.attn.qkv.bias" in reading.shapes, "names attn.qkv.*")
    token = "cls_token" if first else "there is no cls_token"
    why = f"name {token}" if first else token
    reading.show("pool", "cls" if first else "mean", why, also=lambda stated: not first and stated != "cls")
    _read_places(reading, learned, f"{'name' if learned else 'no name'} pos_embed")
    reading.dropout()


def _read_places(reading: Reading, learned: bool, why: str) -> None:
    """Settle how places are encoded: upstream takes any other word than "learned" for "sinusoidal"."""
    kind = "learned" if learned else "sinusoidal"
    reading.show("positional_encoding", kind, why, also=lambda stated: not learned and stated != "learned")


def _read_patches(reading: Reading) -> None:
    first, learned = "cls_token" in reading.shapes, "position_embedding" in reading.shapes
    places = "position_embedding" if learned else "position_ids"
    rows = reading.shape("position_embedding", 3)[1] if learned else reading.shape("position_ids", 2)[1]
    _read_picture(reading, "projection.weight", places, rows, int(first))
    reading.size("embed_dim", "projection.weight", 0, rank=4)
    reading.show("use_cls_token", first, "name cls_token" if first else "there is no cls_token")
    _read_places(reading, learned, f"name {places}")
    reading.dropout()


def patches(width: int, channels: int, side: int) -> Part:
    """A convolution whose windows do not overlap: a matrix for each patch."""
    rules = (Rule("weight", "kernel", "w c r s -> r s c w"), Rule("bias", "bias", "w"))
    shapes = {"weight": (width, channels, side, side), "bias": (width,)}
    return Part(rules, {"w": width, "c": channels, "r": side, "s": side}, shapes)


def _token(width: int) -> Part:
    return alone("cls_token", "cls_token", "1 1 w -> w", {"w": width}, (1, 1, width))


def vision_part(config: VisionConfig) -> Part:
    """The whole network."""
    width, heads = config.embed_dim, config.num_heads
    own = attention(("query", "key", "value", "attn.proj"), width, heads, qkv_bias=config.qkv_bias)
    apart = [name for name in own.checkpoint_shapes if not name.startswith("attn.proj.")]
    block = join(
        norm(width).mounted("norm1.", "norm1."),
        packed("attn.qkv", width, config.qkv_bias).mounted("", "", "packed."),
        without(own, *apart).mounted("", "attention."),
        norm(width).mounted("norm2.", "norm2."),
        linear(width, config.mlp_width).mounted("mlp.fc1.", "mlp.up."),
        linear(config.mlp_width, width).mounted("mlp.fc2.", "mlp.down."),
    )
    learned = config.positional_encoding == "learned"
    return join(
        patches(width, config.in_channels, config.patch_size).mounted("patch_embed.proj.", "patch_embed."),
        *([_token(width).mounted("", "", "token.")] if config.pool == "cls" else []),
        *([positions("pos_embed", config.tokens, width, computed=False).mounted("", "", "p.")] if learned else []),
        stack(block, config.depth, "blocks", "blocks"),
        norm(width).mounted("norm.", "norm."),
        linear(width, config.num_classes).mounted("head.", "head."),
    )


def _patches_part(config: PatchConfig) -> Part:
    width, side = config.embed_dim, config.patch_size
    counted = Part(
        (Drop("position_ids", "it counts 0, 1, 2, ...; nothing reads it"),),
        {},
        {"position_ids": (1, config.tokens)},
        draws={"position_ids": TABLE},
    )
    learned = positions("position_embedding", config.tokens, width, computed=False).mounted("", "", "p.")
    return join(
        patches(width, config.in_channels, side).mounted("projection.", "patch_embed."),
        *([_token(width).mounted("", "", "token.")] if config.use_cls_token else []),
        learned if config.positional_encoding == "learned" else counted,
    )


def computed_places(rows: int, width: int, *, rounded: bool) -> np.ndarray:
    """Compute the places that a network keeps nowhere, to the bits that torch gives: (rows, width) float32.

    Args:
        rows: how many there are.
        width: of each.
        rounded: whether the logarithm was float32 before it was divided, as PatchEmbedding computes it.
    """
    base = np.log(10000.0)
    step = np.float32(-np.float32(base) / np.float32(width)) if rounded else np.float32(-base / width)
    exponents = np.arange(0, width, 2, dtype=np.float32) * step
    rates = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles = (np.arange(rows, dtype=np.float32)[:, None] * rates).astype(np.float64)
    table = np.zeros((rows, width), np.float32)
    table[:, 0::2], table[:, 1::2] = np.sin(angles), np.cos(angles)[:, : width // 2]
    return table


def pixels(config: VisionConfig | PatchConfig, rows: str = "batch") -> TensorSpec:
    """Pictures, channels last."""
    size, channels = config.image_size, config.in_channels
    domain = Pixels((HALF,) * channels, (HALF,) * channels, config.patch_size)
    return TensorSpec("images", "float32", (rows, size, size, channels), domain)


def _vision_entries(config: VisionConfig) -> tuple[EntryPoint, ...]:
    logits = given("logits", "batch", config.num_classes, kind=Logits())
    features = given("features", "batch", config.embed_dim, kind=Embedding(unit=False))
    return (
        method("forward", [pixels(config)], [logits]),
        method("extract_features", [pixels(config)], [features]),
    )


def _patches_entries(config: PatchConfig) -> tuple[EntryPoint, ...]:
    output = given("output", "batch", config.tokens, config.embed_dim)
    return (method("forward", [pixels(config)], [output]),)


PAIR = r"\.(weight|bias)"
IN_BLOCK = rf"blocks\.\d+\.(norm[12]|attn\.(qkv|proj)|mlp\.fc[12]){PAIR}"
VISION = rf"cls_token|pos_embed|{IN_BLOCK}|(patch_embed\.proj|norm|head){PAIR}"

KINDS = (
    Kind(
        name="VisionTransformer",
        config=VisionConfig,
        read=read_vision,
        part=vision_part,
        entries=_vision_entries,
        tiny=VisionConfig(
            "VisionTransformer", 9, 3, 3, 5, 8, 1, 2, 6, qkv_bias=True, pool="cls", positional_encoding="learned"
        ),
        marks=(r"patch_embed\.proj\.weight", r"blocks\.0\.attn\.qkv\.weight", r"head\.weight"),
        others=(VISION,),
        telling=False,
        oddities=(
            "all tokens are normalised before they are pooled, by epsilon 1e-5; other ViTs of these names have 1e-6",
            "sinusoidal places are computed and not stored: the picture's size is asked for",
        ),
    ),
    Kind(
        name="PatchEmbedding",
        config=PatchConfig,
        read=_read_patches,
        part=_patches_part,
        entries=_patches_entries,
        tiny=PatchConfig("PatchEmbedding", 9, 3, 3, 8, use_cls_token=True, positional_encoding="learned"),
        marks=(r"projection\.weight", r"projection\.bias", "position_embedding|position_ids"),
        others=("cls_token",),
        oddities=("sinusoidal places are computed and not stored",),
    ),
)

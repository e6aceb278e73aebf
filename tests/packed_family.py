"""A small network whose checkpoint packs q, k and v, gate and up, and has a low-rank adapter on a square layer.

The original is a dozen lines of PyTorch on the checkpoint's own tensors, nothing of it merged: what a wrong rule is
caught by.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import jax
import pytest
import torch
from flax import nnx
from torch.nn import functional

from bgevis.converter import manifest
from bgevis.converter.source import identify
from bgevis.converter.use import fixture
from bgevis.model.documents import Configured
from bgevis.model.family import Drop, Family, Merge, Rule, Rules, Split
from bgevis.model.layers import Linear
from bgevis.model.network import Network
from bgevis.model.parts import Part
from bgevis.model.reference import Original, Reference
from bgevis.validation.entry_point import Axis, EntryPoint, TensorSpec
from bgevis.validation.outputs import Embedding

BLOCK = "blocks.{i}."
ADAPTED = BLOCK + "attn.out_proj"


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes, and the adapter's."""

    width: int = 8
    heads: int = 4
    groups: int = 2
    head_dim: int = 2
    inner: int = 6
    layers: int = 2
    rank: int = 8
    """As the width, so that A is square."""
    alpha: float | None = 12.0
    rslora: bool = False


def split_attention(layout: str = "n e", targets: tuple[str, ...] = ("q", "k", "v")) -> Split:
    names = tuple(f"{BLOCK}attn.{name}.weight" for name in targets)
    return Split(BLOCK + "attn.in_proj_weight", names, layout, "n", ("h d", "g d", "g d"))


def merge(config: Config) -> Merge:
    names = (f"{ADAPTED}.{name}.weight" for name in ("frozen", "low.A", "low.B"))
    return Merge(*names, f"{ADAPTED}.weight", ("o (h d)", "r (h d)", "o r"), config.alpha, config.rslora)


def rules(config: Config) -> Rules:
    return (
        split_attention(),
        Split(
            BLOCK + "attn.in_proj_bias", tuple(f"{BLOCK}attn.{n}.bias" for n in "qkv"), "n", "n", ("h d", "g d", "g d")
        ),
        Rule(BLOCK + "attn.q.weight", BLOCK + "q.kernel", "(h d) e -> e h d"),
        Rule(BLOCK + "attn.q.bias", BLOCK + "q.bias", "(h d) -> h d"),
        Rule(BLOCK + "attn.{part:k|v}.weight", BLOCK + "{part}.kernel", "(g d) e -> e g d"),
        Rule(BLOCK + "attn.{part:k|v}.bias", BLOCK + "{part}.bias", "(g d) -> g d"),
        merge(config),
        Rule(ADAPTED + ".weight", BLOCK + "out.kernel", "o (h d) -> h d o"),
        Rule(ADAPTED + ".frozen.bias", BLOCK + "out.bias", "o"),
        Split(BLOCK + "mlp.Wi.weight", (BLOCK + "mlp.gate.weight", BLOCK + "mlp.up.weight"), "(p m) e", "p"),
        Rule(BLOCK + "mlp.{part:gate|up}.weight", BLOCK + "{part}.kernel", "m e -> e m"),
        Rule(BLOCK + "mlp.Wo.weight", BLOCK + "down.kernel", "e m -> m e"),
        Drop("head.weight", "the head of its training"),
    )


PROBES = {"loud": {"blocks.*.q.kernel": 1, "blocks.0.out.kernel": -2, "blocks.1.up.kernel": 1}}
"""A part of a packed tensor, what is merged."""


def axes(config: Config) -> Mapping[str, int]:
    c = config
    return {"e": c.width, "o": c.width, "h": c.heads, "g": c.groups, "d": c.head_dim, "m": c.inner, "r": c.rank}


def layout(config: Config) -> dict[str, tuple[int, ...]]:
    c = config
    queries, keys = c.heads * c.head_dim, c.groups * c.head_dim
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(c.layers):
        shapes |= {
            f"blocks.{i}.attn.in_proj_weight": (queries + 2 * keys, c.width),
            f"blocks.{i}.attn.in_proj_bias": (queries + 2 * keys,),
            f"blocks.{i}.attn.out_proj.frozen.weight": (c.width, queries),
            f"blocks.{i}.attn.out_proj.frozen.bias": (c.width,),
            f"blocks.{i}.attn.out_proj.low.A.weight": (c.rank, queries),
            f"blocks.{i}.attn.out_proj.low.B.weight": (c.width, c.rank),
            f"blocks.{i}.mlp.Wi.weight": (2 * c.inner, c.width),
            f"blocks.{i}.mlp.Wo.weight": (c.width, c.inner),
        }
    return shapes | {"head.weight": (3, c.width)}


class Block(nnx.Module):
    def __init__(self, c: Config, rngs: nnx.Rngs):
        self.q = Linear((c.width,), (c.heads, c.head_dim), rngs=rngs)
        self.k = Linear((c.width,), (c.groups, c.head_dim), rngs=rngs)
        self.v = Linear((c.width,), (c.groups, c.head_dim), rngs=rngs)
        self.out = Linear((c.heads, c.head_dim), (c.width,), rngs=rngs)
        self.gate = Linear((c.width,), (c.inner,), use_bias=False, rngs=rngs)
        self.up = Linear((c.width,), (c.inner,), use_bias=False, rngs=rngs)
        self.down = Linear((c.inner,), (c.width,), use_bias=False, rngs=rngs)
        self.repeats = c.heads // c.groups

    def __call__(self, x: jax.Array) -> jax.Array:
        k, v = (jax.numpy.repeat(part(x), self.repeats, axis=-2) for part in (self.k, self.v))
        x = x + self.out(jax.numpy.tanh(self.q(x)) * k + v)
        return x + self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Packed(nnx.Module):
    def __init__(self, c: Config, rngs: nnx.Rngs):
        self.blocks = nnx.List([Block(c, rngs) for _ in range(c.layers)])

    def encode(self, x: jax.Array) -> jax.Array:
        for block in self.blocks:
            x = block(x)
        return x


def entry_points(config: Config) -> tuple[EntryPoint, ...]:
    shape = ("batch", config.width)
    given, made = (
        (TensorSpec("x", "float32", shape),),
        (TensorSpec("embeddings", "float32", shape, kind=Embedding(unit=False)),),
    )
    return (EntryPoint("encode", given, made, {"batch": Axis()}),)


def original(w: Mapping[str, torch.Tensor], c: Config, y: torch.Tensor) -> torch.Tensor:
    """Compute what the checkpoint's tensors mean, as PEFT does: the adapter beside its layer."""
    scale = c.alpha / (c.rank**0.5 if c.rslora else c.rank)
    for i in range(c.layers):
        attn, mlp = f"blocks.{i}.attn.", f"blocks.{i}.mlp."
        sizes = [n * c.head_dim for n in (c.heads, c.groups, c.groups)]
        q, k, v = functional.linear(y, w[attn + "in_proj_weight"], w[attn + "in_proj_bias"]).split(sizes, -1)
        k, v = (t.unflatten(-1, (c.groups, -1)).repeat_interleave(c.heads // c.groups, -2).flatten(-2) for t in (k, v))
        z, out = q.tanh() * k + v, attn + "out_proj."
        added = functional.linear(functional.linear(z, w[out + "low.A.weight"]), w[out + "low.B.weight"])
        y = y + functional.linear(z, w[out + "frozen.weight"], w[out + "frozen.bias"]) + scale * added
        gate, up = functional.linear(y, w[mlp + "Wi.weight"]).chunk(2, -1)
        y = y + functional.linear(functional.silu(gate) * up, w[mlp + "Wo.weight"])
    return y


class Parameters(torch.nn.Module):
    """Every tensor of the checkpoint that is computed with, on its own memory."""

    def __init__(self, state: Mapping[str, torch.Tensor]):
        super().__init__()
        self.named = {n: torch.nn.Parameter(t, requires_grad=False) for n, t in state.items() if n != "head.weight"}
        for name, parameter in self.named.items():
            self.register_parameter(name.replace(".", "_"), parameter)


def reference(config: Config, given: Original) -> Reference:
    module = Parameters(given.state)

    def encode(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"embeddings": original(module.named, config, x)}

    return Reference("PEFT in a dozen lines", module, {"encode": encode}, given.state)


def family(config: Config = Config(), given: Rules | None = None) -> Family:
    """Give the family; with rules that are not its own, to plant a mistake."""
    return Family(
        name="packed",
        summary="packed projections and an adapter",
        recognise=lambda source: "packed" if "blocks.0.attn.in_proj_weight" in source.shapes else "",
        configure=lambda source: Configured(config, dict.fromkeys(dataclasses.asdict(config), "known")),
        config=Config,
        part=lambda c: Part(given or rules(c), axes(c), layout(c), PROBES),
        entry_points=entry_points,
        network=lambda c: Network(lambda rngs: Packed(c, rngs), entry_points(c)),
        reference=reference,
        sizes={"tiny": config},
    )


@contextmanager
def known(family: Family) -> Iterator[None]:
    """Let the converter know this family and no other."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (manifest, identify, fixture):
            patch.setattr(module, "families", lambda: {family.name: family})
        yield

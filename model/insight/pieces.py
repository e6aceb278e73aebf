"""The pieces that every class is made of: what becomes of the tensors of a linear layer, a norm, an attention.

Names and axes are relative to where a piece is mounted. Axes: i and o what goes into a matrix and what comes out, e, s
and o of an attention what attends, what is attended to and the result, d head width, w width, v rows of a table.
"""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from ...validation.probe import LOUD, LOW_VARIANCE, exponent
from ..family import Drop, Rule, Shapes, Split
from ..parts import Part, join

V = TypeVar("V")

EPSILON = 1e-5
"""Of every norm: torch's default."""
TABLE = (0.0, 0.3)
"""Mean and deviation of what a fixture holds where a table or a token is learned."""


def linear(inputs: int, outputs: int, bias: bool = True) -> Part:
    """A matrix and what is added."""
    rules = (Rule("weight", "kernel", "o i -> i o"), *([Rule("bias", "bias", "o")] if bias else []))
    shapes: Shapes = {"weight": (outputs, inputs), **({"bias": (outputs,)} if bias else {})}
    return Part(rules, {"i": inputs, "o": outputs}, shapes)


def norm(width: int) -> Part:
    """A layer norm."""
    rules = (Rule("weight", "scale", "w"), Rule("bias", "bias", "w"))
    return Part(rules, {"w": width}, {"weight": (width,), "bias": (width,)})


def lead(inputs: int, outputs: int, source: str, target: str) -> list[Part]:
    """What leads from one width to another, in its place; nothing where they are the same."""
    return [linear(inputs, outputs).mounted(source, target)] if inputs != outputs else []


def normed_mlp(inputs: int, inner: int, outputs: int) -> Part:
    """Two linear layers with a norm between them, as a `Sequential` of them, an activation after the norm, has them."""
    return join(
        linear(inputs, inner).mounted("0.", "first."),
        norm(inner).mounted("1.", "norm."),
        linear(inner, outputs).mounted("3.", "last."),
    )


def batch_norm(width: int) -> Part:
    """A batch norm with its running statistics, which is what inference normalises by."""
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "variance"}
    rules = tuple(Rule(name, leaf, "w") for name, leaf in names.items())
    counted = Drop("num_batches_tracked", "how many batches training has seen: the running statistics are what counts")
    shapes = {**dict.fromkeys(names, (width,)), "num_batches_tracked": ()}
    draws = {"running_var": (1.0, 0.1), "num_batches_tracked": (1.0, 0.0)}
    return Part((*rules, counted), {"w": width}, shapes, draws=draws)


def alone(name: str, leaf: str, layout: str, sizes: Mapping[str, int], shape: tuple[int, ...]) -> Part:
    """A tensor by itself: a token, a table of positions."""
    return Part((Rule(name, leaf, layout),), sizes, {name: shape}, draws={name: TABLE})


def positions(name: str, rows: int, width: int, *, computed: bool) -> Part:
    """A table of positions with an axis of one before it."""
    part = alone(name, "position.embedding", "1 t w -> t w", {"t": rows, "w": width}, (1, rows, width))
    if not computed:
        return part
    return Part(part.rules, part.axis_sizes, part.checkpoint_shapes, constants={name: sinusoids(rows, width)[None]})


def sinusoids(rows: int, width: int) -> np.ndarray:
    """Compute sine and cosine of each position, next to each other (Vaswani et al. 2017, section 3.5)."""
    rates = np.exp(np.arange(0, width, 2, dtype=np.float32) * np.float32(-np.log(10000.0) / width))
    angles = np.arange(rows, dtype=np.float32)[:, None] * rates
    table = np.zeros((rows, width), np.float32)
    table[:, 0::2], table[:, 1::2] = np.sin(angles), np.cos(angles)[:, : width // 2]
    return table


def rotations(rows: int, half: int, base: float = 10000.0) -> tuple[np.ndarray, np.ndarray]:
    """Compute cosine and sine of each position's angles, (rows, half) each (Su et al. 2021, arXiv:2104.09864)."""
    rates = 1 / np.float32(base) ** (np.arange(0, 2 * half, 2, dtype=np.float32) / np.float32(2 * half))
    angles = np.arange(rows, dtype=np.float32)[:, None] * rates.astype(np.float32)
    return np.cos(angles), np.sin(angles)


def attention(
    names: Sequence[str],
    width: int,
    heads: int,
    *,
    source: int = 0,
    inner: int = 0,
    output: int = 0,
    qkv_bias: bool = True,
) -> Part:
    """Projections into heads and out of them, as `modeling.Attention` holds them.

    Args:
        names: of queries, keys, values and of the projection out.
        width: of what attends.
        heads: how many there are.
        source: width of what is attended to; 0: `width`.
        inner: of all heads together; 0: `width`.
        output: of the result; 0: `width`.
        qkv_bias: whether the projections into the heads have a bias.
    """
    source, inner, output = source or width, inner or width, output or width
    rules: list[Rule] = []
    shapes: dict[str, tuple[int, ...]] = {}
    for name, leaf, axis, size in zip(names, ("query", "key", "value"), "ess", (width, source, source), strict=False):
        rules.append(Rule(f"{name}.weight", f"{leaf}.kernel", f"(heads d) {axis} -> {axis} heads d"))
        shapes[f"{name}.weight"] = (inner, size)
        if qkv_bias:
            rules.append(Rule(f"{name}.bias", f"{leaf}.bias", "(heads d) -> heads d"))
            shapes[f"{name}.bias"] = (inner,)
    rules.append(Rule(f"{names[3]}.weight", "out.kernel", "o (heads d) -> heads d o"))
    rules.append(Rule(f"{names[3]}.bias", "out.bias", "o"))
    shapes |= {f"{names[3]}.weight": (output, inner), f"{names[3]}.bias": (output,)}
    axes = {"e": width, "s": source, "o": output, "heads": heads, "d": inner // heads}
    return Part(tuple(rules), axes, shapes)


def packed(name: str, width: int, bias: bool) -> Part:
    """Queries, keys and values in one tensor; each goes on under a name of its own."""
    apart = ("query", "key", "value")
    rules = [Split(f"{name}.weight", tuple(f"{each}.weight" for each in apart), "(q n) e", "q")]
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (3 * width, width)}
    if bias:
        rules.append(Split(f"{name}.bias", tuple(f"{each}.bias" for each in apart), "(q n)", "q"))
        shapes[f"{name}.bias"] = (3 * width,)
    return Part(tuple(rules), {"q": 3, "n": width, "e": width}, shapes)


def without(part: Part, *names: str) -> Part:
    """Give a part without the shapes of tensors that others are cut out of, so that no fixture writes them twice."""
    return replace(part, checkpoint_shapes={n: s for n, s in part.checkpoint_shapes.items() if n not in names})


def feed_forward(width: int, inner: int, outputs: int, normed: bool) -> Part:
    """Two linear layers, the second one with a norm perhaps."""
    return join(
        linear(width, inner).mounted("linear1.linear.", "up."),
        linear(inner, outputs).mounted("linear2.linear.", "down."),
        *([norm(outputs).mounted("linear2.layer_norm.", "norm.")] if normed else []),
    )


def stack(layer: Part, count: int, source: str, target: str) -> Part:
    """Layers that are alike, numbered."""
    placed = layer.mounted(f"{source}.{{i}}.", f"{target}.{{i}}.", f"{target}.")

    def every(mapping: Mapping[str, V]) -> dict[str, V]:
        return {name.replace("{i}", str(i)): value for i in range(count) for name, value in mapping.items()}

    return replace(
        placed,
        checkpoint_shapes=every(placed.checkpoint_shapes),
        constants=every(placed.constants),
        draws={name.replace("{i}", "*"): value for name, value in placed.draws.items()},
    )


ALIKE, LOUDER = -40, 8
"""Powers of two: for tables, so that all tokens are alike; for queries, so that scores are hundreds."""
QUIET = (
    *("*word.embedding", "*position.embedding", "*cls_token", "*token", "*patch_embed.*", "lead.*"),
    *("*norm*.scale", "*norm*.bias", "*.value.bias", "*.out.bias", "*.up.bias", "*.down.bias"),
)
"""Leaves that a stream is made of, and what adds to it."""
MANY = 64
"""Ids from which on a decoder that takes them as numbers is not probed: float32 adds to them nothing that is small."""
FIRST = QUIET[:6]
"""Those that it begins with."""


def probed(part: Part) -> Part:
    """Add what hidden constants show by: a stream as small as the root of epsilon; tokens alike, and scores large."""
    leaves = [rule.target.replace("{i}", "0") for rule in part.rules if isinstance(rule, Rule)]
    first, quiet = ([p for p in patterns if fnmatch.filter(leaves, p)] for patterns in (FIRST, QUIET))
    if not first or not fnmatch.filter(leaves, "*norm*.scale"):
        return part
    probes = {LOW_VARIANCE: dict.fromkeys(quiet, exponent(EPSILON))}
    if fnmatch.filter(
        leaves, "*cross_norm.scale"
    ):  # it makes queries, which say nothing of themselves if they are small
        probes[LOW_VARIANCE]["*cross_norm.*"] = 0
    if fnmatch.filter(leaves, "*.query.kernel"):
        probes[LOUD] = {**dict.fromkeys(first, ALIKE), "*.query.*": LOUDER}
    words = part.checkpoint_shapes.get("output_projection.weight", (0,))[0]
    if words > MANY and "decoder.norm.scale" in leaves and "decoder.word.embedding" not in leaves:
        probes = {name: {**exponents, "decoder.*": 0} for name, exponents in probes.items()}
    return replace(part, probes=probes)


def nothing() -> Part:
    """No tensors."""
    return Part((), {}, {})

"""Rewrites of a whole graph that need to know who else reads a value."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from .graph import Node, Value, needed

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
"""The types that onnxruntime's Sum has."""


def tidy(outputs: Sequence[Value]) -> list[Node]:
    """Rewrite what `outputs` depend on in place, and list the nodes that are left, each after its inputs."""
    for rewrite in (_drop_reduced_axes, _join_sums):
        nodes = needed(outputs)
        uses = Counter(value for node in nodes for value in node.inputs)
        uses.update(outputs)
        for node in nodes:
            rewrite(node, uses)
    return needed(outputs)


def _drop_reduced_axes(node: Node, uses: Counter[Value]) -> None:
    """Let a reduction drop its axes itself if all that follows it is a Squeeze."""
    inner = node.inputs[0].source if node.op == "Squeeze" else None
    if not isinstance(inner, Node) or not inner.op.startswith("Reduce") or uses[node.inputs[0]] > 1:
        return
    axes = _numbers(node.inputs[1])
    reduced = inner.attributes.get("axes") or _numbers(inner.inputs[1])
    if axes == reduced:
        node.op, node.inputs, node.attributes = inner.op, inner.inputs, {**inner.attributes, "keepdims": 0}


def _numbers(value: Value) -> tuple[int, ...]:
    return tuple(np.asarray(value.array).tolist())


def _join_sums(node: Node, uses: Counter[Value]) -> None:
    """Make one Sum of Add after Add, in the same order of additions.

    onnxruntime would fuse the second Add and the normalisation after it to SkipLayerNormalization, whose
    CPU kernel takes three times as long as what it replaces.
    """
    if node.op != "Add" or node.outputs[0].dtype not in FLOATS:
        return
    for inner, other in (node.inputs, node.inputs[::-1]):
        if isinstance(inner.source, Node) and inner.source.op in ("Add", "Sum") and uses[inner] == 1:
            node.op, node.inputs = "Sum", (*inner.source.inputs, other)
            return

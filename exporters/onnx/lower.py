"""Lowering to ONNX: the walk over a jaxpr, adding to a graph."""

from ..lowering.table import Entry
from ..lowering.walk import Walk
from .build import Builder
from .graph import Graph, Value
from .registry import TABLE


class Lowering(Builder, Walk[Value]):
    """What the rules in `operators` work with."""

    def __init__(self, graph: Graph, opset: int):
        Builder.__init__(self, graph, opset)
        Walk.__init__(self, TABLE)

    def has(self, entry: Entry) -> bool:
        """Tell whether this opset has the operators of a composite."""
        return self.opset >= entry.since

"""Whether what is looked up in tables lies in them, at the longest that the spec allows.

torch raises beyond a table's end; programs of other runtimes give numbers. So places that are counted (positions) are
computed here at the bound, from the part of the graph that makes them.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ...validation.domains import Draft, TokenIds, domain_of
from ...validation.entry_point import EntryPoint
from ...validation.errors import InputError
from .graph import Graph, Node, Program, references
from .module import Interpreter

WORDS = (1, 2)
"""How far two words are from the padding: at most one of them is what the network itself takes for padding."""

MOST = 1 << 20
"""Places that are tried of an axis without a bound."""


class TooLong(InputError):
    """An axis may be longer than some table.

    Args:
        axis: which.
        longest: that fits.
    """

    def __init__(self, message: str, axis: str, longest: int):
        super().__init__(message)
        self.axis = axis
        self.longest = longest


class TooShort(InputError):
    """An axis may be shorter than what was traced is the module for.

    Args:
        axis: which.
        shortest: for which it is.
    """

    def __init__(self, message: str, axis: str, shortest: int):
        super().__init__(message)
        self.axis = axis
        self.shortest = shortest


def hold_to_tables(graph: Graph) -> None:
    """See that no place lies outside a table.

    Raises:
        TooLong: naming the line, the table and the longest axis that fits.
    """
    for program in graph.programs.values():
        for node, table, index in _lookups(program):
            rows = _rows(graph, table)
            nodes = _behind(program, index)
            counted = {axis for axis in program.entry.axes if any(_mentions(n, axis) for n in nodes)}
            if rows is None or not counted or any(True for n in nodes for _ in n.references("parameter")):
                continue
            for axis in sorted(counted):
                high = program.entry.axes[axis].high
                longest = high if high is not None else rows + 1
                if longest <= MOST and not _fits(graph, program, nodes, index, rows, axis, longest):
                    _refuse(graph, program, nodes, index, rows, axis, node)


def _refuse(graph: Graph, program: Program, nodes: list[Node], index: Any, rows: int, axis: str, node: Node) -> None:
    entry = program.entry
    low, high = entry.axes[axis].low - 1, entry.axes[axis].high or rows + 1
    while high - low > 1:  # the longest that fits
        middle = (low + high) // 2
        fits = _fits(graph, program, nodes, index, rows, axis, middle)
        low, high = (middle, high) if fits else (low, middle)
    stated = f"{axis} <= {entry.axes[axis].high}" if entry.axes[axis].high else f"no bound of {axis}"
    raise TooLong(
        f"{entry.name}: the spec states {stated}, but a table of {rows} rows is looked up by place "
        f"({node.line}): write {axis} <= {low}",
        axis,
        low,
    )


def _lookups(program: Program) -> Iterator[tuple[Node, Any, Any]]:
    """Give the nodes that look something up: the table, and the places along its first axis."""
    for node in program.nodes:
        if node.op.startswith("aten.embedding.") or node.op == "aten.index_select.default":
            yield node, node.args[0], node.args[-1] if node.op.startswith("aten.index_s") else node.args[1]
        elif node.op.startswith("aten.index.Tensor") and isinstance(node.args[1], list) and node.args[1]:
            yield node, node.args[0], node.args[1][0]


def _rows(graph: Graph, table: Any) -> int | None:
    if isinstance(table, dict) and "parameter" in table:
        return graph.parameters[table["parameter"]].shape[0]
    if isinstance(table, dict) and "constant" in table and graph.constants[table["constant"]].ndim:
        return len(graph.constants[table["constant"]])
    return None


def _behind(program: Program, index: Any) -> list[Node]:
    needed = set(references(index, "node"))
    kept = []
    for node in reversed(program.nodes):
        if node.name in needed:
            kept.append(node)
            needed |= set(node.references("node"))
    return kept[::-1]


def _mentions(node: Node, axis: str) -> bool:
    from ...validation.sizes import names

    return any(axis in names(size) for size in (*node.shape, *node.references("size")))


def _fits(graph: Graph, program: Program, nodes: list[Node], index: Any, rows: int, axis: str, size: int) -> bool:
    part = Program(_without_outputs(program.entry), tuple(nodes), [])
    for word in WORDS:
        interpreter = Interpreter(graph, part, None)
        interpreter.run(tuple(_inputs(program.entry, {axis: size}, word).values()))
        places = np.asarray(interpreter.value(index))
        if places.dtype != np.bool_ and not ((places < rows).all() and (places >= -rows).all()):
            return False
    return True


def _without_outputs(entry: EntryPoint) -> EntryPoint:
    return EntryPoint(entry.name, entry.inputs, (), entry.axes)


def _inputs(entry: EntryPoint, fixed: Mapping[str, int], word: int) -> dict[str, np.ndarray]:
    """Draw inputs of which all places count: ids that are one word again and again."""
    sizes = {name: bounds.low for name, bounds in entry.axes.items()} | dict(fixed)
    rng = np.random.default_rng(0)
    drawn = {s.name: domain_of(s).draw(Draft(entry, sizes, {}), s, rng) for s in entry.inputs}
    for spec in entry.inputs:
        if isinstance(spec.domain, TokenIds):
            drawn[spec.name][...] = (spec.domain.pad + word) % spec.domain.vocab_size
    return drawn

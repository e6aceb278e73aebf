"""Where does an ONNX program part from the network? Its modules' values, fetched from the program itself.

A program says in its metadata which of its edges each module of the model gives. In memory these become outputs
too; the first that disagrees with the goldens is where the mistake acts. What lies between it and the values that
agree is a program small enough to be run again and again, with one mistake after another undone.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from ...validation.goldens import Intermediates, sample
from ...validation.locate import Taps, first_divergence
from ...validation.runner import Arrays
from ..base import Artifact
from .mend import Shapes, mistakes
from .read import retyped, scaled
from .runner import FOLDER, feed
from .serialize import TAPS

SUM = "tap "
"""Before the name of a module whose value is computed only in memory."""

SHOWN = 6
"""Nodes of a segment that are described."""


def compared(
    artifact: Artifact, entry_point: str, traced: Intermediates, factors: Mapping[str, float]
) -> tuple[Taps, Arrays]:
    """Give of the goldens what a program computes, and what it gives there."""
    program = _program(artifact, entry_point, factors)
    return _compared(program, traced, program.all_values(traced))


def _program(artifact: Artifact, entry_point: str, factors: Mapping[str, float]) -> "Program":
    path = artifact.directory / artifact.programs[entry_point]["path"]
    changed = scaled(path, factors)
    return Program(retyped(onnx.load(path, load_external_data=False), changed), path.parent, changed)


def _compared(program: "Program", traced: Intermediates, values: Arrays) -> tuple[Taps, Arrays]:
    samples = {module: _sampled(value, traced.values[module][0]) for module, value in values.items()}
    return _computed({m: traced.values[m] for m in traced.values if m in program.places}, samples), samples


def locate(artifact: Artifact, entry_point: str, traced: Intermediates, factors: Mapping[str, float]) -> str:
    """Say where a program parts from the network, and why if undoing a mistake mends it; "" if all modules agree."""
    program = _program(artifact, entry_point, factors)
    values = program.all_values(traced)
    wanted, samples = _compared(program, traced, values)
    found = first_divergence(wanted, samples)
    if found is None:
        return ""
    modules = list(wanted)
    nodes = program.segment(found.module, modules[: modules.index(found.module)])
    network = artifact.network()
    unread = set(network.used_weights(entry_point)) - program.leaves(program.model.graph.node)
    scopes = {found.module} | {_parent(node.name) for node in nodes}
    lost = [f"{leaf} is not read" for leaf in sorted(unread) if _parent(leaf) in scopes]
    shapes = {name: leaf.shape for name, leaf in network.leaves.items()}
    cause = lost[0] if lost else program.undone(nodes, found.module, wanted, values, traced.inputs, shapes)
    text = f"{entry_point}: {found.module} diverges first ({found.error:.2g}, allowed {found.allowed:.2g}); "
    text += f"what acts there: {program.tell(nodes)}"
    return f"{text}; likely cause: {cause}" if cause else text


def _sampled(value: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Sample what a module gives; what is the same for all rows, such as vectors of places, a program has only once."""
    if not value.size:
        return value.reshape(0)
    alone = sample(value[None]) if value.ndim == 2 else value
    return alone if alone.size == exact.size else sample(value)


def _computed(wanted: Taps, samples: Arrays) -> dict:
    """Keep of the goldens what a program computes: of some modules one token alone, the first, or what all share."""
    found = {}
    for module, (exact, budget) in wanted.items():
        got = samples.get(module, exact)
        alone = got.ndim == 1 or got.shape[:1] == (1,)
        found[module] = exact[:1] if alone and got.size * len(exact) == exact.size else exact, budget
    return found


class Program:
    """A program in memory, with the edges that its modules give.

    Args:
        folder: where its weights lie.
        changed: weights that are others than in the file, by the names that the program has for them.
    """

    def __init__(self, model: ModelProto, folder: Path, changed: Arrays):
        self.model, self.folder, self.changed = model, folder, changed
        self.maker = {edge: node for node in model.graph.node for edge in node.output}
        self.fixed = {tensor.name: tensor for tensor in model.graph.initializer}
        self.wide = [v.name for v in model.graph.input if v.type.tensor_type.elem_type == TensorProto.INT64]
        self.places = self._places()

    def _places(self) -> dict[str, list[str]]:
        """Read which edges each module gives; the outputs are the last."""
        text = next((entry.value for entry in self.model.metadata_props if entry.key == TAPS), "{}")
        stated = json.loads(text) | {value.name: [value.name] for value in self.model.graph.output}
        return {m: edges for m, edges in stated.items() if all(e in self.maker or e in self.fixed for e in edges)}

    def values(self, inputs: Arrays, modules: Iterable[str]) -> dict[str, np.ndarray]:
        """Compute what some modules give."""
        places = {module: self.places[module] for module in modules}
        feeds = feed(inputs, self.wide)
        return self.run(with_sums(self.model, places), feeds, {m: _edge(m, edges) for m, edges in places.items()})

    def all_values(self, traced: Intermediates) -> dict[str, np.ndarray]:
        """Compute what every module gives; of a program that fails at run time, what those before the failure give."""
        modules = [module for module in traced.values if module in self.places]
        try:
            return self.values(traced.inputs, modules)
        except Exception:  # what the runtime says is in the report already; here it is asked where
            found: dict[str, np.ndarray] = {}
            for module in modules:
                try:
                    found |= self.values(traced.inputs, [module])
                except Exception:
                    return found
            return found

    def run(self, model: ModelProto, feeds: Arrays, edges: Mapping[str, str]) -> dict[str, np.ndarray]:
        """Run a model of these weights in onnxruntime; give some edges, by names of one's own."""
        if not edges:
            return {}
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry(FOLDER, str(self.folder))
        asked = ModelProto.FromString(model.SerializeToString())
        del asked.graph.output[:]
        asked.graph.output.extend(ValueInfoProto(name=edge) for edge in dict.fromkeys(edges.values()))
        computed = _behind(asked, edges.values())
        needed = [node for node in asked.graph.node if computed & set(node.output)]
        del asked.graph.node[:]
        asked.graph.node.extend(needed)
        read = {edge for node in needed for edge in node.input} | set(edges.values())
        used = [tensor.name for tensor in model.graph.initializer if tensor.name in self.changed.keys() & read]
        if used:
            arrays = [onnxruntime.OrtValue.ortvalue_from_numpy(self.changed[name]) for name in used]
            options.add_external_initializers(used, arrays)
        session = onnxruntime.InferenceSession(asked.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = list(dict.fromkeys(edges.values()))
        results = dict(zip(names, session.run(names, dict(feeds)), strict=True))
        return {name: results[edge] for name, edge in edges.items()}

    def segment(self, module: str, agreeing: Iterable[str]) -> list[NodeProto]:
        """Give the nodes that a module's value depends on and none that agrees does."""
        cleared = _behind(self.model, (edge for other in agreeing for edge in self.places[other]))
        suspect = _behind(self.model, self.places[module]) - cleared
        return [node for node in self.model.graph.node if suspect & set(node.output)]

    def leaves(self, nodes: Iterable[NodeProto]) -> set[str]:
        """Name the parameters that some nodes read."""
        return {edge.partition(" ")[0] for node in nodes for edge in node.input if edge in self.fixed}

    def tell(self, nodes: list[NodeProto]) -> str:
        """Describe nodes by their names and attributes, and name the parameters that they read."""
        shown = [_describe(node) for node in nodes[-SHOWN:]]
        named = sorted(leaf for leaf in self.leaves(nodes) if not leaf.startswith("constant_"))
        return ", ".join([*(["..."] if len(nodes) > SHOWN else []), *shown, *named]) or "no node"

    def undone(
        self, nodes: list[NodeProto], module: str, wanted: Taps, values: Arrays, inputs: Arrays, shapes: Shapes
    ) -> str:
        """Name the first mistake whose opposite makes a module agree; `values` is what each module gives now."""
        made = {edge for node in nodes for edge in node.output}
        outer = sorted({e for n in nodes for e in n.input if e and e not in made and e not in self.fixed})
        outer += [e for e in self.places[module] if e not in made and e not in self.fixed and e not in outer]
        given = feed(inputs, self.wide)
        feeds = {edge: given[edge] for edge in outer if edge in given}
        feeds |= self.run(self.model, given, {edge: edge for edge in outer if edge not in given})
        agreeing = list(wanted)[: list(wanted).index(module)]
        others = {self.places[m][0]: values[m] for m in agreeing if len(self.places[m]) == 1}
        part = self._part(nodes, module, others | feeds)
        edge = _edge(module, self.places[module])
        feeds = others | feeds
        for cause, changed in mistakes(part, shapes, self.fixed):
            try:
                value = self.run(changed, feeds, {module: edge})
            except Exception:  # whatever the runtime says: a mistake that cannot be undone here is not the cause
                continue
            one = {module: wanted[module]}
            if first_divergence(one, {module: _sampled(value[module], wanted[module][0])}) is None:
                return cause
        return ""

    def _part(self, nodes: list[NodeProto], module: str, feeds: Arrays) -> ModelProto:
        """Make a model of some nodes alone."""
        read = {e for node in nodes for e in node.input} | set(self.places[module])
        graph = helper.make_graph(
            nodes,
            "segment",
            [
                helper.make_tensor_value_info(e, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
                for e, a in feeds.items()
            ],
            [],
            [tensor for name, tensor in self.fixed.items() if name in read],
        )
        part = ModelProto.FromString(self.model.SerializeToString())
        part.graph.CopyFrom(graph)
        return with_sums(part, {module: self.places[module]})


def _behind(model: ModelProto, edges: Iterable[str]) -> set[str]:
    """Give all edges that some edges are computed from, with them."""
    maker = {edge: node for node in model.graph.node for edge in node.output}
    seen: set[str] = set()
    waiting = list(edges)
    while waiting:
        edge = waiting.pop()
        if edge not in seen:
            seen.add(edge)
            waiting += maker[edge].input if edge in maker else []
    return seen


def with_sums(model: ModelProto, places: Mapping[str, list[str]]) -> ModelProto:
    """Add what modules give whose value the program computes only as part of a longer sum."""
    whole = ModelProto.FromString(model.SerializeToString())
    for module, edges in places.items():
        if len(edges) > 1:
            whole.graph.node.append(helper.make_node("Sum", edges, [SUM + module]))
    return whole


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _edge(module: str, edges: list[str]) -> str:
    return edges[0] if len(edges) == 1 else SUM + module


def _describe(node: NodeProto) -> str:
    attributes = ", ".join(f"{a.name} {_text(helper.get_attribute_value(a))}" for a in node.attribute)
    return f"{node.name} ({attributes})" if attributes else node.name


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)

"""A finished graph as an ONNX file: names for what is needed, weights by reference."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..lowering.shapes import Shape
from ..weights import Location
from .graph import Graph, Node, Value, Weight
from .tidy import tidy

PRODUCER = "bgevis-convert"
I4 = np.dtype(ml_dtypes.int4)

TAPS = "bgevis.taps"
"""Metadata of a program: module of the model -> the edges whose sum is what it gives, as JSON.

Where only the first token is computed, it is that of the first token.
"""


class Names:
    """Gives every value and node a name of its own: the module of the model, then the operator."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}
        self.of: dict[Value, str] = {}

    def new(self, wanted: str) -> str:
        """Give `wanted`, with a number if it is taken."""
        count = self._taken.setdefault(wanted, 0)
        self._taken[wanted] += 1
        return self.new(f"{wanted}_{count}") if count else wanted

    def node(self, node: Node) -> str:
        """Name a node and what it computes."""
        name = self.new(".".join(filter(None, (node.scope, node.op))))
        for i, value in enumerate(node.outputs):
            wanted = name if len(node.outputs) == 1 else f"{name}.{i}"
            if value not in self.of:
                self.of[value] = self.new(f"{wanted}.out")
        return name

    def initializer(self, value: Value) -> str:
        """Name a weight by its leaf, plus its dims where they are not the first that it is declared with."""
        if not isinstance(value.source, Weight):
            return self.new(_of_constant(value))
        leaf = value.source.leaf
        return self.new(f"{leaf} {list(value.shape)}" if leaf in self._taken else leaf)


def _of_constant(value: Value) -> str:
    array = np.asarray(value.array)
    if array.size == 1:
        return f"constant_{array.dtype}_{array.item()}"
    return f"constant_{array.dtype}_{'x'.join(map(str, array.shape))}"


def model(
    graph: Graph, outputs: Mapping[str, Value], opset: int, weights: Mapping[str, Location], file: str, name: str
) -> onnx.ModelProto:
    """Make the ONNX model.

    Args:
        graph: holds the inputs.
        outputs: the results by name.
        opset: the version of the operators.
        weights: where the bytes of each leaf lie.
        file: the weights file, beside the program.
        name: what the graph is called.
    """
    nodes, names = tidy(list(outputs.values())), Names()
    for label, value in graph.inputs.items():
        names.of[value] = names.new(label)
    results, copies = _results(outputs, names)
    initializers: list[TensorProto] = []
    casts: list[onnx.NodeProto] = []
    for value in _fixed([*nodes, *copies]):
        initializers.append(_initializer(value, names.initializer(value), weights, file))
        cast = conversion(initializers[-1], value.dtype)
        casts += cast
        names.of[value] = cast[0].output[0] if cast else initializers[-1].name
    protos = [*casts, *(_node(node, names) for node in (*nodes, *copies))]
    inner = [v for node in nodes for v in node.outputs if names.of[v] not in outputs]
    proto = helper.make_graph(
        protos,
        name,
        [_info(value, names.of[value]) for value in graph.inputs.values()],
        results,
        initializers,
        value_info=[_info(value, names.of[value]) for value in inner],
    )
    whole = packaged(proto, opset)
    whole.metadata_props.add(key=TAPS, value=json.dumps(_taps(graph, names), separators=(",", ":")))
    return whole


def _taps(graph: Graph, names: Names) -> dict[str, list[str]]:
    """Name the edges of what each module gives: its own, or the terms where it became part of a longer sum."""
    found: dict[str, list[str]] = {}
    for module, value in graph.taps.items():
        sum_ = value.made_by("Add", "Sum")
        edges = [value] if value in names.of or sum_ is None else sum_.inputs
        if all(edge in names.of for edge in edges):
            found[module] = [names.of[edge] for edge in edges]
    return found


def packaged(graph: onnx.GraphProto, opset: int) -> onnx.ModelProto:
    """Make a model of a graph, of the oldest IR version that has the opset."""
    imports = [helper.make_opsetid("", opset)]
    ir_version = helper.find_min_ir_version_for(imports)
    return helper.make_model(
        graph,
        opset_imports=imports,
        ir_version=ir_version,
        producer_name=PRODUCER,
        producer_version=version(PRODUCER),
    )


def _results(outputs: Mapping[str, Value], names: Names) -> tuple[list[onnx.ValueInfoProto], list[Node]]:
    """Name the outputs; what is not computed, or is two outputs at once, is copied."""
    copies: list[Node] = []
    for name, value in outputs.items():
        names.new(name)
        if isinstance(value.source, Node) and value not in names.of:
            names.of[value] = name
        else:
            copy = Node("Identity", (value,), {}, "")
            copy.outputs = (Value(copy, value.shape, value.dtype),)
            names.of[copy.outputs[0]] = name
            copies.append(copy)
    return [_info(value, name) for name, value in outputs.items()], copies


def _fixed(nodes: Sequence[Node]) -> list[Value]:
    """List the weights and constants that the nodes read, in the order of first use."""
    return list(dict.fromkeys(v for node in nodes for v in node.inputs if v.fixed))


def _info(value: Value, name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), _dims(value.shape))


def _dims(shape: Shape) -> list[int | str | None]:
    return [dim if dim is None or isinstance(dim, int) else str(dim) for dim in shape]


def _node(node: Node, names: Names) -> onnx.NodeProto:
    name = names.node(node)
    inputs = [names.of[value] for value in node.inputs]
    proto = helper.make_node(node.op, inputs, [names.of[value] for value in node.outputs], name)
    for key, attribute in node.attributes.items():
        if key == "to":
            attribute = int(helper.np_dtype_to_tensor_dtype(np.dtype(attribute)))
        proto.attribute.append(helper.make_attribute(key, attribute))
    return proto


def _initializer(value: Value, name: str, weights: Mapping[str, Location], file: str) -> TensorProto:
    if not isinstance(value.source, Weight):
        return numpy_helper.from_array(np.asarray(value.array), name)
    location = weights[value.source.leaf]
    return external(name, value.shape, location, file, value.dtype if value.dtype == I4 else location.dtype)


def external(name: str, dims: Shape, location: Location, file: str, dtype: np.dtype | None = None) -> TensorProto:
    """Refer to a leaf in the weights file, in the type that it is stored as, or another that its bytes stand for."""
    proto = TensorProto(name=name, dims=dims, data_type=helper.np_dtype_to_tensor_dtype(dtype or location.dtype))
    proto.data_location = TensorProto.EXTERNAL
    for key, entry in (("location", file), ("offset", location.offset), ("length", location.nbytes)):
        proto.external_data.add(key=key, value=str(entry))
    return proto


def conversion(leaf: TensorProto, dtype: np.dtype) -> list[onnx.NodeProto]:
    """Convert a leaf from the type that it is stored as, if need be. Runtimes do it once, as they load the program."""
    to = helper.np_dtype_to_tensor_dtype(dtype)
    if leaf.data_type == to:
        return []
    edge = f"{leaf.name} as {dtype}"
    return [
        helper.make_node("Cast", [leaf.name], [edge], f"{leaf.name.partition(' ')[0].rpartition('.')[0]}.{edge}", to=to)
    ]


def fed(dtype: np.dtype) -> np.dtype:
    """Give the type in which the ONNX ecosystem feeds an input."""
    return np.dtype(np.int64 if dtype == np.int32 else dtype)

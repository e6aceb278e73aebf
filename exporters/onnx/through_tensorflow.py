"""The other route to ONNX: the same traced program as TensorFlow operators, converted by tf2onnx.

The weights are inputs of the graph while tf2onnx works on it, so that none is folded or copied; then they
become references into the weights file, as in our own programs.

Source: https://github.com/onnx/tensorflow-onnx
"""

import logging
import os
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ...validation.entry_point import EntryPoint
from ...validation.errors import GateError
from ..base import WEIGHTS
from ..lowering.shapes import Shape
from ..lowering.trace import Program
from ..weights import WeightsFile
from .serialize import conversion, external, fed, packaged

"""The newest is the newest that tf2onnx 1.17 writes."""


def model(program: Program, entry: EntryPoint, opset: int, weights: WeightsFile) -> onnx.ModelProto:
    """Make the ONNX model of a traced entry point.

    Raises:
        GateError: what tf2onnx made is not valid ONNX, as when it knows no way for an operator.
    """
    graph = _converted(program, entry, opset).graph
    leaves = {f"leaf_{i}": name for i, name in enumerate(program.weights)}
    read = {leaves[name] for node in graph.node for name in node.input if name in leaves}
    edges, casts = {}, []
    for name, spec in program.weights.items():
        if name in read:
            graph.initializer.append(external(name, spec.shape, weights.tensors[name], WEIGHTS))
            cast = conversion(graph.initializer[-1], np.dtype(spec.dtype))
            casts += cast
            edges[name] = cast[0].output[0] if cast else name
    for node in graph.node:
        node.input[:] = [edges[leaves[name]] if name in leaves else name for name in node.input]
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    names = list(dict.fromkeys([*(tensor.name for tensor in entry.outputs), *program.outputs]))
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.name = entry.name
    graph.input.extend(_info(name, spec.shape, fed(spec.dtype)) for name, spec in program.inputs.items())
    graph.output.extend(_info(name, program.outputs[name].shape, program.outputs[name].dtype) for name in names)
    try:
        return onnx.shape_inference.infer_shapes(packaged(graph, opset), True, True, True)
    except onnx.shape_inference.InferenceError as error:
        raise GateError(f"tf2onnx's program of {entry.name} is not valid ONNX: {error}") from error


def _info(name: str, shape: Shape, dtype: np.dtype) -> onnx.ValueInfoProto:
    dims = [dim if isinstance(dim, int) else str(dim) for dim in shape]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), dims)


def _converted(program: Program, entry: EntryPoint, opset: int) -> onnx.ModelProto:
    """Convert with tf2onnx: the weights are the inputs leaf_0, leaf_1, …, before the entry point's own."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    from tf2onnx.convert import from_function

    from ..tensorflow_ops.lower import lower, scoped

    names = list(program.weights)

    def call(*tensors: Any) -> dict[str, Any]:
        weights = {name: scoped(name, tf.identity, tensor) for name, tensor in zip(names, tensors, strict=False)}
        inputs = [tf.cast(t, s.dtype) for t, s in zip(tensors[len(names) :], program.inputs.values(), strict=True)]
        return lower(program, weights, inputs)

    specs = [tf.TensorSpec(s.shape, s.dtype, f"leaf_{i}") for i, s in enumerate(program.weights.values())]
    specs += [
        tf.TensorSpec([d if isinstance(d, int) else None for d in s.shape], fed(s.dtype), name)
        for name, s in program.inputs.items()
    ]
    call.__name__ = entry.name
    return from_function(tf.function(call, autograph=False), specs, opset=opset)[0]

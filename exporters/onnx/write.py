"""Writing: each entry point traced, lowered and laid beside the weights it points into."""

from collections.abc import Sequence

import numpy as np
from jax.extend.core import ClosedJaxpr

from ...validation.entry_point import EntryPoint
from ...validation.errors import InputError
from ..base import PROGRAMS, WEIGHTS, Description, Request
from ..lowering.trace import Specs, trace
from .graph import Graph, Value
from .lower import Lowering
from .narrow import narrow
from .serialize import model

OPSETS = range(17, 27)
OPSET = 23
"""The default: the newest that runtimes of 2025 open."""


def write(request: Request) -> dict[str, Description]:
    """Write `<entry point>.onnx` for each entry point."""
    opset = OPSET if request.opset is None else request.opset
    if opset not in OPSETS:
        raise InputError(f"ONNX opset {opset} is not supported: choose {OPSETS[0]} to {OPSETS[-1]}")
    return {name: _write(request, entry, opset) for name, entry in request.network.entry_points.items()}


def _write(request: Request, entry: EntryPoint, opset: int) -> Description:
    program = trace(request.network, entry, taps=True)
    graph, outputs = lower(program.closed, program.weights, program.inputs, program.outputs, program.taps, opset)
    outputs = {tensor.name: outputs[tensor.name] for tensor in entry.outputs}
    proto = model(graph, outputs, opset, request.weights.tensors, WEIGHTS, entry.name)
    data = proto.SerializeToString(deterministic=True)
    (request.out / f"{entry.name}.onnx").write_bytes(data)
    request.progress(len(data))
    return {
        "path": f"{PROGRAMS}/{entry.name}.onnx",
        "opset": opset,
        "ir_version": proto.ir_version,
        "weights": f"{PROGRAMS}/{WEIGHTS}",
    }


def lower(
    closed: ClosedJaxpr, weights: Specs, inputs: Specs, outputs: Sequence[str], taps: Sequence[str], opset: int
) -> tuple[Graph, dict[str, Value]]:
    """Lower a jaxpr of weights and inputs to a graph and its outputs by name."""
    graph = Graph()
    given = [graph.weight(name, spec.shape, spec.dtype) for name, spec in weights.items()]
    given += [graph.input(name, spec.shape, _fed(spec.dtype)) for name, spec in inputs.items()]
    lowering = Lowering(graph, opset)
    lowering.run(closed, given)
    made = closed.jaxpr.outvars
    results = dict(zip(outputs, map(lowering.full, made[: len(outputs)]), strict=True))
    modules = dict(zip(taps, map(lowering.index, made[len(outputs) :]), strict=True))
    results, graph.taps = narrow(lowering, results, modules)
    return graph, results


def _fed(dtype: np.dtype) -> np.dtype:
    """Give the type in which the ONNX ecosystem feeds an input."""
    return np.dtype(np.int64 if dtype == np.int32 else dtype)

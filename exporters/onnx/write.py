"""Writing: each entry point traced, lowered and laid beside the weights it points into."""

import jax
import numpy as np

from ...model.network import Network
from ...model.ops import native_operators
from ...validation.entry_point import EntryPoint
from ...validation.errors import InputError
from ..base import PROGRAMS, WEIGHTS, Description, Request
from .graph import Graph, Value
from .lower import Lowering
from .serialize import model

OPSETS = range(17, 24)
OPSET = 23
"""The default: the newest that runtimes of 2025 open."""


def write(request: Request) -> dict[str, Description]:
    """Write `<entry point>.onnx` for each entry point."""
    opset = OPSET if request.opset is None else request.opset
    if opset not in OPSETS:
        raise InputError(f"ONNX opset {opset} is not supported: choose {OPSETS[0]} to {OPSETS[-1]}")
    return {name: _write(request, entry, opset) for name, entry in request.network.entry_points.items()}


def _write(request: Request, entry: EntryPoint, opset: int) -> Description:
    graph, outputs = lower(request.network, entry, opset)
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


def lower(network: Network, entry: EntryPoint, opset: int) -> tuple[Graph, dict[str, Value]]:
    """Trace an entry point with symbolic sizes and lower it to a graph and its outputs by name."""
    used, specs = network.used_weights(entry.name), network.input_specs(entry.name)
    with native_operators():
        closed = jax.jit(network.function(entry.name)).trace(network.weight_specs(used), *specs).jaxpr
    graph = Graph()
    leaves = [graph.weight(name, network.leaves[name].shape, network.leaves[name].dtype) for name in sorted(used)]
    inputs = [
        graph.input(tensor.name, spec.shape, _fed(spec.dtype)) for tensor, spec in zip(entry.inputs, specs, strict=True)
    ]
    lowering = Lowering(graph, opset)
    lowering.run(closed, [*leaves, *inputs])
    results = [lowering.full(atom) for atom in closed.jaxpr.outvars]
    by_name = dict(zip(sorted(tensor.name for tensor in entry.outputs), results, strict=True))
    return graph, {tensor.name: by_name[tensor.name] for tensor in entry.outputs}


def _fed(dtype: np.dtype) -> np.dtype:
    """Give the type in which the ONNX ecosystem feeds an input."""
    return np.dtype(np.int64 if dtype == np.int32 else dtype)

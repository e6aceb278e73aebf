"""Writing in smaller numbers: the float32 graphs rewritten, over a weights file of their own."""

from collections.abc import Mapping

from ...validation.errors import InputError
from ..base import PROGRAMS, Description, Request
from ..lowering.trace import trace
from ..precisions import INT4
from ..weights import Location, WeightsFile, plan
from ..weights import write as write_weights
from . import OPSETS
from .build import Builder
from .precision import INT4_OPSET, Tensor, arrays, rewrite
from .serialize import model
from .write import OPSET, lower


def write(request: Request, precision: str) -> dict[str, Description]:
    """Write `<entry point>.<precision>.onnx` for each entry point, and the weights that they share."""
    opset = OPSET if request.opset is None else request.opset
    if opset not in OPSETS:
        raise InputError(f"ONNX opset {opset} is not supported: choose {OPSETS[0]} to {OPSETS[-1]}")
    if precision == INT4 and opset < INT4_OPSET:
        raise InputError(f"ONNX opset {opset} has no int4: choose {INT4_OPSET} to {OPSETS[-1]}, or leave out int4")
    if request.via:
        raise InputError(f"programs in {precision} are not made via {request.via}: leave out --via or --precision")
    graphs, tensors = {}, dict[str, Tensor]()
    for name, entry in request.network.entry_points.items():
        traced = trace(request.network.plain, entry.name)
        graph, outputs = lower(traced.closed, traced.weights, traced.inputs, list(traced.outputs), traced.taps, opset)
        rounded, read = rewrite(Builder(graph, opset), {t.name: outputs[t.name] for t in entry.outputs}, precision)
        graphs[name] = graph, rounded
        tensors |= read
    file = f"weights.{precision}.safetensors"
    locations = _write_weights(request, precision, file, tensors)
    described = {}
    for name, (graph, outputs) in graphs.items():
        proto = model(graph, outputs, opset, locations, file, name)
        data = proto.SerializeToString(deterministic=True)
        (request.out / f"{name}.{precision}.onnx").write_bytes(data)
        request.progress(len(data))
        described[name] = {
            "path": f"{PROGRAMS}/{name}.{precision}.onnx",
            "opset": opset,
            "ir_version": proto.ir_version,
            "weights": f"{PROGRAMS}/{file}",
            "precision": precision,
        }
    return described


def _write_weights(
    request: Request, precision: str, name: str, tensors: Mapping[str, Tensor]
) -> Mapping[str, Location]:
    """Write the weights file; give where each tensor lies."""
    shapes = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    metadata = {**request.weights.metadata, "precision": precision}
    _, order = plan(shapes, metadata)
    with (request.out / name).open("wb") as file:
        write_weights(file, shapes, arrays(request.weights, tensors, order), metadata)
    return WeightsFile(request.out / name).tensors

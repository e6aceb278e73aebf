"""Writing: each entry point traced, lowered and laid beside the weights it points into."""

from collections.abc import Sequence

from jax.extend.core import ClosedJaxpr
from onnx import ModelProto

from ...validation.cases import tap_case
from ...validation.entry_point import EntryPoint
from ...validation.errors import GateError, InputError
from ..base import PROGRAMS, WEIGHTS, Description, Request
from ..lowering.trace import Program, Specs, trace, trace_modules
from ..weights import WeightsFile
from . import OPSETS, VIA_TENSORFLOW, through_tensorflow
from .graph import Graph, Value
from .lower import Lowering
from .narrow import narrow
from .routes import Disagreement, first_disagreement
from .serialize import fed, model

OPSET = 23
"""The default: the newest that runtimes of 2025 open."""


def write(request: Request) -> dict[str, Description]:
    """Write `<entry point>.onnx` for each entry point."""
    opsets = VIA_TENSORFLOW if request.via else OPSETS
    opset = min(OPSET, opsets[-1]) if request.opset is None else request.opset
    if opset not in opsets:
        way = f" via {request.via}" if request.via else ""
        raise InputError(f"ONNX opset {opset} is not supported{way}: choose {opsets[0]} to {opsets[-1]}")
    return {name: _write(request, entry, opset) for name, entry in request.network.entry_points.items()}


def _write(request: Request, entry: EntryPoint, opset: int) -> Description:
    program = trace(request.network.plain, entry.name, taps=True)
    proto = own(program, entry, opset, request.weights)
    if request.via:
        ours, proto = proto, through_tensorflow.model(program, entry, opset, request.weights)
        if differ(request, entry, ours, proto, list(program.outputs)):
            raise GateError(where_routes_part(request, entry, opset))
    data = proto.SerializeToString(deterministic=True)
    (request.out / f"{entry.name}.onnx").write_bytes(data)
    request.progress(len(data))
    described = {
        "path": f"{PROGRAMS}/{entry.name}.onnx",
        "opset": opset,
        "ir_version": proto.ir_version,
        "weights": f"{PROGRAMS}/{WEIGHTS}",
    }
    return described | ({"via": request.via} if request.via else {})


def own(program: Program, entry: EntryPoint, opset: int, weights: WeightsFile) -> ModelProto:
    """Make the model of an entry point by our own lowering; outputs that are none of its own come last."""
    graph, outputs = lower(program.closed, program.weights, program.inputs, list(program.outputs), program.taps, opset)
    names = dict.fromkeys([*(tensor.name for tensor in entry.outputs), *outputs])
    return model(graph, {name: outputs[name] for name in names}, opset, weights.tensors, WEIGHTS, entry.name)


def differ(
    request: Request, entry: EntryPoint, ours: ModelProto, theirs: ModelProto, outputs: Sequence[str]
) -> Disagreement | None:
    """Hold the two routes against each other on one small input; give the first of `outputs` that disagrees."""
    return first_disagreement(ours, theirs, outputs, request.weights.path.parent, tap_case(entry).inputs)


def where_routes_part(request: Request, entry: EntryPoint, opset: int) -> str:
    """Name the first module on which the two routes disagree, and the operators that compute it."""
    program, modules = trace_modules(request.network.plain, entry)
    ours, theirs = (make(program, entry, opset, request.weights) for make in (own, through_tensorflow.model))
    found = differ(request, entry, ours, theirs, modules)
    whole = f"{entry.name}: our route to ONNX and {request.via}'s disagree"
    if found is None:
        return f"{whole}, but not when every module is an output"
    return (
        f"{whole} first at {found.module}, by {found.error:.2g} of its largest element; ours computes it with "
        f"{found.ours}, the other with {found.theirs}"
    )


def lower(
    closed: ClosedJaxpr, weights: Specs, inputs: Specs, outputs: Sequence[str], taps: Sequence[str], opset: int
) -> tuple[Graph, dict[str, Value]]:
    """Lower a jaxpr of weights and inputs to a graph and its outputs by name."""
    graph = Graph()
    given = [graph.weight(name, spec.shape, spec.dtype) for name, spec in weights.items()]
    given += [graph.input(name, spec.shape, fed(spec.dtype)) for name, spec in inputs.items()]
    lowering = Lowering(graph, opset)
    lowering.run(closed, given)
    made = closed.jaxpr.outvars
    results = dict(zip(outputs, map(lowering.full, made[: len(outputs)]), strict=True))
    modules = dict(zip(taps, map(lowering.index, made[len(outputs) :]), strict=True))
    results, graph.taps = narrow(lowering, results, modules)
    return graph, results

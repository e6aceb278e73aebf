"""TensorFlow SavedModel: one signature per entry point.

A signature is one operator, made by jax2tf, around the StableHLO that JAX lowers to, which XLA compiles; or, for
readers without XLA, ordinary operators. The variables are named as the leaves and shared by all signatures. Loading
needs TensorFlow alone.

Source: https://www.tensorflow.org/guide/saved_model and
https://github.com/jax-ml/jax/blob/main/jax/experimental/jax2tf/README.md.
"""

import functools
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from ..validation.entry_point import EntryPoint
from ..validation.errors import EnvironmentFailure
from ..validation.runner import Arrays
from .base import Artifact, Description, Exporter, Plan, Request, UnreadableWeight
from .jax_programs import lowered, portable, reproducible_lowering, weights_of
from .releases import TENSORFLOW, Need
from .weights import WeightsFile

if TYPE_CHECKING:
    from ..model.network import Network

KEY = "saved_model"
VARIABLES = "weights"
"""The attribute of the root object that holds the variables, nested as the modules are."""
VALUE = ".ATTRIBUTES/VARIABLE_VALUE"
"""What TensorFlow's checkpoints append to the path of a variable."""
XLA = "XlaCallModule"
"""The operator that holds a program in StableHLO."""


def write(request: Request) -> dict[str, Description]:
    """Save what was traced, and take out what differs from run to run."""
    tf = _tensorflow()
    variables, signatures = trace(request)
    _fill(variables, request.weights)
    root = tf.Module()
    setattr(root, VARIABLES, _nested(variables))
    try:
        tf.saved_model.save(root, str(request.out), signatures=signatures)
    except tf.errors.OpError as error:
        raise EnvironmentFailure(f"TensorFlow could not write {request.out}: {error.message}") from error
    (request.out / "fingerprint.pb").unlink()  # holds a random id; TensorFlow loads without it
    tensors = _normalize(request.out / "saved_model.pb")
    request.progress(sum(path.stat().st_size for path in request.out.rglob("*") if path.is_file()))
    return {name: _describe(name, function, request.ops) | tensors[name] for name, function in signatures.items()}


def trace(plan: Plan) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give variables without values, by leaf, and the signatures that read them, by entry point."""
    return _traced(plan.network, plan.ops)


@functools.cache
def _traced(network: "Network", ops: str) -> tuple[dict[str, Any], dict[str, Any]]:
    variables = _variables(network)
    with reproducible_lowering():
        return variables, {name: OPS[ops](network, name, variables) for name in network.entry_points}


def open_(artifact: Artifact) -> "SavedModelRunner":
    """Load the SavedModel in TensorFlow."""
    tf = _tensorflow()
    return SavedModelRunner(tf.saved_model.load(str(artifact.directory / KEY)), artifact)


def read_weights(artifact: Artifact) -> Iterator[tuple[str, np.ndarray]]:
    """
    Read the variables one after the other from the checkpoint inside the SavedModel.

    Raises:
        UnreadableWeight: a variable's bytes do not have the checksum that TensorFlow wrote.
    """
    tf = _tensorflow()
    reader = tf.train.load_checkpoint(str(artifact.directory / KEY / "variables" / "variables"))
    for key in sorted(reader.get_variable_to_shape_map()):
        if key.startswith(f"{VARIABLES}/"):
            leaf = key.removeprefix(f"{VARIABLES}/").removesuffix(f"/{VALUE}").replace("/", ".")
            try:
                array = np.asarray(reader.get_tensor(key))  # a scalar comes as a number
            except tf.errors.OpError as error:  # TensorFlow keeps a checksum of each variable
                raise UnreadableWeight(leaf, error.message) from error
            yield leaf, array


class SavedModelRunner:
    """Runs the signatures of a loaded SavedModel."""

    def __init__(self, loaded: Any, artifact: Artifact):
        tf = _tensorflow()
        self.name = f"tensorflow {tf.__version__}"
        self._constant = tf.constant
        self._loaded = loaded  # the signatures do not keep the variables alive
        self._signatures = {name: artifact.programs[name]["signature"] for name in artifact.entry_points}

    def run(self, entry_point: str, inputs: Arrays) -> Arrays:
        """Call the entry point's signature."""
        signature = self._loaded.signatures[self._signatures[entry_point]]
        outputs = signature(**{name: self._constant(array) for name, array in inputs.items()})
        return {name: tensor.numpy() for name, tensor in outputs.items()}


def _tensorflow() -> Any:
    """Import TensorFlow without the notes that it prints while it starts."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow

    return tensorflow


def _variables(network: "Network") -> dict[str, Any]:
    """Make variables, all on the same pages that nobody has written to: there is no such memory yet."""
    tf = _tensorflow()
    largest = max((leaf.size * leaf.dtype.itemsize for leaf in network.leaves.values()), default=1)
    zeros = np.frombuffer(mmap.mmap(-1, largest), np.uint8)
    return {
        name: tf.Variable(_tensor(zeros, 0, leaf.dtype, leaf.shape), trainable=False, name=name)
        for name, leaf in sorted(network.leaves.items())
    }


def _fill(variables: Mapping[str, Any], weights: WeightsFile) -> None:
    """Lay the variables on the pages of the weights file: TensorFlow's own way in copies twice.

    The mapping is private to this process, since DLPack has no word for arrays that must not be written.
    """
    private = np.memmap(weights.path, dtype=np.uint8, mode="c")
    for name, location in weights.tensors.items():
        tensor = _tensor(private, location.offset, location.dtype, location.shape)
        variables[name].assign(tensor, read_value=False)


def _tensor(memory: np.ndarray, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> Any:
    """Give bytes of `memory` as a tensor, without a copy."""
    tf = _tensorflow()
    words = np.dtype(np.uint16) if dtype == ml_dtypes.bfloat16 else dtype  # numpy's DLPack knows no bfloat16
    data = memory[offset : offset + math.prod(shape) * dtype.itemsize].view(words).reshape(shape)
    tensor = tf.experimental.dlpack.from_dlpack(data.__dlpack__())
    return tensor if words == dtype else tf.bitcast(tensor, dtype)


def _nested(variables: Mapping[str, Any]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for name, variable in variables.items():
        *parents, last = name.split(".")
        functools.reduce(lambda node, part: node.setdefault(part, {}), parents, root)[last] = variable
    return root


def _signature(network: "Network", entry_point: str, variables: Mapping[str, Any]) -> Any:
    """Trace an entry point for every size of its axes: a call of the program that StableHLO is written from."""
    tf = _tensorflow()
    from jax.experimental import jax2tf

    from ..model.network import bounds

    entry, program = network.entry_points[entry_point], lowered(network, entry_point, ())
    convert = jax2tf.convert(
        program.call,
        polymorphic_shapes=[None, *(f"({', '.join(map(str, spec.shape))})" for spec in entry.inputs)],
        polymorphic_constraints=bounds(entry.axes),
        with_gradient=False,
        native_serialization_platforms=program.platforms,
        native_serialization_disabled_checks=program.disabled_safety_checks,
    )
    weights = {name: variables[name] for name in weights_of(program)}

    def call(*inputs: Any) -> Any:
        return convert(weights, *inputs)

    call.__name__ = entry_point
    return tf.function(call, autograph=False).get_concrete_function(*_tensor_specs(entry))


def operators_signature(network: "Network", entry_point: str, variables: Mapping[str, Any]) -> Any:
    """Trace an entry point as ordinary operators; sizes that were never legal are refused where they do not fit."""
    tf = _tensorflow()
    from .lowering.trace import trace as trace_program
    from .tensorflow_ops.lower import lower, scoped

    entry = network.entry_points[entry_point]
    program = trace_program(network, entry_point)

    def call(*inputs: Any) -> Any:
        weights = {name: scoped(name, tf.convert_to_tensor, variables[name]) for name in program.weights}
        return lower(program, weights, inputs)

    call.__name__ = entry_point
    return tf.function(call, autograph=False).get_concrete_function(*_tensor_specs(entry))


def _tensor_specs(entry: EntryPoint) -> list[Any]:
    tf = _tensorflow()
    return [
        tf.TensorSpec([d if isinstance(d, int) else None for d in spec.shape], spec.dtype, spec.name)
        for spec in entry.inputs
    ]


OPS = {"xla": _signature, "tensorflow": operators_signature}
"""What `--ops` chooses from."""


def _describe(entry_point: str, function: Any, ops: str) -> Description:
    operators = function.graph.get_operations()
    stated: Description = {"path": KEY, "signature": entry_point, "tensorflow": _tensorflow().__version__, "ops": ops}
    if ops == "xla":
        call = next(op for op in operators if op.type == XLA)
        return stated | {"xla_call_module": call.get_attr("version")}
    return stated | {"operators": sorted({op.type for op in operators} - {"Placeholder"})}


def _normalize(path: Path) -> dict[str, Description]:
    """Take out of the graph what the process had made before, and what only new readers know.

    Gives the tensors that a session feeds and fetches for each signature: C and Java know no signatures.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    graph = model.meta_graphs[0].graph_def
    _renumber(graph, model.meta_graphs[0].object_graph_def)
    for function in graph.library.function:
        for node in function.node_def:
            if node.op == XLA:  # jax2tf leaves StableHLO as JAX writes it
                node.attr["module"].s = portable(node.attr["module"].s)
        for argument in function.arg_attr.values():
            name = argument.attr.get("_user_specified_name")
            if name is not None and name.s.isdigit():  # the number of a variable's handle
                del argument.attr["_user_specified_name"]
    path.write_bytes(model.SerializeToString(deterministic=True))
    return {
        name: {"feeds": _tensors(signature.inputs), "fetches": _tensors(signature.outputs)}
        for name, signature in model.meta_graphs[0].signature_def.items()
    }


def _tensors(infos: Any) -> dict[str, str]:
    return {name: info.name for name, info in sorted(infos.items())}


def _renumber(graph: Any, objects: Any) -> None:
    """Count the graph's functions from 0: TensorFlow counts all that the process has made."""
    functions = graph.library.function
    functions.sort(key=lambda function: int(function.signature.name.rpartition("_")[2]))
    names = {f.signature.name: f"{f.signature.name.rpartition('_')[0]}_{i}" for i, f in enumerate(functions)}
    for function in functions:
        function.signature.name = names[function.signature.name]
    for node in [*graph.node, *(node for function in functions for node in function.node_def)]:
        for attribute in node.attr.values():
            if attribute.HasField("func"):
                attribute.func.name = names[attribute.func.name]
    for old in list(objects.concrete_functions):
        objects.concrete_functions[names[old]].CopyFrom(objects.concrete_functions.pop(old))
    for node in objects.nodes:
        if node.HasField("bare_concrete_function"):
            wrapped = node.bare_concrete_function
            wrapped.concrete_function_name = names[wrapped.concrete_function_name]


def needs(artifact: Artifact) -> Iterator[Need]:
    """Say which version of XlaCallModule the signatures have, as the manifest states it."""
    versions = [program["xla_call_module"] for program in artifact.programs.values() if "xla_call_module" in program]
    if versions:
        since = next((v for v, known in TENSORFLOW.items() if known >= max(versions)), "999")
        yield Need(KEY, "tensorflow", f"XlaCallModule version {max(versions)}", since, _without_xla)
    else:
        yield Need(KEY, "tensorflow", "ordinary operators", next(iter(TENSORFLOW), "999"), _not_tried)


def _without_xla(version: str) -> str:
    return "run `bgevis-convert export saved-model DIR --ops tensorflow`, then `bgevis-convert validate DIR`"


def _not_tried(version: str) -> str:
    return f"{version} was not tried: ask for {next(iter(TENSORFLOW), 'a newer one')} or a newer one"


EXPORTER = Exporter(
    name="saved-model",
    key=KEY,
    folder=KEY,
    modules=("jax", "tensorflow"),
    write=write,
    trace=trace,
    host="stablehlo",
    effort=2,
    open=open_,
    read_weights=read_weights,
    needs=needs,
)

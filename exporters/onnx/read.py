"""Reading back: a program that must be valid, with some weights changed, and its weights by its own references."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError

from ...validation.dims import Dim, same
from ...validation.entry_point import EntryPoint
from ...validation.errors import GateError
from ..base import Artifact, UnreadableWeight
from .runner import FOLDER, OnnxRunner


class ScaledRunner(OnnxRunner):
    """Runs the programs with some leaves multiplied, in the session's memory.

    Args:
        factors: by leaf.
    """

    def __init__(self, artifact: Artifact, factors: Mapping[str, float]):
        super().__init__(artifact)
        self._factors = factors

    def _opened(self, path: Path) -> onnxruntime.InferenceSession:
        options, changed = self._options(), scaled(path, self._factors)
        if self._factors:  # a probe is one small case: laying the weights out for more costs more than it saves
            options.add_session_config_entry("session.disable_prepacking", "1")
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not changed:
            return onnxruntime.InferenceSession(str(path), options, providers=self._providers)
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in changed.values()]
        options.add_external_initializers(list(changed), values)
        options.add_session_config_entry(FOLDER, str(path.parent))
        model = retyped(onnx.load(path, load_external_data=False), changed).SerializeToString()
        return onnxruntime.InferenceSession(model, options, providers=self._providers)


def scaled(path: Path, factors: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Read the weights that have a factor, by the names that the program has for them, and multiply them.

    In float32, whatever they are stored as: float16 has no room for what is tiny.
    """
    found: dict[str, np.ndarray] = {}
    if not factors:
        return found
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        factor = factors.get(tensor.name.partition(" ")[0])
        if factor is not None and tensor.data_location == onnx.TensorProto.EXTERNAL:
            found[tensor.name] = array_of(tensor, path) * np.float32(factor)
    return found


def retyped(model: onnx.ModelProto, arrays: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Let a model in memory declare weights in the types of the arrays that it is given for them."""
    for tensor in model.graph.initializer:
        if tensor.name in arrays:
            tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(arrays[tensor.name].dtype)
    return model


def array_of(tensor: onnx.TensorProto, path: Path) -> np.ndarray:
    """Read a tensor's bytes through its reference, into a copy: a model keeps all that was ever in its memory."""
    alone = onnx.TensorProto.FromString(tensor.SerializeToString())
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return onnx.numpy_helper.to_array(alone)
    onnx.external_data_helper.load_external_data_for_tensor(alone, str(path.parent))
    return onnx.numpy_helper.to_array(alone)


def open_(artifact: Artifact) -> OnnxRunner:
    """
    Check every program by ONNX's own rules, and its signature, and give a Runner.

    Raises:
        GateError: a program is not valid ONNX, or takes or gives something else than its entry point.
    """
    for name, program in artifact.programs.items():
        path = artifact.directory / program["path"]
        try:
            onnx.checker.check_model(str(path), full_check=True)
        except (ValidationError, InferenceError) as error:
            raise GateError(f"{path} is not valid ONNX: {error}") from error
        graph = onnx.load(path, load_external_data=False).graph
        _check_signature(path, graph, artifact.entry_points[name])
        _check_norms(path, graph)
    return OnnxRunner(artifact)


def _check_norms(path: Path, graph: onnx.GraphProto) -> None:
    """Hold the axes that are normalised against those of the scale: onnxruntime fuses some without looking at them."""
    ranks = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in ("LayerNormalization", "RMSNormalization") and node.input[1] in ranks:
            axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
            if -axis != ranks[node.input[1]]:
                raise GateError(f"{path}: {node.name} begins at axis {axis}, its scale has {ranks[node.input[1]]}")


def _check_signature(path: Path, graph: onnx.GraphProto, entry: EntryPoint) -> None:
    """Hold the inputs and outputs that a program states against its entry point's: what clients go by."""
    for kind, stated, specs in (("input", graph.input, entry.inputs), ("output", graph.output, entry.outputs)):
        got = {v.name: _signature(v.type.tensor_type) for v in stated}
        for spec in specs:
            dtype = "int64" if (kind, spec.dtype) == ("input", "int32") else spec.dtype
            found = got.pop(spec.name, None)
            if found is None or found[0] != dtype or not _same(found[1], spec.shape):
                want, have = _told(dtype, spec.shape), _told(*found) if found else "none"
                raise GateError(f"{path}: {kind} {spec.name} should be {want}, got {have}")
        for name in got:
            raise GateError(f"{path} has an {kind} {name} that {entry.name} has not")


def _signature(tensor: onnx.TypeProto.Tensor) -> tuple[str, tuple[Dim, ...]]:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return str(dtype), tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)


def _same(got: Sequence[Dim], wanted: Sequence[Dim]) -> bool:
    return len(got) == len(wanted) and all(map(same, got, wanted))


def _told(dtype: str, shape: Sequence[Dim]) -> str:
    return f"{dtype} ({', '.join(map(str, shape))})"


def read_weights(artifact: Artifact, elsewhere: Collection[str] = ()) -> Iterator[tuple[str, np.ndarray]]:
    """Read each leaf that a program uses from each place where one says that it lies: once, unless they disagree.

    Args:
        artifact: with the programs.
        elsewhere: leaves that are used by another program, which runs after these.

    Raises:
        UnreadableWeight: a program does not use a leaf that its entry point has.
    """
    network, seen = artifact.network(), set[tuple[str, ...]]()
    leaves = network.leaves
    for name, program in artifact.programs.items():
        path = artifact.directory / program["path"]
        graph = onnx.load(path, load_external_data=False).graph
        for tensor in graph.initializer:
            leaf, outside = tensor.name.partition(" ")[0], tensor.data_location == onnx.TensorProto.EXTERNAL
            place = (leaf, *(f"{entry.key}={entry.value}" for entry in tensor.external_data))
            if (outside or leaf in leaves) and place not in seen:
                if outside:
                    seen.add(place)
                array = array_of(tensor, path)
                yield leaf, array.reshape(leaves[leaf].shape) if leaf in leaves else array
        for leaf in sorted(set(network.used_weights(name)) - _reached(graph) - set(elsewhere)):
            raise UnreadableWeight(leaf, f"{path.name} does not use it")


def _reached(graph: onnx.GraphProto) -> set[str]:
    """Name the leaves that the outputs are computed from."""
    maker = {edge: node for node in graph.node for edge in node.output}
    seen: set[str] = set()
    waiting = [value.name for value in graph.output]
    while waiting:
        edge = waiting.pop()
        if edge not in seen:
            seen.add(edge)
            waiting += maker[edge].input if edge in maker else []
    return {edge.partition(" ")[0] for edge in seen}


def stored(artifact: Artifact) -> Iterator[tuple[str, np.ndarray]]:
    """Read each tensor that a program uses from each place where one says that it lies: once, unless they disagree."""
    seen = set[tuple[str, ...]]()
    for program in artifact.programs.values():
        path = artifact.directory / program["path"]
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            name = tensor.name.partition(" ")[0]
            place = (name, *(f"{entry.key}={entry.value}" for entry in tensor.external_data))
            if tensor.data_location == onnx.TensorProto.EXTERNAL and place not in seen:
                seen.add(place)
                yield name, array_of(tensor, path)

"""Reading back: running a program in onnxruntime, and its weights through its own references."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError

from ...validation.errors import GateError
from ...validation.runner import Arrays
from ..base import Artifact


class OnnxRunner:
    """Runs the programs in onnxruntime with its defaults. Holds one session at a time.

    Args:
        factors: what some leaves are multiplied by, in the session's memory.
    """

    def __init__(self, artifact: Artifact, factors: Mapping[str, float] | None = None):
        self.name = f"onnxruntime {onnxruntime.__version__}"
        self._artifact = artifact
        self._factors = factors or {}
        self._open: tuple[str, onnxruntime.InferenceSession] | None = None

    def run(self, entry_point: str, inputs: Arrays) -> Arrays:
        """Compute an entry point, feeding integers as the program wants them."""
        session = self._session(entry_point)
        wide = [value.name for value in session.get_inputs() if value.type == "tensor(int64)"]
        names = [value.name for value in session.get_outputs()]
        return dict(zip(names, session.run(names, feed(inputs, wide)), strict=True))

    def _session(self, entry_point: str) -> onnxruntime.InferenceSession:
        if self._open is None or self._open[0] != entry_point:
            self._open = None
            path = self._artifact.directory / self._artifact.programs[entry_point]["path"]
            options, changed = onnxruntime.SessionOptions(), scaled(path, self._factors)
            if changed:
                values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in changed.values()]
                options.add_external_initializers(list(changed), values)
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            self._open = entry_point, session
        return self._open[1]


def feed(inputs: Arrays, wide: Collection[str]) -> dict[str, np.ndarray]:
    """Give inputs in the types that a program wants: some as int64."""
    return {name: array.astype(np.int64) if name in wide else array for name, array in inputs.items()}


def scaled(path: Path, factors: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Read the weights that have a factor, by the names that the program has for them, and multiply them."""
    found: dict[str, np.ndarray] = {}
    if not factors:
        return found
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        factor = factors.get(tensor.name.partition(" ")[0])
        if factor is not None and tensor.data_location == onnx.TensorProto.EXTERNAL:
            found[tensor.name] = _array(tensor, path) * np.float32(factor)
    return found


def _array(tensor: onnx.TensorProto, path: Path) -> np.ndarray:
    """Read a tensor's bytes through its reference, into a copy: a model keeps all that was ever in its memory."""
    alone = onnx.TensorProto.FromString(tensor.SerializeToString())
    onnx.external_data_helper.load_external_data_for_tensor(alone, str(path.parent))
    return onnx.numpy_helper.to_array(alone)


def open_(artifact: Artifact) -> OnnxRunner:
    """
    Check every program by ONNX's own rules and give a Runner.

    Raises:
        GateError: a program is not valid ONNX.
    """
    for program in artifact.programs.values():
        path = artifact.directory / program["path"]
        try:
            onnx.checker.check_model(str(path), full_check=True)
        except (ValidationError, InferenceError) as error:
            raise GateError(f"{path} is not valid ONNX: {error}") from error
    return OnnxRunner(artifact)


def read_weights(artifact: Artifact) -> Iterator[tuple[str, np.ndarray]]:
    """Read each leaf that a program uses from each place where one says that it lies: once, unless they disagree."""
    leaves, seen = artifact.network().leaves, set[tuple[str, ...]]()
    for program in artifact.programs.values():
        path = artifact.directory / program["path"]
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            leaf = tensor.name.partition(" ")[0]
            place = (leaf, *(f"{entry.key}={entry.value}" for entry in tensor.external_data))
            if tensor.data_location == onnx.TensorProto.EXTERNAL and place not in seen:
                seen.add(place)
                yield leaf, _array(tensor, path).reshape(leaves[leaf].shape)

"""Two routes to ONNX held against each other: the first module that disagrees, with the operators that compute it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from ...validation.budget import distance
from ...validation.runner import Arrays
from .runner import FOLDER

ALLOWED = 3e-5
"""Of the largest element: two orders of float32 sums, through some dozen layers."""


@dataclass(frozen=True)
class Disagreement:
    """A module that two programs compute differently, by operators given as `name (operator)`."""

    module: str
    ours: str
    theirs: str
    error: float


def first_disagreement(
    ours: onnx.ModelProto, theirs: onnx.ModelProto, modules: Sequence[str], weights: Path, inputs: Arrays
) -> Disagreement | None:
    """Compare the outputs `modules` of two programs, in this order; the programs refer into the folder `weights`."""
    one, other = (_run(model, modules, weights, inputs) for model in (ours, theirs))
    for module in modules:
        error = distance(other[module], one[module].astype(np.float64))
        scale = max(float(np.abs(one[module]).max(initial=0)), 1e-30)
        if not error <= ALLOWED * scale:
            return Disagreement(module, _maker(ours, module), _maker(theirs, module), error / scale)
    return None


def _maker(model: onnx.ModelProto, value: str) -> str:
    """Name the node that computes a value; what only copies it is passed over."""
    makers = {name: node for node in model.graph.node for name in node.output}
    while value in makers and makers[value].op_type == "Identity":
        value = makers[value].input[0]
    return f"{makers[value].name} ({makers[value].op_type})" if value in makers else value


def _run(model: onnx.ModelProto, outputs: Sequence[str], weights: Path, inputs: Arrays) -> Arrays:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(FOLDER, str(weights))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {name: array.astype(np.int64) if array.dtype == np.int32 else array for name, array in inputs.items()}
    return dict(zip(outputs, session.run(outputs, feed), strict=True))

"""A program in onnxruntime. Who only runs it needs no package of ONNX's own."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnxruntime

from ...validation.errors import InputError
from ...validation.runner import Arrays
from ..base import Artifact

FOLDER = "session.model_external_initializers_file_folder_path"
"""onnxruntime's name for where the weights lie of a model that is given as bytes."""


class OnnxRunner:
    """Runs the programs in onnxruntime with its defaults, or as the artifact's session says.

    Holds one program at a time, unless they are kept: each has a copy of weights of its own.

    Raises:
        InputError: onnxruntime has no such execution provider here.
    """

    def __init__(self, artifact: Artifact):
        precisions = {program["precision"] for program in artifact.programs.values() if "precision" in program}
        self.name = " ".join(("onnxruntime", onnxruntime.__version__, *sorted(precisions)))
        self._artifact = artifact
        self._providers = [*artifact.session.providers] or ["CPUExecutionProvider"]
        for provider in self._providers:
            name = provider if isinstance(provider, str) else provider[0]
            if name not in onnxruntime.get_available_providers():
                there = ", ".join(onnxruntime.get_available_providers())
                raise InputError(f"onnxruntime {onnxruntime.__version__} has no {name} here (providers: {there})")
        self._open: dict[str, onnxruntime.InferenceSession] = {}

    def run(self, entry_point: str, inputs: Arrays) -> Arrays:
        """Compute an entry point, feeding integers as the program wants them."""
        session = self._session(entry_point)
        wide = [value.name for value in session.get_inputs() if value.type == "tensor(int64)"]
        names = [value.name for value in session.get_outputs()]
        return dict(zip(names, session.run(names, feed(inputs, wide)), strict=True))

    def _session(self, entry_point: str) -> onnxruntime.InferenceSession:
        session = self._open.get(entry_point)
        if session is None:
            if not self._artifact.session.kept:
                self._open.clear()
            path = self._artifact.directory / self._artifact.programs[entry_point]["path"]
            session = self._open[entry_point] = self._opened(path)
        return session

    def _opened(self, path: Path) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(str(path), self._options(), providers=self._providers)

    def _options(self) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._artifact.session.threads or 0  # 0: one for each core
        return options


def feed(inputs: Arrays, wide: Collection[str]) -> dict[str, np.ndarray]:
    """Give inputs in the types that a program wants: some as int64."""
    return {name: array.astype(np.int64) if name in wide else array for name, array in inputs.items()}

"""OpenVINO: per entry point its intermediate representation, made of our ONNX program; and the ONNX files themselves.

    encode_text.xml    the operators
    encode_text.bin    the weights; each program has its own, as OpenVINO's readers expect

OpenVINO chooses by a hint in which numbers it computes. Float32 is held to the budget; bfloat16, where the processor
has it, to the floors of that precision. If the run directory holds ONNX programs, they are opened too.

Source: https://docs.openvino.ai/2026/documentation/openvino-ir-format.html
"""

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..validation.errors import GateError
from ..validation.runner import Arrays, Runner
from .base import WEIGHTS, Artifact, Description, Exporter, Request
from .precisions import BFLOAT16_COMPUTED, FLOAT32

if TYPE_CHECKING:
    import openvino

# Without this, importing OpenVINO reports to a web service and writes into the user's home.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # Python's way to make an import fail

KEY = "openvino"
HINTS = {FLOAT32: "f32", BFLOAT16_COMPUTED: "bf16"}
"""Precision -> OpenVINO's name of the hint."""


def write(request: Request) -> dict[str, Description]:
    """Write the representation of every entry point."""
    from .onnx.write import write as write_onnx

    # Beside what is written: OpenVINO follows no link out of a program's folder, and a hard link stays on one disk.
    with tempfile.TemporaryDirectory(dir=request.out) as folder:
        aside = replace(request, out=Path(folder), progress=lambda nbytes: None)
        programs = write_onnx(aside)
        os.link(request.weights.path, aside.out / WEIGHTS)
        return {name: _write(request, name, aside.out / Path(p["path"]).name) for name, p in programs.items()}


def _write(request: Request, name: str, program: Path) -> Description:
    import openvino

    model = openvino.Core().read_model(program)
    model.set_friendly_name(name)
    for i, node in enumerate(model.get_ordered_ops()):
        if re.fullmatch(rf"{node.get_type_name()}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()} {i}")  # else a number that counts the whole process's
    file = request.out / f"{name}.xml"
    openvino.save_model(model, file, compress_to_fp16=False)
    request.progress(file.stat().st_size + file.with_suffix(".bin").stat().st_size)
    return {
        "path": f"{KEY}/{name}.xml",
        "weights": f"{KEY}/{name}.bin",
        "openvino": openvino.__version__.partition("-")[0],
    }


class OpenVinoRunner:
    """Runs the programs on OpenVINO's CPU device with one hint and else its defaults. Holds one at a time."""

    def __init__(self, directory: Path, paths: Mapping[str, str], precision: str):
        import openvino

        self.core = openvino.Core()
        kind = next(iter(paths.values())).rpartition(".")[2].upper().replace("XML", "IR")
        self.name = f"OpenVINO {openvino.__version__.partition('-')[0]} {HINTS[precision]}, {kind}"
        self._directory, self._paths, self._hint = directory, paths, HINTS[precision]
        self._open: tuple[str, Any] | None = None

    def run(self, entry_point: str, inputs: Arrays) -> Arrays:
        """Compute an entry point, feeding integers as the program wants them."""
        compiled = self._compiled(entry_point)
        feed = {port.any_name: inputs[port.any_name].astype(port.element_type.to_dtype()) for port in compiled.inputs}
        outputs = compiled(feed)
        return {port.any_name: np.array(outputs[port]) for port in compiled.outputs}

    def _compiled(self, entry_point: str) -> Any:
        if self._open is None or self._open[0] != entry_point:
            self._open = None
            hint = {"INFERENCE_PRECISION_HINT": self._hint}
            compiled = self.core.compile_model(self._directory / self._paths[entry_point], "CPU", hint)
            self._open = entry_point, compiled
        return self._open[1]


def open_(artifact: Artifact) -> Runner:
    """Check that every program can be read, and give a Runner in float32.

    Raises:
        GateError: OpenVINO does not read a program.
    """
    for program in artifact.programs.values():
        _read(artifact.directory / program["path"])
    return OpenVinoRunner(artifact.directory, _paths(artifact.programs), FLOAT32)


def more(artifact: Artifact, others: Mapping[str, Mapping[str, Description]]) -> Iterator[tuple[Runner, str]]:
    """Give the other ways in which OpenVINO runs what is there, with the precision that each is held to."""
    import openvino

    has_bfloat16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for programs in (artifact.programs, *others.values()):
        for precision in HINTS:
            if precision == FLOAT32 and programs is artifact.programs:
                continue  # the one that `open_` gives
            if precision == FLOAT32 or has_bfloat16:
                yield OpenVinoRunner(artifact.directory, _paths(programs), precision), precision


def read_weights(artifact: Artifact) -> Iterator[tuple[str, np.ndarray]]:
    """Read each leaf from each program: once, unless they disagree."""
    leaves, seen = artifact.network().leaves, dict[str, set[str]]()
    for program in artifact.programs.values():
        for node in _read(artifact.directory / program["path"]).get_ordered_ops():
            leaf = node.get_friendly_name().partition(" ")[0]
            if node.get_type_name() != "Constant" or leaf not in leaves:
                continue
            array = np.array(node.data)
            digest = hashlib.sha256(array.tobytes()).hexdigest()
            if digest not in seen.setdefault(leaf, set()):
                seen[leaf].add(digest)
                yield leaf, array.reshape(leaves[leaf].shape)


def _paths(programs: Mapping[str, Description]) -> dict[str, str]:
    return {name: program["path"] for name, program in programs.items()}


def _read(path: Path) -> "openvino.Model":
    import openvino

    try:
        return openvino.Core().read_model(path)
    except RuntimeError as error:
        raise GateError(f"{path} cannot be read by OpenVINO: {str(error).strip().splitlines()[-1]}") from error


EXPORTER = Exporter(
    name="openvino",
    key=KEY,
    folder=KEY,
    modules=("onnx", "openvino"),
    write=write,
    open=open_,
    read_weights=read_weights,
    optional=True,
    also=("onnx",),
    more=more,
)

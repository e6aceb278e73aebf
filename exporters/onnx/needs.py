"""What a program asks of onnxruntime: versions of its file format and operators, operators of other domains."""

import functools
from collections.abc import Iterator

import onnx

from ...validation.errors import GateError
from ..base import Artifact
from ..releases import ONNXRUNTIME, Need, Opset, row

OWN = ("", "ai.onnx")
"""The domain of ONNX itself."""


def needs(artifact: Artifact) -> Iterator[Need]:
    """Read every program's own versions.

    Raises:
        GateError: a program cannot be read.
    """
    for program in artifact.programs.values():
        path = artifact.directory / program["path"]
        try:
            model = onnx.load(path, load_external_data=False)
        except Exception as error:  # protobuf's own, of whatever version
            raise GateError(f"{path} is not an ONNX program: {error}") from error
        opset = max((entry.version for entry in model.opset_import if entry.domain in OWN), default=0)
        foreign = sorted({f"{n.domain}.{n.op_type}" for n in model.graph.node if n.domain not in OWN})
        precision = program.get("precision", "")
        told = functools.partial(remedy, format_name=f"onnx-{precision}" if precision else "onnx")
        asks = ", ".join([f"opset {opset}", f"IR version {model.ir_version}", *foreign])
        yield Need(program["path"], "onnxruntime", asks, since(opset, model.ir_version), told)


def since(opset: int, ir: int) -> str:
    """Give the first release that takes such programs; one that is not there yet if none does."""
    fit = [version for version, r in ONNXRUNTIME.items() if r.ran >= opset and r.ir >= ir]
    return fit[0] if fit else "999"


def remedy(version: str, format_name: str = "onnx") -> str:
    """Say which opset a release takes, and how the format is made for it."""
    found = row(ONNXRUNTIME, version)
    if not isinstance(found, Opset):
        return f"no release before {next(iter(ONNXRUNTIME))} was tried: ask for that one or a newer one"
    return f"run `bgevis-convert export {format_name} DIR --opset {found.ran}`, then `bgevis-convert validate DIR`"

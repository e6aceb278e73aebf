"""ONNX: a traced JAX program lowered by a small compiler to thin programs that point into the weights file."""

from collections.abc import Iterator, Mapping

import numpy as np

from ...validation.goldens import Intermediates
from ...validation.runner import Runner
from ..base import PROGRAMS, Artifact, Description, Exporter, Request


def _write(request: Request) -> dict[str, Description]:
    from .write import write

    return write(request)


def _open(artifact: Artifact) -> Runner:
    from .read import open_

    return open_(artifact)


def _read_weights(artifact: Artifact) -> Iterator[tuple[str, np.ndarray]]:
    from .read import read_weights

    return read_weights(artifact)


def _probe(artifact: Artifact, factors: Mapping[str, float]) -> Runner:
    from .read import OnnxRunner

    return OnnxRunner(artifact, factors)


def _locate(artifact: Artifact, entry_point: str, traced: Intermediates, factors: Mapping[str, float]) -> str:
    from .taps import locate

    return locate(artifact, entry_point, traced, factors)


EXPORTER = Exporter(
    name="onnx",
    key="onnx",
    folder=PROGRAMS,
    modules=("onnx", "onnxruntime"),
    extra="onnx",
    write=_write,
    open=_open,
    read_weights=_read_weights,
    probe=_probe,
    locate=_locate,
    ways={"tf2onnx": ("jax", "tensorflow", "tf2onnx")},
    compiles=False,
)

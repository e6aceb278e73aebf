"""ONNX: a traced JAX program lowered by a small compiler to thin programs that point into the weights file.

Each precision other than float32 is a format of its own, "onnx-int8", with a weights file of its own.
"""

import functools
from collections.abc import Iterator, Mapping

import numpy as np

from ...validation.goldens import Intermediates
from ...validation.locate import Taps
from ...validation.runner import Arrays, Runner
from ..base import PROGRAMS, Artifact, Description, Exporter, Plan, Request
from ..precisions import FLOAT32, PRECISIONS
from ..releases import Need

OPSETS = range(17, 27)
VIA_TENSORFLOW = range(17, 19)
"""Opsets that can be written, by our own lowering and by the way through TensorFlow."""


def _write(request: Request) -> dict[str, Description]:
    from .write import write

    return write(request)


def _trace(plan: Plan) -> None:
    from ..lowering.trace import trace

    for name in plan.network.entry_points:
        trace(plan.network.plain, name, taps=True)


def _write_rounded(request: Request, precision: str) -> dict[str, Description]:
    from .write_rounded import write

    return write(request, precision)


def _open(artifact: Artifact) -> Runner:
    from .read import open_

    return open_(artifact)


def _serve(artifact: Artifact) -> Runner:
    from .runner import OnnxRunner

    return OnnxRunner(artifact)


def _read_weights(artifact: Artifact) -> Iterator[tuple[str, np.ndarray]]:
    from .read import read_weights

    return read_weights(artifact)


def _probe(artifact: Artifact, factors: Mapping[str, float]) -> Runner:
    from .read import ScaledRunner

    return ScaledRunner(artifact, factors)


def _taps(
    artifact: Artifact, entry_point: str, traced: Intermediates, factors: Mapping[str, float]
) -> tuple[Taps, Arrays]:
    from .taps import compared

    return compared(artifact, entry_point, traced, factors)


def _locate(artifact: Artifact, entry_point: str, traced: Intermediates, factors: Mapping[str, float]) -> str:
    from .taps import locate

    return locate(artifact, entry_point, traced, factors)


def _needs(artifact: Artifact) -> Iterator[Need]:
    from .needs import needs

    return needs(artifact)


EXPORTER = Exporter(
    name="onnx",
    key="onnx",
    folder=PROGRAMS,
    modules=("onnx", "onnxruntime"),
    write=_write,
    trace=_trace,
    open=_open,
    serve=_serve,
    serves=("onnxruntime",),
    read_weights=_read_weights,
    probe=_probe,
    taps=_taps,
    locate=_locate,
    ways={"tf2onnx": ("jax", "tensorflow", "tf2onnx")},
    compiles=False,
    needs=_needs,
    tunable=("threads", "providers"),
)


def _read_rounded(artifact: Artifact) -> Iterator[tuple[str, np.ndarray]]:
    from .rounded import read_weights

    return read_weights(artifact)


def _rounding(artifact: Artifact, precision: str) -> Iterator[tuple[str, str]]:
    from .rounded import rounding

    return rounding(artifact, precision)


def _in(precision: str) -> Exporter:
    return Exporter(
        name=f"onnx-{precision}",
        key=f"onnx_{precision.replace('-', '_')}",
        folder=PROGRAMS,
        modules=("onnx", "onnxruntime"),
        write=functools.partial(_write_rounded, precision=precision),
        open=_open,
        serve=_serve,
        serves=("onnxruntime",),
        read_weights=_read_rounded,
        optional=True,
        precision=precision,
        rounding=functools.partial(_rounding, precision=precision),
        needs=_needs,
        tunable=EXPORTER.tunable,
    )


EXPORTERS = tuple(_in(precision) for precision in PRECISIONS if precision != FLOAT32)

"""What is said of the measurements: tables, ratios to the peers, and the targets they are held against."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from . import document
from .convert import Row
from .exports import NEEDS, OURS, megabytes
from .models import Model
from .runtimes import RUNTIMES

PEERS = ("torchscript", "optimized", "dynamo", "jax2onnx", "torch", "compiled")
"""What ours is held against: all that compute in float32. JAX runs our own model; OpenVINO is another runtime."""
OPENVINO_PEERS = ("openvino-torchscript", "openvino-dynamo", "openvino-jax2onnx")


@dataclass
class Result:
    """What a runtime did with a workload."""

    seconds: list[float] = field(default_factory=list)
    first: float = 0.0
    loaded: float = 0.0
    difference: float = 0.0
    error: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


ByRuntime: TypeAlias = Mapping[str, Result]
Results: TypeAlias = Mapping[str, ByRuntime]
"""Workload -> runtime -> result."""


def _good(by: ByRuntime, runtimes: Sequence[str]) -> list[str]:
    return [name for name in runtimes if name in by and not by[name].error]


def fastest(by: ByRuntime, peers: Sequence[str] = PEERS) -> str | None:
    return min(_good(by, peers), key=lambda name: by[name].median, default=None)


def time_ratio(by: ByRuntime, runtime: str, peers: Sequence[str] = PEERS) -> float | None:
    """Give a runtime's median in units of the fastest peer's, if both ran."""
    peer = fastest(by, peers)
    return by[runtime].median / by[peer].median if peer and _good(by, [runtime]) else None


def error_ratio(by: ByRuntime) -> float | None:
    return by["ours"].difference / by["torch"].difference if len(_good(by, ["ours", "torch"])) == 2 else None


@dataclass(frozen=True)
class Ratio:
    """A figure of ours in units of others' that should be small on every workload."""

    name: str
    of: Callable[[ByRuntime], float | None]
    target: float
    aim: float | None = None


TO_PEERS = Ratio("ours / fastest", lambda by: time_ratio(by, "ours"), 0.95)
RATIOS = (
    TO_PEERS,
    Ratio("int8 / fastest", lambda by: time_ratio(by, "int8"), 0.5, 0.35),
    Ratio("in OpenVINO: ours / fastest other", lambda by: time_ratio(by, "openvino", OPENVINO_PEERS), 0.95),
    Ratio("JAX, our model / PyTorch eager", lambda by: time_ratio(by, "jax", ["torch"]), 1.0),
    Ratio("error: ours / PyTorch eager", error_ratio, 2.0),
)
GEOMETRIC_MEAN = 0.75, 0.65
EXPORT_TIME, EXPORT_GIGABYTES = 0.25, 1.3


def to_fastest(results: Results) -> dict[str, dict[str, float]]:
    """Give every runtime's time in units of the fastest float32 peer's, by workload."""
    found = {name: {r: time_ratio(by, r) for r in by} for name, by in results.items()}
    return {name: {r: ratio for r, ratio in by.items() if ratio is not None} for name, by in found.items()}


def table(what: str, results: Results, cell: Callable[[Result], str]) -> str:
    """Lay out a line for each runtime and a column for each workload."""
    runtimes = next(iter(results.values()))
    rows = [(RUNTIMES[r].title, *("-" if by[r].error else cell(by[r]) for by in results.values())) for r in runtimes]
    return document.table((what, *results), rows)


def times(results: Results) -> str:
    return table("median ms", results, lambda result: f"{1e3 * result.median:.1f}")


def differences(results: Results) -> str:
    return table("largest error", results, lambda result: f"{result.difference:.0e}")


def loading(entries: Mapping[str, ByRuntime], models: Sequence[Model]) -> str:
    """Lay out the time to the first answer by entry point, and the size of the files by network."""
    lines = table("load + first request, s", entries, lambda result: f"{result.loaded:.2f} + {result.first:.2f}")
    runtimes = {RUNTIMES[r].exporter for by in entries.values() for r in by}
    rows = []
    for exporter in (e for e in (*OURS, *NEEDS) if e in runtimes):
        made = [exporter in OURS or (model.exports(exporter) / "done").exists() for model in models]
        sizes = (f"{megabytes(m, exporter):.0f}" if there else "-" for m, there in zip(models, made, strict=True))
        rows.append((RUNTIMES[exporter].title, *sizes))
    return "\n\n".join([lines, document.table(("files, MB", *map(str, models)), rows)])


def ratios(results: Results) -> str:
    """Lay out by workload the fastest float32 peer and what is held against targets."""
    rows = []
    for name, by in results.items():
        peer = fastest(by)
        found = (ratio.of(by) for ratio in RATIOS)
        rows.append((name, RUNTIMES[peer].title if peer else "-", *("-" if f is None else f"{f:.2f}" for f in found)))
    return document.table(("", "fastest float32 peer", *(ratio.name for ratio in RATIOS)), rows)


def exporting(model: Model, costs: Mapping[str, Row]) -> str:
    """Lay out what exporting took."""
    rows = []
    for row in costs.values():
        figures = (row.seconds, row.median(lambda run: run.cpu_seconds))
        memory = (row.median(lambda run: run.peak), row.median(lambda run: run.together))
        cells = (*(f"{f:.1f}" for f in figures), *(f"{m / 1e9:.2f}" for m in memory), f"{row.written / 1e6:.0f}")
        rows.append((row.name, *(cells if row.ok else ["-"] * len(cells))))
    headings = (f"exporting {model}", "wall s", "CPU s", "largest process GB", "all at once GB", "files, MB")
    return document.table(headings, rows)


def targets(results: Results, model: Model, costs: Mapping[str, Row]) -> str:
    """Hold the worst workload of each ratio, and our exporter, against what they should be."""
    lines = []
    for ratio in RATIOS:
        found = {name: value for name, by in results.items() if (value := ratio.of(by)) is not None}
        if not found:
            continue
        missed = ", ".join(name for name, value in found.items() if value > ratio.target)
        line = document.held(f"{ratio.name}, on every row", max(found.values()), ratio.target, ratio.aim)
        lines.append((*line[:-1], f"{line[-1]}: {missed}" if missed else line[-1]))
        if ratio is TO_PEERS:
            mean = math.exp(statistics.fmean(map(math.log, found.values())))
            lines.append(document.held(f"{ratio.name}, geometric mean", mean, *GEOMETRIC_MEAN))
    ours, dynamo = costs.get("ours"), costs.get("dynamo")
    if ours and ours.ok:
        if dynamo and dynamo.ok:
            name = f"exporting {model}: time to dynamo's"
            lines.append(document.held(name, ours.seconds / dynamo.seconds, EXPORT_TIME))
        peak = ours.median(lambda run: run.peak) / 1e9
        lines.append(document.held(f"exporting {model}: largest process", peak, EXPORT_GIGABYTES, unit=" GB"))
    return document.table(document.TARGETS, lines) if lines else ""


def failures(results: Results, costs: Mapping[str, Row]) -> str:
    """List what went wrong and where."""
    where: dict[tuple[str, str], list[str]] = {}
    for name, by in results.items():
        for runtime, result in by.items():
            if result.error:
                where.setdefault((RUNTIMES[runtime].title, result.error), []).append(name)
    lines = [f"- {runtime} failed on {', '.join(names)}: {error}" for (runtime, error), names in where.items()]
    return "\n".join(lines + [f"- {row.name}: {row.note}" for row in costs.values() if row.note])

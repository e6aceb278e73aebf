"""How fast the exported ONNX programs run, side by side with other exporters' and with the frameworks themselves.

Run from the root of the repository: `python -m benchmarks.onnx`.
"""

import contextlib
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import click
import numpy as np

from . import document
from .exports import OURS, ensure_exports, megabytes
from .models import Model
from .serving import Served, output_file

RUNTIMES = {
    "ours": "ours",
    "int8": "ours, int8",
    "openvino": "ours in OpenVINO",
    "openvino-bf16": "ours in OpenVINO, bf16",
    "torchscript": "TorchScript",
    "dynamo": "dynamo",
    "optimized": "TorchScript + optimizer",
    "torch": "PyTorch eager",
    "jax": "JAX, our model",
}
EXPORTERS = ("torchscript", "dynamo", "optimized")
PEERS = ("torchscript", "dynamo", "optimized", "torch")
"""What ours is held against; JAX runs our own model."""
WARM_UP = 3
FEWEST, MOST = 5, 50


@dataclass(frozen=True)
class Workload:
    """Inputs of one shape for one entry point."""

    name: str
    model: Model
    entry: str
    batch: int
    tokens: int = 0


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


def workloads(quick: bool) -> list[Workload]:
    """Give all that can be measured here."""
    size = "tiny" if quick else "base"
    model, minilm = Model("visualized_bge", size), Model("bert", "minilm-l6")
    texts = ((1, 16), (2, 24)) if quick else ((1, 16), (8, 128), (1, 512))
    batches, beside = ((1, 2), 8) if quick else ((1, 8), 16)
    found = [Workload(f"text {b}x{t}", model, "encode_text", b, t) for b, t in texts]
    found += [Workload(f"image {b}", model, "encode_image", b) for b in batches]
    found += [Workload(f"image + text {b}x{beside}", model, "encode_multimodal", b, beside) for b in batches]
    if minilm.packaged and not quick:
        found += [Workload(f"MiniLM text {b}x{t}", minilm, "encode_text", b, t) for b, t in texts]
    return found


def grouped(work: Sequence[Workload]) -> list[list[Workload]]:
    """Put the workloads of one entry point together."""
    groups: dict[tuple[Model, str], list[Workload]] = {}
    for w in work:
        groups.setdefault((w.model, w.entry), []).append(w)
    return list(groups.values())


def race(
    work: Sequence[Workload], failed: Mapping[str, str], threads: int, seconds: float
) -> dict[str, dict[str, Result]]:
    """Race the runtimes, but those that failed, on workloads of one entry point. All are loaded, one is at work."""
    model, entry = work[0].model, work[0].entry
    exact = {w.name: outputs_in_float64(w, threads) for w in work}
    results = {w.name: {r: Result(error=error) for r, error in failed.items()} for w in work}
    with contextlib.ExitStack() as stack:
        runners = [stack.enter_context(Served(r, model, entry, threads)) for r, error in failed.items() if not error]
        for w in work:
            click.echo(w.name, err=True)
            lap(w, runners, results[w.name], exact[w.name], seconds)
    return results


def outputs_in_float64(w: Workload, threads: int) -> np.ndarray:
    with Served("float64", w.model, w.entry, threads) as runner:
        runner.request(w.batch, w.tokens, str(output_file("float64")))
        if runner.error:
            raise click.ClickException(f"the float64 reference failed: {runner.error}")
    return np.load(output_file("float64"))


def lap(
    w: Workload, runners: Sequence[Served], results: Mapping[str, Result], exact: np.ndarray, seconds: float
) -> None:
    """Warm every runtime up and compare its outputs, then time them in turn until the time is used."""
    warm = 0.0
    for runner in runners:
        result = results[runner.runtime]
        result.loaded = runner.loaded
        if not runner.error:
            result.first = runner.request(w.batch, w.tokens, str(output_file(runner.runtime)))
        for _ in range(WARM_UP - 1):
            last = 0.0 if runner.error else runner.request(w.batch, w.tokens)
        warm += last
        result.error = runner.error
        if not runner.error:
            result.difference = float(np.abs(np.load(output_file(runner.runtime)) - exact).max())
    good = [runner for runner in runners if not runner.error]
    for turn in range(min(MOST, max(FEWEST, int(seconds / max(warm, 1e-3))))):
        for runner in rotated(good, turn):
            results[runner.runtime].seconds.append(runner.request(w.batch, w.tokens))


def rotated(runners: list[Served], turn: int) -> list[Served]:
    """Give each runtime each place in the order."""
    start = turn % max(1, len(runners))
    return runners[start:] + runners[:start]


def headings(results: Mapping[str, Mapping[str, Result]]) -> list[str]:
    """Name the runtimes that took part."""
    return [RUNTIMES[runtime] for runtime in next(iter(results.values()))]


def times(results: Mapping[str, Mapping[str, Result]]) -> str:
    """Lay out the medians in milliseconds, and ours against the fastest other."""
    rows = []
    for name, by_runtime in results.items():
        cells = ["-" if r.error else f"{1e3 * r.median:.1f}" for r in by_runtime.values()]
        peers = [by_runtime[r].median for r in PEERS if r in by_runtime and not by_runtime[r].error]
        ours = by_runtime.get("ours", Result(error="not asked for"))
        int8 = by_runtime.get("int8", Result(error="not asked for"))
        ratios = ("-" if r.error or not peers else f"{r.median / min(peers):.2f}" for r in (ours, int8))
        rows.append((name, *cells, *ratios))
    return document.table(("median ms", *headings(results), "ours / fastest other", "int8 / fastest other"), rows)


def differences(results: Mapping[str, Mapping[str, Result]]) -> str:
    """Lay out the largest difference of any output from float64."""
    rows = [(n, *("-" if r.error else f"{r.difference:.0e}" for r in by.values())) for n, by in results.items()]
    return document.table(("largest error", *headings(results)), rows)


def loading(work: Sequence[Workload], results: Mapping[str, Mapping[str, Result]]) -> str:
    """Lay out loading time by entry point, and file sizes by network."""
    rows = []
    for w in (same[0] for same in grouped(work)):
        cells = ("-" if r.error else f"{r.loaded:.2f} + {r.first:.2f}" for r in results[w.name].values())
        rows.append((f"{w.model} {w.entry}, s", *cells))
    for model in dict.fromkeys(w.model for w in work):
        sizes = {
            r: f"{megabytes(model, r):.0f}"
            for r in ("ours", "int8", *EXPORTERS)
            if r in OURS or model.exports(r).exists()
        }
        rows.append((f"{model} files, MB", *(sizes.get(r, "") for r in results[work[0].name])))
    return document.table(("load + first request", *headings(results)), rows)


def failures(results: Mapping[str, Mapping[str, Result]]) -> str:
    found = {(RUNTIMES[r], result.error) for by in results.values() for r, result in by.items() if result.error}
    return "\n".join(f"- {runtime}: {error}" for runtime, error in sorted(found))


def chosen(work: Iterable[Workload], rows: Sequence[str]) -> list[Workload]:
    found = [w for w in work if not rows or any(row in w.name for row in rows)]
    if not found:
        raise click.ClickException(f"no workload is called {' or '.join(rows)}: {', '.join(w.name for w in work)}")
    return found


def measure_all(
    work: Sequence[Workload], runtimes: Sequence[str], threads: int, seconds: float
) -> dict[str, dict[str, Result]]:
    results: dict[str, dict[str, Result]] = {}
    exporters = [runtime for runtime in runtimes if runtime in EXPORTERS]
    failed = {model: ensure_exports(model, exporters) for model in dict.fromkeys(w.model for w in work)}
    for same in grouped(work):
        results |= race(same, {r: failed[same[0].model].get(r, "") for r in runtimes}, threads, seconds)
    return results


@click.command()
@click.option("--rows", multiple=True, help="Only workloads whose name contains this; repeatable.")
@click.option("--runtimes", multiple=True, type=click.Choice(list(RUNTIMES)), help="Only these; repeatable.")
@click.option("--threads", default=os.cpu_count(), show_default=True, type=click.IntRange(1), help="Of each runtime.")
@click.option("--seconds", default=60.0, show_default=True, help="Spent on each workload, roughly.")
@click.option("--quick", is_flag=True, help="See that everything works, on a tiny network; the numbers say nothing.")
@click.option("--write-docs", is_flag=True, help="Put the tables into docs/performance.md.")
def main(
    rows: tuple[str, ...], runtimes: tuple[str, ...], threads: int, seconds: float, quick: bool, write_docs: bool
) -> None:
    """Measure the speed, the accuracy and the loading time of the exported ONNX programs."""
    document.refuse_quick(quick, write_docs)
    work = chosen(workloads(quick), rows)
    results = measure_all(work, runtimes or tuple(RUNTIMES), threads, 0.0 if quick else seconds)
    where = document.environment() | {"threads": threads}
    measured = f"Measured {document.sentence(where)} {threads} threads for each runtime."
    parts = [measured, times(results), differences(results), loading(work, results), failures(results)]
    text = "\n\n".join(part for part in parts if part)
    click.echo(text)
    raw = {name: {r: asdict(result) for r, result in by.items()} for name, by in results.items()}
    document.save("onnx-quick" if quick else "onnx", {"environment": where, "workloads": raw})
    if write_docs:
        document.rewrite("onnx", text)


if __name__ == "__main__":
    main()

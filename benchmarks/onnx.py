"""How fast the exported ONNX programs run, side by side with other exporters' and with the frameworks themselves.

Run from the root of the repository: `python -m benchmarks.onnx`.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import click
import numpy as np

from . import document, plot, report
from .convert import CONTENDERS, Row, peer, run_all
from .exports import NEEDS, ensure_exports
from .measure import require_psutil
from .models import BUILD, Model
from .report import Result
from .runtimes import RUNTIMES
from .serving import Served, output_file

EXPORTING = {
    "ours": CONTENDERS["ours-onnx"],
    "torchscript": CONTENDERS["torchscript"],
    "optimized": peer("optimized", "onnxruntime's optimizer, on TorchScript's files"),
    "dynamo": replace(CONTENDERS["dynamo"], once=False),  # a text encoder alone takes it seconds
    "jax2onnx": peer("jax2onnx", "jax2onnx, on our converted weights"),
}
PLOT = "performance-onnx.svg"
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


def chosen(work: Iterable[Workload], rows: Sequence[str]) -> list[Workload]:
    found = [w for w in work if not rows or any(row in w.name for row in rows)]
    if not found:
        raise click.ClickException(f"no workload is called {' or '.join(rows)}: {', '.join(w.name for w in work)}")
    return found


def measure_running(
    work: Sequence[Workload], runtimes: Sequence[str], threads: int, seconds: float
) -> dict[str, dict[str, Result]]:
    results: dict[str, dict[str, Result]] = {}
    exporters = [name for name in NEEDS if name in {RUNTIMES[r].exporter for r in runtimes}]
    failed = {model: ensure_exports(model, exporters) for model in dict.fromkeys(w.model for w in work)}
    for same in grouped(work):
        errors = failed[same[0].model]
        results |= race(same, {r: errors.get(RUNTIMES[r].exporter, "") for r in runtimes}, threads, seconds)
    return results


def measure_exporting(model: Model, runtimes: Sequence[str], repetitions: int) -> dict[str, Row]:
    """Measure those exporters whose programs are run. Two of them start from what others have made."""
    ensure_exports(model, ["torchscript"])
    exporters = {RUNTIMES[r].exporter for r in runtimes}
    return run_all(model, {e: contender for e, contender in EXPORTING.items() if e in exporters}, repetitions)


@click.command()
@click.option("--rows", multiple=True, help="Only workloads whose name contains this; repeatable.")
@click.option("--runtimes", multiple=True, type=click.Choice(list(RUNTIMES)), help="Only these; repeatable.")
@click.option("--threads", default=os.cpu_count(), show_default=True, type=click.IntRange(1), help="Of each runtime.")
@click.option("--seconds", default=60.0, show_default=True, help="Spent on each workload, roughly.")
@click.option("--exporting/--no-exporting", default=True, show_default=True, help="Also measure the exporters.")
@click.option("--quick", is_flag=True, help="See that everything works, on a tiny network; the numbers say nothing.")
@click.option("--write-docs", is_flag=True, help="Put the tables into docs/performance.md.")
def main(
    rows: tuple[str, ...],
    runtimes: tuple[str, ...],
    threads: int,
    seconds: float,
    exporting: bool,
    quick: bool,
    write_docs: bool,
) -> None:
    """Measure the ONNX programs: speed, accuracy and loading time, and what exporting them takes."""
    document.refuse_quick(quick, write_docs)
    require_psutil()
    work, runtimes = chosen(workloads(quick), rows), runtimes or tuple(RUNTIMES)
    results = measure_running(work, runtimes, threads, 0.0 if quick else seconds)
    exported = Model("bert", "tiny" if quick else "base")
    costs = measure_exporting(exported, runtimes, 1 if quick else 3) if exporting else {}
    where = document.environment() | {"threads": threads}
    text = said(work, results, exported, costs, where)
    click.echo(text)
    document.save(
        "onnx-quick" if quick else "onnx",
        {
            "environment": where,
            "workloads": {name: {r: asdict(result) for r, result in by.items()} for name, by in results.items()},
            "exporting": {name: asdict(row) for name, row in costs.items()},
        },
    )
    picture = (document.DOCUMENT.parent if write_docs else BUILD) / PLOT
    picture.write_text(plot.svg(report.to_fastest(results)), encoding="utf-8")
    click.echo(f"plot: {picture}", err=True)
    if write_docs:
        document.rewrite("onnx", text)


def said(
    work: Sequence[Workload],
    results: report.Results,
    exported: Model,
    costs: Mapping[str, Row],
    where: Mapping[str, Any],
) -> str:
    """Put the tables in order, what matters most first."""
    parts = [
        f"Measured {document.sentence(where)} {where['threads']} threads for each runtime.",
        f"![Time of each runtime over that of the fastest float32 peer]({PLOT})",
        report.ratios(results),
        report.targets(results, exported, costs),
        report.times(results),
        report.differences(results),
        report.loading(
            {f"{w.model} {w.entry}": results[w.name] for w, *_ in grouped(work)},
            list(dict.fromkeys(w.model for w in work)),
        ),
        report.exporting(exported, costs) if costs else "",
        report.failures(results, costs),
    ]
    return "\n\n".join(part for part in parts if part)


if __name__ == "__main__":
    main()

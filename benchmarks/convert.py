"""Converting a full-size Visualized-BGE, side by side with PyTorch's own ONNX exporters.

Run from the root of the repository: `python -m benchmarks.convert`.
"""

import dataclasses
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from . import document
from .measure import Usage, measure, require_psutil
from .models import BUILD, Model, ensure_checkpoint, folder_bytes

TASK = re.compile(r"\] (\S+): pass \(\S+ s, (\S+) GB\)")
"""What our command prints of a task that has ended: its name, and the most memory that its process had."""


@dataclass(frozen=True)
class Contender:
    """A way to convert the checkpoint.

    Args:
        command: (model, folder to write) -> command line.
        once: too slow to be repeated.
        peer: somebody else's, whose files are opened in onnxruntime to see that they are good.
    """

    name: str
    command: Callable[[Model, Path], Sequence[str]]
    once: bool = False
    peer: bool = False


def python(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", module, *map(str, arguments)]


def peer(exporter: str, name: str, *, once: bool = False) -> Contender:
    return Contender(name, lambda model, out: python("benchmarks.peer", exporter, model, out), once, peer=True)


CONTENDERS = {
    "ours": Contender("ours: four formats", lambda m, out: python("benchmarks.ours", m.checkpoint, out)),
    "ours-onnx": Contender("ours: ONNX", lambda m, out: python("benchmarks.ours", m.checkpoint, out, "onnx")),
    "ours-proven": Contender(
        "ours: four formats, each proven", lambda m, out: python("bgevis.converter", "all", m.checkpoint, "--out", out)
    ),
    "torchscript": peer("torchscript", "torch.onnx, TorchScript: ONNX"),
    "dynamo": peer("dynamo", "torch.onnx, dynamo: ONNX", once=True),
}


@dataclass(frozen=True)
class Row:
    """What is known of a contender: every repetition, the bytes it left, and whether its ONNX files open."""

    name: str
    runs: tuple[Usage, ...]
    written: int
    note: str = ""

    @property
    def ok(self) -> bool:
        return not any(run.error for run in self.runs)

    def median(self, of: Callable[[Usage], float]) -> float:
        return statistics.median(map(of, self.runs))

    @property
    def seconds(self) -> float:
        return self.median(lambda run: run.seconds)


def run_all(model: Model, contenders: Mapping[str, Contender], repetitions: int) -> dict[str, Row]:
    """Measure the contenders in turn, as often as wanted."""
    rows: dict[str, Row] = {}
    for repetition in range(repetitions):
        for key, contender in contenders.items():
            if repetition and (contender.once or not rows[key].ok):
                continue
            new = run_one(model, contender, BUILD / "convert" / key, first=not repetition)
            before = rows.get(key, Row(contender.name, (), 0))
            rows[key] = Row(contender.name, before.runs + new.runs, new.written, before.note or new.note)
            click.echo(f"{contender.name}, {repetition + 1}: {new.runs[0].seconds:.1f} s {new.note}", err=True)
    return rows


def run_one(model: Model, contender: Contender, out: Path, *, first: bool) -> Row:
    """Measure a contender once, in an empty folder."""
    shutil.rmtree(out, ignore_errors=True)
    try:
        usage = measure(contender.command(model, out))
        written = folder_bytes(out)
        note = usage.error
        if first and not note and contender.peer:
            note = refusal(measure(python("benchmarks.peer", "check", model, out)).error)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    return Row(contender.name, (usage,), written, note)


def refusal(error: str) -> str:
    return f"onnxruntime refuses its files: {error}" if error else ""


def help_seconds(repetitions: int = 11) -> float:
    """Give the median time of `bgevis-convert --help`."""
    command = [str(Path(sys.executable).with_name("bgevis-convert")), "--help"]
    times = []
    for _ in range(repetitions):
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def peak_of(rows: Mapping[str, Row], *, proving: bool) -> float:
    """Give the GB of the largest of our processes, among those that convert and export or among those that prove."""
    said = [run.said for name, row in rows.items() if name.startswith("ours") for run in row.runs]
    tasks = [(name, float(size)) for text in said for name, size in TASK.findall(text)]
    return max(
        (size for task, size in tasks if task.startswith(("prepare", "pack", "export")) is not proving), default=0.0
    )


def results(model: Model, rows: Mapping[str, Row]) -> str:
    """Lay out what each contender took."""
    base = rows["torchscript"].seconds if "torchscript" in rows and rows["torchscript"].ok else None
    headings = ("", "wall s", "to TorchScript", "CPU s", "largest process GB", "all at once GB", "files / checkpoint")
    lines = [(row.name, *cells(row, base, model.bytes)) for row in rows.values()]
    notes = [f"{row.name}: {row.note}" for row in rows.values() if row.note]
    return "\n\n".join([document.table(headings, lines), *notes])


def cells(row: Row, base: float | None, checkpoint: int) -> tuple[str, ...]:
    if not row.ok:
        return (row.note.split(":")[0] if row.note.startswith("not installed") else "failed", *[""] * 5)
    ratio = f"{row.seconds / base:.2f}" if base else "-"
    memory = (f"{row.median(of) / 1e9:.2f}" for of in (lambda run: run.peak, lambda run: run.together))
    cpu = f"{row.median(lambda run: run.cpu_seconds):.1f}"
    return (f"{row.seconds:.1f}", ratio, cpu, *memory, f"{row.written / checkpoint:.2f}")


def targets(model: Model, rows: Mapping[str, Row]) -> str:
    """Hold our figures against what they should be."""
    lines = []
    good = {name: row for name, row in rows.items() if row.ok}
    for name, target, aim in (("ours", 0.6, 0.3), ("ours-proven", 2.0, 1.0)):
        if {name, "torchscript"} <= set(good):
            ratio = good[name].seconds / good["torchscript"].seconds
            lines.append(document.held(f"{good[name].name}: time to TorchScript's", ratio, target, aim))
    if any(name.startswith("ours") for name in good):
        peak = peak_of(good, proving=False)
        lines.append(document.held("largest process while converting", peak, 2.0, 1.4, " GB"))
    if "ours-proven" in good:
        peak, files = peak_of(good, proving=True), good["ours-proven"].written / model.bytes
        lines.append(document.held("largest process while proving", peak, 3.5, 2.0, " GB"))
        lines.append(document.held("files / checkpoint", files, 3.1))
    lines.append(document.held("bgevis-convert --help", help_seconds(), 0.25, unit=" s"))
    return document.table(document.TARGETS, lines)


@click.command()
@click.option("--size", help="Of Visualized-BGE; default base, with --quick tiny.")
@click.option("--repetitions", type=click.IntRange(1), help="Of each contender; default 3, with --quick 1.")
@click.option("--rows", "names", multiple=True, type=click.Choice(list(CONTENDERS)), help="Only these; repeatable.")
@click.option("--quick", is_flag=True, help="See that everything works; the numbers say nothing.")
@click.option("--write-docs", is_flag=True, help="Put the tables into docs/performance.md.")
def main(size: str | None, repetitions: int | None, names: tuple[str, ...], quick: bool, write_docs: bool) -> None:
    """Measure converting: time, memory and disk, against PyTorch's own exporters."""
    document.refuse_quick(quick, write_docs)
    require_psutil()
    model = Model("visualized_bge", size or ("tiny" if quick else "base"))
    ensure_checkpoint(model)
    rows = run_all(model, {n: CONTENDERS[n] for n in names or CONTENDERS}, repetitions or (1 if quick else 3))
    where = document.environment()
    text = "\n\n".join([f"Measured {document.sentence(where)}", results(model, rows)])
    if not quick:
        text += f"\n\n{targets(model, rows)}"
    click.echo(text)
    measured = {name: dataclasses.asdict(row) for name, row in rows.items()}
    content = {"model": str(model), "checkpoint": model.bytes, "environment": where, "rows": measured}
    document.save("convert-quick" if quick else "convert", content)
    if write_docs:
        document.rewrite("convert", text)


if __name__ == "__main__":
    main()

"""`bench`: how fast each format of a run directory embeds here, and in how much memory, held to ArrowEngine's targets.

Each format and kind of row is measured in a process of its own: `python -m bgevis.converter.use.bench`, which speaks a
line of JSON. There what the runtime's imports take is known before anything is opened.
"""

import dataclasses
import importlib.util
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...exporters.base import Exporter, exporters
from ...validation.errors import ConvertError, EnvironmentFailure, InputError
from ..directory import RunDirectory
from ..report.plots import Panel
from .artifacts import PREFERRED, Artifacts, open_artifacts
from .perplexity import SHIPPED

BATCHES = (1, 8, 32, 128)
"""Rows that are given at once, if nothing else is said."""

SECONDS = 2.0
"""How long each figure is measured, if nothing else is said."""

WARM, LEAST = 3, 5
"""Requests that are not counted, and the fewest that are."""

WORDS = (2, 12)
"""Fewest and most words of a text, such as people search for."""

MB = 1e6

SHOWN = 300
"""Most characters of what a process said that failed."""


@dataclass(frozen=True)
class Measured:
    """What a format took for one kind of row.

    Args:
        format: which.
        kind: "text", "image", "audio", or "pair" of a reranker.
        runtime: that runs it, with its version.
        cores: that it had.
        opened: seconds until the run directory was open, every file held to its digest.
        first: seconds of the first request, which opens the program or compiles it.
        latency: seconds of a request of one row: "mean", "p50", "p95", "p99".
        throughput: rows a second, by rows given at once.
        imports: resident bytes before anything was opened.
        memory: bytes above these at most.
    """

    format: str
    kind: str
    runtime: str
    cores: int
    opened: float
    first: float
    latency: Mapping[str, float]
    throughput: Mapping[int, float]
    imports: int
    memory: int

    @property
    def ready(self) -> float:
        """Give the seconds from nothing but imports to the first answer."""
        return self.opened + self.first

    @property
    def most(self) -> float:
        """Give rows a second of the best batch."""
        return max(self.throughput.values())

    @property
    def peak(self) -> int:
        """Give the bytes of the process at most, imports included."""
        return self.imports + self.memory

    def to_json(self) -> dict[str, Any]:
        """Give all of it for programs, held to the targets."""
        return dataclasses.asdict(self) | {"targets": [dataclasses.asdict(each) for each in targets(self)]}


@dataclass(frozen=True)
class Target:
    """A figure held to what ArrowEngine asks for.

    Args:
        what: it is.
        measured: the figure.
        limit: of it.
        unit: of both.
        met: whether it is.
    """

    what: str
    measured: float
    limit: float
    unit: str
    met: bool


TARGETS: Mapping[str, tuple[float, float, float, float | None]] = {
    "text": (100, 5, 2000, None),
    "image": (500, 100, 150, 1000),
    "audio": (500, 200, 50, 500),
}
"""By kind: milliseconds to the first answer, of a request in the mean, rows a second, megabytes of the process."""


def targets(found: Measured) -> Iterator[Target]:
    """Hold what was measured to ArrowEngine's targets, if it has any for the kind."""
    if found.kind not in TARGETS:
        return
    ready, request, rate, memory = TARGETS[found.kind]
    for what, seconds, limit in (("ready", found.ready, ready), ("a request", found.latency["mean"], request)):
        yield Target(what, seconds * 1e3, limit, "ms", seconds * 1e3 < limit)
    yield Target("rows a second", found.most, rate, "", found.most > rate)
    if memory is not None:
        yield Target("memory", found.peak / MB, memory, "MB", found.peak / MB < memory)


def tell(found: Measured) -> str:
    """Write it for a person."""
    latency = ", ".join(f"{name} {seconds * 1e3:.1f}" for name, seconds in found.latency.items())
    rates = ", ".join(f"{rate:.0f} by {size}" for size, rate in found.throughput.items())
    lines = [
        f"{found.format} ({found.runtime}), {found.kind}, {found.cores} core{'s' * (found.cores != 1)}",
        f"  opened in {found.opened * 1e3:.0f} ms, the first request {found.first * 1e3:.0f} ms",
        f"  a request, ms: {latency}",
        f"  rows a second: {rates}",
        f"  memory: {found.memory / MB:.0f} MB above the imports' {found.imports / MB:.0f} MB",
    ]
    for each in targets(found):
        verdict = "met" if each.met else "MISSED"
        lines.append(
            f"  target: {each.what} {each.measured:.1f} of {each.limit:g} {each.unit}".rstrip() + f": {verdict}"
        )
    return "\n".join(lines)


def bench(
    run: RunDirectory,
    formats: Sequence[str],
    cores: int | None,
    batches: Sequence[int],
    seconds: float,
    note: Callable[[str], object] = lambda text: None,
) -> Iterator[Measured | str]:
    """Measure formats one after the other; of one that cannot be run, why.

    Args:
        run: the run directory.
        formats: names; none for all that are there.
        cores: that each may use; None for all.
        batches: rows given at once.
        seconds: how long each figure is measured.
        note: told what is being measured.

    Raises:
        InputError: a format is not there, or the network neither embeds nor scores.
        EnvironmentFailure: none can be run here, or cores cannot be chosen.
    """
    if cores is not None and not hasattr(os, "sched_setaffinity"):
        raise EnvironmentFailure("--threads binds each process to cores, which this system does not do; leave it out")
    several = [*_there(run, formats)]
    kinds: list[str] = []
    for exporter in several:
        try:
            exporter.require(serving=True)
            kinds = kinds or _kinds(run.path, exporter.name)
        except EnvironmentFailure as error:
            yield f"{exporter.name}: {error}"
            continue
        for kind in kinds:
            note(f"{exporter.name}, {kind}")
            yield _in_a_process(run, exporter, kind, cores, batches, seconds)
    if not kinds:
        raise EnvironmentFailure(f"{run.path}: the runtime of none of its formats is installed")


def _there(run: RunDirectory, formats: Sequence[str]) -> Iterator[Exporter]:
    """Give the formats to measure, those that are opened by default first."""
    keys = {key for entry in run.manifest()["entry_points"].values() for key in entry["programs"]}
    found = {name: each for name, each in exporters().items() if each.key in keys and not each.layout}
    if not found:
        raise InputError(f"{run.path} holds no artifacts; run `bgevis-convert export FORMAT {run.path}` first")
    for name in formats:
        if name not in found:
            raise InputError(f"{run.path} holds no {name} (formats: {', '.join(found)})")
    order = [*PREFERRED, *found]
    return iter(sorted((found[name] for name in formats or found), key=lambda each: order.index(each.name)))


def _kinds(path: Path, format_name: str) -> list[str]:
    """Say what is measured of a network.

    Raises:
        InputError: it neither embeds nor scores.
    """
    with open_artifacts(path, format_name, verify=False) as opened:
        found = [*opened.embeds] or ["pair"] * bool(opened.rules.get("scores"))
    if not found:
        raise InputError(f"{path}: this network gives no embeddings and no scores: there is nothing to measure")
    return found


def _in_a_process(
    run: RunDirectory, exporter: Exporter, kind: str, cores: int | None, batches: Sequence[int], seconds: float
) -> Measured | str:
    """Measure in a process of its own, which ends with this one's wait for it; or say why it failed.

    Raises:
        InputError: the run directory was altered.
    """
    given = json.dumps([str(run.path), exporter.name, kind, cores, list(batches), seconds])
    command = [sys.executable, "-m", __name__, given]
    pipe = subprocess.PIPE
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log) as process:
            assert process.stdout
            try:
                said = process.stdout.read()
                process.wait()  # at the end of its standard input it would end at once
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            failed = f"{exporter.name}, {kind}: {_last_words(log, process.returncode)}"
            if process.returncode == InputError.exit_code:
                raise InputError(failed)
            return failed
    told = json.loads(said.splitlines()[-1])
    told["throughput"] = {int(size): rate for size, rate in told["throughput"].items()}
    return Measured(**told)


def _last_words(log: IO[bytes], code: int) -> str:
    log.seek(0)
    lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return (lines[-1] if lines else f"ended with {code}")[:SHOWN]


def drawn(found: Sequence[Measured]) -> list[Panel]:
    """Draw rows a second by rows given at once, and the seconds of a request."""

    def throughput(at: Any) -> None:
        for each in found:
            at.plot([*each.throughput], [*each.throughput.values()], marker="o", label=f"{each.format}, {each.kind}")
        at.set(xscale="log", yscale="log")
        sizes = sorted({size for each in found for size in each.throughput})
        at.set_xticks(sizes, [str(size) for size in sizes])
        at.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        at.legend()

    def latency(at: Any) -> None:
        width = 0.8 / max(len(found), 1)
        for place, each in enumerate(found):
            where = np.arange(len(each.latency)) + place * width
            at.bar(where, [seconds * 1e3 for seconds in each.latency.values()], width)
        names = [*found[0].latency] if found else []
        at.set(xticks=np.arange(len(names)) + 0.4 - width / 2, xticklabels=names)

    return [
        Panel("throughput", "rows given at once", "rows a second", throughput),
        Panel("a request of one row", "", "ms", latency),
    ]


def measure(
    path: str, format_name: str, kind: str, cores: int | None, batches: Sequence[int], seconds: float
) -> Measured:
    """Measure a format in this process."""
    if cores is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    exporter = exporters()[format_name]
    for module in exporter.serves if exporter.serve else exporter.modules:
        importlib.import_module(module)
    for module in ("tokenizers", "PIL.Image"):
        if importlib.util.find_spec(module.partition(".")[0]):
            importlib.import_module(module)
    imports = resident()
    begun = time.perf_counter()
    opened = open_artifacts(path, format_name, threads=cores if "threads" in exporter.tunable else None)
    ready = time.perf_counter() - begun
    ask, rows = _asked(opened, kind), _rows(opened, kind, max(batches))
    first = _timed(ask, rows[:1], 1)
    times = _times(ask, rows[:1], 1, seconds)
    names = {"p50": 50, "p95": 95, "p99": 99}
    latency = {"mean": float(np.mean(times))} | {name: float(np.percentile(times, at)) for name, at in names.items()}
    throughput = {}
    for size in batches:
        throughput[size] = size / float(np.mean(_times(ask, rows[:size], size, seconds)))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Measured(
        opened.format, kind, opened.runner, cores, ready, first, latency, throughput, imports, peak() - imports
    )


def _asked(opened: Artifacts, kind: str) -> Callable[[list[Any], int], object]:
    """Give what asks for rows, so many at once."""
    if kind == "pair":
        return lambda rows, size: opened.score(rows, batch_size=size)
    return lambda rows, size: opened.embed_rows(kind, rows, batch_size=size)


def _rows(opened: Artifacts, kind: str, count: int) -> list[Any]:
    """Draw rows, the same each time: texts of some words, pictures of the network's size, sounds of its window."""
    draw, noise = random.Random(0), np.random.default_rng(0)
    if kind == "image":
        size = opened.rules["images"]["size"]
        return [noise.integers(0, 256, (size, size, 3), np.uint8) for _ in range(count)]
    if kind == "audio":
        rules = opened.rules["sounds"]
        return [(noise.normal(0, 0.1, rules["samples"]).astype(np.float32), rules["rate"]) for _ in range(count)]
    words = SHIPPED.read_text(encoding="utf-8").split()
    texts = [" ".join(draw.choices(words, k=draw.randint(*WORDS))) for _ in range(2 * count)]
    return list(zip(texts[::2], texts[1::2], strict=True)) if kind == "pair" else texts[:count]


def _times(ask: Callable[[list[Any], int], object], rows: list[Any], size: int, seconds: float) -> list[float]:
    """Ask again and again for some seconds; give those of each request, the first ones left out."""
    begun = time.perf_counter()
    for _ in range(WARM):
        _timed(ask, rows, size)
        if time.perf_counter() - begun > seconds:
            break
    found, begun = list[float](), time.perf_counter()
    while len(found) < LEAST or time.perf_counter() - begun < seconds:
        found.append(_timed(ask, rows, size))
    return found


def _timed(ask: Callable[[list[Any], int], object], rows: list[Any], size: int) -> float:
    begun = time.perf_counter()
    ask(rows, size)
    return time.perf_counter() - begun


def resident() -> int:
    """Give the bytes of memory that this process has now; where the system does not say, the most that it had."""
    return _status("VmRSS") or peak()


def peak() -> int:
    """Give the most bytes of memory that this process ever had."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return _status("VmHWM") or most


def _status(name: str) -> int:
    """Read a figure of Linux's on this process; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


def _await_parent() -> None:
    """End when the parent does, however it ends: it would measure on, for nobody."""
    os.read(0, 1)
    os._exit(EnvironmentFailure.exit_code)


def main() -> int:
    """Measure what the argument says, and print it as JSON."""
    threading.Thread(target=_await_parent, daemon=True).start()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # whatever a framework prints
        try:
            found = measure(*json.loads(sys.argv[1]))
        except ConvertError as error:
            print(str(error).replace("\n", " "), file=sys.stderr)
            return error.exit_code
        out.write(json.dumps(dataclasses.asdict(found)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Tasks in processes of their own, two at a time, each as soon as what it needs is there.

Memory goes back to the machine when a process ends, so TensorFlow's and jax's do not pile up. An input
or environment error stops everything; a gate that says no stops only what needs it, so that one run
reports everything that is wrong.
"""

import contextlib
import dataclasses
import json
import math
import os
import select
import selectors
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from ...exporters.base import PROGRAMS, Exporter, exporters
from ...exporters.precisions import FLOAT32
from ...validation.errors import (
    ConvertError,
    EnvironmentFailure,
    GateError,
    InputError,
    Unexpected,
    UsageFailure,
)
from ...validation.packages import need_jax
from ..certificate import provenance
from ..certificate.ledger import SOURCE
from ..checkpoint import open_checkpoint
from ..directory import MANIFEST, PROVENANCE, STAGING, RunDirectory, hold, megabytes
from ..manifest import artifact
from ..options import Options, check, chosen
from ..proof.documents import believable, check_manifest
from ..stages import BY_NAME, PREPARE, STAGES, Stage, validate
from ..unexpected import DEBUG
from .nursery import Nursery

ASIDE = 0.3
"""Disk that a run takes beside its copies of the weights, in sizes of one: goldens, programs, what is being written."""


SEED = "BGEVIS_HASH_SEED"
"""Set in the environment: the workers' PYTHONHASHSEED. The bytes must not depend on it; a rebuild sets another one."""

CHUNK = 1 << 16

PATIENCE = 10
"""Seconds that a worker has for cleaning up when it is told to end."""

BY_CODE = {error.exit_code: error for error in (GateError, UsageFailure, InputError, EnvironmentFailure, Unexpected)}


@dataclass(frozen=True)
class Task:
    """A task of the worker, and the tasks that must have passed before.

    Args:
        order: among tasks that could start, the lowest starts first.
        host: the task whose process does this one too, once that has passed, if it is among the tasks.
            A host is nobody's guest.
    """

    name: str
    after: tuple[str, ...] = ()
    order: int = 0
    host: str = ""


class Display(Protocol):
    """Shows what the tasks do."""

    def plan(self, tasks: Sequence[str]) -> None:
        """Show what there is to do."""

    def start(self, task: str) -> None:
        """Show that a task has started."""

    def begin(self, task: str, total: int | None) -> None:
        """Show that a task has so many bytes to do."""

    def advance(self, task: str, nbytes: int) -> None:
        """Show that so many more bytes are done."""

    def note(self, task: str, text: str) -> None:
        """Show what a task says."""

    def end(self, task: str, verdict: str, seconds: float, peak: int) -> None:
        """Show that a task has ended: pass, fail or skipped."""


class Failed(ConvertError):
    """Several failures as one; the gravest gives the exit code."""

    def __init__(self, errors: Sequence[ConvertError]):
        super().__init__("\n".join(str(error) for error in errors))
        self.exit_code = max(error.exit_code for error in errors)


@dataclass
class _Worker:
    """A process for a task and those that it hosts: made, warm once it has imported what it needs, told to go."""

    tasks: Sequence[Task]
    said: IO[bytes]
    tell: IO[bytes]
    log: IO[bytes]
    pid: int | None = None
    warm: bool = False
    started: float | None = None
    outcomes: list[ConvertError | None] = field(default_factory=list)
    """What failed, or None, of each task that is over."""
    exit: int | None = None
    rest: bytes = b""

    def go(self, display: Display) -> None:
        """Let it do its tasks."""
        self._start(display)
        with contextlib.suppress(BrokenPipeError):  # it has ended already: that is heard from its other pipe
            self.tell.write(b"!")

    @property
    def name(self) -> str:
        """The task that it does now, "" when all are over."""
        return "" if len(self.outcomes) == len(self.tasks) else self.tasks[len(self.outcomes)].name

    def over(self) -> Iterable[tuple[Task, ConvertError | None]]:
        """Give the tasks that are over, and what failed in each."""
        return zip(self.tasks, self.outcomes, strict=False)

    def end(self, error: ConvertError | None, display: Display, peak: int = 0) -> None:
        """Note how its task ended; if well, it goes on with the next one."""
        seconds = time.monotonic() - (self.started or time.monotonic())
        display.end(self.name, "fail" if error else "pass", seconds, peak)
        self.outcomes.append(error)
        if self.name and not error:
            self._start(display)

    def _start(self, display: Display) -> None:
        self.started = time.monotonic()
        display.start(self.name)

    @property
    def busy(self) -> bool:
        """Whether it needs a processor now."""
        return self.started is not None or not self.warm


def tasks_for_all(formats: Sequence[Exporter]) -> list[Task]:
    """Give every task of `all`."""
    return _tasks(STAGES, formats)


def tasks_for_exports(formats: Sequence[Exporter]) -> list[Task]:
    """Give the tasks that make artifacts, without any that proves them."""
    return _tasks([stage for stage in STAGES if not stage.proves], formats)


def _tasks(stages: Iterable[Stage], formats: Sequence[Exporter]) -> list[Task]:
    """Turn stages into tasks: those of one process are one, those that are done for each format are several."""
    tasks = [Task(PREPARE)]
    for stage in stages:
        if stage.each:
            tasks += [_of_format(stage, exporter, formats) for exporter in _longest_first(formats)]
        elif not stage.process:
            tasks.append(Task(stage.name, stage.after, stage.order, stage.host))
    return tasks


def _of_format(stage: Stage, exporter: Exporter, formats: Sequence[Exporter]) -> Task:
    """Give the task of one format. It needs those of the formats whose programs it opens, a layout needs the pack."""
    there = {e.name for e in formats}
    opened = [name for name in (exporter.name, *exporter.also) if name in there]
    needs = ["pack"] if exporter.needs_pack else []
    for name in stage.after:
        needs += [f"{name}:{each}" for each in opened] if name in BY_NAME and BY_NAME[name].each else [name]
    host = f"{stage.name}:{exporter.host}" if exporter.host and not stage.proves else ""
    return Task(f"{stage.name}:{exporter.name}", tuple(needs), stage.order, host)


def _longest_first(formats: Sequence[Exporter]) -> list[Exporter]:
    return sorted(formats, key=lambda exporter: -exporter.effort)


def convert_all(directory: Path, options: Options, display: Display, jobs: int) -> RunDirectory:
    """Do everything: from the checkpoint to proven artifacts."""
    check(options)
    need_jax()
    formats = chosen(options)
    for exporter in formats:
        exporter.require(options.via)
    with hold(directory):
        check_space(
            Path(options.checkpoint), directory, formats, options.dtype
        )  # now that nobody else moves files in it
        errors = run_tasks(tasks_for_all(formats), directory, options, display, jobs)
        begun = (directory / MANIFEST).exists()  # else a gate said no before there was one
        judged = begun and all(error.exit_code == GateError.exit_code for error in errors)
        others = standing(RunDirectory(directory), formats) if judged else []
        conclude(directory, [*formats, *others], errors)
    return RunDirectory(directory)


def validate_all(run: RunDirectory, options: Options, display: Display, jobs: int) -> None:
    """Prove the artifacts that are there, or those asked for."""
    formats = chosen(options)
    if not options.formats:
        formats = [e for e in exporters().values() if f"export-{e.name}" in run.manifest()["stages"]]
    if not formats:
        raise InputError(f"{run.path} holds no artifacts; run `bgevis-convert export FORMAT {run.path}` first")
    for exporter in formats:  # before anything is touched: nobody's proof goes because something is not installed here
        exporter.require()
    need_jax()
    with believable(run.path):
        provenance.check(run)
        check_manifest(run)
        for exporter in formats:
            artifact(run, exporter)
    proven = (run.path / PROVENANCE).exists()
    run.forget(["validate", "documents", *(f"validate-{e.name}" for e in formats)])  # what is asked for is done anew
    tasks = [Task("documents"), *(Task(f"validate:{e.name}", ("documents",), 1) for e in formats)]
    errors = run_tasks(tasks, run.path, dataclasses.replace(options, again=True), display, jobs)
    others = [] if options.formats and not proven else standing(run, formats)
    conclude(run.path, [*formats, *others], errors)


def standing(run: RunDirectory, formats: Sequence[Exporter]) -> list[Exporter]:
    """Give the other formats that a run holds and whose proof stands: they are part of its verdict.

    Of one whose export failed before nothing is left, so that no verdict of it spoils that of the others.
    """
    asked = {exporter.name for exporter in formats}
    failed = {f"export-{name}" for name in exporters().keys() - asked}
    run.forget(
        [stage for stage, verdict in run.manifest()["verdicts"].items() if stage in failed and verdict == "fail"]
    )
    manifest = run.manifest()
    there = [e for e in exporters().values() if f"export-{e.name}" in manifest["stages"] and e.name not in asked]
    whole = [e for e in there if run.is_current(f"validate-{e.name}", validate.reads(run, Options(), e))]
    run.forget([f"validate-{e.name}" for e in there if e not in whole and f"validate-{e.name}" in manifest["verdicts"]])
    return whole


def conclude(directory: Path, formats: Sequence[Exporter], errors: list[ConvertError]) -> None:
    """Join the reports on the formats, if each has one, and raise all that failed."""
    others = [error for error in errors if not str(error).startswith("validate ")]
    if any(error.exit_code != GateError.exit_code for error in errors):
        others = errors  # not everything was judged: what was proved before stays as it is
    elif all((directory / validate.report_path(e)).exists() for e in formats):
        try:
            validate.conclude(RunDirectory(directory), formats)
        except GateError as error:
            others.append(error)
    elif not others:
        others = errors
    if others:
        raise others[0] if len(others) == 1 else Failed(others)
    provenance.write(RunDirectory(directory))


def prove_parity(run: RunDirectory, options: Options, display: Display) -> None:
    """Run the reference, then the NNX model, each in its own process."""
    need_jax()
    run.forget(["reference", "parity"])
    errors = run_tasks([Task("reference"), Task("parity", ("reference",))], run.path, options, display, 1)
    if errors:
        raise errors[0]


def run_tasks(
    tasks: Sequence[Task], directory: Path, options: Options, display: Display, jobs: int
) -> list[ConvertError]:
    """Run tasks as their needs are met; give what failed."""
    display.plan([task.name for task in tasks])
    waiting = sorted(_by_process(tasks), key=lambda hosted: hosted[0].order)
    passed: set[str] = set()
    errors: list[ConvertError] = []
    workers: list[_Worker] = []
    _scratch(directory).mkdir(parents=True, exist_ok=True)
    with selectors.DefaultSelector() as selector, Nursery(_environment(directory)) as nursery:

        def make(tasks: Sequence[Task]) -> _Worker:
            log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
            names = [task.name for task in tasks]
            worker = _Worker(tasks, *nursery.start([str(directory), options.to_json(), *names], log), log)
            selector.register(worker.said, selectors.EVENT_READ, worker)
            workers.append(worker)
            return worker

        try:
            while True:
                _employ(waiting, workers, passed, jobs, make, display)
                if not any(worker.started for worker in workers):
                    break  # what is left needs something that failed
                ended = _listen(display, selector)
                for worker in ended:
                    _finish(worker, display, nursery)
                for worker in workers:
                    passed |= {task.name for task, error in worker.over() if error is None}
                for worker in ended:
                    workers.remove(worker)
                    errors += [error for _, error in worker.over() if error]
                if any(error.exit_code != GateError.exit_code for error in errors):
                    return errors
        finally:
            for left in workers:
                _stop(left)
    return errors


def _by_process(tasks: Sequence[Task]) -> list[Sequence[Task]]:
    """Give each task that needs a process, with those that it hosts."""
    names = {task.name for task in tasks}
    return [(task, *(t for t in tasks if t.host == task.name)) for task in tasks if task.host not in names]


def _employ(
    waiting: list[Sequence[Task]],
    workers: Sequence[_Worker],
    passed: set[str],
    jobs: int,
    make: Callable[[Sequence[Task]], _Worker],
    display: Display,
) -> None:
    """Let tasks go whose needs are met; what processors are left free, others use to import what they will need."""
    made = {worker.tasks[0].name: worker for worker in workers}
    working = sum(worker.started is not None for worker in workers)
    for tasks in [t for t in waiting if set(t[0].after) <= passed][: max(jobs - working, 0)]:
        waiting.remove(tasks)
        (made.get(tasks[0].name) or make(tasks)).go(display)
    free = jobs - sum(worker.busy for worker in workers)
    for tasks in [t for t in waiting if t[0].name not in made][: max(free, 0)]:
        make(tasks)


def _scratch(directory: Path) -> Path:
    return directory.absolute() / STAGING / "scratch"


def _environment(directory: Path) -> dict[str, str]:
    """Give the workers an environment in which their bytes do not depend on the caller's.

    They share what XLA compiles: Orbax holds weights without a program, so its proof runs the NNX model again.
    What frameworks leave among the temporary files goes when the command ends.
    """
    return os.environ | {
        "TMPDIR": str(_scratch(directory)),
        "PYTHONHASHSEED": os.environ.get(SEED, "0"),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "JAX_PLATFORMS": "cpu",
        "OMP_WAIT_POLICY": "PASSIVE",  # PyTorch's idle threads must not burn the core that another task works on
        "JAX_COMPILATION_CACHE_DIR": str(directory.absolute() / STAGING / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }


def _listen(display: Display, selector: selectors.BaseSelector) -> list[_Worker]:
    """Pass on what the workers say; give those that have ended."""
    ended = []
    for key, _ in selector.select():
        worker: _Worker = key.data
        if data := os.read(key.fd, CHUNK):
            *lines, worker.rest = (worker.rest + data).split(b"\n")
            for line in lines:
                _message(worker, json.loads(line), display)
        else:
            selector.unregister(key.fileobj)
            ended.append(worker)
    return ended


def _message(worker: _Worker, message: dict, display: Display) -> None:
    name = worker.name
    if "begin" in message:
        display.begin(name, message["begin"])
    elif "advance" in message:
        display.advance(name, message["advance"])
    elif "note" in message:
        display.note(name, message["note"])
    elif "error" in message:
        worker.end(BY_CODE[message["exit_code"]](message["error"]), display)
    elif "done" in message:
        worker.end(None, display, message["peak"])
    elif "pid" in message:
        worker.pid = message["pid"]
    elif "warm" in message:
        worker.warm = True
    elif "exit" in message:
        worker.exit = message["exit"]


def _finish(worker: _Worker, display: Display, nursery: Nursery) -> None:
    """Close what belongs to a process that has ended, and explain it if that was before its time."""
    with worker.said, worker.tell, worker.log:
        if worker.name and not any(worker.outcomes):
            worker.end(_died(worker, nursery), display)


def _died(worker: _Worker, nursery: Nursery) -> ConvertError:
    """Explain a process that ended without a word."""
    worker.log.seek(0)
    said = worker.log.read().decode(errors="replace") or nursery.last_words()
    tail = said.strip().splitlines()[-40:]
    name = worker.name
    if worker.exit is not None and worker.exit < 0:
        reason = f"was ended by {signal.Signals(-worker.exit).name}"
        hint = "; the machine probably ran out of memory" if worker.exit == -signal.SIGKILL else ""
        return EnvironmentFailure(f"{name} {reason}{hint}; run the command again to resume")
    last = tail[-1] if tail else f"exit code {worker.exit}"
    if os.environ.get(DEBUG):
        last = "\n".join(tail)
    return Unexpected(f"{name} failed unexpectedly: {last}\nrun again with --debug to see all that it said")


def _stop(worker: _Worker) -> None:
    """End a worker: it may clean up for some seconds."""
    with worker.said, worker.tell, worker.log:
        if worker.pid is None:
            return  # it ends by itself when it finds that nobody tells it anything
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, number)
            deadline = time.monotonic() + PATIENCE
            while select.select([worker.said], [], [], max(0, deadline - time.monotonic()))[0]:
                if not os.read(worker.said.fileno(), CHUNK):
                    return


def check_space(checkpoint: Path, directory: Path, formats: Sequence[Exporter], dtype: str) -> None:
    """Raise EnvironmentFailure before any work when the disk cannot hold the result."""
    weights = weight_bytes(checkpoint, dtype)
    copies = 1 + sum(exporter.folder != PROGRAMS or exporter.precision != FLOAT32 for exporter in formats)
    existing = next(p for p in (directory.absolute(), *directory.absolute().parents) if p.exists())
    used = sum(f.stat().st_size for f in directory.rglob("*") if f.is_file()) if directory.is_dir() else 0
    needed = int((copies + ASIDE) * weights) - used
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise EnvironmentFailure(
            f"{existing}: {megabytes(free)} free, but the artifacts need about {megabytes(needed)}: {copies} copies of "
            f"{megabytes(weights)} of weights; free some space or choose another --out, fewer formats with --format, "
            "or --dtype source where the checkpoint has a shorter type"
        )


def weight_bytes(checkpoint: Path, dtype: str) -> int:
    """Say how large the weights of a checkpoint are as they are going to be stored; 0 for one that cannot be read.

    From its index. What a rule drops is counted too: which family's rules these are is not known yet.
    """
    try:
        tensors = open_checkpoint(checkpoint).tensors.values()
    except ConvertError:
        return 0  # the first stage says what is wrong
    once = {(t.storage, t.offset, t.shape): t for t in tensors}.values()  # tied tensors are stored once
    return sum(t.nbytes if dtype == SOURCE else 4 * math.prod(t.shape) for t in once)

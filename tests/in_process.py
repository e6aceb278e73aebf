"""The pipeline in the tests' own process: nothing is imported twice, and parts can be put in others' places."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bgevis.converter.directory import RunDirectory, hold
from bgevis.converter.options import Options, chosen
from bgevis.converter.progress import Silent
from bgevis.converter.run import tasks as pipeline
from bgevis.converter.run import worker
from bgevis.converter.stages import validate
from bgevis.validation.errors import ConvertError


class Nothing:
    """A display that shows nothing."""

    def __getattr__(self, name):
        return lambda *arguments: None


def _tasks(tasks, directory, options, display, jobs):
    """Do tasks one after another, each if what it needs has passed."""
    errors, failed = [], set()
    for task in sorted(tasks, key=lambda task: task.order):
        if failed & set(task.after):
            failed.add(task.name)
            continue
        try:
            worker.perform(task.name, directory, options, Silent())
        except ConvertError as error:
            errors.append(error)
            failed.add(task.name)
    return errors


@contextmanager
def in_this_process() -> Iterator[None]:
    """Do what workers do in this process, where torch stays importable for the tests that follow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "run_tasks", _tasks)
        patch.setattr(validate, "FORBIDDEN", ())
        yield


def convert(checkpoint: Path, out: Path, formats: tuple[str, ...], configs: tuple[str, ...] = (), **given) -> Path:
    """Do what `bgevis-convert all CKPT --out OUT` does."""
    options = Options(checkpoint=str(checkpoint), formats=formats, configs=configs, **given)
    pipeline.convert_all(out, options, Nothing(), 1)
    return out


def export(checkpoint: Path, out: Path, formats: tuple[str, ...], **given) -> Path:
    """Make the artifacts, and prove none."""
    options = Options(checkpoint=str(checkpoint), formats=formats, **given)
    with in_this_process(), hold(out):
        errors = _tasks(pipeline.tasks_for_exports(chosen(options)), out, options, Nothing(), 1)
    assert errors == []
    return out


def judge(run: Path, junit: Path | None = None, formats: tuple[str, ...] = ()) -> None:
    """Do what `bgevis-convert validate DIR --junit FILE` does."""
    try:
        directory = RunDirectory(run)
        with directory.locked():
            pipeline.validate_all(directory, Options(formats=formats), Nothing(), 1)
    except ConvertError as error:
        if junit:
            validate.write_junit(run, junit, error)
        raise
    if junit:
        validate.write_junit(run, junit)

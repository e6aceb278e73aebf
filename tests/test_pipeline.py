"""Which tasks run, in which process, and what becomes of the others when one fails. The workers here only speak."""

import contextlib
import json
import os
import signal
import threading

import pytest

from bgevis.converter.options import Options
from bgevis.converter.run import tasks as pipeline
from bgevis.converter.run.tasks import Task, run_tasks
from bgevis.validation.errors import EnvironmentFailure, GateError

TASKS = (
    Task("prepare"),
    Task("export:first", ("prepare",), 1),
    Task("export:guest", ("prepare",), 1, host="export:first"),
    Task("export:other", ("prepare",), 1),
    Task("validate:guest", ("export:guest",), 2),
)


class Shown:
    """A display that remembers what it was told."""

    def __init__(self):
        self.started, self.ended = [], {}

    def start(self, task):
        self.started.append(task)

    def end(self, task, verdict, seconds, peak):
        self.ended[task] = verdict

    def __getattr__(self, name):
        return lambda *arguments: None


class Scripted:
    """A nursery whose workers do nothing: each task passes, fails with an exit code, or is killed (-9).

    A script may also say so by a function, which can wait.
    """

    def __init__(self, script):
        self.script, self.processes, self._threads = script, [], []

    def __call__(self, environment):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def start(self, arguments, log):
        (heard, tell), (listen, said) = os.pipe(), os.pipe()
        names = arguments[2:]
        self.processes.append(names)
        self._threads.append(threading.Thread(target=self._speak, args=(names, heard, said)))
        self._threads[-1].start()
        return os.fdopen(listen, "rb", buffering=0), os.fdopen(tell, "wb", buffering=0)

    def last_words(self):
        return ""

    def _speak(self, names, heard, said):
        with contextlib.suppress(BrokenPipeError):  # nobody listens to a worker that was never told to go
            self._work(names, heard, said)

    def _work(self, names, heard, said):
        code = 0
        with os.fdopen(heard, "rb") as heard, os.fdopen(said, "wb", buffering=0) as said:
            said.write(b'{"warm": true}\n')
            for name in names if heard.read(1) else ():
                found = self.script.get(name, 0)
                found = found() if callable(found) else found
                if found < 0:
                    code = found
                    break
                message = {"error": f"{name} says no", "exit_code": found} if found else {"done": name, "peak": 1}
                said.write(json.dumps(message).encode() + b"\n")
                code = max(code, found)
                if found:
                    break
            said.write(json.dumps({"exit": code}).encode() + b"\n")


@pytest.fixture
def run(tmp_path, monkeypatch):
    def run(script, tasks=TASKS, jobs=2):
        nursery, shown = Scripted(script), Shown()
        monkeypatch.setattr(pipeline, "Nursery", nursery)
        errors = run_tasks(tasks, tmp_path, Options(), shown, jobs)
        return nursery, shown, errors

    return run


@pytest.mark.parametrize("jobs", [1, 2, 8])
def test_a_guest_is_done_by_its_hosts_process_and_others_by_their_own(run, jobs):
    nursery, shown, errors = run({}, jobs=jobs)
    assert not errors
    assert shown.ended == dict.fromkeys((task.name for task in TASKS), "pass")
    assert shown.started.index("export:guest") > shown.started.index("export:first")
    wanted = [["prepare"], ["export:first", "export:guest"], ["export:other"], ["validate:guest"]]
    assert sorted(nursery.processes) == sorted(wanted)


def test_a_guest_whose_host_is_not_asked_for_has_a_process_of_its_own(run):
    nursery, _, errors = run({}, [task for task in TASKS if task.name != "export:first"])
    assert not errors
    assert ["export:guest"] in nursery.processes


def test_a_gate_that_says_no_stops_its_guests_and_what_needs_it(run):
    _, shown, errors = run({"export:first": 1})
    assert [(type(error), str(error)) for error in errors] == [(GateError, "export:first says no")]
    assert shown.ended == {"prepare": "pass", "export:first": "fail", "export:other": "pass"}
    assert "export:guest" not in shown.started


def test_what_needs_a_failed_guest_is_not_done(run):
    _, shown, errors = run({"export:guest": 1})
    assert [str(error) for error in errors] == ["export:guest says no"]
    assert shown.ended["export:first"] == shown.ended["export:other"] == "pass"
    assert "validate:guest" not in shown.started


def test_an_environment_that_fails_stops_everything(run):
    _, shown, errors = run({"export:first": 4}, jobs=1)
    assert [(type(error), str(error)) for error in errors] == [(EnvironmentFailure, "export:first says no")]
    assert "export:guest" not in shown.ended
    assert "validate:guest" not in shown.started


def test_a_process_that_is_killed_is_told_by_the_task_that_it_did(run):
    _, shown, errors = run({"export:guest": -signal.SIGKILL}, jobs=1)
    assert "export:guest was ended by SIGKILL; the machine probably ran out of memory" in str(errors[-1])
    assert isinstance(errors[-1], EnvironmentFailure)
    assert shown.ended["export:first"] == "pass"
    assert shown.ended["export:guest"] == "fail"
    assert "validate:guest" not in shown.started


def test_what_needs_a_host_need_not_wait_for_its_guests(run):
    begun = threading.Event()
    script = {"after": lambda: begun.set() or 0, "export:guest": lambda: 0 if begun.wait(5) else 1}
    _, _, errors = run(script, [*TASKS, Task("after", ("export:first",), 0)], jobs=3)
    assert not errors

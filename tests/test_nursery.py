"""Where workers come from: what is heard of one that works, that is left alone, and that could never start."""

import json
import os
import tempfile

import pytest

from bgevis.converter.options import Options
from bgevis.converter.run.nursery import Nursery


@pytest.fixture
def log():
    with tempfile.TemporaryFile() as file:
        yield file


def ask(nursery: Nursery, log, directory) -> tuple:
    return nursery.start([str(directory), Options().to_json(), "validate:onnx"], log)


def told(listen) -> list[dict]:
    return [json.loads(line) for line in listen.readall().splitlines()]


def test_a_worker_waits_says_what_it_found_and_how_it_ended(tmp_path, log):
    with Nursery(os.environ) as nursery:
        listen, tell = ask(nursery, log, tmp_path)
        first = [json.loads(listen.readline()) for _ in range(2)]
        assert list(first[0]) == ["pid"]
        assert first[1] == {"warm": True}
        tell.write(b"!")
        with listen, tell:
            error, ended = told(listen)
    assert str(tmp_path) in error["error"]
    assert error["exit_code"] == 3
    assert ended == {"exit": 3}


def test_a_worker_ends_when_nobody_talks_to_it(tmp_path, log):
    with Nursery(os.environ) as nursery:
        listen, tell = ask(nursery, log, tmp_path)
        tell.close()
        with listen:
            assert told(listen)[-1] == {"exit": 4}


def test_one_worker_does_not_keep_another_from_ending(tmp_path, log):
    with Nursery(os.environ) as nursery:
        (first, tell_first), (second, tell_second) = (ask(nursery, log, tmp_path) for _ in range(2))
        with first, second, tell_second:
            tell_first.close()
            assert told(first)[-1] == {"exit": 4}


def test_nobody_is_left_when_the_nursery_is(tmp_path, log):
    with Nursery(os.environ) as nursery:
        listen, tell = ask(nursery, log, tmp_path)
        pid = json.loads(listen.readline())["pid"]
        tell.close()
    listen.close()
    with pytest.raises(ProcessLookupError):  # a zombie would still be found
        os.kill(pid, 0)


def test_what_kept_the_nursery_from_starting_is_known(tmp_path, log):
    (tmp_path / "jax.py").write_text("raise ImportError('this jax is broken')\n")
    with Nursery(os.environ | {"PYTHONPATH": str(tmp_path)}) as nursery:
        listen, tell = ask(nursery, log, tmp_path)
        with listen, tell:
            assert told(listen) == []
        assert "this jax is broken" in nursery.last_words()


def test_a_worker_does_its_tasks_one_after_the_other_until_one_fails(tmp_path, log):
    """Nothing is there: the first task is an input error, which would meet the second one too."""
    with Nursery(os.environ) as nursery:
        options = Options().to_json()
        listen, tell = nursery.start([str(tmp_path), options, "validate:onnx", "validate:orbax"], log)
        tell.write(b"!")
        with listen, tell:
            said = told(listen)
    assert [message["exit_code"] for message in said if "error" in message] == [3]
    assert said[-1] == {"exit": 3}

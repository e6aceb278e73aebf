"""The checkpoint that is stated is the one that was converted, whatever a file system says of its size and times."""

import json
import os
from pathlib import Path

import pytest

from bgevis.converter.options import Options
from bgevis.converter.progress import Silent
from bgevis.converter.stages import common, load, remap, verify
from bgevis.converter.use.fixture import write_fixture
from bgevis.validation.errors import InputError


@pytest.fixture
def loaded(tmp_path):
    write_fixture("bert", "tiny", 9, "float32", tmp_path / "tiny.safetensors")
    run = load.perform(tmp_path / "run", Options(checkpoint=str(tmp_path / "tiny.safetensors")), Silent())
    remap.perform(run, Options(), Silent())
    return run, tmp_path / "tiny.safetensors"


def change(file: Path) -> None:
    """Change the last number, and put the times back."""
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_change_that_keeps_size_and_time_is_noticed(loaded):
    run, file = loaded
    change(file)
    with pytest.raises(InputError, match="was changed after it was loaded"):
        verify.perform(run, Options(), Silent())


def test_a_change_that_no_state_shows_is_found_by_the_bytes(loaded, monkeypatch):
    run, file = loaded
    stated = json.loads((run.path / ".source.json").read_text())["state"]
    monkeypatch.setattr(common, "state", lambda checkpoint: stated)
    change(file)
    with pytest.raises(InputError, match="its sha256 is no longer the one that was loaded"):
        verify.perform(run, Options(), Silent())
    assert "verify" not in run.manifest()["verdicts"]

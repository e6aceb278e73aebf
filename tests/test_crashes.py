"""Killed, or out of disk, at any moment: nothing half-made passes for whole, `all` resumes, what is foreign stays."""

import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bgevis.converter.use.fixture import write_fixture

COMMAND = [sys.executable, "-m", "bgevis.converter"]
FORMAT = ("--format", "onnx")
PRECIOUS = "precious"


class Scene:
    """A checkpoint, what an undisturbed run makes of it, and a folder with things that are not the tool's."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.checkpoint = folder / "tiny.safetensors"
        write_fixture("bert", "tiny", 1, "float32", self.checkpoint)
        self.shim = folder / "faults.so"
        source = Path(__file__).with_name("faults.c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", self.shim, source, "-ldl"], check=True)
        self.whole = folder / "undisturbed"
        begun = time.monotonic()
        self.calls = self.disturbed(self.whole, "count", 0).calls
        self.seconds = time.monotonic() - begun
        self.wanted = contents(self.whole)

    def command(self, out: Path) -> list[str]:
        return [*COMMAND, "all", str(self.checkpoint), "--out", str(out), *FORMAT]

    def disturbed(self, out: Path, kind: str, at: int) -> "Ended":
        """Run `all` with a fault at the `at`-th call that changes a file below `out`."""
        counter = out.with_suffix(".count")
        counter.write_bytes(bytes(8))
        faults = {"FAULT_UNDER": str(out), "FAULT_COUNTER": str(counter), "FAULT_AT": str(at), "FAULT_KIND": kind}
        environment = os.environ | faults | {"LD_PRELOAD": str(self.shim)}
        done = subprocess.run(
            self.command(out), env=environment, capture_output=True, text=True, start_new_session=True, check=False
        )
        return Ended(done.returncode, done.stderr, struct.unpack("q", counter.read_bytes())[0])

    def killed(self, out: Path, seconds: float) -> None:
        """Run `all` and kill all of its processes after some time."""
        process = subprocess.Popen(
            self.command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def resumes(self, out: Path) -> None:
        """What is there is whole as far as it says; `all` makes the rest, to the same bytes."""
        assert whole_as_stated(out)
        if out.exists():
            (out / PRECIOUS).write_text(PRECIOUS)
        done = subprocess.run(self.command(out), capture_output=True, text=True, check=False)
        if (out / PRECIOUS).exists() and "is not a run directory" in done.stderr:
            (out / PRECIOUS).unlink()  # without a manifest the folder is not the tool's: it refused to go on
            done = subprocess.run(self.command(out), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found = contents(out)
        assert found.pop(PRECIOUS, b"precious") == b"precious"
        assert sorted(found) == sorted(self.wanted)
        assert [name for name in found if found[name] != self.wanted[name]] == []


class Ended:
    def __init__(self, code: int, said: str, calls: int):
        self.code, self.said, self.calls = code, said, calls


def contents(out: Path) -> dict[str, bytes]:
    """Read every file, but what belongs to one machine: the lock and where the checkpoint was."""
    files = [p for p in out.rglob("*") if p.is_file()]
    return {str(p.relative_to(out)): p.read_bytes() for p in files if p.name not in (".lock", ".source.json")}


def whole_as_stated(out: Path) -> bool:
    """Say whether the manifest, if there is one, is whole, and every file that it names is there."""
    if not (out / "manifest.json").exists():
        return True
    manifest = json.loads((out / "manifest.json").read_text())
    return all((out / name).stat().st_size == entry["bytes"] for name, entry in manifest["files"].items())


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Scene:
    return Scene(tmp_path_factory.mktemp("scene"))


def spread(calls: int, count: int) -> list[int]:
    """Give points all over a run, each shifted a little, the same every time."""
    rng = random.Random(count)
    return [max(1, int(calls * (i + rng.random()) / count)) for i in range(count)]


FEW, MANY = 2, 40
COUNTS = [FEW, pytest.param(MANY, marks=pytest.mark.prove)]


@pytest.mark.parametrize("count", COUNTS)
def test_killed_at_a_call_that_changes_a_file(scene, tmp_path, count):
    for at in spread(scene.calls, count):
        out = tmp_path / f"at {at}"
        assert scene.disturbed(out, "kill", at).code == -signal.SIGKILL
        scene.resumes(out)


@pytest.mark.prove
def test_killed_at_any_time(scene, tmp_path):
    for i, share in enumerate(random.Random(7).random() for _ in range(20)):
        out = tmp_path / str(i)
        scene.killed(out, share * scene.seconds)
        scene.resumes(out)


@pytest.mark.prove
def test_killed_again_and_again(scene, tmp_path):
    """Each attempt dies a little later than the one before; what was done is kept."""
    out = tmp_path / "run"
    for at in spread(scene.calls, 12):
        scene.disturbed(out, "kill", at)
    scene.resumes(out)


@pytest.mark.prove
def test_an_old_run_is_kept_or_replaced_never_mixed(scene, tmp_path):
    """Another checkpoint into the same folder: killed on the way, it never mixes the two."""
    other = Scene(tmp_path)
    write_fixture("bert", "tiny", 2, "float32", other.checkpoint)
    for at in spread(scene.calls, 6):
        out = tmp_path / f"at {at}"
        subprocess.run(scene.command(out), check=True, capture_output=True)
        other.disturbed(out, "kill", at)
        scene.resumes(out)


@pytest.mark.parametrize("kind", ["ENOSPC", pytest.param("EIO", marks=pytest.mark.prove)])
@pytest.mark.parametrize("count", [1, pytest.param(20, marks=pytest.mark.prove)])
def test_a_failing_disk_is_one_message_and_resumed_from(scene, tmp_path, kind, count):
    for at in spread(scene.calls, count):
        out = tmp_path / f"at {at}"
        ended = scene.disturbed(out, kind, at)
        assert "Traceback" not in ended.said
        if ended.code:
            assert ended.code == 4, f"{kind} at {at}: {ended.said}"
            assert [line.startswith("error:") for line in ended.said.splitlines()].count(True) == 1
            assert "unexpectedly" not in ended.said
        scene.resumes(out)

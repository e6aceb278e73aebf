"""`bench`: what is measured, in processes of their own; targets; and what becomes of them when it is interrupted."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from click.testing import CliRunner
from in_process import export
from tiny_towers import TINY, with_tokenizer, written

from bgevis.converter.cli import main
from bgevis.converter.use import bench
from bgevis.converter.use.bench import Measured, targets
from bgevis.exporters.base import exporters
from bgevis.validation.errors import EnvironmentFailure


@pytest.fixture(scope="module")
def towers(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("towers")
    file = written(folder, TINY)
    with_tokenizer(folder, TINY.text, TINY.text.bos_token_id)
    return export(file, folder / "run", ("onnx", "orbax"))


def ran(run: Path, *arguments: str):
    return CliRunner().invoke(main, ["bench", str(run), *arguments])


def test_each_kind_is_measured_in_a_process_of_its_own(towers, tmp_path):
    picture = tmp_path / "bench.svg"
    how = ["--format", "onnx", "--seconds", "0.05", "--batches", "1,4", "--threads", "1", "--plot", str(picture)]
    done = ran(towers, *how, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)["measured"]
    assert [each["kind"] for each in found] == ["text", "image"]
    for each in found:
        assert each["runtime"].startswith("onnxruntime")
        assert each["cores"] == 1
        assert each["throughput"].keys() == {"1", "4"}
        assert min(each["opened"], each["first"], each["imports"], each["memory"], *each["throughput"].values()) > 0
        assert each["latency"]["p50"] <= each["latency"]["p95"] <= each["latency"]["p99"]
        assert [target["what"] for target in each["targets"]][:3] == ["ready", "a request", "rows a second"]
    assert picture.read_text().count("<g") > 10
    assert found[0]["imports"] < psutil.Process().memory_info().rss  # not of this process, which has JAX and more


def test_targets_are_met_on_their_own_side():
    latency = {"mean": 0.15}
    slow = Measured("onnx", "audio", "", 1, 0.3, 0.1, latency, {1: 6.0, 8: 60.0}, int(200e6), int(400e6))
    assert {each.what: each.met for each in targets(slow)} == {
        "ready": True,
        "a request": True,
        "rows a second": True,
        "memory": False,
    }
    assert not list(targets(Measured("onnx", "pair", "", 1, 1, 1, latency, {1: 1.0}, 0, 0)))
    text = Measured("onnx", "text", "", 1, 0.09, 0.02, {"mean": 0.005}, {1: 2000.0}, 0, 0)
    assert [each.met for each in targets(text)] == [False, False, False]


def test_a_runtime_that_is_missing_is_told_and_the_others_are_measured(towers, monkeypatch):
    def require(serving):
        raise EnvironmentFailure("orbax is not installed")

    known = exporters()
    fake = SimpleNamespace(
        **{name: getattr(known["orbax"], name) for name in ("name", "key", "layout")}, require=require
    )
    monkeypatch.setattr(bench, "exporters", lambda: {"orbax": fake, "onnx": known["onnx"]})
    measured = Measured("onnx", "text", "", 1, 1, 1, {"mean": 1.0}, {1: 1.0}, 0, 0)
    monkeypatch.setattr(bench, "_in_a_process", lambda *_: measured)
    done = ran(towers, "--json")
    assert done.exit_code == 0
    assert "not measured: orbax: orbax is not installed" in done.stderr
    assert len(json.loads(done.stdout)["measured"]) == 2
    assert ran(towers, "--format", "orbax").exit_code == 4


def test_a_damaged_directory_is_refused_by_the_process_that_opens_it(towers, tmp_path):
    shutil.copytree(towers, tmp_path / "run")
    program = tmp_path / "run/programs/encode_text.onnx"
    program.write_bytes(program.read_bytes()[:-1] + b"?")
    done = ran(tmp_path / "run", "--format", "onnx")
    assert (done.exit_code, "onnx, text: " in done.stderr, "was altered" in done.stderr) == (3, True, True)


def test_a_directory_without_artifacts_says_what_to_do(towers, tmp_path):
    manifest = json.loads((towers / "manifest.json").read_text())
    for entry in manifest["entry_points"].values():
        entry["programs"] = {}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    done = ran(tmp_path)
    assert (done.exit_code, "holds no artifacts; run `bgevis-convert export FORMAT" in done.stderr) == (3, True)


def test_a_process_that_dies_is_told(towers, monkeypatch):
    monkeypatch.setattr(bench, "__name__", "bgevis.nowhere")
    done = ran(towers, "--format", "onnx")
    assert (done.exit_code, "not measured: onnx, text: " in done.stderr) == (4, True)
    assert "No module named bgevis.nowhere" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--format", "openvino"], 3, "holds no openvino (formats: onnx, orbax)"),
        (["--batches", "1,x"], 2, "'1,x' is not like 1,8,32"),
        (["--batches", "0"], 2, "expected numbers of at least 1"),
        (["--plot", "x.gif"], 3, "--plot x.gif: a picture is one of .svg"),
    ],
)
def test_refusals_of_the_shell(arguments, code, message, towers):
    done = ran(towers, *arguments)
    assert (done.exit_code, message in done.stderr) == (code, True), done.stderr


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_an_interruption_leaves_no_process(how, code, towers):
    command = [sys.executable, "-m", "bgevis.converter", "bench", str(towers), "--format", "onnx", "--seconds", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        started, children = time.monotonic(), []
        while not children and time.monotonic() - started < 120:
            time.sleep(0.1)
            children = psutil.Process(process.pid).children()
        os.kill(process.pid, how)
        try:
            process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == code
    assert psutil.wait_procs(children, timeout=60)[1] == []

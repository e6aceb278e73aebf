"""The benchmarks run: on the tiny network, with the quickest of what they measure."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

if not (ROOT / "benchmarks").is_dir():
    pytest.skip("benchmarks belong to a checkout, not to an installation", allow_module_level=True)
for package in ("torch", "onnx", "onnxruntime", "psutil"):
    pytest.importorskip(package)


def bench(name: str, build: Path, *arguments: str) -> dict:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", *arguments]
    environment = os.environ | {"BGEVIS_BENCH_DIR": str(build)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((build / f"{name}-quick.json").read_text())


def test_converting_is_measured(tmp_path):
    rows = bench("convert", tmp_path, "--rows", "ours-onnx", "--rows", "torchscript")["rows"]
    for row in rows.values():
        (run,) = row["runs"]
        assert not run["error"]
        assert not row["note"]
        assert run["seconds"] > 0
        assert run["peak"] > 10e6
        assert row["written"] > 1e5


def test_running_is_measured(tmp_path):
    chosen = ("--rows", "text 1x16", "--runtimes", "ours", "--runtimes", "torchscript", "--runtimes", "optimized")
    (results,) = bench("onnx", tmp_path, *chosen)["workloads"].values()
    assert set(results) == {"ours", "torchscript", "optimized"}
    for result in results.values():
        assert not result["error"]
        assert len(result["seconds"]) >= 5
        assert result["difference"] < 1e-5


def test_a_quick_run_is_not_published(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.onnx", "--quick", "--write-docs"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "--quick" in done.stderr

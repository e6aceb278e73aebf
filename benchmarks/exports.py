"""The programs that are raced, made by each exporter and kept until what makes them changes."""

import json
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import version

from .models import ROOT, Model, ensure_checkpoint, folder_bytes, is_newer

OURS = {"ours": "onnx", "openvino": "onnx", "openvino-bf16": "onnx", "int8": "onnx_int8"}
"""Runtimes of our own programs, and which programs these are in the manifest."""

NEEDS = {"torchscript": (), "dynamo": (), "optimized": ("torchscript",)}
"""Other exporters, and those whose files they start from."""


def ensure_exports(model: Model, exporters: Iterable[str]) -> dict[str, str]:
    """Make what is missing; give the exporters that failed, and why."""
    ensure_checkpoint(model)
    _convert(model)
    wanted = dict.fromkeys(need for name in exporters for need in (*NEEDS[name], name))
    # One after the other: the optimizer reads what TorchScript's exporter has written.
    return {name: error for name in wanted if (error := _export(model, name))}


def _convert(model: Model) -> None:
    """Convert with this tool, which itself skips what is current."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.ours",
        str(model.checkpoint),
        str(model.exports("ours")),
        "onnx",
        "onnx-int8",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"converting {model} failed\n{done.stderr.strip() or done.stdout.strip()}")


def _export(model: Model, exporter: str) -> str:
    out = model.exports(exporter)
    sources = [ROOT / "benchmarks" / name for name in ("peer.py", "network.py", "models.py")]
    sources += [ROOT / "model" / "torch_reference.py", *(ROOT / "model").glob("*/reference.py")]  # what they subclass
    by = f"torch {version('torch')} onnxruntime {version('onnxruntime')}"
    if is_newer(out / "done", [model.checkpoint, *sources]) and (out / "done").read_text() == by:
        return ""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.peer", exporter, str(model), str(out)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "log").write_text(done.stdout)
    if done.returncode:
        return done.stdout.strip().splitlines()[-1]
    (out / "done").write_text(by)
    return ""


def megabytes(model: Model, exporter: str) -> float:
    """Size of all programs of an exporter with the weights that they need."""
    folder = model.exports(exporter)
    if exporter not in OURS:
        return folder_bytes(folder) / 1e6
    described = ours(model, exporter).values()
    files = {file for program in described for file in (program["path"], program["weights"])}
    return sum((model.exports("ours") / file).stat().st_size for file in files) / 1e6


def ours(model: Model, runtime: str) -> dict[str, dict[str, str]]:
    """Read from our manifest what the programs are that a runtime runs, by entry point."""
    manifest = json.loads((model.exports("ours") / "manifest.json").read_text())
    return {name: entry["programs"][OURS[runtime]] for name, entry in manifest["entry_points"].items()}

"""The programs that are raced, made by each exporter and kept until what makes them changes."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .document import installed
from .measure import last_words
from .models import ROOT, Model, ensure_checkpoint, folder_bytes, is_newer

if TYPE_CHECKING:
    from bgevis.model.network import Network

OURS = {"ours": "onnx", "int8": "onnx_int8"}
"""Our own programs, and what the manifest calls them."""

NEEDS: dict[str, tuple[str, ...]] = {"torchscript": (), "optimized": ("torchscript",), "dynamo": (), "jax2onnx": ()}
"""Other exporters, and those whose files they start from."""

MAKERS = ("torch", "onnxruntime", "onnxscript", "jax2onnx", "jax")


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
    sources += (ROOT / "model").glob("*/modeling.py") if exporter == "jax2onnx" else ()
    by = " ".join(f"{name} {installed(name)}" for name in MAKERS)
    if is_newer(out / "done", [model.checkpoint, *sources]) and (out / "done").read_text() == by:
        return ""
    (out / "done").unlink(missing_ok=True)
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.peer", exporter, str(model), str(out)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "log").write_text(done.stdout)
    if done.returncode:
        return last_words(done.stdout, done.returncode)
    (out / "done").write_text(by)
    return ""


def megabytes(model: Model, exporter: str) -> float:
    """Size of all programs of an exporter with the weights that they need."""
    folder = model.exports(exporter)
    if exporter not in OURS:
        return folder_bytes(folder) / 1e6
    described = _ours(model, exporter).values()
    files = {file for program in described for file in (program["path"], program["weights"])}
    return sum((model.exports("ours") / file).stat().st_size for file in files) / 1e6


def program(model: Model, exporter: str, entry: str) -> Path:
    """Find the ONNX file of an entry point."""
    if exporter not in OURS:
        return model.exports(exporter) / f"{entry}.onnx"
    return model.exports("ours") / _ours(model, exporter)[entry]["path"]


def _ours(model: Model, exporter: str) -> dict[str, dict[str, str]]:
    """Read from our manifest what our programs are, by entry point."""
    manifest = json.loads((model.exports("ours") / "manifest.json").read_text())
    return {name: entry["programs"][OURS[exporter]] for name, entry in manifest["entry_points"].items()}


def converted(model: Model, entry: str) -> tuple["Network", dict[str, Any]]:
    """Give our NNX model, and of the weights that we converted those that an entry point reads."""
    import jax.numpy as jnp

    from bgevis.converter.directory import RunDirectory
    from bgevis.converter.manifest import WEIGHTS_PATH, network
    from bgevis.exporters.weights import WeightsFile

    run = RunDirectory(model.exports("ours"))
    net = network(run)
    file = WeightsFile(run.path / WEIGHTS_PATH)
    return net, {name: jnp.asarray(file[name]) for name in net.used_weights(entry)}

"""A clip of sound to its vector, held to the targets that ArrowEngine sets, and to what the machine can do at all.

Run from the root of the repository: `python -m benchmarks.clips`. Whisper base with seeded weights; each precision in a
process of its own, on one thread, by the seconds of CPU that it takes: neighbours do not count. The encoder's largest
product is timed alone as well: what the encoder multiplies, at that speed, is the least that a clip can take here,
whatever computes it.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from . import document
from .measure import peak
from .models import BUILD, Model, ensure_checkpoint

OPENED, CLIP, CLIPS, PEAK = 0.5, 0.2, 50.0, 500.0
"""The targets: seconds, seconds, clips a second, megabytes."""

BATCH = 10
"""Clips that are given at once, as ArrowEngine's own benchmark gives them."""

WARM = 2
"""Rounds that are not counted."""

FORMATS = {"float32": "onnx", "int8": "onnx-int8"}


def work(config: Any) -> float:
    """Count the multiplications and additions of an encoder's products for one window: convolutions, layers."""
    width, places, inner = config.d_model, config.max_source_positions, config.encoder_ffn_dim
    convolutions = 3 * width * (config.frames * config.num_mel_bins + places * width)
    layer = places * (4 * width * width + 2 * width * inner) + 2 * places * places * width
    return 2.0 * (convolutions + config.encoder_layers * layer)


def converted(model: Model) -> Path:
    """Convert the checkpoint, without the proof, unless that was done."""
    run = BUILD / "clips" / model.size
    if not (run / "programs" / "encode_audio.int8.onnx").exists():
        ensure_checkpoint(model)
        command = [sys.executable, "-m", "benchmarks.ours", str(model.checkpoint), str(run), *FORMATS.values()]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return run


def product(config: Any, *, rounded: bool) -> tuple[Any, float]:
    """Give what computes the encoder's largest product by onnxruntime, and how many operations that is."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rows, width, inner = config.max_source_positions, config.d_model, config.encoder_ffn_dim
    drawn = np.random.default_rng(0).integers(-99, 99, (width, inner))
    weights = numpy_helper.from_array(drawn.astype(np.int8 if rounded else np.float32), "weights")
    kinds = (TensorProto.UINT8, TensorProto.INT32) if rounded else (TensorProto.FLOAT, TensorProto.FLOAT)
    given = helper.make_tensor_value_info("given", kinds[0], [rows, width])
    found = helper.make_tensor_value_info("found", kinds[1], [rows, inner])
    node = helper.make_node("MatMulInteger" if rounded else "MatMul", ["given", "weights"], ["found"])
    graph = helper.make_graph([node], "product", [given], [found], [weights])
    program = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(program.SerializeToString(), options, providers=["CPUExecutionProvider"])
    filled = np.ones((rows, width), np.uint8 if rounded else np.float32)
    return lambda: session.run(None, {"given": filled}), 2.0 * rows * width * inner


def timed(run: Any) -> float:
    begun = time.process_time()
    run()
    return time.process_time() - begun


def measured(run: Path, config: Any, precision: str, rounds: int) -> dict[str, float]:
    """Open a run directory in this process and embed: the least of each, for neighbours only add to it."""
    from bgevis.converter import open_artifacts

    begun = time.process_time()
    opened = open_artifacts(run, FORMATS[precision], threads=1)
    load = time.process_time() - begun
    rules = opened.rules["sounds"]
    clip = np.random.default_rng(0).normal(0, 0.1, rules["samples"]).astype(np.float32), rules["rate"]
    several, seconds = [clip] * BATCH, list[tuple[float, float]]()
    for _ in range(WARM + rounds):
        seconds.append((timed(lambda: opened.embed(audio=clip)), timed(lambda: opened.embed(audio=several)) / BATCH))
    most = peak(os.getpid()) / 1e6
    multiply, operations = product(config, rounded=precision != "float32")
    speed = operations / min(timed(multiply) for _ in range(20 * (WARM + rounds)))
    one, of_several = (min(each) for each in zip(*seconds[WARM:], strict=True))
    return {"load": load, "clip": one, "several": of_several, "peak": most, "speed": speed}


def rows(found: dict[str, dict[str, float]], cores: int) -> list[tuple[str, ...]]:
    """Hold what was measured to the targets."""
    lines = []
    for precision, each in found.items():
        rate = cores / min(each["clip"], each["several"])
        verdict = "met" if rate >= CLIPS else "MISSED"
        lines += [
            document.held(f"{precision}: opened", each["load"], OPENED, unit=" s"),
            document.held(f"{precision}: a clip to its vector", each["clip"], CLIP, unit=" s"),
            (f"{precision}: clips a second, a thread a core", f"{rate:.1f}", f"{CLIPS:g}", "", verdict),
            document.held(f"{precision}: peak memory", each["peak"], PEAK, unit=" MB"),
        ]
    return lines


def limits(found: dict[str, dict[str, float]], config: Any, cores: int) -> str:
    """Say what the machine allows."""
    asked = work(config)
    lines = [
        f"The encoder's products are {asked / 1e9:.1f} GFLOP a clip: {CLIPS:g} clips a second are "
        f"{asked * CLIPS / 1e12:.1f} TFLOP a second, and {CLIP:g} s a clip {asked / CLIP / 1e9:.0f} GFLOP a second."
    ]
    for precision, each in found.items():
        least = asked / each["speed"]
        lines.append(
            f"In {precision} its largest product alone runs at {each['speed'] / 1e9:.0f} GFLOP a second on one core; "
            f"at that speed a clip takes {least:.2f} s of it, and {cores} cores do {cores / least:.1f} a second."
        )
    return "\n".join(lines)


@click.command()
@click.option("--size", default="base", show_default=True, help="Of Whisper; ArrowEngine's targets are for base.")
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1))
@click.option("--write-docs", is_flag=True, help="Put the table into docs/performance.md.")
@click.option("--alone", type=click.Choice(list(FORMATS)), help="Only measure a precision, in this process, as JSON.")
def main(size: str, rounds: int, write_docs: bool, alone: str | None) -> None:
    """Time vectors of sounds against ArrowEngine's targets."""
    model = Model("whisper", size)
    run = converted(model)
    if alone:
        click.echo(json.dumps(measured(run, model.config, alone, rounds)))
        return
    found = {}
    for precision in FORMATS:
        given = ["--size", size, "--rounds", str(rounds), "--alone", precision]
        command = [sys.executable, "-m", "benchmarks.clips", *given]
        found[precision] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    where = document.environment()
    said = "\n\n".join(
        [
            f"Measured {document.sentence(where)} Whisper {size}; seconds of CPU, the least of {rounds} rounds.",
            document.table(document.TARGETS, rows(found, where["cpus"])),
            limits(found, model.config, where["cpus"]),
        ]
    )
    click.echo(said)
    document.save("clips", {"environment": where, **found})
    if write_docs:
        document.rewrite("clips", said)


if __name__ == "__main__":
    main()

"""A runtime that serves requests in its own process: `python -m benchmarks.runtimes RUNTIME MODEL ENTRY THREADS`.

Reads lines of JSON, each a workload, and answers with the seconds that it took. Inputs are ready before the clock
starts; it stops when the embeddings are a numpy array.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bgevis.validation.entry_point import EntryPoint, PaddingMask, TokenIds

from .exports import OURS, ours
from .models import Model

Arrays = Mapping[str, np.ndarray]
Loaded = tuple[Callable[[Arrays], Any], Callable[[Any], np.ndarray]]
"""(what makes the runtime's own inputs, what computes)."""


def draw(entry: EntryPoint, batch: int, tokens: int) -> dict[str, np.ndarray]:
    """Draw inputs without padding, the same in every process."""
    rng = np.random.default_rng([batch, tokens])
    arrays = {}
    for spec in entry.inputs:
        shape = spec.resolve({"batch": batch, "tokens": tokens})
        if isinstance(spec.domain, TokenIds):
            arrays[spec.name] = rng.integers(0, spec.domain.vocab_size, shape, np.int32)
        elif isinstance(spec.domain, PaddingMask):
            arrays[spec.name] = np.ones(shape, np.int32)
        else:
            arrays[spec.name] = rng.standard_normal(shape, np.float32)
    return arrays


def onnxruntime_session(file: Path, threads: int) -> Loaded:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
    return _int64, lambda feeds: session.run(None, feeds)[0]


def openvino_model(file: Path, threads: int, bfloat16: bool) -> Loaded:
    import openvino

    config = {"INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32", "INFERENCE_NUM_THREADS": threads}
    request = openvino.Core().compile_model(file, "CPU", config).create_infer_request()
    return _int64, lambda feeds: np.array(request.infer(feeds)[0])


def _int64(arrays: Arrays) -> Arrays:
    return {name: a.astype(np.int64) if a.dtype == np.int32 else a for name, a in arrays.items()}


def torch_eager(model: Model, entry: EntryPoint, threads: int) -> Loaded:
    import torch

    from .network import load, scaled_dot_product

    torch.set_num_threads(threads)
    compute = getattr(load(model, scaled_dot_product), entry.name)

    def run(tensors: list[Any]) -> np.ndarray:
        with torch.inference_mode():
            return compute(*tensors).numpy()

    return lambda arrays: [torch.from_numpy(a) for a in _int64(arrays).values()], run


def torch_float64(model: Model, entry: EntryPoint, threads: int) -> Loaded:
    import torch

    from bgevis.model.torch_reference import TorchReference

    from .network import load, spelled_out

    torch.set_num_threads(threads)
    exact = TorchReference(load(model, spelled_out), "float64")
    return lambda arrays: arrays, lambda arrays: exact.run(entry.name, arrays)["embeddings"]


def jax_jit(model: Model, entry: EntryPoint) -> Loaded:
    import jax
    import jax.numpy as jnp

    from bgevis.converter import stages
    from bgevis.converter.run_directory import RunDirectory
    from bgevis.exporters.weights import WeightsFile

    run = RunDirectory(model.exports("ours"))
    network = stages.network(run.manifest())
    file = WeightsFile(run.path / stages.WEIGHTS_PATH)
    weights = {name: jnp.asarray(file[name]) for name in network.used_weights(entry.name)}
    compute = jax.jit(network.function(entry.name))
    return lambda arrays: list(arrays.values()), lambda inputs: np.asarray(compute(weights, *inputs)["embeddings"])


def program(model: Model, runtime: str, entry: str) -> Path:
    """Find the ONNX file of an entry point."""
    if runtime not in OURS:
        return model.exports(runtime) / f"{entry}.onnx"
    return model.exports("ours") / ours(model, runtime)[entry]["path"]


def load(runtime: str, model: Model, entry: EntryPoint, threads: int) -> Loaded:
    match runtime:
        case "torch":
            return torch_eager(model, entry, threads)
        case "float64":
            return torch_float64(model, entry, threads)
        case "jax":
            return jax_jit(model, entry)
        case "openvino" | "openvino-bf16":
            return openvino_model(program(model, runtime, entry.name), threads, runtime == "openvino-bf16")
        case _:
            return onnxruntime_session(program(model, runtime, entry.name), threads)


def import_packages(runtime: str) -> None:
    """Import before the clock of loading starts."""
    packages = {"torch": ("torch", "bgevis.model.bert.reference"), "float64": ("torch",), "jax": ("jax", "flax.nnx")}
    packages |= {"openvino": ("openvino",), "openvino-bf16": ("openvino",)}
    for package in packages.get(runtime, ("onnxruntime",)):
        __import__(package)


def pin(threads: int) -> None:
    """Give the process as many CPUs as threads: XLA asks for nothing else."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def serve(runtime: str, model: Model, entry: EntryPoint, threads: int) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a framework prints must not end up among the answers
    pin(threads)
    try:
        import_packages(runtime)
        begun = time.perf_counter()
        prepare, compute = load(runtime, model, entry, threads)
    except ModuleNotFoundError as error:
        print(json.dumps({"error": f"not installed: {error.name}"}), file=answers)
        return
    print(json.dumps({"seconds": time.perf_counter() - begun}), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        inputs = prepare(draw(entry, request["batch"], request["tokens"]))
        begun = time.perf_counter()
        embeddings = compute(inputs)
        seconds = time.perf_counter() - begun
        if request["save"]:
            np.save(request["save"], embeddings)
        print(json.dumps({"seconds": seconds}), file=answers)


if __name__ == "__main__":
    chosen = Model.parse(sys.argv[2])
    serve(sys.argv[1], chosen, chosen.entry_points[sys.argv[3]], int(sys.argv[4]))

"""A runtime that serves requests in its own process: `python -m benchmarks.runtimes RUNTIME MODEL ENTRY THREADS`.

Reads lines of JSON, each a workload, and answers with the seconds that it took. Inputs are ready before the clock
starts; it stops when the embeddings are a numpy array.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bgevis.validation.entry_point import EntryPoint, PaddingMask, TokenIds

from .exports import converted, program
from .models import BUILD, Model


@dataclass(frozen=True)
class Runtime:
    """A way to run an entry point.

    Args:
        title: as tables name it.
        engine: what computes.
        exporter: whose program it is; none where a framework runs its own network.
    """

    title: str
    engine: str
    exporter: str = ""


RUNTIMES = {
    "ours": Runtime("ours", "onnxruntime", "ours"),
    "int8": Runtime("ours, int8", "onnxruntime", "int8"),
    "torchscript": Runtime("TorchScript", "onnxruntime", "torchscript"),
    "optimized": Runtime("TorchScript + optimizer", "onnxruntime", "optimized"),
    "dynamo": Runtime("dynamo", "onnxruntime", "dynamo"),
    "jax2onnx": Runtime("jax2onnx", "onnxruntime", "jax2onnx"),
    "torch": Runtime("PyTorch eager", "torch"),
    "compiled": Runtime("PyTorch compiled", "torch-compiled"),
    "torch-bf16": Runtime("PyTorch eager, bf16", "torch-bf16"),
    "jax": Runtime("JAX, our model", "jax"),
    "openvino": Runtime("OpenVINO: ours", "openvino", "ours"),
    "openvino-torchscript": Runtime("OpenVINO: TorchScript", "openvino", "torchscript"),
    "openvino-dynamo": Runtime("OpenVINO: dynamo", "openvino", "dynamo"),
    "openvino-jax2onnx": Runtime("OpenVINO: jax2onnx", "openvino", "jax2onnx"),
    "openvino-bf16": Runtime("OpenVINO, bf16: ours", "openvino-bf16", "ours"),
    "openvino-bf16-torchscript": Runtime("OpenVINO, bf16: TorchScript", "openvino-bf16", "torchscript"),
}
TORCH = ("torch", "benchmarks.network")
OPENVINO = ("bgevis.exporters.openvino", "openvino")  # ours first: it keeps OpenVINO from reporting to anybody
PACKAGES = {
    "onnxruntime": ("onnxruntime",),
    "openvino": OPENVINO,
    "openvino-bf16": OPENVINO,
    "torch": TORCH,
    "torch-bf16": TORCH,
    "torch-compiled": (*TORCH, "torch._inductor.compile_fx"),
    "jax": ("jax", "flax.nnx"),
}
"""What an engine needs, imported before the clock of loading starts."""

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
    wide = {i.name for i in session.get_inputs() if i.type == "tensor(int64)"}
    return lambda arrays: _int64(arrays, wide), lambda feeds: session.run(None, feeds)[0]


def openvino_model(file: Path, threads: int, precision: str) -> Loaded:
    import openvino

    config = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    model = openvino.Core().compile_model(file, "CPU", config)
    request = model.create_infer_request()
    wide = {port.any_name for port in model.inputs if port.element_type == openvino.Type.i64}
    return lambda arrays: _int64(arrays, wide), lambda feeds: np.array(request.infer(feeds)[0])


def _int64(arrays: Arrays, wide: Collection[str]) -> Arrays:
    """Give the inputs that a program wants in 64 bits in 64 bits."""
    return {name: a.astype(np.int64) if name in wide else a for name, a in arrays.items()}


def torch_module(model: Model, entry: EntryPoint, threads: int, way: str) -> Loaded:
    """Run PyTorch's network as it is, compiled for each shape, or with weights and activations in bfloat16."""
    import torch

    from .network import load, scaled_dot_product

    torch.set_num_threads(threads)
    network = load(model, scaled_dot_product)
    dtype = torch.bfloat16 if way == "bf16" else torch.float32
    network.to(dtype)
    compute = getattr(network, entry.name)
    if way == "compiled":
        compute = _compiled(compute)

    def prepare(arrays: Arrays) -> list[Any]:
        tensors = (torch.from_numpy(a) for a in arrays.values())
        return [t.to(dtype) if t.is_floating_point() else t.long() for t in tensors]

    def run(tensors: list[Any]) -> np.ndarray:
        with torch.inference_mode():
            return compute(*tensors).float().numpy()

    return prepare, run


def _compiled(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Compile the whole graph for each shape; nothing is left from the last process."""
    import torch

    cache = BUILD / "inductor"
    shutil.rmtree(cache, ignore_errors=True)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    return torch.compile(compute, dynamic=False, fullgraph=True)


def torch_float64(model: Model, entry: EntryPoint, threads: int) -> Loaded:
    import torch

    from bgevis.model.family import families
    from bgevis.model.reference import Original

    from .network import read

    torch.set_num_threads(threads)
    exact = families()[model.family].reference(model.config, Original(read(model))).in_dtype("float64")
    return lambda arrays: arrays, lambda arrays: exact.run(entry.name, arrays)["embeddings"]


def jax_jit(model: Model, entry: EntryPoint) -> Loaded:
    import jax

    network, weights = converted(model, entry.name)
    compute = jax.jit(network.function(entry.name))
    return lambda arrays: list(arrays.values()), lambda inputs: np.asarray(compute(weights, *inputs)["embeddings"])


def load(runtime: str, model: Model, entry: EntryPoint, threads: int) -> Loaded:
    """Load an entry point into a runtime, or into `float64`, which all are compared with."""
    if runtime == "float64":
        return torch_float64(model, entry, threads)
    engine, _, way = RUNTIMES[runtime].engine.partition("-")
    match engine:
        case "torch":
            return torch_module(model, entry, threads, way)
        case "jax":
            return jax_jit(model, entry)
        case "openvino":
            return openvino_model(program(model, RUNTIMES[runtime].exporter, entry.name), threads, way or "f32")
        case _:
            return onnxruntime_session(program(model, RUNTIMES[runtime].exporter, entry.name), threads)


def import_packages(runtime: str) -> None:
    engine = "torch" if runtime == "float64" else RUNTIMES[runtime].engine
    for package in PACKAGES[engine]:
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

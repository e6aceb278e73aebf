"""Other exporters, one in one process: `python -m benchmarks.peer torchscript|dynamo|optimized|jax2onnx MODEL OUT`."""

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bgevis.validation.entry_point import EntryPoint as Signature

from .exports import converted
from .models import Model

OPSET = 17
"""For the TorchScript exporter: the first with LayerNormalization, and what graph optimizers know best."""

Axes = Mapping[str, Mapping[int, str]]


def torchscript(model: Model, out: Path) -> None:
    """Trace, as `torch.onnx.export` did by default until PyTorch 2.9."""
    import torch

    for entry, module, inputs, axes in _programs(model):
        names = {"input_names": [s.name for s in entry.inputs], "output_names": [s.name for s in entry.outputs]}
        options = {"opset_version": OPSET, "dynamic_axes": axes, "dynamo": False}
        torch.onnx.export(module, inputs, str(out / f"{entry.name}.onnx"), **names, **options)


def dynamo(model: Model, out: Path) -> None:
    """Export through `torch.export`, as `torch.onnx.export` does by default today."""
    import onnxscript  # noqa: F401 - the exporter needs it; say so before minutes have passed
    import torch

    for entry, module, inputs, axes in _programs(model):
        dynamic = (tuple(dict.fromkeys(axes[s.name], torch.export.Dim.DYNAMIC) for s in entry.inputs),)
        names = {"input_names": [s.name for s in entry.inputs], "output_names": [s.name for s in entry.outputs]}
        options = {"dynamic_shapes": dynamic, "dynamo": True, "external_data": True, "verbose": False}
        torch.onnx.export(module, inputs, out / f"{entry.name}.onnx", **names, **options)


def optimized(model: Model, out: Path) -> None:
    """Rewrite what the TorchScript exporter wrote with onnxruntime's optimizer for transformers."""
    from onnxruntime.transformers.optimizer import optimize_model

    for name in model.entry_points:
        source = model.exports("torchscript") / f"{name}.onnx"
        rewritten = optimize_model(str(source), model_type="bert", opt_level=0)
        print(name, {op: n for op, n in rewritten.get_fused_operator_statistics().items() if n})
        rewritten.save_model_to_file(str(out / f"{name}.onnx"))


def jax2onnx(model: Model, out: Path) -> None:
    """Trace our own NNX model on the weights that we converted; its symbols keep the bounds that the model asks for."""
    from jax2onnx import to_onnx

    for entry in model.entry_points.values():
        network, weights = converted(model, entry.name)
        function = functools.partial(network.function(entry.name), weights)
        names = {"input_names": [s.name for s in entry.inputs], "output_names": [s.name for s in entry.outputs]}
        file = out / f"{entry.name}.onnx"
        to_onnx(function, network.input_specs(entry.name), return_mode="file", output_path=file, **names)


def check(model: Model, out: Path) -> None:
    """Open every program in onnxruntime."""
    import onnxruntime

    for name in model.entry_points:
        onnxruntime.InferenceSession(str(out / f"{name}.onnx"), providers=["CPUExecutionProvider"])


def _programs(model: Model) -> Any:
    """Give each entry point with its module, example inputs and dynamic axes."""
    from .network import EntryPoint, load, spelled_out

    network = load(model, spelled_out)
    for entry in model.entry_points.values():
        axes: Axes = {
            s.name: {i: dim for i, dim in enumerate(s.shape) if isinstance(dim, str)}
            for s in (*entry.inputs, *entry.outputs)
        }
        yield entry, EntryPoint(network, entry.name).eval(), _example(entry), axes


def _example(entry: Signature) -> tuple[Any, ...]:
    import torch

    shapes = [(spec.dtype, spec.resolve({"batch": 2, "tokens": 8})) for spec in entry.inputs]
    return tuple(torch.ones(s, dtype=torch.long) if d == "int32" else torch.randn(s) for d, s in shapes)


def main() -> None:
    task, model, out = sys.argv[1], Model.parse(sys.argv[2]), Path(sys.argv[3])
    out.mkdir(parents=True, exist_ok=True)
    tasks = {f.__name__: f for f in (torchscript, dynamo, optimized, jax2onnx, check)}
    try:
        tasks[task](model, out)
    except ModuleNotFoundError as error:
        sys.exit(f"not installed: {error.name}")


if __name__ == "__main__":
    main()

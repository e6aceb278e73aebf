"""A function, lowered to ONNX and run: what the tests of the lowering share."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
import onnx
import onnxruntime

from bgevis.exporters.onnx.serialize import model
from bgevis.exporters.onnx.write import OPSET, lower

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode leaves it out
from lowering_cases import Arg, same, trace


def to_onnx(
    function: Callable, args: tuple[Arg, ...], sizes: Mapping[str, int] | None = None, opset: int = OPSET
) -> onnx.ModelProto:
    """Lower with symbolic sizes, or with `sizes`, and check the result by ONNX's rules."""
    closed = trace(function, args, sizes)
    inputs = {f"x{i}": jax.ShapeDtypeStruct(a.shape, a.dtype) for i, a in enumerate(closed.in_avals)}
    graph, outputs = lower(closed, {}, inputs, [f"y{i}" for i in range(len(closed.jaxpr.outvars))], [], opset)
    proto = model(graph, outputs, opset, {}, "", "function")
    onnx.checker.check_model(proto, full_check=True)
    return proto


def run(proto: onnx.ModelProto, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Run in onnxruntime with its defaults, integers fed as int64."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    wide = [array.astype(np.int64) if array.dtype == np.int32 else array for array in arrays]
    names = {value.name for value in session.get_inputs()}
    return session.run(None, {f"x{i}": array for i, array in enumerate(wide) if f"x{i}" in names})


def agree(function: Callable, args: tuple[Arg, ...], proto: onnx.ModelProto, sizes: Mapping[str, int]) -> None:
    """Compare with JAX on drawn arguments: shapes, types, values."""
    same(function, args, lambda arrays: run(proto, arrays), sizes)


def summary(proto: onnx.ModelProto) -> str:
    """Give the operators with the shapes of what they compute, in order: `MatMul:b,t,4 -> Add:b,t,4`."""
    infos = {info.name: info for info in (*proto.graph.value_info, *proto.graph.output)}

    def dims(name: str) -> str:
        return ",".join(d.dim_param or str(d.dim_value) for d in infos[name].type.tensor_type.shape.dim)

    return " ".join(f"{node.op_type}:{dims(node.output[0])}" for node in proto.graph.node)

"""A function, lowered to ONNX and run: what the tests of the lowering share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import numpy as np
import onnx
import onnxruntime
from jax import export
from jax.extend.core import ClosedJaxpr

from bgevis.exporters.onnx.serialize import model
from bgevis.exporters.onnx.write import OPSET, lower

SIZES = {"b": 2, "t": 3}


@dataclass(frozen=True)
class Arg:
    """An argument: axes as "b t 4", letters being dynamic; integers are drawn from low..high-1."""

    axes: str
    dtype: str = "float32"
    low: float = -3
    high: float = 3

    def shape(self, sizes: Mapping[str, object]) -> tuple:
        return tuple(int(axis) if axis.isdigit() else sizes[axis] for axis in self.axes.split())

    def draw(self, rng: np.random.Generator, sizes: Mapping[str, int]) -> np.ndarray:
        shape = self.shape(sizes)
        if self.dtype == "bool":
            return rng.integers(0, 2, shape).astype(bool)
        if self.dtype.startswith(("int", "uint")):
            return rng.integers(int(self.low), int(self.high), shape).astype(self.dtype)
        return rng.uniform(self.low, self.high, shape).astype(self.dtype)


def trace(function: Callable, args: tuple[Arg, ...], sizes: Mapping[str, int] | None = None) -> ClosedJaxpr:
    """Trace with symbolic sizes, or with `sizes`."""
    symbols = dict(zip("bt", export.symbolic_shape("b, t"), strict=True))
    return jax.jit(function).trace(*(jax.ShapeDtypeStruct(a.shape(sizes or symbols), a.dtype) for a in args)).jaxpr


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
    arrays = [arg.draw(np.random.default_rng(0), sizes) for arg in args]
    want = jax.tree.leaves(jax.jit(function)(*arrays))
    got = run(proto, arrays)
    assert len(want) == len(got)
    for one, other in zip(want, got, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        np.testing.assert_allclose(other, np.asarray(one), rtol=3e-6, atol=3e-6)


def summary(proto: onnx.ModelProto) -> str:
    """Give the operators with the shapes of what they compute, in order: `MatMul:b,t,4 -> Add:b,t,4`."""
    infos = {info.name: info for info in (*proto.graph.value_info, *proto.graph.output)}

    def dims(name: str) -> str:
        return ",".join(d.dim_param or str(d.dim_value) for d in infos[name].type.tensor_type.shape.dim)

    return " ".join(f"{node.op_type}:{dims(node.output[0])}" for node in proto.graph.node)

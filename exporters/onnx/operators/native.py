"""The composites of `model/ops.py` that ONNX has operators for."""

from jax.extend.core import JaxprEqn

from ..graph import Value
from ..lower import Lowering, attributes
from ..registry import composite


@composite("layer_norm", emits="LayerNormalization", since=17)
def layer_norm(c: Lowering, eqn: JaxprEqn) -> Value:
    """Normalise the last axis."""
    x, scale, bias = c.full(eqn.invars[0]), c.full(eqn.invars[1]), c.full(eqn.invars[2])
    epsilon = float(attributes(eqn)["epsilon"])
    return c.emit("LayerNormalization", x, scale, bias, shape=x.shape, dtype=x.dtype, axis=-1, epsilon=epsilon)


@composite("gelu", emits="Gelu", since=20)
def gelu(c: Lowering, eqn: JaxprEqn) -> Value:
    """Apply the erf form."""
    return c.elementwise("Gelu", c.read(eqn.invars[0]))


@composite("gelu_tanh", emits="Gelu", since=20)
def gelu_tanh(c: Lowering, eqn: JaxprEqn) -> Value:
    """Apply the tanh form."""
    return c.elementwise("Gelu", c.read(eqn.invars[0]), approximate="tanh")


@composite("attention", emits="MatMul Transpose Mul Add Softmax", since=17)
def attention(c: Lowering, eqn: JaxprEqn) -> Value:
    """Attend by products and Softmax, which onnxruntime's CPU kernels do faster than its Attention operator."""
    query, key, value = (c.full(atom) for atom in eqn.invars[:3])
    scale = c.constant(attributes(eqn)["scale"], query.dtype)
    query = c.transpose(c.elementwise("Mul", query, scale), (0, 2, 1, 3))
    scores = c.matmul(query, c.transpose(key, (0, 2, 3, 1)))
    if len(eqn.invars) > 3:
        scores = c.elementwise("Add", scores, c.read(eqn.invars[3]))
    weights = c.emit("Softmax", scores, shape=scores.shape, dtype=scores.dtype, axis=-1)
    return c.transpose(c.matmul(weights, c.transpose(value, (0, 2, 1, 3))), (0, 2, 1, 3))

"""The composites of `model/ops.py` that ONNX has operators for."""

from collections.abc import Sequence

import numpy as np
from jax.extend.core import JaxprEqn

from ...lowering import rules
from ...lowering.walk import attributes, shape_of
from ..dims import INT64
from ..graph import Attribute, Value, common_scope
from ..lower import Lowering
from ..registry import composite

HEADS_FIRST = (0, 2, 1, 3)
"""Between (batch, tokens, heads, width) and (batch, heads, tokens, width), either way."""


@composite("layer_norm", emits="LayerNormalization", since=17)
def layer_norm(c: Lowering, eqn: JaxprEqn) -> Value:
    """Normalise the last axis."""
    x, scale, bias = c.full(eqn.invars[0]), c.full(eqn.invars[1]), c.full(eqn.invars[2])
    epsilon = float(attributes(eqn)["epsilon"])
    return c.emit("LayerNormalization", x, scale, bias, shape=x.shape, dtype=x.dtype, axis=-1, epsilon=epsilon)


@composite("rms_norm", emits="RMSNormalization", since=23)
def rms_norm(c: Lowering, eqn: JaxprEqn) -> Value:
    """Divide the last axis by its root mean square."""
    x, scale = map(c.full, eqn.invars)
    epsilon = float(attributes(eqn)["epsilon"])
    return c.emit("RMSNormalization", x, scale, shape=x.shape, dtype=x.dtype, axis=-1, epsilon=epsilon)


@composite("gelu", emits="Gelu", since=20)
def gelu(c: Lowering, eqn: JaxprEqn) -> Value:
    """Apply the erf form."""
    return c.elementwise("Gelu", c.read(eqn.invars[0]))


@composite("gelu_tanh", emits="Gelu", since=20)
def gelu_tanh(c: Lowering, eqn: JaxprEqn) -> Value:
    """Apply the tanh form."""
    return c.elementwise("Gelu", c.read(eqn.invars[0]), approximate="tanh")


@composite("softmax", emits="Softmax", since=17)
def softmax(c: Lowering, eqn: JaxprEqn) -> Value:
    """Make shares of the last axis."""
    x = c.full(eqn.invars[0])
    return c.emit("Softmax", x, shape=x.shape, dtype=x.dtype, axis=-1)


@composite("attention", emits="Attention MatMul Transpose Mul Add Softmax", since=17)
def attention(c: Lowering, eqn: JaxprEqn) -> Value:
    """Attend: by the operator of opset 23, before it by its parts."""
    query, key, value, *bias = (c.ranked(atom) if i > 2 else c.full(atom) for i, atom in enumerate(eqn.invars))
    scale = float(attributes(eqn)["scale"])
    if c.opset >= 23:
        return _attention(c, query, key, value, bias, scale)
    return _attention_by_parts(c, query, key, value, bias, scale)


def _attention(c: Lowering, query: Value, key: Value, value: Value, bias: Sequence[Value], scale: float) -> Value:
    """Attend with the heads side by side, as the products leave them; only the bias must have its full size.

    Keys and values that come with the heads first, as caches do, stay so: to turn a long one costs more than attending.
    """
    _, tokens, heads, width = query.shape
    apart = [x.made_by("Transpose") for x in (key, value)]
    if all(node is not None and node.attributes["perm"] == HEADS_FIRST for node in apart):
        q, k, v = (c.transpose(x, HEADS_FIRST) for x in (query, key, value))
        mask = [c.expand(x, (*x.shape[:2], tokens, key.shape[1])) for x in bias]
        scope = common_scope([q, k, v])
        result = c.emit("Attention", q, k, v, *mask, shape=q.shape, dtype=q.dtype, scope=scope, scale=scale)
        return c.transpose(result, HEADS_FIRST)
    flat = [c.reshape(x, (*x.shape[:2], x.shape[2] * width)) for x in (query, key, value)]
    mask = [c.expand(x, (*x.shape[:2], tokens, key.shape[1])) for x in bias]
    shape, sizes = flat[0].shape, {"q_num_heads": heads, "kv_num_heads": key.shape[2]}
    scope = common_scope(flat)
    result = c.emit("Attention", *flat, *mask, shape=shape, dtype=query.dtype, scope=scope, scale=scale, **sizes)
    return c.reshape(result, query.shape)


def _attention_by_parts(
    c: Lowering, query: Value, key: Value, value: Value, bias: Sequence[Value], scale: float
) -> Value:
    """Attend; the scale is next to the product, where onnxruntime makes it part of the product."""
    key, value = (rules.repeated_heads(c, x, query.shape[2]) for x in (key, value))
    query = c.elementwise("Mul", c.transpose(query, (0, 2, 1, 3)), c.constant(scale, query.dtype))
    scores = c.matmul(query, c.transpose(key, (0, 2, 3, 1)))
    for x in bias:
        scores = c.elementwise("Add", scores, x)
    weights = c.emit("Softmax", scores, shape=scores.shape, dtype=scores.dtype, axis=-1)
    return c.transpose(c.matmul(weights, c.transpose(value, (0, 2, 1, 3))), (0, 2, 1, 3))


@composite("rotary_embedding", emits="RotaryEmbedding", since=23)
def rotary_embedding(c: Lowering, eqn: JaxprEqn) -> Value:
    """Rotate with the heads side by side; tables for all rows are looked up by position: they need no batch axis."""
    x, cos, sin = map(c.full, eqn.invars)
    batch, tokens, heads, width = x.shape
    flat = c.reshape(x, (batch, tokens, heads * width))
    places = [c.expand(c.count(tokens), (batch, tokens))] if len(cos.shape) == 2 else []
    attrs = {"interleaved": int(attributes(eqn)["interleaved"]), "num_heads": heads}
    rotated = c.emit("RotaryEmbedding", flat, cos, sin, *places, shape=flat.shape, dtype=x.dtype, **attrs)
    return c.reshape(rotated, x.shape)


@composite("l2_normalize", emits="ReduceL2 Max Div", since=17)
def l2_normalize(c: Lowering, eqn: JaxprEqn) -> Value:
    """Divide by the norm, which is at least epsilon."""
    x = c.full(eqn.invars[0])
    norm = c.reduce("ReduceL2", x, [len(x.shape) - 1], keepdims=True)
    return c.elementwise("Div", x, c.elementwise("Max", norm, c.constant(attributes(eqn)["epsilon"], x.dtype)))


@composite("conv_transpose", emits="ConvTranspose", since=17)
def conv_transpose(c: Lowering, eqn: JaxprEqn) -> Value:
    """Convolve the other way."""
    x, kernel = map(c.full, eqn.invars)
    given = {name: tuple(leaves) for name, leaves, _ in eqn.params["attributes"]}
    return c.emit(
        "ConvTranspose",
        x,
        kernel,
        shape=shape_of(eqn.outvars[0]),
        dtype=x.dtype,
        strides=given["strides"],
        pads=given["padding"] * 2,
        output_padding=given["output_padding"],
        dilations=given["dilations"],
        group=given["groups"][0],
    )


@composite("lstm", emits="LSTM Gather Concat Shape Cast Expand", since=17)
def lstm(c: Lowering, eqn: JaxprEqn) -> Sequence[Value]:
    """Run through the steps; ONNX has the gates as input, output, forget, cell."""
    return _recurrent(c, eqn, "LSTM", (0, 3, 1, 2), states=2)


@composite("gru", emits="GRU Gather Concat Shape Cast Expand", since=17)
def gru(c: Lowering, eqn: JaxprEqn) -> Sequence[Value]:
    """Run through the steps; ONNX has the gates as update, reset, new."""
    return _recurrent(c, eqn, "GRU", (1, 0, 2), states=1, linear_before_reset=1)


@composite("rnn", emits="RNN Concat Shape Cast Expand", since=17)
def rnn(c: Lowering, eqn: JaxprEqn) -> Sequence[Value]:
    """Run through the steps."""
    activation = "Relu" if attributes(eqn)["relu"] else "Tanh"
    return _recurrent(c, eqn, "RNN", (0,), states=1, activations=(activation,))


def _recurrent(
    c: Lowering, eqn: JaxprEqn, op: str, gates: Sequence[int], *, states: int, **attrs: Attribute
) -> list[Value]:
    """Run through the steps in one direction, which is an axis of its own in ONNX.

    `gates` says where each gate of ONNX's order stands in ours; so many `states` are carried from step to step.
    """
    x, *rest = map(c.full, eqn.invars)
    initial, weights = rest[:states], rest[states:]
    steps, rows, _ = x.shape
    width = initial[0].shape[-1]
    order = np.concatenate([np.arange(width) + gate * width for gate in gates])
    if len(gates) > 1:
        places = c.constant(order, INT64)
        weights = [c.emit("Gather", w, places, shape=w.shape, dtype=w.dtype, axis=0) for w in weights]
    weight, recurrent, *biases = weights
    bias = c.concat(biases, 0)
    lengths = c.expand(c.cast(c.sizes.vector([steps]), np.int32), (rows,))
    given = [c.reshape(each, (1, *each.shape)) for each in (weight, recurrent, bias)]
    carried = [c.reshape(each, (1, *each.shape)) for each in initial]
    direction = "reverse" if attributes(eqn)["reverse"] else "forward"
    results = [((steps, 1, rows, width), x.dtype), *[((1, rows, width), x.dtype)] * states]
    found = c.graph.emit(
        op, [x, *given, lengths, *carried], results, {**attrs, "hidden_size": width, "direction": direction}
    )
    return [c.reshape(found[0], (steps, rows, width)), *(c.reshape(each, (rows, width)) for each in found[1:])]

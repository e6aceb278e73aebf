"""Layers that families share, against what they are made of: patches, fewer heads of keys, what layers hand on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bgevis.model.attention import Attention, causal, mask_bias, padding
from bgevis.model.layers import Linear, PatchEmbedding, RMSNorm, in_turn
from bgevis.validation.taps import recording


def drawn(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_patches_are_a_convolution_with_their_size_as_stride():
    layer = PatchEmbedding(2, 3, 5, use_bias=False, rngs=nnx.Rngs(0))
    images = drawn(2, 6, 4, 3)
    numbers = ("NHWC", "HWIO", "NHWC")
    want = jax.lax.conv_general_dilated(images, layer.kernel[...], (2, 2), "VALID", dimension_numbers=numbers)
    np.testing.assert_allclose(layer(images), want.reshape(2, 6, 5), atol=1e-5)


def test_attention_to_another_sequence_with_fewer_heads_of_keys():
    layer = Attention(12, 6, kv_heads=2, source_width=7, biased=("query",), rngs=nnx.Rngs(0))
    assert layer.key.kernel.shape == (7, 2, 2)
    assert [name for name in ("query", "key", "value", "out") if getattr(layer, name).bias is not None] == ["query"]
    x, source = drawn(2, 3, 12), drawn(2, 4, 7, seed=1)
    bias = mask_bias(padding(jnp.array([[1, 1, 1, 0], [1, 0, 1, 1]])), -1e9)
    query, key, value = (np.asarray(each) for each in layer.project(x, source))
    attended = np.empty_like(query)
    for head in range(6):
        scores = query[:, :, head] @ key[:, :, head // 3].transpose(0, 2, 1) / np.sqrt(2) + np.asarray(bias)[:, 0]
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        attended[:, :, head] = weights / weights.sum(-1, keepdims=True) @ value[:, :, head // 3]
    np.testing.assert_allclose(layer(x, bias, source), layer.out(jnp.asarray(attended)), atol=1e-5)


def test_no_token_attends_to_one_after_it():
    assert causal(3)[0, 0].tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_rms_norm_subtracts_nothing():
    layer, x = RMSNorm(4, 0.5), drawn(3, 4) + 2
    layer.scale[...] = jnp.arange(4.0)
    np.testing.assert_allclose(layer(x), x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 0.5) * np.arange(4), atol=1e-6)


class Remembering(nnx.Module):
    """Adds to x what it kept, and keeps what it was given."""

    def __init__(self, rngs: nnx.Rngs):
        self.linear = Linear((4,), (4,), rngs=rngs)

    def __call__(self, x, kept, factor):
        return self.linear(x) + kept["sum"] * factor, {"sum": kept["sum"] + x}


@pytest.mark.parametrize("how", ["called", "compiled", "compiled with remat", "recorded"])
def test_layers_take_and_give_what_is_their_own(how):
    layers, x = [Remembering(nnx.Rngs(i)) for i in range(3)], drawn(2, 4)
    own = [{"sum": drawn(2, 4, seed=i)} for i in range(3)]

    def run(x, own):
        return in_turn(layers, "layers", x, 0.5, own=own, remat="remat" in how)

    want, kept = x, []
    for layer, mine in zip(layers, own, strict=True):
        kept.append(mine["sum"] + want)
        want = layer.linear(want) + mine["sum"] * 0.5
    if how == "recorded":
        with recording():
            got, given = run(x, own)
    else:
        got, given = (jax.jit(run) if "compiled" in how else run)(x, own)
    np.testing.assert_allclose(got, want, atol=1e-5)
    for one, other in zip(given, kept, strict=True):
        np.testing.assert_allclose(one["sum"], other, atol=1e-5)

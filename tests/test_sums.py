"""Axes that no input has alone: their size is computed from a sum, in every format."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bgevis.exporters.base import WEIGHTS, exporters
from bgevis.exporters.lowering.shapes import source_of
from bgevis.model.network import Network
from bgevis.validation.entry_point import Axis, EntryPoint, TensorSpec
from bgevis.validation.errors import GateError

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode leaves it out
import tiny_exports as tiny


class Steps(nnx.Module):
    """Differences along an axis, and as many rows of a parameter."""

    def __init__(self, rngs: nnx.Rngs):
        self.scale = nnx.Param(jax.random.normal(rngs.params(), (4,)))

    def run(self, x, keep):
        """(n, steps + 1, 4) numbers and (n, steps + 1) truths -> (n, steps, 4), (n, steps, 4), (n,)."""
        steps = x[:, 1:] - x[:, :-1]
        return {
            "steps": steps * self.scale[...],
            "scales": jnp.broadcast_to(self.scale[...], steps.shape),
            "kept": jnp.sum(keep, axis=1, dtype=jnp.int32),
        }


NETWORK = Network(
    Steps,
    (
        EntryPoint(
            "run",
            (TensorSpec("x", "float32", ("n", "steps + 1", 4)), TensorSpec("keep", "bool", ("n", "1 + steps"))),
            (
                TensorSpec("steps", "float32", ("n", "steps", 4)),
                TensorSpec("scales", "float32", ("n", "steps", 4)),
                TensorSpec("kept", "int32", ("n",)),
            ),
            {"n": Axis(), "steps": Axis(1, 20)},
            rows="n",
        ),
    ),
)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("onnx", {}),
        ("stablehlo", {"static": ({"n": 2, "steps": 3},)}),
        ("saved-model", {}),
        ("saved-model", {"ops": "tensorflow"}),
    ],
)
def test_a_size_is_computed_from_a_sum(tmp_path, name, options):
    artifact = tiny.export(exporters()[name], NETWORK, tmp_path / "run", **options)
    runner, scale = exporters()[name].open(artifact), tiny.WeightsFile(artifact.directory / WEIGHTS)["scale"]
    rng = np.random.default_rng(0)
    for n, length in ((2, 4), (1, 2), (3, 9)):
        x, keep = rng.standard_normal((n, length, 4)).astype(np.float32), rng.random((n, length)) < 0.5
        got = runner.run("run", {"x": x, "keep": keep})
        np.testing.assert_allclose(got["steps"], np.diff(x, axis=1) * scale, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(got["scales"], np.broadcast_to(scale, (n, length - 1, 4)))
        np.testing.assert_array_equal(got["kept"], keep.sum(1))
        assert got["kept"].dtype == np.int32


def test_where_a_size_can_be_read():
    shapes = [(2, "past + tokens"), ("tokens", "2*past"), ("max(tokens, 3)",)]
    assert source_of("tokens", shapes) == (1, 0, "")
    assert source_of("past", shapes) == (0, 1, "1*tokens")
    with pytest.raises(GateError, match="no input has the dynamic axis frames"):
        source_of("frames", shapes)
    with pytest.raises(GateError, match="no input has the dynamic axis past"):
        source_of("past", shapes[1:])

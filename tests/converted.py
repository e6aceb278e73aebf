"""A checkpoint as the NNX model, for tests that hold it to what upstream computed."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bgevis.converter.certificate.assign import assign
from bgevis.converter.certificate.ledger import Ledger
from bgevis.converter.certificate.tensors import Tensors
from bgevis.converter.options import Options
from bgevis.converter.source.identify import identify
from bgevis.validation.taps import recording

EMBEDDING = 1e-6
"""Upstream's own float32 is 1e-7 to 4e-7 from float64 on unit vectors."""


class Converted:
    """A checkpoint as the NNX model, through the product's own reader, rules and layouts."""

    def __init__(self, path: Path, options: Options | None = None, **changes):
        identified = identify(path, options or Options())
        self.family = identified.family
        self.config = dataclasses.replace(identified.config, **changes)
        self.network = self.family.network(self.config)
        found = assign(identified.checkpoint.tensors, self.family.rules(self.config), self.network.leaves)
        assert found.problems == ()
        self.ledger = Ledger(self.family.name, self.family.axis_sizes(self.config), found.entries)
        tensors = Tensors(identified.checkpoint, self.ledger)
        self.weights = {
            leaf: jnp.array(self.ledger.leaf(name, tensors.read(name))) for leaf, name in self.ledger.leaves.items()
        }
        self.checkpoint = identified.checkpoint
        self.compiled = {}
        self.functions = {name: jax.jit(self.network.function(name)) for name in self.network.entry_points}

    def __call__(self, entry_point: str, *inputs, weights=None):
        (output,) = self.functions[entry_point](weights or self.weights, *map(as_input, inputs)).values()
        return np.asarray(output)

    def run(self, entry_point: str, inputs):
        """Run as a Runner does: by name, as the arrays are."""
        given = [jnp.asarray(inputs[spec.name], spec.dtype) for spec in self.network.entry_points[entry_point].inputs]
        outputs = self.functions[entry_point](self.weights, *given)
        return {name: np.asarray(value) for name, value in outputs.items()}

    def taps(self, entry_point: str, *inputs):
        with recording() as taps:
            self.network.function(entry_point)(self.weights, *map(as_input, inputs))
        return {name: np.asarray(value) for name, value in taps.items()}

    def source_name(self, leaf: str) -> str:
        return self.ledger.leaves[leaf]


def as_input(array: np.ndarray) -> jax.Array:
    """Integers as int32, pictures as channels last."""
    if np.issubdtype(array.dtype, np.integer):
        return jnp.asarray(array, jnp.int32)
    return jnp.asarray(array.transpose(0, 2, 3, 1), jnp.float32)


def close(got: np.ndarray, want: np.ndarray, tolerance: float = EMBEDDING) -> None:
    """Compare on the scale of the wanted values."""
    scale = max(1.0, float(np.abs(want).max()))
    assert got.shape == want.shape
    assert float(np.abs(got - want).max()) <= tolerance * scale

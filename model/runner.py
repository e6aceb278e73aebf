"""The NNX model on its weights as a Runner."""

import copy
import functools
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from ..validation.goldens import sample
from ..validation.jax_runner import JaxRunner
from ..validation.runner import Arrays
from ..validation.taps import recording


@runtime_checkable
class Leaves(Protocol):
    """Arrays by leaf: a weights file, or a dictionary."""

    def __getitem__(self, leaf: str, /) -> np.ndarray: ...


if TYPE_CHECKING:
    import jax

    from .network import Network


class NNXRunner:
    """The NNX model on its weights file, compiled by JAX; also gives intermediate values."""

    def __init__(self, net: "Network", weights: "Leaves"):
        import jax

        self.net = net
        self.weights = jax.device_put({name: weights[name] for name in net.leaves})  # maps the file, copies nothing
        self.name = f"flax {version('flax')} + jax {jax.__version__}"
        self._functions = {entry: jax.jit(net.function(entry)) for entry in net.entry_points}
        # Optimised as users' programs are: without, a right conversion of the real Whisper tiny.en leaves its budget.
        self._traced = {entry: jax.jit(functools.partial(self.trace, entry)) for entry in net.entry_points}

    def run(self, entry_point: str, inputs: Arrays) -> Arrays:
        """Compute an entry point."""
        bound = {entry_point: functools.partial(self._functions[entry_point], self.weights)}
        return JaxRunner(self.name, self.net.entry_points, bound).run(entry_point, inputs)

    def changed(self, weights: "Mapping[str, jax.Array]") -> "NNXRunner":
        """Give the same compiled model on some other weights."""
        other = copy.copy(self)
        other.weights = self.weights | dict(weights)
        return other

    def traced(self, entry_point: str, inputs: Arrays) -> tuple[Arrays, Arrays]:
        """Compute outputs and samples of the intermediate values."""
        outputs, taps = self._traced[entry_point](self.weights, *inputs.values())
        samples = {name: sample(np.asarray(value)) for name, value in taps.items()}
        return {name: np.asarray(value) for name, value in outputs.items()}, samples

    def taps(self, entry_point: str, inputs: Arrays) -> Arrays:
        """Compute samples of the intermediate values."""
        return self.traced(entry_point, inputs)[1]

    def trace(
        self, entry_point: str, weights: "Mapping[str, jax.Array]", *inputs: "jax.Array"
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Compute outputs, and the intermediate values with them, as arrays of JAX, or trace them."""
        with recording() as taps:
            outputs = self.net.function(entry_point)(weights, *inputs)
        return outputs, taps | outputs

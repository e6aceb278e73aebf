"""Programs of JAX as Runners: functions of the inputs, and the NNX model on its weights."""

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from ..validation.entry_point import EntryPoint
from ..validation.goldens import sample
from ..validation.runner import Arrays
from ..validation.taps import recording


@runtime_checkable
class Leaves(Protocol):
    """Arrays by leaf: a weights file, or a dictionary."""

    def __getitem__(self, leaf: str, /) -> np.ndarray: ...


if TYPE_CHECKING:
    import jax

    from .network import Network


@dataclass(frozen=True)
class JaxRunner:
    """Runs functions of the inputs alone, in the entry point's order, in JAX on its default device."""

    name: str
    entry_points: Mapping[str, EntryPoint]
    functions: Mapping[str, Callable[..., Arrays]]

    def run(self, entry_point: str, inputs: Arrays) -> Arrays:
        """Compute `entry_point`; what JAX has not yet compiled for these shapes it compiles now."""
        import jax

        entry = self.entry_points[entry_point]
        with jax.default_matmul_precision("highest"):
            outputs = self.functions[entry_point](*(inputs[spec.name] for spec in entry.inputs))
        return {spec.name: np.asarray(outputs[spec.name]) for spec in entry.outputs}


class NNXRunner:
    """The NNX model on its weights file, compiled by JAX; also gives intermediate values."""

    def __init__(self, net: "Network", weights: "Leaves"):
        import jax

        self.net = net
        self.weights = jax.device_put({name: weights[name] for name in net.leaves})  # maps the file, copies nothing
        self.name = f"flax {version('flax')} + jax {jax.__version__}"
        self._functions = {entry: jax.jit(net.function(entry)) for entry in net.entry_points}
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

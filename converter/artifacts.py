"""A finished run directory from Python: the NNX module with its weights, for inference or further training."""

from pathlib import Path
from typing import TYPE_CHECKING

from ..exporters.weights import WeightsFile
from .run_directory import RunDirectory
from .stages import WEIGHTS_PATH, network, require

if TYPE_CHECKING:
    from flax import nnx


def load_module(directory: Path | str) -> "nnx.Module":
    """Rebuild the network around its weights file; no random initialisation, no copy on a CPU.

    Raises:
        InputError: `directory` is no run directory, or its weights were not built.
    """
    import jax

    run = RunDirectory(Path(directory))
    require(run, "build")
    net, weights = network(run.manifest()), WeightsFile(run.path / WEIGHTS_PATH)
    return net.module(jax.device_put({name: weights[name] for name in net.leaves}))

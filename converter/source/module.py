"""A checkpoint of a module of the user's own: the named function's module, filled, traced, as data."""

from pathlib import Path
from typing import TYPE_CHECKING

from ...model.documents import Configured
from ...model.traced import TracedConfig
from ...model.traced.graph import Graph, digest
from ...validation.errors import EnvironmentFailure, InputError
from ..checkpoint import Checkpoint
from ..options import Options
from .spec import read_spec

if TYPE_CHECKING:
    from ...model.reference import State


def trace(checkpoint: Checkpoint, options: Options, folder: Path) -> str:
    """Make the module, fill it, trace it; give network.json.

    Args:
        checkpoint: opened.
        options: with the module and the spec of its inputs.
        folder: where the module is looked for.

    Raises:
        InputError: the spec, the module or the checkpoint do not fit together, or the module cannot be traced.
    """
    if not options.inputs:
        raise InputError(f"--module {options.module} needs --inputs: names, types and axes of what the module takes")
    wanted = read_spec(options.inputs)
    try:
        from ...model.traced import capture, load
    except ModuleNotFoundError as error:
        raise EnvironmentFailure(
            "--module needs PyTorch, which traces the module: pip install 'bgevis-convert[upstream]'"
        ) from error
    module, config = load.make(options.module, folder)
    tensors = load.fill(module, read_tensors(checkpoint), options.module)
    facts = {"config": config} if _plain(config) else {}
    graph = capture.capture(load.computing_in_float32(module), wanted, tensors, options.module, facts)
    return checked(graph)


def checked(graph: Graph) -> str:
    """Give network.json of a graph that JAX can compute, whose tables hold what its inputs may ask for."""
    from ...model.traced.bounds import hold_to_tables
    from ...model.traced.module import as_jax_writes

    hold_to_tables(graph)
    return as_jax_writes(graph).to_json()


def read_tensors(checkpoint: Checkpoint) -> "State":
    """Read the tensors by the safe reader, as torch's, on the mapped file where that can be."""
    from ...model.reference import tensor_of

    return {name: tensor_of(checkpoint.read(name)) for name in checkpoint.tensors}


def configured(module: str, text: str) -> Configured:
    """State what the manifest says of the network."""
    origins = {"module": "--module", "network": "the traced network, network.json"}
    return Configured(TracedConfig(module, digest(text)), origins)


def _plain(value: object) -> bool:
    """Say whether JSON can hold a value as it is."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(each) for key, each in value.items())
    if isinstance(value, list):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)

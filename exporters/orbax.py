"""Orbax: a checkpoint that an NNX user restores without this package.

The tree is the one that Orbax writes for `nnx.state(model)`: module path, parameter, "value", with the
elements of lists numbered as strings. So both of these work:

    StandardCheckpointer().restore(path)                             nested dict of arrays
    StandardCheckpointer().restore(path, nnx.state(abstract_model))  what nnx.update takes

The arrays are numpy's, or jax.Arrays where those of the abstract state have a sharding.

Source: https://orbax.readthedocs.io, "Checkpointing PyTrees of Arrays"; zarr v2, one uncompressed chunk
per array, instead of Orbax's default OCDBT, which names its files at random.
"""

import functools
import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..validation.errors import EnvironmentFailure, InputError
from ..validation.jax_runner import JaxRunner
from .base import Artifact, Description, Exporter, Request
from .weights import WeightsFile

KEY = "orbax"
LEAF = "value"
"""What Orbax calls the array inside an nnx.Variable."""
AT_ONCE = 64 << 20


def write(request: Request) -> dict[str, Description]:
    """Write the checkpoint, straight from the pages of the weights file."""
    checkpoint = request.out / "new"
    if not request.weights.tensors:
        raise InputError("orbax: the network has no weights, and Orbax keeps nothing else; choose other formats")
    try:
        with request.weights.forgetting():
            _save(request.weights, checkpoint)
    except ValueError as error:  # what Orbax raises for a full disk, too
        if "os_error_code" not in str(error):
            raise
        raise EnvironmentFailure(f"Orbax could not write {request.out}: {error}") from error
    _forget_when_and_where(checkpoint)
    for path in checkpoint.iterdir():
        path.rename(request.out / path.name)
    checkpoint.rmdir()
    request.progress(sum(location.nbytes for location in request.weights.tensors.values()))
    return {name: {"path": KEY} for name in request.network.entry_points}


def _save(weights: WeightsFile, checkpoint: Path) -> None:
    import orbax.checkpoint as ocp
    from orbax.checkpoint import type_handlers

    arrays = {name: weights[name] for name in sorted(weights.tensors)}
    in_place = type_handlers.NumpyHandler(deepcopy_host_arrays=False)  # by default Orbax copies all arrays first
    with _quiet():
        handler = ocp.PyTreeCheckpointHandler(
            use_ocdbt=False,
            use_compression=False,
            type_handler_registry=type_handlers.create_type_handler_registry((np.ndarray, in_place)),
        )
        with ocp.Checkpointer(handler) as checkpointer:
            checkpointer.save(checkpoint.absolute(), args=ocp.args.PyTreeSave(_tree(arrays)))


def open_(artifact: Artifact) -> JaxRunner:
    """Restore the checkpoint into the NNX model, jitted per entry point and shape."""
    import jax
    import jax.numpy as jnp
    import orbax.checkpoint as ocp

    network = artifact.network()
    weights = {name: jnp.asarray(array) for name, array in read_weights(artifact)}
    return JaxRunner(
        name=f"orbax-checkpoint {ocp.__version__} + jax {jax.__version__}",
        entry_points=artifact.entry_points,
        functions={name: functools.partial(jax.jit(network.function(name)), weights) for name in artifact.entry_points},
    )


def read_weights(artifact: Artifact) -> Iterator[tuple[str, np.ndarray]]:
    """Restore a few arrays after the other, so that only these are in memory."""
    import jax
    import orbax.checkpoint as ocp

    directory = (artifact.directory / KEY).absolute()
    with ocp.PyTreeCheckpointer() as checkpointer:
        leaves = jax.tree.leaves_with_path(checkpointer.metadata(directory).item_metadata.tree)
        nbytes = {".".join(key.key for key in path[:-1]): _nbytes(metadata) for path, metadata in leaves}
        for names in _groups(nbytes):
            args = ocp.args.PyTreeRestore(item=_tree(dict.fromkeys(names, 0)), partial_restore=True)
            for path, array in jax.tree.leaves_with_path(checkpointer.restore(directory, args=args)):
                yield ".".join(key.key for key in path[:-1]), array


def _nbytes(metadata: Any) -> int:
    return math.prod(metadata.shape) * np.dtype(metadata.dtype).itemsize


def _groups(nbytes: Mapping[str, int]) -> Iterator[list[str]]:
    """Split names into runs of at most `AT_ONCE` bytes, or one: every restore reads all of the metadata again."""
    group: list[str] = []
    for name in nbytes:
        if group and sum(nbytes[member] for member in (*group, name)) > AT_ONCE:
            yield group
            group = []
        group.append(name)
    yield group


def _tree(leaves: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        node = tree
        for part in name.split("."):
            node = node.setdefault(part, {})
        node[LEAF] = leaf
    return tree


def _forget_when_and_where(checkpoint: Path) -> None:
    """Take the clock and the absolute path out of a finished checkpoint; Orbax reads neither."""
    (checkpoint / "commit_success.txt").unlink(missing_ok=True)
    path = checkpoint / "_CHECKPOINT_METADATA"
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps(metadata | {"init_timestamp_nsecs": 0, "commit_timestamp_nsecs": 0}))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings that Orbax logs about the layout chosen here on purpose."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


EXPORTER = Exporter(
    name="orbax",
    key=KEY,
    folder=KEY,
    modules=("jax", "flax", "orbax.checkpoint"),
    write=write,
    open=open_,
    read_weights=read_weights,
    weights_only=True,
    effort=1,
)

"""Restore the Orbax artifact straight onto a mesh of devices, and embed there.

    python examples/sharded.py DIR --devices 8 [--save sharded_checkpoint]

Without eight devices, XLA simulates them on the CPU. Each parameter is cut along its largest axis that divides
evenly, so that no device ever holds the whole network.
"""

import argparse
import json
import os
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("directory", type=Path)
parser.add_argument("--devices", type=int, default=8)
parser.add_argument("--checkpoint", type=Path, help="restore this one instead of DIR/orbax")
parser.add_argument("--save", type=Path, help="write the sharded parameters with Orbax")
arguments = parser.parse_args()
os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count={arguments.devices}")

import jax  # noqa: E402 - XLA reads its flags when it starts
import numpy as np  # noqa: E402
import orbax.checkpoint as ocp  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

from bgevis.converter.directory import RunDirectory  # noqa: E402
from bgevis.converter.manifest import GOLDENS, network  # noqa: E402
from bgevis.validation.goldens import Goldens  # noqa: E402

mesh = Mesh(np.array(jax.devices()[: arguments.devices]), ("model",))


def cut(shape: tuple[int, ...]) -> NamedSharding:
    """Choose the largest axis that the devices divide evenly; small parameters are on every device."""
    axes = [axis for axis, size in enumerate(shape) if size % mesh.size == 0]
    largest = max(axes, key=lambda axis: shape[axis], default=None)
    return NamedSharding(mesh, PartitionSpec(*("model" if axis == largest else None for axis in range(len(shape)))))


model = network(RunDirectory(arguments.directory))
target: dict = {}
for name, leaf in model.leaves.items():
    *parents, last = [*name.split("."), "value"]
    node = target
    for part in parents:
        node = node.setdefault(part, {})
    node[last] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=cut(leaf.shape))
with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.restore((arguments.checkpoint or arguments.directory / "orbax").absolute(), target)
    if arguments.save:
        checkpointer.save(arguments.save.absolute(), tree)

leaves = {".".join(key.key for key in path[:-1]): array for path, array in jax.tree.leaves_with_path(tree)}
shards = [shard for leaf in leaves.values() for shard in leaf.addressable_shards]
held = [sum(shard.data.nbytes for shard in shards if shard.device == device) for device in mesh.devices]
worst = 0.0
with jax.default_matmul_precision("highest"):
    for golden in Goldens(arguments.directory / GOLDENS).cases():
        run = jax.jit(model.function(golden.case.entry_point))
        outputs = run(leaves, *golden.case.inputs.values())
        for name, want in golden.outputs.items():
            worst = max(worst, float(np.abs(np.asarray(outputs[name]) - want).max() / golden.budgets[name].allowed))
total = sum(leaf.nbytes for leaf in leaves.values())
print(json.dumps({"devices": mesh.size, "bytes": total, "largest_share": max(held) / total, "worst": worst}))
raise SystemExit(worst > 1)

"""Restore the Orbax artifact straight onto a mesh of devices, and compute there.

    python examples/sharded.py DIR --devices 8 [--save sharded_checkpoint]

Without eight devices, XLA simulates them on the CPU. Each parameter is cut as its family says (heads, inner widths, the
vocabulary), or, of a family that says nothing, along its largest axis that divides evenly: no device ever holds the
whole network. All cases are held to the goldens, and greedy generation must choose the same tokens.
"""

import argparse
import functools
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

from bgevis.converter import partitions  # noqa: E402
from bgevis.converter.directory import RunDirectory  # noqa: E402
from bgevis.converter.manifest import GOLDENS, family_and_config, network  # noqa: E402
from bgevis.validation import procedure  # noqa: E402
from bgevis.validation.goldens import Goldens  # noqa: E402
from bgevis.validation.jax_runner import JaxRunner  # noqa: E402
from bgevis.validation.kept import kept  # noqa: E402

mesh = Mesh(np.array(jax.devices()[: arguments.devices]), ("model",))
family, config = family_and_config(RunDirectory(arguments.directory))
stated = partitions(arguments.directory, mesh.size) if family.part(config).parallel else {}


def cut(name: str, shape: tuple[int, ...]) -> NamedSharding:
    """Take what the family says, else the largest axis that the devices divide evenly; others are on every device."""
    if name in stated:
        return NamedSharding(mesh, PartitionSpec(*stated[name]))
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
    node[last] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=cut(name, leaf.shape))
with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.restore((arguments.checkpoint or arguments.directory / "orbax").absolute(), target)
    if arguments.save:
        checkpointer.save(arguments.save.absolute(), tree)

leaves = {".".join(key.key for key in path[:-1]): array for path, array in jax.tree.leaves_with_path(tree)}
shards = [shard for leaf in leaves.values() for shard in leaf.addressable_shards]
held = [sum(shard.data.nbytes for shard in shards if shard.device == device) for device in mesh.devices]
functions = {name: functools.partial(jax.jit(model.function(name)), leaves) for name in model.entry_points}
runner = JaxRunner("sharded", model.entry_points, functions)
worst, wrong = 0.0, []
with jax.default_matmul_precision("highest"):
    for golden in Goldens(arguments.directory / GOLDENS).cases():
        entry, inputs = model.entry_points[golden.case.entry_point], golden.case.inputs
        outputs = kept(entry, inputs, runner.run(entry.name, inputs))
        for name, want in golden.outputs.items():
            worst = max(worst, float(np.abs(outputs[name] - want).max() / golden.budgets[name].allowed))
    for loop in family.procedures(config):
        tokens = procedure.read(arguments.directory / GOLDENS, loop)
        row = procedure.judge(runner, model.entry_points, loop, tokens, tokens.ids.shape[1])
        wrong += [] if row.passed else [row.problem]
total = sum(leaf.nbytes for leaf in leaves.values())
share = max(held) / total
print(json.dumps({"devices": mesh.size, "bytes": total, "largest_share": share, "worst": worst, "wrong": wrong}))
raise SystemExit(worst > 1 or bool(wrong))

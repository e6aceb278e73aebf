"""Cutting a network over devices: which axis of each parameter, by what its family declares."""

from pathlib import Path

from ...model import layout
from ...validation.errors import InputError
from ..certificate.ledger import Ledger
from ..directory import RunDirectory
from ..manifest import LEDGER, family_and_config
from ..stages.common import require

Partition = tuple[str | None, ...]
"""For each axis of a parameter the mesh's axis that it is cut along, or None: what `PartitionSpec` takes."""


def partitions(directory: Path | str, devices: int, mesh_axis: str = "model") -> dict[str, Partition]:
    """Say how each parameter is cut for tensor parallelism (Shoeybi et al. 2019, arXiv:1909.08053).

    Heads, inner widths and the vocabulary are cut, so that the products of a layer need one sum over the devices; what
    the devices do not divide is on every one of them.

    Args:
        directory: the run directory.
        devices: how many share the network.
        mesh_axis: what the mesh calls their axis.

    Returns:
        Leaf, as Orbax has it ("text.blocks.0.attention.query.kernel") -> for each of its axes the mesh's axis or None.

    Raises:
        InputError: `directory` is no run directory, or the family declares no such axes.
    """
    run = RunDirectory(Path(directory))
    require(run, "remap")
    family, config = family_and_config(run)
    parallel = set(family.part(config).parallel)
    if not parallel:
        raise InputError(f"{directory}: the family {family.name} does not say along which axes its layers may be cut")
    ledger = Ledger.read(run.path / LEDGER)
    found = {}
    for leaf, name in ledger.leaves.items():
        axes = layout.parse(ledger.entries[name].layout).target
        cut = [bool(group) and group[0] in parallel and ledger.axes[group[0]] % devices == 0 for group in axes]
        found[leaf] = tuple(mesh_axis if each and not any(cut[:at]) else None for at, each in enumerate(cut))
    return found

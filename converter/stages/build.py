"""The weights file that the programs share, streamed from the checkpoint."""

from typing import Any

from ...exporters.base import PROGRAMS
from ...exporters.weights import plan, write
from ..certificate.ledger import Ledger
from ..certificate.tensors import Tensors
from ..directory import RunDirectory
from ..manifest import LEDGER, WEIGHTS_PATH, network
from ..options import Options
from ..progress import Progress
from .common import reopen, require


def perform(run: RunDirectory, options: Options, progress: Progress) -> None:
    """Write the weights file: every leaf in its place, streamed, one tensor in memory at a time."""
    require(run, "verify")
    ledger, net = Ledger.read(run.path / LEDGER), network(run)
    tensors = Tensors(reopen(run), ledger)
    leaves = {name: (leaf.dtype, leaf.shape) for name, leaf in net.leaves.items()}
    metadata = {"format": "bgevis", "family": ledger.family, "source_sha256": run.manifest()["source"]["sha256"]}
    header, order = plan(leaves, metadata)
    sources = ledger.leaves

    def arrays() -> Any:
        for leaf in order:
            array = ledger.leaf(sources[leaf], tensors.read(sources[leaf]))
            yield leaf, array
            progress.advance(array.nbytes)
            tensors.release(sources[leaf])

    with run.stage("build", reads(run, options)) as staged:
        (staged.out / PROGRAMS).mkdir()
        progress.begin(sum(leaf.size * leaf.dtype.itemsize for leaf in net.leaves.values()) + len(header))
        with (staged.out / WEIGHTS_PATH).open("wb") as file:
            write(file, leaves, arrays(), metadata)


def reads(run: RunDirectory, options: Options) -> str:
    """Give the digest of what the stage depends on."""
    return run.reads(LEDGER)

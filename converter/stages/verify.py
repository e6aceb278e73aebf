"""Every tensor is checked; the ledger becomes the certificate."""

from concurrent.futures import ThreadPoolExecutor

from ...validation.errors import InputError
from ..certificate.assign import assign
from ..certificate.check import verify as verify_tensors
from ..certificate.ledger import Ledger
from ..directory import RunDirectory
from ..manifest import LEDGER, family_and_config, network
from ..options import Options
from ..progress import WARNING, Progress, Silent
from .common import gate, reopen
from .load import describe_source


def perform(run: RunDirectory, options: Options, progress: Progress) -> None:
    """Check every tensor; the ledger becomes the certificate."""
    manifest = run.manifest()
    family, config = family_and_config(run)
    checkpoint = reopen(run)
    leaves = {name: leaf.shape for name, leaf in network(run).leaves.items()}
    before = reads(run, options)
    found = assign(checkpoint.tensors, family.rules(config), leaves)
    stored = manifest["stored"]["dtype"]
    names = Ledger(family.name, family.axis_sizes(config), found.entries, found.problems, stored=stored)
    progress.begin(sum(tensor.nbytes for tensor in checkpoint.tensors.values()))
    with run.stage("verify", before) as staged, ThreadPoolExecutor(1) as pool:
        read = pool.submit(describe_source, checkpoint, Silent())  # meanwhile: the same pages
        ledger = verify_tensors(names, checkpoint, family, config, leaves, progress.advance)
        if read.result()["sha256"] != manifest["source"]["sha256"]:
            raise InputError(
                f"{checkpoint.path} was changed while it was converted: its sha256 is no longer the one that was "
                "loaded; run `bgevis-convert load` again"
            )
        (staged.out / LEDGER).write_text(ledger.to_json())
        for remark in ledger.notes:
            progress.note(WARNING + remark)
        gate("verify", ledger)


def reads(run: RunDirectory, options: Options) -> str:
    """Give the digest of what the stage depends on."""
    return run.reads("verify", run.manifest()["stored"])

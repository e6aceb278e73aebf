"""Names -> ledger: what becomes of every tensor."""

from ..certificate.assign import assign
from ..certificate.ledger import Ledger
from ..directory import RunDirectory
from ..manifest import LEDGER, family_and_config, network
from ..options import Options
from ..progress import Progress
from .common import gate, reopen


def perform(run: RunDirectory, options: Options, progress: Progress) -> None:
    """Names -> ledger."""
    manifest = run.manifest()
    family, config = family_and_config(run)
    checkpoint = reopen(run)
    net = network(run)
    found = assign(checkpoint.tensors, family.rules(config), net.leaves)
    unread = [f"parameter {leaf}: no entry point reads it: drop it or add an entry point" for leaf in net.unread()]
    stored = manifest["stored"]["dtype"]
    problems = (*found.problems, *unread)
    ledger = Ledger(family.name, family.axis_sizes(config), found.entries, problems, stored=stored)
    run.forget(["verify"])  # it had completed the ledger that is replaced now
    with run.stage("remap", reads(run, options)) as staged:
        (staged.out / LEDGER).write_text(ledger.to_json())
        progress.note(f"{len(checkpoint.tensors)} tensors, {len(ledger.leaves)} parameters")
        gate("remap", ledger)


def reads(run: RunDirectory, options: Options) -> str:
    """Give the digest of what the stage depends on."""
    return run.reads("remap", run.manifest()["stored"])

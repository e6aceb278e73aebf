"""The pipeline, one file a stage. `STAGES` is its order: the subcommands and `all` are made from it.

Each file has `perform(run, options, progress)` and `reads(run, options)`, the digest of what the stage depends on;
those that are done for each format take the exporter as a last argument. `load` makes the run directory.
"""

import importlib
from dataclasses import dataclass
from typing import Any

PREPARE = "prepare"
"""The stages that share one process: they share the checkpoint's pages and one import of jax."""


@dataclass(frozen=True)
class Stage:
    """One stage.

    Args:
        name: its file, its verdict in the manifest, and its subcommand.
        summary: what it does, for people; "" where it has no subcommand of its own.
        after: the stages that must have passed before; a format needs its own of those that are done for each.
        each: it is done for each format.
        proves: it makes no artifact.
        process: the task that does it with others; "" for one of its own.
        host: the task whose process does its task too, once that has passed.
        order: among tasks that could start, the lowest starts first.
    """

    name: str
    summary: str = ""
    after: tuple[str, ...] = ()
    each: bool = False
    proves: bool = False
    process: str = ""
    host: str = ""
    order: int = 0

    @property
    def module(self) -> Any:
        """Import the stage's file."""
        return importlib.import_module(f".{self.name}", __package__)


STAGES = (
    Stage(
        "load", "Open CKPT safely, detect its family, and make the run directory with what was found.", process=PREPARE
    ),
    Stage("remap", "Names -> ledger: what becomes of every tensor.", ("load",), process=PREPARE),
    Stage(
        "verify",
        "Check every tensor: used once, shape, dtype, values, layout. The ledger becomes the certificate.",
        ("remap",),
        process=PREPARE,
    ),
    Stage("build", "Write the weights file that the programs share.", ("verify",), process=PREPARE),
    # While the first exports begin, in the process that has the tokenizer open: they need none of it.
    Stage(
        "pack", "Write tokenizer, preprocessing and raw samples, for runtimes without Python.", (PREPARE,), host=PREPARE
    ),
    # The longest, and everything is held against it.
    Stage("reference", "", ("pack",), proves=True),
    Stage(
        "parity",
        "Hold the NNX model against the PyTorch original, every entry point.",
        ("reference",),
        proves=True,
        order=2,
    ),
    Stage("export", "Write one FORMAT: orbax, saved-model, onnx or stablehlo.", (PREPARE,), each=True, order=1),
    # Its frameworks are imported while the reference runs.
    Stage("documents", "", ("reference",), proves=True, order=3),
    Stage(
        "validate",
        "Execute every artifact in its own runtime and trace its weights. Needs neither CKPT nor PyTorch.",
        ("documents", "export"),
        each=True,
        proves=True,
        order=4,
    ),
)
"""Every stage, in the order in which they build on each other."""

BY_NAME = {stage.name: stage for stage in STAGES}
PREPARED = tuple(stage for stage in STAGES if stage.process == PREPARE)

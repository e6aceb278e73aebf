"""One format is written."""

from typing import Any

from ...exporters.base import Exporter, Plan
from ...exporters.weights import WeightsFile
from ...validation.errors import GateError
from ...validation.packages import need_jax
from ..directory import RunDirectory
from ..manifest import WEIGHTS_PATH, network
from ..options import Options
from ..pack import PREPROCESS, TOKENIZER
from ..progress import Progress
from ..proof.again import request
from .common import require

SHAPING = ("static", "opset", "ops", "via")
"""The options that shape the exported programs."""


def perform(run: RunDirectory, options: Options, progress: Progress, exporter: Exporter) -> None:
    """Write one format."""
    exporter.require(options.via)
    need_jax()
    require(run, *["build", *["pack"] * exporter.needs_pack])
    weights = WeightsFile(run.path / WEIGHTS_PATH)
    progress.begin(sum(location.nbytes for location in weights.tensors.values()))
    with run.stage(f"export-{exporter.name}", reads(run, options, exporter)) as staged:
        out = staged.out / exporter.folder
        out.mkdir()
        staged.options = shaping(options)
        try:
            staged.programs = exporter.write(request(run, exporter, out, staged.options, progress=progress.advance))
        except GateError as error:  # what is said of an operator does not say of which format
            raise GateError(f"export {exporter.name}: {error}") from error
        staged.key = exporter.key


def trace(run: RunDirectory, exporter: Exporter, options: Options) -> None:
    """Do what of an export needs no weights."""
    if exporter.trace:
        exporter.trace(Plan(network(run), **shaping(options)))


def shaping(options: Options) -> dict[str, Any]:
    """Give the options that shape the exported programs."""
    return {name: getattr(options, name) for name in SHAPING}


def reads(run: RunDirectory, options: Options, exporter: Exporter) -> str:
    """Give the digest of what an export depends on."""
    raw = (TOKENIZER, PREPROCESS) if exporter.needs_pack else ()
    return run.reads(WEIGHTS_PATH, exporter.name, *shaping(options).values(), *raw)

"""One format is written."""

from typing import Any

from ...exporters.base import Exporter, Plan, Request
from ...exporters.weights import WeightsFile
from ..directory import RunDirectory
from ..manifest import WEIGHTS_PATH, family_and_config, network
from ..options import Options
from ..pack import PREPROCESS, TOKENIZER
from ..progress import Progress
from .common import require

SHAPING = ("static", "opset", "ops", "via")
"""The options that shape the exported programs."""


def perform(run: RunDirectory, options: Options, progress: Progress, exporter: Exporter) -> None:
    """Write one format."""
    exporter.require(options.via)
    require(run, *["build", *["pack"] * exporter.layout])
    weights = WeightsFile(run.path / WEIGHTS_PATH)
    progress.begin(sum(location.nbytes for location in weights.tensors.values()))
    with run.stage(f"export-{exporter.name}", reads(run, options, exporter)) as staged:
        out = staged.out / exporter.folder
        out.mkdir()
        shaped = shaping(options)
        if exporter.layout:
            family, config = family_and_config(run)
            model = family.hugging_face(config) if family.hugging_face else None
            shaped |= {"directory": run.path, "hugging_face": model}
        request = Request(network(run), weights, out, progress=progress.advance, **shaped)
        staged.programs = exporter.write(request)
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
    raw = (TOKENIZER, PREPROCESS) if exporter.layout else ()
    return run.reads(WEIGHTS_PATH, exporter.name, *shaping(options).values(), *raw)

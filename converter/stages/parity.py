"""Parity: the NNX model against the PyTorch original, every entry point, outputs and intermediate values.

When something disagrees, the first diverging module is named, the tensors that fill it, and, if putting
one of them right by a common mistake's inverse mends it, which and how.
"""

import copy
import functools
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...exporters.jax_programs import JaxRunner
from ...exporters.weights import WeightsFile
from ...validation import probe
from ...validation.cases import cases, tapped_entries
from ...validation.compare import compare, value_row
from ...validation.errors import GateError
from ...validation.goldens import Goldens, sample
from ...validation.locate import Taps, first_divergence, worst
from ...validation.report import Report, Row
from ...validation.runner import Arrays
from ...validation.taps import recording
from ..certificate.cause import explain
from ..certificate.ledger import Ledger
from ..directory import RunDirectory
from ..pack.replay import Pack, packed
from ..progress import Progress
from .common import LEDGER, WEIGHTS_PATH, Options, family_and_config, network, reopen, require
from .reference import read_original, scaled, source_scales, write_goldens, write_probe

if TYPE_CHECKING:
    import jax

    from ...model.network import Network

GOLDENS = "goldens"
PROBES = f"{GOLDENS}/probes"
PARITY = "reports/parity.json"


def reference(run: RunDirectory, options: Options, progress: Progress) -> None:
    """Run the PyTorch original and write the goldens."""
    require(run, "verify")
    family, config = family_and_config(run.manifest())
    entries, checkpoint = family.entry_points(config), reopen(run)
    state = read_original(checkpoint)
    leaves, ledger = network(run.manifest()).leaves, Ledger.read(run.path / LEDGER)
    with run.stage("reference", reference_reads(run, options)) as staged:
        original = family.reference(config, state)
        raw = list(Pack(run.path).cases({entry.name: entry for entry in entries})) if packed(run) else []
        write_goldens(staged.out / GOLDENS, original, entries, options.static, raw, progress.note)
        for problem in Goldens(staged.out / GOLDENS).problems(entries, cases):
            raise GateError(f"reference: {problem}; the PyTorch original itself cannot be computed well enough")
        for name, exponents in family.probes(config).items():
            progress.note(name)
            factors = probe.factors(exponents, leaves)
            probed = family.reference(config, scaled(state, source_scales(ledger, factors)))
            write_probe(staged.out / PROBES / probe.folder_name(name), name, probed, entries, factors)
            del probed  # with what it remembers, before the next one is made


def reference_reads(run: RunDirectory, options: Options) -> str:
    """Give the digest of what the goldens depend on."""
    return run.reads("reference", list(options.static), *packed(run))


def reads(run: RunDirectory) -> str:
    """Give the digest of what parity depends on."""
    files = run.manifest()["stages"].get("reference", {"files": []})["files"]
    return run.reads(LEDGER, WEIGHTS_PATH, *files)


class NNXRunner:
    """The NNX model on its weights file, compiled by JAX; also gives intermediate values."""

    def __init__(self, net: "Network", weights: WeightsFile):
        import jax

        self.net = net
        self.weights = jax.device_put({name: weights[name] for name in net.leaves})  # maps the file, copies nothing
        self.name = f"flax {version('flax')} + jax {jax.__version__}"
        self._functions = {entry: jax.jit(net.function(entry)) for entry in net.entry_points}
        self._traced = {entry: jax.jit(functools.partial(self.trace, entry)) for entry in net.entry_points}

    def run(self, entry_point: str, inputs: Arrays) -> Arrays:
        """Compute an entry point."""
        bound = {entry_point: functools.partial(self._functions[entry_point], self.weights)}
        return JaxRunner(self.name, self.net.entry_points, bound).run(entry_point, inputs)

    def changed(self, weights: "Mapping[str, jax.Array]") -> "NNXRunner":
        """Give the same compiled model on some other weights."""
        other = copy.copy(self)
        other.weights = self.weights | dict(weights)
        return other

    def traced(self, entry_point: str, inputs: Arrays) -> tuple[Arrays, Arrays]:
        """Compute outputs and samples of the intermediate values."""
        outputs, taps = self._traced[entry_point](self.weights, *inputs.values())
        samples = {name: sample(np.asarray(value)) for name, value in taps.items()}
        return {name: np.asarray(value) for name, value in outputs.items()}, samples

    def taps(self, entry_point: str, inputs: Arrays) -> Arrays:
        """Compute samples of the intermediate values."""
        return self.traced(entry_point, inputs)[1]

    def trace(
        self, entry_point: str, weights: "Mapping[str, jax.Array]", *inputs: "jax.Array"
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Compute outputs, and the intermediate values with them, as arrays of JAX, or trace them."""
        with recording() as taps:
            outputs = self.net.function(entry_point)(weights, *inputs)
        return outputs, taps | outputs


def parity(run: RunDirectory, options: Options, progress: Progress) -> None:
    """Hold the NNX model against the goldens."""
    import jax

    require(run, "build", "reference")
    net, ledger = network(run.manifest()), Ledger.read(run.path / LEDGER)
    with run.stage("parity", reads(run)) as staged:
        with jax.default_matmul_precision("highest"):
            report = judge(NNXRunner(net, WeightsFile(run.path / WEIGHTS_PATH)), run.path, ledger)
        (staged.out / PARITY).parent.mkdir()
        (staged.out / PARITY).write_text(json.dumps(report.to_json(), indent=1) + "\n")
        progress.note(report.summary())
        if not report.passed:
            reasons = "\n  ".join([report.summary(), *report.notes])
            raise GateError(f"parity: the converted network is not the one that was trained\n  {reasons}")


def judge(runner: NNXRunner, directory: Path, ledger: Ledger) -> Report:
    """Compare outputs, intermediate values and probes with the goldens of a run directory."""
    goldens = Goldens(directory / GOLDENS)
    outputs = compare(runner, runner.net.entry_points, goldens.cases())
    rows, notes = _intermediates(runner, goldens, ledger)
    probed = [row for folder in probe_folders(directory) for row in _probe(runner, folder)]
    return Report(runner.name, (*outputs.rows, *rows, *probed), notes)


def probe_folders(directory: Path) -> list[Path]:
    """Give the goldens of each probe."""
    folder = directory / PROBES
    return sorted(folder.iterdir()) if folder.exists() else []


def _intermediates(runner: NNXRunner, goldens: Goldens, ledger: Ledger) -> tuple[list[Row], tuple[str, ...]]:
    """Compare the intermediate values; the notes name causes."""
    rows, notes = [], []
    for entry in tapped_entries(runner.net.entry_points.values()):
        traced = goldens.intermediates(entry.name)
        wanted, got = traced.values, runner.taps(entry.name, traced.inputs)
        rows.append(_taps_row(entry.name, f"{len(wanted)} intermediate values", wanted, got))
        found = first_divergence(wanted, got)
        if found:
            notes.append(explain(runner, entry, traced, found, ledger))
    return rows, tuple(notes)


def _probe(runner: NNXRunner, folder: Path) -> list[Row]:
    """Compare outputs and intermediate values on a probe's weights, for the entry points that pass every module."""
    import jax

    goldens = Goldens(folder)
    factors = {leaf: np.float32(factor) for leaf, factor in probe.read_factors(folder).items()}
    scaled = {n: jax.device_put(np.asarray(runner.weights[n]) * factor) for n, factor in factors.items()}
    runner = runner.changed(scaled)  # scaled by numpy: nothing is compiled for it
    rows = []
    tapped = [entry.name for entry in tapped_entries(runner.net.entry_points.values())]
    for golden in goldens.cases():
        entry, case = golden.case.entry_point, golden.case.name
        if entry not in tapped:
            continue
        outputs, samples = runner.traced(entry, golden.case.inputs)
        for name, want in golden.outputs.items():
            rows.append(value_row(entry, case, name, outputs[name], want, golden.budgets[name]))
        rows.append(_taps_row(entry, f"{case}, intermediate values", goldens.intermediates(entry).values, samples))
    return rows


def _taps_row(entry: str, case: str, wanted: Taps, got: Arrays) -> Row:
    found = first_divergence(wanted, got)
    place = found or worst(wanted, got)
    problem = f"{place.module} is the first module that diverges" if found else ""
    return Row(entry, case, place.module, found is None, problem, place.error, place.allowed)

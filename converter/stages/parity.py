"""Parity: the NNX model against the PyTorch original, every entry point, outputs and intermediate values.

When something disagrees, the first diverging module is named, the tensors that fill it, and, if putting
one of them right by a common mistake's inverse mends it, which and how.
"""

import dataclasses
import functools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from ...exporters.weights import WeightsFile
from ...model.runner import NNXRunner
from ...validation import probe
from ...validation.cases import tapped_entries, unmasked_case
from ...validation.compare import compare, taps_row, value_row
from ...validation.errors import GateError
from ...validation.goldens import Goldens
from ...validation.kept import kept
from ...validation.locate import ROOM, Taps, first_divergence, with_room
from ...validation.report import Report, Row
from ...validation.runner import Arrays
from ...validation.taps import WEIGHTS, closely
from ..certificate.cause import explain
from ..certificate.ledger import Ledger
from ..directory import RunDirectory
from ..manifest import ATTENTION, GOLDENS, LEDGER, PARITY, WEIGHTS_PATH, family_and_config, network, probe_folders
from ..options import Options
from ..progress import Progress
from ..proof.programs import procedure_rows
from .common import require


def perform(run: RunDirectory, options: Options, progress: Progress) -> None:
    """Hold the NNX model against the goldens."""
    import jax

    require(run, "build", "reference")
    net, ledger = network(run), Ledger.read(run.path / LEDGER)
    with run.stage("parity", reads(run, options)) as staged:
        with jax.default_matmul_precision("highest"):
            runner = NNXRunner(net, WeightsFile(run.path / WEIGHTS_PATH))
            report = judge(runner, run.path, ledger)
            report = replace(report, rows=(*report.rows, *procedure_rows(run, runner, compiles=True)))
        (staged.out / PARITY).parent.mkdir()
        if family_and_config(run)[0].attends:
            (staged.out / ATTENTION).write_bytes(save(_attention(runner)))
        (staged.out / PARITY).write_text(json.dumps(report.to_json(), indent=1) + "\n")
        progress.note(report.summary())
        if not report.passed:
            reasons = "\n  ".join([report.summary(), *report.notes])
            raise GateError(f"parity: the converted network is not the one that was trained\n  {reasons}")


def _attention(runner: NNXRunner) -> dict[str, np.ndarray]:
    """Give the weights of every attention, (heads, queries, keys), of the first entry point that shows any.

    Of one row of which nothing is masked. An entry point that shows none is traced, and not compiled.
    """
    import jax

    for entry in runner.net.entry_points.values():
        inputs = unmasked_case(entry)
        with closely():
            traced = jax.jit(functools.partial(runner.trace, entry.name)).trace(runner.weights, *inputs.values())
        if any(name.endswith(WEIGHTS) for name in traced.out_info[1]):
            _, taps = traced.lower().compile()(runner.weights, *inputs.values())
            return {
                name.removesuffix(WEIGHTS): np.array(value[0]) for name, value in taps.items() if name.endswith(WEIGHTS)
            }
    return {}


def reads(run: RunDirectory, options: Options) -> str:
    """Give the digest of what parity depends on."""
    files = run.manifest()["stages"].get("reference", {"files": []})["files"]
    return run.reads(LEDGER, WEIGHTS_PATH, *files)


def judge(runner: NNXRunner, directory: Path, ledger: Ledger) -> Report:
    """Compare outputs, intermediate values and probes with the goldens of a run directory."""
    goldens = Goldens(directory / GOLDENS)
    outputs = compare(runner, runner.net.entry_points, goldens.cases())
    rows, notes = _intermediates(runner, goldens, ledger)
    probed = [row for folder in probe_folders(directory) for row in _probe(runner, folder)]
    return Report(runner.name, (*outputs.rows, *rows, *probed), notes)


def _intermediates(runner: NNXRunner, goldens: Goldens, ledger: Ledger) -> tuple[list[Row], tuple[str, ...]]:
    """Compare the intermediate values; the notes name causes."""
    rows, notes = [], []
    for entry in tapped_entries(runner.net.entry_points.values()):
        traced = goldens.intermediates(entry.name)
        got = runner.taps(entry.name, traced.inputs)
        wanted = _shared(traced.values, got)
        rows.append(taps_row(entry.name, f"{len(wanted)} intermediate values", wanted, got))
        rows += _untold(runner, entry.name, traced.values, got)
        found = first_divergence(wanted, got)
        if found:
            notes.append(explain(runner, entry, dataclasses.replace(traced, values=wanted), found, ledger))
    return rows, tuple(notes)


def _probe(runner: NNXRunner, folder: Path) -> list[Row]:
    """Compare outputs and intermediate values on a probe's weights, for entry points that together pass all modules."""
    import jax

    goldens = Goldens(folder)
    factors = {leaf: np.float32(factor) for leaf, factor in probe.read_factors(folder).items()}
    scaled = {n: jax.device_put(np.asarray(runner.weights[n]) * factor) for n, factor in factors.items()}
    runner = runner.changed(scaled)  # scaled by numpy: nothing is compiled for it
    rows = []
    entries = runner.net.entry_points
    tapped = {entry.name for entry in tapped_entries(entries.values())}
    # Where these give nothing but scores, the vectors behind them are what the other entry points give.
    scored = all(spec.kind.sums for name in tapped for spec in entries[name].outputs)
    for golden in goldens.cases():
        entry, case = golden.case.entry_point, golden.case.name
        if entry not in tapped and not scored:
            continue
        outputs, samples = runner.traced(entry, golden.case.inputs)
        outputs = kept(runner.net.entry_points[entry], golden.case.inputs, outputs)
        told = [spec for spec in runner.net.entry_points[entry].outputs if not spec.kind.sums]
        for spec in told:
            name, budget = spec.name, golden.budgets[spec.name]
            rows.append(value_row(entry, case, spec, outputs[name], golden.outputs[name], budget))
        silent = outputs.keys() - {spec.name for spec in told}
        shared = _shared(goldens.intermediates(entry).values, samples)
        wanted = {module: value for module, value in shared.items() if module not in silent}
        rows.append(taps_row(entry, f"{case}, intermediate values", wanted, samples))
    return rows


def _shared(wanted: Taps, got: Arrays) -> Taps:
    """Keep what both sides give: the original calls tables that the NNX model only reads, such as that of positions."""
    return with_room({module: value for module, value in wanted.items() if module in got}, ROOM)


def _untold(runner: NNXRunner, entry: str, wanted: Taps, got: Arrays) -> list[Row]:
    """Name the modules with parameters that the NNX model has a value of and the original has not."""
    owners = {leaf.rpartition(".")[0] for leaf in runner.net.leaves}
    missing = [module for module in got if module in owners and module not in wanted]
    problem = f"the original gives no value of {', '.join(missing)}"
    return [Row(entry, "intermediate values of every module", missing[0], False, problem)] if missing else []

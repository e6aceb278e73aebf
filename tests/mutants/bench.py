"""Tiny networks with their goldens, made once, and the product's own checks on whatever takes a part's place."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
from variants import config_of, family_of

from bgevis.converter.certificate import check
from bgevis.converter.certificate.assign import assign
from bgevis.converter.certificate.ledger import Ledger
from bgevis.converter.certificate.tensors import Tensors
from bgevis.converter.directory import RunDirectory
from bgevis.converter.manifest import WEIGHTS_PATH, artifact, family_and_config, network
from bgevis.converter.options import Options
from bgevis.converter.progress import Silent
from bgevis.converter.proof.programs import probe_rows
from bgevis.converter.proof.weights import weight_rows
from bgevis.converter.stages import build, export, load, parity, reference, remap, verify
from bgevis.converter.stages.common import reopen
from bgevis.converter.use.fixture import write_fixture
from bgevis.exporters.base import Artifact, exporters
from bgevis.exporters.weights import WeightsFile
from bgevis.model.family import Rules
from bgevis.model.network import Network
from bgevis.model.reference import Reference
from bgevis.model.runner import NNXRunner
from bgevis.validation.cases import tap_case
from bgevis.validation.compare import compare
from bgevis.validation.errors import GateError
from bgevis.validation.goldens import Goldens
from bgevis.validation.probe import LOUD, LOW_VARIANCE, MASKED
from bgevis.validation.report import Report

UNEXPLAINED = Ledger("", {}, {})
"""Causes are not asked for here."""


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Args:
        check: makes it and gives the check that caught it, "" if none did.
        equivalent: why it may compute the same: then it need not be caught.
    """

    group: str
    name: str
    check: Callable[[], str]
    equivalent: str = ""


class Eager(NNXRunner):
    """The NNX model without compilation: a changed network costs no compile time."""

    def __init__(self, net: Network, weights: Mapping[str, jax.Array]):
        self.net, self.weights, self.name = net, weights, "eager"
        self._functions = {entry: on_arrays(net.function(entry)) for entry in net.entry_points}
        self._traced = {entry: on_arrays(partial(self.trace, entry)) for entry in net.entry_points}


def on_arrays(function: Callable) -> Callable:
    """Give a function what `jax.jit` would: arrays of JAX."""
    return lambda weights, *inputs: function(weights, *map(jnp.asarray, inputs))


class Bench:
    """One variant: checkpoint, certified ledger, weights, goldens, ONNX programs."""

    def __init__(self, variant: str, folder: Path):
        self.variant, self.family = variant, family_of(variant)
        checkpoint = folder / variant / "tiny.safetensors"
        checkpoint.parent.mkdir(parents=True)
        with patch.dict(self.family.sizes, {variant: config_of(variant)}):
            write_fixture(self.family.name, variant, 5, "float32", checkpoint)
        options, silent = Options(checkpoint=str(checkpoint)), Silent()
        self.run = load.perform(folder / variant / "run", options, silent)
        for stage in (remap.perform, verify.perform, build.perform, reference.perform):
            stage(self.run, options, silent)
        self.options = options
        self.checkpoint = reopen(self.run)
        self.config = family_and_config(self.run)[1]
        self.rules = self.family.rules(self.config)
        self.net = network(self.run)
        self.shapes = {name: leaf.shape for name, leaf in self.net.leaves.items()}
        self.ledger = Ledger.read(self.run.path / "ledger.json")
        file = WeightsFile(self.run.path / WEIGHTS_PATH)
        self.weights = {name: jnp.asarray(np.array(file[name])) for name in self.net.leaves}

    @cached_property
    def original(self) -> Reference:
        """Upstream's network."""
        return self.family.reference(self.config, reference.read_original(self.run, Silent()))

    @cached_property
    def compiled(self) -> NNXRunner:
        """The model as `parity` runs it."""
        return NNXRunner(self.net, self.weights)

    @cached_property
    def onnx(self) -> Artifact:
        """The ONNX programs as `validate` opens them."""
        exporter = exporters()["onnx"]
        export.perform(self.run, self.options, Silent(), exporter)
        return artifact(RunDirectory(self.run.path), exporter)

    def judge(self, runner: NNXRunner) -> str:
        """Run parity; say which of its checks failed first."""
        try:
            with jax.default_matmul_precision("highest"):
                return failed("parity", parity.judge(runner, self.run.path, UNEXPLAINED))
        except Exception as error:
            return f"parity: raises {type(error).__name__}"

    def with_rules(self, rules: Rules) -> str:
        """Convert by other rules, as far as they get."""
        try:
            found = assign(self.checkpoint.tensors, rules, self.shapes)
        except KeyError:  # the target has a number that the source does not give
            return "remap: raises KeyError"
        ledger = Ledger(self.family.name, self.family.axis_sizes(self.config), found.entries, found.problems)
        if ledger.problems:
            return "remap"
        ledger = check.verify(ledger, self.checkpoint, self.family, self.config, self.shapes)
        if ledger.problems:
            return "verify"
        tensors = Tensors(self.checkpoint, ledger)
        leaves = {leaf: ledger.leaf(name, tensors.read(name)) for leaf, name in ledger.leaves.items()}
        return self.judge(self.compiled.changed(jax.tree.map(jnp.asarray, leaves)))

    def with_network(self, build: Callable[[], Network]) -> str:
        """Put another network around the right weights."""
        try:
            net = build()
        except Exception as error:
            return f"build: raises {type(error).__name__}"
        if {name: leaf.shape for name, leaf in net.leaves.items()} != self.shapes:
            return "verify"
        known = [entry for entry in net.entry_points.values() if entry.name in self.net.entry_points]
        for entry in known:  # cases are drawn by what a network says that it takes
            if [spec.shape for spec in entry.inputs] != [s.shape for s in self.net.entry_points[entry.name].inputs]:
                try:
                    self.original.run(entry.name, tap_case(entry).inputs)
                except Exception as error:
                    return f"reference: raises {type(error).__name__}"
        net.entry_points = self.net.entry_points
        return self.judge(Eager(net, self.weights))

    def with_programs(self, folder: Path, entries: Sequence[str]) -> str:
        """Validate other ONNX programs of some entry points, laid beside the weights in `folder`/programs."""
        opened, exporter = replace(self.onnx, directory=folder), exporters()["onnx"]
        some = replace(opened, programs={name: opened.programs[name] for name in entries})
        goldens = [g for g in Goldens(self.run.path / "goldens").cases() if g.case.entry_point in entries]
        try:
            if not all(row.passed for row in weight_rows(exporter, opened, self.ledger)):
                return "validate: weights"
            report = compare(exporter.open(some), some.entry_points, goldens)
        except GateError:
            return "validate: ONNX checker"
        except Exception as error:
            return f"validate: raises {type(error).__name__}"
        rows = [row for row in probe_rows(exporter, some, self.run.path) if row.entry_point in entries]
        return failed("validate", Report("onnx", (*report.rows, *rows)))

    def copy_programs(self, folder: Path) -> Path:
        """Lay programs and weights in a folder of their own."""
        shutil.copytree(self.onnx.directory / "programs", folder / "programs")
        return folder / "programs"


def failed(stage: str, report: Report) -> str:
    """Name the kind of the first check that failed."""
    for row in report.failures:
        probe = next((f"{name} probe" for name in (LOW_VARIANCE, LOUD, MASKED) if row.case.startswith(name)), "")
        return f"{stage}: {probe or ('intermediate values' if 'intermediate' in row.case else 'outputs')}"
    return ""

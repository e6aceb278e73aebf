"""What float32 is said to cost, held to what it costs the NNX model itself on the small cases.

The yardstick of a budget was measured on the PyTorch original, which is not here. Whoever writes a larger one into the
goldens buys room for a mistake, so that it must be near what another float32 network, of the same weights, costs.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...exporters.weights import WeightsFile
from ...model.runner import NNXRunner
from ...validation import probe
from ...validation.budget import LUCK, distance, largest
from ...validation.cases import tapped_entries
from ...validation.compare import Golden
from ...validation.goldens import Goldens
from ...validation.kept import kept
from ...validation.locate import ROOM
from ..directory import RunDirectory
from ..manifest import GOLDENS, WEIGHTS_PATH, network, probe_folders

WIDE = 16.0
"""How many times as much of the largest value float32 may be said to cost as it costs the NNX model where that costs
most: 1.4 times was measured at most, on tiny networks and on those of twelve layers."""

FLIPPED = 2.0**-8
"""Share that float32 may be said to cost under the masked probe, whose scores are so far apart that of two that are
alike another one wins by rounding, as on one processor. What that probe is for shows in whole numbers."""

FREE = 2.0**-14
"""Share that float32 may be said to cost a program without weights, such as that of a spectrogram: it may be written
more exactly here than upstream's, and what it computes is fixed, byte for byte, by the family."""


def yardstick_problems(run: RunDirectory) -> Iterator[str]:
    """Say which yardstick cannot have been measured, or where the NNX model parts from the goldens."""
    import jax

    with jax.default_matmul_precision("highest"):
        runner = NNXRunner(network(run), WeightsFile(run.path / WEIGHTS_PATH))
        for folder in (run.path / GOLDENS, *probe_folders(run.path)):
            factors = probe.read_factors(folder) if folder.name != GOLDENS else {}
            scaled = {n: jax.device_put(np.asarray(runner.weights[n]) * np.float32(f)) for n, f in factors.items()}
            yield from (f"{folder.name}: {text}" for text in _problems(runner.changed(scaled), folder, bool(factors)))


def _problems(runner: NNXRunner, folder: Path, probed: bool) -> Iterator[str]:
    goldens, entries = Goldens(folder), runner.net.entry_points
    silent = {spec.name for entry in entries.values() for spec in entry.outputs if spec.kind.sums and probed}
    costs, said = [LUCK], {}
    for entry in tapped_entries(entries.values()):
        traced = goldens.intermediates(entry.name)
        got = runner.taps(entry.name, traced.inputs)
        for module, (exact, budget) in traced.values.items():
            size = largest(exact)
            if module in silent or not size:
                continue
            said[f"{entry.name}: {module}"] = max(budget.yardstick, LUCK * budget.scale) / size
            if module in got and got[module].size == exact.size:  # a table that is only read has no value there
                error = distance(got[module].reshape(exact.shape), exact)
                costs.append(error / size)
                if not error <= ROOM * budget.allowed:
                    apart = f"by {error:.3g}, allowed {ROOM * budget.allowed:.3g}"
                    yield f"{entry.name}: {module} is not what the NNX model gives: they differ {apart}"
    most = max(WIDE * max(costs), FLIPPED if folder.name == probe.folder_name(probe.MASKED) else 0.0)
    for golden in goldens.cases():
        case = golden.case
        wide = {n: b.yardstick / b.scale for n, b in golden.budgets.items() if b.scale and n not in silent}
        wide = {n: share for n, share in wide.items() if not share <= most}
        # An input may lie where the network amplifies any rounding: then it costs the NNX model as much.
        own = _own_costs(runner, golden) if wide else {}
        room = FREE if wide and not runner.net.used_weights(case.entry_point) else 0.0
        wide = {n: share for n, share in wide.items() if not share <= max(WIDE * own[n], room)}
        said |= {f"{case.entry_point}, {case.name}: {n}": share for n, share in wide.items()}
    for what, share in said.items():
        if not share <= most:
            yield (
                f"{what}: float32 is said to cost {share:.3g} of the largest value, but costs the NNX model "
                f"{max(costs):.3g} at most: that would let mistakes pass"
            )


def _own_costs(runner: NNXRunner, golden: Golden) -> dict[str, float]:
    """Say what float32 costs the NNX model of a golden's outputs, as shares of the largest value."""
    case, entry = golden.case, runner.net.entry_points[golden.case.entry_point]
    got = kept(entry, case.inputs, runner.run(entry.name, case.inputs))
    found = {}
    for name, exact in golden.outputs.items():
        same = name in got and got[name].shape == exact.shape and golden.budgets[name].scale
        found[name] = distance(got[name], exact) / golden.budgets[name].scale if same else 0.0
    return found

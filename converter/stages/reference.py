"""Goldens from the PyTorch original: the checkpoint read by torch itself, loaded strictly, run in float64 and float32.

Nothing of the conversion takes part: not the reader, not the rules, not the weights file. What is
compared with these goldens is therefore compared with the network that was trained.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...validation import goldens, probe, procedure
from ...validation.budget import measure
from ...validation.cases import Case, probe_cases, tap_case
from ...validation.compare import Golden
from ...validation.entry_point import EntryPoint
from ...validation.errors import EnvironmentFailure, GateError, InputError
from ...validation.goldens import Goldens
from ...validation.probe import FACTORS, Factors
from ...validation.runner import Arrays
from ..certificate.ledger import Ledger
from ..directory import RunDirectory
from ..manifest import GOLDENS, LEDGER, PROBES, family_and_config, network
from ..options import Options
from ..pack.replay import Pack, packed
from ..progress import Progress
from .common import reopen, require

MEASURED = 32
"""Least number of positions on which the budget of an intermediate value is measured, if there are so many."""

Value = tuple[np.ndarray, np.ndarray]
"""Of an intermediate value: the sample that is kept, and the positions that its budget is measured on."""

if TYPE_CHECKING:
    import torch

    from ...model.torch_reference import TorchReference
    from ..checkpoint import Checkpoint

    State = dict[str, torch.Tensor]


def perform(run: RunDirectory, options: Options, progress: Progress) -> None:
    """Run the PyTorch original and write the goldens."""
    require(run, "verify")
    family, config = family_and_config(run.manifest())
    entries, checkpoint = family.entry_points(config), reopen(run)
    state = read_original(checkpoint)
    leaves, ledger = network(run.manifest()).leaves, Ledger.read(run.path / LEDGER)
    with run.stage("reference", reads(run, options)) as staged:
        original = family.reference(config, state)
        raw = list(Pack(run.path).cases({entry.name: entry for entry in entries})) if packed(run) else []
        draw = functools.partial(family.all_cases, config, weights=ledger.numbers)
        drawn = {entry.name: draw(entry, static=options.static) for entry in entries}
        write_goldens(staged.out / GOLDENS, original, entries, drawn, raw, progress.note)
        for problem in Goldens(staged.out / GOLDENS).problems(entries, draw):
            raise GateError(f"reference: {problem}; the PyTorch original itself cannot be computed well enough")
        for greedy in family.procedures(config):
            progress.note(greedy.name)
            named = {entry.name: entry for entry in entries}
            generated = procedure.record(original.in_dtype("float64"), original, named, greedy)
            for problem in procedure.problems(named, greedy, generated):
                raise GateError(f"reference: {problem}")
            procedure.write(staged.out / GOLDENS, greedy, generated)
        for name, exponents in family.probes(config).items():
            progress.note(name)
            factors = probe.factors(exponents, leaves)
            probed = family.reference(config, scaled(state, source_scales(ledger, factors)))
            write_probe(staged.out / PROBES / probe.folder_name(name), name, probed, entries, factors)
            del probed  # with what it remembers, before the next one is made


def reads(run: RunDirectory, options: Options) -> str:
    """Give the digest of what the goldens depend on."""
    return run.reads("reference", list(options.static), *packed(run))


def read_original(checkpoint: "Checkpoint") -> "State":
    """Read what was trained: every tensor by the name that the ledger has for it.

    Raises:
        EnvironmentFailure: torch is not installed.
        InputError: a wrapper that the safe reader found is not there for torch.
    """
    try:
        import torch  # noqa: F401 - the family's reference needs it
    except ModuleNotFoundError as error:
        raise EnvironmentFailure(
            "parity needs PyTorch, in which the checkpoint was trained: pip install 'bgevis-convert[torch]'"
        ) from error
    return unwrap(read_state(checkpoint), checkpoint.wrappers)


def scaled(state: "State", scales: Factors) -> "State":
    """Multiply some tensors, in float32; the others keep their memory."""
    return {n: tensor.float() * scales[n] if n in scales else tensor for n, tensor in state.items()}


def source_scales(ledger: Ledger, factors: Factors) -> Factors:
    """Give the tensors that fill the given leaves, and what is tied to them, with the leaves' factors."""
    filled = {name: factors[leaf] for leaf, name in ledger.leaves.items() if leaf in factors}
    tied = {n: filled[e.target] for n, e in ledger.entries.items() if e.status == "tied" and e.target in filled}
    return filled | tied


def read_state(checkpoint: "Checkpoint") -> dict[str, Any]:
    """Read the whole object with torch's or safetensors' own reader, memory-mapped where the container allows it.

    The safe reader has accepted the file before: torch's restricted unpickler is a second fence, not the first.
    """
    import torch

    state: dict[str, Any] = {}
    for file in weight_files(checkpoint):
        if checkpoint.container.startswith("safetensors"):
            from safetensors.torch import load_file

            state |= load_file(file)
        else:
            mapped = checkpoint.container.startswith("torch-zip")
            state |= torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    return state


def weight_files(checkpoint: "Checkpoint") -> list[Path]:
    """Give the files that hold tensors."""
    return [file for file in checkpoint.files if file.suffix != ".json"]


def unwrap(state: Mapping[str, Any], wrappers: tuple[str, ...]) -> "dict[str, torch.Tensor]":
    """Follow the wrappers that the checkpoint was found in: keys to descend into, prefixes (ending in ".") to strip."""
    import torch

    for wrapper in wrappers:
        if wrapper.endswith("."):
            state = {name.removeprefix(wrapper): tensor for name, tensor in state.items()}
        elif wrapper in state:
            state = state[wrapper]
        else:
            raise InputError(f"the checkpoint has no entry {wrapper!r} for PyTorch, although the safe reader found one")
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}


def write_goldens(
    out: Path,
    reference: "TorchReference",
    entries: tuple[EntryPoint, ...],
    drawn: Mapping[str, Sequence[Case]],
    raw: Sequence[Case] = (),
    note: Callable[[str], None] = lambda text: None,
) -> None:
    """Run every case, those drawn and the raw ones, and write the goldens below `out`."""
    found: list[Golden] = []
    taps: dict[str, goldens.Intermediates] = {}
    exact = reference.in_dtype("float64")
    for entry in entries:  # first: what they compute of a picture, the cases need not compute again
        note(f"{entry.name}: intermediate values")
        small = tap_case(entry)
        values = (_traced(r, entry.name, small)[1] for r in (exact, reference))
        taps[entry.name] = _intermediates(small.inputs, *values)
    for entry in entries:
        base: dict[str, Golden] = {}
        for case in [*drawn[entry.name], *(case for case in raw if case.entry_point == entry.name)]:
            note(f"{entry.name}: {case.name}")
            if case.same_as:
                base[case.name] = goldens.golden_rows(entry, case, base[case.same_as[0]])
            else:
                outputs = [each.run(entry.name, case.inputs) for each in (exact, reference)]
                base[case.name] = goldens.golden(entry, case, *outputs)
        found += base.values()
    goldens.write(out, found, taps)


def write_probe(
    out: Path, name: str, probed: "TorchReference", entries: tuple[EntryPoint, ...], factors: Factors
) -> None:
    """Write the goldens of a probe below `out`: outputs, intermediate values, factors."""
    exact = probed.in_dtype("float64")
    found, taps = [], {}
    for entry in entries:
        (case,) = probe_cases(name, entry)
        outputs, values = zip(*(_traced(r, entry.name, case) for r in (exact, probed)), strict=True)
        found.append(goldens.golden(entry, case, *outputs))
        taps[entry.name] = _intermediates(case.inputs, *values)
    goldens.write(out, found, taps)
    (out / FACTORS).write_text(json.dumps(factors, indent=1, sort_keys=True) + "\n")


def _traced(reference: "TorchReference", entry: str, case: Case) -> tuple[Arrays, dict[str, Value]]:
    """Run a case; of each intermediate value, which may be large, keep a sample and what its budget is measured on.

    The outputs count as the last of the intermediate values.
    """
    outputs, values = reference.traced(entry, case.inputs)
    return outputs, {n: (goldens.sample(value), _spread(value)) for n, value in (*values.items(), *outputs.items())}


def _spread(value: np.ndarray) -> np.ndarray:
    """Keep positions at equal distances."""
    return value[:, :: max(1, value.shape[1] // MEASURED)].copy() if value.ndim > 2 else value.copy()


def _intermediates(inputs: Arrays, exact: Mapping[str, Value], float32: Mapping[str, Value]) -> goldens.Intermediates:
    """Give a sample of each intermediate value with its budget."""
    values = {name: (sample, measure(spread, float32[name][1])) for name, (sample, spread) in exact.items()}
    return goldens.Intermediates(inputs, values)

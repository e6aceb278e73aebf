"""Goldens from the PyTorch original: upstream's own classes on the checkpoint, run in float64 and float32.

Nothing of the conversion takes part: not the reader, not our reading of the configuration, not the rules, not the
weights file. What is compared with these goldens is therefore compared with the network that was trained.
"""

import dataclasses
import functools
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...model.derived import Factor, LowRank
from ...model.family import Family
from ...model.pipeline import as_given
from ...validation import goldens, probe, procedure
from ...validation.budget import measure
from ...validation.cases import Case, probe_cases, tap_case
from ...validation.compare import Golden
from ...validation.entry_point import EntryPoint
from ...validation.errors import ConvertError, EnvironmentFailure, GateError, InputError, raised
from ...validation.goldens import Goldens
from ...validation.probe import FACTORS, Factors
from ...validation.runner import Arrays
from ..certificate.ledger import Ledger
from ..checkpoint.arrow import CONTAINER as ARROW
from ..directory import SOURCE, RunDirectory
from ..manifest import END_TO_END, GOLDENS, JUDGE, LEDGER, PROBES, family_and_config, network
from ..options import Options
from ..pack.replay import WITHIN, Pack, packed
from ..progress import Progress
from ..proof.verdicts import judged
from ..source.metadata import content
from .common import reopen, require

MEASURED = 32
"""Least number of positions on which the budget of an intermediate value is measured, if there are so many."""

HEARD = 1e-4
"""How far upstream's spectrogram, in float32, may lie from one of float64: up to 3.5e-5 was measured, on speech."""

Value = tuple[np.ndarray, np.ndarray]
"""Of an intermediate value: the sample that is kept, and the positions that its budget is measured on."""

if TYPE_CHECKING:
    import torch

    from ...model.reference import Encode, Original, Reference
    from ..checkpoint import Checkpoint

    State = dict[str, torch.Tensor]


def perform(run: RunDirectory, options: Options, progress: Progress) -> None:
    """Run the PyTorch original and write the goldens."""
    require(run, "verify")
    family, config = family_and_config(run)
    entries, ledger = family.entry_points(config), Ledger.read(run.path / LEDGER)
    original = read_original(run, progress)
    with run.stage("reference", reads(run, options)) as staged:
        reference = family.reference(config, original)
        reference.check(ledger.fillers)
        progress.note(reference.name)
        mapped = tapped(ledger, reference)
        raw = list(Pack(run.path).cases({entry.name: entry for entry in entries})) if packed(run) else []
        draw = functools.partial(family.all_cases, config, weights=ledger.numbers)
        drawn = {entry.name: draw(entry, static=options.static) for entry in entries}
        write_goldens(staged.out / GOLDENS, reference, mapped, entries, drawn, raw, progress.note)
        for problem in Goldens(staged.out / GOLDENS).problems(entries, draw):
            raise GateError(f"reference: {problem}; the PyTorch original itself cannot be computed well enough")
        for greedy in family.procedures(config):
            progress.note(greedy.name)
            named = {entry.name: entry for entry in entries}
            generated = procedure.record(reference.in_dtype("float64"), reference, named, greedy)
            for problem in procedure.problems(named, greedy, generated):
                raise GateError(f"reference: {problem}")
            procedure.write(staged.out / GOLDENS, greedy, generated)
        for name, exponents in family.probes(config).items():
            progress.note(name)
            factors = probe.factors(exponents, network(run).leaves)
            state = scaled(original.state, source_scales(ledger, factors))
            probed = family.reference(config, dataclasses.replace(original, state=state))
            folder = staged.out / PROBES / probe.folder_name(name)
            write_probe(folder, name, probed, mapped, entries, factors)
            del probed, state  # with what it remembers, before the next one is made
        judge = {"network": reference.name, "end_to_end": end_to_end(staged.out, run, family, original, reference)}
        (staged.out / JUDGE).write_text(json.dumps(judge, indent=1) + "\n")


def tapped(ledger: Ledger, reference: "Reference") -> dict[str, str]:
    """Give the tensors whose modules' values are those of leaves; several for one leaf, where they are merged.

    Of a tensor that is split no module's value is a leaf's: it is used, and not tapped.
    """
    found: dict[str, str] = {}
    for leaf, name in ledger.leaves.items():
        made = ledger.entries[name].made
        if not made or name in reference.state:
            found[name] = leaf
        elif isinstance(made, LowRank) and not any(ledger.entries[each].made for each in made.ingredients):
            found |= dict.fromkeys(made.ingredients, leaf)
    return found


def end_to_end(
    out: Path, run: RunDirectory, family: Family, original: "Original", reference: "Reference"
) -> dict[str, Any]:
    """Let upstream encode the pack's raw texts, pictures and sounds by its own means, and write what it gives.

    Says who judged, or why nobody did.
    """
    _, config = family_and_config(run)
    if family.encode is None:
        return {"not_checked": f"no installable program of upstream's goes from raw inputs to {family.name}'s outputs"}
    if not packed(run):
        return {"not_checked": "the pack was not made"}
    pack = Pack(run.path)
    rules = pack.preprocessor.rules
    kinds = (("texts", pack.texts), ("images", pack.pictures), ("sounds", pack.sounds))
    if not any(there for _, there in kinds):
        said: Mapping[str, str] = next((rules[kind] for kind, _ in kinds if rules.get(kind)), {})
        return {"not_checked": said.get("missing", "there are no raw texts, pictures or sounds")}
    encodes = family.encode(config, dataclasses.replace(original, texts=bool(pack.texts)), reference)
    encodes = {name: encode for name, encode in encodes.items() if pack.has(name)}
    if not encodes:
        return {"not_checked": f"upstream's programs do not do with raw inputs what {family.name} was asked for"}
    entries = {entry.name: entry for entry in family.entry_points(config)}
    exact = reference.in_dtype("float64")
    found, notes = [], []
    for kind, judged_too in kinds:
        if rules.get(kind) and not judged_too:
            notes.append(f"raw {kind} are not checked: {rules[kind].get('missing', 'there are none')}")
    if others := [name for name in entries if pack.has(name) and name not in encodes]:
        notes.append(f"raw inputs of {', '.join(others)} are not checked: no program of upstream's was run from them")
    for encode in encodes.values():
        if pixels := getattr(encode, "pixels", None):
            notes += hold_pictures(pack, encode.name, pixels)
        if spectrogram := getattr(encode, "spectrogram", None):
            hold_sounds(pack, encode.name, spectrogram)
    for case in pack.cases(entries):
        if case.entry_point in encodes:
            encode, samples = encodes[case.entry_point], pack.samples_of(case)
            output = judged(entries[case.entry_point])
            with reference.computing():
                float32 = encoded(encode, samples)
            with exact.computing():
                float64 = encoded(encode, samples)
            found.append(
                goldens.golden(entries[case.entry_point], case, {output.name: float64}, {output.name: float32})
            )
            notes += [encode.note] if encode.note and encode.note not in notes else []
    goldens.write(out / END_TO_END, goldens.pooled(found), {})
    names = dict.fromkeys(name for encode in encodes.values() for name in encode.name.split("; "))
    return {"judge": "; ".join(names), "notes": notes}


def hold_pictures(pack: Pack, name: str, pixels: Callable[[bytes], np.ndarray | None]) -> list[str]:
    """Hold what the pack makes of every raw picture to what upstream's image processor makes of it.

    Gives what is to be noted: the pictures that upstream refuses.

    Raises:
        GateError: a picture becomes something else.
    """
    refused = []
    for picture in pack.pictures:
        wanted = pixels(pack.picture(picture))
        if wanted is None:
            refused.append(picture)
            continue
        (made,) = pack.preprocessor.image_inputs([pack.picture(picture)]).values()
        error = np.inf if made[0].shape != wanted.shape else float(np.abs(made[0] - wanted).max())
        if not error <= WITHIN:
            raise GateError(
                f"end to end: {name} makes another input of the raw picture {picture} than preprocess.json says, off "
                f"by {error:.3g} where {WITHIN:g} is allowed"
            )
    return [f"{name} refuses the pictures {', '.join(refused)}, which are prepared as RGB here"] if refused else []


def hold_sounds(pack: Pack, name: str, spectrogram: Callable[[np.ndarray], np.ndarray]) -> None:
    """Hold what the pack makes of every raw sound to what upstream's extractor makes of it, of its samples alone.

    Raises:
        GateError: a sound becomes something else.
    """
    made = pack.preprocessor.sounds.rules["spectrogram"]["output"]
    for sound in pack.sounds:
        wanted = np.stack([spectrogram(samples) for samples in pack.heard(sound)])
        got = pack.preprocessor.sounds.inputs("", [pack.sound(sound)])[made]
        error = np.inf if got.shape != wanted.shape else float(np.abs(got - wanted).max())
        if not error <= HEARD:
            raise GateError(
                f"end to end: {name} makes another spectrogram of the raw sound {sound} than preprocess.json says, off "
                f"by {error:.3g} where {HEARD:g} is allowed"
            )


def encoded(encode: "Encode", samples: Sequence[Any]) -> np.ndarray:
    """Let upstream encode raw samples.

    Raises:
        InputError: it cannot, as with a tokenizer that names no token for padding.
    """
    try:
        return encode(samples)
    except (ConvertError, MemoryError):
        raise
    except Exception as error:  # whatever upstream raises
        raise InputError(
            f"{encode.name} fails on raw texts with the folder's tokenizer: {raised(error)}; mend the tokenizer's "
            "documents, or say --no-tokenizer"
        ) from error


def reads(run: RunDirectory, options: Options) -> str:
    """Give the digest of what the goldens depend on."""
    return run.reads("reference", list(options.static), *packed(run))


def read_original(run: RunDirectory, progress: Progress) -> "Original":
    """Read what was trained: every tensor by the name that the ledger has for it, and the documents beside.

    Raises:
        EnvironmentFailure: torch is not installed.
        InputError: a wrapper that the safe reader found is not there for torch.
    """
    try:
        from ...model.reference import Original
    except ModuleNotFoundError as error:
        raise EnvironmentFailure(
            "parity needs PyTorch, in which the checkpoint was trained: pip install 'bgevis-convert[upstream]'"
        ) from error
    checkpoint = reopen(run)
    note = json.loads((run.path / SOURCE).read_text())
    given = run.manifest()["given"]["set"]
    documents = {
        name: content(name, Path(path), json.loads(Path(path).read_text(encoding="utf-8")), given)
        for name, path in note["documents"].items()
    }
    places = {name: Path(path).parent for name, path in note["documents"].items()}
    folder = places.get("modules.json", Path(note["folder"]))
    if {"pooling", "normalize"} & given.keys():
        documents.pop("modules.json", None)  # what the user says stands in its place
    changed = as_given(documents, given)
    state, code = read_state(checkpoint, progress), Path(note.get("code", ""))
    return Original(state, documents | changed, folder, Path(note["tokenizer"]), code, changed)


def scaled(state: Mapping[str, "torch.Tensor"], scales: Mapping[str, Factor]) -> "State":
    """Multiply some tensors, in float32; the others keep their memory."""
    import torch

    return {n: t.float() * torch.as_tensor(scales[n]) if n in scales else t for n, t in state.items()}


def source_scales(ledger: Ledger, factors: Factors) -> Mapping[str, Factor]:
    """Give the tensors that fill the given leaves, and what is tied to them, with the leaves' factors."""
    return ledger.source_factors(factors)


def read_state(checkpoint: "Checkpoint", progress: Progress) -> "State":
    """Read the tensors with torch's or safetensors' own reader, memory-mapped where the container allows it.

    The safe reader has accepted the file before: torch's restricted unpickler is a second fence, not the first. It
    knows fewer of the names that trainers leave beside the weights; what it refuses the safe reader gives.
    """
    state = _read_own(checkpoint, progress)
    for prefix, module in checkpoint.modules.items():
        state |= {prefix + name: tensor for name, tensor in read_state(module, progress).items()}
    return {checkpoint.names.get(name, name): tensor for name, tensor in state.items()}


def _read_own(checkpoint: "Checkpoint", progress: Progress) -> "State":
    """Read the tensors of the checkpoint's own files."""
    import torch

    if checkpoint.container.startswith("safetensors"):
        from safetensors.torch import load_file

        return unwrap({n: t for file in weight_files(checkpoint) for n, t in load_file(file).items()}, checkpoint)
    if checkpoint.container.startswith(ARROW):
        return _read_parquet(checkpoint, progress)
    state: dict[str, Any] = {}
    try:
        for file in weight_files(checkpoint):
            mapped = checkpoint.container.startswith("torch-zip")
            state |= torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError:
        progress.note("torch's own reader refuses what lies beside the weights: they are read by this tool's")
        return _read_safely(checkpoint)
    return unwrap(state, checkpoint)


def _read_parquet(checkpoint: "Checkpoint", progress: Progress) -> "State":
    """Read ArrowEngine's store by pyarrow alone; what is quantised there has no reader but this tool's."""
    import torch
    from pyarrow import parquet

    file = parquet.ParquetFile(checkpoint.files[0], memory_map=True)
    if "quant_type" in file.schema_arrow.names:
        progress.note("nobody else's reader knows quantised rows: they are read by this tool's")
        return _read_safely(checkpoint)
    state = {}
    for row in (row for batch in file.iter_batches(batch_size=1) for row in batch.to_pylist()):
        dtype = getattr(torch, row["dtype"].removeprefix("torch."))
        empty = torch.empty(0, dtype=dtype)
        flat = torch.frombuffer(bytearray(row["data"]), dtype=dtype) if row["data"] else empty
        state[row["layer_name"]] = flat.reshape(row["shape"])
    return unwrap(state, checkpoint)


def _read_safely(checkpoint: "Checkpoint") -> "State":
    """Read the tensors by the safe reader."""
    from ...model.reference import tensor_of

    before = {new: old for old, new in checkpoint.names.items()}
    return {before.get(name, name): tensor_of(checkpoint.read(name)) for name in checkpoint.tensors}


def weight_files(checkpoint: "Checkpoint") -> list[Path]:
    """Give the files that hold tensors."""
    return [file for file in checkpoint.files if file.suffix != ".json"]


def unwrap(state: Mapping[str, Any], checkpoint: "Checkpoint") -> "State":
    """Follow the wrappers that the checkpoint was found in: keys to descend into, prefixes (ending in ".") to strip."""
    import torch

    for wrapper in checkpoint.wrappers:
        if wrapper == checkpoint.tower:
            state = {name.removeprefix(wrapper): tensor for name, tensor in state.items() if name.startswith(wrapper)}
        elif wrapper.endswith("."):
            state = {name.removeprefix(wrapper): tensor for name, tensor in state.items()}
        elif wrapper in state:
            state = state[wrapper]
        else:
            raise InputError(f"the checkpoint has no entry {wrapper!r} for PyTorch, although the safe reader found one")
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}


def write_goldens(
    out: Path,
    reference: "Reference",
    leaves: Mapping[str, str],
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
        values = (_traced(r, leaves, entry.name, small)[1] for r in (exact, reference))
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
    goldens.write(out, goldens.pooled(found), taps)


def write_probe(
    out: Path,
    name: str,
    probed: "Reference",
    leaves: Mapping[str, str],
    entries: tuple[EntryPoint, ...],
    factors: Factors,
) -> None:
    """Write the goldens of a probe below `out`: outputs, intermediate values, factors."""
    exact = probed.in_dtype("float64")
    found, taps = [], {}
    for entry in entries:
        (case,) = probe_cases(name, entry)
        outputs, values = zip(*(_traced(r, leaves, entry.name, case) for r in (exact, probed)), strict=True)
        found.append(goldens.golden(entry, case, *outputs))
        taps[entry.name] = _intermediates(case.inputs, *values)
    goldens.write(out, found, taps)
    (out / FACTORS).write_text(json.dumps(factors, indent=1, sort_keys=True) + "\n")


def _traced(
    reference: "Reference", leaves: Mapping[str, str], entry: str, case: Case
) -> tuple[Arrays, dict[str, Value]]:
    """Run a case; of each intermediate value, which may be large, keep a sample and what its budget is measured on.

    The outputs count as the last of the intermediate values.
    """
    outputs, values = reference.traced(entry, case.inputs, leaves, _kept)
    return outputs, values | {name: _kept(output) for name, output in outputs.items()}


def _kept(value: np.ndarray) -> Value:
    return goldens.sample(value).copy(), _spread(value)


def _spread(value: np.ndarray) -> np.ndarray:
    """Keep positions at equal distances."""
    return value[:, :: max(1, value.shape[1] // MEASURED)].copy() if value.ndim > 2 else value.copy()


def _intermediates(inputs: Arrays, exact: Mapping[str, Value], float32: Mapping[str, Value]) -> goldens.Intermediates:
    """Give a sample of each intermediate value with its budget."""
    values = {name: (sample, measure(spread, float32[name][1])) for name, (sample, spread) in exact.items()}
    return goldens.Intermediates(inputs, values)

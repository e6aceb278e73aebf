"""What a run says of itself, made again from family, configuration and weights, and compared whole.

Whoever may write to the folder may write all of it. So nothing is believed that can be computed: each function here
gives what a document must be, and names the first place where it is not. What is left is what only the one who
converted knows: docs/trust.md lists it.
"""

import functools
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...exporters.base import exporters
from ...exporters.weights import WeightsFile, plan
from ...model.family import config_to_json
from ...validation import probe, procedure
from ...validation.cases import Case, probe_cases
from ...validation.entry_point import EntryPoint
from ...validation.files import kind, read_json
from ...validation.goldens import Goldens
from ..certificate.assign import assign
from ..certificate.check import restated as restated_ledger
from ..certificate.ledger import FLOAT32, Ledger
from ..directory import LOCK, MANIFEST, PROVENANCE, SOURCE, RunDirectory
from ..manifest import (
    ATTENTION,
    END_TO_END,
    GOLDENS,
    JUDGE,
    LEDGER,
    PARITY,
    PROBES,
    WEIGHTS_PATH,
    family_and_config,
    network,
)
from .documents import VERDICTS

OWN = (LOCK, SOURCE, MANIFEST, PROVENANCE)
"""Files at the top of a run directory that no manifest names."""

SHOWN = 120
"""Characters of a value that is shown."""

OPTIONS = ("static", "opset", "ops", "via")
"""What shapes exported programs, as each export states it."""

FILES = {"remap": [LEDGER], "verify": [LEDGER], "build": [WEIGHTS_PATH], "parity": [PARITY]}
"""What stages write that write one file."""

KEYS = (
    *("format_version", "tool", "source", "family", "config", "adapter", "origins", "documents", "unread", "given"),
    *("stored", "images", "tokenizer", "entry_points", "files", "stages", "verdicts", "proof"),
)


def difference(stated: Any, wanted: Any, at: str = "") -> str:
    """Name the first place where a document is not what it must be; "" if there is none. 1 is not true, nor 1.0."""
    if type(stated) is not type(wanted):
        return f"{at or 'it'} is {_shown(stated)}, expected {_shown(wanted)}"
    if isinstance(wanted, dict):
        for key in (*wanted, *(key for key in stated if key not in wanted)):
            place = f"{at}.{key}" if at else str(key)
            if key not in stated:
                return f"{place} is missing, expected {_shown(wanted[key])}"
            if key not in wanted:
                return f"{place} is {_shown(stated[key])}, which belongs to nothing"
            if found := difference(stated[key], wanted[key], place):
                return found
    elif isinstance(wanted, list):
        if len(stated) != len(wanted):
            return f"{at or 'it'} has {len(stated)} entries, expected {len(wanted)}"
        for index, (have, want) in enumerate(zip(stated, wanted, strict=True)):
            if found := difference(have, want, f"{at}[{index}]"):
                return found
    elif stated != wanted:
        return f"{at or 'it'} is {_shown(stated)}, expected {_shown(wanted)}"
    return ""


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def strays(run: RunDirectory) -> Iterator[str]:
    """Name what lies among the run's files and is none of them: links, FIFOs, files that no manifest names.

    At the top of the directory other people's files may lie; they are in no artifact, and are left alone.
    """
    named = set(run.manifest()["files"])
    folders = {name.partition("/")[0] for name in named if "/" in name}
    for entry in sorted(os.scandir(run.path), key=lambda entry: entry.name):
        if entry.name in folders:
            yield from _strays(Path(entry.path), entry.name, named)
        elif entry.name in (*OWN, *named):
            mode = entry.stat(follow_symlinks=False).st_mode
            if not stat.S_ISREG(mode):
                yield f"{entry.path} is {kind(mode)}: a run directory must hold its files itself"


def _strays(path: Path, relative: str, named: set[str]) -> Iterator[str]:
    mode = path.lstat().st_mode
    if stat.S_ISDIR(mode):
        for inner in sorted(path.iterdir()):
            yield from _strays(inner, f"{relative}/{inner.name}", named)
    elif not stat.S_ISREG(mode):
        yield f"{path} is {kind(mode)}: a run directory must hold its files itself"
    elif relative not in named:
        yield f"{path} is a file that the manifest does not name; take it away"


def manifest_problems(run: RunDirectory, ledger: Ledger) -> Iterator[str]:
    """Hold what the manifest says of configuration, stages and files to what follows from it."""
    manifest = run.manifest()
    family, config = family_and_config(run)
    leaves = {leaf: ledger.entries[name].dtype for leaf, name in ledger.leaves.items()}
    stored = {"dtype": ledger.stored} | ({} if ledger.stored == FLOAT32 else {"leaves": leaves})
    images = family.images(config)
    wanted = {
        "config": config_to_json(config),
        "images": dict(images) if images else None,
        "stored": stored,
    }
    for key in sorted(manifest.keys() ^ set(KEYS)):
        yield f"{key} is {'missing' if key in KEYS else 'nothing that a manifest has'}"
    for key, value in wanted.items():
        if found := difference(plain(manifest.get(key)), plain(value), key):
            yield found
    each = {f"{stage}-{name}": e.key for name, e in exporters().items() for stage in ("export", "validate")}
    known = dict.fromkeys((*VERDICTS, "documents", "validate"), "") | each
    for name in manifest["verdicts"]:
        if name not in known:
            yield f"verdicts.{name} is of no stage"
    files = FILES | ({"parity": [ATTENTION, PARITY]} if family.attends else {})
    for name, record in manifest["stages"].items():
        export = name.startswith("export-")
        failed = manifest["verdicts"].get(name) == "fail"  # in `all` others go on: such an export holds no programs
        key = known.get(name, "") if export and not failed else ""
        if name not in known:
            yield f"stages.{name} is no stage"
        elif (set(record) - ({"options"} if export else set()), record.get("key")) != ({"reads", "files", "key"}, key):
            yield f"stages.{name} is not as this program writes it"
        elif export and set(record.get("options", OPTIONS)) != set(OPTIONS):
            yield f"stages.{name}.options is not as this program writes it"
        elif record["files"] != files.get(name, record["files"]):
            yield f"stages.{name}.files is not {files[name]}"
        elif manifest["verdicts"].get(name) is None:
            yield f"stages.{name} has no verdict"
    made = {file for record in manifest["stages"].values() for file in record["files"]}
    for file in sorted(made ^ set(manifest["files"])):
        yield f"{file} is {'not among the files' if file in made else 'made by no stage'}"
    for file, entry in manifest["files"].items():
        if set(entry) != {"bytes", "sha256"}:
            yield f"files.{file} says more than size and digest"


def plain(value: Any) -> Any:
    """Give a document as JSON gives it back: lists for tuples."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def ledger_problems(run: RunDirectory, ledger: Ledger) -> Iterator[str]:
    """Hold the ledger to the family's rules: what they say of each name, and what follows from types and shapes."""
    manifest = run.manifest()
    family, config = family_and_config(run)
    net = network(run)
    real = [name for name, entry in ledger.entries.items() if entry.made is None]
    found = assign(real, family.rules(config), net.leaves)
    names = Ledger(
        family.name, family.axis_sizes(config), found.entries, found.problems, stored=manifest["stored"]["dtype"]
    )
    shapes = {name: leaf.shape for name, leaf in net.leaves.items()}
    made, problems = restated_ledger(names, ledger, shapes)
    yield from problems
    if not problems and (found_ := difference(read_json(run.path / LEDGER), plain(made.document()))):
        yield found_


def weights_problems(run: RunDirectory, ledger: Ledger) -> Iterator[str]:
    """Hold the weights file's header to the network's leaves."""
    leaves = {name: (leaf.dtype, leaf.shape) for name, leaf in network(run).leaves.items()}
    metadata = {"format": "bgevis", "family": ledger.family, "source_sha256": run.manifest()["source"]["sha256"]}
    header, _ = plan(leaves, metadata)
    if WeightsFile(run.path / WEIGHTS_PATH).header != header:
        yield "its header is not the one of this network and checkpoint"


def golden_problems(run: RunDirectory, alike: bool) -> Iterator[tuple[str, str]]:
    """Say what the goldens lack that every network of the family has, and what in them cannot have been measured.

    Args:
        run: the run directory.
        alike: inputs are drawn here as where the goldens were made; else only their shapes are compared.
    """
    manifest = run.manifest()
    family, config = family_and_config(run)
    entries, weights = family.entry_points(config), Ledger.read(run.path / LEDGER).numbers
    folders: dict[str, Callable[[EntryPoint], Iterable[Case]]] = {
        GOLDENS: functools.partial(family.all_cases, config, weights=weights)
    }
    files = {JUDGE}
    for greedy in family.procedures(config):
        files.add(f"{GOLDENS}/{procedure.FOLDER}/{greedy.name}.safetensors")
        stored = procedure.read(run.path / GOLDENS, greedy)
        problems = procedure.problems({entry.name: entry for entry in entries}, greedy, stored, alike)
        yield from ((f"{GOLDENS}/{procedure.FOLDER}", problem) for problem in problems)
    for name, exponents in family.probes(config).items():
        folder = f"{PROBES}/{probe.folder_name(name)}"
        folders[folder] = functools.partial(probe_cases, name)
        files.add(f"{folder}/{probe.FACTORS}")
        factors = probe.factors(exponents, network(run).leaves)
        if found := difference(dict(probe.read_factors(run.path / folder)), dict(factors)):
            yield f"{folder}/{probe.FACTORS}", found
    for folder, draw in folders.items():
        yield from ((folder, problem) for problem in Goldens(run.path / folder).problems(entries, draw, alike))
    if any(file.startswith(f"{END_TO_END}/") for file in manifest["files"]):
        folders[END_TO_END] = lambda entry: []
        few = [entry for entry in entries if entry.name in Goldens(run.path / END_TO_END).entries]
        problems = Goldens(run.path / END_TO_END).problems(few, lambda entry: [])
        yield from ((END_TO_END, problem) for problem in problems)
    for folder in folders:
        goldens = Goldens(run.path / folder)
        files |= {f"{folder}/{file}" for file in goldens.files}
        if unknown := goldens.entries - {entry.name for entry in entries}:
            yield folder, f"index.json names {', '.join(sorted(unknown))}, which the family does not have"
        for name, stated, wanted in goldens.restated():
            if found := difference(stated, wanted):
                yield f"{folder}/{name}", found
    raw = f"{GOLDENS}/raw/"
    for file in sorted({f for f in manifest["files"] if f.startswith(f"{GOLDENS}/") and not f.startswith(raw)} - files):
        yield file, "it is no golden of this network"

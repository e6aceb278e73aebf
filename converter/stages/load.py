"""The first stage: open the checkpoint safely, find its family, make the run directory with what was found."""

import copy
import functools
import hashlib
import importlib.metadata
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ...exporters.stablehlo import variants
from ...model import traced
from ...model.family import config_to_json, families
from ...validation.errors import InputError, UsageFailure
from ..certificate.assign import assign, tied
from ..certificate.check import DTYPES
from ..certificate.ledger import FLOAT32, Ledger, dtype_of
from ..checkpoint import Checkpoint
from ..checkpoint.format_error import shown
from ..directory import FORMAT_VERSION, PROVENANCE, SOURCE, Manifest, RunDirectory, sha256
from ..options import Options, chosen
from ..pack import tokenizer
from ..progress import Progress
from ..source.folder import MERGED_FIRST
from ..source.identify import Identified, identify
from ..source.metadata import tokenizer_of
from ..source.slow import converted
from .common import state

PACKAGES = (
    "flax",
    "jax",
    "jaxlib",
    "numpy",
    "onnx",
    "onnxruntime",
    "openvino",
    "orbax-checkpoint",
    "peft",
    "pillow",
    "pyarrow",
    "tensorflow-cpu",
    "tensorflow",
    "tf2onnx",
    "sentence-transformers",
    "tokenizers",
    "torch",
    "transformers",
)

DISTRIBUTION = "bgevis-convert"


def perform(out: Path, options: Options, progress: Progress) -> RunDirectory:
    """Open the checkpoint safely, detect the family, and make the run directory with what was found."""
    path = Path(options.checkpoint)
    if options.module:
        progress.note(f"runs the code of {options.module}; the checkpoint is read inertly")
    identified = identify(path, options)
    checkpoint = identified.checkpoint
    for entry in identified.family.entry_points(identified.config):
        try:
            variants(entry, options.static)
        except InputError as error:
            raise UsageFailure(f"--static: {error}") from error
    folder = tokenizer_folder(path, options)
    tokens = describe_tokenizer(identified, folder, options)
    _refuse_layouts(identified, tokens, options)
    _refuse_ties(identified)
    with ThreadPoolExecutor(1) as pool:
        check = pool.submit(checkpoint.check)
        progress.begin(sum(file.stat().st_size for file in checkpoint.named_files.values()))
        source = describe_source(checkpoint, progress)
        check.result()
    manifest = new_manifest(identified, source) | {"tokenizer": tokens, "given": options.stated()}
    manifest |= {"stored": describe_stored(identified, options)}
    if not options.force:
        _refuse_another(out, manifest)
    run = _resume(out, manifest) or RunDirectory.create(out, manifest)
    if identified.network and not run.is_current("load", run.reads("load")):
        with run.stage("load", run.reads("load")) as staged:
            (staged.out / traced.NETWORK).write_text(identified.network, encoding="utf-8")
    note = {
        "checkpoint": str(path.resolve()),
        "modules": {prefix: str(module.path.resolve()) for prefix, module in checkpoint.modules.items()},
        "tower": checkpoint.tower,
        "names": dict(checkpoint.names),
        "state": state(checkpoint),
        "folder": str((path if path.is_dir() else path.parent).resolve()),
        "tokenizer": str(folder.resolve()),
        "code": str(Path.cwd()) if identified.network else "",
        "documents": {place: str(Path(d.origin).resolve()) for place, d in identified.found.documents.items()},
    }
    (out / SOURCE).write_text(json.dumps(note) + "\n")
    progress.note(f"{identified.family.name}, {source['container']}, {len(checkpoint.tensors)} tensors")
    if identified.adapter:
        progress.note(identified.adapter.told)
    if tokens and "converted" in tokens:
        progress.note(f"tokenizer.json made of {', '.join(tokens['converted']['of'])} by {tokens['converted']['by']}")
    return run


def describe_source(checkpoint: Checkpoint, progress: Progress) -> dict[str, Any]:
    """State the source: for several files the digest is that of their names and digests."""
    files = {
        name: {"bytes": file.stat().st_size, "sha256": sha256(file, progress.advance)}
        for name, file in checkpoint.named_files.items()
    }
    described: dict[str, Any] = {"file": checkpoint.path.name, "container": checkpoint.container}
    if len(files) == 1:
        described |= next(iter(files.values()))
    else:
        text = "".join(f"{name} {entry['sha256']}\n" for name, entry in sorted(files.items()))
        total = sum(int(str(entry["bytes"])) for entry in files.values())
        described |= {"bytes": total, "sha256": hashlib.sha256(text.encode()).hexdigest(), "files": files}
    return described | {"wrappers": list(checkpoint.wrappers), "ignored": list(checkpoint.ignored)}


def tokenizer_folder(path: Path, options: Options) -> Path:
    """Say where a tokenizer is looked for: where the user says, else beside the checkpoint."""
    folder = Path(options.tokenizer) if options.tokenizer else path if path.is_dir() else path.parent
    folder = folder if options.tokenizer else tokenizer_of(folder)
    return folder if options.no_tokenizer else converted(folder)


def describe_tokenizer(identified: Identified, folder: Path, options: Options) -> dict[str, Any] | None:
    """State the tokenizer's files, or why there is none; None for a network that reads no text."""
    entries = identified.family.entry_points(identified.config)
    ids = tokenizer.token_ids(entries)
    if ids and options.module and not options.tokenizer:
        return tokenizer.missing("nothing says how texts become the ids that the module takes")
    if ids and options.no_tokenizer:
        return tokenizer.missing("--no-tokenizer said that none is wanted; convert again without it")
    return tokenizer.state(folder, ids, written=tokenizer.writes(entries)) if ids else None


def _refuse_layouts(identified: Identified, tokens: dict[str, Any] | None, options: Options) -> None:
    """Refuse a client's folder before any work where the clients cannot do it, or the tokenizer for it is missing.

    Raises:
        InputError: naming what is missing.
    """
    layouts = [exporter.name for exporter in chosen(options) if exporter.layout]
    family, config = identified.family, identified.config
    for exporter in (exporter for exporter in chosen(options) if exporter.layout):
        if not getattr(family, exporter.describes):
            able = ", ".join(name for name, each in families().items() if getattr(each, exporter.describes))
            raise InputError(f"--layout {exporter.name}: its clients open the families {able}; this is {family.name}")
        getattr(family, exporter.describes)(config)  # which refuses what they cannot do
    if layouts and (not tokens or "missing" in tokens):
        raise InputError(f"--layout {layouts[0]} needs a tokenizer: {(tokens or {}).get('missing')}")


def _refuse_ties(identified: Identified) -> None:
    """Refuse an adapter on a table that is used twice: merged, it would be two.

    Raises:
        InputError: naming it.
    """
    touched = identified.adapter.touched if identified.adapter else ()
    for tie, name in tied(touched, identified.family.rules(identified.config)):
        raise InputError(
            f"the adapter changes {name}, but {tie.source} and {tie.target} are one tensor ({tie.reason}): with the "
            "adapter they are two. Untie them before training (tie_word_embeddings: false, with a table of its own for "
            f"the head), or {MERGED_FIRST}, with both in it"
        )


def describe_stored(identified: Identified, options: Options) -> dict[str, Any]:
    """State what the leaves are stored as; where that is what the checkpoint has, for each leaf that has a tensor."""
    if options.dtype == FLOAT32:
        return {"dtype": FLOAT32}
    tensors, family, config = identified.checkpoint.tensors, identified.family, identified.config
    entries = assign(tensors, family.rules(config), ()).entries
    there = {name: tensor.dtype for name, tensor in tensors.items()}
    leaves = {leaf: dtype_of(entries, name, there) for leaf, name in Ledger("", {}, entries).leaves.items()}
    return {"dtype": options.dtype, "leaves": {leaf: dtype for leaf, dtype in leaves.items() if dtype in DTYPES}}


def new_manifest(identified: Identified, source: dict[str, Any]) -> Manifest:
    """Make the manifest of a run that has only loaded."""
    family, config = identified.family, identified.config
    return {
        "format_version": FORMAT_VERSION,
        "tool": tool(),
        "source": source,
        "family": family.name,
        "config": config_to_json(config),
        "adapter": identified.adapter.to_json() if identified.adapter else None,
        "origins": dict(identified.configured.origins),
        "documents": identified.found.described(),
        "unread": dict(identified.unread),
        "images": dict(images) if (images := family.images(config)) else None,
        "entry_points": {e.name: e.to_json() | {"programs": {}} for e in family.entry_points(config)},
        "files": {},
        "stages": {},
        "verdicts": {"load": "pass"},
        "proof": {},
    }


def _refuse_another(out: Path, manifest: Manifest) -> None:
    """Refuse to take away a proven run of another checkpoint.

    Raises:
        InputError: one is there.
    """
    if not (out / PROVENANCE).exists():
        return
    before, now = RunDirectory(out).manifest()["source"], manifest["source"]
    if before["sha256"] != now["sha256"]:
        raise InputError(
            f"{out} holds the proven run of another checkpoint, {shown(str(before['file']))}; this is "
            f"{shown(str(now['file']))}: choose another --out, or say --force to replace it"
        )


def _resume(out: Path, manifest: Manifest) -> RunDirectory | None:
    """Keep what an earlier run of the same input did; take away what another input left."""
    if not (out / "manifest.json").exists():
        return None
    run = RunDirectory(out)
    before = run.manifest()
    fixed = ("tool", "source", "family", "config", "adapter", "origins", "documents", "given", "images", "tokenizer")
    now = json.loads(json.dumps(manifest))  # as the file has it: lists where there are tuples
    if all(before.get(key) == now[key] for key in (*fixed, "stored")):
        return run
    run.forget(list(before["stages"]))
    return None


def tool() -> dict[str, Any]:
    """State what converts: version, digest of the program's own source, and the packages that shape the bytes."""
    return copy.deepcopy(_tool())


@functools.cache
def _tool() -> dict[str, Any]:
    digest = hashlib.sha256()
    for root in sorted(
        Path(__file__).parents[2].joinpath(name) for name in ("converter", "exporters", "model", "validation")
    ):
        for file in sorted(path for path in root.rglob("*") if path.suffix in (".py", ".j2")):
            digest.update(f"{file.relative_to(root.parent)}\n".encode() + file.read_bytes())
    packages = {package: version for package in PACKAGES if (version := _version(package))}
    return {"name": DISTRIBUTION, "version": _version(DISTRIBUTION), "sha256": digest.hexdigest(), "packages": packages}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

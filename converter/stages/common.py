"""The converting stages: load, remap, verify, build, export. Each reads the run directory and writes into it."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...exporters.base import PROGRAMS, WEIGHTS, Exporter, Plan, Request, exporters
from ...exporters.precisions import FLOAT32
from ...exporters.weights import WeightsFile, plan, write
from ...model.family import Config, Family, Settings, config_from_json, config_to_json, families
from ...validation.errors import GateError, InputError
from ..certificate.assign import assign
from ..certificate.check import verify as verify_tensors
from ..certificate.ledger import Ledger
from ..checkpoint import Checkpoint, open_checkpoint
from ..directory import FORMAT_VERSION, SOURCE, Manifest, RunDirectory, sha256
from ..pack import PREPROCESS, TOKENIZER, tokenizer
from ..progress import Progress
from ..source.settings import read_settings

if TYPE_CHECKING:
    from ...model.network import Network

LEDGER = "ledger.json"
WEIGHTS_PATH = f"{PROGRAMS}/{WEIGHTS}"
PACKAGES = (
    "flax",
    "jax",
    "jaxlib",
    "numpy",
    "onnx",
    "onnxruntime",
    "openvino",
    "orbax-checkpoint",
    "pillow",
    "tensorflow-cpu",
    "tensorflow",
    "tf2onnx",
    "tokenizers",
    "torch",
)
SHAPING = ("static", "opset", "ops", "via")
"""The options that shape the exported programs."""

DISTRIBUTION = "bgevis-convert"
SHOWN = 12
"""Problems printed in full; the ledger lists all."""


@dataclass(frozen=True)
class Options:
    """What the command line says beyond DIR."""

    checkpoint: str = ""
    family: str = ""
    configs: tuple[str, ...] = ()
    tokenizer: str = ""
    formats: tuple[str, ...] = ()
    layouts: tuple[str, ...] = ()
    static: tuple[dict[str, int], ...] = ()
    opset: int | None = None
    ops: str = "xla"
    via: str = ""
    precisions: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Serialize for another process."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Options":
        """Read what `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        lists: dict[str, Any] = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return cls(**(values | lists))


@dataclass(frozen=True)
class Identified:
    """An opened checkpoint with the family that it belongs to."""

    checkpoint: Checkpoint
    family: Family
    config: Config
    settings: Settings


def identify(path: Path, options: Options) -> Identified:
    """Open a checkpoint, find its family and complete its configuration. Reads no weights."""
    checkpoint = open_checkpoint(path)
    settings = read_settings(path, map(Path, options.configs), Path(options.tokenizer) if options.tokenizer else None)
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    known = families()
    if options.family and options.family not in known:
        raise InputError(f"there is no family {options.family!r} (families: {', '.join(known)})")
    found = [known[options.family]] if options.family else [f for f in known.values() if f.recognise(shapes)]
    if len(found) != 1:
        example = ", ".join(list(shapes)[:4]) or "no tensors at all"
        reason = f"fits {len(found)} families" if found else "belongs to no family that this tool knows"
        raise InputError(f"{path} {reason} ({', '.join(known)}); it holds {len(shapes)} tensors: {example}, ...")
    return Identified(checkpoint, found[0], found[0].configure(shapes, settings), settings)


def load(out: Path, options: Options, progress: Progress) -> RunDirectory:
    """Open the checkpoint safely, detect the family, and make the run directory with what was found."""
    path = Path(options.checkpoint)
    identified = identify(path, options)
    checkpoint = identified.checkpoint
    with ThreadPoolExecutor(1) as pool:
        check = pool.submit(checkpoint.check)
        progress.begin(sum(file.stat().st_size for file in checkpoint.files))
        source = describe_source(checkpoint, progress)
        check.result()
    folder = tokenizer_folder(path, options)
    manifest = new_manifest(identified, source) | {"tokenizer": describe_tokenizer(identified, folder, options)}
    run = _resume(out, manifest) or RunDirectory.create(out, manifest)
    note = {"checkpoint": str(path.resolve()), "state": _state(checkpoint), "tokenizer": str(folder.resolve())}
    (out / SOURCE).write_text(json.dumps(note) + "\n")
    progress.note(f"{identified.family.name}, {source['container']}, {len(checkpoint.tensors)} tensors")
    return run


def describe_source(checkpoint: Checkpoint, progress: Progress) -> dict[str, Any]:
    """State the source: for several files the digest is that of their names and digests."""
    files = {f.name: {"bytes": f.stat().st_size, "sha256": sha256(f, progress.advance)} for f in checkpoint.files}
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
    return Path(options.tokenizer) if options.tokenizer else path if path.is_dir() else path.parent


def describe_tokenizer(identified: Identified, folder: Path, options: Options) -> dict[str, Any] | None:
    """State the tokenizer's files, or why there is none; None for a network that reads no text."""
    ids = tokenizer.token_ids(identified.family.entry_points(identified.config))
    return tokenizer.state(folder, ids, named=bool(options.tokenizer)) if ids else None


def new_manifest(identified: Identified, source: dict[str, Any]) -> Manifest:
    """Make the manifest of a run that has only loaded."""
    family, config = identified.family, identified.config
    return {
        "format_version": FORMAT_VERSION,
        "tool": tool(),
        "source": source,
        "family": family.name,
        "config": config_to_json(config),
        "images": dict(family.images(config)) if family.images else None,
        "entry_points": {e.name: e.to_json() | {"programs": {}} for e in family.entry_points(config)},
        "files": {},
        "stages": {},
        "verdicts": {"load": "pass"},
    }


def _resume(out: Path, manifest: Manifest) -> RunDirectory | None:
    """Keep what an earlier run of the same input did; take away what another input left."""
    if not (out / "manifest.json").exists():
        return None
    run = RunDirectory(out)
    before = run.manifest()
    fixed = ("tool", "source", "family", "config", "images", "tokenizer")
    if all(before.get(key) == manifest[key] for key in fixed):
        return run
    run.forget(list(before["stages"]))
    return None


def tool() -> dict[str, Any]:
    """State what converts: version, digest of the program's own source, and the packages that shape the bytes."""
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


def _state(checkpoint: Checkpoint) -> list[list[int]]:
    """Give size and time of each file, to notice that a checkpoint was changed between two stages."""
    return [[file.stat().st_size, file.stat().st_mtime_ns] for file in checkpoint.files]


def reopen(run: RunDirectory) -> Checkpoint:
    """Open the checkpoint that the run was loaded from.

    Raises:
        InputError: it is gone or was changed since.
    """
    note = run.path / SOURCE
    if not note.exists():
        raise InputError(
            f"{run.path} does not know where its checkpoint is; run `bgevis-convert load CKPT --out {run.path}`"
        )
    source = json.loads(note.read_text())
    checkpoint = _opened(Path(source["checkpoint"]), json.dumps(source["state"]))
    if _state(checkpoint) != source["state"]:
        raise InputError(f"{checkpoint.path} was changed after it was loaded; run `bgevis-convert load` again")
    return checkpoint


@functools.lru_cache(maxsize=1)
def _opened(path: Path, state: str) -> Checkpoint:
    """Open a checkpoint in a certain state once for all stages of a process."""
    return open_checkpoint(path)


def family_and_config(manifest: Manifest) -> tuple[Family, Config]:
    """Give the family and the configuration that a manifest states."""
    known = families()
    if manifest["family"] not in known:
        raise InputError(
            f"the manifest's family {manifest['family']!r} is not known here (families: {', '.join(known)})"
        )
    family = known[manifest["family"]]
    return family, config_from_json(family.config, manifest["config"])


def network(manifest: Manifest) -> "Network":
    """Give the NNX model that a manifest describes, without weights."""
    family, config = family_and_config(manifest)
    return _built(family.network, config)


@functools.lru_cache(maxsize=1)
def _built(network: Callable[[Config], "Network"], config: Config) -> "Network":
    """Build a model once for all stages of a process, and with it what is traced of it."""
    return network(config)


def remap(run: RunDirectory, options: Options, progress: Progress) -> None:
    """Names -> ledger."""
    manifest = run.manifest()
    family, config = family_and_config(manifest)
    checkpoint = reopen(run)
    found = assign(checkpoint.tensors, family.rules(config), network(manifest).leaves)
    ledger = Ledger(family.name, family.axes(config), found.entries, found.problems)
    run.forget(["verify"])  # it had completed the ledger that is replaced now
    with run.stage("remap", run.reads("remap")) as staged:
        (staged.out / LEDGER).write_text(ledger.to_json())
        progress.note(f"{len(found.entries)} tensors, {len(ledger.leaves)} parameters")
        gate("remap", ledger)


def verify(run: RunDirectory, options: Options, progress: Progress) -> None:
    """Check every tensor; the ledger becomes the certificate."""
    manifest = run.manifest()
    family, config = family_and_config(manifest)
    checkpoint = reopen(run)
    leaves = {name: leaf.shape for name, leaf in network(manifest).leaves.items()}
    reads = run.reads("verify")
    found = assign(checkpoint.tensors, family.rules(config), leaves)
    names = Ledger(family.name, family.axes(config), found.entries, found.problems)
    progress.begin(sum(tensor.nbytes for tensor in checkpoint.tensors.values()))
    with run.stage("verify", reads) as staged:
        ledger = verify_tensors(names, checkpoint, family, config, leaves, progress.advance)
        (staged.out / LEDGER).write_text(ledger.to_json())
        for remark in ledger.notes:
            progress.note(remark)
        gate("verify", ledger)


def gate(stage: str, ledger: Ledger) -> None:
    """Raise GateError with everything that is wrong."""
    if not ledger.problems:
        return
    shown = "\n  ".join(ledger.problems[:SHOWN])
    rest = len(ledger.problems) - SHOWN
    more = f"\n  and {rest} more, all in {LEDGER}" if rest > 0 else ""
    raise GateError(f"{stage}: {len(ledger.problems)} problem(s)\n  {shown}{more}")


def require(run: RunDirectory, *stages: str) -> None:
    """Raise InputError unless these stages have passed."""
    verdicts = run.manifest()["verdicts"]
    for stage in stages:
        if verdicts.get(stage) != "pass":
            state = "failed" if stage in verdicts else "has not run"
            command = "parity" if stage == "reference" else stage.replace("export-", "export ")
            raise InputError(f"{run.path}: {stage} {state}; run `bgevis-convert {command} {run.path}` first")


def build(run: RunDirectory, options: Options, progress: Progress) -> None:
    """Write the weights file: every leaf in its place, streamed, one tensor in memory at a time."""
    require(run, "verify")
    ledger, checkpoint, net = Ledger.read(run.path / LEDGER), reopen(run), network(run.manifest())
    leaves = {name: (leaf.dtype, leaf.shape) for name, leaf in net.leaves.items()}
    metadata = {"format": "bgevis", "family": ledger.family, "source_sha256": run.manifest()["source"]["sha256"]}
    header, order = plan(leaves, metadata)
    sources = ledger.leaves

    def arrays() -> Any:
        for leaf in order:
            array = ledger.leaf(sources[leaf], checkpoint.read(sources[leaf]))
            yield leaf, array
            progress.advance(array.nbytes)
            checkpoint.release(sources[leaf])

    with run.stage("build", run.reads(LEDGER)) as staged:
        (staged.out / PROGRAMS).mkdir()
        progress.begin(sum(4 * leaf.size for leaf in net.leaves.values()) + len(header))
        with (staged.out / WEIGHTS_PATH).open("wb") as file:
            write(file, leaves, arrays(), metadata)


def export(run: RunDirectory, exporter: Exporter, options: Options, progress: Progress) -> None:
    """Write one format."""
    exporter.require(options.via)
    require(run, *["build", *["pack"] * exporter.layout])
    weights = WeightsFile(run.path / WEIGHTS_PATH)
    progress.begin(sum(location.nbytes for location in weights.tensors.values()))
    with run.stage(f"export-{exporter.name}", export_reads(run, exporter, options)) as staged:
        out = staged.out / exporter.folder
        out.mkdir()
        shaped = shaping(options)
        if exporter.layout:
            family, config = family_and_config(run.manifest())
            model = family.hugging_face(config) if family.hugging_face else None
            shaped |= {"directory": run.path, "hugging_face": model}
        request = Request(network(run.manifest()), weights, out, progress=progress.advance, **shaped)
        staged.programs = exporter.write(request)
        staged.key = exporter.key


def trace(manifest: Manifest, exporter: Exporter, options: Options) -> None:
    """Do what of an export needs no weights."""
    if exporter.trace:
        exporter.trace(Plan(network(manifest), **shaping(options)))


def shaping(options: Options) -> dict[str, Any]:
    """Give the options that shape the exported programs."""
    return {name: getattr(options, name) for name in SHAPING}


def export_reads(run: RunDirectory, exporter: Exporter, options: Options) -> str:
    """Give the digest of what an export depends on."""
    raw = (TOKENIZER, PREPROCESS) if exporter.layout else ()
    return run.reads(WEIGHTS_PATH, exporter.name, *shaping(options).values(), *raw)


def chosen(options: Options) -> list[Exporter]:
    """Give the exporters that were asked for; by default all that are neither optional nor a layout.

    Raises:
        InputError: a format or a precision that does not exist, or a precision of a format that has none.
    """
    known = exporters()
    unknown = [name for name in (*options.formats, *options.layouts) if name not in known]
    if unknown:
        raise InputError(f"there is no format {unknown[0]!r} (formats: {', '.join(known)})")
    if options.precisions and options.formats and "onnx" not in options.formats:
        raise InputError(f"--precision is for the format onnx; {', '.join(options.formats)} was asked for")
    names = options.formats or [name for name, exporter in known.items() if not (exporter.optional or exporter.layout)]
    if options.precisions:
        names = [each for name in names for each in (_in_precisions(options) if name == "onnx" else [name])]
    return [known[name] for name in dict.fromkeys([*names, *options.layouts])]


def _in_precisions(options: Options) -> list[str]:
    """Name the ONNX formats of the precisions that were asked for."""
    return ["onnx" if precision == FLOAT32 else f"onnx-{precision}" for precision in options.precisions]

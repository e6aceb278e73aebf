"""What a manifest describes: the family with its configuration, the network, entry points, artifacts."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..exporters.base import PROGRAMS, WEIGHTS, Artifact, Exporter, Session
from ..model import traced
from ..model.adapter import Adapter, adapted
from ..model.family import Config, Family, config_from_json, families
from ..model.traced.graph import digest
from ..validation import outputs
from ..validation.entry_point import Axis, EntryPoint, TensorSpec
from ..validation.errors import GateError, InputError
from ..validation.packages import need_jax
from .certificate.ledger import Ledger, numpy_dtype
from .certificate.names import leaves_of
from .directory import Manifest, RunDirectory

if TYPE_CHECKING:
    from ..model.network import Network

LEDGER = "ledger.json"
WEIGHTS_PATH = f"{PROGRAMS}/{WEIGHTS}"
GOLDENS = "goldens"
PROBES = f"{GOLDENS}/probes"
END_TO_END = f"{GOLDENS}/end_to_end"
JUDGE = f"{GOLDENS}/judge.json"
"""Whose code the goldens come from, in which versions."""
PARITY = "reports/parity.json"
ATTENTION = "reports/attention.safetensors"
"""Weights of attention of a small case: one row, by attention."""


def family_and_config(run: RunDirectory) -> tuple[Family, Config]:
    """Give the family and the configuration that a run's manifest states; a traced network is in a file of its own.

    Raises:
        InputError: there is no such family, or another network lies there.
    """
    manifest = run.manifest()
    if manifest["family"] in traced.CONFIGS:
        config = config_from_json(traced.CONFIGS[manifest["family"]], manifest["config"])
        return traced.family(_network_text(run, config.network), manifest["family"]), config
    known = families()
    if manifest["family"] not in known:
        raise InputError(
            f"the manifest's family {manifest['family']!r} is not known here (families: {', '.join(known)})"
        )
    family = known[manifest["family"]]
    config = config_from_json(family.config, manifest["config"])
    adapter = manifest.get("adapter")  # before there were any, nothing was said
    return (family if adapter is None else adapted(family, Adapter.from_json(adapter))), config


def _network_text(run: RunDirectory, wanted: str) -> str:
    file = run.path / traced.NETWORK
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}); run `bgevis-convert load` again") from error
    if digest(text) != wanted:
        raise InputError(f"{file} was altered: its sha256 is not the manifest's")
    return text


def network(run: RunDirectory) -> "Network":
    """Give the NNX model that a manifest describes, without weights; leaves have the types they are stored as.

    Raises:
        EnvironmentFailure: JAX or Flax is not installed.
    """
    need_jax()
    family, config = family_and_config(run)
    leaves = run.manifest().get("stored", {}).get("leaves", {})  # before there was a choice, it was float32
    return _built(family.network, config, tuple(sorted(leaves.items())))


@functools.lru_cache(maxsize=1)
def _built(network: Callable[[Config], "Network"], config: Config, stored: tuple[tuple[str, str], ...]) -> "Network":
    """Build a model once for all stages of a process, and with it what is traced of it."""
    return network(config).stored_as({leaf: numpy_dtype(dtype) for leaf, dtype in stored})


def entry_points(manifest: Manifest) -> dict[str, EntryPoint]:
    """Rebuild the entry points from the manifest alone.

    Raises:
        InputError: they contradict themselves.
    """

    def tensors(items: list[dict]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(t["name"], t["dtype"], tuple(t["shape"]), kind=outputs.from_json(t.get("kind"))) for t in items
        )

    try:
        return {
            name: EntryPoint(
                name,
                tensors(entry["inputs"]),
                tensors(entry["outputs"]),
                {axis: Axis(bounds["min"], bounds["max"]) for axis, bounds in entry["axes"].items()},
                entry.get("rows"),
            )
            for name, entry in manifest["entry_points"].items()
        }
    except ValueError as error:
        raise InputError(f"the manifest's entry points cannot be: {error}") from error


def artifact(run: RunDirectory, exporter: Exporter, session: Session | None = None) -> Artifact:
    """Describe an artifact to its opener.

    Raises:
        InputError: the run holds no such format.
        GateError: not every entry point has a program.
    """
    manifest = run.manifest()
    programs = {
        n: e["programs"][exporter.key] for n, e in manifest["entry_points"].items() if exporter.key in e["programs"]
    }
    if not programs:
        raise InputError(
            f"{run.path} holds no {exporter.name}; run `bgevis-convert export {exporter.name} {run.path}` first"
        )
    entries = {name: entry for name, entry in entry_points(manifest).items() if name not in exporter.without}
    missing = sorted(entries.keys() - programs.keys())
    if missing:
        raise GateError(f"the manifest has no {exporter.name} program of {', '.join(missing)}: it was altered")
    return Artifact(
        run.path,
        entries,
        programs,
        lambda: network(run),
        session or Session(),
        lambda tensors: leaves_of(Ledger.read(run.path / LEDGER), tensors),
    )


def probe_folders(directory: Path) -> list[Path]:
    """Give the goldens of each probe."""
    folder = directory / PROBES
    return sorted(folder.iterdir()) if folder.exists() else []

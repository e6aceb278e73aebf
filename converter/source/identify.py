"""Which family a checkpoint belongs to, and its configuration. Reads no weights."""

from dataclasses import dataclass
from pathlib import Path

from ...model.family import Config, Family, Settings, families
from ...validation.errors import InputError
from ..checkpoint import Checkpoint, open_checkpoint
from ..options import Options
from .settings import read_settings


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

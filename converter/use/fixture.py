"""Seeded checkpoints in the upstream layout, so that everything can be tried and measured without a download."""

import fnmatch
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...model.documents import JSON
from ...model.family import Tie, families
from ...validation.errors import EnvironmentFailure, InputError
from ..certificate.ledger import numpy_dtype
from ..output import refuse_place, written


def write_fixture(family_name: str, size: str, seed: int, dtype: str, out: Path, *, force: bool = True) -> int:
    """Write a checkpoint, and beside it the documents that upstream writes; give the checkpoint's size in bytes.

    Raises:
        InputError: no such family or size, or another document is in the place of one, or something in that
            of `out` (a file only without `force`).
        EnvironmentFailure: PyTorch's container was asked for and PyTorch is missing.
    """
    known = families()
    if family_name not in known:
        raise InputError(f"there is no family {family_name!r} (families: {', '.join(known)})")
    family = known[family_name]
    if size not in family.sizes:
        raise InputError(f"{family_name} has no size {size!r} (sizes: {', '.join(family.sizes)})")
    refuse_place(out, force=force)
    config = family.sizes[size]
    write_documents(out.parent, family.documents(config))
    part = family.part(config)
    arrays = {
        name: part.constants[name]
        if name in part.constants
        else draw(name, shape, seed, part.draws).astype(numpy_dtype(dtype))
        for name, shape in part.checkpoint_shapes.items()
    }
    ties = (rule for rule in part.rules if isinstance(rule, Tie) and rule.source in arrays)
    arrays |= {tie.source: arrays[tie.target] for tie in ties}
    with written(out) as aside:
        _save(arrays, aside, safetensors=out.suffix == ".safetensors")
    return out.stat().st_size


def write_documents(folder: Path, documents: Mapping[str, JSON]) -> None:
    """Write what lies beside a checkpoint.

    Raises:
        InputError: another document is in the place of one.
    """
    texts = {folder / place: json.dumps(content, indent=2) + "\n" for place, content in documents.items()}
    for file, text in texts.items():
        if file.exists() and file.read_text(encoding="utf-8") != text:
            raise InputError(
                f"{file} is there, and is not what belongs beside this checkpoint; choose another folder, or move it"
            )
    for file, text in texts.items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")


def draw(name: str, shape: tuple[int, ...], seed: int, stated: Mapping[str, tuple[float, float]]) -> np.ndarray:
    """Draw one tensor, the same on every machine; every kind of parameter gets values that show when it is lost.

    What the family states has its mean and deviation; else norms are 1 + 0.15 N, biases 0.1 N, and matrices
    N(0, 1/sqrt(inputs)).
    """
    noise = np.random.default_rng([seed, *name.encode()]).standard_normal(shape, np.float32)
    for pattern, (mean, deviation) in stated.items():
        if fnmatch.fnmatchcase(name, pattern):
            return np.asarray(noise * np.float32(deviation) + np.float32(mean))
    if len(shape) == 1:
        is_scale = name.endswith("weight")
        return noise * np.float32(0.15) + 1 if is_scale else noise * np.float32(0.1)
    return noise / np.float32(math.sqrt(math.prod(shape[1:])))


def _save(arrays: dict[str, np.ndarray], file: Path, *, safetensors: bool) -> None:
    """Save in either container. PyTorch's keeps one storage for arrays that are one object."""
    if safetensors:
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        try:
            save_file(arrays, file, metadata={"format": "pt"})
        except SafetensorError as error:
            raise EnvironmentFailure(f"{file} cannot be written: {error}") from error
        return
    try:
        import torch
    except ModuleNotFoundError as error:
        raise EnvironmentFailure(
            "PyTorch's container needs PyTorch: pip install 'bgevis-convert[torch]', or use --out NAME.safetensors"
        ) from error
    from ...model.reference import tensor_of

    tensors: dict[int, Any] = {id(array): tensor_of(array) for array in arrays.values()}
    torch.save({name: tensors[id(array)] for name, array in arrays.items()}, file)

"""A checkpoint in several files with an index: `{"weight_map": {name: shard}}`, as transformers writes it."""

from collections.abc import Callable, Mapping
from pathlib import Path

from .format_error import FormatError, blame, shown
from .mapped import MappedFile
from .part import Part
from .strict_json import MAX_BYTES, parse_object
from .tensor import Tensor

INDEX_SUFFIX = ".safetensors.index.json"
SINGLE_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "weights.parquet",
)
NAMES_SHOWN = 5


def find_in_folder(folder: Path) -> Path:
    """Give the checkpoint in a folder, in the order in which transformers looks for one.

    Raises:
        FormatError: there is none, or more than one index.
    """
    for name in SINGLE_FILES:
        if (folder / name).is_file():
            return folder / name
    indexes = sorted(path for path in folder.iterdir() if path.name.endswith(INDEX_SUFFIX))
    if len(indexes) == 1:
        return indexes[0]
    if indexes:
        raise FormatError(
            f"holds several checkpoints ({', '.join(path.name for path in indexes)}); give one of the files"
        )
    raise FormatError(f"is a folder without {' or '.join(SINGLE_FILES)}", "give the checkpoint's file itself")


def read_shards(index: MappedFile, read_file: Callable[[MappedFile], Part]) -> tuple[list[Part], dict[str, Tensor]]:
    """Open every shard of an index: the parts, and all tensors in the order of the index.

    Raises:
        FormatError: the index is damaged.
        InputError: a shard is, or index and shard do not name the same tensors.
    """
    weight_map = _weight_map(index)
    parts = [_read_shard(index.path.parent / shard, read_file) for shard in dict.fromkeys(weight_map.values())]
    if len({part.container for part in parts}) != 1:
        raise FormatError(
            f"names shards in different formats ({', '.join(sorted({part.container for part in parts}))})"
        )
    by_shard = {part.file.path.name: part for part in parts}
    for shard, part in by_shard.items():
        with blame(part.file.path):
            _check_names(index.path.name, {name for name, file in weight_map.items() if file == shard}, part)
    return parts, {name: by_shard[shard].tensors[name] for name, shard in weight_map.items()}


def _weight_map(index: MappedFile) -> Mapping[str, str]:
    if index.size > MAX_BYTES:
        raise FormatError(f"is an index of {index.size} bytes, the limit is {MAX_BYTES}")
    weight_map = parse_object(index.bytes(0, index.size), "index").get("weight_map")
    if type(weight_map) is not dict or not weight_map:
        raise FormatError('is JSON, but not an index of shards: it has no "weight_map"')
    for name, shard in weight_map.items():
        if type(shard) is not str or not _is_plain(shard):
            raise FormatError(f"places {shown(name)} in {shown(str(shard))}, which is not the name of a file beside it")
    return weight_map


def _is_plain(name: str) -> bool:
    return name.isprintable() and not set(name) & set("/\\:") and name not in ("", ".", "..")


def _read_shard(path: Path, read_file: Callable[[MappedFile], Part]) -> Part:
    with blame(path):
        file = MappedFile(path)
        part = read_file(file)
        if part.wrappers:
            raise FormatError(f"wraps its tensors ({', '.join(part.wrappers)}), which shards never do")
        file.close()
        return part


def _check_names(index: str, expected: set[str], part: Part) -> None:
    missing, extra = sorted(expected - set(part.tensors)), sorted(set(part.tensors) - expected)
    if missing or extra:
        raise FormatError(
            f"does not hold what {index} says: missing {_some(missing)}, not in the index {_some(extra)}",
            "copy all files again",
        )


def _some(names: list[str]) -> str:
    listed = ", ".join(shown(name) for name in names[:NAMES_SHOWN])
    return f"{listed}, ... ({len(names)})" if len(names) > NAMES_SHOWN else listed or "none"

"""What else lies in a checkpoint's folder: each file is named with the reason why nothing was read from it."""

import re
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from ...validation.errors import InputError
from ..checkpoint import Checkpoint
from ..checkpoint.sharded import SINGLE_FILES
from ..printable import printable

CANDIDATES = 5
"""Folders that a message names."""

SHOWN = 500
"""Files that are named; of a folder with more, the rest is counted."""

_TRAINING = "state of the training: the weights that inference reads are in the checkpoint"
_PEOPLE = "for people and for programs that copy folders"
_OTHERS = "programs of another runtime, made from such a checkpoint"
_HEADS = "a head of bge-m3 for sparse or token embeddings, which dense embeddings do not pass"
_TOKENIZER = "another form of the tokenizer; the one that is read says what is done to a text"
HARMLESS: Mapping[str, str] = {
    **dict.fromkeys(("*.md", "LICENSE*", "NOTICE*", "*.png", "*.jpg", "*.svg", "*.pdf", ".git*", "CITATION*"), _PEOPLE),
    **dict.fromkeys(("optimizer*.pt", "optimizer*.bin", "scheduler*.pt", "scaler*.pt", "rng_state*.pth"), _TRAINING),
    **dict.fromkeys(("training_args.*", "trainer_state.json", "runs/", "events.out.*", "*_results.json"), _TRAINING),
    **dict.fromkeys(("*.csv", "eval/", "global_step*/", "latest", "zero_to_fp32.py"), _TRAINING),
    **dict.fromkeys(("onnx/", "openvino/", "coreml/", "tflite/", "*.onnx", "*.onnx_data", "*.gguf"), _OTHERS),
    **dict.fromkeys(("colbert_linear.pt", "sparse_linear.pt"), _HEADS),
    **dict.fromkeys(("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "*.bpe.model"), _TOKENIZER),
    **dict.fromkeys(("spiece.model", "tokenizer.model", "bpe.codes", "dict.txt"), _TOKENIZER),
    "generation_config.json": "generation of text only",
    "data_config.json": _TRAINING,
}
"""Names of files, and of folders with a slash at their end, that change nothing at inference."""

WEIGHTS = (
    *("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.ot", "*.npz", "*.parquet"),
    "*.index.json",
)

ADAPTER = "adapter_config.json"
MERGED_FIRST = "merge it with peft first, model.merge_and_unload().save_pretrained(...), and give that folder"
ON_ANOTHER = (
    "an adapter, which changes the weights of another checkpoint: give that one, and this folder with --adapter"
)


def rest(path: Path, checkpoint: Checkpoint, read: Collection[str]) -> dict[str, str]:
    """Name what lies beside a checkpoint and was not read, with the reason.

    Args:
        path: as the user gave it.
        checkpoint: opened.
        read: places of the documents that were read.

    Raises:
        InputError: the folder holds what would change the weights.
    """
    folder = path if path.is_dir() else path.parent
    if path.is_dir() and (folder / ADAPTER).is_file() and ADAPTER not in read:
        raise InputError(
            f"{folder / ADAPTER}: beside the checkpoint lies an adapter, which changes its weights: say --adapter "
            f"{folder} to have it merged, or give the checkpoint's file itself"
        )
    own = checkpoint.named_files.keys()
    modules = {place.rpartition("/")[0] for place in read if "/" in place}
    names = [name for name in _names(folder, modules) if name not in own and name not in read]
    found = {printable(name): _reason(name, checkpoint) for name in names[:SHOWN]}
    if len(names) > SHOWN:
        found[f"{len(names) - SHOWN} more"] = "not looked at"
    return found


def _names(folder: Path, modules: Collection[str]) -> list[str]:
    """Name the files of a folder, of the modules' folders below it, and the other folders with a slash.

    Hidden ones are the systems' (.cache, .git), but for those that belong to a checkpoint.
    """
    found: list[str] = []
    for entry in folder.iterdir():
        if entry.is_dir() and any(module == entry.name or module.startswith(f"{entry.name}/") for module in modules):
            below = {module.removeprefix(f"{entry.name}/") for module in modules}
            found += [f"{entry.name}/{inner}" for inner in _names(entry, below)]
        elif not entry.name.startswith(".") or entry.name == ".metadata":
            found.append(f"{entry.name}/" if entry.is_dir() else entry.name)
    return sorted(found)


def _reason(name: str, checkpoint: Checkpoint) -> str:
    harmless = next((reason for pattern, reason in HARMLESS.items() if fnmatchcase(name, pattern)), "")
    if harmless:
        return f"changes nothing: {harmless}"
    if name.endswith("/"):
        return "not read: a folder that modules.json does not name"
    if any(fnmatchcase(name, pattern) for pattern in WEIGHTS):
        return f"not read: other weights; those of {checkpoint.files[0].name} are"
    return "not read: no document of the family has this name"


def explain_empty(folder: Path) -> str:
    """Say what a folder holds in place of a checkpoint's file, and what to do; "" where that cannot be told."""
    if (folder / ADAPTER).is_file():
        return f"it holds {ON_ANOTHER}"
    if (folder / ".metadata").is_file() and any(folder.glob("*.distcp")):
        return (
            "it holds a distributed checkpoint (.metadata and *.distcp): make one file of it with "
            "torch.distributed.checkpoint.format_utils.dcp_to_torch_save, and give that"
        )
    inside = sorted(_candidates(folder), key=_numbers)
    if not inside:
        return ""
    names = [str(found.relative_to(folder)) for found in inside]
    more = f" and {len(names) - CANDIDATES} more" if len(names) > CANDIDATES else ""
    modules = f" --config {folder / 'modules.json'}" if (folder / "modules.json").is_file() else ""
    return (
        f"checkpoints lie in {', '.join(names[-CANDIDATES:])}{more}; give one of them: "
        f"bgevis-convert all {inside[-1]}{modules} --out DIR"
    )


def _candidates(folder: Path) -> Iterator[Path]:
    """Find the folders below that hold a model's file: a trainer's checkpoints, the hub's snapshots, a module's."""
    for pattern in ("*", "snapshots/*"):
        for found in folder.glob(pattern):
            if found.is_dir() and any((found / name).is_file() for name in SINGLE_FILES):
                yield found


def _numbers(path: Path) -> list[tuple[int, str]]:
    """Order names as people count: checkpoint-50 before checkpoint-100."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]

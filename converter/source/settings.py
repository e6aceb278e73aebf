"""What lies beside a checkpoint, or is passed with --config and --tokenizer: read as data, judged by content."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...model.family import Settings
from ...validation.errors import InputError

BESIDE = ("config.json", "eva_config.json", "modules.json", "1_Pooling/config.json")
TOKENIZER = ("tokenizer.json", "vocab.txt")
LARGEST = 64 << 20
"""A configuration or a vocabulary is never larger."""


def read_settings(checkpoint: Path, configs: Iterable[Path] = (), tokenizer: Path | None = None) -> Settings:
    """Collect the documents beside `checkpoint`; those passed explicitly win.

    A file beside it that is of another program's format is none of ours and is passed over.

    Raises:
        InputError: an explicit file is missing or of no known format, or any of them is malformed.
    """
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    documents: dict[str, Any] = {}
    files: dict[str, str] = {}
    beside = [path for name in BESIDE if (path := folder / name).is_file()]
    explicit = list(configs)
    for path in [*beside, *explicit]:
        kind, content = _classify(_json(path))
        if kind:
            documents[kind], files[kind] = content, str(path)
        elif path in explicit:
            raise InputError(
                f"{path}: not a configuration that this tool knows (Hugging Face's config.json, EVA-CLIP's model "
                "configuration with vision_cfg, sentence-transformers' modules.json or 1_Pooling/config.json)"
            )
    if tokenizer and not any((tokenizer / name).is_file() for name in TOKENIZER):
        raise InputError(f"{tokenizer} holds neither tokenizer.json nor vocab.txt")
    special = _special_tokens(tokenizer or folder)
    return Settings(**documents, special_tokens=special, files=files)


def _json(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path} has {path.stat().st_size} bytes: too large for a configuration file")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error


def _classify(document: Any) -> tuple[str, Any]:
    """Tell the formats apart by what they hold; an empty name for one that is not known."""
    if isinstance(document, list) and document and all(isinstance(m, Mapping) and "type" in m for m in document):
        return "modules", tuple(str(m["type"]).rpartition(".")[2] for m in document)
    if not isinstance(document, Mapping):
        return "", None
    if isinstance(document.get("vision_cfg"), Mapping):
        return "vision", document["vision_cfg"]
    if any(key.startswith("pooling_mode") for key in document):
        return "pooling", document
    if any(key in document for key in ("model_type", "hidden_size", "num_attention_heads")):
        return "model", document
    return "", None


def _special_tokens(folder: Path) -> dict[str, int]:
    """Read the ids of the special tokens, from tokenizer.json or from the lines of vocab.txt."""
    if (folder / "tokenizer.json").is_file():
        document = _json(folder / "tokenizer.json")
        added = document.get("added_tokens", []) if isinstance(document, Mapping) else []
        return {t["content"]: t["id"] for t in added if isinstance(t, Mapping) and t.get("special")}
    if (folder / "vocab.txt").is_file():
        words = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
        return {w: i for i, w in enumerate(words) if w in ("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]")}
    return {}

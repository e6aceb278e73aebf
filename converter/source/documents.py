"""The JSON documents of a checkpoint's folder and its tokenizer: found by place, read strictly, judged elsewhere."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ...model.documents import JSON, Document
from ...model.family import Tokens
from ...model.pipeline import SENTENCES, TRANSFORMERS
from ...validation.errors import EnvironmentFailure, InputError
from ..checkpoint.format_error import FormatError
from ..checkpoint.strict_json import parse

CONFIG, MODULES, POOLING = "config.json", "modules.json", "1_Pooling/config.json"
TOKENIZER = ("tokenizer.json", "vocab.txt")
"""A tokenizer's own file; the first that is there is read."""

OF_TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
PLACES = (
    *(CONFIG, MODULES, POOLING, "eva_config.json", "open_clip_config.json", "config_sentence_transformers.json"),
    *("preprocessor_config.json", "processor_config.json"),
    *TRANSFORMERS,
)
"""Where documents are looked for beside a checkpoint; further ones where modules.json says."""

ADAPTER = "adapter_config.json"
"""Read where an adapter is given, or the checkpoint holds one."""

OF_BACKBONE = (CONFIG, MODULES, POOLING, *TRANSFORMERS, SENTENCES)
BACKBONES = ("vision_encoder", "text_encoder", "audio_encoder", "qwen")
"""Folders of a composite's backbones, called as what stands before their tensors' names: each has documents of its
own."""

GENERATION = "generation_config.json"
"""How tokens are chosen: read for networks whose texts are part of what is converted, of others it says nothing."""

CHOOSING = ("whisper", "qwen2", "qwen3")
"""model_type of these."""

LARGEST = 64 << 20
"""Bytes; neither a configuration nor a vocabulary is larger."""

BY_CONTENT: Mapping[str, tuple[str, ...]] = {
    CONFIG: ("model_type", "hidden_size", "num_attention_heads", "vision_token_dim", *BACKBONES),
    "eva_config.json": ("vision_cfg",),
    "open_clip_config.json": ("model_cfg",),
    POOLING: ("pooling_mode", "pooling_mode_cls_token", "pooling_mode_mean_tokens", "pooling_mode_max_tokens"),
    "sentence_bert_config.json": ("max_seq_length", "transformer_task"),
    "config_sentence_transformers.json": ("prompts", "default_prompt_name", "similarity_fn_name"),
    "tokenizer_config.json": ("tokenizer_class", "model_max_length"),
    "generation_config.json": ("lang_to_id", "no_timestamps_token_id", "alignment_heads", "_from_model_config"),
    "preprocessor_config.json": ("image_processor_type", "feature_extractor_type", "image_mean", "do_resize"),
}
"""What a file passed with --config is, when its name does not say: fields of which each has one."""

ARGUMENTS = ("num_heads", "activation", "use_residual", "d_model", "head_dim", "vision_model", "text_model")
"""Constructor arguments of networks that nothing stores: a file of such is a config.json, whatever its name is."""


@dataclass(frozen=True)
class Found:
    """What was read.

    Args:
        documents: by place.
        tokens: what the tokenizer's own file says; None where there is none, or none is wanted.
        digests: place -> sha256 of each file that was read.
        passed: places of the documents that came with --config.
    """

    documents: Mapping[str, Document]
    tokens: Tokens | None
    digests: Mapping[str, str]
    passed: tuple[str, ...] = ()

    def modules(self) -> Iterator[tuple[str, str, Path]]:
        """Give name, path and folder of each module after the first that modules.json names."""
        document = self.documents.get(MODULES)
        listed = document.content if document and isinstance(document.content, list) else []
        for at, module in enumerate(listed):
            if at and isinstance(module, dict) and module.get("path"):
                folder = Path(document.origin).parent / module["path"] if document else Path()
                yield str(module.get("name", at)), module["path"], folder

    def described(self) -> dict[str, dict[str, JSON]]:
        """State each file that was read, as the manifest does: its digest, and what became of its fields."""
        described: dict[str, dict[str, JSON]] = {}
        for place, digest in sorted(self.digests.items()):
            document = self.documents.get(place)
            used = document is None or document.read
            fields = {"fields": document.told()} if document and used else {}
            described[place] = {"sha256": digest, "status": "used" if used else "not read", **fields}
        return described


def read_documents(
    folder: Path,
    configs: Iterable[Path] = (),
    tokenizer: Path | None = None,
    ignored: Iterable[str] = (),
    *,
    tokens: bool = True,
    beside: Iterable[str] = (),
) -> Found:
    """Read the documents of a checkpoint's folder; those passed explicitly win.

    Args:
        folder: the checkpoint's.
        configs: files passed explicitly.
        tokenizer: the tokenizer's folder, if another.
        ignored: "DOCUMENT:FIELD" to pass over.
        tokens: whether a tokenizer is wanted.
        beside: further places beside the checkpoint, which its container has.

    Raises:
        InputError: one is there but is no readable regular file or no JSON, an explicit one is not known, or there is
            nothing to ignore of that name.
    """
    files = {place: folder / place for place in (*PLACES, *beside)}
    files |= {place: (tokenizer or folder) / place for place in OF_TOKENIZER}
    files |= {f"{part}/{place}": folder / part / place for part in BACKBONES for place in OF_BACKBONE}
    files[f"qwen/{GENERATION}"] = folder / "qwen" / GENERATION
    contents: dict[str, JSON] = {}
    digests: dict[str, str] = {}

    def read(place: str, path: Path) -> None:
        data = _bytes(path)
        if data is not None:
            contents[place], digests[place], files[place] = _json(data, path), hashlib.sha256(data).hexdigest(), path

    passed: list[str] = []
    for path in configs:
        data = _bytes(path)
        if data is None:
            raise InputError(f"{path} does not exist")
        place = _place(path, _json(data, path))
        read(place, path)
        passed.append(place)
    if MODULES not in contents:
        read(MODULES, files[MODULES])
    if isinstance(contents.get(MODULES), list) and POOLING not in contents:
        del files[POOLING]  # it says where the pooling is, here or elsewhere
    for place, path in list(files.items()):
        if place not in contents:
            read(place, path)
    config = contents.get(CONFIG)
    if GENERATION not in contents and isinstance(config, dict) and config.get("model_type") in CHOOSING:
        read(GENERATION, folder / GENERATION)
    if MODULES in contents and SENTENCES not in contents:  # it lies beside modules.json, wherever the network is
        read(SENTENCES, files[MODULES].parent / SENTENCES)
    for place in _modules(contents.get(MODULES), files[MODULES], folder):
        if place not in contents:
            read(place, files[MODULES].parent / place)
    found = None
    with contextlib.suppress(*([] if tokens else [InputError])):  # of one that is not wanted no fault matters
        found = _tokens(tokenizer or folder, digests, named=tokenizer is not None)
    found = replace(found, wanted=tokens) if found else None
    by_document = _ignored(ignored, contents)
    documents = {p: Document(p, str(files[p]), content, by_document.get(p, ())) for p, content in contents.items()}
    return Found(documents, found, digests, tuple(passed))


def _bytes(path: Path) -> bytes | None:
    """Read a file; None when there is none. A link is followed, as in the hub's cache.

    Raises:
        InputError: something that is no regular file is there, or one that is too large.
        EnvironmentFailure: there is no permission to read it.
    """
    if not os.path.lexists(path):
        return None
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO would wait for its writer
    except FileNotFoundError as error:
        raise InputError(f"{path} is a link to nowhere; remove it, or copy what it should lead to") from error
    except PermissionError as error:
        raise EnvironmentFailure(f"{path}: no permission to read it; change its mode or run as its owner") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); a regular file is expected") from error
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise InputError(f"{path} is no regular file; remove it, or put the document in its place")
    with os.fdopen(handle, "rb") as file:
        if status.st_size > LARGEST:
            raise InputError(f"{path} has {status.st_size} bytes, expected at most {LARGEST} of such a file")
        return file.read(LARGEST + 1)


def _json(data: bytes, path: Path) -> JSON:
    try:
        return parse(data)
    except FormatError as error:
        raise InputError(f"{path} {error.problem}; mend it, or download it again") from error


def _place(path: Path, content: JSON) -> str:
    """Say what a file passed with --config is: by its name, else by what it holds."""
    if path.name in (*PLACES, *OF_TOKENIZER, ADAPTER) and path.name != CONFIG:
        return path.name
    if path.name == CONFIG and path.absolute().parent.name in BACKBONES:
        return f"{path.absolute().parent.name}/{CONFIG}"
    if path.name == CONFIG and path.absolute().parent.name[:1].isdigit():  # a module's folder, as in 1_Pooling
        return f"{path.absolute().parent.name}/{CONFIG}"
    fitting = [MODULES] if isinstance(content, list) else []
    if isinstance(content, dict):
        fitting = [place for place, fields in BY_CONTENT.items() if any(field in content for field in fields)]
        if (path.name == CONFIG and not fitting) or any(field in content for field in ARGUMENTS):
            return CONFIG
    if len(fitting) == 1:
        return fitting[0]
    reason = f"may be any of {', '.join(fitting)}" if fitting else "is none that this tool knows"
    raise InputError(
        f"{path}: what document this is is told by its name ({', '.join((*PLACES, *OF_TOKENIZER))}), else by its "
        f"fields, and by these it {reason}; name it as what it is"
    )


def _modules(content: JSON, file: Path, folder: Path) -> Iterator[str]:
    """Give the places of the modules' configurations, and see that the first module is the checkpoint's folder."""
    if not isinstance(content, list):
        return  # refused by whoever reads it
    paths = [module.get("path") for module in content if isinstance(module, dict)]
    for path in paths:
        if not isinstance(path, str) or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise InputError(f"{file}: a module's path is {path!r}, expected a folder beside it")
    if paths and not _same(file.parent / str(paths[0]), folder):
        raise InputError(
            f"{file}: the first module, the network, is in {file.parent / str(paths[0])}, but the checkpoint that was "
            f"given is in {folder}; give that one"
        )
    yield from (f"{path}/{CONFIG}" for path in paths[1:] if path)


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _ignored(ignored: Iterable[str], contents: Mapping[str, JSON]) -> dict[str, set[str]]:
    """Sort "DOCUMENT:FIELD" by document."""
    found: dict[str, set[str]] = {}
    for each in ignored:
        place, colon, field = each.partition(":")
        if not colon or not field:
            raise InputError(f"--ignore {each}: expected DOCUMENT:FIELD, as in config.json:auto_map")
        if place not in contents:
            known = ", ".join(contents) or "none"
            raise InputError(f"--ignore {each}: there is no document {place} (those that are there: {known})")
        if not _holds(contents[place], field):
            raise InputError(f"--ignore {each}: {place} has no field {field}")
        found.setdefault(place, set()).add(field)
    return found


def _holds(content: JSON, field: str) -> bool:
    """Say whether a document has a field; a dot leads into an object, "[1]." into a list."""
    if isinstance(content, dict) and field in content:
        return True
    name, dot, rest = field.partition(".")
    if isinstance(content, list) and name[1:-1].isdecimal() and name == f"[{name[1:-1]}]":
        return bool(dot) and int(name[1:-1]) < len(content) and _holds(content[int(name[1:-1])], rest)
    return isinstance(content, dict) and bool(dot) and _holds(content.get(name), rest)


def _tokens(folder: Path, digests: dict[str, str], *, named: bool) -> Tokens | None:
    """Read the tokenizer's own file.

    Raises:
        InputError: it is malformed.
    """
    for name in TOKENIZER:
        path = folder / name
        data = _bytes(path)
        if data is None:
            continue
        digests[name] = hashlib.sha256(data).hexdigest()
        if name == "vocab.txt":
            return Tokens(name, str(path), _words(data, path))
        document = _json(data, path)
        if not isinstance(document, dict):
            raise InputError(f"{path} is no tokenizer: it is not an object")
        normalizer, processor = document.get("normalizer"), document.get("post_processor")
        return Tokens(name, str(path), _ids(document, path), normalizer, processor)
    if named:
        raise InputError(f"{folder} holds neither tokenizer.json nor vocab.txt")
    return None


def _words(data: bytes, path: Path) -> dict[str, int]:
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error}") from error
    return {word.rstrip("\r"): i for i, word in enumerate(lines) if word or i + 1 < len(lines)}


def _ids(document: Mapping[str, Any], path: Path) -> dict[str, int]:
    """Give the id of every token of a tokenizer.json."""
    model = document.get("model")
    if not isinstance(model, dict):
        raise InputError(f"{path} is no tokenizer: it has no model")
    words, added = model.get("vocab"), document.get("added_tokens", [])
    try:
        found = dict(words) if isinstance(words, dict) else {word: i for i, (word, _) in enumerate(words or [])}
        found |= {token["content"]: token["id"] for token in added or []}
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is no tokenizer: its vocabulary or added_tokens are malformed") from error
    if not all(isinstance(text, str) and type(number) is int for text, number in found.items()):
        raise InputError(f"{path} is no tokenizer: its vocabulary or added_tokens are malformed")
    return found

"""A tokenizer in files of its own program, turned into tokenizer.json by upstream's own conversion.

As with a tokenizer from the hub, what comes of it lies in a cache, as a folder that is read like any other.
"""

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import string
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ...model.tokenizer import ADDED, FAST, WORD_PIECES
from ...validation.errors import EnvironmentFailure, InputError
from .hub import FILES

SLOW = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model", "vocab.json", "merges.txt", "bpe.codes")
"""Files of tokenizers that need a program of their own."""

CONVERTED = "converted.json"
"""Beside a tokenizer.json that was made: of which files, and by whom."""

ADVICE = (
    "write a tokenizer.json with transformers' AutoTokenizer.from_pretrained(...).save_pretrained(...), pass "
    "--tokenizer DIR, or say --no-tokenizer if no raw texts are wanted"
)
SIGLIP = "SiglipTokenizer"
FINAL_SIGMA = r"(?<=\p{L})\u03a3(?!\p{L})"
"""A word's last capital sigma, which becomes another small letter than those within."""

QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}


def converted(folder: Path) -> Path:
    """Give the folder whose tokenizer is read: this one, or the cache's with what upstream makes of its files.

    Raises:
        InputError: upstream cannot read the files, or makes no tokenizer.json of them.
        EnvironmentFailure: the cache cannot be written.
    """
    named = _needed(folder)
    if not named:
        return folder
    try:
        version = importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(
            f"{folder} holds a tokenizer that cannot be read here: {', '.join(named)} without tokenizer.json; "
            f"pip install 'bgevis-convert[upstream]' to have it converted, or {ADVICE}"
        ) from error
    read = sorted({*named, *(name for name in (*FILES, "config.json") if (folder / name).is_file())})
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in read}
    key = hashlib.sha256(json.dumps([version, digests]).encode()).hexdigest()[:32]
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bgevis-convert" / "tokenizers"
    if not (root / key / CONVERTED).is_file():
        text, kind = _convert(folder, named)
        note = {"by": f"transformers {version}: {kind}", "of": {name: digests[name] for name in named}}
        try:
            _store(root, key, folder, text, note)
        except OSError as error:
            raise EnvironmentFailure(f"{root} cannot be written ({error.strerror}); set XDG_CACHE_HOME") from error
    return root / key


def _needed(folder: Path) -> list[str]:
    """Name the files that only a program of theirs reads; none where tokenizer.json or BERT's words are all there."""
    if (folder / "tokenizer.json").is_file():
        return []
    if (folder / "vocab.txt").is_file():
        kind = _class(folder) or WORD_PIECES[0]
        read = kind in WORD_PIECES and not _added(folder)
        return ["vocab.txt"] if kind in FAST and not read else []
    return [name for name in SLOW if (folder / name).is_file()]


def _added(folder: Path) -> bool:
    """Say whether words were added that vocab.txt has not: transformers puts them behind, and never cuts them."""
    try:
        added = json.loads((folder / ADDED).read_text(encoding="utf-8")) if (folder / ADDED).is_file() else {}
        words = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
        return bool(set(added) - {word.rstrip("\r") for word in words})
    except (OSError, ValueError, TypeError):
        return False  # what is malformed is told by who reads all of it


def _class(folder: Path) -> str:
    """Read the tokenizer's class; "" where that is not stated. What is malformed is told by who reads all of it."""
    settings = folder / "tokenizer_config.json"
    if not settings.is_file():  # to read a FIFO would wait for somebody to write into it
        return ""
    try:
        stated = json.loads(settings.read_text(encoding="utf-8"))
        return str(stated.get("tokenizer_class") or "")
    except (OSError, ValueError, AttributeError):
        return ""


def _convert(folder: Path, named: list[str]) -> tuple[str, str]:
    """Let transformers read the files; give tokenizer.json, and the class that made it."""
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    import transformers

    files = ", ".join(named)
    if _class(folder) == SIGLIP and "spiece.model" in named:
        return _siglip(folder), f"{SIGLIP}'s rules"
    try:
        made = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever upstream raises, it cannot read them
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{folder}: transformers cannot convert its tokenizer ({files}): {reason}; {ADVICE}"
        ) from error
    backend, kind = getattr(made, "backend_tokenizer", None), type(made).__name__
    unread = [name for name in named if name not in type(made).vocab_files_names.values()]
    if unread:  # of what is not there it makes a tokenizer without words, and says nothing
        raise InputError(f"{folder}: transformers' {kind} does not read {', '.join(unread)}; {ADVICE}")
    if backend is None:
        raise InputError(f"{folder}: transformers' {kind} has no tokenizer.json that {files} could become; {ADVICE}")
    return backend.to_str(), kind


def _siglip(folder: Path) -> str:
    """Make SigLIP's tokenizer, of which transformers has no tokenizer.json: its rules for a text, then its pieces.

    Capitals are made small, ASCII's punctuation is dropped, white space becomes one space: by SiglipTokenizer of
    transformers 5.24, which reads only spiece.model.

    Raises:
        InputError: spiece.model is none.
    """
    from tokenizers import AddedToken, Regex, normalizers, processors
    from transformers.convert_slow_tokenizer import SpmConverter, import_protobuf

    place = folder / "spiece.model"
    try:
        model = import_protobuf().ModelProto()
        model.ParseFromString(place.read_bytes())
        pieces = [(piece.piece, piece.score) for piece in model.pieces]
        made = SpmConverter.build_tokenizer_from_spm_proto(model, pieces, legacy=False)
    except Exception as error:  # the library's own
        raise InputError(f"{place} is no model of sentencepiece: {error}; {ADVICE}") from error
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    own = [*made.normalizer] if made.normalizer else []
    small = [normalizers.Replace(Regex(FINAL_SIGMA), "\u03c2"), normalizers.Lowercase()]
    mark, space = re.escape(string.punctuation), r"\s\x1c-\x1f"
    follows = f"(?=[^{mark}{space}])"
    made.normalizer = normalizers.Sequence(
        [
            normalizers.Replace("\u2581", " "),
            *(small if settings.get("do_lower_case", True) else []),
            # Before every text stands a \u2581, which white space at its beginning does not join.
            normalizers.Replace(Regex(rf"\A[{mark}]*[{space}][{mark}{space}]*{follows}"), "\u2581\u2581"),
            normalizers.Replace(Regex(rf"\A[{mark}]+{follows}"), "\u2581"),
            normalizers.Replace(Regex(f"[{mark}]"), ""),
            normalizers.Replace(Regex(f"[{space}]+"), " "),
            normalizers.Strip(left=False, right=True),
            *own,
        ]
    )
    texts = {name: settings.get(f"{name}_token", usual) for name, usual in (("eos", "</s>"), ("unk", "<unk>"))}
    named = {name: text["content"] if isinstance(text, dict) else text for name, text in texts.items()}
    known = {piece: i for i, (piece, _) in enumerate(pieces)}
    if missing := [text for text in named.values() if text not in known]:
        raise InputError(f"{place} has no piece {', '.join(map(repr, missing))}, which tokenizer_config.json names")
    made.add_special_tokens([AddedToken(text, lstrip=True, rstrip=True, special=True) for text in named.values()])
    end = named["eos"]
    made.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, known[end])])
    return str(made.to_str())


def _store(root: Path, key: str, folder: Path, text: str, note: Mapping[str, object]) -> None:
    """Put the folder into the cache, whole or not at all."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        made = Path(scratch) / key
        made.mkdir()
        for name in FILES:
            if (folder / name).is_file() and name not in ("vocab.txt", "tokenizer.json"):
                shutil.copyfile(folder / name, made / name)
        (made / "tokenizer.json").write_text(text, encoding="utf-8")
        (made / CONVERTED).write_text(json.dumps(note) + "\n")
        if not (root / key).exists():
            made.replace(root / key)

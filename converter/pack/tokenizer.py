"""The tokenizer: found beside the checkpoint or where `--tokenizer` says, held to the network.

Its truncation and padding become what the network means.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...model.family import REFUSED
from ...validation.domains import AFTER, BEFORE, LogMel
from ...validation.entry_point import EntryPoint, TokenIds
from ...validation.errors import InputError
from ...validation.packages import need
from ..source.slow import CONVERTED

if TYPE_CHECKING:
    from tokenizers import Tokenizer

JSON, VOCABULARY, SETTINGS = "tokenizer.json", "vocab.txt", "tokenizer_config.json"

TRUNCATION = {
    "right": "keep the first tokens and the special tokens",
    "left": "keep the last tokens and the special tokens",
    REFUSED: "none: a longer text is refused",
}
"""The side at which a text that is too long is cut, and how preprocess.json says it."""

HALF = re.compile("[\ud800-\udfff]")
SHOWN = 60
"""Characters of a text that a message shows."""

PADDING = {side: f"{side} the text, to the longest of the batch" for side in (AFTER, BEFORE)}
"""Where padding stands, and how preprocess.json says it."""

WHOLE = "after the text, to max_tokens"
"""The same of a network whose texts all have one length."""


FEWEST = 2
"""A network has not so many times more tokens than its tokenizer: what is added for round sizes is a few."""


class Unusable(InputError):
    """A tokenizer that does not belong to the network."""


def token_ids(entries: Iterable[EntryPoint]) -> TokenIds | None:
    """Give what the entry points know of ids; None when none reads text."""
    found = next((spec for entry in entries if (spec := entry.input_of(TokenIds))), None)
    return found.domain if found and isinstance(found.domain, TokenIds) else None


def writes(entries: Iterable[EntryPoint]) -> bool:
    """Say whether texts come out, those of sounds, and none is read."""
    return any(entry.input_of(LogMel) for entry in entries)


def state(folder: Path, domain: TokenIds, *, written: bool = False) -> dict[str, Any]:
    """Describe the tokenizer in `folder` as the manifest states it: its files and digests, or why there is none.

    Of texts that are written, and not read, no special tokens are asked: the network's own are forced.

    Raises:
        InputError: one is there that cannot be read or does not belong to the network.
        EnvironmentFailure: there is one, and the package that reads it is missing.
    """
    if not any((folder / name).is_file() for name in (JSON, VOCABULARY)):
        return missing(f"neither {JSON} nor {VOCABULARY} lies beside the checkpoint; pass --tokenizer DIR")
    try:
        read(folder, domain, written=written)
    except Unusable as error:
        raise InputError(
            f"{error}; pass --tokenizer DIR with the network's own, or say --no-tokenizer if no raw texts are wanted"
        ) from error
    described = {"files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in _files(folder)}}
    if (folder / CONVERTED).is_file():
        described["converted"] = json.loads((folder / CONVERTED).read_text())
    return described


def missing(reason: str) -> dict[str, Any]:
    """Describe that there is no tokenizer, as the manifest states it."""
    return {"files": {}, "missing": reason}


def _files(folder: Path) -> Iterator[Path]:
    """Give the files that a tokenizer is read from."""
    names = (JSON,) if (folder / JSON).is_file() else (VOCABULARY, SETTINGS)
    yield from (folder / name for name in names if (folder / name).is_file())


def read(folder: Path, domain: TokenIds, *, written: bool = False) -> "Tokenizer":
    """Read a tokenizer and hold it to the ids that the network knows, see `state`.

    Raises:
        Unusable: it cannot be read, or gives ids that the network has no rows for or other special tokens.
    """
    need("tokenizers", f"the tokenizer in {folder}")
    path = next(_files(folder))
    try:
        tokenizer = load(path) if path.name == JSON else _word_pieces(folder)
    except (ValueError, AttributeError, TypeError) as error:
        raise Unusable(f"{path} is no tokenizer: {error}") from error
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if largest >= domain.vocab_size:
        raise Unusable(f"{path} gives ids up to {largest}, but the network knows {domain.vocab_size} tokens")
    count = tokenizer.get_vocab_size(with_added_tokens=True)
    if count * FEWEST < domain.vocab_size:
        raise Unusable(f"{path} has {count} tokens, but the network knows {domain.vocab_size}: it is another's")
    wanted, empty = domain.empty, tokenizer.encode("").ids
    if empty != wanted and not written:
        raise Unusable(f"{path} makes {empty} of the empty text, but the network's first and last tokens are {wanted}")
    if tokenizer.id_to_token(domain.pad) is None:
        raise Unusable(f"{path} has no token {domain.pad}, which the network's padding is")
    return tokenizer


def load(path: Path) -> "Tokenizer":
    """Read a tokenizer.json, without its truncation and padding: what was set for training is not the network's.

    Raises:
        ValueError: it is no such file.
    """
    from tokenizers import Tokenizer

    text = path.read_text(encoding="utf-8")
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises Exception itself
        raise ValueError(str(error)) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _word_pieces(folder: Path) -> "Tokenizer":
    """Build BERT's tokenizer from its list of words, as its settings say."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    words = (folder / VOCABULARY).read_text(encoding="utf-8").split("\n")
    vocabulary = {word.rstrip("\r"): i for i, word in enumerate(words) if word or i + 1 < len(words)}
    settings: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError):
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    special = [word for word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if word in vocabulary]
    for word in ("[UNK]", "[CLS]", "[SEP]"):
        if word not in vocabulary:
            raise ValueError(f"{VOCABULARY} has no {word}")
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in special])
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=bool(settings.get("do_lower_case", True)),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=bool(settings.get("tokenize_chinese_chars", True)),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(word, vocabulary[word]) for word in ("[CLS]", "[SEP]")],
    )
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def lower(tokenizer: "Tokenizer") -> None:
    """Let capitals be made small before the tokenizer's own rules, as sentence-transformers does it."""
    from tokenizers import normalizers

    own = tokenizer.normalizer
    several = list(cast(Any, own)) if isinstance(own, normalizers.Sequence) else [own] if own else []
    if not any(isinstance(each, normalizers.Lowercase) for each in several):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *several])


def truncate(tokenizer: "Tokenizer", limit: int | None, truncation: str) -> None:
    """Set truncation to a limit and to one of the `TRUNCATION`s; None for no limit.

    Raises:
        InputError: it is none of them.
    """
    side = next((side for side, words in TRUNCATION.items() if words == truncation), None)
    if side is None:
        raise InputError(f"truncation is {truncation!r}, expected one of {', '.join(map(repr, TRUNCATION.values()))}")
    if limit is None or side == REFUSED:
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(limit, direction=side)


def unknown_id(tokenizer: "Tokenizer") -> int | None:
    """Give the id of what is in no vocabulary; None where everything is in one."""
    model = json.loads(tokenizer.to_str())["model"]
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    return None if model.get("unk_token") is None else tokenizer.token_to_id(model["unk_token"])


def refuse_halves(text: str, name: str) -> None:
    """Refuse a text that no tokenizer reads.

    Raises:
        InputError: it holds half of a character, as bytes do that are not UTF-8.
    """
    if not text.isascii() and HALF.search(text):
        raise InputError(f"{name} holds {text[:SHOWN]!r}, a part of which is no character; read it as UTF-8")


def encoded(
    tokenizer: "Tokenizer", rows: Sequence[str | tuple[str, str]], first: int, *, special: bool = True
) -> list[Any]:
    """Encode texts, or pairs of them, the first of which has the number `first`.

    Raises:
        InputError: one holds half of a character, as bytes do that are not UTF-8.
    """
    try:
        return list(tokenizer.encode_batch_fast(list(rows), add_special_tokens=special))
    except (TypeError, UnicodeEncodeError):
        for number, row in enumerate(rows, first):
            for text in (row,) if isinstance(row, str) else row:
                if isinstance(text, str):
                    refuse_halves(text, f"text {number}")
        raise


def query_first(
    tokenizer: "Tokenizer", pairs: Sequence[tuple[str, str]], limit: int, truncation: str
) -> list[tuple[Any, bool]]:
    """Encode pairs, cutting the first text to three quarters of the limit, then the second; say which were cut."""
    side = next(side for side, words in TRUNCATION.items() if words == truncation)
    special = tokenizer.num_special_tokens_to_add(True)
    tokenizer.no_truncation()
    parts = [encoded(tokenizer, texts, 0, special=False) for texts in zip(*pairs, strict=True)]
    found = []
    for first, second in zip(*parts, strict=True):
        whole = len(first.ids) + len(second.ids)
        first.truncate(limit * 3 // 4, direction=side)
        second.truncate(max(0, limit - special - len(first.ids)), direction=side)
        found.append((tokenizer.post_process(first, second), len(first.ids) + len(second.ids) < whole))
    return found


def settle(tokenizer: "Tokenizer", limit: int | None, truncation: str, ids: TokenIds, padding: str) -> None:
    """Set truncation to what is done to texts, and padding to the longest of the batch or to the limit."""
    truncate(tokenizer, limit, truncation)
    side = "left" if ids.padded == BEFORE else "right"
    length = limit if padding == WHOLE else None
    tokenizer.enable_padding(direction=side, length=length, pad_id=ids.pad, pad_token=tokenizer.id_to_token(ids.pad))

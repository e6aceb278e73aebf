"""The documents of a tokenizer, held to each other: its own file says what is done to a text, and they must agree.

Where they do not, versions of transformers part: 4 keeps most of tokenizer.json, 5 makes BERT's normalizer anew, as
tokenizer_config.json says.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from ..validation.errors import InputError
from .documents import JSON, USED, Document, Harmless, Only, shown
from .family import Source, Tokens

SETTINGS = "tokenizer_config.json"
SPECIAL = "special_tokens_map.json"
ADDED = "added_tokens.json"
MODEL = "tokenizer.json"

_SAVED = "an argument of a call before it was saved; sentence-transformers passes its own"
_BACK = "concerns the way from ids to text"
_WHERE = "where it was loaded from"
_MODEL = "tokenizer.json holds what it asks for"
_FOUND = "how it is found in a text; tokenizer.json holds that"
HARMLESS: Harmless = {
    **dict.fromkeys(("name_or_path", "special_tokens_map_file", "tokenizer_file", "vocab_file", "is_local"), _WHERE),
    **dict.fromkeys(("local_files_only", "use_fast", "tokenizer_type"), _WHERE),
    **dict.fromkeys(("clean_up_tokenization_spaces", "errors", "trim_offsets"), _BACK),
    **dict.fromkeys(("max_length", "stride", "truncation_strategy"), _SAVED),
    **dict.fromkeys(("pad_to_multiple_of", "padding_strategy", "pad_token_type_id"), "padding is masked"),
    **dict.fromkeys(("add_prefix_space", "keep_accents", "legacy", "sp_model_kwargs"), _MODEL),
    **dict.fromkeys(("mask_token", "bos_token", "eos_token", "pad_token", "unk_token"), _MODEL),
    "backend": Only(("tokenizers",), "the library that tokenizer.json is for"),
    "processor_class": "concerns pictures and sound",
    "model_input_names": "names of the network's inputs",
    "do_basic_tokenize": Only((True,), "splits at punctuation, as is done here"),
    "split_special_tokens": Only((False,), "one that is typed is one, as here"),
    "never_split": Only((None, []), "nothing is kept whole"),
    "auto_map": Only((None,), "no code of its own"),
}
"""tokenizer_config.json, by PreTrainedTokenizerBase.__init__ and TokenizersBackend of transformers 5.24."""

WORD_PIECES = ("BertTokenizer", "BertTokenizerFast")
"""Classes of transformers that are made of vocab.txt alone."""

REBUILT = (
    *WORD_PIECES,
    *("DistilBertTokenizer", "DistilBertTokenizerFast", "ElectraTokenizer", "ElectraTokenizerFast"),
    *("MPNetTokenizer", "MPNetTokenizerFast"),
)
"""Those whose normalizer follows tokenizer_config.json."""

FAST = (
    *REBUILT,
    *("PreTrainedTokenizerFast", "TokenizersBackend", "XLMRobertaTokenizer", "XLMRobertaTokenizerFast"),
    *("RobertaTokenizer", "RobertaTokenizerFast", "CamembertTokenizer", "CamembertTokenizerFast"),
    *("CLIPTokenizer", "CLIPTokenizerFast", "GemmaTokenizer", "GemmaTokenizerFast", "SiglipTokenizer"),
    *("WhisperTokenizer", "WhisperTokenizerFast", "Qwen2Tokenizer", "Qwen2TokenizerFast"),
)
"""Those that do to a text what tokenizer.json says and no more; others (Japanese, tweets) do something before. Of
SigLIP's own, its family holds tokenizer.json to what that does before."""

NORMALIZER: Mapping[str, tuple[str, JSON]] = {
    "do_lower_case": ("lowercase", True),
    "strip_accents": ("strip_accents", None),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}
"""tokenizer_config.json's field -> what BERT's normalizer calls it, and what silence means."""

BERT = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}


def settle_tokenizer(source: Source, usual: str) -> None:
    """Hold the tokenizer's documents to the tokenizer's own file.

    Args:
        source: with the documents.
        usual: the class that transformers takes where none is named.

    Raises:
        InputError: they disagree, or ask for what is not done here.
    """
    settings, special, tokens = source.document(SETTINGS), source.document(SPECIAL), _wanted(source)
    for document in filter(None, (settings, special)):
        for field in BERT:
            _text(document, field)
    if special:
        special.accept(dict.fromkeys(special.fields, _MODEL))
    stated = list(_added(source))
    asked = usual
    if settings:
        ignored = settings.ignores("tokenizer_class")
        asked = settings.take("tokenizer_class", str, None) or ("TokenizersBackend" if ignored else usual)
        settings.accept(HARMLESS)
        settings.accept({} if tokens else dict.fromkeys(NORMALIZER, "no tokenizer is read"))
    if tokens and (settings or tokens.name != MODEL):
        _hold_class(settings.origin if settings else tokens.origin, tokens, asked)
    if tokens and settings:
        _hold_normalizer(settings, tokens, rebuilt=asked in REBUILT)
    for document, text, number in stated:
        if tokens and (text not in tokens.ids or number not in (None, tokens.ids[text])):
            raise InputError(
                f"{document.origin}: the token {shown(text)} has an id ({number}), but in {tokens.origin} it has "
                f"{tokens.ids.get(text, 'none')}; save the tokenizer again, so that "
                f"{MODEL} has all tokens, or say --no-tokenizer"
            )
    for document in filter(None, (settings, special)):
        for field, usual_text in BERT.items():
            if tokens and tokens.name != MODEL and _text(document, field) not in (None, usual_text):
                raise InputError(
                    f"{document.origin}: {field} is {shown(_text(document, field))}: of a {tokens.name} only BERT's "
                    f"own names are read ({usual_text}); pass --tokenizer with a {MODEL}, or say --no-tokenizer"
                )


def special_ids(source: Source, fields: Mapping[str, tuple[str, tuple[str, ...]]]) -> Iterator[tuple[str, int, str]]:
    """Find the ids of special tokens: by the text that the documents give each, else by its usual ones.

    Args:
        source: with the documents and the tokenizer's own file.
        fields: what is wanted -> the documents' field, and the usual texts.

    Yields:
        What is wanted, its id, and where that is from; nothing for what the tokenizer does not have.
    """
    documents = [d for d in (source.document(SETTINGS), source.document(SPECIAL)) if d]
    for wanted, (field, usual) in fields.items():
        stated = [text for document in documents if (text := _text(document, field)) is not None]
        for text in stated[:1] or usual:
            if source.tokens and text in source.tokens.ids:
                yield wanted, source.tokens.ids[text], f"{source.tokens.name}: {text}"
                break


def around(source: Source) -> tuple[list[int], list[int]]:
    """Give the ids that tokenizer.json's template puts before and after a text; none where it has no template."""
    tokens = _wanted(source)
    found: list[int | None] = []
    for processor in _flat(tokens.processor if tokens else None, "processors"):
        known = processor.get("special_tokens", {})
        for piece in processor.get("single", []) if processor.get("type") == "TemplateProcessing" else []:
            special = piece.get("SpecialToken")
            found += [None] if special is None else known[special["id"]]["ids"]
    at = found.index(None) if None in found else 0
    before, after = found[:at], found[at + 1 :]
    return [i for i in before if i is not None], [i for i in after if i is not None]


def lowercases(source: Source) -> bool | None:
    """Say whether the tokenizer makes capitals small; None when there is none, or none is wanted."""
    tokens = _wanted(source)
    if tokens is None:
        return None
    if tokens.name == MODEL:
        return any(map(_lowers, normalizers(tokens.normalizer)))
    settings = source.document(SETTINGS)
    return settings is None or bool(settings.take("do_lower_case", bool, default=True))


def _wanted(source: Source) -> Tokens | None:
    return source.tokens if source.tokens and source.tokens.wanted else None


def _hold_class(origin: str, tokens: Tokens, asked: str) -> None:
    known = FAST if tokens.name == MODEL else WORD_PIECES
    if asked not in known:
        raise InputError(
            f"{origin}: the tokenizer is transformers' {asked}, and what it does to a text does not stand in "
            f"{tokens.name} (classes of which it does: {', '.join(known)}); pass --tokenizer with a {MODEL} that does "
            "all of it, or say --no-tokenizer"
        )


def _hold_normalizer(settings: Document, tokens: Tokens, *, rebuilt: bool) -> None:
    """Hold what tokenizer_config.json says of capitals, accents and ideographs to tokenizer.json's normalizer."""
    said = {field: settings.take(field, bool, silence) for field, (_, silence) in NORMALIZER.items()}
    if tokens.name != MODEL:
        return  # it is made as they say
    has = [*normalizers(tokens.normalizer)]
    while rebuilt and has and has[0].get("type") == "Lowercase":
        has = has[1:]  # sentence-transformers' own, before the tokenizer's rules; its class does not know of it
    if not rebuilt:
        said = {"do_lower_case": said["do_lower_case"]} if "do_lower_case" in settings else {}
    if rebuilt and ([each.get("type") for each in has] != ["BertNormalizer"] or has[0].get("clean_text") is not True):
        kinds = ", ".join(shown(each.get("type")) for each in has) or "none"
        raise InputError(
            f"{tokens.origin}: its normalizer is {kinds}, but the class of {settings.origin} makes BERT's alone, and "
            "versions of transformers follow the one or the other; say tokenizer_class: PreTrainedTokenizerFast there, "
            f"or pass --ignore {SETTINGS}:tokenizer_class to follow {MODEL}"
        )
    for field, value in said.items():
        does = any(map(_lowers, has)) if field == "do_lower_case" else has[0].get(NORMALIZER[field][0])
        if does != value and not settings.ignores(field):
            stated = shown(value) if field in settings else f"not stated, which means {shown(value)}"
            raise InputError(
                f"{settings.origin}: {field} is {stated}, but {tokens.origin} says {shown(does)}, and versions of "
                f"transformers follow the one or the other; make them agree, or pass --ignore {SETTINGS}:{field} to "
                f"follow {MODEL}"
            )


def _lowers(normalizer: Mapping[str, Any]) -> bool:
    kind = normalizer.get("type")
    return kind == "Lowercase" or (kind == "BertNormalizer" and normalizer.get("lowercase") is True)


def normalizers(normalizer: JSON) -> Iterator[Mapping[str, Any]]:
    """Give the normalizers of a tokenizer.json one by one."""
    yield from _flat(normalizer, "normalizers")


def _flat(rule: JSON, name: str) -> Iterator[Mapping[str, Any]]:
    """Give the rules of a part of tokenizer.json one by one; a sequence calls its own `name`."""
    if isinstance(rule, dict) and rule.get("type") == "Sequence":
        inner = rule.get(name)
        for each in inner if isinstance(inner, list) else []:
            yield from _flat(each, name)
    elif isinstance(rule, dict):
        yield rule


def _text(document: Document, field: str) -> str | None:
    """Read the text of a special token, which may be an object that describes it."""
    if document.fields.get(field) is None or field not in document:
        document.note(field, "null: not stated")
        return None
    if isinstance(document.fields[field], dict):
        part = document.part(field, listed=False)
        part.accept(dict.fromkeys(part.fields.keys() - {"content"}, _FOUND))
        return str(part.take("content", str))
    return str(document.take(field, str))


def _added(source: Source) -> Iterator[tuple[Document, str, int | None]]:
    """Read the tokens that are added to the vocabulary, and their ids; None where the document leaves that open."""
    if added := source.document(ADDED):
        for text in added.fields:
            yield added, text, added.take(text, int, low=0)
    if settings := source.document(SETTINGS):
        for field in ("additional_special_tokens", "extra_special_tokens"):
            listed = settings.fields.get(field) or []
            settings.note(field, USED)
            for token in (
                listed.values() if isinstance(listed, dict) else listed if isinstance(listed, list) else [listed]
            ):
                yield settings, str(token.get("content") if isinstance(token, dict) else token), None
        decoder = settings.part("added_tokens_decoder", listed=False)
        for number in decoder.fields:
            token = decoder.part(number)
            token.accept(dict.fromkeys(token.fields.keys() - {"content"}, _FOUND))
            yield settings, token.take("content", str), int(number) if number.isdecimal() else -1

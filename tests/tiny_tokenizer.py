"""Small tokenizers whose special tokens are a network's: of texts and pairs that are read, of those that come out."""

import json

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from vocabularies import filled

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'-"
WORDS = ["[PAD]", "[UNK]", *LETTERS, *(f"##{letter}" for letter in LETTERS), "the", "fox", "quick", "##ick", "##s"]


def tokenizer(config) -> Tokenizer:
    """Make it for a configuration."""
    words = {config.cls_token_id: "[CLS]", config.sep_token_id: "[SEP]"}
    free = (i for i in range(config.vocab_size) if i not in words)
    known = filled(WORDS, config.vocab_size - len(words))
    vocabulary = dict(zip(known, free, strict=False)) | {word: i for i, word in words.items()}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = [(word, i) for i, word in words.items()]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special
    )
    return made


def written(config) -> Tokenizer:
    """Make one for the texts of sounds that the tiny network writes: bytes, a few words, and its decoder's tokens."""
    decoder = config.decoder
    special = {decoder.decoder_start_token_id: "<|startoftranscript|>", decoder.eos_token_id: "<|endoftext|>"}
    special |= {i: name for name, i in decoder.languages}
    special |= {i: f"<|{name}|>" for name, i in decoder.tasks}
    special |= {decoder.no_timestamps_token_id: "<|notimestamps|>"}
    letters = [chr(code) for code in (*range(33, 127), *range(0xC2, 0xC4))]
    parts = ["Ġ", "Ċ", "â", "Ķ", "Ġt", "he", "Ġthe"]
    free = (i for i in range(config.decoder.vocab_size) if i not in special)
    words = dict(zip([*parts, *letters], free, strict=False))
    made = Tokenizer(models.BPE(words, merges=[("Ġ", "t"), ("h", "e"), ("Ġt", "he")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return _with(made, special)


def _with(made: Tokenizer, special: dict[int, str]) -> Tokenizer:
    """Add special tokens at their ids."""
    document = json.loads(made.to_str())
    document["added_tokens"] = [
        {"id": i, "content": word, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        | {"special": True}
        for i, word in sorted(special.items())
    ]
    document["model"]["vocab"] |= {word: i for i, word in special.items()}
    return Tokenizer.from_str(json.dumps(document))


def continued(config) -> Tokenizer:
    """Make one for texts that a tiny language model goes on with: bytes, a few words, its padding and its ends."""
    special = {config.pad_token_id: "<|endoftext|>"} | {i: f"<|end {i}|>" for i in config.eos_token_ids}
    letters = [*(chr(code) for code in range(33, 127)), "Ġ", "Ċ", "Ġt", "he", "Ġthe"]
    free = (i for i in range(config.vocab_size) if i not in special)
    words = dict(zip(letters, free, strict=False))
    made = Tokenizer(models.BPE(words, merges=[("Ġ", "t"), ("h", "e"), ("Ġt", "he")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return _with(made, special)

"""A small tokenizer whose special tokens are a network's, for texts and for pairs of them."""

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
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

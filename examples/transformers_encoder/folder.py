"""Writes a small ModernBERT as sentence-transformers saves one: stands for a folder that you trained or downloaded."""

import torch
from sentence_transformers import SentenceTransformer, models
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import ModernBertConfig, ModernBertModel, PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"


def tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer of letters and a few words."""
    words = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), "a", "the", "fox", "quick", "red", "##s"]
    made = Tokenizer(WordPiece({word: i for i, word in enumerate(dict.fromkeys(words))}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=64, **named)


def write(folder: str) -> None:
    """Write the folder: network, tokenizer, mean of the states, length 1."""
    torch.manual_seed(0)
    words = tokenizer()
    config = ModernBertConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=64,
        local_attention=16,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        cls_token_id=2,
        sep_token_id=3,
    )
    ModernBertModel(config).save_pretrained(folder)
    words.save_pretrained(folder)
    pooling = models.Pooling(config.hidden_size, "mean")
    SentenceTransformer(modules=[models.Transformer(folder), pooling, models.Normalize()]).save(folder)


if __name__ == "__main__":
    write("folder")

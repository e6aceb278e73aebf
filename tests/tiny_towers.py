"""Checkpoints of tiny networks of two towers, in any form, with a tokenizer that makes their ids."""

import dataclasses
import json
import types
from pathlib import Path

import pytest
from tiny_tokenizer import tokenizer
from tokenizers import processors

from bgevis.converter.use.fixture import write_fixture
from bgevis.model import clip, siglip

TINY = clip.SIZES["tiny"]
WITH_OPEN_CLIPS_NAMES = dataclasses.replace(
    TINY,
    names=clip.OPEN_CLIP,
    text=dataclasses.replace(TINY.text, eos_token_id=2, pad_token_id=0, bos_token_id=198),
    pictures=dataclasses.replace(TINY.pictures, offset="half to even", rgb_first=False, alpha="dropped"),
)


def written(folder: Path, config, family: str = "clip") -> Path:
    """Write a checkpoint of a configuration, and what lies beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem({"clip": clip, "siglip": siglip}[family].SIZES, "form", config)
        write_fixture(family, "form", 5, "float32", folder / "model.safetensors")
    return folder / "model.safetensors"


def with_tokenizer(folder: Path, text, first: int | None) -> None:
    """Put a tokenizer there that makes the text tower's ids."""
    last, named = text.last_token_id, {"cls_token_id": 2 if first is None else first}
    made = tokenizer(types.SimpleNamespace(vocab_size=text.vocab_size, sep_token_id=text.last_token_id, **named))
    if first is None:
        made.post_processor = processors.TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", last)])
    made.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": text.max_seq_length}
    special = {"pad_token": "[SEP]", "eos_token": "[SEP]", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | special))

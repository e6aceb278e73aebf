"""A tiny encoder's checkpoint with its documents and a list of words, as a folder that somebody saved."""

import dataclasses
import json
from pathlib import Path

from vocabularies import filled

from bgevis.converter.use.fixture import write_fixture
from bgevis.model.bert import FAMILY
from bgevis.model.steps import plain

WORDS = filled(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "two", "three", "##s", "a"])


def tiny_folder(folder: Path, family: str = "bert", **settings) -> Path:
    """Write it and give the checkpoint; of BERT's family with a mean and other settings of its configuration."""
    folder.mkdir(exist_ok=True)
    write_fixture(family, "tiny", 5, "float32", folder / "ckpt.safetensors")
    if family == "bert":
        config = dataclasses.replace(FAMILY.sizes["tiny"], **{"pipeline": plain(["mean"])} | settings)
        for place, content in FAMILY.documents(config).items():
            (folder / place).parent.mkdir(exist_ok=True)
            (folder / place).write_text(json.dumps(content))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return folder / "ckpt.safetensors"

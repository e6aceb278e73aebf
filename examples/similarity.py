"""Cosine similarities of six sentences, by an exported ONNX program: `similarity.py DIR TOKENIZER_JSON`.

Uses onnxruntime and tokenizers, nothing of the converter and no framework.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

SENTENCES = (
    "A man is playing a guitar on stage.",
    "Someone performs music with a stringed instrument.",
    "The quick brown fox jumps over the lazy dog.",
    "A fast animal leaps above a sleepy hound.",
    "Quarterly revenue fell by 12% compared to last year.",
    "The company earned less than in the previous year.",
)


def embed(directory: Path, tokenizer: Tokenizer, texts: tuple[str, ...]) -> np.ndarray:
    """Embed texts: (texts, width), unit length. The manifest says which program to run."""
    manifest = json.loads((directory / "manifest.json").read_text())
    program = manifest["entry_points"]["encode_text"]["programs"]["onnx"]["path"]
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(list(texts))
    inputs = {
        "input_ids": np.array([e.ids for e in encoded], np.int64),
        "attention_mask": np.array([e.attention_mask for e in encoded], np.int64),
    }
    return onnxruntime.InferenceSession(directory / program).run(["embeddings"], inputs)[0]


def show(similarities: np.ndarray) -> None:
    """Print the table."""
    table = Table(title="cosine similarity")
    table.add_column("")
    for number in range(1, len(SENTENCES) + 1):
        table.add_column(str(number), justify="right")
    for number, (sentence, row) in enumerate(zip(SENTENCES, similarities, strict=True), 1):
        table.add_row(f"{number} {sentence}", *(f"{value:.2f}" for value in row))
    Console(width=100).print(table)


def main() -> None:
    """Run the example."""
    directory, tokenizer = sys.argv[1:]
    embeddings = embed(Path(directory), Tokenizer.from_file(tokenizer), SENTENCES)
    show(embeddings @ embeddings.T)


if __name__ == "__main__":
    main()

"""Replay the raw texts by clients that this project did not write: `sentence_transformers_client.py DIR`.

Opens DIR/sentence_transformers with SentenceTransformer and with optimum's ORTModelForFeatureExtraction; ends with
exit code 1 when an embedding lies farther from its golden than allowed. Needs sentence-transformers[onnx].
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from optimum.onnxruntime import ORTModelForFeatureExtraction
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

Embed = Callable[[list[str]], np.ndarray]


def cases(directory: Path) -> Iterator[tuple[str, list[str], np.ndarray, float]]:
    """Give each raw case: its name, its texts, what must come out, and how far from it."""
    raw = json.loads((directory / "goldens/raw/index.json").read_text(encoding="utf-8"))
    index = json.loads((directory / "goldens/index.json").read_text(encoding="utf-8"))["encode_text"]["cases"]
    arrays = load_file(directory / "goldens/encode_text.safetensors")
    texts = {text["name"]: text["text"] for text in raw["texts"]}
    for name, rows in raw["cases"]["encode_text"].items():
        allowed = index[name]["budgets"]["embeddings"]["allowed"]
        yield name, [texts[text] for text in rows["texts"]], arrays[f"{name}/outputs/embeddings"], allowed


def by_sentence_transformers(folder: str) -> Embed:
    """Open the folder as its name says."""
    return SentenceTransformer(folder, backend="onnx", device="cpu", local_files_only=True).encode


def by_optimum(folder: str) -> Embed:
    """Open the folder with optimum; pool by its files."""
    model, tokenizer = ORTModelForFeatureExtraction.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    pooling = json.loads(Path(folder, "1_Pooling/config.json").read_text(encoding="utf-8"))
    normalize = Path(folder, "modules.json").read_text(encoding="utf-8").count("Normalize") > 0

    def embed(texts: list[str]) -> np.ndarray:
        inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="np")
        states, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
        pooled = states[:, 0] if pooling["pooling_mode_cls_token"] else (states * mask).sum(1) / mask.sum(1)
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True) if normalize else pooled

    return embed


def main() -> int:
    """Replay."""
    directory, failed = Path(sys.argv[1]), 0
    for client in (by_sentence_transformers, by_optimum):
        embed = client(str(directory / "sentence_transformers"))
        for name, texts, want, allowed in cases(directory):
            error = float(np.abs(embed(texts) - want).max())
            failed += not error <= allowed
            verdict = "as the goldens" if error <= allowed else "NOT as the goldens"
            print(f"{client.__name__[3:]}, {name}: {verdict}, {error:.1e} of {allowed:.1e} allowed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

"""Replay the raw texts by clients that this project did not write: `sentence_transformers_client.py DIR`.

Opens DIR/sentence_transformers with SentenceTransformer and with optimum's ORTModelForFeatureExtraction, or a
classifier's with CrossEncoder; ends with exit code 1 when a result lies farther from its golden than allowed. Needs
sentence-transformers[onnx].
"""

import json
import sys
from pathlib import Path

import numpy as np
from optimum.onnxruntime import ORTModelForFeatureExtraction
from raw_cases import Compute, raw_cases, replay
from sentence_transformers import CrossEncoder, SentenceTransformer
from torch import nn
from transformers import AutoTokenizer


def by_sentence_transformers(folder: str) -> Compute:
    """Open the folder as its name says."""
    return SentenceTransformer(folder, backend="onnx", device="cpu", local_files_only=True).encode


def by_cross_encoder(folder: str) -> Compute:
    """Open a classifier's folder; its logits."""
    model = CrossEncoder(folder, backend="onnx", device="cpu", local_files_only=True)
    return lambda rows: model.predict([list(row) for row in rows], activation_fn=nn.Identity())


def by_optimum(folder: str) -> Compute:
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
    directory = Path(sys.argv[1])
    cases = [*raw_cases(directory)]
    folder = directory / "sentence_transformers"
    clients = [by_sentence_transformers, by_optimum] if (folder / "modules.json").exists() else [by_cross_encoder]
    if by_cross_encoder in clients:  # which takes pairs; what is no pair it would split
        cases = [case for case in cases if isinstance(case.rows[0], tuple)]
    return int(sum(replay(client.__name__[3:], client(str(folder)), cases) for client in clients) > 0)


if __name__ == "__main__":
    sys.exit(main())

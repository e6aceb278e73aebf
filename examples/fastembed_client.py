"""Replay the raw texts by fastembed: `fastembed_client.py DIR` opens DIR/sentence_transformers from its local path.

Ends with exit code 1 when a result lies farther from its golden than allowed. Needs fastembed 0.9, which takes outputs
by name: older ones take the first and pool it by the first token or the mean.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
from fastembed.rerank.cross_encoder import TextCrossEncoder
from raw_cases import Compute, raw_cases, replay

FILES = {"model_file": "onnx/model.onnx", "additional_files": ["onnx/model.onnx_data"]}
NOWHERE = ModelSource(url="https://localhost/nowhere")
"""A source must be named; nothing is fetched from it, since the folder lies here."""


def embedder(folder: Path, width: int) -> Compute:
    """Open a folder that embeds texts: what all of its modules make is an output of the program."""
    TextEmbedding.add_custom_model(
        model="local",
        pooling=PoolingType.DISABLED,
        normalization=False,
        output_name="sentence_embedding",
        sources=NOWHERE,
        dim=width,
        **FILES,
    )
    model = TextEmbedding("local", specific_model_path=str(folder))
    return lambda texts: np.stack(list(model.embed(texts)))


def scorer(folder: Path) -> Compute:
    """Open a classifier's folder; the logits of its first label."""
    TextCrossEncoder.add_custom_model(model="local", sources=NOWHERE, **FILES)
    model = TextCrossEncoder("local", specific_model_path=str(folder))
    return lambda pairs: np.array(list(model.rerank_pairs(pairs)))[:, None]


def main() -> int:
    """Replay."""
    directory = Path(sys.argv[1])
    folder, cases = directory / "sentence_transformers", [*raw_cases(directory)]
    if (folder / "modules.json").exists():
        return int(replay("fastembed", embedder(folder, cases[0].wanted.shape[1]), cases) > 0)
    pairs = [replace(case, wanted=case.wanted[:, :1]) for case in cases if isinstance(case.rows[0], tuple)]
    return int(replay("fastembed", scorer(folder), pairs) > 0)


if __name__ == "__main__":
    sys.exit(main())

"""Find the picture that a text is about, by embeddings of several widths: `retrieve.py STAGE1 TEXT PICTURE...`.

Uses onnxruntime, tokenizers and Pillow, nothing of the converter and no framework.
"""

import sys
from pathlib import Path

import numpy as np
from answer import pixels, program, run
from tokenizers import Tokenizer


def embeddings(outputs: dict[str, np.ndarray]) -> dict[int, np.ndarray]:
    """Give embeddings of length one by their width: the whole one, and its beginnings."""
    whole = {outputs["pooled"].shape[1]: outputs["pooled"]}
    return whole | {array.shape[1]: array for name, array in outputs.items() if name.startswith("mrl_")}


def ranked(stage1: Path, ids: np.ndarray, images: np.ndarray) -> dict[int, list[int]]:
    """Give for each width the pictures' places, the nearest first: (1, tokens) and (pictures, size, size, 3)."""
    text = embeddings(run(program(stage1, "encode_text"), {"input_ids": ids, "attention_mask": np.ones_like(ids)}))
    seen = embeddings(run(program(stage1, "encode_image"), {"images": images}))
    return {width: np.argsort(-(seen[width] @ text[width][0])).tolist() for width in text}


def main() -> None:
    """Run the example."""
    stage1, text, *pictures = sys.argv[1:]
    size = program(Path(stage1), "encode_image").get_inputs()[0].shape[1]
    ids = np.array([Tokenizer.from_file(f"{stage1}/tokenizer.json").encode(text).ids])
    for width, order in ranked(Path(stage1), ids, np.concatenate([pixels(file, size) for file in pictures])).items():
        print(f"{width:5}  {'  '.join(pictures[place] for place in order)}")


if __name__ == "__main__":
    main()

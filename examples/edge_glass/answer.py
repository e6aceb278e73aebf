"""Answer a question about a picture by two exported networks: `answer.py STAGE1 STAGE2 PICTURE QUESTION`.

Uses onnxruntime, tokenizers and Pillow, nothing of the converter and no framework.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP."""


def program(directory: Path, name: str) -> onnxruntime.InferenceSession:
    """Open the program of an entry point; the manifest says where it is."""
    manifest = json.loads((directory / "manifest.json").read_text())
    return onnxruntime.InferenceSession(directory / manifest["entry_points"][name]["programs"]["onnx"]["path"])


def run(session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give a program's outputs by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def pixels(file: str, size: int) -> np.ndarray:
    """Prepare a picture as upstream does, (1, size, size, 3) float32: made square in float32, without a crop."""
    samples = np.asarray(Image.open(file).convert("RGB"), np.float32)
    channels = [Image.fromarray(samples[..., c]).resize((size, size), Image.Resampling.BILINEAR) for c in range(3)]
    return ((np.stack(list(map(np.asarray, channels)), -1) / 255 - MEAN) / STD).astype(np.float32)[None]


def answer(stage1: Path, stage2: Path, images: np.ndarray, ids: np.ndarray, most: int = 64) -> np.ndarray:
    """Choose the best token, again and again: (rows, size, size, 3) and (rows, tokens) -> (rows, new tokens).

    All questions are equally long: none is padded. Behind its end a row has whatever the network says.
    """
    config: dict[str, Any] = json.loads((stage2 / "manifest.json").read_text())["config"]
    sequence = run(program(stage1, "encode_image"), {"images": images})["sequence"]
    prefix = run(program(stage2, "project_vision"), {"sequence": sequence})["prefix"]
    rows, so_far = len(ids), prefix.shape[1] + ids.shape[1]
    where = np.tile(np.arange(so_far), (rows, 1))
    given = {"prefix": prefix, "input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": where}
    found, decode = run(program(stage2, "prefill"), given), program(stage2, "decode")
    chosen, ended = [], np.zeros(rows, bool)
    ends = [] if config["trm"] else config["qwen"]["eos_token_ids"]  # upstream's recursion stops at no token
    while True:
        best = found.pop("logits").reshape(rows, -1).argmax(1)
        chosen.append(best)
        ended |= np.isin(best, ends)
        if len(chosen) == most or ended.all():
            return np.stack(chosen, 1)
        step = {"input_ids": best[:, None], "attention_mask": np.ones((rows, so_far + 1), np.int64)}
        step["position_ids"] = np.full((rows, 1), so_far)
        found = run(decode, step | {f"past_{name}": kept for name, kept in found.items()})
        so_far += 1


def main() -> None:
    """Run the example."""
    stage1, stage2, picture, question = sys.argv[1:]
    size = program(Path(stage1), "encode_image").get_inputs()[0].shape[1]
    tokenizer = Tokenizer.from_file(f"{stage2}/tokenizer.json")
    ids = np.array([tokenizer.encode(question).ids])
    found = answer(Path(stage1), Path(stage2), pixels(picture, size), ids)
    print(tokenizer.decode(found[0].tolist()))


if __name__ == "__main__":
    main()

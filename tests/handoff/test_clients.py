"""Clients that this project did not write open the folder as it is."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bgevis.converter import classify, open_artifacts

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ALONE = {"USE_TF": "0", "USE_FLAX": "0", "HF_HUB_OFFLINE": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}


def replayed(*command: object, folder: Path | None = None) -> list[str]:
    """Run an example; give its lines."""
    words = [str(word) for word in command]
    environment = os.environ | ALONE
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NOT" not in done.stdout
    return [line for line in done.stdout.splitlines() if "as the goldens" in line]


@pytest.mark.parametrize(("run", "several"), [("roberta", 4), ("sentences", 4), ("classifier", 2)])
def test_sentence_transformers_and_optimum_give_the_goldens(run, several, clients, request, tell):
    """backend="onnx" of SentenceTransformer and CrossEncoder, and optimum itself, from raw texts."""
    lines = replayed(clients, EXAMPLES / "sentence_transformers_client.py", request.getfixturevalue(run))
    assert len(lines) == several
    tell(f"pass: {run} in sentence-transformers 5 with optimum-onnx, {len(lines)} cases")


@pytest.mark.parametrize(("run", "several"), [("roberta", 2), ("sentences", 2), ("classifier", 2)])
def test_fastembed_gives_the_goldens(run, several, fastembed, request, tell):
    """A custom model from a local path, of texts and of pairs."""
    lines = replayed(fastembed, EXAMPLES / "fastembed_client.py", request.getfixturevalue(run))
    assert len(lines) == several
    tell(f"pass: {run} in fastembed, {len(lines)} cases")


def read_otherwise(run: Path) -> set[str]:
    """Name the samples that Transformers.js' own tokenizer reads otherwise.

    It makes a final sigma of a word's last one, drops the last token of what it truncates, takes no empty second text.
    """
    raw = json.loads((run / "goldens/raw/index.json").read_text())
    ((entry, limit),) = json.loads((run / "preprocess.json").read_text())["texts"]["max_tokens"].items()
    samples = [*raw["texts"], *raw.get("pairs", ())]
    cut = {sample["name"] for sample in samples if len(sample["ids"][entry]) == limit}
    return cut | {"casing"} | {pair["name"] for pair in raw.get("pairs", ()) if not pair["texts"][1]}


def by_transformers_js(run: Path, dtype: str, folder: Path) -> dict[str, str]:
    """Replay a run by Transformers.js; give what it says of each sample."""
    command = ["node", EXAMPLES / "transformers_js_client.mjs", run, dtype]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)
    told = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    assert len(told) >= 10, done.stdout + done.stderr
    assert done.returncode == bool(failed(told))
    return told


def failed(told: dict[str, str]) -> set[str]:
    return {name for name, verdict in told.items() if "NOT" in verdict}


@pytest.mark.parametrize("run", ["sentences", "classifier"])
def test_transformers_js_gives_the_goldens_of_what_it_reads_alike(run, transformers_js, request):
    run = request.getfixturevalue(run)
    assert failed(by_transformers_js(run, "fp32", transformers_js)) == read_otherwise(run)


@pytest.mark.parametrize("dtype", ["fp16", "q8"])
def test_transformers_js_opens_small_numbers(dtype, transformers_js, sentences):
    assert failed(by_transformers_js(sentences, dtype, transformers_js)) <= read_otherwise(sentences)


PRECISIONS = {
    "fp32": ("onnx", 1e-4),
    "fp16": ("onnx-float16", 0.01),
    "q8": ("onnx-int8", 0.2),
    "int8": ("onnx-int8-reduced", 0.3),
}
"""dtype -> the format in the same precision, and the share by which a probability may differ from it: opsets do."""


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("run", ["clip_towers", "siglip_towers"])
def test_transformers_js_opens_both_towers(run, dtype, transformers_js, request, tell):
    """Texts by its tokenizer, pixels as they are, and a picture of the network's own size with labels, as ours."""
    run = request.getfixturevalue(run)
    told = by_transformers_js(run, dtype, transformers_js)
    resized = {"wide", "tall"}  # without antialias
    found = failed(told)
    assert {"long"} <= found <= {"long", *resized}
    assert resized <= found or "8" in dtype
    scores = json.loads(told["labels of exact"])
    format_, near = PRECISIONS[dtype]
    model = open_artifacts(run, format_)
    wanted = classify(model, [run / "goldens/raw/images/exact.png"], [*scores], template="a {}")[0]
    assert list(scores.values()) == pytest.approx(wanted.tolist(), rel=near)
    tell(f"pass: {run.parent.name} in Transformers.js, {dtype}, {len(told) - len(found)} samples")


def test_open_clip_itself_makes_the_same_of_raw_pictures(with_open_clip, open_clip_names, tmp_path, tell):
    """Its network, its transform and its checkpoint's documents, against ours from every raw sample of the pack."""
    run, out = open_clip_names, tmp_path / "judged.npz"
    judge = [with_open_clip, Path(__file__).with_name("open_clip_judge.py"), run.parent / "model.safetensors", run, out]
    done = subprocess.run([str(word) for word in judge], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    raw, model = json.loads((run / "goldens/raw/index.json").read_text()), open_artifacts(run, "onnx")
    ours = {f"text {each['name']}": model.embed([each["text"]]) for each in raw["texts"]}
    pictures = {each["name"]: run / "goldens/raw" / each["file"] for each in raw["images"]}
    ours |= {f"image {name}": model.embed(images=[file]) for name, file in pictures.items()}
    with np.load(out) as judged:
        assert set(judged) == set(ours)
        wrong = {name for name, vector in ours.items() if np.abs(vector - judged[name]).max() > 2e-6}
    assert not wrong
    tell(f"pass: raw pictures and ids in open_clip, {len(ours)} samples")

"""Clients that this project did not write go on with texts from the folders that are laid out for them, as they are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))  # pytest's importlib mode leaves it out
from in_process import export
from test_generate import PROMPTS, SIZES, TOKENS, checkpoint

from bgevis.converter import open_artifacts

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LAYOUTS = "transformers-js", "onnxruntime-genai"
ALONE = {"USE_TF": "0", "USE_FLAX": "0", "HF_HUB_OFFLINE": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}


def continued(folder: Path, family: str, **changes) -> tuple[Path, list[list[int]], tuple[int, ...]]:
    """Convert a tiny language model; give its run, the ids of each prompt with what follows, and the ids that end."""
    run = export(checkpoint(folder, family, **changes), folder / "run", ("onnx",), layouts=LAYOUTS)
    with open_artifacts(run) as artifacts:
        read = artifacts._preprocessor.texts.ids("prefill", PROMPTS)
        made = artifacts.generate(PROMPTS, max_new_tokens=TOKENS)
    assert sum(len(found.ids) > 3 for found in made) > 1, "too little to compare"
    return run, [[*ids, *found.ids] for ids, found in zip(read, made, strict=True)], SIZES[family]["tiny"].eos_token_ids


@pytest.fixture(scope="module", params=["qwen2", "qwen3"])
def generator(request, tmp_path_factory):
    return continued(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module", params=[("qwen2", {}), ("qwen3", {"head_dim": 8})], ids=["qwen2", "qwen3"])
def generator_for_optimum(request, tmp_path_factory):
    """optimum-onnx 0.1.0 reads no width of heads but takes hidden_size / num_attention_heads for it."""
    family, changes = request.param
    return continued(tmp_path_factory.mktemp(family), family, **changes)


def ids_by(words, folder: Path) -> list[list[int]]:
    """Run an example; it writes a line for each prompt."""
    words = [*map(str, words), *PROMPTS]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder, env=os.environ | ALONE)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def alike(found, wanted, ends) -> bool:
    """Say whether a client chose the same tokens; some of them give what ended a text, too."""
    return len(found) == len(wanted) and all(
        one == other or (one[:-1] == other and one[-1] in ends) for one, other in zip(found, wanted, strict=True)
    )


def test_transformers_js_goes_on_with_the_same_tokens(transformers_js, generator, tell):
    run, *wanted = generator
    words = ["node", EXAMPLES / "transformers_js_generate.mjs", run, TOKENS, "fp32"]
    assert alike(ids_by(words, transformers_js), *wanted)
    tell("pass: a tiny language model in Transformers.js")


def test_onnxruntime_genai_goes_on_with_the_same_tokens(onnxruntime_genai, generator, tell):
    run, *wanted = generator
    words = [onnxruntime_genai, EXAMPLES / "genai_generate.py", run / "onnxruntime_genai", TOKENS]
    assert alike(ids_by(words, run), *wanted)
    tell("pass: a tiny language model in onnxruntime-genai")


def test_optimum_goes_on_with_the_same_tokens(clients, generator_for_optimum, tell):
    run, *wanted = generator_for_optimum
    words = [clients, EXAMPLES / "optimum_generate.py", run / "transformers_js", TOKENS]
    assert alike(ids_by(words, run), *wanted)
    tell("pass: a tiny language model in optimum-onnx")

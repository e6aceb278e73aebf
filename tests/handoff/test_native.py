"""The runners without Python: C with TensorFlow and with onnxruntime, StableHLO in IREE. Each replays and refuses."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import corruptions
import numpy as np
import pytest
from safetensors.numpy import load_file

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
QUIET = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
FORMATS = {"tensorflow": "saved_model", "onnxruntime": "onnx", "iree": "stablehlo"}
PARTS = {
    "tensorflow": ("cases", "several", "ready", "raw", "pixels"),
    "onnxruntime": ("cases", "several", "ready", "raw", "pixels"),
    "iree": ("cases", "several", "ready"),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Builds a C program once."""
    folder, done = tmp_path_factory.mktemp("c"), {}

    def build(name: str) -> Path:
        if shutil.which("cc") is None or shutil.which("make") is None:
            pytest.skip("there is no C compiler")
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
        if name not in done:
            command = ["make", "-C", EXAMPLES / "c", name, f"PYTHON={sys.executable}", f"BUILD={folder}"]
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            assert made.returncode == 0, made.stderr
            assert "warning" not in made.stderr
            done[name] = folder / f"replay_{name}"
        return done[name]

    return build


@pytest.fixture
def replay(built):
    """Replays a run directory: (name of the runner, folder) -> what the program did."""

    def run(name: str, *arguments: object) -> subprocess.CompletedProcess:
        if name == "iree":
            scripts = Path(sysconfig.get_path("scripts"))
            if not (scripts / "iree-compile").exists() or not (scripts / "iree-run-module").exists():
                pytest.skip("IREE is not installed: pip install iree-base-compiler iree-base-runtime")
            command = [sys.executable, EXAMPLES / "iree" / "replay.py"]
        else:
            command = [built(name)]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=QUIET)

    return run


@pytest.mark.parametrize("name", FORMATS)
def test_replays_every_entry_point_and_case(name, replay, visualized, tell):
    done = replay(name, visualized, *(["--xla"] if name == "iree" else []))
    assert done.returncode == 0, done.stderr
    index = json.loads((visualized / "goldens" / "index.json").read_text())
    cases = [case for entry in index.values() for case in entry["cases"]]
    if name == "iree":  # it runs the programs of fixed sizes
        cases = [case for case in cases if case.startswith("static")]
        assert done.stdout.count(" ms, XLA ") == len(cases)
    assert f"{len(index)} entry points, {len(cases)} cases: all within what is allowed" in done.stdout
    tell(f"pass: {done.stdout.splitlines()[-1]}")


KINDS = [(name, kind) for name, format_ in FORMATS.items() for kind in corruptions.names(*PARTS[name], format_)]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_refuses_a_damaged_run(name, kind, replay, visualized, tmp_path):
    damaged = corruptions.corrupted(visualized, kind, tmp_path / "run", FORMATS[name])
    done = replay(name, damaged)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert done.stderr.count("error: ") == 1
    assert "all within what is allowed" not in done.stdout


@pytest.mark.parametrize("run", ["classifier", "reranker"])
def test_c_replays_pairs_and_scores(run, replay, request, tell):
    done = replay("onnxruntime", request.getfixturevalue(run))
    assert done.returncode == 0, done.stderr
    assert "1 entry points, " in done.stdout
    tell(f"pass: {done.stdout.splitlines()[-1]}")


@pytest.mark.parametrize("name", ["tensorflow", "onnxruntime"])
def test_c_replays_sounds(name, replay, heard, tell):
    done = replay(name, heard)
    assert done.returncode == 0, done.stderr
    assert "10 sounds become the pack's samples" in done.stdout
    assert "6 entry points, " in done.stdout
    tell(f"pass: {done.stdout.splitlines()[-1]}")


@pytest.mark.parametrize("kind", corruptions.names("sounds"))
def test_c_refuses_a_damaged_ear(kind, replay, heard, tmp_path):
    done = replay("onnxruntime", corruptions.corrupted(heard, kind, tmp_path / "run", "onnx"))
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.count("error: ") == 1


RAW = corruptions.names("raw")
"""What the damaged copies of a run without pairs tell."""


@pytest.mark.parametrize("kind", [kind for kind in corruptions.names("raw", "pairs") if kind not in RAW])
def test_c_refuses_a_damaged_reranker(kind, replay, reranker, tmp_path):
    done = replay("onnxruntime", corruptions.corrupted(reranker, kind, tmp_path / "run", "onnx"))
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.count("error: ") == 1


PROGRAM = """
#include <stdio.h>
#include "runtime.h"

int main(void) {
    enum { rows = 1, tokens = %d, width = %d };
    Tensor ids = tensor_new("input_ids", I32, 2, (int64_t[]){rows, tokens});
    Tensor mask = tensor_new("attention_mask", I32, 2, (int64_t[]){rows, tokens});
    for (int i = 0; i < tokens; i++) ((int32_t *)ids.data)[i] = (int[]){%s}[i], ((int32_t *)mask.data)[i] = 1;
%s
    for (int i = 0; i < width; i++) printf("%%.9g\\n", ((float *)embeddings.data)[i]);
}
"""


@pytest.mark.parametrize("page", ["README.md", "examples/README.md"])
def test_the_lines_in_the_documentation_give_the_embedding(page, built, visualized, tmp_path):
    """With the ids of the first raw text in place of `ids`, as a program that somebody else writes."""
    built("onnxruntime")
    lines = re.search(
        r"```c\n(?:#include \"runtime.h\"\n\n)?(.*?)```", (EXAMPLES.parent / page).read_text(), re.DOTALL
    )[1]
    raw = json.loads((visualized / "goldens/raw/index.json").read_text())
    ids = raw["texts"][0]["ids"]["encode_text"]
    assert raw["cases"]["encode_text"]["raw texts"]["texts"][0] == raw["texts"][0]["name"]
    want = load_file(visualized / "goldens/encode_text.safetensors")["raw texts/outputs/embeddings"][0]
    (tmp_path / "replay.c").write_text(PROGRAM % (len(ids), len(want), ", ".join(map(str, ids)), lines))
    for file in (EXAMPLES / "c").iterdir():
        if file.is_file() and file.name != "replay.c":
            shutil.copy(file, tmp_path)
    make = ["make", "-C", tmp_path, "onnxruntime", f"PYTHON={sys.executable}"]
    made = subprocess.run(make, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    (tmp_path / "artifacts").symlink_to(visualized)
    run = [tmp_path / "build/replay_onnxruntime"]
    done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.array(done.stdout.split(), float), want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", FORMATS)
def test_usage(name, replay):
    done = replay(name)
    assert done.returncode == 2
    assert "usage" in done.stderr

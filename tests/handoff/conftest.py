"""Run directories to hand off, made by the command line as a user makes them; lines that tell what was replayed."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from vocabularies import filled

LINES = pytest.StashKey[list[str]]()
COMMAND = [sys.executable, "-m", "bgevis.converter"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS), "!", "?", ",", "."]


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.handoff)


def pytest_terminal_summary(terminalreporter, config):
    if lines := config.stash.get(LINES, []):
        terminalreporter.section("replayed")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture
def tell(request) -> Callable[[str], None]:
    """Keep a line for the end of the run: which runtime, which entry points, how many cases."""
    return request.config.stash.setdefault(LINES, []).append


def convert(checkpoint: Path, out: Path, *arguments: str) -> Path:
    command = [*COMMAND, "all", str(checkpoint), "--out", str(out), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def visualized(tmp_path_factory) -> Path:
    """A tiny Visualized-BGE in every format, with a tokenizer and a program of fixed shape."""
    folder = tmp_path_factory.mktemp("visualized")
    checkpoint = folder / "ckpt.pth"
    subprocess.run([*COMMAND, "fixture", "visualized_bge", "--size", "tiny", "--out", str(checkpoint)], check=True)
    (folder / "vocab.txt").write_text("\n".join(filled(WORDS)) + "\n")
    return convert(checkpoint, folder / "run", "--static", "batch=1,tokens=16")


@pytest.fixture(scope="session")
def sentences(minilm, tmp_path_factory) -> Path:
    """The real MiniLM as ONNX, with its own vocabulary, and in the layout that other clients open."""
    folder = tmp_path_factory.mktemp("minilm")
    return convert(
        minilm / "model.safetensors", folder / "run", "--format", "onnx", "--layout", "sentence-transformers"
    )

"""Run directories to hand off, made by the command line as a user makes them; lines that tell what was replayed."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_tokenizer
from safetensors.numpy import load_file, save_file
from tiny_folder import tiny_folder
from tiny_towers import WITH_OPEN_CLIPS_NAMES, with_tokenizer, written
from vocabularies import filled

from bgevis.model import clip, siglip
from bgevis.model.whisper.config import SIZES

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


def classifier_of(folder: Path) -> Path:
    """Write a tiny classifier of two texts with BERT's tokenizer, which tells them apart by types."""
    checkpoint = folder / "model.safetensors"
    subprocess.run([*COMMAND, "fixture", "classifier", "--size", "tiny", "--out", str(checkpoint)], check=True)
    (folder / "vocab.txt").write_text("\n".join(filled(WORDS)) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    return checkpoint


@pytest.fixture(scope="session")
def classifier(tmp_path_factory) -> Path:
    """A classifier of three labels, and its folder for other clients."""
    folder = tmp_path_factory.mktemp("classifier")
    formats = ["--format", "onnx", "--layout", "sentence-transformers"]
    return convert(classifier_of(folder), folder / "run", *formats)


@pytest.fixture(scope="session")
def reranker(tmp_path_factory) -> Path:
    """A classifier of one label with a sigmoid, whose pairs are cut as FlagReranker cuts them."""
    folder = tmp_path_factory.mktemp("reranker")
    checkpoint = classifier_of(folder)
    single_label(folder)
    return convert(checkpoint, folder / "run", "--format", "onnx", "--pairs", "flag-reranker")


def single_label(folder: Path) -> None:
    """Leave of a classifier's labels the first, and a sigmoid to make its score."""
    tensors = load_file(folder / "model.safetensors")
    tensors |= {name: tensors[name][:1].copy() for name in ("classifier.weight", "classifier.bias")}
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    activation = {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
    config |= {"id2label": {"0": "LABEL_0"}, "sentence_transformers": activation}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="session")
def heard(tmp_path_factory) -> Path:
    """A tiny Whisper, which hears and writes."""
    folder = tmp_path_factory.mktemp("heard")
    checkpoint = folder / "model.safetensors"
    subprocess.run([*COMMAND, "fixture", "whisper", "--size", "tiny", "--out", str(checkpoint)], check=True)
    tiny_tokenizer.written(SIZES["tiny"]).save(str(folder / "tokenizer.json"))
    return convert(folder, folder / "run", "--format", "onnx", "--format", "saved-model")


@pytest.fixture(scope="session")
def sentences(minilm, tmp_path_factory) -> Path:
    """The real MiniLM as ONNX, with its own vocabulary, and in the layout that other clients open."""
    folder = tmp_path_factory.mktemp("minilm")
    formats = ["--format", "onnx", "--layout", "sentence-transformers", "--precision", "float32,float16,int8"]
    return convert(minilm / "model.safetensors", folder / "run", *formats)


@pytest.fixture(scope="session")
def roberta(tmp_path_factory) -> Path:
    """A tiny XLM-RoBERTa with a mean, in the folder for other clients."""
    folder = tmp_path_factory.mktemp("roberta")
    checkpoint = tiny_folder(folder, model_type="xlm-roberta", pad_token_id=0)
    return convert(checkpoint, folder / "run", "--format", "onnx", "--layout", "sentence-transformers")


@pytest.fixture(scope="session")
def prompted(tmp_path_factory) -> Path:
    """A tiny BERT with prompts for queries and passages."""
    folder = tmp_path_factory.mktemp("prompted")
    prompts = (("query", "three "), ("passage", "a one "))
    return convert(tiny_folder(folder, prompts=prompts), folder / "run", "--format", "onnx")


def towers(folder: Path, family: str, tiny, first: int | None) -> Path:
    """Convert two towers with a tokenizer that leaves most samples whole, and write all that Transformers.js opens."""
    text = dataclasses.replace(tiny.text, max_position_embeddings=77, max_seq_length=77)
    checkpoint = written(folder, dataclasses.replace(tiny, text=text), family)
    with_tokenizer(folder, text, first)
    formats = ["--format", "onnx", "--layout", "transformers-js", "--precision", "float32,float16,int8,int8-reduced"]
    return convert(checkpoint, folder / "run", *formats)


@pytest.fixture(scope="session")
def clip_towers(tmp_path_factory) -> Path:
    """A tiny CLIP."""
    tiny = clip.SIZES["tiny"]
    return towers(tmp_path_factory.mktemp("clip"), "clip", tiny, tiny.text.bos_token_id)


@pytest.fixture(scope="session")
def siglip_towers(tmp_path_factory) -> Path:
    """A tiny SigLIP."""
    return towers(tmp_path_factory.mktemp("siglip"), "siglip", siglip.SIZES["tiny"], None)


@pytest.fixture(scope="session")
def open_clip_names(tmp_path_factory) -> Path:
    """A tiny CLIP with open_clip's names; its checkpoint lies beside the run."""
    folder = tmp_path_factory.mktemp("open_clip")
    checkpoint = written(folder, WITH_OPEN_CLIPS_NAMES)
    with_tokenizer(folder, WITH_OPEN_CLIPS_NAMES.text, WITH_OPEN_CLIPS_NAMES.text.bos_token_id)
    return convert(checkpoint, folder / "run", "--format", "onnx")


CLIENTS = (
    *("sentence-transformers==5.7.0", "transformers==4.57.6", "optimum-onnx==0.1.0", "optimum==2.1.0"),
    *("huggingface_hub==0.36.2", "tokenizers==0.22.2", "regex==2026.11.15"),
    *("scikit-learn==1.9.1", "joblib==1.6.0", "threadpoolctl==3.8.0", "narwhals==2.29.0", "cloudpickle==3.1.2"),
)
"""The last that fit together: optimum-onnx 0.1.0 takes no transformers 5, and these no newer hub and tokenizers."""


def upon_this(folder: Path, *packages: str, needs: bool = False) -> Path:
    """Make an environment upon this one, in which packages hide those of other versions; with `needs`, what they ask
    for and is not here, too.
    """
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    alone = [] if needs else ["--no-deps"]
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *alone, *packages]
    subprocess.run(install, check=True)
    return python


@pytest.fixture(scope="session")
def clients(tmp_path_factory) -> Path:
    """An environment in which the clients hide what does not fit them."""
    return upon_this(tmp_path_factory.mktemp("clients"), *CLIENTS)


WITH_OPEN_CLIP = ("open_clip_torch==3.3.0", "torchvision==0.29.1", "timm==1.0.31", "ftfy==6.3.1", "wcwidth==0.9.4")
"""The package itself and what it imports."""


@pytest.fixture(scope="session")
def with_open_clip(tmp_path_factory) -> Path:
    """An environment with open_clip."""
    return upon_this(tmp_path_factory.mktemp("with_open_clip"), *WITH_OPEN_CLIP)


OF_PROVIDERS = (
    *("mteb==2.26.24", "langchain-core==1.8.3", "llama-index-core==0.14.25", "chromadb==1.5.9"),
    "lancedb==0.40.0",
)
"""What takes providers of embeddings."""


@pytest.fixture(scope="session")
def of_providers(tmp_path_factory) -> Path:
    """An environment with what takes providers of embeddings, and this package."""
    import bgevis.converter as here

    python = upon_this(tmp_path_factory.mktemp("of_providers"), *OF_PROVIDERS, needs=True)
    (site,) = python.parents[1].glob("lib/python*/site-packages")
    (site / "bgevis").mkdir()
    for room in ("converter", "exporters", "model", "validation"):  # an editable install is not seen from there
        (site / "bgevis" / room).symlink_to(Path(here.__file__).parents[1] / room)
    return python


def alone(folder: Path, *packages: str) -> Path:
    """Make an environment without PyTorch and transformers."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], check=True)
    return python


@pytest.fixture(scope="session")
def fastembed(tmp_path_factory) -> Path:
    """An environment of fastembed's own."""
    return alone(tmp_path_factory.mktemp("fastembed"), "fastembed==0.9.1", "safetensors==0.8.0")


@pytest.fixture(scope="session")
def onnxruntime_genai(tmp_path_factory) -> Path:
    """An environment of onnxruntime-genai's own."""
    return alone(tmp_path_factory.mktemp("genai"), "onnxruntime-genai==0.18.0")


@pytest.fixture(scope="session")
def sherpa_onnx(tmp_path_factory) -> Path:
    """An environment of sherpa-onnx's own."""
    return alone(tmp_path_factory.mktemp("sherpa"), "sherpa-onnx==2.0.1", "numpy")


TRANSFORMERS_JS = "@huggingface/transformers@4.3.1"


@pytest.fixture(scope="session")
def transformers_js(tmp_path_factory) -> Path:
    """A folder with Transformers.js."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("transformers_js")
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", TRANSFORMERS_JS]
    subprocess.run(install, check=True, cwd=folder, env=os.environ | {"ONNXRUNTIME_NODE_INSTALL": "skip"})
    return folder

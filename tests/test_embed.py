"""Raw texts and pictures to embeddings, from Python and from the shell, over any format."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from vocabularies import filled

from bgevis.converter import load_module, open_artifacts
from bgevis.converter.directory import RunDirectory
from bgevis.converter.options import Options, chosen
from bgevis.converter.pack import samples
from bgevis.converter.pack.replay import Pack
from bgevis.converter.progress import Silent
from bgevis.converter.stages import build, export, load, remap, verify
from bgevis.converter.stages import pack as write
from bgevis.converter.use.artifacts import USUAL, _batches, _rounded
from bgevis.converter.use.fixture import write_fixture
from bgevis.exporters.base import exporters
from bgevis.validation.errors import ConvertError, InputError

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = filled(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS)])
TEXTS = ["a longer text than all", "", "b", "one two three", "word " * 50, "b"]
CLOSE = 2e-6


def converted(family: str, out: Path, *formats: str, words=WORDS) -> Path:
    """Convert a tiny network, with a tokenizer beside it if there are words, without proof."""
    folder = out.parent
    write_fixture(family, "tiny", 3, "float32", folder / "ckpt.safetensors")
    if words:
        (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    run = load.perform(out, Options(checkpoint=str(folder / "ckpt.safetensors")), Silent())
    for stage in (remap.perform, verify.perform, build.perform, write.perform):
        stage(run, Options(), Silent())
    for exporter in chosen(Options(formats=formats)) if formats else ():
        export.perform(run, Options(), Silent(), exporter)
    return out


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    out = tmp_path_factory.mktemp("visualized") / "run"
    return converted("visualized_bge", out, "onnx", "orbax", "stablehlo")


@pytest.fixture(scope="module")
def pictures():
    return [Image.fromarray(samples.scene(30 + 5 * i, 20 + 3 * i)) for i in range(len(TEXTS))]


@pytest.fixture(scope="module")
def wanted(directory, pictures):
    """Each row alone through the NNX module: texts, pictures, pairs. All are padded alike, to be compiled once."""
    module, pack = load_module(directory), Pack(directory)
    images = jnp.asarray(pack.preprocessor.image_inputs(pictures)["images"])

    def text(entry: str, row: int):
        inputs = pack.preprocessor.text_inputs(pack.preprocessor.ids(entry, [TEXTS[row]]), 24)
        return [jnp.asarray(array) for array in inputs.values()]

    calls = {
        "texts": lambda i: (module.encode_text, text("encode_text", i)),
        "images": lambda i: (module.encode_image, [images[i : i + 1]]),
        "pairs": lambda i: (module.encode_multimodal, [images[i : i + 1], *text("encode_multimodal", i)]),
    }
    compiled = {kind: jax.jit(call(0)[0]) for kind, call in calls.items()}
    return {k: np.concatenate([compiled[k](*call(i)[1]) for i in range(len(TEXTS))]) for k, call in calls.items()}


@pytest.mark.parametrize(
    "format_name", ["onnx", "orbax", "stablehlo", pytest.param("saved-model", marks=pytest.mark.prove)]
)
def test_every_format_gives_each_row_in_its_place(format_name, directory, pictures, wanted):
    if format_name == "saved-model":
        export.perform(RunDirectory(directory), Options(), Silent(), exporters()[format_name])
    artifacts = open_artifacts(directory, format_name)
    got = {"texts": artifacts.embed(TEXTS, batch_size=4), "pairs": artifacts.embed(TEXTS, pictures, batch_size=4)}
    if format_name == "onnx":
        got["images"] = artifacts.embed(images=pictures, batch_size=4)
    for kind, embeddings in got.items():
        assert embeddings.dtype == np.float32
        np.testing.assert_allclose(embeddings, wanted[kind], atol=CLOSE, err_msg=kind)


def test_the_default_is_onnx(directory):
    artifacts = open_artifacts(str(directory))
    assert (artifacts.format, artifacts.width) == ("onnx", 32)
    assert artifacts.runner.startswith("onnxruntime ")


def test_pictures_come_in_any_form(directory, pictures, tmp_path):
    picture = pictures[0]
    picture.save(tmp_path / "picture.png")
    png = io.BytesIO()
    picture.save(png, "PNG")
    sources = [picture, np.asarray(picture), png.getvalue(), tmp_path / "picture.png", str(tmp_path / "picture.png")]
    got = open_artifacts(directory).embed(images=sources)
    assert all(np.array_equal(row, got[0]) for row in got)


def test_no_rows_are_no_rows(directory):
    artifacts = open_artifacts(directory)
    assert artifacts.embed([]).shape == artifacts.embed(images=[]).shape == artifacts.embed([], []).shape == (0, 32)


@given(st.lists(st.integers(1, 3000), max_size=60), st.integers(1, 9))
def test_batches_hold_every_row_once(lengths, size):
    ids = [[0] * length for length in lengths]
    batches = list(_batches(len(ids), ids, size))
    assert sorted(row for rows in batches for row in rows) == list(range(len(ids)))
    seen = [lengths[row] for rows in batches for row in rows]
    assert seen == sorted(lengths, reverse=True)
    for rows in batches:
        assert len(rows) <= size
        assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) ** 2 <= size * USUAL**2


@given(st.integers(1, 600), st.integers(1, 600))
def test_lengths_are_rounded_up_within_the_limit(tokens, limit):
    tokens = min(tokens, limit)
    assert tokens <= _rounded(tokens, limit) <= limit


def test_few_shapes_are_compiled(directory, monkeypatch):
    artifacts = open_artifacts(directory, "orbax")
    shapes = set()

    def run(entry, inputs):
        shapes.add(inputs["input_ids"].shape)
        return {"embeddings": np.zeros((len(inputs["input_ids"]), 32), np.float32)}

    monkeypatch.setattr(artifacts, "_runner", SimpleNamespace(run=run))
    artifacts.embed(["a" * n for n in range(39)], batch_size=4)
    assert shapes <= {(4, 8), (4, 16), (4, 24), (4, 32), (4, 40)}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "no entry point for neither texts nor images"),
        ({"images": [b"GIF"]}, "cannot be read as a picture"),
        ({"texts": ["a"], "images": []}, "are pairs: got 1 texts and 0 images"),
        ({"texts": "a"}, "texts must be a list, got one str"),
        ({"images": b"a"}, "images must be a list, got one bytes"),
    ],
)
def test_what_cannot_be_embedded(given, message, directory):
    with pytest.raises((InputError, TypeError, ValueError), match=message):
        open_artifacts(directory).embed(**given)


def test_a_network_without_pictures_and_a_run_without_tokenizer(tmp_path):
    artifacts = open_artifacts(converted("bert", tmp_path / "run", "onnx", words=None))
    with pytest.raises(InputError, match="no entry point for images"):
        artifacts.embed(images=[b""])
    with pytest.raises(InputError, match=r"has no tokenizer: neither tokenizer.json nor vocab.txt"):
        artifacts.embed(["a"])


def test_formats_that_are_not_there(tmp_path):
    run = converted("bert", tmp_path / "run")
    with pytest.raises(InputError, match="holds no artifacts"):
        open_artifacts(run)
    with pytest.raises(InputError, match="holds no onnx"):
        open_artifacts(run, "onnx")
    with pytest.raises(InputError, match="no format 'tflite'"):
        open_artifacts(run, "tflite")


def test_a_damaged_artifact_is_one_message(tmp_path):
    run = converted("bert", tmp_path / "run", "stablehlo")
    for program in (run / "programs").glob("encode_text*"):
        program.write_bytes(b"nothing of the kind")
    with pytest.raises(ConvertError, match=r"cannot be opened|could not compute|stablehlo|bytes, the manifest says"):
        open_artifacts(run, "stablehlo").embed(["a"])


# The shell.


def embed(*arguments, given: bytes = b"") -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "bgevis.converter", "embed", *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, check=False, env=os.environ | {"COLUMNS": "200"})


def test_json_lines(directory, wanted):
    done = embed(directory, "--text", TEXTS[0], "--text", "", "--texts", "-", given="b\r\nöne\n".encode())
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [line["text"] for line in lines] == [TEXTS[0], "", "b", "öne"]
    np.testing.assert_allclose([line["embedding"] for line in lines[:3]], wanted["texts"][:3], atol=CLOSE)


@pytest.mark.parametrize("ending", ["npy", "parquet", "jsonl"])
def test_files(ending, directory, pictures, wanted, tmp_path):
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / f"{i}.png")
    (tmp_path / "texts").write_text("\n".join(TEXTS) + "\n")
    names = [part for i in range(len(pictures)) for part in ("--image", tmp_path / f"{i}.png")]
    out = tmp_path / f"out.{ending}"
    done = embed(directory, "--texts", tmp_path / "texts", *names, "--out", out, "--format", "onnx")
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    if ending == "npy":
        got = np.load(out)
    elif ending == "jsonl":
        got = np.array([json.loads(line)["embedding"] for line in out.read_text().splitlines()])
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        table = parquet.read_table(out).to_pydict()
        assert table["text"] == TEXTS
        got = np.array(table["embedding"])
    np.testing.assert_allclose(got, wanted["pairs"], atol=CLOSE)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "nothing to embed"),
        (("--text", "a", "--image", "b", "--image", "c"), 2, "are pairs: got 1 texts and 2 pictures"),
        (("--image", "no.png"), 3, "no.png does not exist"),
        (("--texts", "no.txt"), 3, "no.txt does not exist"),
        (("--text", "a", "--format", "tflite"), 2, "no format 'tflite'"),
        (("--text", "a", "--out", "/no/folder/x.npy"), 3, "does not exist; make it first"),
    ],
)
def test_refusals_of_the_shell(arguments, code, message, directory):
    done = embed(directory, *arguments)
    assert done.returncode == code
    assert message in done.stderr.decode()
    assert b"Traceback" not in done.stderr


# The pack is replayed: whatever is altered in it shows, even with a digest that fits.


def altered_index(folder: Path) -> None:
    index = json.loads((folder / "goldens/raw/index.json").read_text())
    index["texts"][0]["ids"]["encode_text"][1] += 1
    (folder / "goldens/raw/index.json").write_text(json.dumps(index))


def altered_tokenizer(folder: Path) -> None:
    document = json.loads((folder / "tokenizer.json").read_text())
    document["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(document))


def altered_rules(folder: Path) -> None:
    rules = json.loads((folder / "preprocess.json").read_text())
    rules["images"]["steps"][-1]["mean"][1] += 0.01
    (folder / "preprocess.json").write_text(json.dumps(rules))


def altered_filter(folder: Path) -> None:
    rules = json.loads((folder / "preprocess.json").read_text())
    rules["images"]["steps"][0]["filter"] = "bilinear"
    del rules["images"]["steps"][0]["a"]
    (folder / "preprocess.json").write_text(json.dumps(rules))


def altered_picture(folder: Path) -> None:
    Image.new("RGB", (20, 20)).save(folder / "goldens/raw/images/wide.png")


@pytest.mark.parametrize(
    ("alter", "problem"),
    [
        (altered_index, "other ids for the texts plain"),
        (altered_tokenizer, "other ids for the texts"),
        (altered_rules, "differ"),
        (altered_filter, "other bytes for the pictures wide, tall"),
        (altered_picture, "other bytes for the pictures wide"),
    ],
)
def test_an_altered_pack_is_refused(alter, problem, directory, tmp_path):
    for name in ("tokenizer.json", "preprocess.json"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    for file in (directory / "goldens/raw").rglob("*.*"):
        copy = tmp_path / file.relative_to(directory)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    assert all(row.passed for row in Pack(tmp_path).rows())
    alter(tmp_path)
    assert any(problem in row.problem for row in Pack(tmp_path).rows() if not row.passed)


def test_what_embeds_is_chosen_not_what_takes_the_same():
    """Two entry points take texts and pictures; the first gives scores."""
    from types import SimpleNamespace

    from bgevis.converter.use.artifacts import Artifacts
    from bgevis.validation.entry_point import Axis, EntryPoint, TensorSpec
    from bgevis.validation.outputs import Embedding, Scores

    inputs = tuple(TensorSpec(name, "float32", ("n", 3)) for name in ("images", "ids", "mask"))
    scores = TensorSpec("scores", "float32", ("n", 2), kind=Scores())
    vector = TensorSpec("fused", "float32", ("n", 3), kind=Embedding())
    several = [
        EntryPoint("compare", inputs, (scores,), {"n": Axis()}),
        EntryPoint("fuse", inputs, (scores, vector), {"n": Axis()}),
    ]
    rules = {
        "texts": {"inputs": {"ids": "ids", "mask": "mask"}},
        "images": {"input": "images"},
        "embeddings": {"outputs": {"fuse": "fused"}},
    }
    opened = object.__new__(Artifacts)
    opened.path, opened._preprocessor = "run", SimpleNamespace(rules=rules)
    opened.entry_points = {entry.name: entry for entry in several}
    assert [each if isinstance(each, str) else each.name for each in opened._entry(True, True)] == ["fuse", "fused"]
    with pytest.raises(InputError, match=r"no entry point for texts that embeds it .*-> scores"):
        opened._entry(True, False)

"""Raw texts and pictures to embeddings, from Python and from the shell, over any format."""

import io
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from vocabularies import filled

from bgevis.converter import load_module, open_artifacts
from bgevis.converter.cli import main
from bgevis.converter.directory import RunDirectory
from bgevis.converter.options import Options, chosen
from bgevis.converter.pack import samples
from bgevis.converter.pack.replay import Pack
from bgevis.converter.progress import Silent
from bgevis.converter.stages import build, export, load, remap, verify
from bgevis.converter.stages import pack as write
from bgevis.converter.use.batches import USUAL, batches, rounded
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
def artifacts(directory):
    return open_artifacts(directory)


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
    found = list(batches(lengths, size))
    assert sorted(row for rows in found for row in rows) == list(range(len(lengths)))
    seen = [lengths[row] for rows in found for row in rows]
    assert seen == sorted(lengths, reverse=True)
    for rows in found:
        assert len(rows) <= size
        assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) ** 2 <= size * USUAL**2


@given(st.integers(1, 600), st.integers(1, 600))
def test_lengths_are_rounded_up_within_the_limit(tokens, limit):
    tokens = min(tokens, limit)
    assert tokens <= rounded(tokens, limit) <= limit


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
        ({}, "nothing to embed: give texts, images"),
        ({"images": [b"GIF"]}, "picture 0: the picture cannot be read as a picture"),
        ({"images": [samples.scene(3, 2), "no.png"]}, r"picture 1: no.png does not exist"),
        ({"images": [samples.scene(3, 2), None]}, "picture 1 is None, expected a file's name"),
        ({"images": "https://example.org/a.png"}, "is an address, https://example.org/a.png: fetch it"),
        ({"images": [io.StringIO("a")]}, "picture 0 is a file that gives str, expected bytes: open it with 'rb'"),
        ({"images": [np.zeros((0, 4, 3), np.uint8)]}, r"picture 0: the picture is empty, \(0, 4, 3\)"),
        ({"images": [Image.new("RGB", (0, 4))]}, r"picture 0: the picture is empty, 0 x 4"),
        ({"images": [np.zeros((4, 4, 3), np.float32)]}, "of uint8, got .* of float32"),
        ({"images": np.zeros((4, 4, 5), np.uint8)}, r"images is an array \(4, 4, 5\), expected"),
        ({"images": 3}, r"pictures are given as 3 \(int\), expected a list"),
        ({"texts": ["a"], "images": []}, "are pairs: got 1 texts and 0 images"),
        ({"texts": "a", "images": ["b.png"]}, "one of texts and images is a list and the other is not"),
        ({"texts": b"a"}, "texts are given as a bytes, expected a list"),
        ({"texts": {"a": 1}}, "texts are given as a dict"),
        ({"texts": {"a", "b"}}, "texts are given as a set"),
        ({"texts": 3}, r"texts are given as 3 \(int\), expected a list"),
        ({"texts": np.array([["a"]])}, "texts are given with 2 axes, expected one"),
        ({"texts": ["a", None]}, "text 1 is None, expected a str; leave out what is missing"),
        ({"texts": ["a", "b", float("nan")]}, r"text 2 is nan \(float\), expected a str; leave out what is missing"),
        ({"texts": iter([b"a"])}, r"text 0 is b'a' \(bytes\), expected a str$"),
        ({"texts": [1]}, r"text 0 is 1 \(int\), expected a str$"),
        ({"texts": ["a\ud83d"]}, r"text 0 holds 'a.ud83d', a part of which is no character; read it as UTF-8"),
        ({"texts": ["a"], "prompt": 3}, "prompt is 3"),
        ({"texts": ["a"], "batch_size": 0}, r"batch_size is 0 \(int\), expected a whole number of at least 1"),
        ({"texts": ["a"], "batch_size": 1.5}, "batch_size is 1.5"),
        ({"texts": ["a"], "dims": 33}, r"dims is 33 \(int\), expected a whole number from 1 to 32"),
        ({"texts": ["a"], "dims": True}, "dims is True"),
        (
            {"texts": ["a"], "normalize": False},
            "normalize=False: the network's last step makes its vectors as long as 1",
        ),
    ],
)
def test_what_cannot_be_embedded(given, message, artifacts):
    with pytest.raises(InputError, match=message) as raised:
        artifacts.embed(**given)
    assert isinstance(raised.value, ValueError)


def test_what_is_no_list_gives_one_vector(artifacts, pictures, tmp_path):
    pictures[0].save(tmp_path / "picture.png")
    every = artifacts.embed(images=pictures[:1])
    for picture in (pictures[0], np.asarray(pictures[0]), str(tmp_path / "picture.png"), tmp_path / "picture.png"):
        np.testing.assert_array_equal(artifacts.embed(images=picture), every[0])
    with (tmp_path / "picture.png").open("rb") as file:
        np.testing.assert_array_equal(artifacts.embed(images=file), every[0])
    np.testing.assert_array_equal(artifacts.embed("b"), artifacts.embed(["b"])[0])
    np.testing.assert_array_equal(artifacts.embed("b", pictures[0]), artifacts.embed(["b"], pictures[:1])[0])


def test_texts_are_any_iterable(artifacts):
    wanted = artifacts.embed(TEXTS)
    for texts in (tuple(TEXTS), np.array(TEXTS), np.array(TEXTS, object), dict(enumerate(TEXTS)).values(), iter(TEXTS)):
        np.testing.assert_array_equal(artifacts.embed(texts), wanted)


def test_arrays_are_what_files_with_the_same_samples_are(artifacts):
    samples_ = np.random.default_rng(1).integers(0, 256, (3, 20, 30, 4), np.uint8)
    for mode, stack in (("RGBA", samples_), ("RGB", samples_[..., :3]), ("L", samples_[..., 0])):
        files = []
        for array in stack:
            files.append(io.BytesIO())
            Image.fromarray(array).save(files[-1], "PNG")
            files[-1].seek(0)
            assert Image.open(files[-1]).mode == mode
            files[-1].seek(0)
        wanted = artifacts.embed(images=files)
        np.testing.assert_array_equal(artifacts.embed(images=list(stack)), wanted)
        if mode != "L":
            np.testing.assert_array_equal(artifacts.embed(images=stack), wanted)
        else:
            np.testing.assert_array_equal(artifacts.embed(images=stack[..., None]), wanted)


def test_a_stream_is_embedded_as_it_is_read(artifacts, pictures):
    read = []

    def texts():
        for text in TEXTS:
            read.append(text)
            yield text

    vectors = artifacts.embed_iter(texts(), pictures, chunk=2)
    first = next(vectors)
    assert len(read) == 2
    np.testing.assert_allclose([first, *vectors], artifacts.embed(TEXTS, pictures), atol=CLOSE)
    with pytest.raises(InputError, match="text 3 is None"):
        list(artifacts.embed_iter(["a", "b", "c", None], chunk=2))
    with pytest.raises(InputError, match="are pairs: got 3 texts and 2 images"):
        list(artifacts.embed_iter(iter("abc"), pictures[:2], chunk=2))
    with pytest.raises(InputError, match=r"picture 3: .* cannot be read"):
        list(artifacts.embed_iter(images=[*pictures[:3], b"none"], chunk=2))


def test_vectors_are_cut_and_made_unit_again(artifacts):
    full = artifacts.embed(TEXTS)
    cut = full[:, :5]
    np.testing.assert_allclose(artifacts.embed(TEXTS, dims=5), cut / np.linalg.norm(cut, axis=1)[:, None], atol=1e-6)
    np.testing.assert_array_equal(artifacts.embed(TEXTS, dims=5, normalize=False), cut)
    np.testing.assert_array_equal(artifacts.embed(TEXTS, dims=np.int64(32), normalize=True), full)
    assert artifacts.embed([], dims=5).shape == (0, 5)


def test_vectors_of_a_network_that_does_not_normalise(artifacts, monkeypatch):
    full, rules = artifacts.embed(TEXTS), artifacts._preprocessor.rules["embeddings"]
    monkeypatch.setitem(rules, "normalize", False)
    np.testing.assert_array_equal(artifacts.embed(TEXTS, normalize=False), full)
    np.testing.assert_array_equal(artifacts.embed(TEXTS, dims=5), full[:, :5])
    made = np.linalg.norm(artifacts.embed(TEXTS, dims=5, normalize=True), axis=1)
    np.testing.assert_allclose(made, 1, atol=1e-6)


@pytest.mark.parametrize(
    ("way", "wanted"),
    [
        ("dot", [[11, 5], [0, 0]]),
        ("cosine", [[11 / 5 / np.sqrt(5), 1], [0, 0]]),
        ("euclidean", [[-np.sqrt(8), 0], [-5, -np.sqrt(5)]]),
        ("manhattan", [[-4, 0], [-7, -3]]),
    ],
)
def test_similarity_is_the_folders(way, wanted, artifacts, monkeypatch):
    """Of small vectors, by hand; that of a vector of no length is 0, as in sentence-transformers."""
    monkeypatch.setitem(artifacts._preprocessor.rules["embeddings"], "similarity", way)
    one, other = np.array([[1, 2], [0, 0]]), [[3, 4], [1, 2]]
    np.testing.assert_allclose(artifacts.similarity(one, other), wanted, atol=1e-6)
    assert artifacts.similarity(one[0], other).shape == (1, 2)


@pytest.mark.parametrize(
    ("one", "message"),
    [("a", "is no array of numbers"), ([[1, 2, 3]], "of 3 and 2 numbers"), (np.zeros((1, 1, 2)), r"shape \(1, 1, 2\)")],
)
def test_what_cannot_be_compared(one, message, artifacts):
    with pytest.raises(InputError, match=message):
        artifacts.similarity(one, [1, 2])


def test_tokens_are_counted_beyond_the_limit(artifacts):
    limit = artifacts.limit
    texts = ["", "a", "a " * (limit - 2), "a " * (limit - 1), "a " * 3000]
    assert artifacts.token_count(texts) == [2, 3, limit, limit + 1, 3002]
    assert artifacts.token_count("a", prompt="b ") == 4
    artifacts.embed(texts)
    assert artifacts.cut == (3, 4)
    list(artifacts.embed_iter(texts, chunk=2))
    assert artifacts.cut == (3, 4)


def test_progress_is_told(artifacts, capsys):
    told = []
    artifacts.embed(TEXTS, batch_size=4, progress=lambda done, total: told.append((done, total)))
    assert told == [(4, 6), (6, 6)]
    told.clear()
    list(artifacts.embed_iter(iter(TEXTS), chunk=5, progress=lambda done, total: told.append((done, total))))
    assert told == [(5, None), (6, None)]
    artifacts.embed(TEXTS, progress=True)
    assert capsys.readouterr().out == ""


def test_what_is_pickled_is_opened_anew(directory, monkeypatch):
    with open_artifacts(directory, threads=1) as artifacts:
        wanted, pickled = artifacts.embed(TEXTS), pickle.dumps(artifacts)
    monkeypatch.chdir("/")
    again = pickle.loads(pickled)
    np.testing.assert_allclose(again.embed(TEXTS), wanted, atol=CLOSE)
    assert again._session == artifacts._session


@pytest.mark.prove
def test_processes_that_are_spawned_embed(directory, artifacts):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(artifacts.embed, [TEXTS[:3], TEXTS[3:]]))
    np.testing.assert_allclose(np.concatenate(found), artifacts.embed(TEXTS), atol=CLOSE)


def test_threads_share_it(artifacts):
    texts = [["a " * n, "b"] for n in range(1, 30)]
    wanted = [artifacts.embed(each) for each in texts]
    with ThreadPoolExecutor(8) as pool:
        counted = pool.map(artifacts.token_count, texts)
        for got, want in zip(pool.map(artifacts.embed, texts), wanted, strict=True):
            np.testing.assert_allclose(got, want, atol=CLOSE)
        assert list(counted) == [artifacts.token_count(each) for each in texts]


def test_what_is_closed_says_so(directory):
    with open_artifacts(directory) as artifacts:
        assert artifacts.embed(["a"]).shape == (1, 32)
    with pytest.raises(InputError, match="was closed; open it again"):
        artifacts.embed(["a"])


def test_it_says_what_it_is(artifacts, directory):
    shown = repr(artifacts)
    for part in (str(directory), "visualized_bge", "onnx", "encode_text(input_ids, attention_mask) -> embeddings"):
        assert part in shown


def test_what_is_public():
    import bgevis.converter as public

    assert public.__version__ == version("bgevis-convert")
    assert issubclass(public.InputError, public.ConvertError)
    assert all(hasattr(public, name) for name in public.__all__)
    with pytest.raises(public.InputError, match="is not a run directory"):
        public.open_artifacts("/nowhere")


def test_onnxruntime_is_opened_as_it_is_said(directory, artifacts):
    one = open_artifacts(directory, threads=1, providers=[("CPUExecutionProvider", {})])
    np.testing.assert_allclose(one.embed(TEXTS), artifacts.embed(TEXTS), atol=CLOSE)
    assert one._runner._session("encode_text").get_session_options().intra_op_num_threads == 1
    assert one._runner._session("encode_text") is one._runner._session("encode_text")
    held = one._runner._session("encode_text")
    one.embed("a", Image.new("RGB", (3, 3)))
    assert one._runner._session("encode_text") is held
    with pytest.raises(InputError, match=r"has no NoExecutionProvider here \(providers: .*CPUExecutionProvider"):
        open_artifacts(directory, providers=["NoExecutionProvider"])
    with pytest.raises(InputError, match="threads is 0"):
        open_artifacts(directory, threads=0)
    with pytest.raises(InputError, match="threads cannot be chosen for the format orbax"):
        open_artifacts(directory, "orbax", threads=1)


@pytest.mark.parametrize("name", ["programs/weights.safetensors", "programs/encode_text.onnx", "tokenizer.json"])
def test_what_was_damaged_is_refused(name, directory, tmp_path):
    run = shutil.copytree(directory, tmp_path / "run")
    open_artifacts(run)
    with (run / name).open("r+b") as file:
        file.seek(-9, os.SEEK_END)
        byte = file.read(1)
        file.seek(-9, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(InputError, match=rf"{name} was altered: its sha256 is not the manifest's; get the run"):
        open_artifacts(run)


def test_a_file_is_read_once_for_its_digest(directory, monkeypatch):
    open_artifacts(directory)
    monkeypatch.setattr("bgevis.converter.directory.sha256", lambda *_: pytest.fail("a file was read again"))
    open_artifacts(directory)


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


def shell(*arguments, given: bytes = b"") -> Result:
    return CliRunner(catch_exceptions=False).invoke(main, [*map(str, arguments)], input=given)


def test_json_lines(directory, wanted):
    done = shell("embed", directory, "--text", TEXTS[0], "--text", "", "--texts", "-", given="b\r\nöne\n".encode())
    assert done.exit_code == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["text"] for line in lines] == [TEXTS[0], "", "b", "öne"]
    np.testing.assert_allclose([line["embedding"] for line in lines[:3]], wanted["texts"][:3], atol=CLOSE)


@pytest.mark.parametrize("ending", ["npy", "parquet", "jsonl"])
def test_files(ending, directory, pictures, wanted, tmp_path):
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / f"{i}.png")
    (tmp_path / "texts").write_text("\n".join(TEXTS) + "\n")
    names = [part for i in range(len(pictures)) for part in ("--image", tmp_path / f"{i}.png")]
    out = tmp_path / f"out.{ending}"
    done = shell("embed", directory, "--texts", tmp_path / "texts", *names, "--out", out, "--format", "onnx")
    assert (done.exit_code, done.stdout) == (0, ""), done.stderr
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


def test_a_file_that_was_written_is_told(directory, tmp_path):
    done = shell("embed", directory, "--text", "a", "--text", "b", "-o", tmp_path / "out.npy", "--dims", 5)
    assert (done.exit_code, done.stdout) == (0, "")
    assert f"wrote {tmp_path / 'out.npy'} (2, 5)" in done.stderr
    assert np.load(tmp_path / "out.npy").shape == (2, 5)


@pytest.mark.parametrize("given", ["pattern", "list"])
def test_pictures_of_a_folder(given, directory, pictures, wanted, tmp_path):
    names = [tmp_path / f"{i}.png" for i in range(3)]
    for name, picture in zip(names, pictures, strict=False):
        picture.save(name)
    (tmp_path / "names").write_text("".join(f"{name}\n" for name in names))
    done = shell("embed", directory, "--images", tmp_path / ("*.png" if given == "pattern" else "names"))
    assert done.exit_code == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["image"] for line in lines] == [str(name) for name in names]
    np.testing.assert_allclose([line["embedding"] for line in lines], wanted["images"][:3], atol=CLOSE)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_rows_as_json_lines_keep_what_else_they_hold(ending, directory, wanted, tmp_path):
    rows = [{"id": i, "text": text} for i, text in enumerate(TEXTS[:2])]
    given = "".join(json.dumps(row) + "\n\n" for row in rows).encode()
    out = tmp_path / f"out.{ending}"
    done = shell("embed", directory, "--jsonl", "-", "--out", out, given=given)
    assert done.exit_code == 0, done.stderr
    if ending == "jsonl":
        found = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        found = pytest.importorskip("pyarrow.parquet").read_table(out).to_pylist()
    np.testing.assert_allclose([row.pop("embedding") for row in found], wanted["texts"][:2], atol=CLOSE)
    assert found == rows


def test_the_nearest_come_first(directory, artifacts):
    texts = ["b", "a longer text than all", "b b"]
    done = shell("search", directory, "--query", "b", *(f"--text={text}" for text in texts))
    assert done.exit_code == 0, done.stderr
    near = artifacts.similarity(artifacts.embed("b"), artifacts.embed(texts))[0]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["text"] for line in lines] == [texts[i] for i in np.argsort(-near)]
    np.testing.assert_allclose([line["similarity"] for line in lines], np.sort(near)[::-1], atol=CLOSE)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "nothing to embed"),
        (("--text", "a", "--image", "b", "--image", "c"), 2, "are pairs: got 1 texts and 2 pictures"),
        (("--image", "no.png"), 3, "no.png does not exist"),
        (("--texts", "no.txt"), 3, "no.txt does not exist"),
        (("--text", "a", "--format", "tflite"), 2, "no format 'tflite'"),
        (("--text", "a", "--out", "/no/folder/x.npy"), 3, "does not exist; make it first"),
        (("--images", "no/*.png"), 3, "--images no/*.png: no file's name is like this"),
        (("--images", "."), 3, ". is a folder, expected a file with one row per line"),
        (("--texts", os.devnull, "--image", "b"), 2, "are pairs: got 0 texts and 1 pictures"),
        (("--text", "a", "--dims", 99), 3, "dims is 99"),
        (("--jsonl", "-", "--text", "a"), 2, "--jsonl is all rows"),
        (("--jsonl", "-"), 3, "-, line 1: expected an object with text, image or both"),
    ],
)
def test_refusals_of_the_shell(arguments, code, message, directory):
    done = shell("embed", directory, *arguments, given=b'{"id": 1}')
    assert done.exit_code == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


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
        (altered_filter, "other pixels for the pictures wide, tall"),
        (altered_picture, "other pixels for the pictures wide"),
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


# Without what converts, as `pip install 'bgevis-convert[onnx,embed]'` leaves a machine.

WITHOUT = """
import json, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"flax", "jax", "jaxlib", "jaxtyping", "jinja2", "onnx", "optax", "orbax", "rich"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from click.testing import CliRunner
from bgevis.converter.cli import main

done = [CliRunner(catch_exceptions=False).invoke(main, command) for command in json.load(sys.stdin)]
print(json.dumps([(each.exit_code, each.output) for each in done]))
"""


def test_what_converts_nothing_does_without(directory, tmp_path):
    run, checkpoint, new = str(directory), str(directory.parent / "ckpt.safetensors"), str(tmp_path / "new.safetensors")
    does = [["embed", run, "--text", "a"], ["families"], ["inspect", checkpoint]]
    refuses = [
        ["doctor", run],
        ["all", checkpoint, "--out", new, "--format", "onnx"],
        ["validate", run, "--format", "onnx"],
        ["export", "onnx", run],
        ["parity", run],
        ["build", run],
        ["restore", run, "--from", "onnx", "--out", new],
        ["embed", run, "--text", "a", "--format", "stablehlo"],
    ]
    before = (directory / "manifest.json").read_bytes()
    given = json.dumps([*does, *refuses])
    done = subprocess.run([sys.executable, "-c", WITHOUT], input=given, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert [code for code, _ in found] == [0] * len(does) + [4] * len(refuses), found
    for command, (_, said) in zip(refuses, found[len(does) :], strict=True):
        assert "which is not installed: pip install 'bgevis-convert[convert]'" in said, command
    assert (directory / "manifest.json").read_bytes() == before
    assert not Path(new).exists()

"""From open artifacts into a store and back: from Python, from the shell, and in the examples."""

import json
import runpy
import sys
import types
import wave
from pathlib import Path

import numpy as np
import pytest
import tiny_tokenizer
from click.testing import CliRunner
from in_process import export
from PIL import Image
from tiny_folder import tiny_folder
from tiny_towers import TINY, with_tokenizer, written

pa = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

from bgevis.converter import EmbeddingStore, open_artifacts  # noqa: E402
from bgevis.converter.cli import main  # noqa: E402
from bgevis.converter.use.fixture import write_fixture  # noqa: E402
from bgevis.model.whisper.config import SIZES  # noqa: E402
from bgevis.validation.errors import InputError  # noqa: E402

EXAMPLES = Path(__file__).parents[1] / "examples"
TEXTS = ["one two", "three a", "a two one", "a"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    return export(tiny_folder(folder), folder / "run", ("onnx",))


@pytest.fixture(scope="module")
def towers(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("towers")
    written(folder, TINY)
    with_tokenizer(folder, TINY.text, TINY.text.bos_token_id)
    return export(folder, folder / "run", ("onnx",))


@pytest.fixture(scope="module")
def hearing(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hearing")
    write_fixture("whisper", "tiny", 0, "float32", folder / "model.safetensors")
    tiny_tokenizer.written(SIZES["tiny"]).save(str(folder / "tokenizer.json"))
    return export(folder, folder / "run", ("onnx",))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Texts, pictures and sounds."""
    folder, draw = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    (folder / "texts.txt").write_text("\n".join(TEXTS))
    for name in ("a.png", "b.png"):
        Image.fromarray(draw.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / name)
    for name, pitch in (("low.wav", 200), ("high.wav", 1500)):
        samples = 0.3 * np.sin(2 * np.pi * pitch * np.arange(8000) / 16000)
        with wave.open(str(folder / name), "wb") as out:
            out.setparams((1, 2, 16000, 0, "NONE", ""))
            out.writeframes((samples * 32767).astype("<i2").tobytes())
    return folder


def run(code: int, *arguments: object) -> str:
    found = CliRunner().invoke(main, [*map(str, arguments)])
    assert found.exit_code == code, found.output
    return found.output


def test_each_network_has_its_table_and_finds_what_it_embedded(texts, towers, hearing, files, tmp_path):
    store = EmbeddingStore.create(tmp_path / "store")
    pictures, sounds = (
        [str(files / name) for name in ("a.png", "b.png")],
        [str(files / "low.wav"), str(files / "high.wav")],
    )
    with open_artifacts(texts) as words, open_artifacts(towers) as both, open_artifacts(hearing) as heard:
        assert store.add(words, TEXTS, metadata=[{"place": at} for at in range(4)], batch_size=2) == 4
        assert store.add(both, TEXTS) == 4
        assert store.add(both, images=pictures) == 2
        assert store.add(heard, audio=sounds) == 2
        for table, vector, wanted, kind in (
            ("text", words.embed(TEXTS[1]), {"text": TEXTS[1], "place": 1}, None),
            ("clip", both.embed(TEXTS[2]), {"text": TEXTS[2]}, "text"),
            ("clip", both.embed(images=pictures[1]), {"image": pictures[1]}, "image"),
            ("audio", heard.embed(audio=sounds[1]), {"audio": sounds[1]}, None),
        ):
            ((found,),) = store.search(table, vector, 1)
            assert (found.metadata, found.modality) == (wanted, kind)
            assert found.similarity == pytest.approx(1, abs=2e-3)
        with pytest.raises(InputError, match="text has the id"):
            store.add(words, TEXTS[:1])
        with pytest.raises(InputError, match=r"a query has \d+ numbers, the embeddings of 'clip-.*' in clip have"):
            store.search("clip", words.embed("a")[:5])
        with pytest.raises(InputError, match="row 0 is no text and no file, so nothing names it: give ids"):
            store.add(both, images=[np.zeros((4, 4, 3), np.uint8)])
        with pytest.raises(InputError, match="rows do not go together: 1 text, 2 ids"):
            store.add(words, ["a"], ids=["x", "y"])
        with pytest.raises(InputError, match="one row alone"):
            store.add(words, "a")
    (name,) = store.models("text")
    assert name.startswith("bert-")


def test_the_shell_fills_a_store_and_searches_it(texts, towers, files, tmp_path):
    store, rows = tmp_path / "store", tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"id": f"n{at}", "text": text, "page": at}) + "\n" for at, text in enumerate(TEXTS))
    )
    assert "added 4 to" in run(0, "embed", texts, "--jsonl", rows, "--store", store)
    assert "has the id 'n" in run(3, "embed", texts, "--jsonl", rows, "--store", store)
    run(0, "embed", towers, "--images", files / "*.png", "--store", store)
    run(0, "embed", towers, "--text", "one", "--store", store)
    found = [
        json.loads(line)
        for line in run(0, "search", texts, "--query", TEXTS[2], "--store", store, "-k", 2).splitlines()
    ]
    assert found[0] == {"id": "n2", "text": TEXTS[2], "page": 2, "similarity": found[0]["similarity"]}
    assert found[0]["similarity"] >= found[1]["similarity"]
    asked = ["search", towers, "--query", "one", "--store", store]
    found = [json.loads(line) for line in run(0, *asked, "--modality", "image").splitlines()]
    assert sorted(Path(row["image"]).name for row in found) == ["a.png", "b.png"]
    told = json.loads(run(0, "store", store, "--index", "text", "--compact", "--verify"))
    assert (told["rows"], told["verified"], told["recall"]["2"]) == (7, 7, 1.0)
    assert len(run(0, "search", texts, "--query", "a", "--store", store, "--probes", 2).splitlines()) == 4
    for given, message in (
        (("search", texts, "--query", "a", "--store", store, "--text", "b"), "--store is all that is searched"),
        (("search", texts, "--query", "a", "--text", "b", "--probes", 1), "are of a store: give --store"),
        (("embed", texts, "--text", "a", "--store", store, "--out", "x.npy"), "--out and --store"),
        (("embed", texts, "--text", "a", "--model", "m"), "--model is a name in a store"),
        (("store", store, "--model", "m"), "--model is of the index"),
    ):
        assert message in run(2, *given)
    assert "is no store of embeddings" in run(3, "search", texts, "--query", "a", "--store", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_example_finds_texts_pictures_and_sounds_by_each_other(
    texts, towers, hearing, files, tmp_path, monkeypatch, capsys
):
    given = ["--texts", texts, "--pictures", towers, "--sounds", hearing]
    script = EXAMPLES / "cross_modal.py"
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, [files, tmp_path / "store", *given])])
    for _ in range(2):  # the second time nothing is added
        runpy.run_path(str(script), run_name="__main__")
        said = capsys.readouterr().out
        assert "text       6 rows of bert-" in said
        assert "clip       6 rows of clip-" in said
        assert "audio      2 rows of whisper-" in said
        near = {part.splitlines()[0]: part.splitlines()[1:] for part in said.split("\nnear the ")[1:]}
        (asked, lines), *_ = near.items()
        assert asked == "text 'one two'"
        assert lines[0].split() == ["written", "or", "said", lines[0].split()[3], "one", "two"]
        for kind, own in (("picture", "a.png"), ("sound", "high.wav")):
            (lines,) = (lines for asked, lines in near.items() if asked.startswith(kind))
            assert own in lines[0], "a file is not nearest to itself"


class OneMachine:
    """In Ray's place: does what `map` is given, here and now."""

    def __init__(self, rows: list):
        self.rows = rows

    def map(self, work, fn_constructor_args, **how):
        done = work(*fn_constructor_args)
        return types.SimpleNamespace(iter_rows=lambda: [done(row) for row in self.rows])


def test_the_ray_example_fills_a_store_and_goes_on_where_it_stopped(texts, tmp_path, monkeypatch, capsys):
    data = types.SimpleNamespace(from_items=lambda rows, **how: OneMachine(rows))
    ray = types.SimpleNamespace(init=lambda: None, cluster_resources=lambda: {"CPU": 8.0}, data=data)
    monkeypatch.setitem(sys.modules, "ray", ray)
    (tmp_path / "corpus").mkdir()
    for at in range(3):
        part = {"key": [f"{at}-{row}" for row in range(2 * at)], "text": TEXTS[: 2 * at], "year": [2000 + at] * 2 * at}
        table = pa.table(part, schema=pa.schema([("key", pa.string()), ("text", pa.string()), ("year", pa.int64())]))
        parquet.write_table(table, tmp_path / "corpus" / f"part-{at}.parquet")
    script = str(EXAMPLES / "ray_embed.py")
    given = [str(path) for path in (texts, tmp_path / "corpus", tmp_path / "store")]
    monkeypatch.setattr(sys, "argv", [script, *given, "--store", "--id", "key"])
    runpy.run_path(script, run_name="__main__")
    assert "6 rows embedded" in capsys.readouterr().out
    store = EmbeddingStore(tmp_path / "store")
    assert store.parts("text") == ["part-0.parquet", "part-1.parquet", "part-2.parquet"]
    with open_artifacts(texts) as words:
        ((found,),) = store.search("text", words.embed(TEXTS[1]), 1, metadata={"year": 2002})
    assert (found.id, found.metadata) == ("2-1", {"text": TEXTS[1], "year": 2002})
    parquet.write_table(
        parquet.read_table(tmp_path / "corpus" / "part-1.parquet").set_column(0, "key", [["new-0", "new-1"]]),
        tmp_path / "corpus" / "part-3.parquet",
    )
    runpy.run_path(script, run_name="__main__")
    said = capsys.readouterr().out
    assert "4 parts, 3 done before" in said
    assert "2 rows embedded" in said
    assert store.statistics()["rows"] == 8

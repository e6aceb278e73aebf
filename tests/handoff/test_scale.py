"""Many devices and many machines, simulated on one."""

import json
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.append(str(Path(__file__).parents[1]))  # pytest's importlib mode leaves it out
import tiny_tokenizer
from in_process import convert
from PIL import Image
from tiny_towers import TINY, with_tokenizer, written

from bgevis.converter.use.fixture import write_fixture
from bgevis.model.whisper.config import SIZES

EXAMPLES = Path(__file__).parents[2] / "examples"


def sharded(*arguments: object) -> dict:
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / "sharded.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_orbax_restores_onto_more_and_fewer_devices_than_it_was_saved_from(visualized, tmp_path, tell):
    eight = sharded(visualized, "--devices", 8, "--save", tmp_path / "eight")
    assert eight["devices"] == 8
    assert eight["largest_share"] < 0.2, "hardly anything was cut"
    for devices in (2, 4):
        fewer = sharded(visualized, "--devices", devices, "--checkpoint", tmp_path / "eight")
        assert fewer["devices"] == devices
        assert fewer["worst"] <= 1
    tell(f"pass: Orbax restored onto 8 devices from none, onto 2 and 4 from 8, at most {eight['worst']:.2f} of allowed")


def test_a_network_that_is_cut_as_its_family_says_chooses_the_same_tokens(tmp_path, tell):
    write_fixture("qwen2", "tiny", 0, "float32", tmp_path / "model.safetensors")
    run = convert(tmp_path / "model.safetensors", tmp_path / "run", ("orbax",))
    for devices, most in ((2, 0.52), (4, 0.35)):
        found = sharded(run, "--devices", devices)
        assert (found["wrong"], found["worst"] <= 1, found["largest_share"] < most) == ([], True, True)
    tell("pass: a tiny language model on 2 and 4 devices, the same tokens")


def test_three_checkpoints_become_one_store(minilm, tmp_path, tell):
    """The real MiniLM with a tiny CLIP and a tiny Whisper, from checkpoints to what is near."""
    files, clip, whisper = (tmp_path / name for name in ("files", "clip", "whisper"))
    for folder in (files, clip, whisper):
        folder.mkdir()
    write_fixture("whisper", "tiny", 0, "float32", whisper / "model.safetensors")
    tiny_tokenizer.written(SIZES["tiny"]).save(str(whisper / "tokenizer.json"))
    (files / "texts.txt").write_text("A recording of speech.\nFoxes eat mice.\n")
    Image.fromarray(np.full((40, 40, 3), 99, np.uint8)).save(files / "grey.png")
    with wave.open(str(files / "hum.wav"), "wb") as out:
        out.setparams((1, 2, 16000, 0, "NONE", ""))
        out.writeframes((3000 * np.sin(np.arange(16000) / 8)).astype("<i2").tobytes())
    written(clip, TINY)
    with_tokenizer(clip, TINY.text, TINY.text.bos_token_id)
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / "cross_modal.py"), str(files), str(tmp_path / "store")]
    given = ["--texts", minilm, "--pictures", clip, "--sounds", whisper, "--work", tmp_path / "work"]
    done = subprocess.run([*command, *map(str, given)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "near the text 'A recording of speech.'" in done.stdout
    assert "3 rows of bert-" in done.stdout
    tell("pass: texts, pictures and sounds of three checkpoints in one store")


def embed(*arguments: object) -> str:
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / "ray_embed.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_ray_embeds_a_corpus_and_goes_on_where_it_stopped(visualized, tmp_path, tell):
    pytest.importorskip("ray")
    from bgevis.converter import EmbeddingStore, open_artifacts

    corpus, out = tmp_path / "corpus", tmp_path / "out"
    corpus.mkdir()
    texts = [["a cat", "", "two dogs, and more"], ["b", "what?"], []]
    for i, part in enumerate(texts):
        table = pa.table({"id": pa.array([f"{i}-{j}" for j in range(len(part))]), "text": pa.array(part, pa.string())})
        pq.write_table(table, corpus / f"part-{i}.parquet")
    assert "5 rows embedded" in embed(visualized, corpus, out, "--actors", 1)
    model = open_artifacts(visualized, "onnx")
    for i, part in enumerate(texts[:2]):
        table = pq.read_table(out / f"part-{i}.parquet")
        assert table.column("id").to_pylist() == [f"{i}-{j}" for j in range(len(part))]
        np.testing.assert_allclose(np.stack(table.column("embedding").to_numpy()), model.embed(texts=part), atol=2e-6)
    assert pq.read_table(out / "part-2.parquet").num_rows == 0
    (out / "part-1.parquet").unlink()
    again = embed(visualized, corpus, out, "--actors", 1)
    assert "3 parts, 2 done before" in again
    assert "2 rows embedded" in again
    assert sorted(path.name for path in out.iterdir()) == [f"part-{i}.parquet" for i in range(3)]
    stored = ("--actors", 1, "--store", "--id", "id")
    assert "5 rows embedded" in embed(visualized, corpus, tmp_path / "store", *stored)
    assert "3 parts, 3 done before" in embed(visualized, corpus, tmp_path / "store", *stored)
    store = EmbeddingStore(tmp_path / "store")
    (found,) = store.search("clip", model.embed(texts=texts[1][1]), 1)
    assert (found[0].id, store.statistics()["rows"]) == ("1-1", 5)
    tell("pass: Ray Data embedded 3 parts of a corpus, and again the one that was taken away; and into a store")

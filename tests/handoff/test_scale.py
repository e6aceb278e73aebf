"""Many devices and many machines, simulated on one."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.append(str(Path(__file__).parents[1]))  # pytest's importlib mode leaves it out
from in_process import convert

from bgevis.converter.use.fixture import write_fixture

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


def embed(*arguments: object) -> str:
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / "ray_embed.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_ray_embeds_a_corpus_and_goes_on_where_it_stopped(visualized, tmp_path, tell):
    pytest.importorskip("ray")
    from bgevis.converter import open_artifacts

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
    tell("pass: Ray Data embedded 3 parts of a corpus, and again the one that was taken away")

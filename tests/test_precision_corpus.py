"""`precision`: a format held to the original on a user's rows; what is told, what passes, and what does not."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from in_process import export
from tiny_folder import tiny_folder
from tiny_towers import TINY, with_tokenizer, written

from bgevis.converter import open_artifacts
from bgevis.converter.cli import main
from bgevis.converter.directory import SOURCE, RunDirectory
from bgevis.converter.use import precision
from bgevis.converter.use.precision import Agreement, Format, Precision, agreement, floors_of, measured

TEXTS = ["one two", "three a", "two two three one", "a a", "", "ones twos", "one two", "three"]


@pytest.fixture(scope="module")
def sentences(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sentences")
    prompts = (("passage", "three "),)
    return export(tiny_folder(folder, prompts=prompts, default_prompt="passage"), folder / "run", ("onnx", "onnx-int8"))


def towers(folder: Path, activation: str) -> Path:
    """Convert one tiny CLIP with an activation; its weights are the same each time."""
    text, vision = (dataclasses.replace(tower, hidden_act=activation) for tower in (TINY.text, TINY.vision))
    file = written(folder, dataclasses.replace(TINY, text=text, vision=vision))
    with_tokenizer(folder, TINY.text, TINY.text.bos_token_id)
    return export(file, folder / "run", ("onnx",))


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return towers(tmp_path_factory.mktemp("clip"), "quick_gelu")


def ran(run: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["precision", str(run), *arguments])


def texts_of(folder: Path) -> str:
    (folder / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    return str(folder / "texts.txt")


def test_the_figures_are_what_their_names_say(monkeypatch):
    """By plain numpy over all pairs at once, of vectors of any length; doubles are neighbours in any order."""
    monkeypatch.setattr(precision, "BLOCK", 5)
    rng = np.random.default_rng(0)
    wanted = rng.normal(size=(17, 6)).astype(np.float32)
    wanted[8:12] = wanted[7]
    found = wanted + rng.normal(0, 0.2, wanted.shape).astype(np.float32)
    found[7:12] = wanted[7] + 1e-7 * rng.normal(size=(5, 6)).astype(np.float32)
    got = agreement("text", [f"row {i}" for i in range(17)], found, wanted, 3)
    apart = np.square(found - wanted).sum(1) / np.square(wanted).sum(1)
    assert got.mean == pytest.approx(1 - apart.mean() / 2, abs=1e-6)
    assert (got.worst[0].place, got.worst[0].what) == (apart.argmax(), f"row {apart.argmax()}")
    assert got.lowest == got.worst[0].cosine == pytest.approx(1 - apart.max() / 2, abs=1e-6)
    assert got.percentiles[50] == pytest.approx(1 - np.median(apart) / 2, abs=1e-6)
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (found, wanted)]
    have, want = ((each @ each.T).astype(float) for each in unit)
    pairs = ~np.eye(17, dtype=bool)
    assert got.pearson == pytest.approx(np.corrcoef(have[pairs], want[pairs])[0, 1], abs=1e-5)
    have[~pairs] = want[~pairs] = -2
    last = np.sort(want, axis=1)[:, -3]
    same = [want[i, j] >= last[i] - 1e-6 for i in range(17) for j in have[i].argsort()[-3:]]
    assert got.overlap == pytest.approx(np.mean(same))
    assert 0.3 < got.overlap < 1
    exact = agreement("text", [""] * 17, wanted, wanted, 3)
    assert (exact.lowest, exact.overlap, exact.pearson) == (1, 1, pytest.approx(1))
    few = agreement("text", ["", ""], wanted[:2], wanted[:2], 3)
    assert (few.pearson, few.overlap) == (None, None)


def test_the_original_is_upstream_s_own_code_from_raw_texts_on(sentences, tmp_path):
    """With the folder's prompt; all of it as JSON."""
    done = ran(sentences, "--texts", texts_of(tmp_path), "-k", "2", "--json")
    found = json.loads(done.stdout)
    assert (done.exit_code, found["passed"], found["warnings"], found["problems"]) == (0, True, [], [])
    assert "sentence-transformers" in found["judge"]
    assert "encode" in found["judge"]
    (kind,) = found["kinds"]
    assert (kind["kind"], kind["rows"], kind["overlap"]) == ("text", len(TEXTS), 1)
    assert kind["lowest"] > 1 - 1e-11
    files = RunDirectory(sentences).manifest()["files"]
    wanted = sum(files[f"programs/{name}"]["bytes"] for name in ("encode_text.onnx", "weights.safetensors"))
    assert found["bytes"]["artifact"] == wanted
    assert found["compression"] == found["bytes"]["original"] / wanted


def test_texts_and_pictures_are_held_each_and_across(clip, tmp_path):
    pictures = sorted((clip / "goldens/raw/images").glob("*.png"))
    listed = tmp_path / "pictures.txt"
    listed.write_text("\n".join(map(str, pictures)))
    done = ran(clip, "--texts", texts_of(tmp_path), "--images", str(listed))
    assert done.exit_code == 0, done.stderr
    assert f"image: {len(pictures)} rows" in done.stdout
    assert "CLIPImageProcessorPil" in done.stdout
    assert "text and image: Pearson" in done.stdout
    (tmp_path / "none.png").write_bytes(b"no picture")
    done = ran(clip, "--image", str(tmp_path / "none.png"))
    assert (done.exit_code, "none.png" in done.stderr) == (3, True)


def test_another_activation_passes_a_cosine_of_095_and_not_this_gate(clip, tmp_path):
    """gelu for quick_gelu: what a threshold of 0.95 does not see."""
    pictures = [str(each) for each in sorted((clip / "goldens/raw/images").glob("*.png"))]
    judge, wrong = Format(open_artifacts(clip)), open_artifacts(towers(tmp_path, "gelu"))
    found = measured(wrong, judge, {"text": TEXTS, "image": pictures}, 3)
    assert min(each.lowest for each in found.agreements) > 0.99
    assert {line.partition(":")[0] for line in found.problems} >= {"text", "image"}
    assert any("lowest cosine is" in line for line in found.problems)


def test_a_gate_that_fails_names_what_and_still_tells_all(sentences, tmp_path):
    """int8 is held to its own floors, and to the user's where one is said."""
    told = ["--texts", texts_of(tmp_path), "--format", "onnx-int8", "--against", "onnx"]
    done = ran(sentences, *told, "--floor", "0.9999999")
    assert done.exit_code == 1
    assert "onnx-int8" in done.stdout
    assert "error: text: mean cosine is 0." in done.stderr
    assert "lowest cosine is 0." in done.stderr
    assert "at least 1 - 1.0e-07 is asked for" in done.stderr
    assert floors_of("onnx-int8").cosine == 0.98
    assert floors_of("onnx").cosine > 0.9999999


@pytest.mark.parametrize(("share", "problems", "warnings"), [(0.4, 0, 0), (0.6, 0, 2), (1.1, 2, 0)])
def test_more_than_half_of_what_is_allowed_is_warned_of(share, problems, warnings):
    floors = floors_of("onnx-int8")
    mean, lowest = (1 - share * (1 - floor) for floor in (floors.mean, floors.cosine))
    each = Agreement("text", 40, mean, lowest, {}, 1.0, 1.0, 10, ())
    found = Precision("onnx-int8", "", floors, (each,), None, 1, 1)
    assert (len(found.problems), len(found.warnings)) == (problems, warnings)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "nothing to compare"),
        (["--text", "one", "--against", "onnx"], 2, "is the format that is held to it"),
        (["--sound", "a.wav"], 3, "embeds no sounds"),
        (["--images", "nothing-*.png"], 3, "--images nothing-*.png: no file's name is like this"),
        (["--sounds", "nothing-*.wav"], 3, "--sounds nothing-*.wav: no file's name is like this"),
        (["--texts", "not-there.txt"], 3, "not-there.txt does not exist"),
    ],
)
def test_refusals_of_the_shell(arguments, code, message, sentences):
    done = ran(sentences, *arguments)
    assert (done.exit_code, message in done.stderr) == (code, True), done.stderr


def test_without_the_checkpoint_it_is_said_what_else_there_is(sentences, tmp_path, monkeypatch):
    monkeypatch.setattr("bgevis.converter.stages.common.SOURCE", f"{SOURCE}.gone")
    done = ran(sentences, "--text", "one")
    assert (done.exit_code, "hold it to a format of the run directory: --against onnx" in done.stderr) == (3, True)

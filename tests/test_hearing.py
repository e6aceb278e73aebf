"""Sound to text as people ask for it: from Python and the shell, in windows, with languages and the times of words."""

import io
import json
import subprocess
import sys
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode leaves it out
import tiny_tokenizer
from in_process import export

from bgevis.converter import MultimodalEmbeddingProvider, open_artifacts
from bgevis.converter.cli import main
from bgevis.converter.use import hearing
from bgevis.converter.use.fixture import write_fixture
from bgevis.converter.use.hearing import Transcript, Word, aligned, grouped, warped
from bgevis.converter.use.word_errors import WordErrors, edits, words_of
from bgevis.model.whisper.config import SIZES
from bgevis.validation.errors import InputError

RATE = 16000


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hearing")
    write_fixture("whisper", "tiny", 0, "float32", folder / "model.safetensors")
    tiny_tokenizer.written(SIZES["tiny"]).save(str(folder / "tokenizer.json"))
    return export(folder, folder / "run", ("onnx", "onnx-int8"))


@pytest.fixture(scope="module")
def opened(run):
    with open_artifacts(run, "onnx") as artifacts:
        yield artifacts


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    return (0.4 * np.sin(2 * np.pi * rng.uniform(200, 2000) * time) + 0.05 * rng.standard_normal(len(time))).astype(
        "f4"
    )


def wav(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, RATE, 0, "NONE", ""))
        out.writeframes((samples * 32767).round().astype("<i2").tobytes())
    return file.getvalue()


def test_a_sound_alone_and_among_others_is_the_same(opened, tmp_path):
    """A file, its bytes, an open file, a path, and an array are one sound."""
    (tmp_path / "a.wav").write_bytes(wav(sound(0.7)))
    alone = opened.transcribe(tmp_path / "a.wav")
    assert alone.ids
    assert alone.language == "en"
    assert len(alone.margins) == len(alone.ids)
    assert str(alone) == alone.text
    with (tmp_path / "a.wav").open("rb") as file:
        others = [(tmp_path / "a.wav").read_bytes(), file, str(tmp_path / "a.wav")]
        several = opened.transcribe([(sound(0.6, 1), RATE), *others])
    assert [each.ids for each in several[1:]] == [alone.ids] * 3
    assert several[0].ids != alone.ids


def test_a_long_sound_is_heard_in_windows(opened):
    """What each window says is what it says alone; the times go on."""
    parts = [sound(1.0, 1), sound(1.0, 2), sound(0.5, 3)]
    whole = opened.transcribe((np.concatenate(parts), RATE), words=True)
    each = [opened.transcribe((part, RATE), words=True) for part in parts]
    assert whole.ids == tuple(token for one in each for token in one.ids)
    assert whole.text == " ".join(one.text for one in each if one.text)
    moved = [replace(w, start=w.start + i, end=w.end + i) for i, one in enumerate(each) for w in one.words]
    assert [w.text for w in whole.words] == [w.text for w in moved]
    for have, want in zip(whole.words, moved, strict=True):
        assert (have.start, have.end) == pytest.approx((want.start, want.end), abs=1e-9)
        assert 0 <= have.start <= have.end <= 2.5


def test_the_language_is_told_by_the_network_where_nobody_says_it(run, opened):
    """By the best of the languages' tokens after the start."""
    transcriber = opened._transcriber()
    samples = np.stack([np.pad(sound(0.9, seed), (0, RATE - 14400)) for seed in (1, 2)])
    heard = transcriber.hear(opened._heard(samples))
    told = transcriber.told(heard, 2)
    start = np.full((2, 1), transcriber.rules["start"], np.int32)
    logits = opened._computed("decode_prefill", {**heard, "input_ids": start})["logits"][:, -1]
    known = transcriber.rules["languages"]
    assert told == [max(known, key=lambda name: row[known[name]]) for row in logits]
    assert opened.transcribe((samples[0], RATE), language="de").language == "de"


def test_sounds_are_embedded(opened):
    """One vector of length one; of a long sound the mean of its windows, by their lengths."""
    long = (np.concatenate([sound(1.0, 1), sound(0.25, 2)]), RATE)
    found = opened.embed(audio=[(sound(1.0, 1), RATE), (sound(0.25, 2), RATE), long])
    assert found.shape == (3, 32)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    mean = found[0] + 0.25 * found[1]
    assert np.allclose(found[2], mean / np.linalg.norm(mean), atol=1e-6)
    assert np.allclose(opened.embed(audio=(sound(1.0, 1), RATE)), found[0], atol=1e-6)


def test_a_provider_takes_arrays_at_the_network_s_own_rate(run, opened):
    given = MultimodalEmbeddingProvider(audio_model_path=run)
    both = np.stack([sound(0.5, 1), sound(0.5, 2)])
    found = given.encode_audio(both)
    assert given.get_available_modalities() == ["audio"]
    assert np.allclose(found, opened.embed(audio=[(row, RATE) for row in both]), atol=1e-6)
    assert found.shape == (2, given.audio_dimension)
    assert np.allclose(given.encode_audio(both[0]), found[0], atol=1e-6)
    assert np.allclose(given.encode_multimodal(audio=(both[1], RATE))["audio"], found[1], atol=1e-6)
    for wrong in (both.astype(np.float64), both[None]):
        with pytest.raises(InputError, match=r"expected \(samples,\) or \(sounds, samples\) of float32"):
            given.encode_audio(wrong)


def test_vectors_of_sounds_are_held_to_upstream_s_own_network(run, tmp_path):
    """Of several windows too."""
    for seed, seconds in enumerate((0.5, 2.3, 1.0)):
        (tmp_path / f"{seed}.wav").write_bytes(wav(sound(seconds, seed)))
    done = CliRunner().invoke(main, ["precision", str(run), "--sounds", str(tmp_path / "*.wav"), "--json"])
    (found,) = json.loads(done.stdout)["kinds"]
    assert (done.exit_code, found["kind"], found["rows"]) == (0, "audio", 3)
    assert found["lowest"] > 1 - 1e-9
    assert found["worst"][0]["what"].endswith(".wav")


def test_many_sounds_take_the_memory_of_one(opened, monkeypatch):
    """Each window is heard by itself; the texts of several are written together."""
    rows = {}
    computed = opened._computed

    def watched(name, inputs):
        given = inputs[opened.entry_points[name].inputs[0].name]
        rows.setdefault(name, set()).add(len(given))
        return computed(name, inputs)

    monkeypatch.setattr(opened, "_computed", watched)
    several = [(sound(0.5, seed), RATE) for seed in range(3)]
    opened.embed(audio=several)
    opened.transcribe(several, language="en")
    assert {name: rows[name] for name in ("log_mel", "encode_audio", "cross_kv")} == {
        "log_mel": {1},
        "encode_audio": {1},
        "cross_kv": {1},
    }
    assert rows["decode_prefill"] == {3}


@pytest.mark.parametrize(
    ("audio", "how", "message"),
    [
        (None, {}, "sounds are given as None"),
        (np.zeros(RATE, np.float32), {}, "the sound is an array without its rate: give (array, samples a second)"),
        ("https://example.org/a.wav", {}, "is an address"),
        ([3], {}, "sound 0 is 3 (int), expected a file's name"),
        ("nothing.wav", {}, "nothing.wav does not exist"),
        ((np.zeros(9, np.float32), RATE), {}, "expected 0.1 s at least"),
        ([(np.zeros(RATE, np.float32), RATE), b"RIFFxxxxWAVE"], {}, "sound 1: the sound is a WAV file without samples"),
        ((np.full(RATE, 3.0), RATE), {}, "reaches 3: expected samples between -1 and 1"),
        ((np.zeros(RATE, np.float32), RATE), {"language": "fr"}, "language is 'fr', expected one of de, en"),
        ((np.zeros(RATE, np.float32), RATE), {"task": "sing"}, "task is 'sing', expected transcribe or translate"),
    ],
)
def test_what_cannot_be_heard_is_one_clear_message(opened, audio, how, message):
    with pytest.raises(InputError) as caught:
        opened.transcribe(audio, **how)
    assert message in str(caught.value)


def test_a_network_without_alignment_heads_knows_no_times(tmp_path, monkeypatch):
    tiny = SIZES["tiny"]
    monkeypatch.setitem(SIZES, "form", replace(tiny, decoder=replace(tiny.decoder, alignment_heads=())))
    write_fixture("whisper", "form", 0, "float32", tmp_path / "model.safetensors")
    tiny_tokenizer.written(tiny).save(str(tmp_path / "tokenizer.json"))
    with open_artifacts(export(tmp_path, tmp_path / "run", ("onnx",))) as artifacts:
        assert artifacts.transcribe((sound(0.5), RATE)).words == ()
        with pytest.raises(InputError, match="names no alignment_heads: no word has a time"):
            artifacts.transcribe((sound(0.5), RATE), words=True)


def test_the_shell_says_it(run, tmp_path):
    (tmp_path / "a.wav").write_bytes(wav(sound(0.7)))
    command = [sys.executable, "-m", "bgevis.converter", "transcribe", str(run), "a.wav", "--json", "--words"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    document = json.loads(done.stdout)
    assert (document["sound"], document["language"]) == ("a.wav", "en")
    assert [set(word) for word in document["words"]] == [{"word", "start", "end"}] * len(document["words"])
    done = subprocess.run([*command[:-3], "b.wav"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "error: b.wav does not exist\n"


def transcribed(run: Path, folder: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "bgevis.converter", "transcribe", str(run), "a.wav", "b.wav", *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def test_the_shell_counts_word_errors_against_another_format(run, opened, tmp_path):
    """Those of int8 are more than none, and end with 1 where none is allowed; those of itself are none."""
    sounds = [tmp_path / f"{name}.wav" for name in "ab"]
    for seed, file in zip((2, 5), sounds, strict=True):
        file.write_bytes(wav(sound(3.0, seed)))
    with open_artifacts(run, "onnx-int8") as rounded:
        texts = [(rounded.transcribe(file).text.split(), opened.transcribe(file).text.split()) for file in sounds]
    errors, words = sum(edits(*each) for each in texts), sum(len(wanted) for _, wanted in texts)
    assert errors > 0
    done = transcribed(run, tmp_path, "--format", "onnx-int8", "--against", "onnx", "--word-errors", "0", "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["errors"], told["words"], told["passed"]) == (errors, words, False)
    assert told["rate"] == errors / words
    assert done.stderr.strip().endswith("onnx-int8 says too many words otherwise than onnx")
    done = transcribed(run, tmp_path, "--format", "onnx-int8", "--against", "onnx", "--word-errors", "9")
    assert done.returncode == 0
    assert f"onnx-int8 against onnx: {errors} word error" in done.stdout
    done = transcribed(run, tmp_path, "--format", "onnx", "--against", "onnx")
    assert done.returncode == 0
    assert done.stdout.endswith(f"onnx against onnx: 0 word errors in {words} words, 0.0%; 0.0% allowed\n")
    assert transcribed(run, tmp_path, "--word-errors", "0").returncode == 2


@pytest.mark.parametrize(
    ("found", "wanted", "count"),
    [
        ("a b c", "a b c", 0),
        ("a x c", "a b c", 1),
        ("a c", "a b c", 1),
        ("a b b c", "a b c", 1),
        ("", "a b", 2),
        ("a b", "", 2),
        ("b c a", "a b c", 2),
        ("x a b c y", "a b c z y", 2),
    ],
)
def test_word_errors_are_words_put_in_left_out_and_exchanged(found, wanted, count):
    assert edits(found.split(), wanted.split()) == count


def test_each_sign_is_a_word_where_no_spaces_are_written():
    assert words_of(Transcript("你好 吗", "zh", (), ())) == ["你", "好", "吗"]
    assert words_of(Transcript("so it is", "en", (), ())) == ["so", "it", "is"]
    none = WordErrors("onnx", "onnx", 0.0)
    assert none.passed
    assert not none.plus(Transcript("so", "en", (), ()), Transcript("", "en", (), ())).passed


@pytest.mark.parametrize(("tokens", "places"), [(5, 30), (1, 10), (7, 7), (12, 5), (40, 300), (3, 1)])
def test_time_is_warped_as_upstream_does(tokens, places):
    library = pytest.importorskip("transformers.models.whisper.generation_whisper")
    costs = np.random.default_rng(tokens).standard_normal((tokens, places))
    rows, columns = library._dynamic_time_warping(costs)
    begins = np.pad(np.diff(rows), (1, 0), constant_values=1).astype(bool)
    assert warped(costs) == columns[begins].tolist()


def test_attention_is_smoothed_and_warped(opened):
    """Tokens that attend to one part of the sound after the other begin there."""
    weights = np.full((1, 4, 40), 1e-3)
    for token in range(4):
        weights[0, token, 10 * token : 10 * token + 10] = 0.1
    assert aligned(weights) == pytest.approx([0, 10, 20, 30, 30], abs=3)
    assert aligned(np.zeros((2, 0, 40))) == [0.0]
    assert aligned(np.ones((2, 3, 2)))[-1] <= 2


@pytest.mark.parametrize(
    ("pieces", "spaced", "words"),
    [
        ([" the", " qui", "ck"], True, [(" the", 1), (" quick", 2)]),
        ([" stump", ",", " so"], True, [(" stump,", 2), (" so", 1)]),
        ([' "', "Hello", '"', " she"], True, [(' "Hello"', 3), (" she", 1)]),
        ([" well", "-", "known"], True, [(" well", 1), ("-known", 2)]),
        (["你", "好"], False, [("你", 1), ("好", 1)]),
        (["你", "好", "。"], False, [("你", 1), ("好。", 2)]),
        ([], True, []),
    ],
)
def test_pieces_become_words(pieces, spaced, words):
    assert grouped([(piece, 1) for piece in pieces], spaced=spaced) == words


def test_times_are_of_the_whole_sound():
    assert hearing.moved([Word("a", 3.0, 7.0)], 30.0, 0.02) == [Word("a", 30.06, 30.14)]

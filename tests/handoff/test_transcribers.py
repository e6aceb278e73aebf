"""Clients that this project did not write transcribe with the folder of Transformers.js as it is."""

import json
import os
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1]))  # pytest's importlib mode leaves it out
import tiny_tokenizer
from in_process import export

from bgevis.converter import open_artifacts
from bgevis.converter.use.fixture import write_fixture
from bgevis.model.whisper.config import SIZES

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LAYOUT, GENAI, SHERPA = "transformers-js", "onnxruntime-genai", "sherpa-onnx"
ALONE = {"USE_TF": "0", "USE_FLAX": "0", "HF_HUB_OFFLINE": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
RATE = 16000
SEED = 9
"""Of weights that make a text of several tokens, none of them by a hair."""


@pytest.fixture(scope="module")
def transcriber(tmp_path_factory) -> Path:
    """A tiny Whisper of two languages, in the precisions that Transformers.js knows."""
    folder = tmp_path_factory.mktemp("transcriber")
    write_fixture("whisper", "tiny", SEED, "float32", folder / "model.safetensors")
    tiny_tokenizer.written(SIZES["tiny"]).save(str(folder / "tokenizer.json"))
    precisions = ("float32", "float16", "int8")
    return export(folder, folder / "run", ("onnx",), layouts=(LAYOUT,), precisions=precisions)


@pytest.fixture(scope="module")
def trained(tiny_en, tmp_path_factory) -> Path:
    """The real tiny.en."""
    return export(tiny_en, tmp_path_factory.mktemp("trained") / "run", ("onnx",), layouts=(LAYOUT, GENAI, SHERPA))


@pytest.fixture(scope="module")
def tone(tmp_path_factory) -> Path:
    """A tone that swells, in a file of samples."""
    time = np.arange(11000) / RATE
    file = tmp_path_factory.mktemp("tone") / "tone.f32"
    (0.2 * np.sin(2 * np.pi * 500 * time) * (1 + np.sin(2 * np.pi * 3 * time))).astype("<f4").tofile(file)
    return file


@pytest.fixture(scope="module")
def speech(oracles, tmp_path_factory) -> tuple[Path, str]:
    """Speech in a file of samples, and what upstream writes of it."""
    file = tmp_path_factory.mktemp("speech") / "speech.f32"
    np.load(oracles / "real" / "whisper_tiny_en_golden.npz")["wave"].astype("<f4").tofile(file)
    models = json.loads((oracles / "real" / "INDEX.json").read_text())["models"]
    return file, models["whisper_tiny_en_full"]["text_generate"]


def by_transformers_js(folder: Path, run: Path, samples: Path, dtype: str = "fp32", *options: str) -> dict:
    words = ["node", EXAMPLES / "transformers_js_transcribe.mjs", run, samples, dtype, *options]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def by_optimum(python: Path, run: Path, samples: Path, *language: str) -> list[str]:
    words = [python, EXAMPLES / "optimum_transcribe.py", run / "transformers_js", samples, *language]
    done = subprocess.run(
        [*map(str, words)], capture_output=True, text=True, check=False, env=os.environ | ALONE, cwd=samples.parent
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def ours(run: Path, samples: Path, language: str) -> str:
    with open_artifacts(run, "onnx") as artifacts:
        return artifacts.transcribe((np.fromfile(samples, np.float32), RATE), language=language).text


@pytest.mark.parametrize(("dtype", "language"), [("fp32", "en"), ("fp32", "de"), ("fp16", "en"), ("q8", "en")])
def test_transformers_js_writes_what_python_writes(transformers_js, transcriber, tone, dtype, language, tell):
    """In each language, with its own front end; smaller numbers choose the same tokens."""
    found = by_transformers_js(transformers_js, transcriber, tone, dtype, f"language={language}")
    assert len(set(found["text"])) >= 2
    assert found["text"] == ours(transcriber, tone, language)
    tell(f"pass: a tiny Whisper in Transformers.js, {dtype}, {language}")


def test_optimum_writes_what_python_writes(clients, transcriber, tone, tell):
    """With its cache, which the decoder fills, and without."""
    assert by_optimum(clients, transcriber, tone, "de") == [ours(transcriber, tone, "de")] * 2
    tell("pass: a tiny Whisper in optimum-onnx")


def test_transformers_js_transcribes_speech_and_says_when_each_word_was_said(transformers_js, trained, speech, tell):
    samples, text = speech
    found = by_transformers_js(transformers_js, trained, samples, "fp32", "return_timestamps=word")
    assert found["text"] == text
    words = found["chunks"]
    assert "".join(word["text"] for word in words) == text
    times = [time for word in words for time in word["timestamp"]]
    assert times == sorted(times)
    assert 0 <= times[0] < 1
    assert 6 < times[-1] <= len(np.fromfile(samples, np.float32)) / RATE
    tell("pass: Whisper tiny.en in Transformers.js, words and times")


def test_optimum_transcribes_speech(clients, trained, speech, tell):
    samples, text = speech
    assert by_optimum(clients, trained, samples) == [text] * 2
    tell("pass: Whisper tiny.en in optimum-onnx")


@pytest.fixture(scope="module")
def recorded(speech, tmp_path_factory) -> Path:
    """The same as WAV."""
    file = tmp_path_factory.mktemp("recorded") / "speech.wav"
    with wave.open(str(file), "wb") as out:
        out.setparams((1, 2, RATE, 0, "NONE", ""))
        out.writeframes((np.fromfile(speech[0], np.float32) * 32767).round().astype("<i2").tobytes())
    return file


def said_by(*command: object) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip("\n")


def test_onnxruntime_genai_transcribes_speech(onnxruntime_genai, trained, speech, recorded, tell):
    """From the sound's file, with its own front end."""
    example, prompt = EXAMPLES / "genai_transcribe.py", "<|startoftranscript|><|notimestamps|>"
    assert said_by(onnxruntime_genai, example, trained / "onnxruntime_genai", recorded, prompt) == speech[1]
    tell("pass: Whisper tiny.en in onnxruntime-genai")


def test_sherpa_onnx_transcribes_speech(sherpa_onnx, trained, recorded, tell):
    """With its own front end, by which it hears some words otherwise than upstream does."""
    text = said_by(sherpa_onnx, EXAMPLES / "sherpa_transcribe.py", trained / "sherpa_onnx", recorded).strip()
    assert text.startswith("The quick ")
    assert text.endswith("This is a test of the speech recognition model.")
    tell("pass: Whisper tiny.en in sherpa-onnx")

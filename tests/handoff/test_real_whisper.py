"""The real Whisper tiny.en in every format: proved, and the same texts and times of words as upstream's own."""

import sys
from pathlib import Path

import numpy as np
import pytest

from bgevis.converter import open_artifacts

sys.path.append(str(Path(__file__).parents[1]))  # pytest's importlib mode leaves it out
from in_process import convert, in_this_process

FORMATS = ("onnx", "saved-model", "stablehlo", "orbax")


@pytest.fixture(scope="module")
def run(tiny_en, tmp_path_factory):
    with in_this_process():
        return convert(tiny_en, tmp_path_factory.mktemp("tiny.en") / "run", FORMATS)


@pytest.fixture(scope="module")
def said(oracles, tiny_en):
    """What upstream says of the sound, and when."""
    import torch
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    wave = np.load(oracles / "real" / "whisper_tiny_en_golden.npz")["wave"]
    model = WhisperForConditionalGeneration.from_pretrained(tiny_en, dtype=torch.float32, local_files_only=True).eval()
    extractor = WhisperFeatureExtractor.from_pretrained(tiny_en, local_files_only=True)
    given = extractor(wave, sampling_rate=16000, return_tensors="pt", return_attention_mask=True)
    with torch.inference_mode():
        found = model.generate(**given, return_token_timestamps=True)
    return wave, found["sequences"][0].tolist(), found["token_timestamps"][0].tolist()


@pytest.mark.parametrize("format_name", FORMATS)
def test_the_text_and_the_times_are_upstreams(run, said, oracles, format_name, tell):
    wave, ids, times = said
    goldens = np.load(oracles / "real" / "whisper_tiny_en_full" / "golden.npz")
    with open_artifacts(run, format_name) as artifacts:
        found = artifacts.transcribe((wave, 16000), words=True)
    assert list(found.ids) == goldens["generate_ids"][: len(found.ids)].tolist()
    first = ids.index(found.ids[0])
    assert ids[first : first + len(found.ids)] == list(found.ids)
    assert (
        found.text == "The quick roundfark stump, sober the lazy nog. This is a test of the speech recognition model."
    )
    begins = dict.fromkeys(round(time, 2) for time in times[first : first + len(found.ids)])
    assert [word.start for word in found.words] == [time for time in begins if time in {w.start for w in found.words}]
    assert {word.start for word in found.words} <= set(begins)
    assert len(found.words) == len(found.text.split())
    tell(f"pass: the real tiny.en in {format_name}, {len(found.ids)} tokens and {len(found.words)} words")

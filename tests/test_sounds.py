"""Sounds: files and arrays to windows of samples, as docs/pack.md says it; what is no such sound is refused by name.

And the pack's own: does each common mistake of a runner show, and is it what upstream makes of it?
"""

import io
import json
import math
import shutil
import struct
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bgevis.converter.manifest import entry_points
from bgevis.converter.options import Options
from bgevis.converter.pack import SAMPLES, TOKENIZER, samples, sounds, tokenizer
from bgevis.converter.pack.preprocessor import Preprocessor, Sounds
from bgevis.converter.pack.replay import WITHIN, Pack
from bgevis.converter.progress import Silent
from bgevis.converter.source.identify import identify
from bgevis.converter.stages import load
from bgevis.converter.stages import pack as write
from bgevis.converter.stages.reference import hold_sounds, read_state
from bgevis.converter.use.fixture import write_fixture
from bgevis.model import sound as front_end
from bgevis.model.reference import Original
from bgevis.model.sound import Sound, exact_log_mel, rules
from bgevis.model.whisper.config import SIZES
from bgevis.validation.errors import EnvironmentFailure, GateError, InputError

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode leaves it out
from tiny_tokenizer import written

RULES = rules(Sound(chunk_length=1))
NOISE = np.random.default_rng(0).uniform(-1, 1, (4000, 2))


def wav(data: bytes, code: int, channels: int, rate: int, bits: int, *, size: int | None = None, more: bytes = b""):
    frame = channels * bits // 8
    form = struct.pack("<HHIIHH", code, channels, rate, rate * frame, frame, bits) + more
    head = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    odd = b"LIST" + struct.pack("<I", 3) + b"abc\0"  # a chunk of an odd length, and what fills it
    return b"RIFF\0\0\0\0" + head + odd + b"data" + struct.pack("<I", len(data) if size is None else size) + data


def whole(bits: int) -> tuple[bytes, np.ndarray]:
    """Write noise as whole numbers of so many bits; give what they mean too."""
    numbers = np.round(NOISE * (2 ** (bits - 1) - 1)).astype(np.int64)
    if bits == 8:
        return (numbers + 128).astype(np.uint8).tobytes(), numbers / 128
    stored = numbers.astype("<i8").view(np.uint8).reshape(-1, 8)[:, : bits // 8]
    return stored.tobytes(), numbers / 2 ** (bits - 1)


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("extended", [False, True])
def test_whole_numbers_of_every_width_are_read(bits, extended):
    data, wanted = whole(bits)
    more = struct.pack("<HHIH14x", 22, bits, 3, sounds.PCM) if extended else b""
    found, rate = sounds.wave(wav(data, sounds.EXTENSIBLE if extended else sounds.PCM, 2, 22050, bits, more=more), "x")
    assert rate == 22050
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_floats_are_read_as_they_are(kind):
    stored = NOISE.astype(f"<{kind}")
    found, _ = sounds.wave(wav(stored.tobytes(), sounds.FLOAT, 2, 8000, 8 * stored.itemsize), "x")
    np.testing.assert_array_equal(found, stored)


def test_a_sound_whose_length_was_not_known_is_read_to_its_end():
    data, wanted = whole(16)
    found, _ = sounds.wave(wav(data + b"\0", sounds.PCM, 2, 8000, 16, size=sounds.UNKNOWN), "x")
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    "array",
    [NOISE.astype(np.float32), NOISE, (NOISE * 2**15).astype(np.int16), (NOISE * 2**31).astype(np.int32)],
)
def test_channels_become_their_mean_and_the_end_is_silence(array):
    (window,) = Sounds(None, RULES).windows((array, 16000))
    assert (window.dtype, window.shape) == (np.float32, (16000,))
    np.testing.assert_allclose(window[:4000], NOISE.mean(axis=1), atol=4e-5)
    assert not window[4000:].any()


@pytest.mark.parametrize(("length", "count"), [(1600, 1), (16000, 1), (16001, 2), (32000, 2), (40000, 3)])
def test_windows_follow_one_another(length, count):
    sound = np.resize(NOISE[:, 0], length).astype(np.float32)
    found = Sounds(None, RULES).windows((sound, 16000))
    assert len(found) == count
    np.testing.assert_array_equal(np.concatenate(found)[:length], sound)


@pytest.mark.parametrize("rate", [1000, 8000, 11025, 16001, 22050, 44100, 48000])
def test_another_rate_is_resampled_by_the_stated_formula(rate):
    """Sum by sum, as docs/pack.md writes it."""
    one = NOISE[:, 0]
    found = sounds.resample(one, rate, 16000, RULES["resample"])
    old, new = rate // math.gcd(rate, 16000), 16000 // math.gcd(rate, 16000)
    assert len(found) == -(-len(one) * new // old)
    cutoff = 0.99 * min(old, new)
    for j in np.linspace(0, len(found) - 1, 99).astype(int):
        t = cutoff * (np.arange(len(one)) * new - j * old) / (old * new)
        w = np.where(np.abs(t) < 6, np.sinc(t) * np.cos(np.pi * t / 12) ** 2, 0)
        assert found[j] == pytest.approx((one * w).sum() * cutoff / old, abs=1e-12)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_a_tone_stays_a_tone_and_what_is_too_high_goes(rate):
    time, out = np.arange(rate) / rate, np.arange(16000) / 16000
    tone = sounds.resample(np.sin(2 * np.pi * 440 * time), rate, 16000, RULES["resample"])
    inner = slice(100, -100)
    assert np.abs(tone - np.sin(2 * np.pi * 440 * out))[inner].max() < 2e-3
    if rate > 20000:
        gone = sounds.resample(np.sin(2 * np.pi * 12000 * time), rate, 16000, RULES["resample"])
        assert np.abs(gone[inner]).max() < 2e-3


def test_other_files_are_read_by_soundfile():
    soundfile = pytest.importorskip("soundfile")
    for form, kind in (("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("WAV", "ULAW"), ("OGG", "VORBIS"), ("AIFF", "PCM_16")):
        file = io.BytesIO()
        soundfile.write(file, NOISE / 4, 16000, format=form, subtype=kind)
        wanted = soundfile.read(io.BytesIO(file.getvalue()))[0].mean(axis=1)
        np.testing.assert_allclose(sounds.samples(file.getvalue(), RULES), wanted, atol=1e-7)


def test_wav_is_read_as_soundfile_reads_it():
    soundfile = pytest.importorskip("soundfile")
    for kind in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"):
        for form in ("WAV", "WAVEX"):
            file = io.BytesIO()
            soundfile.write(file, NOISE, 16000, format=form, subtype=kind)
            found, rate = sounds.wave(file.getvalue(), "x")
            assert rate == 16000
            np.testing.assert_array_equal(found, soundfile.read(io.BytesIO(file.getvalue()))[0])


def test_without_soundfile_flac_says_what_to_install(monkeypatch):
    monkeypatch.setattr("bgevis.validation.packages.installed", lambda module: False)
    with pytest.raises(EnvironmentFailure, match=r"bgevis-convert\[sound\]"):
        sounds.samples(b"fLaC", RULES)


SILENCE = np.zeros(4000, np.float32)
DATA = whole(16)[0]
WRONG = {
    "no such file": ("nowhere.wav", "nowhere.wav does not exist"),
    "a folder": ("/", "/ cannot be read: Is a directory"),
    "no sound at all": (7, "got int"),
    "an array without a rate": (SILENCE, r"an array with its samples a second, \(array, rate\); got ndarray"),
    "a rate that is no whole number": ((SILENCE, 16000.0), "a whole number of samples a second, got .* 16000.0"),
    "truths": ((SILENCE > 0, 16000), "float32, int16, int32 or uint8 .* bool"),
    "axes exchanged": ((SILENCE[None], 16000), r"\(samples, channels\) .* got \(1, 4000\)"),
    "three axes": ((SILENCE[None, None], 16000), r"got \(1, 1, 4000\)"),
    "NaN": ((np.where(SILENCE == 0, np.nan, 0), 16000), "holds 4000 samples that are no numbers"),
    "one that is infinite": ((np.append(SILENCE, np.inf), 16000), "holds 1 samples that are no numbers"),
    "not scaled": ((SILENCE + 300, 16000), "reaches 300: expected samples between -1 and 1"),
    "no samples": ((SILENCE[:0], 16000), "has no samples"),
    "too short": ((SILENCE[:1599], 16000), "is 1599 samples at 16000 Hz, 0.0999 s: expected 0.1 s at least"),
    "too slow": ((SILENCE, 999), "has 999 samples a second: expected 1000 to 768000"),
    "too fast": ((SILENCE, 768001), "has 768001 samples a second"),
    "cut off": (wav(DATA, 1, 2, 16000, 16)[:-1], "is cut off: a WAV file of 16000 bytes of samples, of which 15999"),
    "no chunk of samples": (wav(DATA, 1, 2, 16000, 16)[:44], "without samples"),
    "no channels": (wav(DATA, 1, 0, 16000, 16), "of 0 channels of 16 bits in 0 bytes"),
    "samples before their form": (b"RIFF\0\0\0\0WAVEdata\4\0\0\0abcd", "before what they are"),
    "a form that is cut off": (b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\1", "without samples"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_sound_is_refused_by_name(kind):
    source, message = WRONG[kind]
    with pytest.raises(InputError, match=message):
        Sounds(None, RULES).windows(source)


def test_files_that_soundfile_refuses_are_named():
    pytest.importorskip("soundfile")
    for content in (b"text", b"fLaCfLaC"):
        with pytest.raises(InputError, match=r"cannot be read as a sound, such as WAV or FLAC: [A-Z]"):
            sounds.samples(content, RULES)


def test_a_little_beyond_full_scale_is_a_sound():
    found = sounds.samples((SILENCE + np.float32(1.0999), 16000), RULES)
    assert found.max() == np.float32(1.0999)


def test_a_network_whose_front_end_nobody_states_says_so():
    with pytest.raises(InputError, match=r"does not say how sounds are prepared: no preprocessor_config\.json"):
        Sounds("run", rules(None)).windows((SILENCE, 16000))


# The pack's own.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heard")
    write_fixture("whisper", "tiny", 0, "float32", folder / "model.safetensors")
    written(SIZES["tiny"]).save(str(folder / TOKENIZER))
    options = Options(checkpoint=str(folder))
    made = load.perform(folder / "run", options, Silent())
    write.perform(made, options, Silent())
    return made


@pytest.fixture(scope="module")
def pack(run):
    return Pack(run.path)


@pytest.fixture(scope="module")
def opened(pack):
    return load_file(pack.folder / Path(SAMPLES).name)


def plainly(content: bytes, kind: str, scale: float, *, header: int = 44, channels: int = 1) -> np.ndarray:
    """Read as programs do that know one header."""
    data = content[header:]
    data = data[: len(data) // (np.dtype(kind).itemsize * channels) * np.dtype(kind).itemsize * channels]
    return (np.frombuffer(data, kind).astype(float) / scale).reshape(-1, channels)


def own(content: bytes) -> np.ndarray:
    return sounds.wave(content, "x")[0]


def resampled(one: np.ndarray, rate: int) -> np.ndarray:
    return sounds.resample(one, rate, 16000, RULES["resample"])


def by_lines(one: np.ndarray, rate: int) -> np.ndarray:
    return np.interp(np.arange(-(-len(one) * 16000 // rate)) * rate / 16000, np.arange(len(one)), one)


MISREAD = {
    "the first channel": ("stereo", lambda c: resampled(own(c)[:, 0], 44100)),
    "the sum of the channels": ("stereo", lambda c: resampled(own(c).sum(1), 44100)),
    "channels one after the other": ("stereo", lambda c: resampled(own(c).T.reshape(-1, 2).mean(1), 44100)),
    "another rate taken for the network's": ("stereo", lambda c: own(c).mean(1)),
    "resampled without a filter": ("stereo", lambda c: by_lines(own(c).mean(1), 44100)),
    "a lower rate taken for the network's": ("slow", lambda c: own(c).mean(1)),
    "lines between samples": ("slow", lambda c: by_lines(own(c).mean(1), 8000)),
    "a filter of another cutoff": (
        "stereo",
        lambda c: sounds.resample(own(c).mean(1), 44100, 16000, RULES["resample"] | {"rolloff": 1.0}),
    ),
    "a longer filter": (
        "slow",
        lambda c: sounds.resample(own(c).mean(1), 8000, 16000, RULES["resample"] | {"zero_crossings": 16}),
    ),
    "bytes with a sign": ("slow", lambda c: resampled(plainly(c, "i1", 128.0)[:, 0], 8000)),
    "bytes scaled by 127": ("slow", lambda c: resampled(own(c)[:, 0] * 128 / 127, 8000)),
    "32 bits as 16": ("deep", lambda c: plainly(c, "<i2", 2.0**15)[:, 0]),
    "clipped": ("float", lambda c: own(c)[:, 0].clip(-1, 1)),
    "scaled to the loudest": ("quiet", lambda c: own(c)[:, 0] / np.abs(own(c)).max()),
    "24 bits as 16": ("quiet", lambda c: plainly(c, "<i2", 2.0**15)[:, 0]),
    "a header of 44 bytes": ("extended", lambda c: plainly(c, "<i2", 2.0**15)[:, 0]),
    "all that follows the header": ("extended", lambda c: plainly(c, "<i2", 2.0**15, header=68)[:, 0]),
    "silence of bytes is zero": ("silent", lambda c: plainly(c, "u1", 128.0)[:, 0]),
    "one window alone": ("longer", lambda c: resampled(own(c)[:, 0], 1000)[:16000]),
}


@pytest.mark.parametrize("mistake", MISREAD)
def test_sounds_tell_how_they_are_misread(mistake, pack, opened):
    name, misread = MISREAD[mistake]
    wanted, got = opened[name], misread(pack.sound(name))
    assert got.shape != wanted.shape or np.abs(got - wanted).max() > 100 * WITHIN


PERIODIC = np.hanning(401)[:-1]


def framed(
    samples_: np.ndarray,
    *,
    edges: str = "reflect",
    hop: int = 160,
    window: np.ndarray = PERIODIC,
    power: int = 2,
    filters: np.ndarray | None = None,
    floor: float = 1e-10,
    loudest=lambda decades: decades.max(),
    last: int = 100,
    decades: float = 8.0,
    log=np.log10,
) -> np.ndarray:
    """Make a spectrogram as the tiny network's, in another way here or there."""
    padded = np.pad(samples_.astype(float), 200, mode=edges)
    parts = np.lib.stride_tricks.sliding_window_view(padded, 400)[::hop][:last]
    bands = front_end.mel_filters(SIZES["tiny"].sound) if filters is None else filters
    found = log(np.maximum(bands @ (np.abs(np.fft.rfft(parts * window)) ** power).T, floor))
    return (np.maximum(found, loudest(found) - decades) + 4) / 4


def htk() -> np.ndarray:
    """Give triangles on HTK's scale, of Slaney's norm."""
    mel = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 18)
    hertz = 700 * (10 ** (mel / 2595) - 1)
    low, middle, high = hertz[:-2, None], hertz[1:-1, None], hertz[2:, None]
    bins = np.arange(201) * 40.0
    return np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)).clip(0) * 2 / (high - low)


def triangles() -> np.ndarray:
    """Give Slaney's triangles without his norm."""
    bands = front_end.mel_filters(SIZES["tiny"].sound)
    return bands / bands.max(axis=1, keepdims=True)


MISTAKEN = {
    "zeros at the edges": {"edges": "constant"},
    "the edge repeated": {"edges": "edge"},
    "mirrored with the edge": {"edges": "symmetric"},
    "another hop": {"hop": 159},
    "the last frame kept": {"last": 101},
    "a window with both ends": {"window": np.hanning(400)},
    "another window": {"window": np.hamming(401)[:-1]},
    "no window": {"window": np.ones(400)},
    "no power": {"power": 1},
    "the scale of HTK": {"filters": htk()},
    "no norm": {"filters": triangles()},
    "another floor": {"floor": 1e-8},
    "the loudest of each frame": {"loudest": lambda decades: decades.max(axis=0)},
    "the loudest of each band": {"loudest": lambda decades: decades.max(axis=1, keepdims=True)},
    "the loudest of the first half": {"loudest": lambda decades: decades[:, :50].max()},
    "ten decades": {"decades": 10.0},
    "the natural logarithm": {"log": np.log},
}


def differs(got: np.ndarray, wanted: np.ndarray) -> float:
    return np.inf if got.shape != wanted.shape else float(np.abs(got - wanted).max())


@pytest.mark.parametrize("mistake", MISTAKEN)
def test_spectrograms_tell_the_mistake(mistake, run, pack):
    """By a hundred times and more what float32 costs."""
    (case,) = (case for case in pack.cases(entry_points(run.manifest())) if case.entry_point == "log_mel")
    rows = case.inputs["samples"]
    right = [exact_log_mel(row, SIZES["tiny"].sound) for row in rows]
    assert max(map(differs, map(framed, rows), right)) < 1e-9
    assert max(differs(framed(row, **MISTAKEN[mistake]), one) for row, one in zip(rows, right, strict=True)) > 1e-3


def test_the_edge_of_zeros_shows_in_the_first_frames(opened):
    """By much, in the frames that lie across it, and nowhere else."""
    row = np.zeros(16000, np.float32)
    row[: len(opened["plain"])] = opened["plain"]
    apart = np.abs(framed(row, edges="constant") - framed(row))
    assert apart[:, :2].max() > 0.1
    assert apart[:, 2:].max() == 0


def test_the_end_of_a_sound_is_not_mirrored(pack):
    """Silence follows, which a window cut to the sound would not have."""
    (window,) = pack.preprocessor.sounds.windows(pack.sound("plain"))
    (short,) = pack.heard("plain")
    cut = exact_log_mel(short, SIZES["tiny"].sound)
    whole = exact_log_mel(window, SIZES["tiny"].sound)
    assert np.abs(cut - whole[:, : cut.shape[1]]).max() > 1e-4  # a hundred times what float32 costs


def test_the_goldens_are_what_the_rules_give(pack):
    rows = pack.rows()
    assert {row.output for row in rows} == {"samples", "text"}
    assert all(row.passed for row in rows)


def test_the_sounds_cover_the_forms(pack):
    """Widths, floats, channels, rates; less than a window, one, more; all of them small."""
    forms = [struct.unpack_from("<HHI", pack.sound(name), 20) for name in pack.sounds]
    bits = {struct.unpack_from("<H", pack.sound(name), 34)[0] for name in pack.sounds}
    assert {code for code, _, _ in forms} == {sounds.PCM, sounds.FLOAT, sounds.EXTENSIBLE}
    assert {channels for _, channels, _ in forms} == {1, 2}
    assert {rate for _, _, rate in forms} >= {8000, 16000, 44100}
    assert bits == {8, 16, 24, 32}
    assert {sound["windows"] for sound in pack.sounds.values()} == {1, 2}
    assert pack.sounds["exact"]["samples"] == 16000
    assert max(len(pack.sound(name)) for name in pack.sounds) < 70000


def test_of_thirty_seconds_the_files_stay_small():
    made = {sound.name: sound for sound in samples.sounds(16000, 480000)}
    assert sum(len(sound.content) for sound in made.values()) < 700_000
    assert len(sounds.samples(made["exact"].content, rules(Sound()))) == 480000
    assert len(sounds.windows(sounds.samples(made["longer"].content, rules(Sound())), rules(Sound()))) == 2


def test_cases_have_a_row_for_each_window(run, pack):
    cases = {case.entry_point: case for case in pack.cases(entry_points(run.manifest()))}
    assert cases.keys() == {"log_mel", "encode_audio"}
    assert cases["log_mel"].inputs["samples"].shape == (len(write.HEARD), 16000)
    features = cases["encode_audio"].inputs["input_features"]
    assert (features.dtype, features.shape) == (np.float32, (len(write.EMBEDDED), 16, 100))
    assert [len(samples_) for samples_ in pack.samples_of(cases["encode_audio"])] == [4000, 16000]


def altered(pack: Pack, folder: Path) -> Path:
    shutil.copytree(pack.folder.parents[1], folder / "run")
    return folder / "run"


def test_other_samples_are_a_row_that_fails(pack, tmp_path):
    where = altered(pack, tmp_path)
    arrays = load_file(where / SAMPLES)
    save_file(arrays | {"slow": arrays["slow"] + 1e-5, "deep": arrays["deep"][1:]}, where / SAMPLES)
    (row,) = (row for row in Pack(where).rows() if not row.passed)
    assert (row.output, row.problem) == ("samples", "other samples for the sounds slow, deep")


def test_other_texts_are_a_row_that_fails(pack, tmp_path):
    where = altered(pack, tmp_path)
    file = where / "goldens/raw/index.json"
    index = json.loads(file.read_text())
    index["transcripts"][0]["text"] += "."
    file.write_text(json.dumps(index))
    (row,) = (row for row in Pack(where).rows() if not row.passed)
    assert (row.output, row.problem) == ("text", "other texts of the tokens of plain")


# Transcripts.


def test_prompts_are_what_the_configuration_forces(run):
    transcripts, decoder = Preprocessor(run.path).transcripts, SIZES["tiny"].decoder
    assert transcripts.prompt() == list(decoder.prompt("<|en|>"))
    assert transcripts.prompt("<|de|>", "translate") == list(decoder.prompt("<|de|>", "translate"))
    with pytest.raises(InputError, match=r"knows no language '<\|fr\|>' \(languages: <\|de\|>, <\|en\|>\)"):
        transcripts.prompt("<|fr|>")
    with pytest.raises(InputError, match=r"knows no task 'sing' \(tasks: transcribe, translate\)"):
        transcripts.prompt(task="sing")


def test_texts_are_the_tokenizers_without_what_is_special(run):
    transcripts, opened_ = Preprocessor(run.path).transcripts, tokenizer.load(run.path / TOKENIZER)
    ids = opened_.encode(" the fox", add_special_tokens=False).ids
    assert transcripts.text([*transcripts.prompt(), *ids, 2]) == " the fox"
    assert transcripts.text([*ids, 110, 119]) == " the fox"  # times, which this tokenizer does not know


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.unlink(), r"tokenizer\.json does not exist"),
        (lambda file: file.write_text("{}"), r"tokenizer\.json is no tokenizer"),
    ],
)
def test_a_tokenizer_that_is_not_there_is_named(change, message, pack, tmp_path):
    where = altered(pack, tmp_path)
    change(where / TOKENIZER)
    with pytest.raises(InputError, match=message):
        Preprocessor(where).transcripts.text([5])


def test_without_a_tokenizer_the_pack_says_why(tmp_path):
    write_fixture("whisper", "tiny", 0, "float32", tmp_path / "model.safetensors")
    options = Options(checkpoint=str(tmp_path))
    made = load.perform(tmp_path / "run", options, Silent())
    write.perform(made, options, Silent())
    read = Preprocessor(made.path)
    assert "neither tokenizer.json nor vocab.txt lies beside" in read.rules["transcripts"]["missing"]
    assert not (made.path / TOKENIZER).exists()
    assert "transcripts" not in json.loads((made.path / "goldens/raw/index.json").read_text())
    with pytest.raises(InputError, match="has no tokenizer: neither"):
        read.transcripts.text([5])


SETTINGS = {
    "add_bos_token": False,
    "add_prefix_space": False,
    "backend": "tokenizers",
    "errors": "replace",
    "bos_token": "<|endoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "language": None,
    "task": None,
    "predict_timestamps": False,
    "model_max_length": 1024,
    "processor_class": "WhisperProcessor",
    "return_attention_mask": False,
    "tokenizer_class": "WhisperTokenizer",
}
"""tokenizer_config.json, of the fields that published folders and transformers 5 have."""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, ""),
        ({"predict_timestamps": True}, "predict_timestamps = true"),
        ({"prefix": "x"}, "nobody here knows what 1 field would change: prefix"),
        ({"tokenizer_class": "WhisperNormalizer"}, "the tokenizer is transformers' WhisperNormalizer"),
    ],
)
def test_the_settings_of_a_tokenizer_are_read_or_refused_by_name(change, message, tmp_path):
    write_fixture("whisper", "tiny", 0, "float32", tmp_path / "model.safetensors")
    written(SIZES["tiny"]).save(str(tmp_path / TOKENIZER))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(SETTINGS | change))
    with pytest.raises(InputError, match=message) if message else nullcontext():
        load.perform(tmp_path / "run", Options(checkpoint=str(tmp_path)), Silent())


def test_a_tokenizer_of_another_network_is_refused(tmp_path):
    write_fixture("whisper", "tiny", 0, "float32", tmp_path / "model.safetensors")
    other = written(SIZES["tiny"])
    other.add_tokens([f"word{i}" for i in range(200)])
    other.save(str(tmp_path / TOKENIZER))
    with pytest.raises(InputError, match=r"gives ids up to .*, but the network knows 120 tokens"):
        load.perform(tmp_path / "run", Options(checkpoint=str(tmp_path)), Silent())


# Upstream.


@pytest.fixture(scope="module")
def encodes(run):
    pytest.importorskip("transformers")
    found = identify(run.path.parent, Options())
    original = Original(read_state(found.checkpoint, Silent()))
    reference = found.family.reference(found.config, original)
    return found.family.encode(found.config, original, reference), reference


def test_upstream_makes_the_same_spectrograms_and_embeddings(run, pack, encodes):
    functions, reference = encodes
    for case in pack.cases(entry_points(run.manifest())):
        for each in (reference, reference.in_dtype("float64")):
            with each.computing():
                got = functions[case.entry_point](pack.samples_of(case))
            output = "input_features" if case.entry_point == "log_mel" else "embeddings"
            wanted = each.run(case.entry_point, case.inputs)[output]
            assert got.dtype == wanted.dtype
            np.testing.assert_allclose(got, wanted, atol=5e-7)


def test_another_spectrogram_than_upstreams_stops_the_judge(pack, encodes, monkeypatch):
    functions, _ = encodes
    judge = functions["encode_audio"]
    hold_sounds(pack, judge.name, judge.spectrogram)
    monkeypatch.setattr(front_end, "DECADES", 7.9)
    with pytest.raises(GateError, match="makes another spectrogram of the raw sound plain than preprocess"):
        hold_sounds(pack, judge.name, judge.spectrogram)


def test_a_network_whose_front_end_nobody_states_is_not_judged_from_sounds(tmp_path):
    write_fixture("whisper", "tiny", 0, "float32", tmp_path / "model.safetensors")
    (tmp_path / "preprocessor_config.json").unlink()
    options = Options(checkpoint=str(tmp_path))
    made = load.perform(tmp_path / "run", options, Silent())
    write.perform(made, options, Silent())
    read = Pack(made.path)
    stated = read.preprocessor.rules
    assert stated["sounds"]["input"] == "input_features"
    assert "no preprocessor_config.json lies beside" in stated["sounds"]["missing"]
    assert "transcripts" not in stated
    assert not read.sounds


def test_without_soundfile_the_file_is_named_that_needs_it(monkeypatch):
    """A file of nothing needs no package to be refused."""
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(InputError, match="the sound is empty: expected a sound, such as WAV or FLAC"):
        sounds._of_file(b"", "the sound")
    with pytest.raises(
        EnvironmentFailure, match=r"reading a\.mp3, which is no WAV .* needs the Python package soundfile"
    ):
        sounds._decoded(b"ID3", "a.mp3")

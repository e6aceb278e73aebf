"""Sounds: files and arrays to windows of samples, as docs/pack.md says it; what is no such sound is refused by name."""

import io
import math
import struct

import numpy as np
import pytest

from bgevis.converter.pack import sounds
from bgevis.converter.pack.preprocessor import Sounds
from bgevis.model.sound import Sound, rules
from bgevis.validation.errors import EnvironmentFailure, InputError

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
    for content in (b"", b"text", b"fLaCfLaC"):
        with pytest.raises(InputError, match=r"cannot be read as a sound, such as WAV or FLAC: [A-Z]"):
            sounds.samples(content, RULES)


def test_a_little_beyond_full_scale_is_a_sound():
    found = sounds.samples((SILENCE + np.float32(1.0999), 16000), RULES)
    assert found.max() == np.float32(1.0999)


def test_a_network_whose_front_end_nobody_states_says_so():
    with pytest.raises(InputError, match=r"does not say how sounds are prepared: no preprocessor_config\.json"):
        Sounds("run", rules(None)).windows((SILENCE, 16000))

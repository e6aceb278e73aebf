"""How sound becomes the input: as the document of transformers' WhisperFeatureExtractor says it, and the program of it.

The front end is a program like any other, so that whoever runs the network need not write it again. By
feature_extraction_whisper.py and audio_utils.py of transformers 5.24, which follow OpenAI's audio.py: a periodic Hann
window, power, triangles on Slaney's mel scale with Slaney's norm, the decimal logarithm, and nothing more than eight
decades below the loudest of the whole window. JAX is imported only by what computes with it.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..validation.errors import InputError
from .documents import JSON, USED, Document, Harmless, Only, Settled
from .family import Source

if TYPE_CHECKING:
    from jaxtyping import Array, Float

PLACE = "preprocessor_config.json"
WHOLE, PART = "processor_config.json", "feature_extractor"
EXTRACTOR = "WhisperFeatureExtractor"

FLOOR = 1e-10
"""Least power of a band: silence is -10 decades."""

DECADES = 8.0
"""How far below the loudest band of the window anything is told apart."""

HIGHEST = 8000.0
"""Hertz, of the highest triangle's end: a constant of the extractor's, whatever the rate."""

HARMLESS: Harmless = {
    "processor_class": "which class reads it",
    "return_attention_mask": "a call's result that the network does not read",
    "mel_filters": "computed anew by the extractor, whatever the file holds",
    **dict.fromkeys(("n_samples", "nb_max_frames"), "follows from chunk_length, sampling_rate and hop_length"),
    "dither": Only((0, 0.0), "no noise is added"),
    "padding_value": Only((0, 0.0), "silence"),
    "padding_side": Only(("right",), "silence comes after the sound"),
    "do_normalize": Only((None, False), "samples are taken as they are"),
    "return_tensors": "names of what a call gives",
}
"""preprocessor_config.json, by WhisperFeatureExtractor of transformers 5.24."""

USUAL = {"feature_size": 80, "sampling_rate": 16000, "hop_length": 160, "chunk_length": 30, "n_fft": 400}
"""What it takes where the document is silent."""


@dataclass(frozen=True)
class Sound:
    """How samples become a log-mel spectrogram. Field names are the extractor's.

    Args:
        sampling_rate: samples a second.
        n_fft: samples of a window.
        hop_length: samples from window to window.
        chunk_length: seconds that the network hears; a shorter sound is followed by silence.
        feature_size: bands.
    """

    sampling_rate: int = 16000
    n_fft: int = 400
    hop_length: int = 160
    chunk_length: int = 30
    feature_size: int = 80

    @property
    def samples(self) -> int:
        """Samples that the network hears."""
        return self.chunk_length * self.sampling_rate

    @property
    def frames(self) -> int:
        """Frames of a spectrogram."""
        return self.samples // self.hop_length


def settle_sound(settled: Settled, source: Source, bands: int, frames: int) -> Sound | None:
    """Settle the fields of `Sound`; None where no document says how samples become the input.

    Args:
        settled: nothing yet, behind the part's name.
        source: with the documents.
        bands: that the network reads.
        frames: that the network reads.

    Raises:
        InputError: the document asks for what is not done here, or does not give what the network reads.
    """
    document = _document(source)
    if document is None:
        return None
    document.take("feature_extractor_type", str, EXTRACTOR, choices=(EXTRACTOR,))
    for name, usual in USUAL.items():
        default = (usual, f"default of transformers' {EXTRACTOR}")
        settled.choose(name, int, (document, name), otherwise=default, low=1)
    document.accept(HARMLESS)
    sound = Sound(**settled.values)
    if (sound.feature_size, sound.frames) != (bands, frames):
        raise InputError(
            f"{document.origin}: {sound.chunk_length} s at {sound.sampling_rate} Hz in hops of {sound.hop_length} are "
            f"{sound.feature_size} bands of {sound.frames} frames, but the network reads {bands} of {frames}"
        )
    if sound.samples % sound.hop_length or sound.n_fft % 2 or sound.n_fft > sound.samples:
        raise InputError(
            f"{document.origin}: hop_length {sound.hop_length} must divide the {sound.samples} samples, and n_fft "
            f"{sound.n_fft} be even and no more"
        )
    return sound


def _document(source: Source) -> Document | None:
    """Find the extractor's document, as transformers does."""
    whole = source.documents.get(WHOLE)
    if whole is not None and isinstance(whole.content, dict) and PART in whole:
        whole = source.document(WHOLE)
        assert whole
        whole.note("processor_class", "which class reads it")
        whole.note(PART, USED)
        return whole.part(PART)
    return source.document(PLACE)


def documents(sound: Sound | None) -> Mapping[str, JSON]:
    """Give what transformers writes of it, by place."""
    if sound is None:
        return {}
    return {
        PLACE: {
            "feature_extractor_type": EXTRACTOR,
            "chunk_length": sound.chunk_length,
            "dither": 0.0,
            "feature_size": sound.feature_size,
            "hop_length": sound.hop_length,
            "n_fft": sound.n_fft,
            "n_samples": sound.samples,
            "nb_max_frames": sound.frames,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": False,
            "sampling_rate": sound.sampling_rate,
        }
    }


@functools.cache
def mel_filters(sound: Sound) -> np.ndarray:
    """Give what each frequency adds to each band, (bands, frequencies), in float64.

    Slaney's scale is linear below 1000 Hz, 15 mel, and logarithmic above, 27 mel for a factor of 6.4; each triangle has
    the area of one over its width (Slaney 1998, Auditory Toolbox).
    """
    top = 15 + 27 * math.log(HIGHEST / 1000) / math.log(6.4)
    mel = np.linspace(0, top, sound.feature_size + 2)
    hertz = np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * math.log(6.4) / 27))
    bins = np.arange(sound.n_fft // 2 + 1) * (sound.sampling_rate / sound.n_fft)
    low, middle, high = hertz[:-2, None], hertz[1:-1, None], hertz[2:, None]
    triangles = np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)).clip(0)
    return np.asarray(triangles * 2 / (high - low))


def window(sound: Sound) -> np.ndarray:
    """Give the periodic Hann window, in float64."""
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(sound.n_fft) / sound.n_fft))


@functools.cache
def basis(sound: Sound) -> np.ndarray:
    """Give the windowed cosines, then the windowed sines, (2 * frequencies, samples of a window), in float64.

    Angles are reduced to one turn first, so that the last is as exact as the first.
    """
    count = sound.n_fft
    turns = np.outer(np.arange(count // 2 + 1), np.arange(count)) % count / count
    return np.concatenate([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)]) * window(sound)


def exact_log_mel(samples: np.ndarray, sound: Sound) -> np.ndarray:
    """Give what `log_mel` gives of one window, by a Fourier transform in float64: (samples,) -> (bands, frames)."""
    padded = np.pad(samples.astype(np.float64), sound.n_fft // 2, mode="reflect")
    parts = np.lib.stride_tricks.sliding_window_view(padded, sound.n_fft)[:: sound.hop_length]
    spectrum = np.fft.rfft(parts[: len(samples) // sound.hop_length] * window(sound))
    decades = np.log10(np.maximum(mel_filters(sound) @ (np.abs(spectrum) ** 2).T, FLOOR))
    return np.asarray((np.maximum(decades, decades.max() - DECADES) + 4) / 4)


BITS = 8
"""Of the leading parts of samples and basis: a sum of some hundred of their products has less than 24, and is exact."""

UNITS = 2.0 ** np.arange(-40, 21)
"""Of loudness: powers of two, by which a division is exact."""


def log_mel(samples: "Float[Array, 'batch samples']", sound: Sound) -> "Float[Array, 'batch bands frames']":
    """Give the log-mel spectrogram of sounds, with the window's silence at their end.

    A loud tone leaves to silent frequencies what its products are rounded by: of float32 alone, a thousand times what
    the extractor gives in float64. So samples and basis are each cut in a leading part, whose products and sums are
    exact, and the rest, whose products are small: two convolutions, which every runtime has.
    """
    import jax
    import jax.numpy as jnp

    half = sound.n_fft // 2
    edges = jnp.flip(samples[:, 1 : half + 1], 1), jnp.flip(samples[:, -half - 1 : -1], 1)
    x = jnp.concatenate([edges[0], samples, edges[1]], axis=1)
    heard = jnp.max(jnp.abs(x), axis=1, keepdims=True)
    unit = jnp.max(jnp.where(heard >= UNITS.astype(np.float32), UNITS.astype(np.float32), 0), axis=1, keepdims=True)
    unit = jnp.maximum(unit, np.float32(UNITS[0])) * 2 ** (1 - BITS)
    leading = jnp.round(x / unit) * unit
    exact = basis(sound)
    first = np.round(exact * 2**BITS) / 2**BITS
    rest = (exact - first).astype(np.float32), exact.astype(np.float32)

    def convolve(parts: "list[Array]", kernels: "list[np.ndarray]") -> "Array":
        kernel = jnp.asarray(np.stack(kernels, axis=1), np.float32)
        return jax.lax.conv_general_dilated(
            jnp.stack(parts, axis=1), kernel, [sound.hop_length], [(0, 0)], dimension_numbers=("NCH", "OIH", "NCH")
        )

    found = convolve([leading], [first]) + convolve([leading, x - leading], list(rest))
    found = found[:, :, : sound.frames]  # the last window is left out
    power = jnp.square(found[:, : half + 1]) + jnp.square(found[:, half + 1 :])
    bands = jnp.einsum("mf,bft->bmt", mel_filters(sound).astype(np.float32), power)
    decades = jnp.log(jnp.maximum(bands, FLOOR)) * np.float32(1 / math.log(10))
    loudest = jnp.max(decades, axis=(1, 2), keepdims=True)
    return (jnp.maximum(decades, loudest - DECADES) + 4) / 4


LEAST = 0.1
"""Seconds below which a sound is refused: there is nothing to hear."""


def rules(sound: Sound | None) -> Mapping[str, Any]:
    """State it as preprocess.json does (docs/pack.md), or that nobody does."""
    if sound is None:
        return {"input": "input_features", "missing": f"no {PLACE} lies beside the checkpoint"}
    return {
        "input": "samples",
        "dtype": "float32",
        "rate": sound.sampling_rate,
        "channels": "mean",
        "resample": {
            "filter": "windowed sinc",
            "window": "hann",
            "zero_crossings": 6,
            "rolloff": 0.99,
            "arithmetic": "float64",
        },
        "samples": sound.samples,
        "shorter": "silence after the sound",
        "longer": "windows, one after the other",
        "least": min(sound.samples, math.ceil(LEAST * sound.sampling_rate)),
        "spectrogram": {
            "entry_point": "log_mel",
            "output": "input_features",
            "window": "hann",
            "n_fft": sound.n_fft,
            "hop": sound.hop_length,
            "edges": "reflected",
            "bands": sound.feature_size,
            "scale": "slaney",
            "highest": int(HIGHEST),
            "least_power": FLOOR,
            "decades": int(DECADES),
            "last_frame": "left out",
        },
    }

"""What an input holds. A domain draws itself, and knows what it costs.

What the inputs of one case have in common is in a `Draft`: sizes, and how many places of each row are real. So
ids, mask, positions and caches of a case agree.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from . import dims

if TYPE_CHECKING:
    from .entry_point import EntryPoint, TensorSpec

AFTER, BEFORE = "after", "before"
"""Where the padding of a row is."""


@dataclass(frozen=True)
class Draft:
    """What is decided of a case before its inputs are drawn.

    Args:
        sizes: of each axis.
        lengths: axis -> how many places of each row are real; the others are padding.
        gapped: some places in the middle do not count, nor the first ones, if that is legal.
    """

    entry: "EntryPoint"
    sizes: Mapping[str, int]
    lengths: Mapping[str, Sequence[int]]
    gapped: bool = False

    def real(self, dim: dims.Dim, rows: int) -> np.ndarray:
        """Say which places of a dimension are no padding, (rows, size) bool."""
        parts = []
        for axis, count in dims.terms(dim):
            size = count if not axis else self.sizes[axis]
            real = np.resize(self.lengths.get(axis, size), (rows, 1))
            places = np.arange(size)[::-1] if self._sides.get(axis) == BEFORE else np.arange(size)
            parts += [places < real] * (1 if not axis else count)
        return np.concatenate(parts, axis=1)

    def counts(self, dim: dims.Dim, rows: int) -> np.ndarray:
        """Say which places of a dimension count, (rows, size) bool: the real ones but for a gap."""
        counts = self.real(dim, rows)
        size = counts.shape[1]
        if self.gapped:
            counts[:, size // 2 : size // 2 + size // 4] = False
            counts[:, : size // 8 * self._leading] = False
        return counts

    @functools.cached_property
    def _leading(self) -> bool:
        masks = [spec.domain for spec in self.entry.inputs if isinstance(spec.domain, PaddingMask)]
        return bool(masks) and all(mask.leading for mask in masks)

    @functools.cached_property
    def _sides(self) -> dict[str, str]:
        return padded(self.entry)


def padded(entry: "EntryPoint") -> dict[str, str]:
    """Give the axes along which rows are of different length, and where their padding is; a mask follows the others."""
    found: dict[str, str] = {}
    for spec in sorted(entry.inputs, key=lambda spec: isinstance(spec.domain, PaddingMask)):
        for axis, side in spec.domain.pads(spec).items() if spec.domain else ():
            found.setdefault(axis, side)
    return {axis: found[axis] for axis in entry.axes if axis in found}


class Domain:
    """What every domain can say.

    Each draws arrays of `spec.resolve(draft.sizes)` and `spec.dtype`.
    """

    dear = False
    """A row of it alone is as much work as a long text."""

    def draw(self, draft: Draft, spec: "TensorSpec", rng: np.random.Generator) -> np.ndarray:
        """Draw an input."""
        raise NotImplementedError

    def vary(self, draft: Draft, spec: "TensorSpec", rng: np.random.Generator) -> np.ndarray:
        """Draw an input of which no two rows are alike."""
        return self.draw(draft, spec, rng)

    def mix(self, first: np.ndarray, drawn: np.ndarray, share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Change `first` into `drawn` to a share: numbers between them, or some of the places."""
        if first.dtype.kind == "f":
            return (first * (1 - share) + drawn * share).astype(first.dtype)
        return np.where(rng.random(drawn.shape) < share, drawn, first)

    def pads(self, spec: "TensorSpec") -> Mapping[str, str]:
        """Give the axes along which rows are of different length, and where their padding is."""
        return {}

    def positions(self, shape: Sequence[int]) -> int:
        """Count the positions that a network computes for an input of this shape."""
        return 0


def _count(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _last(spec: "TensorSpec", side: str) -> dict[str, str]:
    return dict.fromkeys(dims.axes_of(spec.shape[-1]), side) if spec.shape else {}


@dataclass(frozen=True)
class TokenIds(Domain):
    """Vocabulary ids, along the last axis. A row is `first`, words, `last`, and padding; any ids of the vocabulary.

    Args:
        first: None for texts that begin with a word.
        last: None for texts that end with a word.
        other_ends: ids that end a text as `last` does.
        padded: "after" the text, or "before" it.
    """

    vocab_size: int
    pad: int
    first: int | None = None
    last: int | None = None
    other_ends: tuple[int, ...] = ()
    padded: str = AFTER

    @property
    def ends(self) -> tuple[int, ...]:
        """Give the ids that end a text."""
        return (*(() if self.last is None else (self.last,)), *self.other_ends)

    @property
    def empty(self) -> list[int]:
        """Give the ids of the empty text."""
        return [end for end in (self.first, self.last) if end is not None]

    def pads(self, spec: "TensorSpec") -> Mapping[str, str]:
        """Give the axis of the tokens."""
        return _last(spec, self.padded)

    def positions(self, shape: Sequence[int]) -> int:
        """Count the tokens."""
        return _count(shape)

    def draw(self, draft: Draft, spec: "TensorSpec", rng: np.random.Generator) -> np.ndarray:
        """Draw rows of random words."""
        words = np.setdiff1d(np.arange(self.vocab_size), [self.pad, *self.empty, *self.ends])
        ids = np.full(spec.resolve(draft.sizes), self.pad, spec.dtype)
        rows = ids.reshape(-1, ids.shape[-1])
        for i, (row, real) in enumerate(zip(rows, draft.real(spec.shape[-1], len(rows)), strict=True)):
            places = np.flatnonzero(real)
            row[places] = rng.choice(words, len(places))
            if self.ends and len(places):
                row[places[-1]] = self.ends[i % len(self.ends)]
            if self.first is not None and len(places):
                row[places[0]] = self.first
        return ids


@dataclass(frozen=True)
class PaddingMask(Domain):
    """1 where the token of `ids` counts, 0 where it is padding; `inverted`, the other way round.

    It may be longer than the ids: that of "past + tokens" begins with the tokens before.

    Args:
        leading: the first token, too, may be one that does not count.
    """

    ids: str
    inverted: bool = False
    leading: bool = False

    def pads(self, spec: "TensorSpec") -> Mapping[str, str]:
        """Give its axes."""
        return _last(spec, AFTER)

    def draw(self, draft: Draft, spec: "TensorSpec", rng: np.random.Generator) -> np.ndarray:
        """Say which places count."""
        shape = spec.resolve(draft.sizes)
        counts = draft.counts(spec.shape[-1], _count(shape[:-1])).reshape(shape)
        return (counts != self.inverted).astype(spec.dtype)

    def mix(self, first: np.ndarray, drawn: np.ndarray, share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Keep it: the draft is that of the ids."""
        return drawn


@dataclass(frozen=True)
class RandomMask(Domain):
    """True where a place counts, at random; `inverted`, where it does not.

    Args:
        empty_rows: the first row of the last axis has no place that counts; without it, every row has one.
    """

    inverted: bool = False
    empty_rows: bool = False

    def draw(self, draft: Draft, spec: "TensorSpec", rng: np.random.Generator) -> np.ndarray:
        """Toss a coin for each place."""
        counts = rng.random(spec.resolve(draft.sizes)) < 0.5
        return self._legal(counts, rng, spec.dtype)

    def mix(self, first: np.ndarray, drawn: np.ndarray, share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Take some of the places from each."""
        mixed = super().mix(first, drawn, share, rng)
        return self._legal(mixed.astype(bool) != self.inverted, rng, first.dtype)

    def _legal(self, counts: np.ndarray, rng: np.random.Generator, dtype: str | np.dtype) -> np.ndarray:
        rows = np.atleast_1d(counts)
        rows = rows.reshape(-1, rows.shape[-1])
        one = rng.integers(rows.shape[1], size=len(rows))
        rows[np.arange(len(rows)), one] |= ~rows.any(axis=1)
        if self.empty_rows:
            rows[0] = False
        return np.asarray(rows.reshape(counts.shape) != self.inverted).astype(dtype)


@dataclass(frozen=True)
class CausalMask(Domain):
    """True where a query, the axis before the last, sees a key, the last axis; `inverted`, where it does not.

    The last query sees all keys.
    """

    inverted: bool = False

    def draw(self, draft: Draft, spec: "TensorSpec", rng: np.random.Generator) -> np.ndarray:
        """Say what each query sees."""
        *_, queries, keys = shape = spec.resolve(draft.sizes)
        sees = np.arange(keys) <= np.arange(keys - queries, keys)[:, None]
        return (np.broadcast_to(sees, shape) != self.inverted).astype(spec.dtype)

    def mix(self, first: np.ndarray, drawn: np.ndarray, share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Keep it."""
        return drawn


@dataclass(frozen=True)
class Positions(Domain):
    """The place of each token among those that count by `mask`, from 0; 0 at padding before them.

    They may be more than the mask's: what stands before all tokens, such as a picture's, counts.

    Args:
        padding: the places of padding count too, as where nobody tells the network of it.
    """

    mask: str
    padding: bool = False

    def of(self, counts: np.ndarray, last: int) -> np.ndarray:
        """Give the positions of the last places of rows, of whose tokens some count."""
        return places(np.ones_like(counts) if self.padding else counts, last)

    def draw(self, draft: Draft, spec: "TensorSpec", rng: np.random.Generator) -> np.ndarray:
        """Count."""
        shape = spec.resolve(draft.sizes)
        counts = draft.counts(draft.entry.input_called(self.mask).shape[-1], _count(shape[:-1]))
        return self.of(counts, shape[-1]).reshape(shape).astype(spec.dtype)

    def mix(self, first: np.ndarray, drawn: np.ndarray, share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Keep them: the draft is that of the mask."""
        return drawn


def places(counts: np.ndarray, last: int) -> np.ndarray:
    """Give the positions of the last places of rows of which some places count; see `behind` for those before them."""
    counts = behind(counts, last)
    return np.maximum(np.cumsum(counts, axis=-1) - 1, 0)[..., counts.shape[-1] - last :]


def behind(counts: np.ndarray, size: int) -> np.ndarray:
    """Give a mask of at least so many places: those that it does not know stand before the others, and count."""
    before = max(size - counts.shape[-1], 0)
    return np.concatenate([np.ones((*counts.shape[:-1], before), counts.dtype), counts], axis=-1)


@dataclass(frozen=True)
class Integers(Domain):
    """Any of the numbers from 0 to below `high`: types, labels, steps."""

    high: int

    def draw(self, draft: Draft, spec: "TensorSpec", rng: np.random.Generator) -> np.ndarray:
        """Draw evenly."""
        return rng.integers(self.high, size=spec.resolve(draft.sizes)).astype(spec.dtype)


@dataclass(frozen=True)
class TokenTypes(Integers):
    """Of each token, which of two texts it is of: 0 or 1, where a network tells so many apart. Cases draw any."""


@dataclass(frozen=True)
class PromptTokens(Domain):
    """How many tokens at the beginning of each text of `ids` are its prompt's: (rows,), fewer than there are."""

    ids: str

    def draw(self, draft: Draft, spec: "TensorSpec", rng: np.random.Generator) -> np.ndarray:
        """Draw evenly; none for the first row."""
        (rows,) = spec.resolve(draft.sizes)
        counts = draft.counts(draft.entry.input_called(self.ids).shape[-1], rows)
        last = counts.shape[1] - 1 - np.argmax(counts[:, ::-1], axis=1)
        drawn = rng.integers(0, last - np.argmax(counts, axis=1) + 1)
        return np.where(np.arange(rows) == 0, 0, drawn).astype(spec.dtype)

    def mix(self, first: np.ndarray, drawn: np.ndarray, share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Keep it: the draft is that of the ids."""
        return drawn


@dataclass(frozen=True)
class Floats(Domain):
    """Numbers of the normal distribution around 0, of the deviation `scale`; vectors along the last axis."""

    scale: float = 1.0

    def positions(self, shape: Sequence[int]) -> int:
        """Count the vectors."""
        return _count(shape[:-1])

    def draw(self, draft: Draft, spec: "TensorSpec", rng: np.random.Generator) -> np.ndarray:
        """Draw numbers."""
        return (self.scale * rng.standard_normal(spec.resolve(draft.sizes))).astype(spec.dtype)


@dataclass(frozen=True)
class Cache(Floats):
    """Keys or values of the tokens before these.

    Args:
        past: the axis of these tokens.
        padded: where rows of fewer of them are padded, as the ids were that they come from.
    """

    past: str = field(kw_only=True)
    padded: str = field(default=AFTER, kw_only=True)

    def pads(self, spec: "TensorSpec") -> Mapping[str, str]:
        """Give the axis of the tokens before."""
        return {self.past: self.padded}

    def positions(self, shape: Sequence[int]) -> int:
        """Count none: what is known is not computed again."""
        return 0


@dataclass(frozen=True)
class Pixels(Domain):
    """Normalised pixels, (rows, height, width, channels): (u / 255 - mean) / std for u in 0..255.

    Args:
        patch: side of the squares that become one position each.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    patch: int = 16

    dear = True

    def positions(self, shape: Sequence[int]) -> int:
        """Count the patches."""
        *rows, height, width, _ = shape
        return _count(rows) * -(-height // self.patch) * -(-width // self.patch)

    def draw(self, draft: Draft, spec: "TensorSpec", rng: np.random.Generator) -> np.ndarray:
        """Noise on the left of a red field; black and white bars with a gradient, upright unlike sideways.

        The same two pictures in all cases: what a reference remembers of a picture, it computes once.
        """
        batch, height, width, channels = spec.resolve(draft.sizes)
        noise = np.random.default_rng(0).integers(0, 256, (height, width, channels))
        bars = np.where(np.arange(width) // max(1, width // 7) % 2, 255, 0)[None, :, None]
        bars = np.broadcast_to(bars * np.linspace(0, 1, height)[:, None, None], noise.shape)
        noise[:, width // 2 :] = np.where(np.arange(channels) == 0, 255, 0)
        pictures = np.stack([(noise, bars)[i % 2] for i in range(batch)]).astype(np.float32)
        return self._normalised(pictures, spec)

    def vary(self, draft: Draft, spec: "TensorSpec", rng: np.random.Generator) -> np.ndarray:
        """Draw noise."""
        return self._normalised(rng.integers(0, 256, spec.resolve(draft.sizes)), spec)

    def _normalised(self, values: np.ndarray, spec: "TensorSpec") -> np.ndarray:
        return ((values / 255 - np.array(self.mean)) / np.array(self.std)).astype(spec.dtype)


@dataclass(frozen=True)
class LogMel(Domain):
    """A log-mel spectrogram, (rows, bands, frames): what sounds lies within some units of the loudest, silence below.

    Args:
        low: of silence, which the last quarter is.
        high: of the loudest band.
        stride: frames that become one position.
    """

    low: float = -1.0
    high: float = 1.0
    stride: int = 2

    dear = True

    def positions(self, shape: Sequence[int]) -> int:
        """Count the frames, by the stride."""
        *rows, _, frames = shape
        return _count(rows) * -(-frames // self.stride)

    def draw(self, draft: Draft, spec: "TensorSpec", rng: np.random.Generator) -> np.ndarray:
        """Draw bands that rise and fall in time, with noise; the last quarter is silence."""
        *rows, bands, frames = shape = spec.resolve(draft.sizes)
        time, band = np.arange(frames) / max(frames, 1), np.arange(bands)[:, None] / max(bands, 1)
        speed, phase = rng.uniform(1, 6, (*rows, 1, 1)), rng.uniform(0, 2 * np.pi, (*rows, 1, 1))
        waves = np.cos(2 * np.pi * speed * time + phase + 3 * band) * (1 - band)
        loud = (0.5 + 0.25 * waves + 0.1 * rng.standard_normal(shape)).clip(0, 1)
        loud[..., frames - frames // 4 :] = 0
        return (self.low + (self.high - self.low) * loud).astype(spec.dtype)


@dataclass(frozen=True)
class Waveform(Domain):
    """Samples between -1 and 1 along the last axis: tones with noise, then silence.

    Args:
        hop: samples that become one position.
    """

    hop: int = 320

    dear = True

    def positions(self, shape: Sequence[int]) -> int:
        """Count the samples, by the hop."""
        *rows, samples = shape
        return _count(rows) * -(-samples // self.hop)

    def draw(self, draft: Draft, spec: "TensorSpec", rng: np.random.Generator) -> np.ndarray:
        """Draw two tones of each row's own, with noise; the last quarter is silence."""
        *rows, samples = shape = spec.resolve(draft.sizes)
        pitch = rng.uniform(0.01, 0.2, (*rows, 2, 1))
        tones = np.sin(2 * np.pi * pitch * np.arange(samples)).mean(axis=-2)
        sound = 0.5 * tones + 0.05 * rng.standard_normal(shape)
        sound[..., samples - samples // 4 :] = 0
        return sound.clip(-1, 1).astype(spec.dtype)


def domain_of(spec: "TensorSpec") -> Domain:
    """Give an input's domain; what none is stated for holds numbers, or truths at random.

    Raises:
        ValueError: an input of integers without one.
    """
    if spec.domain is not None:
        return spec.domain
    kind = np.dtype(spec.dtype).kind
    if kind not in "fb":
        raise ValueError(f"the input {spec.name} of {spec.dtype} states no domain, such as TokenIds or Integers")
    return RandomMask() if kind == "b" else Floats()

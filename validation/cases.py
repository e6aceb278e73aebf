"""Cases: the inputs on which two networks are held against each other, drawn from an entry point's axes.

Nothing here knows a family. Each entry point gets two shapes: with texts a padded batch of ragged rows, one of them
the empty text, and the longest legal text; pictures alone get a batch, and one row of it by itself. Pictures are noise
beside a flat field, and bars with a gradient, the same ones in all cases. Every shape costs each compiling runtime a
compilation, every picture a forward pass of some hundred tokens: there are as few as tell mistakes.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from .entry_point import EntryPoint, PaddingMask, Pixels, TensorSpec, TokenIds
from .runner import Arrays

LONGEST = 1024
"""Longest text tried: attention's cost grows with the square, 8192 tokens would need gigabytes in float64."""


@dataclass(frozen=True)
class Case:
    """One set of inputs for one entry point.

    Args:
        same_as: (other case, its rows) whose outputs must be the same, whatever the network: a row does not depend
            on the other rows. Such a case needs no run of the reference.
    """

    entry_point: str
    name: str
    inputs: Arrays
    same_as: tuple[str, tuple[int, ...]] | None = None


def cases(entry: EntryPoint, static: Iterable[Mapping[str, int]] = (), seed: int = 0) -> list[Case]:
    """Draw the cases of an entry point; the same seed gives the same inputs on every machine.

    Each of `static` adds one case of exactly these sizes, for the programs that were made for them.
    """
    drawn = list(_text_cases(entry, seed) if "tokens" in entry.axes else _image_cases(entry, seed))
    return drawn + [_static_case(entry, sizes, seed) for sizes in static]


def _static_case(entry: EntryPoint, sizes: Mapping[str, int], seed: int) -> Case:
    fixed = {name: size for name, size in sizes.items() if name in entry.axes}
    batch, tokens = fixed.get("batch", 1), fixed.get("tokens", 1)
    name = "static " + ",".join(f"{name}={size}" for name, size in fixed.items())
    lengths = [max(1, tokens - row) for row in range(batch)]
    return Case(entry.name, name, _inputs(entry, lengths, tokens, seed + 2))


def _text_cases(entry: EntryPoint, seed: int) -> Iterator[Case]:
    axis = entry.axes["tokens"]
    longest = min(axis.high or LONGEST, LONGEST)
    width = min(24, longest)
    lengths = [width, min(2, longest)] if pictured(entry) else [width, max(2, width // 2), min(2, longest)]
    yield Case(entry.name, "ragged batch", _inputs(entry, lengths, width, seed))
    yield Case(
        entry.name, f"longest text, {longest} tokens", _gapped(entry, _inputs(entry, [longest], longest, seed + 1))
    )


def _gapped(entry: EntryPoint, inputs: Arrays) -> Arrays:
    """Mask tokens in the middle, so that a mask that is heeded only in short texts is told, and every place is read."""
    masks = {spec.name: inputs[spec.name].copy() for spec in entry.inputs if isinstance(spec.domain, PaddingMask)}
    for mask in masks.values():
        tokens = mask.shape[1]
        mask[:, tokens // 2 : tokens // 2 + tokens // 4] = 0
    return {**inputs, **masks}


def _image_cases(entry: EntryPoint, seed: int) -> Iterator[Case]:
    batch = _inputs(entry, [0, 0], 0, seed)
    yield Case(entry.name, "batch", batch)
    alone = {name: array[1:2] for name, array in batch.items()}
    yield Case(entry.name, "its second row alone", alone, ("batch", (1,)))


def pictured(entry: EntryPoint) -> bool:
    """Say whether an entry point takes pictures, which cost a forward pass of some hundred tokens each."""
    return any(isinstance(spec.domain, Pixels) for spec in entry.inputs)


def _inputs(entry: EntryPoint, lengths: list[int], tokens: int, seed: int) -> dict[str, np.ndarray]:
    sizes = {"batch": len(lengths), "tokens": tokens}
    return {spec.name: _draw(spec, sizes, lengths, entry.name, seed) for spec in entry.inputs}


def _draw(spec: TensorSpec, sizes: Mapping[str, int], lengths: list[int], salt: str, seed: int) -> np.ndarray:
    shape = spec.resolve(sizes)
    if isinstance(spec.domain, Pixels):
        return _pictures(spec.domain, shape)
    rng = np.random.default_rng([seed, zlib.crc32(f"{salt}/{spec.name}".encode())])
    match spec.domain:
        case TokenIds():
            return _token_ids(spec.domain, shape, lengths, rng)
        case PaddingMask():
            return (np.arange(shape[1]) < np.array(lengths)[:, None]).astype(spec.dtype)
        case _:
            return rng.standard_normal(shape).astype(spec.dtype)


def _token_ids(domain: TokenIds, shape: tuple[int, ...], lengths: list[int], rng: np.random.Generator) -> np.ndarray:
    words = np.setdiff1d(np.arange(domain.vocab_size), [domain.pad, domain.first, domain.last])
    ids = np.full(shape, domain.pad, np.int32)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = rng.choice(words, length)
        row[0] = domain.first
        row[length - 1] = domain.last if length > 1 else domain.first
    return ids


def _pictures(domain: Pixels, shape: tuple[int, ...]) -> np.ndarray:
    """Noise on the left of a red field; black and white bars with a gradient, upright unlike sideways."""
    batch, height, width, channels = shape
    noise = np.random.default_rng(0).integers(0, 256, (height, width, channels))
    bars = np.where(np.arange(width) // max(1, width // 7) % 2, 255, 0)[None, :, None]
    bars = np.broadcast_to(bars * np.linspace(0, 1, height)[:, None, None], noise.shape)
    noise[:, width // 2 :] = np.where(np.arange(channels) == 0, 255, 0)
    pictures = np.stack([(noise, bars)[i % 2] for i in range(batch)]).astype(np.float32)
    return ((pictures / 255 - np.array(domain.mean)) / np.array(domain.std)).astype(np.float32)


FAMILY = 16
"""Inputs that are one input, ever further changed."""
TEXTS, PICTURES = 256, 64
"""Inputs among which neighbours are looked for. Each picture is a forward pass of some hundred tokens."""


def neighbour_batches(entry: EntryPoint, seed: int = 11) -> list[Arrays]:
    """Draw inputs that are more and less like each other, in batches of equal shape: each family grows apart."""
    count, size = (PICTURES, 8) if pictured(entry) else (TEXTS, 32)
    tokens = min(24, entry.axes["tokens"].high or 24) if "tokens" in entry.axes else 0
    rng = np.random.default_rng([seed, zlib.crc32(entry.name.encode())])
    lengths = np.repeat(rng.integers(tokens // 2, tokens + 1, count // FAMILY).clip(1), FAMILY)
    inputs = {spec.name: _families(spec, count, tokens, lengths, rng) for spec in entry.inputs}
    order = rng.permutation(count)  # a batch has relatives of all degrees
    return [{name: array[order[i : i + size]] for name, array in inputs.items()} for i in range(0, count, size)]


def _families(spec: TensorSpec, count: int, tokens: int, lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    shape = spec.resolve({"batch": count, "tokens": tokens})
    share = np.tile(np.arange(FAMILY) / FAMILY, count // FAMILY).reshape(-1, *[1] * (len(shape) - 1))
    match spec.domain:
        case PaddingMask():
            return (np.arange(tokens) < lengths[:, None]).astype(spec.dtype)
        case TokenIds():
            drawn = _token_ids(spec.domain, shape, lengths.tolist(), rng)
            first = np.repeat(drawn[::FAMILY], FAMILY, axis=0)
            return np.where(rng.random(shape) < share, drawn, first)
        case Pixels(mean=mean, std=std):
            noise = rng.integers(0, 256, shape)
            mixed = np.repeat(noise[::FAMILY], FAMILY, axis=0) * (1 - share) + noise * share
            return ((mixed / 255 - np.array(mean)) / np.array(std)).astype(spec.dtype)
        case _:
            drawn = rng.standard_normal(shape)
            return (np.repeat(drawn[::FAMILY], FAMILY, axis=0) * (1 - share) + drawn * share).astype(spec.dtype)


def tapped_entries(entries: Iterable[EntryPoint]) -> list[EntryPoint]:
    """Choose the entry points whose intermediate values are compared: those whose inputs no other one has, and more."""
    inputs = [(entry, {spec.name for spec in entry.inputs}) for entry in entries]
    return [entry for entry, names in inputs if not any(names < others for _, others in inputs)]


def tap_case(entry: EntryPoint, seed: int = 7) -> Case:
    """Draw the small case on which intermediate values are compared: one padded row."""
    tokens = min(9, entry.axes["tokens"].high or 9) if "tokens" in entry.axes else 0
    lengths = [max(tokens - 3, 1)]
    return Case(entry.name, "intermediates", _inputs(entry, lengths, tokens, seed))


def probe_cases(probe: str, entry: EntryPoint) -> list[Case]:
    """Draw the case on which a probe's weights are run: the small one."""
    return [replace(tap_case(entry), name=probe)]

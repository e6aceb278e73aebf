"""`weights.safetensors`: the one file of weights that ONNX and StableHLO programs share.

Format: https://github.com/huggingface/safetensors (8 bytes header length, JSON header, tensors without
holes). Written by us because it is streamed, one tensor in memory at a time, because every tensor
must start on a 64-byte boundary where the format allows it (so that runtimes map it without a copy),
and because ONNX needs to know each tensor's offset in the file.
"""

import json
import math
import mmap
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import ml_dtypes
import numpy as np

from ..validation.errors import InputError
from ..validation.files import parse_json, regular

ALIGNMENT = 64
EVERY = 0.005
"""Seconds: a disk reads some hundred megabytes in a few of these."""
DTYPES = {
    name: np.dtype(dtype)
    for name, dtype in {
        "F64": "<f8",
        "F32": "<f4",
        "F16": "<f2",
        "BF16": ml_dtypes.bfloat16,
        "I64": "<i8",
        "I32": "<i4",
        "U8": "|u1",
        "I8": "|i1",
        "BOOL": "|b1",
    }.items()
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Location:
    """Where a tensor's bytes lie: C order, little-endian."""

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the file."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def plan(
    leaves: Mapping[str, tuple[np.dtype, tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[bytes, list[str]]:
    """Lay out the file: give the header's bytes and the order in which the tensors must be written.

    Tensors whose size is a multiple of the alignment come first, so that they all start aligned.
    """

    def nbytes(name: str) -> int:
        dtype, shape = leaves[name]
        return math.prod(shape) * dtype.itemsize

    order = sorted(leaves, key=lambda name: (nbytes(name) % ALIGNMENT != 0, -leaves[name][0].itemsize, name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name in order:
        dtype, shape = leaves[name]
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [end, end + nbytes(name)]}
        end += nbytes(name)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text, order


def write(
    file: BinaryIO,
    leaves: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    arrays: Iterable[tuple[str, np.ndarray]],
    metadata: Mapping[str, str],
) -> None:
    """Write the arrays, which must come in the order that `plan` gives and as `leaves` describes them."""
    header, order = plan(leaves, metadata)
    file.write(header)
    for expected, (name, array) in zip(order, arrays, strict=True):
        dtype, shape = leaves[name]
        if name != expected or array.dtype != dtype or array.shape != shape:
            raise ValueError(f"expected {expected} {dtype} {shape}, got {name} {array.dtype} {array.shape}")
        file.write(contiguous(array).reshape(-1).view(np.uint8).data)  # bfloat16 has no buffer of its own


BLOCK = 64
"""Places of the last axis that are copied at once: what is read and what is written both stay in the caches."""


def contiguous(array: np.ndarray) -> np.ndarray:
    """Give an array in C order, itself if it is; where axes are exchanged, several times as fast as numpy does."""
    if array.flags.c_contiguous:
        return array
    copy = np.empty(array.shape, array.dtype)
    for start in range(0, array.shape[-1], BLOCK):
        copy[..., start : start + BLOCK] = array[..., start : start + BLOCK]
    return copy


class WeightsFile:
    """A read-only view of a weights file: name -> array without a copy, and where its bytes lie.

    Raises:
        InputError: the file is not a safetensors file as this tool writes it.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            regular(path)
            with path.open("rb") as file:
                self._pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._map = np.frombuffer(self._pages, np.uint8)
            length = int.from_bytes(self._map[:8].tobytes(), "little")
            self.header = self._map[: 8 + length].tobytes()
            header = parse_json(self.header[8:])
            self.metadata: dict[str, str] = header.pop("__metadata__", {})
            self.tensors = {name: self._location(entry, 8 + length) for name, entry in header.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"{path} is not a readable weights file ({error}); run `bgevis-convert build` again"
            raise InputError(message) from error
        size = 8 + length + sum(location.nbytes for location in self.tensors.values())
        if size != self._map.size:
            raise InputError(f"{path} has {self._map.size} bytes, its header describes {size}: it was altered")

    @staticmethod
    def _location(entry: Mapping[str, list[int]], start: int) -> Location:
        return Location(DTYPES[str(entry["dtype"])], tuple(entry["shape"]), start + entry["data_offsets"][0])

    def __getitem__(self, name: str) -> np.ndarray:
        """Give a tensor as a view of the mapped file: read-only, nothing is read until it is touched."""
        location = self.tensors[name]
        data = self._map[location.offset : location.offset + location.nbytes]
        return data.view(location.dtype).reshape(location.shape)

    @contextmanager
    def forgetting(self) -> Iterator[None]:
        """Let go of the file's pages, again and again, while someone else goes through all of them.

        Arrays stay valid: what is touched again is read again. Without it a process that writes a copy of the weights
        seems to hold all of them.
        """
        done = threading.Event()

        def forget() -> None:
            while not done.wait(EVERY):
                self._pages.madvise(mmap.MADV_DONTNEED)

        if not hasattr(mmap, "MADV_DONTNEED"):
            yield
            return
        thread = threading.Thread(target=forget, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def read(self, name: str) -> np.ndarray:
        """Read a tensor into memory of its own, without leaving the file's pages mapped in this process."""
        location = self.tensors[name]
        with self.path.open("rb") as file:
            file.seek(location.offset)
            array = np.empty(location.shape, location.dtype)
            file.readinto(array.reshape(-1).view(np.uint8).data)
        return array

"""A tensor as a checkpoint describes it: where its bytes are, and that it does not reach outside its storage."""

import math
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from .format_error import FormatError, shown

DTYPES: dict[str, np.dtype] = {
    dtype.name: dtype
    for dtype in map(
        np.dtype,
        (
            *("float16", "float32", "float64", "complex64", "complex128", "bool"),
            *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
            *(ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2),
            *(ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2fnuz),
        ),
    )
}
MAX_DIMENSIONS = 64
MAX_BYTES = 2**62
BROADCAST_BYTES = 64 << 20
"""A view whose elements overlap (`expand`) may be larger than its file, but not without bound."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One entry of a state dict. `storage` is equal for tensors that share their bytes."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: Path
    offset: int
    """Byte in the file at which element 0 starts."""
    strides: tuple[int, ...]
    """Distance between neighbours along each axis, in elements."""
    nbytes: int
    """Size of the tensor's elements. Not the distance from its first to its last byte: see `extent`."""
    storage: Hashable

    @property
    def extent(self) -> int:
        """Number of bytes in the file from the start of the first element to the end of the last."""
        return span(self.shape, self.strides) * DTYPES[self.dtype].itemsize


def span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Count the elements of storage that a view covers, holes included."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Give the strides of a C-ordered tensor."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def check_name(name: str) -> None:
    """Refuse names that no module can have, and that would garble messages and reports.

    Raises:
        FormatError: the name is empty or not printable.
    """
    if not name.isprintable() or not name:
        raise FormatError(f"the tensor name {shown(name)} is empty or holds characters that cannot be printed")


def check_view(name: str, shape: tuple[int, ...], strides: tuple[int, ...], offset: int, dtype: str, room: int) -> int:
    """Check that a view stays inside its storage of `room` elements, and give its size in bytes.

    Raises:
        FormatError: it does not, or it is too large for any machine.
    """
    what = f"tensor {shown(name)}"
    if len(shape) > MAX_DIMENSIONS:
        raise FormatError(f"{what} has {len(shape)} dimensions, at most {MAX_DIMENSIONS} are possible")
    if min((*shape, *strides, offset)) < 0:
        raise FormatError(f"{what} has a negative size, stride or offset")
    itemsize = DTYPES[dtype].itemsize
    if math.prod(size for size in shape if size) * itemsize > MAX_BYTES:
        raise FormatError(f"{what} declares a shape that no storage can hold")
    if 0 in shape:
        return 0
    if offset + span(shape, strides) > room:
        raise FormatError(
            f"{what} reaches outside its storage: it needs {offset + span(shape, strides)} elements, "
            f"the storage has {room}"
        )
    return math.prod(shape) * itemsize


def check_broadcast(name: str, nbytes: int, file_bytes: int) -> None:
    """Refuse a view that repeats a few bytes of storage into a giant tensor.

    Raises:
        FormatError: the tensor is larger than its whole file and than any honest buffer.
    """
    if nbytes > max(BROADCAST_BYTES, file_bytes):
        raise FormatError(f"tensor {shown(name)} repeats its storage into {nbytes} bytes, the file has {file_bytes}")

"""A file mapped into memory when it is first touched, so that an opened checkpoint holds no descriptor."""

import mmap
import os
import stat
from pathlib import Path

import numpy as np

from .format_error import FormatError
from .tensor import DTYPES, Tensor

Identity = tuple[int, int, int, int]


class MappedFile:
    """A regular file, read-only. Symbolic links are followed.

    Raises:
        FormatError: it is no regular file, it is empty, or it changed since it was first opened.
        OSError: the system cannot open it.
    """

    def __init__(self, path: Path):
        self.path = path
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise FormatError("is not a regular file", "give the file itself")
        if status.st_size == 0:
            raise FormatError("is empty")
        self.size = status.st_size
        self._identity = _identity(status)
        self._map: mmap.mmap | None = None

    @property
    def map(self) -> mmap.mmap:
        """The file's bytes. The same object until `close`."""
        if self._map is None:
            with self.path.open("rb") as file:
                if _identity(os.fstat(file.fileno())) != self._identity:
                    raise FormatError("changed while it was being read", "run again when nothing writes to it")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._map

    def bytes(self, start: int, length: int) -> bytes:
        """Copy a range.

        Raises:
            FormatError: the range is not inside the file.
        """
        if start < 0 or length < 0 or start + length > self.size:
            raise FormatError(f"is truncated: it has {self.size} bytes, {start + length} are described")
        return self.map[start : start + length]

    def array(self, tensor: Tensor) -> np.ndarray:
        """Give a tensor's elements as a read-only view of the mapping."""
        dtype = DTYPES[tensor.dtype]
        if tensor.nbytes == 0:
            return _frozen(np.empty(tensor.shape, dtype))
        strides = tuple(stride * dtype.itemsize for stride in tensor.strides)
        return np.ndarray(tensor.shape, dtype, buffer=self.map, offset=tensor.offset, strides=strides)

    def forget(self, start: int, length: int) -> None:
        """Drop the pages of a range from this process. Arrays on them stay valid: they are read again when touched."""
        if self._map is None or length == 0 or not hasattr(mmap, "MADV_DONTNEED"):
            return
        first = start - start % mmap.PAGESIZE
        self._map.madvise(mmap.MADV_DONTNEED, first, start + length - first)

    def close(self) -> None:
        """Let go of the mapping and its descriptor. Arrays keep theirs; touching the file again maps it again."""
        self._map = None


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array

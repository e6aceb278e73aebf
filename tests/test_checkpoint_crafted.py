"""Files that no torch at hand writes: beyond four gigabytes (sparse; sizes and offsets need zip64), or by Python 2."""

import struct
import sys
import zlib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from bgevis.converter.checkpoint import open_checkpoint
from bgevis.validation.errors import InputError

SPEC = spec_from_file_location("hostile", Path(__file__).parent / "hostile.py")
hostile = module_from_spec(SPEC)
sys.modules["hostile"] = hostile
SPEC.loader.exec_module(hostile)

NUMEL = 2**32 + 8
NONE32 = 2**32 - 1
BIG = hostile.pickled(
    hostile.dictionary(w=hostile.tensor(hostile.storage("ByteStorage", numel=NUMEL), offset=NUMEL - 4))
)


def central(name: str, crc: int, size: int, header: int, flags: int) -> bytes:
    extra = struct.pack("<2H3Q", 1, 24, size, size, header)
    head = (0, 45, flags, 0, 0, 0, crc, NONE32, NONE32, len(name), len(extra), 0, 0, 0, 0, NONE32)
    return struct.pack("<4s6H3L5H2L", b"PK\1\2", *head) + name.encode() + extra


def local(name: str, flags: int, crc: int, size: int, extra: bytes = b"") -> bytes:
    head = struct.pack("<4s5H3L2H", b"PK\3\4", 45, flags, 0, 0, 0, crc, size, size, len(name), len(extra))
    return head + name.encode() + extra


def write(path: Path, *, size_in_directory: int = NUMEL) -> None:
    """Write an archive as torch does: a storage with a descriptor of eight-byte sizes, then the pickle beyond 4 GB."""
    crc = zlib.crc32(BIG)
    with path.open("wb") as file:
        file.write(local("a/data/0", 0x808, 0, 0))
        file.seek(NUMEL - 4, 1)
        file.write(bytes([1, 2, 3, 4]) + struct.pack("<4sL2Q", b"PK\7\10", 7, NUMEL, NUMEL))
        header = file.tell()
        wide = struct.pack("<2H2Q", 1, 16, len(BIG), len(BIG))
        file.write(local("a/data.pkl", 0x800, crc, NONE32, wide) + BIG)
        start = file.tell()
        directory = central("a/data/0", 7, size_in_directory, 0, 0x808)
        directory += central("a/data.pkl", crc, len(BIG), header, 0x800)
        end = (0, start + len(directory), 1)
        file.write(directory + struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, len(directory), start))
        file.write(struct.pack("<4sLQL", b"PK\6\7", *end))
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, len(directory), NONE32, 0))


def test_zip64(tmp_path):
    write(tmp_path / "big.pth")
    checkpoint = open_checkpoint(tmp_path / "big.pth")
    assert checkpoint.tensors["w"].offset > 2**32
    assert checkpoint.read("w").tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("size", [NUMEL - 1, NUMEL + 1, 8, 2**62, 2**64 - 1])
def test_zip64_sizes_that_lie(tmp_path, size):
    write(tmp_path / "big.pth", size_in_directory=size)
    with pytest.raises(InputError, match=r"big\.pth: .*(descriptor|past the end|local header)"):
        open_checkpoint(tmp_path / "big.pth")


def test_legacy(tmp_path):
    body = hostile.dictionary(w=hostile.tensor(hostile.storage("ByteStorage", numel=NUMEL, legacy=True), NUMEL - 4))
    with (tmp_path / "big.pth").open("wb") as file:
        file.write(hostile.legacy(body, tail=struct.pack("<q", NUMEL)))
        file.seek(NUMEL - 4, 1)
        file.write(bytes([1, 2, 3, 4]))
    assert open_checkpoint(tmp_path / "big.pth").read("w").tolist() == [1, 2, 3, 4]


def test_safetensors(tmp_path):
    with (tmp_path / "big.safetensors").open("wb") as file:
        header = {"v": hostile.described(0, NUMEL, "U8", [NUMEL]), "w": hostile.described(NUMEL, NUMEL + 4, "U8")}
        file.write(hostile.safetensors(header, b""))
        file.seek(NUMEL, 1)
        file.write(bytes([1, 2, 3, 4]))
    checkpoint = open_checkpoint(tmp_path / "big.safetensors")
    assert checkpoint.read("w").tolist() == [1, 2, 3, 4]
    assert checkpoint.tensors["v"].nbytes == NUMEL


def test_python_2(tmp_path):
    """Python 2 wrote names as byte strings and an OrderedDict as a list of pairs."""
    pair = b"](U\1w" + hostile.tensor() + b"e"
    path = tmp_path / "old.pth"
    path.write_bytes(hostile.torch_zip(hostile.call("collections", "OrderedDict", b"]" + pair + b"a")))
    assert open_checkpoint(path).read("w").tolist() == [1, 2, 3, 4]

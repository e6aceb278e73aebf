"""The zip archive of `torch.save`, read strictly: stored records, one after the other, nothing between them.

Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT. torch writes no compression, encryption,
comments or directories, pads the local header's extra field so that data starts on 64 bytes, and puts checksums
and sizes into a descriptor after the data. What a reader could understand in two ways is refused.
"""

import stat
import struct
import zlib
from dataclasses import dataclass

from .format_error import SAVE_AGAIN, FormatError, shown
from .mapped import MappedFile

END, LOCATOR, END64, CENTRAL, LOCAL = (
    struct.Struct(f"<4s{text}") for text in ("4H2LH", "LQL", "Q2H2L4Q", "6H3L5H2L", "5H3L2H")
)
END_MAGIC, LOCATOR_MAGIC, END64_MAGIC, CENTRAL_MAGIC, LOCAL_MAGIC, DESCRIPTOR_MAGIC = (
    b"PK" + code for code in (b"\5\6", b"\6\7", b"\6\6", b"\1\2", b"\3\4", b"\7\10")
)
SATURATED16, SATURATED32 = 0xFFFF, 0xFFFFFFFF
DESCRIPTOR_FLAG, UTF8_FLAG = 0x8, 0x800
ZIP64_EXTRA = 1
UNIX = 3
CHUNK = 4 << 20
MAX_RECORDS = 100_000


@dataclass(frozen=True, slots=True)
class Record:
    """A file in the archive: `size` bytes at `start` of the archive."""

    name: str
    start: int
    size: int
    crc: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the central directory says of a record. `header` is where its local header starts."""

    name: bytes
    flags: int
    size: int
    crc: int
    header: int


def read_records(file: MappedFile) -> dict[str, Record]:
    """Give the archive's records by name, in the order in which they lie.

    Raises:
        FormatError: the archive is damaged, or not as torch writes it.
    """
    start, count, size = _directory(file)
    if count > MAX_RECORDS:
        raise FormatError(f"has {count} records, at most {MAX_RECORDS} are read")
    entries = sorted(_entries(file.bytes(start, size), count), key=lambda entry: entry.header)
    records: dict[str, Record] = {}
    end = 0
    for entry in entries:
        if entry.header != end:
            raise FormatError(f"has records that overlap, or bytes between them, before {_name(entry.name)}")
        record = _record(file, entry)
        if record.name in records:
            raise FormatError(f"holds the record {shown(record.name)} twice")
        records[record.name] = record
        end = record.start + record.size + _descriptor_size(file, entry, record.start + record.size)
    if end != start:
        raise FormatError("has bytes between its records and its directory")
    return records


def check_crc(file: MappedFile, record: Record) -> None:
    """Read a record once and compare its checksum.

    Raises:
        FormatError: they differ.
    """
    crc = 0
    for start in range(record.start, record.start + record.size, CHUNK):
        length = min(CHUNK, record.start + record.size - start)
        crc = zlib.crc32(file.bytes(start, length), crc)
        file.forget(start, length)
    if crc != record.crc:
        raise FormatError(f"record {shown(record.name)} is corrupt (CRC32 {crc:08x}, expected {record.crc:08x})")


def _directory(file: MappedFile) -> tuple[int, int, int]:
    """Find the central directory: its first byte, number of entries and size."""
    at = file.size - END.size
    if at < 0 or file.bytes(at, 4) != END_MAGIC:
        raise FormatError(
            "does not end as a zip archive must: it is truncated, or something was appended; copy it again"
        )
    _, disk, disks, here, count, size, start, comment = END.unpack(file.bytes(at, END.size))
    if disk or disks or here != count or comment:
        raise FormatError("is a zip archive in several volumes or with a comment, which torch never writes")
    if at >= LOCATOR.size and file.bytes(at - LOCATOR.size, 4) == LOCATOR_MAGIC:
        at -= LOCATOR.size
        at, *wide = _directory64(file, at)
        if any(
            narrow not in (value, limit)
            for narrow, value, limit in zip((count, size, start), wide, _LIMITS, strict=True)
        ):
            raise FormatError("has two zip directories that disagree")
        count, size, start = wide
    if start + size != at:
        raise FormatError("has a zip directory that is not where its end record says")
    return start, count, size


_LIMITS = (SATURATED16, SATURATED32, SATURATED32)


def _directory64(file: MappedFile, locator: int) -> tuple[int, int, int, int]:
    """Read the zip64 end record: where it starts, then number of entries, size and start of the directory."""
    _, _, at, _ = LOCATOR.unpack(file.bytes(locator, LOCATOR.size))
    if at != locator - END64.size:
        raise FormatError("has a zip64 end record that is not before its locator")
    magic, length, _, _, disk, disks, here, count, size, start = END64.unpack(file.bytes(at, END64.size))
    if magic != END64_MAGIC or length != END64.size - 12 or disk or disks or here != count:
        raise FormatError("has a zip64 end record that torch never writes")
    return at, count, size, start


def _entries(directory: bytes, count: int) -> list[_Entry]:
    entries: list[_Entry] = []
    at = 0
    while at < len(directory):
        if len(entries) == count or at + CENTRAL.size > len(directory) or directory[at : at + 4] != CENTRAL_MAGIC:
            raise FormatError("has a damaged zip directory")
        fields = CENTRAL.unpack_from(directory, at)
        name_end = at + CENTRAL.size + fields[10]
        extra_end = name_end + fields[11]
        if extra_end + fields[12] > len(directory):
            raise FormatError("has a damaged zip directory")
        entries.append(_entry(fields, directory[at + CENTRAL.size : name_end], directory[name_end:extra_end]))
        at = extra_end + fields[12]
    if len(entries) != count or at != len(directory):
        raise FormatError(f"has {len(entries)} records in its zip directory, its end record says {count}")
    return entries


def _entry(fields: tuple[int, ...], name: bytes, extra: bytes) -> _Entry:
    _, made, _, flags, method, _, _, crc, packed, size, _, _, _, disk, _, attributes, header = fields
    if flags & ~(DESCRIPTOR_FLAG | UTF8_FLAG):
        raise FormatError(f"record {_name(name)} is encrypted or has flags that torch never sets")
    if method and b"/code/" in name:
        raise FormatError("is a TorchScript archive, a program with its weights", SAVE_AGAIN)
    if method:
        raise FormatError(f"record {_name(name)} is compressed, which torch never does", SAVE_AGAIN)
    if made >> 8 == UNIX and stat.S_IFMT(attributes >> 16) not in (0, stat.S_IFREG):
        raise FormatError(f"record {_name(name)} is a link or a device, not a file")
    size, packed, header = _widened((size, packed, header), extra, name)
    if disk or packed != size:
        raise FormatError(f"record {_name(name)} has two different sizes")
    return _Entry(name, flags, size, crc, header)


def _widened(values: tuple[int, ...], extra: bytes, name: bytes) -> tuple[int, ...]:
    """Take the values that do not fit into 32 bits from the zip64 extra field."""
    field = _zip64_field(extra, name)
    wide = []
    for value in values:
        if value != SATURATED32:
            wide.append(value)
        elif len(field) >= 8:
            wide.append(int.from_bytes(field[:8], "little"))
            field = field[8:]
        else:
            raise FormatError(f"record {_name(name)} has no zip64 sizes")
    return tuple(wide)


def _zip64_field(extra: bytes, name: bytes) -> bytes:
    found = b""
    while extra:
        code, length = int.from_bytes(extra[:2], "little"), int.from_bytes(extra[2:4], "little")
        if len(extra) < 4 + length:
            raise FormatError(f"record {_name(name)} has a damaged extra field")
        if code == ZIP64_EXTRA:
            if found:
                raise FormatError(f"record {_name(name)} has two zip64 sizes")
            found = extra[4 : 4 + length]
        extra = extra[4 + length :]
    return found


def _record(file: MappedFile, entry: _Entry) -> Record:
    """Read the local header, which alone tells where the data starts, and hold it against the directory."""
    fields = LOCAL.unpack(file.bytes(entry.header, LOCAL.size))
    magic, _, flags, method, _, _, crc, packed, size, name_length, extra_length = fields
    name = file.bytes(entry.header + LOCAL.size, name_length)
    extra = file.bytes(entry.header + LOCAL.size + name_length, extra_length)
    if magic != LOCAL_MAGIC or name != entry.name or method or flags != entry.flags:
        raise FormatError(f"record {_name(entry.name)} has a local header that differs from the zip directory")
    size, packed = _widened((size, packed), extra, name)
    later = (0, 0, 0) if flags & DESCRIPTOR_FLAG else None
    if (crc, packed, size) not in ((entry.crc, entry.size, entry.size), later):
        raise FormatError(f"record {_name(entry.name)} has a local header that differs from the zip directory")
    start = entry.header + LOCAL.size + name_length + extra_length
    if start + entry.size > file.size:
        raise FormatError(f"record {_name(entry.name)} reaches past the end of the file: it is truncated")
    return Record(_checked_name(entry.name), start, entry.size, entry.crc)


def _descriptor_size(file: MappedFile, entry: _Entry, at: int) -> int:
    """Check the descriptor that follows the data, and give its size: 0 if there is none."""
    if not entry.flags & DESCRIPTOR_FLAG:
        return 0
    for width in ("<4s3L", "<4sL2Q"):
        length = struct.calcsize(width)
        if entry.size <= SATURATED32 or width == "<4sL2Q":
            expected = struct.pack(width, DESCRIPTOR_MAGIC, entry.crc, entry.size, entry.size)
            if at + length <= file.size and file.bytes(at, length) == expected:
                return length
    raise FormatError(f"record {_name(entry.name)} has a descriptor that differs from the zip directory")


def _checked_name(raw: bytes) -> str:
    """Give a record's name if it is a plain relative path."""
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"has a record whose name {_name(raw)} is not UTF-8") from error
    if "\\" in name or not name.isprintable() or not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise FormatError(f"has a record whose name {_name(raw)} is not a plain relative path")
    return name


def _name(raw: bytes) -> str:
    return shown(raw.decode("utf-8", "backslashreplace"))

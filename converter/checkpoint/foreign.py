"""What a file is, judged by its first bytes, and a helpful word for those that are not checkpoints."""

from .format_error import COPY_AGAIN, SAVE_AGAIN, FormatError
from .mapped import MappedFile
from .torch_legacy import starts_legacy

HEAD = 512
PARQUET = b"PAR1"
TAR_MAGIC_AT = 257
UNPACK = "unpack it with a program you trust and give the checkpoint inside"
# first bytes -> what it is, what to do
FOREIGN = {
    b"version https://git-lfs": ("is a git-lfs pointer, not the checkpoint itself", "run `git lfs pull` and try again"),
    b"7z\xbc\xaf\x27\x1c": ("is a 7z archive", UNPACK),
    b"Rar!": ("is a rar archive", UNPACK),
    b"\x1f\x8b": ("is compressed with gzip", UNPACK),
    b"BZh": ("is compressed with bzip2", UNPACK),
    b"\xfd7zXZ": ("is compressed with xz", UNPACK),
    b"\x28\xb5\x2f\xfd": ("is compressed with zstd", UNPACK),
    b"\x89HDF": ("is an HDF5 file (Keras)", SAVE_AGAIN),
    b"GGUF": ("is a GGUF file", SAVE_AGAIN),
    b"\x93NUMPY": ("is a NumPy array", SAVE_AGAIN),
    b"PK\5\6": ("is an empty zip archive", COPY_AGAIN),
    b"<": ("is a web page (HTML or XML), not a checkpoint", "the download may need a login or another address"),
}


def container_of(file: MappedFile) -> str:
    """Tell "torch-zip", "torch-legacy", "safetensors", "parquet" or "index".

    Raises:
        FormatError: it is none of them; the message says what it is.
    """
    head = file.bytes(0, min(HEAD, file.size))
    if head.startswith(b"PK\3\4"):
        return "torch-zip"
    if head.startswith(PARQUET):
        return "parquet"
    if starts_legacy(head):
        return "torch-legacy"
    if head[8:9] == b"{" and not _is_text(head[:8]):
        return "safetensors"
    if head.lstrip()[:1] == b"{" and _is_text(head[:8]):
        return "index"
    raise _complaint(head)


def _is_text(head: bytes) -> bool:
    # Eight printable characters would be a safetensors header length beyond all bounds.
    return all(byte >= 0x20 or byte in b"\t\r\n" for byte in head)


def _complaint(head: bytes) -> FormatError:
    if head[TAR_MAGIC_AT:].startswith(b"ustar"):
        return FormatError("is a tar archive, which torch wrote before 0.2", f"if you trust it, {SAVE_AGAIN}")
    for magic, (problem, advice) in FOREIGN.items():
        if head.lstrip().startswith(magic):
            return FormatError(problem, advice)
    if head[:1] == b"\x80":
        problem = "is a pickle, but not one of torch.save; nothing was executed"
        return FormatError(problem, f"if you trust it, {SAVE_AGAIN}")
    if not head.strip(b"\0"):
        return FormatError("starts with zeros only: the download is incomplete")
    return FormatError(
        "is not a checkpoint: neither a torch zip, a legacy torch file, safetensors, an index of shards nor Parquet"
    )

"""What a file is, judged by its first bytes, and a helpful word for those that are not checkpoints."""

from .format_error import FormatError
from .mapped import MappedFile
from .torch_legacy import starts_legacy

HEAD = 512
TAR_MAGIC_AT = 257
LATER = "convert it to a state dict with torch.save(model.state_dict(), ...) or to safetensors"
# first bytes -> what to say
FOREIGN = {
    b"version https://git-lfs": "is a git-lfs pointer, not the checkpoint itself; run `git lfs pull` and try again",
    b"7z\xbc\xaf\x27\x1c": "is a 7z archive; unpack it with a program you trust and give the checkpoint inside",
    b"Rar!": "is a rar archive; unpack it and give the checkpoint inside",
    b"\x1f\x8b": "is compressed with gzip; unpack it and give the file inside",
    b"BZh": "is compressed with bzip2; unpack it and give the file inside",
    b"\xfd7zXZ": "is compressed with xz; unpack it and give the file inside",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; unpack it and give the file inside",
    b"\x89HDF": f"is an HDF5 file (Keras); {LATER}",
    b"GGUF": f"is a GGUF file; {LATER}",
    b"\x93NUMPY": f"is a NumPy array; {LATER}",
    b"PK\5\6": "is an empty zip archive",
    b"<": "is a web page (HTML or XML), not a checkpoint; the download needs a login or another address",
}


def container_of(file: MappedFile) -> str:
    """Tell "torch-zip", "torch-legacy", "safetensors" or "index".

    Raises:
        FormatError: it is none of them; the message says what it is.
    """
    head = file.bytes(0, min(HEAD, file.size))
    if head.startswith(b"PK\3\4"):
        return "torch-zip"
    if starts_legacy(head):
        return "torch-legacy"
    if head[8:9] == b"{" and not _is_text(head[:8]):
        return "safetensors"
    if head.lstrip()[:1] == b"{" and _is_text(head[:8]):
        return "index"
    raise FormatError(_complaint(head))


def _is_text(head: bytes) -> bool:
    # Eight printable characters would be a safetensors header length beyond all bounds.
    return all(byte >= 0x20 or byte in b"\t\r\n" for byte in head)


def _complaint(head: bytes) -> str:
    if head[TAR_MAGIC_AT:].startswith(b"ustar"):
        return f"is a tar archive (torch before 0.2 wrote those); {LATER}"
    for magic, complaint in FOREIGN.items():
        if head.lstrip().startswith(magic):
            return complaint
    if head[:1] == b"\x80":
        return f"is a pickle, but not one of torch.save; nothing was executed. If you trust it, {LATER}"
    if not head.strip(b"\0"):
        return "starts with zeros only: the download is incomplete, fetch it again"
    return "is not a checkpoint: neither a torch zip, a legacy torch file, safetensors nor an index of shards"

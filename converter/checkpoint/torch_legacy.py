"""The format of `torch.save` before 1.6: pickles one after the other, then the storages' bytes.

Format: https://github.com/pytorch/pytorch/blob/main/torch/serialization.py (`_legacy_save`, `_legacy_load`): magic
number, protocol version, system information, the object, the storages' keys; then for each key its number of
elements in eight bytes, and the elements.
"""

from .format_error import FormatError, shown
from .inert import Entries
from .machine import BASE_BUDGET, Machine
from .mapped import MappedFile
from .opcodes import run
from .part import Part, place
from .stand_ins import find_global
from .state_dict import find_state_dict
from .storages import Storages, check_size, itemsize

MAGIC = 0x1950A86A20F9469CFC6C
MAGIC_BYTES = b"\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."
MAGIC_WITHIN = 32
"""The magic number is a pickle of its own, so where exactly its bytes start depends on the protocol."""
PROTOCOL = 1001


def starts_legacy(head: bytes) -> bool:
    """Tell whether these are the first bytes of a file in the legacy format."""
    return head[:1] == b"\x80" and MAGIC_BYTES in head[:MAGIC_WITHIN]


def read_torch_legacy(file: MappedFile) -> Part:
    """Index the tensors of a file in the legacy format.

    Raises:
        FormatError: it is damaged, or what its pickle describes is not what follows it.
    """
    storages = Storages(legacy=True)
    with memoryview(file.map) as data:
        machine = Machine(data, BASE_BUDGET + file.size, find_global, storages.load)
        _check_system(run(machine), run(machine), run(machine))
        found = find_state_dict(run(machine))
        starts = _starts(file, storages, run(machine), machine.position)
    tensors = place(found, starts, file)
    return Part("torch-legacy", file, tensors, found.wrappers, found.ignored, facts=found.facts)


def _check_system(magic: object, protocol: object, system: object) -> None:
    if magic != MAGIC or protocol != PROTOCOL or type(system) is not Entries:
        raise FormatError("has an unknown version of the legacy torch format")
    if not any(key == "little_endian" and value is True for key, value in system if type(key) is str):
        raise FormatError("was saved on a big-endian machine", "save it again on a little-endian one")


def _starts(file: MappedFile, storages: Storages, keys: object, position: int) -> dict[str, int]:
    """Walk over the storages: key -> first byte."""
    if type(keys) is not list or not all(type(key) is str for key in keys) or len(set(keys)) != len(keys):
        raise FormatError("has no list of its storages")
    if set(keys) != set(storages.by_key):
        raise FormatError("lists storages that its pickle does not use, or lacks some that it uses")
    starts = {}
    for key in keys:
        numel = int.from_bytes(file.bytes(position, 8), "little")
        size = numel * itemsize(storages.by_key[key])
        check_size(storages.by_key[key], size)
        if position + 8 + size > file.size:
            raise FormatError(f"is truncated: storage {shown(key)} ends past the end of the file")
        starts[key] = position + 8
        position += 8 + size
    if position != file.size:
        raise FormatError(f"has {file.size - position} bytes after its last storage")
    return starts

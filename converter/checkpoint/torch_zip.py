"""The format of `torch.save` since 1.6: a zip archive with `data.pkl` and one record for each storage.

Format: https://github.com/pytorch/pytorch/blob/main/torch/serialization.py (`_save`, `_load`).
"""

from .archive import Record, check_crc, read_records
from .format_error import FormatError, shown
from .machine import BASE_BUDGET, Machine
from .mapped import MappedFile
from .opcodes import run
from .part import Part, place
from .stand_ins import find_global
from .state_dict import find_state_dict
from .storages import Storages, check_size

SMALL_RECORD = 1024


def read_torch_zip(file: MappedFile) -> Part:
    """Index the tensors of a torch zip file.

    Raises:
        FormatError: it is not one, or what its pickle describes is not what its records hold.
    """
    archive = read_records(file)
    records = _without_folder(archive)
    _check_byte_order(file, records)
    storages = Storages(legacy=False)
    found = find_state_dict(_unpickle(file, records["data.pkl"], storages))
    for key, storage in storages.by_key.items():
        if f"data/{key}" not in records:
            raise FormatError(f"has no record for storage {shown(key)}")
        check_size(storage, records[f"data/{key}"].size)
    starts = {key: records[f"data/{key}"].start for key in storages.by_key}
    tensors = place(found, starts, file)
    return Part("torch-zip", file, tensors, found.wrappers, found.ignored, tuple(archive.values()), found.facts)


def _without_folder(archive: dict[str, Record]) -> dict[str, Record]:
    """All records lie in one folder, named after the file when it was saved."""
    folders = {name.partition("/")[0] for name in archive}
    records = {name.partition("/")[2]: record for name, record in archive.items()}
    if len(folders) != 1 or "data.pkl" not in records:
        raise FormatError("is a zip archive, but not one of torch.save: it needs one folder that holds data.pkl")
    if "constants.pkl" in records:
        raise FormatError("is a TorchScript program", "load it with torch.jit.load and save its state_dict()")
    return records


def _check_byte_order(file: MappedFile, records: dict[str, Record]) -> None:
    record = records.get("byteorder")
    if record is None:
        return
    order = file.bytes(record.start, min(record.size, SMALL_RECORD))
    if order != b"little":
        raise FormatError(
            f"was saved in byte order {shown(order.decode('latin-1'))}", "save it again on a little-endian machine"
        )


def _unpickle(file: MappedFile, record: Record, storages: Storages) -> object:
    check_crc(file, record)
    with memoryview(file.map) as whole, whole[record.start : record.start + record.size] as data:
        machine = Machine(data, BASE_BUDGET + file.size, find_global, storages.load)
        value = run(machine)
        if machine.position != len(data):
            raise FormatError(f"has {len(data) - machine.position} bytes after the end of its pickle")
    return value

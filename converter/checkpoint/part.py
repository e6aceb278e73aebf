"""What one file contributes to a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .archive import Record
from .inert import Storage
from .mapped import MappedFile
from .state_dict import StateDict
from .storages import itemsize
from .tensor import DTYPES, Tensor, check_broadcast, check_view


@dataclass(frozen=True)
class Part:
    """A file, its tensors under the names that the file gives them, and the records whose checksums it holds."""

    container: str
    file: MappedFile
    tensors: Mapping[str, Tensor]
    wrappers: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    records: tuple[Record, ...] = field(default=())
    facts: Mapping[str, object] = field(default_factory=dict)


def place(found: StateDict, starts: Mapping[str, int], file: MappedFile) -> dict[str, Tensor]:
    """Turn what the pickle claims into places in the file. `starts`: storage key -> its first byte.

    Raises:
        FormatError: a tensor reaches outside its storage.
    """
    tensors = {}
    for name, view in found.views:
        nbytes = check_view(name, view.shape, view.strides, view.offset, view.dtype, _room(view.storage, view.dtype))
        check_broadcast(name, nbytes, file.size)
        # An empty tensor may have any offset; it is given one inside the file
        offset = starts[view.storage.key] + (view.offset * DTYPES[view.dtype].itemsize if nbytes else 0)
        identity = (str(file.path), view.storage.key)
        tensors[name] = Tensor(name, view.shape, view.dtype, file.path, offset, view.strides, nbytes, identity)
    return tensors


def _room(storage: Storage, dtype: str) -> int:
    return storage.numel * itemsize(storage) // DTYPES[dtype].itemsize

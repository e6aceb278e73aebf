"""The storages that a torch pickle refers to by persistent id."""

from .format_error import SAVE_AGAIN, FormatError, shown
from .inert import Storage, StorageType
from .tensor import DTYPES

LAST = 2**62


class Storages:
    """Every storage that a pickle refers to, by its key."""

    def __init__(self, *, legacy: bool) -> None:
        self._length = 6 if legacy else 5
        self.by_key: dict[str, Storage] = {}

    def load(self, identifier: object) -> Storage:
        """Give the storage for a persistent id: `("storage", type, key, location, numel)`.

        The legacy format adds a sixth value, a view of another storage, which is None in all files since 2017.

        Raises:
            FormatError: the id is not that, or the key was described differently before.
        """
        if type(identifier) is not tuple or len(identifier) != self._length or identifier[0] != "storage":
            raise FormatError("the pickle refers to something outside itself that is not a storage")
        _, kind, key, location, numel = identifier[:5]
        if type(kind) is not StorageType or type(key) is not str or type(location) is not str:
            raise FormatError("the pickle describes a storage without a type, a key and a location")
        if type(numel) is not int or not 0 <= numel <= LAST:
            raise FormatError(f"storage {shown(key)} has no possible number of elements")
        if identifier[5:] not in ((), (None,)):
            raise FormatError(f"storage {shown(key)} is a view of another one, as written before 2017", SAVE_AGAIN)
        known = self.by_key.setdefault(key, Storage(key, kind, numel))
        if known.type is not kind or known.numel != numel:
            raise FormatError(f"storage {shown(key)} is described twice, differently")
        return known


def check_size(storage: Storage, nbytes: int) -> None:
    """Check that the bytes present are what the pickle claims.

    Raises:
        FormatError: they are more or fewer.
    """
    if storage.type.quantized:
        return
    expected = storage.numel * itemsize(storage)
    if nbytes != expected:
        raise FormatError(
            f"storage {shown(storage.key)} should have {expected} bytes ({storage.numel} elements of "
            f"{storage.type.name}), the file has {nbytes}"
        )


def itemsize(storage: Storage) -> int:
    """Bytes of an element. An untyped storage counts bytes."""
    return 1 if storage.type.dtype is None else DTYPES[storage.type.dtype].itemsize

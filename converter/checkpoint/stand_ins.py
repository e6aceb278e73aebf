"""The names that a checkpoint may refer to, and an inert stand-in for each. Everything else is refused.

What torch itself writes: `torch/_utils.py` and `torch/_tensor.py` (the `_rebuild_*` functions).
"""

from collections.abc import Callable

from .format_error import SAVE_AGAIN, FormatError, shown
from .inert import Called, DType, Entries, Opaque, Storage, StorageType, Unsupported, View
from .tensor import DTYPES, MAX_DIMENSIONS

Arguments = tuple[object, ...]


def find_global(module: str, name: str) -> object:
    """Give the stand-in for a name.

    Raises:
        FormatError: the name is not on the list.
    """
    stand_in = ALLOWED.get((module, name))
    if stand_in is None:
        raise FormatError(
            f"refers to {shown(f'{module}.{name}')}, which is not among the names that weights need; "
            "nothing was executed",
            f"if you trust where it comes from, load it in its own program and {SAVE_AGAIN}",
        )
    return stand_in


# Tensors


def _tensor(arguments: Arguments) -> object:
    storage, offset, size, strides = _exactly(arguments, 4)
    return _view(storage, offset, size, strides, None)


def _tensor_v2(arguments: Arguments) -> object:
    storage, offset, size, strides, _, _, metadata = _exactly((*arguments, None)[:7], 7)
    return _conjugated(metadata) or _view(storage, offset, size, strides, None)


def _tensor_v3(arguments: Arguments) -> object:
    storage, offset, size, strides, _, _, dtype, metadata = _exactly((*arguments, None)[:8], 8)
    if type(dtype) is not DType:
        raise FormatError("a tensor's dtype is not a dtype")
    return _conjugated(metadata) or _view(storage, offset, size, strides, dtype)


def _parameter(arguments: Arguments) -> object:
    if not arguments or type(arguments[0]) not in (View, Unsupported):
        raise FormatError("a parameter is not made of a tensor")
    return arguments[0]


def _from_type(arguments: Arguments) -> object:
    """Give the tensor inside `_rebuild_from_type_v2(function, type, arguments, state)`: a tensor with attributes."""
    function, _, inner, _ = _exactly(arguments, 4)
    if type(function) is not Called or function.make not in REBUILDERS or type(inner) is not tuple:
        raise FormatError("a tensor is rebuilt by something that is not a tensor's function")
    return function.make(inner)


def _unsupported(what: str) -> Callable[[Arguments], object]:
    return lambda arguments: Unsupported(what)


def _view(storage: object, offset: object, size: object, strides: object, dtype: DType | None) -> View | Unsupported:
    if type(storage) is not Storage:
        raise FormatError("a tensor is not on a storage")
    if type(size) is not tuple or type(strides) is not tuple or len(size) != len(strides):
        raise FormatError("a tensor's shape and strides are not two tuples of one length")
    if len(size) > MAX_DIMENSIONS or type(offset) is not int or not all(type(n) is int for n in (*size, *strides)):
        raise FormatError("a tensor's shape, strides and offset are not integers")
    if storage.type.quantized:
        return Unsupported("quantised")
    if (dtype is None) == (storage.type.dtype is None):
        raise FormatError("a tensor's dtype does not go with the type of its storage")
    name = storage.type.dtype if dtype is None else dtype.dtype
    if name is None:
        return Unsupported(f"of dtype {dtype.name if dtype else '?'}")
    return View(storage, name, offset, size, strides)


def _conjugated(metadata: object) -> Unsupported | None:
    """Torch keeps the conjugate and negative bits of a complex view beside its bytes."""
    if metadata is None or (type(metadata) is Entries and not metadata.flat):
        return None
    return Unsupported("a view with metadata (conjugate or negative bit)")


def _exactly(arguments: Arguments, count: int) -> Arguments:
    if len(arguments) != count:
        raise FormatError(f"a tensor is rebuilt from {len(arguments)} values, expected {count}")
    return arguments


# Plain data


def _dictionary(arguments: Arguments) -> object:
    """OrderedDict() and its like; Python 2 gave the pairs as an argument."""
    entries = Entries()
    for pair in arguments[0] if arguments and type(arguments[0]) is list else ():
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise FormatError("an OrderedDict is made of something other than pairs")
        entries.flat.extend(pair)
    return entries


def _size(arguments: Arguments) -> object:
    if len(arguments) != 1 or type(arguments[0]) is not tuple:
        raise FormatError("a torch.Size is not made of a tuple")
    return arguments[0]


def _list(arguments: Arguments) -> object:
    return []


def _opaque(arguments: Arguments) -> object:
    return Opaque("object")


REBUILDERS = (_tensor, _tensor_v2, _tensor_v3, _parameter)
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
QUANTIZED = ("qint8", "quint8", "qint32", "quint4x2", "quint2x4")
QUANTIZED_STORAGES = ("QInt8Storage", "QUInt8Storage", "QInt32Storage", "QUInt4x2Storage", "QUInt2x4Storage")
QUANTIZERS = ("per_tensor_affine", "per_channel_affine", "per_tensor_symmetric", "per_channel_symmetric")
FUNCTIONS: dict[tuple[str, str], Callable[[Arguments], object]] = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("torch._utils", "_rebuild_sparse_tensor"): _unsupported("sparse"),
    ("torch._utils", "_rebuild_sparse_csr_tensor"): _unsupported("sparse"),
    ("torch._utils", "_rebuild_qtensor"): _unsupported("quantised"),
    ("torch._utils", "_rebuild_nested_tensor"): _unsupported("nested"),
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): _unsupported("without data (device meta)"),
    ("torch.serialization", "_get_layout"): _opaque,
    ("torch", "device"): _opaque,
    ("torch", "Size"): _size,
    ("_codecs", "encode"): _opaque,
    ("collections", "deque"): _list,
    # Scalars, arrays and their types in a trainer's history
    **{
        (module, name): _opaque
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("scalar", "_reconstruct")
    },
    ("numpy._core.numeric", "_frombuffer"): _opaque,
    ("numpy.core.numeric", "_frombuffer"): _opaque,
    ("numpy", "dtype"): _opaque,
    **{
        (module, name): _opaque
        for module in ("builtins", "__builtin__")
        for name in ("set", "frozenset", "bytes", "bytearray", "complex")
    },
    ("collections", "Counter"): _opaque,
    ("datetime", "datetime"): _opaque,
    **{("pathlib", name): _opaque for name in ("Path", "PosixPath", "WindowsPath")},
}
DICTIONARIES = (
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("lightning_fabric.utilities.data", "AttributeDict"),
    ("pytorch_lightning.utilities.parsing", "AttributeDict"),
)
OBJECTS = (
    ("argparse", "Namespace"),
    ("types", "SimpleNamespace"),
    # Edge Glass saves its configuration's dataclasses beside the weights; its program is a module called `config`
    *(("config", f"{name}Config") for name in ("Experiment", "Dataset", "Encoder", "Decoder", "Fusion")),
    *(("config", f"{name}Config") for name in ("Trainer", "Training", "Loss", "Optimization")),
)
NEVER_CALLED = (
    *(("torch", name) for name in QUANTIZERS),
    *(("torch", name) for name in ("Tensor", "strided", "sparse_coo", "sparse_csr")),
    ("torch.nn.parameter", "Parameter"),
    ("numpy", "ndarray"),
    *((module, name) for module in ("builtins", "__builtin__") for name in ("dict", "list", "int", "float", "str")),
    ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
)
# (module, name) -> stand-in
ALLOWED: dict[tuple[str, str], object] = {
    **{key: Called(".".join(key), make) for key, make in FUNCTIONS.items()},
    **{key: Called(".".join(key), _dictionary, newable=True) for key in DICTIONARIES},
    **{key: Called(".".join(key), _opaque, newable=True) for key in OBJECTS},
    **{key: Opaque(".".join(key)) for key in NEVER_CALLED},
    **{("torch", name): DType(name, name) for name in DTYPES},
    **{("torch", name): DType(name, None) for name in (*QUANTIZED, "complex32")},
    **{("torch", name): StorageType(name, dtype) for name, dtype in STORAGES.items()},
    **{("torch", name): StorageType(name, None, quantized=True) for name in QUANTIZED_STORAGES},
    ("torch.storage", "UntypedStorage"): StorageType("UntypedStorage", None),
}

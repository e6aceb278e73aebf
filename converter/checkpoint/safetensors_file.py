"""safetensors: eight bytes of header length, a JSON header, then the tensors' bytes without holes.

Format: https://github.com/huggingface/safetensors
"""

from .format_error import FormatError, shown
from .mapped import MappedFile
from .part import Part
from .strict_json import MAX_BYTES, parse_object
from .tensor import Tensor, check_name, check_view, contiguous

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "BOOL": "bool",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "C64": "complex64",
}
FIELDS = {"dtype", "shape", "data_offsets"}


def read_safetensors(file: MappedFile) -> Part:
    """Index the tensors of a safetensors file.

    Raises:
        FormatError: the header is damaged, or its ranges overlap, leave holes or do not fit their shapes.
    """
    length = int.from_bytes(file.bytes(0, 8), "little")
    if length > MAX_BYTES or 8 + length > file.size:
        raise FormatError(
            f"declares a header of {length} bytes, the file has {file.size} (and {MAX_BYTES} is the limit)"
        )
    header = parse_object(file.bytes(8, length), "safetensors header")
    metadata = _metadata(header.pop("__metadata__", {}))
    tensors = {name: _tensor(name, entry, 8 + length, file) for name, entry in header.items()}
    if not tensors:
        raise FormatError("holds no tensors")
    _check_ranges(tensors, 8 + length, file.size)
    return Part("safetensors", file, tensors, facts=metadata)


def _metadata(metadata: object) -> dict[str, object]:
    if type(metadata) is not dict or not all(type(value) is str for value in metadata.values()):
        raise FormatError("has metadata that is not text")
    return metadata


def _tensor(name: str, entry: object, start: int, file: MappedFile) -> Tensor:
    check_name(name)
    if type(entry) is not dict or set(entry) != FIELDS:
        raise FormatError(f"tensor {shown(name)} is not described by dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(code) is not str or code not in DTYPES:
        raise FormatError(f"tensor {shown(name)} has dtype {shown(str(code))}, known are {', '.join(DTYPES)}")
    if not _integers(shape) or not _integers(offsets) or len(offsets) != 2:
        raise FormatError(f"tensor {shown(name)} has a shape or offsets that are not integers")
    strides = contiguous(tuple(shape[:65]))
    begin, end = offsets
    nbytes = check_view(name, tuple(shape), strides, 0, DTYPES[code], file.size)
    if end - begin != nbytes:
        raise FormatError(f"tensor {shown(name)} needs {nbytes} bytes, its offsets give {end - begin}")
    return Tensor(name, tuple(shape), DTYPES[code], file.path, start + begin, strides, nbytes, (str(file.path), name))


def _integers(value: object) -> bool:
    return type(value) is list and all(type(number) is int and 0 <= number < 2**62 for number in value)


def _check_ranges(tensors: dict[str, Tensor], start: int, size: int) -> None:
    """Every byte after the header belongs to exactly one tensor."""
    position = start
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.nbytes)):
        if tensor.offset != position:
            problem = "overlaps another" if tensor.offset < position else "leaves a hole before it"
            raise FormatError(
                f"tensor {shown(tensor.name)} {problem}: it starts at byte {tensor.offset}, not {position}"
            )
        position += tensor.nbytes
    if position != size:
        raise FormatError(
            f"has {size} bytes, its header describes {position}: it is truncated or something was appended"
        )

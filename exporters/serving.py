"""TensorFlow Serving's warm-up requests: what a server runs before it says that it is ready.

A TFRecord file of `tensorflow.serving.PredictionLog` messages beside a SavedModel. The few fields are written by
hand: the package with the messages, tensorflow-serving-api, brings a TensorFlow of its own beside tensorflow-cpu.

Source: https://www.tensorflow.org/tfx/serving/saved_model_warmup,
https://github.com/tensorflow/serving/tree/master/tensorflow_serving/apis (prediction_log, predict, model: field
numbers) and https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details.
"""

import functools
import struct
from collections.abc import Mapping

import numpy as np

from ..validation.runner import Arrays

FILE = "assets.extra/tf_serving_warmup_requests"

TYPES = {np.dtype(np.float32): 1, np.dtype(np.int32): 3, np.dtype(np.int64): 9}
"""tensorflow.DataType"""

CASTAGNOLI = 0x82F63B78
"""The polynomial of CRC-32C, lowest bit first."""


def record(model: str, signature: str, inputs: Arrays) -> bytes:
    """Make the TFRecord of one request to a signature."""
    spec = _text(1, model) + _text(3, signature)
    tensors = b"".join(_field(2, _text(1, name) + _field(2, _tensor(inputs[name]))) for name in sorted(inputs))
    request = _field(1, spec) + tensors
    log = _field(6, _field(1, request))  # PredictionLog.predict_log.request
    length = struct.pack("<Q", len(log))
    return length + _masked(length) + log + _masked(log)


def at_sizes(inputs: Arrays, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Repeat or cut inputs along each axis until they have these shapes: a warm-up is about sizes, not results."""
    resized = {}
    for name, array in inputs.items():
        for axis, size in enumerate(shapes[name]):
            array = np.take(array, np.arange(size) % array.shape[axis], axis)
        resized[name] = array
    return resized


def _tensor(array: np.ndarray) -> bytes:
    """Write a tensorflow.TensorProto."""
    sizes = b"".join(_field(2, _number(1, size)) for size in array.shape)
    return _number(1, TYPES[array.dtype]) + _field(2, sizes) + _field(4, np.ascontiguousarray(array).tobytes())


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode())


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    low = bytearray()
    while value >= 0x80:
        low.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*low, value])


def _masked(data: bytes) -> bytes:
    """Give the checksum of a TFRecord."""
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


@functools.cache
def _table() -> tuple[int, ...]:
    def entry(value: int) -> int:
        for _ in range(8):
            value = value >> 1 ^ (CASTAGNOLI if value & 1 else 0)
        return value

    return tuple(map(entry, range(256)))

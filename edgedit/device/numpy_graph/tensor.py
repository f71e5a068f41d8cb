"""TensorProto: element types, shapes, and the four places where its numbers may lie (onnx/onnx.proto)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedit.device.numpy_graph.wire import DamagedError, Message

TYPES: dict[int, np.dtype[Any]] = {number: np.dtype(kind) for number, kind in (
    (1, np.float32), (2, np.uint8), (3, np.int8), (4, np.uint16), (5, np.int16), (6, np.int32), (7, np.int64), (9, np.bool_),
    (10, np.float16), (11, np.float64), (12, np.uint32), (13, np.uint64))}
"""TensorProto.DataType → NumPy's; text, complex numbers, bfloat16 and the 8- and 4-bit floats are not read."""
MOST_DIMENSIONS, MOST_ELEMENTS = 16, (1 << 31) - 1
_DIMS, _TYPE, _SEGMENT, _FLOAT, _INT32, _TEXT, _INT64, _NAME, _RAW, _DOUBLE, _UINT64, _EXTERNAL, _PLACE = (
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14)
_TYPED = {1: _FLOAT, 2: _INT32, 3: _INT32, 4: _INT32, 5: _INT32, 6: _INT32, 7: _INT64, 9: _INT32, 10: _INT32, 11: _DOUBLE,
          12: _UINT64, 13: _UINT64}
"""The field of each type's numbers where they are not raw bytes."""


def element_type(number: int, what: str) -> np.dtype[Any]:
    """NumPy's type of a DataType; DamagedError where it is not read."""
    if number not in TYPES:
        raise DamagedError(f"{what} has the element type {number}, which is not read")
    return TYPES[number]


def read_tensor(message: Message) -> tuple[str, NDArray[Any]]:
    """Name and numbers; the array is a writable, aligned copy. DamagedError when numbers and shape do not agree."""
    name = message.text(_NAME)
    what = f"tensor '{name}'"
    if message.whole(_PLACE) != 0 or _EXTERNAL in message:
        raise DamagedError(f"{what} keeps its numbers in another file")
    if _SEGMENT in message:
        raise DamagedError(f"{what} is cut into segments")
    number = message.whole(_TYPE)
    dtype, shape = element_type(number, what), _shape(message.wholes(_DIMS), what)
    count, raw = math.prod(shape), message.blobs(_RAW)
    if _TEXT in message or any(field in message for field in set(_TYPED.values()) if raw or field != _TYPED[number]):
        raise DamagedError(f"{what} holds numbers of two kinds")
    if raw:
        if len(raw[-1]) != count * dtype.itemsize:
            raise DamagedError(f"{what} of {dtype} {shape} holds {len(raw[-1]):,} bytes instead of {count * dtype.itemsize:,}")
        flat = np.frombuffer(raw[-1], np.uint8) != 0 if dtype == np.bool_ else np.frombuffer(raw[-1], dtype.newbyteorder("<"))
        return name, flat.astype(dtype).reshape(shape)
    values = _typed(message, number, dtype, what)
    if len(values) != count:
        raise DamagedError(f"{what} of shape {shape} holds {len(values):,} numbers instead of {count:,}")
    return name, values.reshape(shape)


def _shape(dims: NDArray[np.int64], what: str) -> tuple[int, ...]:
    shape = tuple(dims.tolist())
    if len(shape) > MOST_DIMENSIONS:
        raise DamagedError(f"{what} has {len(shape)} dimensions")
    if min(shape, default=0) < 0 or math.prod(max(size, 1) for size in shape) > MOST_ELEMENTS:
        raise DamagedError(f"{what} has the shape {shape}")
    return shape


def _typed(message: Message, number: int, dtype: np.dtype[Any], what: str) -> NDArray[Any]:
    field = _TYPED[number]
    if field in (_FLOAT, _DOUBLE):
        return message.floats(field, np.float32 if field == _FLOAT else np.float64)
    wide = message.wholes(field)
    if dtype == np.uint64:
        return wide.view(np.uint64)
    stored = np.dtype(np.uint16) if dtype == np.float16 else np.dtype(np.uint8) if dtype == np.bool_ else dtype
    limits = np.iinfo(stored)
    if len(wide) and (wide.min() < limits.min or wide.max() > limits.max):
        raise DamagedError(f"{what} of {dtype} holds {int(wide.min())} … {int(wide.max())}")
    narrow = wide.astype(stored)
    return narrow.view(np.float16) if dtype == np.float16 else narrow.astype(dtype)

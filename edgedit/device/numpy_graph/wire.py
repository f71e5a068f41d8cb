"""Protobuf's wire format, as much as ONNX files need and strict about it (protobuf.dev/programming-guides/encoding).

Nothing here allocates more than a small multiple of the bytes it was given.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_SIZES = {FIXED64: 8, FIXED32: 4}
_NAMES = {VARINT: "a varint", FIXED64: "8 bytes", BYTES: "a length and bytes", FIXED32: "4 bytes"}
_LAST_FIELD = (1 << 29) - 1
_LONGEST = 10
"""Bytes of the longest varint, which holds 64 bits."""


class DamagedError(ValueError):
    """The bytes are not what the format says; the text tells what was seen."""


def read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """The unsigned number (< 2^64) at `at`, and the place behind it."""
    value = 0
    for i in range(_LONGEST):
        if at + i >= len(data):
            raise DamagedError("the bytes end inside a number")
        byte = data[at + i]
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            if value >= 1 << 64:
                raise DamagedError("a number of more than 64 bits")
            return value, at + i + 1
    raise DamagedError(f"a number of more than {_LONGEST} bytes")


def unpack_varints(data: memoryview) -> NDArray[np.int64]:
    """All numbers of a packed field, as signed 64 bits."""
    octets = np.frombuffer(data, np.uint8)
    if not len(octets):
        return np.zeros(0, np.int64)
    ends = np.flatnonzero(octets < 128)
    if not len(ends) or ends[-1] != len(octets) - 1:
        raise DamagedError("the bytes end inside a number")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST or (octets[ends[lengths == _LONGEST]] > 1).any():
        raise DamagedError("a number of more than 64 bits")
    place = (np.arange(len(octets)) - np.repeat(starts, lengths)).astype(np.uint64)
    parts = (octets & 127).astype(np.uint64) << (place * np.uint64(7))
    return np.add.reduceat(parts, starts).view(np.int64)


def fields(data: memoryview) -> Iterator[tuple[int, int, Any]]:
    """(field number, wire type, value) one after the other: an int of a varint, a view of the bytes of everything else."""
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        number, wire = key >> 3, key & 7
        if not 1 <= number <= _LAST_FIELD:
            raise DamagedError(f"a field of number {number}")
        if wire == VARINT:
            value, at = read_varint(data, at)
            yield number, wire, value
            continue
        if wire == BYTES:
            size, at = read_varint(data, at)
        elif wire in _SIZES:
            size = _SIZES[wire]
        else:
            raise DamagedError(f"field {number} has the wire type {wire}, which no field of ONNX has")
        if size > len(data) - at:
            raise DamagedError(f"field {number} wants {size:,} bytes where {len(data) - at:,} are left")
        yield number, wire, data[at : at + size]
        at += size


class Message:
    """The fields of one message by number. Those that nobody asks for are passed over, as protobuf wants it.

    Args:
        data: its bytes.
        what: its name in errors ("NodeProto").
    """

    def __init__(self, data: memoryview, what: str) -> None:
        self.what = what
        self._fields: dict[int, list[tuple[int, Any]]] = defaultdict(list)
        for number, wire, value in fields(data):
            self._fields[number].append((wire, value))

    def __contains__(self, number: int) -> bool:
        return number in self._fields

    def blobs(self, number: int) -> list[memoryview]:
        """The bytes of each occurrence."""
        return [self._expect(number, wire, value, BYTES) for wire, value in self._fields.get(number, ())]

    def messages(self, number: int, what: str) -> list[Message]:
        """Each occurrence as a message."""
        return [Message(blob, what) for blob in self.blobs(number)]

    def texts(self, number: int) -> list[str]:
        """Each occurrence as UTF-8."""
        try:
            return [bytes(blob).decode() for blob in self.blobs(number)]
        except UnicodeDecodeError as error:
            raise DamagedError(f"field {number} of a {self.what} is not UTF-8") from error

    def text(self, number: int) -> str:
        """The last occurrence as UTF-8; "" where there is none."""
        return (self.texts(number) or [""])[-1]

    def wholes(self, number: int) -> NDArray[np.int64]:
        """Signed numbers, packed or one by one."""
        found: list[NDArray[np.int64]] = []
        single: list[int] = []
        for wire, value in self._fields.get(number, ()):
            if wire == BYTES:
                found += [np.array(single, np.uint64).view(np.int64), unpack_varints(value)]
                single = []
            else:
                single.append(self._expect(number, wire, value, VARINT))
        return np.concatenate([*found, np.array(single, np.uint64).view(np.int64)])

    def whole(self, number: int) -> int:
        """The last occurrence as a signed number; 0 where there is none."""
        values = self._fields.get(number)
        if not values:
            return 0
        value = int(self._expect(number, *values[-1], VARINT))
        return value - (1 << 64) if value >= 1 << 63 else value

    def floats(self, number: int, kind: type[np.floating] = np.float32) -> NDArray[Any]:
        """float32 or float64 numbers, packed or one by one."""
        dtype = np.dtype(kind).newbyteorder("<")
        parts = []
        for wire, value in self._fields.get(number, ()):
            if wire != BYTES:
                self._expect(number, wire, value, FIXED32 if dtype.itemsize == 4 else FIXED64)
            elif len(value) % dtype.itemsize:
                raise DamagedError(f"field {number} of a {self.what} holds {len(value):,} bytes, no multiple of {dtype.itemsize}")
            parts.append(np.frombuffer(value, dtype))
        return np.concatenate([*parts, np.zeros(0, dtype)]).astype(kind)

    def _expect(self, number: int, wire: int, value: Any, wanted: int) -> Any:
        if wire != wanted:
            raise DamagedError(f"field {number} of a {self.what} is {_NAMES[wire]}, where {_NAMES[wanted]} is wanted")
        return value

"""Tensors inside a plain pickle, read without torch's unpickler.

When Python's pickle meets a tensor, torch writes its storage as the bytes of a nested `torch.save` in the old format: five
pickles (magic number, version, the machine's facts, a reference to the storage, a list of keys), then the storage's length and
content. Python would call `torch.storage._load_from_bytes` on them, which unpickles whatever they hold; even
`torch.load(weights_only=True)` could be made to run code before torch 2.6 (CVE-2025-32434). So the five pickles are carried
out by `pickle_machine` as well, and every size is compared with the bytes that are there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgedit.teach.pickle_machine import Name, Refused, Rules, brief, run

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_INSTRUCTIONS = 200  # of one of the five pickles; torch writes about 30
_DTYPES = {"torch FloatStorage": "<f4", "torch DoubleStorage": "<f8", "torch HalfStorage": "<f2", "torch LongStorage": "<i8",
           "torch IntStorage": "<i4", "torch ByteStorage": "|u1", "torch BoolStorage": "|b1"}


@dataclass(frozen=True)
class Storage:
    """Numbers of one type in a row, as the file holds them."""

    dtype: np.dtype[Any]
    content: memoryview

    @property
    def count(self) -> int:
        return len(self.content) // self.dtype.itemsize


@dataclass(frozen=True)
class StoredTensor:
    """A view of a storage: shape and strides in numbers, checked to lie inside it and to name no number twice."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's own numbers."""
        return math.prod(self.shape) * self.storage.dtype.itemsize

    def read(self) -> Tensor:
        """The numbers, contiguous and in memory of their own."""
        row = np.frombuffer(self.storage.content, self.storage.dtype)
        size = self.storage.dtype.itemsize
        view = np.lib.stride_tricks.as_strided(row[self.offset:], self.shape, [n * size for n in self.strides], writeable=False)
        return torch.from_numpy(np.array(view, order="C"))


def read_storage(data: bytes) -> Storage:
    """Read the bytes of a storage that torch pickled.

    Raises:
        Refused: it holds something else than one storage of plain numbers, or lies about its size.
        ValueError and others of `pickle_machine.run`: truncated or malformed.
    """
    if data[:2] == b"PK":
        raise Refused("a nested torch.save in the zip format, which torch never writes for a pickled storage")
    stream, plain = BytesIO(data), Rules()
    head = [run(stream, plain, _INSTRUCTIONS) for _ in range(3)]
    if head[:2] != [_MAGIC, _VERSION] or not isinstance(head[2], dict) or head[2].get("little_endian") is not True:
        raise Refused("a nested file that is no little-endian torch.save")
    reference = run(stream, _StorageRules(), _INSTRUCTIONS)
    names = run(stream, plain, _INSTRUCTIONS)
    if not isinstance(reference, _Reference) or not isinstance(names, list) or names != [reference.key]:
        raise Refused("a nested torch.save of something else than one storage")
    rest = memoryview(data)[stream.tell():]
    content, dtype = rest[8:], np.dtype(_DTYPES[reference.kind])
    count = int.from_bytes(rest[:8], "little", signed=True)
    if len(rest) < 8 or count != reference.count or count * dtype.itemsize != len(content):
        raise Refused(f"a storage that declares {reference.count} and {count} numbers of {dtype.itemsize} bytes "
                      f"and holds {len(content)} bytes")
    return Storage(dtype, content)


def view(storage: Any, offset: Any, shape: Any, strides: Any) -> StoredTensor:
    """A tensor over a storage; Refused if it reaches outside, overlaps itself, or is no tensor at all."""
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise Refused(f"a tensor made of {brief(storage)}, {brief(shape)} and {brief(strides)}")
    if len(shape) != len(strides) or len(shape) > 8 or not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)):
        raise Refused("a tensor with impossible sizes")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) if 0 not in shape else offset - 1
    reach = 1
    for step, n in sorted((step, n) for n, step in zip(shape, strides, strict=True) if n != 1):
        if step < reach and 0 not in shape:
            raise Refused(f"a tensor of shape {shape} with strides {strides}, which overlaps itself")
        reach = step * (n - 1) + reach
    if last >= storage.count or offset > storage.count:
        raise Refused(f"a tensor of shape {shape}, strides {strides} and offset {offset} in a storage of {storage.count} numbers")
    return StoredTensor(storage, offset, shape, strides)


@dataclass(frozen=True)
class _Reference:
    kind: Name
    key: str
    count: int


class _StorageRules(Rules):
    names = frozenset(_DTYPES)

    def persistent(self, key: Any) -> Any:
        """("storage", type, key, location, count, None); the last is not None for views of storages, gone since torch 0.4."""
        if not isinstance(key, tuple) or len(key) != 6 or not isinstance(key[0], str) or key[0] != "storage" or key[5] is not None:
            return super().persistent(key)
        _, kind, name, _, count, _ = key
        if not isinstance(kind, Name) or type(name) is not str or type(count) is not int or count < 0:
            return super().persistent(key)
        return _Reference(kind, name, count)

"""Numbers out of a pickle file without running it: plain values and numpy's arrays, as CIFAR's batches hold them.

The instructions are carried out by `pickle_machine`, which imports and calls nothing. Of the calls only numpy's two (an empty
array, a number type) are understood, as descriptions. Everything else is refused by name.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedit.teach.pickle_machine import Name, Refused, Rules, reading, run, text

DTYPE = "numpy dtype"
_RECONSTRUCT = frozenset({"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"})
_NDARRAY = "numpy ndarray"
_NUMBERS = frozenset({"u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8"})


class Dtype:
    """A number type that the file describes: numpy's code, and the byte order from its state."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "<"

    @property
    def numpy(self) -> np.dtype[Any]:
        """As numpy's own; files without an order were written on little-endian machines."""
        return np.dtype(("<" if self.order in "|=" else self.order) + self.code)


class _Array:
    def __init__(self) -> None:
        self.value: NDArray[Any] | None = None


class NumpyRules(Rules):
    """What numpy's arrays and number types look like in a pickle."""

    names = frozenset({*_RECONSTRUCT, _NDARRAY, DTYPE})

    def call(self, name: Name, args: tuple[Any, ...]) -> Any:
        if name in _RECONSTRUCT and len(args) > 1 and isinstance(args[0], Name) and args[0] == _NDARRAY and args[1] == (0,):
            return _Array()
        if name == DTYPE and args and text(args[0]) in _NUMBERS:
            return Dtype(text(args[0]))
        return super().call(name, args)

    def build(self, target: Any, state: Any) -> None:
        """Numpy's own pickle states: dtype (version, byte order, …), array (version, shape, dtype, Fortran order, bytes)."""
        if isinstance(target, Dtype) and isinstance(state, tuple) and len(state) >= 2:
            target.order = text(state[1])
            if target.order not in ("<", ">", "|", "="):
                raise Refused(f"byte order {target.order[:20]!r}")
        elif isinstance(target, _Array) and isinstance(state, tuple) and len(state) == 5:
            _, shape, kind, fortran, raw = state
            if not isinstance(kind, Dtype) or not isinstance(raw, bytes):
                raise Refused("an array of something else than numbers")
            if not isinstance(shape, tuple) or len(shape) > 8 or not all(type(n) is int and n >= 0 for n in shape):
                raise ValueError("an array with an impossible shape")
            if math.prod(shape) * kind.numpy.itemsize != len(raw):
                raise ValueError(f"an array of shape {shape} and type {kind.numpy} with {len(raw)} bytes")
            target.value = np.frombuffer(raw, kind.numpy).reshape(shape, order="F" if fortran else "C")
        else:
            super().build(target, state)


def read_pickle(data: bytes, name: str) -> dict[str, Any]:
    """Read a pickled dictionary of numbers, texts, lists and numpy arrays (protocols 0 to 4, Python 2's included).

    Args:
        data: the file's bytes.
        name: what to call the file in an error.

    Returns:
        Key → value; byte-string keys become text, arrays are numpy arrays of their own memory.

    Raises:
        ArtifactError: truncated or malformed, an instruction or call outside the list above, or no dictionary at the end.
    """
    with reading(name, "numbers"):
        top = run(data, NumpyRules())
        if not isinstance(top, dict):
            raise ValueError(f"a {type(top).__name__} where a dictionary is needed")
        return {text(key): _finished(value) for key, value in top.items()}


def _finished(value: Any) -> Any:
    if isinstance(value, _Array):
        if value.value is None:
            raise ValueError("an array without content")
        return value.value
    if isinstance(value, (Name, Dtype)):
        raise Refused("a bare class where a value is needed")
    return value

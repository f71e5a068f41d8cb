"""Numbers out of a pickle file without running it.

A pickle is a program for a small stack machine. Two of its instructions can call any Python function, which is how a data
file takes over a computer. Here nothing is imported and nothing is called: the standard library's `pickletools.genops` cuts
the bytes into instructions, the few that build plain values are carried out, and of the calls only numpy's two (an empty
array, a number type) are understood, as descriptions. Everything else is refused by name.
"""

from __future__ import annotations

import math
import pickletools
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedit.core.errors import ArtifactError

_RECONSTRUCT = frozenset({"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"})
_NDARRAY, _DTYPE = "numpy ndarray", "numpy dtype"
_GLOBALS = frozenset({*_RECONSTRUCT, _NDARRAY, _DTYPE})
_NUMBERS = frozenset({"u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8"})
_VALUES = frozenset({"INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE",
                     "SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"})
_BYTES = frozenset({"STRING", "BINSTRING", "SHORT_BINSTRING"})  # Python 2's str
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NOTHING = frozenset({"PROTO", "FRAME"})


class _Refused(ValueError):
    """An instruction or call that a file of numbers has no need for."""


class _Global(str):
    """The name of something the file wants imported; only ever compared."""


class _Dtype:
    def __init__(self, code: str) -> None:
        self.code, self.order = code, "<"


class _Array:
    def __init__(self) -> None:
        self.value: NDArray[Any] | None = None


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
    try:
        top = _run(data)
        if not isinstance(top, dict):
            raise ValueError(f"a {type(top).__name__} where a dictionary is needed")
        return {_text(key): _finished(value) for key, value in top.items()}
    except _Refused as error:
        raise ArtifactError(f"{name} is refused: it asks for more than reading numbers", saw=error,
                            fix="do not open it with other tools; fetch the file again from where it is published") from None
    except (ValueError, TypeError, LookupError, AttributeError, struct.error, OverflowError, EOFError) as error:
        raise ArtifactError(f"{name} cannot be read as a pickle of numbers", saw=f"{type(error).__name__}: {str(error)[:200]}",
                            fix="the file is truncated or of another kind; fetch it again") from error


def _run(data: bytes) -> Any:
    """Carry out the instructions; the value on top of the stack at STOP."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    arg: Any
    for op, arg, _ in pickletools.genops(data):
        code = op.name
        if code in _VALUES:
            stack.append(arg)
        elif code in _BYTES:
            stack.append(arg.encode("latin-1"))
        elif code in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[int(arg)] = stack[-1]
        elif code == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif code in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[int(arg)])
        elif code in _CONSTANTS:
            stack.append(_CONSTANTS[code])
        elif code == "MARK":
            marks.append(len(stack))
        elif code == "EMPTY_LIST":
            stack.append([])
        elif code == "EMPTY_DICT":
            stack.append({})
        elif code in _TUPLES:
            stack.append(tuple(_pop(stack, len(stack) - _TUPLES[code])))
        elif code == "TUPLE":
            stack.append(tuple(_pop(stack, marks.pop())))
        elif code == "LIST":
            stack.append(_pop(stack, marks.pop()))
        elif code == "DICT":
            items = _pop(stack, marks.pop())
            stack.append(dict(zip(items[::2], items[1::2], strict=True)))
        elif code == "APPEND":
            item = stack.pop()
            _top(stack, list).append(item)
        elif code == "APPENDS":
            items = _pop(stack, marks.pop())
            _top(stack, list).extend(items)
        elif code in ("SETITEM", "SETITEMS"):
            items = _pop(stack, len(stack) - 2 if code == "SETITEM" else marks.pop())
            _top(stack, dict).update(zip(items[::2], items[1::2], strict=True))
        elif code in ("GLOBAL", "STACK_GLOBAL"):
            stack.append(_allowed(arg if code == "GLOBAL" else " ".join(map(_text, _pop(stack, len(stack) - 2)))))
        elif code == "REDUCE":
            called, args = _pop(stack, len(stack) - 2)
            stack.append(_call(called, args))
        elif code == "BUILD":
            state = stack.pop()
            _build(stack[-1], state)
        elif code == "STOP":
            return stack.pop()
        elif code not in _NOTHING:
            raise _Refused(f"instruction {code}")
    raise ValueError("no end")


def _pop(stack: list[Any], start: int) -> list[Any]:
    if not 0 <= start <= len(stack):
        raise ValueError("the stack runs empty")
    items = stack[start:]
    del stack[start:]
    return items


def _top(stack: list[Any], kind: type) -> Any:
    if not isinstance(stack[-1], kind):
        raise ValueError(f"a {type(stack[-1]).__name__} where a {kind.__name__} is needed")
    return stack[-1]


def _allowed(name: str) -> _Global:
    if name not in _GLOBALS:
        raise _Refused(f"it wants '{name.replace(' ', '.')}' imported")
    return _Global(name)


def _call(called: Any, args: Any) -> _Array | _Dtype:
    if isinstance(called, _Global) and isinstance(args, tuple):
        if called in _RECONSTRUCT and args[:2] == (_NDARRAY, (0,)) and isinstance(args[0], _Global):
            return _Array()
        if called == _DTYPE and args and _text(args[0]) in _NUMBERS:
            return _Dtype(_text(args[0]))
    raise _Refused(f"a call of {str(called)[:80]!r} with {str(args)[:80]}")


def _build(target: Any, state: Any) -> None:
    """Numpy's own pickle states: dtype (version, byte order, …), array (version, shape, dtype, Fortran order, bytes)."""
    if isinstance(target, _Dtype) and isinstance(state, tuple) and len(state) >= 2:
        target.order = _text(state[1])
        if target.order not in ("<", ">", "|", "="):
            raise _Refused(f"byte order {target.order!r}")
    elif isinstance(target, _Array) and isinstance(state, tuple) and len(state) == 5:
        _, shape, kind, fortran, raw = state
        if not isinstance(kind, _Dtype) or not isinstance(raw, bytes):
            raise _Refused("an array of something else than numbers")
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError("an array with an impossible shape")
        dtype = np.dtype(("<" if kind.order in "|=" else kind.order) + kind.code)
        if math.prod(shape) * dtype.itemsize != len(raw):
            raise ValueError(f"an array of shape {shape} and type {dtype} with {len(raw)} bytes")
        target.value = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
    else:
        raise _Refused(f"a state for a {type(target).__name__}")


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return str(value)
    raise ValueError(f"a {type(value).__name__} where a name is needed")


def _finished(value: Any) -> Any:
    if isinstance(value, _Array):
        if value.value is None:
            raise ValueError("an array without content")
        return value.value
    if isinstance(value, (_Global, _Dtype)):
        raise _Refused("a bare class where a value is needed")
    return value

"""A pickle's instructions, carried out without importing or calling anything.

A pickle is a program for a small stack machine. Some of its instructions import and call any Python function, which is how a
data file takes over a computer. Here the standard library's `pickletools.genops` cuts the bytes into instructions and the few
that build plain values are carried out. A name that the file wants imported stays a text, and what a call of it stands for is
decided by a reader's `Rules`, as a description. Everything else is refused by name.

What a file can cost is bounded: instructions are counted, keys and numbers are small, and no error text walks into a value.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from edgedit.core.errors import ArtifactError

INSTRUCTIONS = 1_000_000
"""Most instructions of one pickle; EDM's network for CIFAR-10 needs about 50,000."""

_NUMBERS = frozenset({"INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4"})
_VALUES = frozenset({"FLOAT", "BINFLOAT", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES",
                     "BINBYTES8"})
_BYTES = frozenset({"STRING", "BINSTRING", "SHORT_BINSTRING"})  # Python 2's str
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NOTHING = frozenset({"PROTO", "FRAME"})


class Refused(ValueError):
    """An instruction, name or call that a file of numbers has no need for."""


class Name(str):
    """ "module name" of something the file wants imported; only ever compared."""


class Rules:
    """What a file may ask for beyond plain values. This one: nothing; readers say what they understand.

    Attributes:
        names: the "module name" pairs that the file may mention.
    """

    names: frozenset[str] = frozenset()

    def call(self, name: Name, args: tuple[Any, ...]) -> Any:
        """What a call (or a new object of a class) stands for."""
        raise Refused(f"a call of '{dotted(name)}' with {', '.join(map(brief, args[:4])) or 'nothing'}")

    def build(self, target: Any, state: Any) -> None:
        """Give a description its state."""
        raise Refused(f"a state for {brief(target)}")

    def persistent(self, key: Any) -> Any:
        """What a reference to something outside the pickle stands for."""
        raise Refused(f"something outside the pickle ({brief(key)})")


@contextmanager
def reading(name: str, what: str) -> Iterator[None]:
    """Tell every way in which a foreign pickle can be wrong as ArtifactError: `name` "is refused" or "cannot be read"."""
    try:
        yield
    except Refused as error:
        raise ArtifactError(f"{name} is refused: it asks for more than reading {what}", saw=error,
                            fix="do not open it with other tools; fetch the file again from where it is published") from None
    except (ValueError, TypeError, LookupError, AttributeError, struct.error, OverflowError, EOFError, MemoryError) as error:
        raise ArtifactError(f"{name} cannot be read as a pickle of {what}", saw=f"{type(error).__name__}: {str(error)[:200]}",
                            fix="the file is truncated or of another kind; fetch it again") from error


def run(pickle: bytes | BytesIO, rules: Rules, limit: int = INSTRUCTIONS) -> Any:
    """Carry out one pickle; the value on top of the stack at its end. A stream is left just behind it.

    Raises:
        Refused: an instruction, name or call outside the rules.
        ValueError, TypeError, LookupError … : truncated or malformed (`reading` turns all of them into ArtifactError).
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    arg: Any
    for count, (op, arg, _) in enumerate(pickletools.genops(pickle)):
        code = op.name
        if count >= limit:
            raise Refused(f"more than {limit:,} instructions")
        if code in _VALUES:
            stack.append(arg)
        elif code in _NUMBERS:
            if arg.bit_length() > 128:
                raise ValueError("a number of more than 128 bits")
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
        elif code == "EMPTY_SET":
            stack.append(set())
        elif code in _TUPLES:
            stack.append(tuple(_pop(stack, len(stack) - _TUPLES[code])))
        elif code == "TUPLE":
            stack.append(tuple(_pop(stack, marks.pop())))
        elif code == "LIST":
            stack.append(_pop(stack, marks.pop()))
        elif code == "DICT":
            items = _pop(stack, marks.pop())
            stack.append(dict(zip(keys(items[::2]), items[1::2], strict=True)))
        elif code == "APPEND":
            item = stack.pop()
            _top(stack, list).append(item)
        elif code == "APPENDS":
            items = _pop(stack, marks.pop())
            _top(stack, list).extend(items)
        elif code in ("SETITEM", "SETITEMS"):
            items = _pop(stack, len(stack) - 2 if code == "SETITEM" else marks.pop())
            _top(stack, dict).update(zip(keys(items[::2]), items[1::2], strict=True))
        elif code == "ADDITEMS":
            items = _pop(stack, marks.pop())
            _top(stack, set).update(keys(items))
        elif code in ("GLOBAL", "STACK_GLOBAL"):
            stack.append(_allowed(arg if code == "GLOBAL" else " ".join(map(text, _pop(stack, len(stack) - 2))), rules))
        elif code in ("REDUCE", "NEWOBJ"):
            called, args = _pop(stack, len(stack) - 2)
            if not isinstance(called, Name) or not isinstance(args, tuple):
                raise Refused(f"a call of {brief(called)} with {brief(args)}")
            stack.append(rules.call(called, args))
        elif code == "BUILD":
            state = stack.pop()
            rules.build(stack[-1], state)
        elif code == "BINPERSID":
            stack.append(rules.persistent(stack.pop()))
        elif code == "STOP":
            return stack.pop()
        elif code not in _NOTHING:
            raise Refused(f"instruction {code}")
    raise ValueError("no end")


def _pop(stack: list[Any], start: int) -> list[Any]:
    if not 0 <= start <= len(stack):
        raise ValueError("the stack runs empty")
    items = stack[start:]
    del stack[start:]
    return items


def _top(stack: list[Any], kind: type) -> Any:
    if not isinstance(stack[-1], kind):
        raise ValueError(f"{brief(stack[-1])} where a {kind.__name__} is needed")
    return stack[-1]


def _allowed(name: str, rules: Rules) -> Name:
    if name not in rules.names:
        raise Refused(f"it wants '{dotted(name)}' imported")
    return Name(name)


def keys(values: list[Any]) -> list[Any]:
    """The values, if all may be keys: texts and small whole numbers. Hashing others (deep tuples) can take the process down."""
    for value in values:
        if type(value) not in (str, bytes, bool, type(None)) and not (type(value) is int and abs(value) < 1 << 32):
            raise ValueError(f"{brief(value)} as a key")
    return values


def text(value: Any) -> str:
    """A name as text; Python 2 wrote names as bytes."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return str(value)
    raise ValueError(f"{brief(value)} where a name is needed")


def dotted(name: str) -> str:
    """ "module name" as Python writes it, short and without what a terminal would obey."""
    return ascii(name[:120].replace(" ", "."))[1:-1]


def brief(value: Any) -> str:
    """A few words for any value, without walking into it: values of a hostile file can be deep, cyclic or vast."""
    if isinstance(value, Name):
        return f"'{dotted(value)}'"
    if isinstance(value, (str, bytes)):
        return ascii(value[:60])
    if value is None or isinstance(value, (bool, int, float)):
        return str(value)
    return f"a {type(value).__name__}"

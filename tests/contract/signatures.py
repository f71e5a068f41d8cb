"""Signatures out of the docstrings that pybind11 writes: the only place where an extension says what it takes.

Forms: "name(self: T, a: int, b: str = None) -> R"; "name(*args, **kwargs)\\nOverloaded function.\\n\\n1. name(…) -> R\\n\\n…";
and, for the two halves of a property, "(arg0: T) -> R". Types are pybind11's words: Python types, `buffer`, `handle`,
`typing.SupportsInt`, classes with their module in front, and C++ names where a class was not yet known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_OPEN, _CLOSE = "([{", ")]}"
_UNNAMED = re.compile(r"arg\d+")
_NUMBERED = re.compile(r"^(\d+)\. ", re.MULTILINE)


class SignatureTextError(ValueError):
    """A docstring does not begin with a signature."""


@dataclass(frozen=True)
class Parameter:
    """One parameter; `default` is pybind11's text of it, None where there is none; kind: "plain", "*" or "**"."""

    name: str
    type: str = "object"
    default: str | None = None
    kind: str = "plain"

    def __str__(self) -> str:
        if self.kind != "plain":
            return self.kind + self.name
        return f"{self.name}: {self.type}" + (f" = {self.default}" if self.default is not None else "")


@dataclass(frozen=True)
class Signature:
    """One overload. `keyword_from` is the index of the first keyword-only parameter; `doc` is the text below the signature."""

    name: str
    parameters: tuple[Parameter, ...]
    returns: str = "object"
    doc: str = ""
    keyword_from: int | None = None
    positional_to: int = 0

    def __str__(self) -> str:
        parts = [str(p) for p in self.parameters]
        if self.keyword_from is not None:
            parts.insert(self.keyword_from, "*")
        if self.positional_to:
            parts.insert(self.positional_to, "/")
        return f"{self.name}({', '.join(parts)}) -> {self.returns}"

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
        """The given values by parameter, defaults left out; None where names or numbers of arguments do not fit."""
        plain = [p for p in self.parameters if p.kind == "plain"]
        by_place = plain if self.keyword_from is None else plain[: self.keyword_from]
        if len(args) > len(by_place) and not any(p.kind == "*" for p in self.parameters):
            return None
        bound = {p.name: value for p, value in zip(by_place, args, strict=False)}
        names = {p.name for p in plain[self.positional_to :] if not _UNNAMED.fullmatch(p.name)}
        for name, value in kwargs.items():
            if name in bound or (name not in names and not any(p.kind == "**" for p in self.parameters)):
                return None
            bound[name] = value
        return None if any(p.default is None and p.name not in bound for p in plain) else bound


def parse(doc: str | None, name: str | None = None) -> tuple[Signature, ...]:
    """Every overload that a docstring states.

    Args:
        doc: the docstring.
        name: what the function must be called; None takes any.

    Raises:
        SignatureTextError: the text does not begin with a signature (of that name).
    """
    text = (doc or "").strip()
    head = text.split("\n", 1)
    if len(head) == 2 and head[1].lstrip().startswith("Overloaded function."):
        own = head[0].split("(", 1)[0]
        if name is not None and own != name:
            raise SignatureTextError(f"'{own}' where '{name}' was expected")
        return tuple(_parse_one(part, own) for part in _numbered(head[1], own))
    return (_parse_one(text, name),)


def _numbered(text: str, name: str) -> Iterator[str]:
    """The parts "1. name(…", "2. name(…" of an overloaded docstring, without their numbers, in order."""
    starts, wanted = [], 1
    for match in _NUMBERED.finditer(text):
        if int(match[1]) == wanted and text.startswith(name + "(", match.end()):
            starts.append((match.start(), match.end()))
            wanted += 1
    if not starts:
        raise SignatureTextError(f"'{name}' says it is overloaded and lists nothing")
    ends = [start for start, _ in starts[1:]] + [len(text)]
    for (_, begin), end in zip(starts, ends, strict=True):
        yield text[begin:end].strip()


def _parse_one(text: str, name: str | None) -> Signature:
    match = re.match(r"([A-Za-z_]\w*)?\(", text)
    if not match or (name is not None and match[1] not in (name, None)):
        raise SignatureTextError(f"no signature of '{name or 'a function'}' in '{text[:80]}'")
    close = _matching(text, match.end() - 1)
    parameters: list[Parameter] = []
    keyword_from: int | None = None
    positional_to = 0
    for part in _split(text[match.end() : close], ","):
        if part == "*":
            keyword_from = len(parameters)
        elif part == "/":
            positional_to = len(parameters)
        elif part:
            parameters.append(_parameter(part))
    rest = text[close + 1 :]
    first, _, doc = rest.partition("\n")
    returns = first.strip().removeprefix("->").strip() if first.strip().startswith("->") else "object"
    return Signature(match[1] or name or "", tuple(parameters), returns, doc.strip(), keyword_from, positional_to)


def _parameter(text: str) -> Parameter:
    for stars in ("**", "*"):
        if text.startswith(stars):
            return Parameter(text[len(stars) :].split(":")[0].strip(), kind=stars)
    declared, *default = _split(text, "=", most=1)
    name, *kind = _split(declared, ":", most=1)
    if not name.isidentifier():
        raise SignatureTextError(f"'{text}' is no parameter")
    return Parameter(name, kind[0] if kind else "object", default[0] if default else None)


def split_type(text: str, separator: str) -> list[str]:
    """Split at a separator that is not inside brackets: "int | list[str | int]" at "|" → ["int", "list[str | int]"]."""
    return _split(text, separator)


def _split(text: str, separator: str, most: int = -1) -> list[str]:
    """Split at separators outside brackets, quotes and <object texts>; "::" is no ":"."""
    parts, start = [], 0
    for i in _outside(text):
        if most == len(parts):
            break
        if text[i] == separator and not (separator == ":" and ":" in (text[i - 1 : i], text[i + 1 : i + 2])):
            parts.append(text[start:i].strip())
            start = i + 1
    last = text[start:].strip()
    return [*parts, last] if last or parts else []


def _matching(text: str, opening: int) -> int:
    """Index of the bracket that closes the one at `opening`."""
    for i in _outside(text[opening + 1 :]):
        if text[opening + 1 + i] == ")":
            return opening + 1 + i
    raise SignatureTextError(f"brackets do not close in '{text[:80]}'")


def _outside(text: str) -> Iterator[int]:
    """Indices of characters outside brackets, quotes and <…>, a bracket that closes none included."""
    depth, quote, i = 0, "", 0
    while i < len(text):
        c = text[i]
        if quote:
            i += c == "\\"
            quote = "" if c == quote else quote
        elif c in "'\"":
            quote = c
        elif c in _OPEN or (c == "<" and text[i - 1 : i + 1] != "<<"):
            depth += 1
        elif depth and (c in _CLOSE or (c == ">" and text[i - 1 : i] != "-")):
            depth -= 1
        elif not depth:
            yield i
        i += 1

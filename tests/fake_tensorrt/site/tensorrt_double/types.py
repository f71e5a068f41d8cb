"""Does a value fit what a pybind11 signature calls a type? pybind11's own conversion rules, as far as TensorRT uses them.

Integers: anything with __index__, never a float. Classes: instances, and None only where it is the default. `Dims` also takes
lists and tuples of integers, `Permutation` too, `Weights` an array (implicit conversions that the bindings register). Enums:
members only, never their numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from tensorrt_double.signatures import Signature, split_type

_ANYTHING = {"object", "handle", "Any", "typing.Any", "capsule", "typing_extensions.CapsuleType", "types.CapsuleType", "function"}
_INTEGERS = {"int", "typing.SupportsInt", "typing.SupportsIndex", "SupportsInt", "SupportsIndex"}
_FLOATS = {"float", "typing.SupportsFloat", "SupportsFloat"}
_BUFFERS = {"buffer", "Buffer", "typing_extensions.Buffer", "collections.abc.Buffer"}
_LISTS = ("List", "list", "Sequence", "collections.abc.Sequence", "typing.Sequence")


class Types:
    """Checks values against the signatures of one version's module, with doubles in place of some of its classes."""

    def __init__(self, real: ModuleType, doubles: Mapping[str, type]) -> None:
        self.real, self.doubles = real, doubles

    def check(self, name: str, kind: str, overloads: Sequence[Signature], args: Sequence[Any], kwargs: Mapping[str, Any],
              owner: Any) -> None:
        """TypeError in pybind11's words unless the arguments fit one overload."""
        for overload in overloads:
            bound = overload.bind(args, kwargs)
            if bound is not None and all(self.accepts(p.type, bound[p.name], p.default) for p in overload.parameters
                                         if p.name in bound):
                return
        listed = "\n".join(f"    {i}. {overload}" for i, overload in enumerate(overloads, 1))
        given = ", ".join([repr(a) for a in args] + [f"{k}={v!r}" for k, v in kwargs.items()])
        raise TypeError(f"{name}: incompatible {kind} arguments. The following argument types are supported:\n{listed}\n\n"
                        f"Invoked with: {type(owner).__name__} object, {given}")

    def accepts(self, text: str, value: Any, default: str | None = None) -> bool:
        """Whether pybind11 would take `value` for a parameter of this type."""
        if value is None and default == "None":
            return True
        return any(self._accepts(part, value) for part in split_type(text, "|"))

    def _accepts(self, text: str, value: Any) -> bool:
        name, inner = _generic(text)
        if text in _ANYTHING or name in ("Callable", "collections.abc.Callable", "typing.Callable"):
            return True
        if name in ("Optional", "typing.Optional"):
            return value is None or self.accepts(inner[0], value)
        if text in ("None", "NoneType"):
            return value is None
        if text in _INTEGERS:
            return hasattr(value, "__index__")
        if text in _FLOATS:
            return isinstance(value, (int, float, np.integer, np.floating))
        if text == "bool":
            return isinstance(value, (bool, np.bool_))
        if text == "str":
            return isinstance(value, (str, bytes))
        if text in _BUFFERS:
            return _is_buffer(value)
        if name in _LISTS:
            return _is_list(value) and all(self.accepts(inner[0], item) for item in value) if inner else _is_list(value)
        if name in ("tuple", "Tuple"):
            return isinstance(value, tuple)
        if name in ("dict", "Dict"):
            return isinstance(value, dict)
        return self._is_instance(text, value)

    def _is_instance(self, text: str, value: Any) -> bool:
        wanted = self.resolve(text)
        if wanted is None:
            return True
        if isinstance(value, wanted):
            return True
        if wanted.__name__ in ("Dims", "Permutation"):
            return _is_list(value) and all(hasattr(item, "__index__") for item in value)
        return wanted.__name__ == "Weights" and isinstance(value, np.ndarray)

    def resolve(self, text: str) -> type | None:
        """The class that a type's text names, or None for one that the module does not show."""
        return _resolve(self, text)

    def is_interface(self, text: str) -> bool:
        """Whether a property of this type can be set to None: a class handed over by pointer, so no enum and no plain value."""
        wanted = self.resolve(text)
        return wanted is not None and not hasattr(wanted, "__members__") and wanted.__name__.startswith("I")


@functools.cache
def _resolve(types: Types, text: str) -> type | None:
    path = text.split("::")[-1] if "::" in text else text.rpartition("tensorrt.")[2]
    for candidate in (path, path.removeprefix("I")):
        found: Any = types.real
        for name in candidate.split("."):
            found = getattr(found, name, None)
        if isinstance(found, type):
            return types.doubles.get(found.__name__, found)
    return None


def _generic(text: str) -> tuple[str, list[str]]:
    """"List[int]" → ("List", ["int"])."""
    if not text.endswith("]") or "[" not in text:
        return text, []
    name, _, inner = text[:-1].partition("[")
    return name, split_type(inner, ",")


def _is_list(value: Any) -> bool:
    return not isinstance(value, (str, bytes)) and hasattr(value, "__len__") and hasattr(value, "__getitem__")


def _is_buffer(value: Any) -> bool:
    try:
        memoryview(value)
    except TypeError:
        return False
    return True

"""Classes that have exactly the names and signatures of pybind11 classes and hand every valid call to a plain object.

`make_classes` gives, for each real class, a class with the same name, bases, methods, properties and nothing else. A call must
fit one of the real overloads in names, number and types of its arguments; reading or setting a name that the real class lacks
raises AttributeError, as with the real one. What is valid but has no behaviour here raises NotImplementedError.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from tensorrt_double.signatures import Signature, SignatureTextError, parse
from tensorrt_double.types import Types

_KEPT = {"__bool__", "__len__", "__getitem__", "__iter__", "__str__", "__repr__", "__eq__", "__enter__", "__exit__"}


class Part:
    """Base of the behaviours: plain objects behind the strict classes. `double` is the strict object in front, made once."""

    strict_class = ""
    _double: Any = None

    @property
    def double(self) -> Any:
        """The object that users see."""
        if self._double is None:
            self._double = classes[self.strict_class]._of(self)
        return self._double

    def set_double(self, double: Any) -> None:
        """For objects that users construct themselves."""
        self._double = double


classes: dict[str, type] = {}
"""The strict classes by name, filled by make_classes."""


def part(double: Any) -> Any:
    """The behaviour behind a strict object; None stays None."""
    return None if double is None else object.__getattribute__(double, "_part")


class Strict:
    """Base of all strict classes: one slot and no way around the real names."""

    __slots__ = ("__weakref__", "_part")

    @classmethod
    def _of(cls, behaviour: Any) -> Any:
        made = object.__new__(cls)
        object.__setattr__(made, "_part", behaviour)
        return made

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__class__":
            self._change_class(value)
        elif not isinstance(inspect.getattr_static(type(self), name, None), property) or name == "_part":
            raise AttributeError(f"'{type(self).__qualname__}' object has no attribute '{name}'")
        else:
            object.__setattr__(self, name, value)

    def _change_class(self, wanted: type) -> None:
        """`layer.__class__ = trt.ISoftMaxLayer`: the bindings' way to cast; here only to what the layer is."""
        fits = part(self).castable(wanted) if hasattr(part(self), "castable") else False
        if not fits:
            raise TypeError(f"a {type(self).__name__} that is no {wanted.__name__} would be read as one: undefined with TensorRT")
        object.__setattr__(self, "__class__", wanted)


def make_classes(real: ModuleType, names: Iterable[str], behaviours: dict[str, Callable[..., Any]]) -> dict[str, type]:
    """Strict classes for the real classes of these names.

    Args:
        real: NVIDIA's module.
        names: real classes to stand in for; those the version lacks are left out.
        behaviours: by class name, what makes the behaviour of an object that users construct.
    """
    types = Types(real, classes)
    wanted = [name for name in names if hasattr(real, name)]
    for name in sorted(wanted, key=lambda n: len(getattr(real, n).__mro__)):
        original = getattr(real, name)
        bases = tuple(classes[b.__name__] for b in original.__bases__ if b.__name__ in wanted) or (Strict,)
        members: dict[str, Any] = {"__slots__": (), "__module__": "tensorrt.tensorrt", "__doc__": original.__doc__}
        for key, value in vars(original).items():
            if key.startswith("_") and key not in _KEPT:
                continue
            if isinstance(value, property):
                members[key] = _property(types, name, key, value)
            elif callable(value):
                members[key] = _method(types, name, key, value)
        members["__init__"] = _constructor(types, name, original, behaviours.get(name))
        classes[name] = type(name, bases, members)
    return classes


def _signatures(function: Any, name: str | None) -> tuple[Signature, ...]:
    """Overloads without `self`; none where the function is Python's own."""
    try:
        found = parse(function.__doc__, name)
    except SignatureTextError:
        return ()
    return tuple(Signature(s.name, s.parameters[1:], s.returns, s.doc, s.keyword_from and s.keyword_from - 1) for s in found)


def _method(types: Types, owner: str, name: str, function: Any) -> Any:
    overloads = _signatures(function, name)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if overloads:
            types.check(f"{name}()", "function", overloads, args, kwargs, self)
        act = getattr(part(self), name, None)
        if act is None:
            raise NotImplementedError(f"the double of TensorRT has no behaviour for {owner}.{name}")
        return act(*args, **kwargs)

    method.__name__, method.__doc__ = name, function.__doc__
    return method


def _property(types: Types, owner: str, name: str, real: property) -> property:
    setters = _signatures(real.fset, None) if real.fset else ()

    def get(self: Any) -> Any:
        if real.fget is None:
            raise AttributeError(f"unreadable attribute '{name}'")
        try:
            return getattr(part(self), name)
        except AttributeError as error:
            raise NotImplementedError(f"the double of TensorRT has no behaviour for {owner}.{name}") from error

    def put(self: Any, value: Any) -> None:
        if not (value is None and setters and types.is_interface(setters[0].parameters[0].type)):
            types.check("()", "function", setters, (value,), {}, self)
        setattr(part(self), name, value)

    return property(get, put if real.fset else None, doc=real.__doc__)


def _constructor(types: Types, name: str, original: type, behaviour: Callable[..., Any] | None) -> Any:
    overloads = _signatures(original.__init__, "__init__")

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if not overloads:
            raise TypeError(f"tensorrt.tensorrt.{name}: No constructor defined!")
        types.check("__init__()", "constructor", overloads, args, kwargs, self)
        if behaviour is None:
            raise NotImplementedError(f"the double of TensorRT makes no {name}")
        made = behaviour(*args, **kwargs)
        object.__setattr__(self, "_part", made)
        made.set_double(self)

    return __init__

"""Type stubs of a pybind11 module, written from the docstrings of the module itself, for mypy to check calls against.

What is stricter than pybind11 says: classes are not None unless that is the default (pybind11 does not tell), integers must
have __index__, `Dims` takes sequences of integers. Functions whose failure is documented or known to be None return
Optional: the caller has to look.
"""

from __future__ import annotations

import contextlib
import inspect
import keyword
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from tests.contract.signatures import Parameter, Signature, SignatureTextError, parse, split_type

OPTIONAL = {("Runtime", "deserialize_cuda_engine"), ("Builder", "build_serialized_network"),
            ("ICudaEngine", "create_execution_context"), ("IBuilderConfig", "create_timing_cache"), ("IBuilderConfig", "get_timing_cache"),
            ("INetworkDefinition", "add_attention"), ("INetworkDefinition", "add_attention_v2")}
"""Null on failure: deserialisation of a foreign plan, a build that fails, no memory for a context, a foreign timing cache."""

HEAD = '''# mypy: ignore-errors
import builtins as _b
import collections.abc as _c
from typing import Any, ClassVar, SupportsIndex, overload
from typing_extensions import Buffer

__version__: _b.str
'''
_SIMPLE = {"str": "_b.str", "bool": "_b.bool", "bytes": "_b.bytes", "None": "None", "float": "_b.float", "typing.SupportsFloat": "_b.float",
           "buffer": "Buffer", "typing_extensions.Buffer": "Buffer", "tuple": "_b.tuple[Any, ...]", "list": "_b.list[Any]"}
_INTEGERS = {"int", "typing.SupportsInt", "typing.SupportsIndex"}


class Stubs:
    """Writes the stub of one module."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.classes = {name for name, value in vars(module).items() if inspect.isclass(value)}

    def text(self) -> str:
        """The whole `__init__.pyi`."""
        parts = [HEAD]
        for name, value in vars(self.module).items():
            if name.startswith("_") or inspect.ismodule(value):
                continue
            if inspect.isclass(value):
                parts.append("\n".join(self.class_lines(name, value)))
            elif hasattr(type(value), "__members__"):
                parts.append(f"{name}: {type(value).__qualname__}")
            elif callable(value):
                parts.append("\n".join(self.function_lines(name, value)))
            else:
                parts.append(f"{name}: Any")
        return "\n".join(parts) + "\n"

    # --- classes ------------------------------------------------------------------------------------------------------------

    def class_lines(self, name: str, cls: type) -> Iterator[str]:
        """One class, nested ones inside."""
        bases = [base.__name__ for base in cls.__bases__ if base.__name__ in self.classes and base.__name__ != name]
        yield f"class {name}({', '.join(bases)}):" if bases else f"class {name}:"
        members = getattr(cls, "__members__", None)
        if members is not None:
            yield from self._enum_lines(cls, members)
            return
        yield "    ..."
        called_back = self._is_interface(name, cls)
        for key, value in vars(cls).items():
            if inspect.isclass(value) and not key.startswith("_"):
                yield from ("    " + line for part in self.class_lines(key, value) for line in part.split("\n"))
            elif isinstance(value, property):
                yield from self._property_lines(key, value)
            elif hasattr(type(value), "__members__"):
                yield f"    {key}: ClassVar[{type(value).__qualname__}]"
            elif callable(value) and (not key.startswith("_") or key in ("__init__", "__getitem__", "__len__", "__setitem__")):
                yield from ("    " + line for line in self.function_lines(key, value, name, called_back))
        if "__getitem__" in vars(cls) and "__iter__" not in vars(cls):  # Python iterates by index; mypy wants it said
            item = next((s.returns for s in parse(vars(cls)["__getitem__"].__doc__) if s.parameters[1].type in _INTEGERS), "object")
            yield f"    def __iter__(self) -> _c.Iterator[{self.type(item, given=False)}]: ..."
        if "buffer" in (cls.__doc__ or "").lower() and "protocol" in (cls.__doc__ or ""):
            yield "    def __buffer__(self, flags: _b.int, /) -> _b.memoryview: ..."

    def _enum_lines(self, cls: type, members: Any) -> Iterator[str]:
        yield f"    __members__: ClassVar[_b.dict[_b.str, {cls.__qualname__}]]"
        yield from (f"    {member}: ClassVar[{cls.__qualname__}]" for member in members)
        yield "    def __init__(self, value: _b.int) -> None: ..."
        for kind, names in (("_b.str", ["name"]), ("_b.int", ["value"])):
            yield from (f"    @property\n    def {name}(self) -> {kind}: ..." for name in names)
        yield from (f"    def {name}(self) -> _b.int: ..." for name in ("__int__", "__index__", "__hash__"))
        yield from (f"    @property\n    def {name}(self) -> Any: ..." for name, value in vars(cls).items()
                    if isinstance(value, property) and name not in ("name", "value") and not name.startswith("_"))

    @staticmethod
    def _is_interface(name: str, cls: type) -> bool:
        """A class that users derive from: its methods are called with plain values, and overridden."""
        try:
            return name.startswith("I") and len(parse(cls.__init__.__doc__, "__init__")[0].parameters) == 1
        except SignatureTextError:
            return False

    def _property_lines(self, name: str, value: property) -> Iterator[str]:
        kind = "Any"
        if value.fget is not None:
            with contextlib.suppress(SignatureTextError):
                kind = self.type(parse(value.fget.__doc__)[0].returns, given=False)
        yield f"    @property\n    def {name}(self) -> {kind}: ..."
        if value.fset is not None:
            try:
                wanted = parse(value.fset.__doc__)[0].parameters[1].type
            except (SignatureTextError, IndexError):
                wanted = "object"
            taken = self.type(wanted, given=True)
            none = " | None" if taken in self.classes and taken.startswith("I") else ""
            yield f"    @{name}.setter\n    def {name}(self, value: {taken}{none}) -> None: ..."

    # --- functions ----------------------------------------------------------------------------------------------------------

    def function_lines(self, name: str, function: Any, owner: str = "", called_back: bool = False) -> Iterator[str]:
        """One function with its overloads."""
        try:
            overloads = parse(function.__doc__, name)
        except SignatureTextError:
            if name != "__init__":
                yield f"def {name}({'self, ' if owner else ''}*args: Any, **kwargs: Any) -> Any: ..."
            return
        for overload in overloads:
            if len(overloads) > 1:
                yield "@overload"
            yield f"def {name}({', '.join(self._parameters(overload, owner, called_back))}) -> {self._returns(overload, owner)}: ..."

    def _parameters(self, signature: Signature, owner: str, called_back: bool) -> list[str]:
        plain = list(signature.parameters)
        made = []
        if owner:
            made, plain = ["self"], plain[1:]
        last_required = max((i for i, p in enumerate(plain) if p.default is None and p.kind == "plain"), default=-1)
        for i, parameter in enumerate(plain):
            made.append(self._parameter(parameter, i > last_required, called_back))
        if plain and all(re.fullmatch(r"arg\d+", p.name) for p in plain):
            made.append("/")
        return made

    def _parameter(self, parameter: Parameter, optional: bool, called_back: bool) -> str:
        if parameter.kind != "plain":
            return f"{parameter.kind}{parameter.name}: Any"
        name = parameter.name + ("_" if keyword.iskeyword(parameter.name) else "")
        kind = self.type(parameter.type, given=not called_back) + (" | None" if parameter.default == "None" else "")
        return f"{name}: {kind}" + (" = ..." if optional and parameter.default is not None else "")

    def _returns(self, signature: Signature, owner: str) -> str:
        kind = "None" if signature.name == "__init__" else self.type(signature.returns, given=False)
        return f"{kind} | None" if (owner, signature.name) in OPTIONAL else kind

    # --- types --------------------------------------------------------------------------------------------------------------

    def type(self, text: str, *, given: bool) -> str:
        """pybind11's word for a type → Python's; `given`: of an argument, where more is taken than comes out."""
        parts = split_type(text, "|")
        if len(parts) > 1:
            return " | ".join(dict.fromkeys(self.type(part, given=given) for part in parts))
        if text in _INTEGERS:
            return "SupportsIndex" if given else "_b.int"
        if text in _SIMPLE:
            return _SIMPLE[text]
        if text.endswith("]"):
            return self._generic(*text[:-1].split("[", 1), given=given)
        path = text.split("::")[-1] if "::" in text else text.rpartition("tensorrt.")[2]
        for name in (path, path.removeprefix("I")):
            if name.split(".")[0] in self.classes:
                if given and name == "Dims":
                    return "Dims | _c.Sequence[SupportsIndex]"
                return "Any" if given and name in ("Weights", "Permutation") else name
        return "Any"

    def _generic(self, name: str, inner: str, *, given: bool) -> str:
        items = [self.type(item, given=given) for item in split_type(inner, ",")]
        short = name.split(".")[-1].lower()
        if short in ("list", "sequence"):
            return f"_c.Sequence[{items[0]}]" if given else f"_b.list[{items[0]}]"
        if short in ("tuple", "dict"):
            return f"_b.{short}[{', '.join(items)}]"
        return f"{items[0]} | None" if short == "optional" else "Any"

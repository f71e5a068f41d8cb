"""What our code takes of a library, read from its source: `trt.NAME.NAME` chains and calls of cuda-python's driver functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Use:
    """One chain of names below a module, where it stands, and, for calls, how many values are passed by position and by name."""

    names: tuple[str, ...]
    file: str
    line: int
    positional: int | None = None
    keywords: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {'.'.join(self.names)}"


def needs(source: str) -> tuple[int, ...]:
    """The version that a module says it needs by a top-level `NEEDS = (10, 14)`; () for any."""
    for statement in ast.parse(source).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if any(isinstance(t, ast.Name) and t.id == "NEEDS" for t in targets) and getattr(statement, "value", None) is not None:
            return tuple(ast.literal_eval(statement.value))
    return ()


def module_uses(file: Path, module: str) -> list[Use]:
    """Chains below every name under which a file imports `module`, and names that it imports from it."""
    tree = ast.parse(file.read_text())
    found, bound = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            bound |= {alias.asname or alias.name for alias in node.names if alias.name == module}
        elif isinstance(node, ast.ImportFrom) and node.module and (node.module == module or node.module.startswith(module + ".")):
            inner = tuple(node.module.split(".")[1:])
            found += [Use((*inner, alias.name), file.name, node.lineno) for alias in node.names]
    return found + [use for use in chains(tree, file.name) if use.names[0] in bound for use in [_below(use)] if use.names]


def driver_uses(file: Path, roots: tuple[str, ...] = ("driver", "self._driver", "runtime", "self._runtime")) -> list[Use]:
    """Chains below what a file calls its CUDA driver binding, with the numbers of their arguments where they are called."""
    tree = ast.parse(file.read_text())
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = []
    for node, names in _chains(tree):
        for root in roots:
            own = tuple(root.split("."))
            if names[: len(own)] == own and len(names) > len(own) and names[len(own)].startswith(("cu", "CU")):
                call = calls.get(id(node))
                found.append(Use(names[len(own) :], file.name, node.lineno, len(call.args) if call else None,
                                 tuple(k.arg or "**" for k in call.keywords) if call else ()))
    return found


def _below(use: Use) -> Use:
    return Use(use.names[1:], use.file, use.line)


def chains(tree: ast.AST, file: str) -> list[Use]:
    """Every longest chain name.name.name of a tree."""
    return [Use(names, file, node.lineno) for node, names in _chains(tree)]


def _chains(tree: ast.AST) -> Iterator[tuple[Any, tuple[str, ...]]]:
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            names, at = [node.attr], node.value
            while isinstance(at, ast.Attribute):
                names.append(at.attr)
                at = at.value
            if isinstance(at, ast.Name):
                yield node, (at.id, *reversed(names))


def missing(module: ModuleType, uses: list[Use]) -> list[str]:
    """Uses that a module does not have, as texts."""
    lacking = []
    for use in uses:
        at: Any = module
        for name in use.names:
            if not hasattr(at, name):
                lacking.append(f"{use}: {getattr(at, '__name__', at)} has no '{name}'")
                break
            at = getattr(at, name)
    return lacking


def indirect(file: Path, module: str) -> list[str]:
    """Places where a file asks a module for names by text (getattr, hasattr): no check can follow those."""
    tree = ast.parse(file.read_text())
    bound = {alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
             for alias in node.names if alias.name == module}
    return [f"{file.name}:{node.lineno}: {node.func.id}" for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr") and node.args
            for root in [node.args[0]] if any(isinstance(n, ast.Name) and n.id in bound for n in ast.walk(root))]

"""Settings: defaults, then a TOML file, then `--set section.key=value`, validated into frozen pydantic models."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from edgedit.core.errors import UsageError, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Settings(BaseModel):
    """Base of every stage's settings: frozen, unknown keys refused, defaults checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @classmethod
    def section(cls, values: dict[str, Any]) -> type[Settings]:
        """The class that knows the keys of `values`: this one, unless a section has several kinds."""
        return cls


S = TypeVar("S", bound=Settings)


def resolve(model: type[S], *, base: dict[str, Any] | None = None, config: str | Path | None = None,
            sets: Iterable[str] = (), options: dict[str, Any] | None = None) -> S:
    """Build settings from their sources, later ones winning.

    Args:
        model: the settings class.
        base: a preset, nested.
        config: TOML file with the same nesting.
        sets: "section.key=value" strings; values are read as TOML, bare words as text.
        options: dotted key → value from command-line options; None means "not given".

    Raises:
        UsageError: unreadable TOML, an unknown key (with the nearest known one), or a value that does not validate.
    """
    merged: dict[str, Any] = {}
    _merge(merged, base or {})
    if config is not None:
        values = _read_toml(Path(config))
        for key, value in values.items():
            if isinstance(value, dict):
                _other_kind(model, merged, f"{key}.name", value.get("name"))
        _merge(merged, values)
    for item in sets:
        key, equals, text = item.partition("=")
        if not equals or not key.strip():
            raise UsageError("--set needs key=value", saw=item, fix="for example --set optimizer.lr=2e-4")
        _other_kind(model, merged, key.strip(), _value(text.strip()))
        _put(merged, key.strip(), _value(text.strip()))
    for key, value in (options or {}).items():
        if value is not None:
            _other_kind(model, merged, key, value)
            _put(merged, key, value)
    _check_keys(model, merged, "")
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"setting '{key}' is not valid: {first['msg'].lower()}", saw=repr(first["input"])) from error


def read_presets(package: str, file: str) -> dict[str, dict[str, Any]]:
    """A package's presets by name: nested settings for `resolve(base=…)`, and a sentence under "about"."""
    return tomllib.loads(files(package).joinpath(file).read_text(encoding="utf-8"))


def find_preset(presets: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """Settings of one preset, without "about"; UsageError with the nearest name when there is none."""
    if name not in presets:
        raise UsageError(f"there is no preset '{name}'", fix=did_you_mean(name, presets))
    return {key: value for key, value in presets[name].items() if key != "about"}


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"settings file {file} is not there") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"settings file {file} cannot be read as TOML", saw=error) from error


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def _other_kind(model: type[Settings], merged: dict[str, Any], dotted: str, name: Any) -> None:
    """Where a section has several kinds and a later source names another one, options of the earlier kind mean nothing: drop them."""
    first, _, last = dotted.partition(".")
    section = _section(model.model_fields[first].annotation) if first in model.model_fields else None
    before = merged.get(first)
    if section is None or "section" not in vars(section) or last != "name" or name is None or not isinstance(before, dict):
        return
    if before.get("name", name) != name:
        merged[first] = {}


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *path, last = dotted.split(".")
    for part in path:
        if isinstance(tree.get(part), str):  # `setup = "dmd"` is short for `setup.name = "dmd"`
            tree[part] = {"name": tree[part]}
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise UsageError(f"setting '{dotted}' names something inside a plain value", fix="see --help for the settings' names")
    tree[last] = value


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, dict) else value


def _check_keys(model: type[BaseModel], values: dict[str, Any], prefix: str) -> None:
    known = model.model_fields
    for key, value in values.items():
        if key not in known:
            raise UsageError(f"unknown setting '{prefix}{key}'", fix=did_you_mean(key, known))
        section = _section(known[key].annotation)
        if section is not None and isinstance(value, dict):
            _check_keys(section.section(value), value, f"{prefix}{key}.")


def _section(annotation: Any) -> type[Settings] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Settings):
            return candidate
    return None

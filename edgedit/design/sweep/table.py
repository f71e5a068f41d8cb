"""The table of a sweep: designs and settings by row, from a preset (a table or figure of the paper) or a TOML file."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedit.core.errors import UsageError, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from importlib.abc import Traversable

SECTIONS = ("train", "evaluate", "export", "profile")
PAPER_PAIRS = 1_000_000
"""Pairs of GET's class-conditional set. The paper does not say how many it used (science.md §2 row 8)."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_TOP = ("name", "about", "paper", "row", *SECTIONS)
_ROW = ("name", "design", "epochs", "published", "students", "needs", "skip", "helper", *SECTIONS)


@dataclass(frozen=True)
class TableRow:
    """One row as the table states it.

    Attributes:
        name: its name, unique in the table; folders are called so.
        design: (depth, width, heads); None only where `skip` says why there is none.
        settings: stage → its nested settings, table's and row's merged.
        published: the paper's values for it by name ("fid", "is", "latency_s"), or None.
        epochs: passes over the pairs when nothing cuts them; None: the training's own default or settings.
        students: setting of `train` → name of the row whose student it takes ("setup.assistant" → "ta-assistant").
        needs: what the user must give for it: "teacher".
        skip: why it cannot be run at all, "" when it can.
        helper: trained for others' sake; not a row of the result.
    """

    name: str
    design: tuple[int, int, int] | None
    settings: dict[str, dict[str, Any]]
    published: dict[str, float] | None = None
    epochs: float | None = None
    students: dict[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    skip: str = ""
    helper: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under a name; `paper` where it is the paper's."""

    name: str
    about: str
    rows: tuple[TableRow, ...]
    paper: bool = False


def _folder() -> Traversable:
    return files("edgedit.design.sweep").joinpath("presets")


def presets() -> list[str]:
    """Names of the tables and figures that come with edgedit."""
    return sorted(p.name.removesuffix(".toml") for p in _folder().iterdir() if p.name.endswith(".toml"))


def find_table(name: str) -> Table:
    """A preset by name, or a TOML file.

    Raises:
        UsageError: neither, not TOML, an unknown key, a row without a usable design.
    """
    if name in presets():
        text, where = _folder().joinpath(f"{name}.toml").read_text(encoding="utf-8"), name
    else:
        file = Path(name).expanduser()
        if file.suffix != ".toml" and not file.exists():
            raise UsageError(f"there is no sweep '{name}'", fix=f"{did_you_mean(name, presets())}; or the path of a .toml file")
        try:
            text, where = file.read_text(encoding="utf-8"), str(file)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"sweep file {file} cannot be read", saw=error) from error
    try:
        return read_table(tomllib.loads(text), where)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where} cannot be read as TOML", saw=error) from error


def read_table(body: dict[str, Any], where: str) -> Table:
    """A parsed table, checked; `where` names it in errors."""
    _known(body, _TOP, where)
    rows = body.get("row")
    if not isinstance(rows, list) or not rows:
        raise UsageError(f"{where} has no rows", fix='write at least one: [[row]] with design = [5, 64, 8]')
    base = {section: _mapping(body.get(section, {}), f"{where}: {section}") for section in SECTIONS}
    made = tuple(_row(values, base, f"{where}: row {k}") for k, values in enumerate(rows, 1))
    names = [row.name for row in made]
    if twice := [n for n in names if names.count(n) > 1]:
        raise UsageError(f"{where} has two rows of the name '{twice[0]}'", fix="give each row its own name")
    for row in made:
        if strange := [other for other in row.students.values() if other not in names or other == row.name]:
            raise UsageError(f"{where}: row '{row.name}' takes the student of '{strange[0]}'", fix=did_you_mean(strange[0], names))
    return Table(str(body.get("name", Path(where).stem)), str(body.get("about", "")), made, bool(body.get("paper", False)))


def _row(values: Any, base: dict[str, dict[str, Any]], where: str) -> TableRow:
    values = _mapping(values, where)
    _known(values, _ROW, where)
    skip = str(values.get("skip", ""))
    design = None if skip and "design" not in values else _design(values.get("design"), where)
    name = str(values.get("name", "-".join(map(str, design or ()))))
    if not _NAME.fullmatch(name):
        raise UsageError(f"{where}: '{name}' cannot name a folder", fix="letters, digits, dots, dashes")
    settings = {section: merged(base[section], _mapping(values.get(section, {}), f"{where}: {section}")) for section in SECTIONS}
    published = values.get("published")
    return TableRow(name, design, settings, None if published is None else dict(published), values.get("epochs"),
                    dict(values.get("students", {})), tuple(values.get("needs", ())), skip,
                    bool(values.get("helper", False)))


def _design(value: Any, where: str) -> tuple[int, int, int]:
    """Depth, width and heads; the paper's rule chooses heads that are not given."""
    if not isinstance(value, list) or len(value) not in (2, 3) or any(type(v) is not int for v in value):
        raise UsageError(f"{where} needs a design of depth, width and heads", saw=value,
                         fix="for example design = [5, 64, 8]; without heads the paper's rule chooses them")
    if len(value) == 2:
        from edgedit.design.rules import heads_rule

        value = [*value, heads_rule(value[1])]
    return value[0], value[1], value[2]


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Nested settings, `over` winning. A setup of another name takes nothing from the one before; `loss = "l1"` keeps the rest."""
    out = dict(under)
    for key, value in over.items():
        before = out.get(key)
        if key in ("setup", "loss"):
            value, before = ({"name": x} if isinstance(x, str) else x for x in (value, before))
            other = isinstance(before, dict) and isinstance(value, dict) and value.get("name") not in (None, before.get("name"))
            before = None if key == "setup" and other else before
        out[key] = merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return out


def _known(values: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in values:
        if key not in known:
            raise UsageError(f"{where}: unknown key '{key}'", fix=did_you_mean(key, known))


def _mapping(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise UsageError(f"{where} is not a table of settings", saw=values)
    return values

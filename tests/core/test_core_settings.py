from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from edgedit.core.errors import UsageError
from edgedit.core.settings import Settings, resolve


class Optimizer(Settings):
    lr: float = Field(1e-4, gt=0)
    weight_decay: float = 0.01


class Train(Settings):
    steps: int = 10
    name: str = "x"
    optimizer: Optimizer = Optimizer()


def test_later_sources_win(tmp_path: Path) -> None:
    config = tmp_path / "my.toml"
    config.write_text("steps = 3\n[optimizer]\nlr = 0.5\nweight_decay = 0.25\n")
    got = resolve(Train, base={"steps": 2, "name": "preset"}, config=config, sets=["optimizer.lr=2e-4"], options={"steps": 7, "name": None})
    assert got == Train(steps=7, name="preset", optimizer=Optimizer(lr=2e-4, weight_decay=0.25))


def test_bare_words_and_toml_values() -> None:
    assert resolve(Train, sets=["name=hello"]).name == "hello"
    assert resolve(Train, sets=['name="3"']).name == "3"


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["optimiser.lr=1"], "did you mean 'optimizer'"), (["optimizer.rl=1"], "unknown setting 'optimizer.rl'"),
        (["steps"], "key=value"), (["optimizer.lr=-1"], "optimizer.lr"), (["steps=many"], "steps"),
        (["steps.x=1", "steps.y=1"], "steps"),
    ],
)
def test_mistakes_are_named(sets: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        resolve(Train, sets=sets)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not there"):
        resolve(Train, config=tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_text("steps = = 3")
    with pytest.raises(UsageError, match="cannot be read as TOML"):
        resolve(Train, config=tmp_path / "bad.toml")


@given(st.text(max_size=30))
def test_any_set_text_resolves_or_is_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        resolve(Train, sets=[text])

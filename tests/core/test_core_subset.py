"""The first pairs of a set."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedit.core.errors import OutputError, UsageError
from edgedit.core.pairset import PairSet
from edgedit.core.subset import first_pairs
from tests.design.sweep_kit import write_pairs


def test_they_are_the_same_pairs(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs")
    made = first_pairs(pairs, tmp_path / "few", 20)
    few, whole = PairSet.open(tmp_path / "few"), PairSet.open(pairs)
    assert len(few) == 20 and few.artifact.manifest.parents[0].digest == whole.artifact.manifest.digest
    for part in ("images", "labels", "noise"):
        assert (getattr(few, part)(range(20)) == getattr(whole, part)(range(20))).all()
    assert first_pairs(pairs, tmp_path / "few", 20).digest == made.digest


def test_what_is_there_is_not_replaced(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs")
    before = PairSet.open(pairs).artifact.manifest.digest
    for count in (20, 40):
        with pytest.raises(OutputError, match="holds other pairs"):
            first_pairs(pairs, pairs, count)
    assert PairSet.open(pairs).artifact.manifest.digest == before


def test_more_than_there_are(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs")
    with pytest.raises(UsageError, match="cannot give 41 pairs"):
        first_pairs(pairs, tmp_path / "few", 41)
    assert not (tmp_path / "few").exists()

"""What is shipped is whole: every artifact under engines/ has the bytes that its manifest names, and is small."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedit.core.artifact import MANIFEST, open_artifact

ENGINES = Path(__file__).parents[2] / "engines"
SHIPPED = sorted(p.parent for p in ENGINES.rglob(MANIFEST))


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda p: p.name)
def test_a_shipped_artifact_is_whole_and_small(folder: Path) -> None:
    manifest = open_artifact(folder).manifest
    assert {p.name for p in folder.iterdir()} == {*manifest.files, MANIFEST}
    assert sum(entry["bytes"] for entry in manifest.files.values()) < 25_000_000
    assert folder.name in (ENGINES / "README.md").read_text()


def test_something_is_shipped() -> None:
    assert SHIPPED

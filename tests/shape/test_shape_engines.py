"""What is shipped is whole: every artifact under engines/ has the bytes that its manifest names, is small, and its card says what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedit.cli.card import stage_defaults
from edgedit.core.artifact import MANIFEST, open_artifact, read_manifest
from edgedit.report.card import check_card
from edgedit.report.card_chain import walk

ENGINES = Path(__file__).parents[2] / "engines"
KEPT = sorted(p.parent for p in (ENGINES / "manifests").rglob(MANIFEST))
"""Manifests alone, of what was too large to ship."""
SHIPPED = sorted({p.parent for p in ENGINES.rglob(MANIFEST)} - {*KEPT})
CARDS = sorted(p for p in ENGINES.glob("*/README.md"))
BESIDE = {"README.md", "samples.png", "samples.png.json"}
"""Of a card: no part of an artifact."""


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda p: str(p.relative_to(ENGINES)))
def test_a_shipped_artifact_is_whole_and_small(folder: Path) -> None:
    manifest = open_artifact(folder).manifest
    inside = {p.name for p in folder.iterdir() if p not in SHIPPED}  # what is an artifact itself is looked at by itself
    assert inside - {*manifest.files, MANIFEST} <= BESIDE
    assert sum(entry["bytes"] for entry in manifest.files.values()) < 25_000_000
    assert folder.relative_to(ENGINES).parts[0] in (ENGINES / "README.md").read_text()


def test_the_chain_of_manifests_has_no_gap() -> None:
    """From every bundle, picture and number back to the data, each link is a manifest that lies here under the digest named."""
    manifests = {m.digest: m for m in map(read_manifest, [*SHIPPED, *KEPT])}
    for m in manifests.values():
        for parent in walk(m.parents):
            assert parent.kind == "data" or parent.digest in manifests, f"{m.kind} {m.digest[:12]} names {parent.kind} {parent.digest[:12]}"
    named = {p.digest for m in manifests.values() for p in walk(m.parents)}
    for folder in KEPT:
        assert [p.name for p in folder.iterdir()] == [MANIFEST] and read_manifest(folder).digest in named, f"{folder} is of nothing here"


@pytest.mark.parametrize("card", CARDS, ids=lambda p: p.parent.name)
def test_a_shipped_card_agrees_with_its_folders(card: Path) -> None:
    check_card(card, defaults=stage_defaults())


def test_every_shipped_model_has_a_card() -> None:
    assert SHIPPED
    assert {folder.relative_to(ENGINES).parts[0] for folder in SHIPPED} == {card.parent.name for card in CARDS}

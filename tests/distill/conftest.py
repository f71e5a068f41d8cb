from __future__ import annotations

from pathlib import Path

import pytest
from distill_kit import write_pairs


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 pairs of 8×8 grey images in 3 classes."""
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs")

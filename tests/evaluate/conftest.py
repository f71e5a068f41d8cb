from __future__ import annotations

from pathlib import Path

import pytest
from evaluate_kit import random_classifier, random_inception


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole Inception network, random."""
    return random_inception(tmp_path_factory.mktemp("inception") / "random.pth")


@pytest.fixture(scope="session")
def stem(weights: Path) -> Path:
    """The same network up to the 768 tap."""
    import torch

    from edgedit.evaluate.inception import TAIL

    part = {k: v for k, v in torch.load(weights, weights_only=True).items() if not k.startswith(TAIL)}
    torch.save(part, weights.with_name("stem.pth"))
    return weights.with_name("stem.pth")


@pytest.fixture(scope="session")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of three classes, random."""
    return random_classifier(tmp_path_factory.mktemp("classifier") / "resnet8.th")

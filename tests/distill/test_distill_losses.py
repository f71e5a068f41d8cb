from __future__ import annotations

import pytest
import torch
from distill_kit import tiny
from lpips_kit import NETS, images, package

from edgedit.core.errors import UsageError
from edgedit.core.settings import resolve
from edgedit.core.spec import DiTSpec
from edgedit.distill.losses import make_loss
from edgedit.distill.lpips import Lpips
from edgedit.distill.lpips_weights import SMALLEST, load_heads
from edgedit.distill.settings import TrainSettings

CPU = torch.device("cpu")


@pytest.mark.parametrize(("name", "expected"), [("l1", 0.5), ("l2", 0.25)])
def test_pixel_losses(name, expected):
    loss = make_loss(resolve(TrainSettings, sets=[f"loss={name}"]).loss, DiTSpec(1, 8, 2), CPU)
    x = torch.zeros(2, 3, 4, 4)
    assert loss(x, x + 0.5).item() == expected
    assert loss.facts() == {"name": name}
    y = x.clone()
    y[1] += 1
    assert loss.distances(x, y).tolist() == [0, 1]
    assert loss(x, loss.features(y)) == loss(x, y)


def test_features_of_another_loss_are_refused():
    loss = make_loss(tiny().loss, DiTSpec(1, 8, 2), CPU)
    with pytest.raises(UsageError, match="another loss"):
        loss(torch.zeros(1, 3, 4, 4), (torch.zeros(1, 64, 4, 4),))


@pytest.mark.parametrize("net", NETS)
def test_least_side_is_what_the_trunk_takes_and_less_is_refused(net):
    own = Lpips(net, package(net)[1], load_heads(net)[0])
    assert torch.isfinite(own(*images(SMALLEST[net])))
    with pytest.raises((RuntimeError, ValueError)):
        own(*images(SMALLEST[net] - 1))
    settings = tiny(loss__name="lpips", loss__lpips__net=net, loss__lpips__resolution="native").loss
    with pytest.raises(UsageError, match="at least"):
        make_loss(settings, DiTSpec(1, 8, 2, image=14), CPU)

from __future__ import annotations

import numpy as np
import pytest
import torch
from distill_kit import tiny, write_pairs
from lpips_kit import NETS, gradient, images, package

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


# --- sums -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    file = tmp_path_factory.mktemp("trunk") / "squeeze.pth"
    torch.save(package("squeeze")[1], file)
    return file


def mixed(name, trunk, **more):
    base = {"loss__lpips__net": "squeeze", "loss__lpips__weights": trunk, "loss__lpips__resolution": 32}
    return tiny(**base, loss__name=name, **{f"loss__{k}": v for k, v in more.items()})


WEIGHTS = {"weights__l1": 0.5, "weights__lpips": 3.0}


def test_the_gradient_of_a_sum_is_the_weighted_sum_of_the_gradients(trunk):
    spec, (x, y) = DiTSpec(1, 8, 2, image=32), images(32)
    parts = {name: make_loss(mixed(name, trunk).loss, spec, CPU) for name in ("l1", "l2", "lpips")}
    loss = make_loss(mixed("lpips+l2 + l1", trunk, **WEIGHTS).loss, spec, CPU)
    weights = {"l1": 0.5, "l2": 1.0, "lpips": 3.0}
    expected = sum(weights[name] * gradient(part, x, y) for name, part in parts.items())
    for target in (y, loss.features(y)):
        torch.testing.assert_close(gradient(loss, x, target), expected)
        torch.testing.assert_close(loss.distances(x, target), sum(weights[n] * p.distances(x, y) for n, p in parts.items()))
        total, terms = loss.terms(x.requires_grad_(), target)
        assert total == loss(x, target) and list(terms) == ["l1", "l2", "lpips"]
        for name, term in terms.items():
            assert not term.requires_grad and term.item() == pytest.approx(parts[name](x, y).item(), rel=1e-6)
    assert [part.terms(x, y)[1] for part in parts.values()] == [{}, {}, {}]


def test_a_sum_of_pixel_losses_and_a_single_weighed_one():
    x = torch.zeros(2, 3, 4, 4)
    y = x + torch.tensor([0.5, 1.0]).view(2, 1, 1, 1)
    both = make_loss(resolve(TrainSettings, sets=["loss=l1+l2", "loss.weights.l2=4"]).loss, DiTSpec(1, 8, 2), CPU)
    assert both(x, both.features(y)).item() == 0.75 + 4 * 0.625
    assert both.distances(x, y).tolist() == [0.5 + 4 * 0.25, 1 + 4]
    assert both.facts() == {"name": "l1+l2", "weights": {"l1": 1.0, "l2": 4.0}}
    with pytest.raises(UsageError, match="another loss"):
        both(x, (x, x))
    one = make_loss(resolve(TrainSettings, sets=["loss.name=l1", "loss.weights.l1=2"]).loss, DiTSpec(1, 8, 2), CPU)
    assert one(x, y).item() == 1.5 and one.facts() == {"name": "l1", "weights": {"l1": 2.0}}


def test_facts_of_a_sum_name_all_of_it(trunk):
    loss = make_loss(mixed("l1+lpips", trunk, **WEIGHTS).loss, DiTSpec(1, 8, 2), CPU)
    alone = make_loss(mixed("lpips", trunk).loss, DiTSpec(1, 8, 2), CPU)
    assert loss.facts() == {**alone.facts(), "name": "l1+lpips", "weights": {"l1": 0.5, "lpips": 3.0}}


def test_lpips_in_a_sum_takes_targets_from_its_cache(trunk):
    loss = make_loss(mixed("l1+lpips", trunk, lpips__cache_gb=1).loss, DiTSpec(1, 8, 2), CPU)
    (x, y), rows = images(32), np.arange(4)
    first = loss(x, loss.features(y, rows)).item()
    assert loss(x, loss.features(y, rows)).item() == first == pytest.approx(loss(x, y).item(), rel=1e-5)
    again = loss.features(-y, rows)  # the same pairs: LPIPS remembers them, pixels are what they are
    assert torch.equal(again[0], -y) and torch.equal(again[1], loss.features(y, rows)[1])


@pytest.mark.parametrize(("sets", "text"), [
    (["loss=l1+lpisp"], r"no loss 'lpisp'[\s\S]*did you mean 'lpips'"), (["loss=l1+l1"], "there twice"), (["loss=l1+"], "no loss ''"),
    (["loss=l1", "loss.weights.lpips=2"], r"weighs nothing[\s\S]*--loss l1\+lpips"),
    (["loss.weights.lpisp=2"], r"unknown setting 'loss\.weights\.lpisp'[\s\S]*did you mean 'lpips'"),
    (["loss.weights.lpips=0"], "greater than 0")])
def test_sums_that_make_no_sense(sets, text):
    with pytest.raises(UsageError, match=text):
        resolve(TrainSettings, sets=sets)


def test_the_order_of_terms_says_nothing_and_weights_are_settings():
    one, other = (resolve(TrainSettings, sets=[f"loss={name}", "loss.weights.lpips=0.5"]) for name in ("lpips+l1", "l1+lpips"))
    assert one == other and one.loss.terms == {"l1": 1.0, "lpips": 0.5}
    assert TrainSettings.model_validate(one.model_dump(mode="json")) == one
    before = one.model_dump(mode="json")
    del before["loss"]["weights"]  # a run of before there were weights
    assert TrainSettings.model_validate({**before, "loss": {**before["loss"], "name": "l1"}}).loss.terms == {"l1": 1.0}


@pytest.mark.parametrize("setup", ["get", "mi1"])
def test_a_run_on_a_sum_resumes_under_the_same_weights_only(trunk, tmp_path, setup):
    from edgedit.core.artifact import open_artifact
    from edgedit.distill import train

    pairs = write_pairs(tmp_path / "pairs")
    first, second, longer = (resolve(TrainSettings, base=mixed("l1+lpips", trunk, weights__lpips=weight).model_dump(mode="json"),
                                     options={"setup.name": setup, "steps": steps}) for weight, steps in ((2.0, 4), (3.0, 4), (2.0, 6)))
    train(pairs, tmp_path / "out", first)
    facts = open_artifact(tmp_path / "out").manifest.info["loss"]
    assert facts["name"] == "l1+lpips" and facts["weights"] == {"l1": 1.0, "lpips": 2.0} and facts["net"] == "squeeze"
    assert train(pairs, tmp_path / "out", longer).info["step"] == 6
    with pytest.raises(UsageError, match=r"loss\.weights\.lpips: 2\.0 → 3\.0"):
        train(pairs, tmp_path / "out", second)

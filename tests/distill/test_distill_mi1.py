from __future__ import annotations

import math
import signal
from pathlib import Path

import pytest
import torch
from distill_kit import tiny, write_pairs
from setup_kit import gradients, newest, same_runs, tiny_trainer

from edgedit.core.errors import Interrupted, UsageError
from edgedit.core.settings import resolve
from edgedit.core.spec import DiTSpec
from edgedit.distill import TrainSettings, preset, presets, train
from edgedit.distill.setups.mi1 import Options
from edgedit.learn.logs import METRICS, read_metrics
from edgedit.model.checkpoint import load_student
from edgedit.model.dit import unpatchify

VALUES = {  # t: (sigma, sqrt(alpha)) with sigma_min 0.002, then with 0.02 (science.md §3.1)
    0.33: ((0.452, 0.911), (1.002, 0.706)), 0.5: ((2.515, 0.369), (4.046, 0.240)), 0.66: ((9.25, 0.107), (12.15, 0.082))}


def mi1(**options):
    return tiny(setup__name="mi1", **options)


@pytest.mark.parametrize("t", VALUES)
@pytest.mark.parametrize(("sigma_min", "column"), [(0.002, 0), (0.02, 1)])
def test_noise_levels_are_the_published_ones(t, sigma_min, column):
    o = Options(sigma_min=sigma_min)
    sigma, root = VALUES[t][column]
    assert o.sigma(t) == pytest.approx(sigma, abs=10 ** -(3 if sigma < 9 else 2))
    assert math.sqrt(o.alpha(t)) == pytest.approx(root, abs=1e-3)


def test_time_runs_from_the_image_to_noise():
    o = Options()
    assert o.sigma(0) == pytest.approx(0.002) and o.sigma(1) == pytest.approx(80)
    rising = [o.sigma(k / 20) for k in range(21)]
    assert rising == sorted(rising)
    assert o.alpha(1) == pytest.approx(1 / 6401)


def test_the_chord_begins_at_the_teachers_image_exactly_and_ends_at_the_noise():
    chance = torch.Generator().manual_seed(0)
    images, noise = torch.rand(4, 3, 8, 8, generator=chance) * 2 - 1, torch.randn(4, 3, 8, 8, generator=chance)
    for o in (Options(), Options(sigma_min=0.02)):
        assert torch.equal(o.chord(images, noise, 0), images)
        assert torch.allclose(o.chord(images, noise, 1), noise, atol=1e-5)
    eps = 1.000078 * noise - 0.012500 * images
    sigma = Options().sigma(0.5)
    expected = (images + sigma * eps) / math.sqrt(1 + sigma**2)
    assert torch.allclose(Options().chord(images, noise, 0.5), expected, atol=1e-5)
    assert not torch.allclose(Options(sigma_min=0.02).chord(images, noise, 0.5), expected, atol=1e-2)


@pytest.mark.parametrize(("mapped", "depth", "layers"), [(2, 6, (3, 6)), (3, 6, (2, 4, 6)), (4, 8, (2, 4, 6, 8)), (2, 5, (3, 5)),
                                                         (5, 5, (1, 2, 3, 4, 5))])
def test_layers_are_spread_evenly(mapped, depth, layers):
    seen, times = Options(mapped=mapped).schedule(depth)
    assert seen == layers
    assert times == pytest.approx([1 - k / mapped for k in range(1, mapped + 1)]) and times[-1] == 0


@pytest.mark.parametrize("values", [{"layers": (3, 5)}, {"layers": (6,)}, {"layers": ()}, {"layers": (4, 3, 6)}, {"layers": (0, 6)},
                                    {"mapped": 7}, {"times": (0.5, 0.1)}, {"times": (0.0, 0.5)}, {"times": (1.5, 0.0)},
                                    {"layers": (2, 6), "times": (0.0,)}])
def test_schedules_that_do_not_fit_the_student_are_refused(values):
    with pytest.raises(UsageError, match="MI1 needs"):
        Options(**values).schedule(6)


def test_options_that_contradict_each_other_are_refused():
    with pytest.raises(UsageError, match=r"below setup\.sigma_max"):
        mi1(setup__sigma_min=90.0)
    with pytest.raises(UsageError, match=r"both say[\s\S]*layers=none"):
        mi1(setup__mapped=3, setup__layers=[1, 2])
    with pytest.raises(UsageError):
        mi1(setup__mapped=1)


@pytest.mark.parametrize(("name", "layers", "times"), [("mi1-2", (3, 6), (0.5, 0)), ("mi1-3", (2, 4, 6), (0.66, 0.33, 0))])
def test_presets_are_the_rows_of_table_4(name, layers, times):
    settings = resolve(TrainSettings, base=preset(name))
    spec = settings.model.spec((3, 32, 32), 10)
    assert settings.setup.schedule(spec.depth) == (layers, times)
    assert (spec.label, spec.parameters, settings.loss.name) == ("(6,128,8)", 1_900_812, "lpips")
    assert f"{spec.parameters:,}" in presets()[name]["about"]
    assert TrainSettings.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize("shared", [False, True])
def test_the_loss_is_the_sum_over_layers_by_hand(pairs, shared):
    trainer, batch = tiny_trainer(pairs, mi1(model__depth=3, setup__layers=[1, 2, 3], setup__times=[0.7, 0.4, 0.0],
                                             setup__shared_head=shared, setup__metric_intermediate="l2"))
    model, setup = trainer.model, trainer.setup
    loss, logs = setup.loss(trainer.student, batch)
    image, tokens = model(batch.noise, batch.labels, (1, 2))
    c = model.condition(batch.labels)
    finals = [model.final] * 2 if shared else [setup.heads["1"], setup.heads["2"]]
    expected = {}
    for layer, t, x, final in zip((1, 2), (0.7, 0.4), tokens, finals, strict=True):
        seen = unpatchify(final(x, c), model.spec) if shared else final(x, c)
        target = setup.options.chord(batch.images, batch.noise, t)
        expected[f"layer_{layer}"] = ((seen - target) ** 2).mean()
    expected["layer_3"] = (image - batch.images).abs().mean()
    assert logs.keys() == expected.keys() and not any(v.requires_grad for v in logs.values())
    for name, value in expected.items():
        assert logs[name].item() == pytest.approx(value.item(), rel=1e-5)
    assert loss.item() == pytest.approx(sum(v.item() for v in expected.values()), rel=1e-5)


def test_every_term_reaches_the_student_up_to_its_layer_and_its_own_head(pairs):
    trainer, batch = tiny_trainer(pairs, mi1(model__depth=3, setup__layers=[1, 2, 3], setup__times=[0.7, 0.4, 0.0]))
    whole = gradients(trainer, trainer.setup.loss(trainer.student, batch)[0])
    assert all(g.any() for g in whole.values())
    terms = trainer.setup.terms(trainer.student, batch)
    for k, (name, term) in enumerate(terms.items()):
        alone = gradients(trainer, term)
        without = gradients(trainer, sum(other for n, other in terms.items() if n != name))
        assert all(torch.allclose(alone[n] + without[n], whole[n], atol=1e-6) for n in whole)
        reached = {n for n, g in alone.items() if g.any()}
        blocks = {int(n.split(".")[2]) for n in reached if n.startswith("model.blocks.")}
        heads = {n.split(".")[2] for n in reached if n.startswith("extra.heads.")}
        assert blocks == set(range(k + 1)) and heads == ({str(k + 1)} if k < 2 else set())
        assert any(n.startswith("model.final.") for n in reached) == (k == 2)
        assert any((whole[n] - without[n]).abs().max() > 1e-4 for n in whole if n.startswith("model.blocks.0."))


def test_heads_do_not_change_what_the_student_makes(pairs):
    trainer, batch = tiny_trainer(pairs, mi1())
    before = trainer.model(batch.noise, batch.labels)
    with torch.no_grad():
        for p in trainer.setup.heads.parameters():
            p.add_(1.0)
    assert torch.equal(trainer.model(batch.noise, batch.labels), before)


def test_heads_begin_at_zero_and_a_shared_head_adds_no_parameters(pairs):
    trainer, _ = tiny_trainer(pairs, mi1(), lively=False)
    extra = trainer.setup.extra_parameters()
    assert extra and all(not p.any() for p in extra.values())
    w, n = 16, 4
    assert sum(p.numel() for p in extra.values()) == (2 * w * w + 2 * w) + (w * n + n)
    assert tiny_trainer(pairs, mi1(setup__shared_head=True))[0].setup.extra_parameters() == {}


def test_metric_of_inner_layers_is_the_runs_unless_told(pairs):
    facts = [tiny_trainer(pairs, mi1(**o))[0].setup.facts() for o in ({}, {"setup__metric_intermediate": "l2"})]
    assert [f["intermediate"] for f in facts] == ["l1", "l2"]
    assert facts[0] == {"name": "l1", "intermediate": "l1", "layers": [1, 2], "times": [0.5, 0.0]}


def test_weights_of_the_runs_sum_are_not_those_of_inner_layers(pairs):
    both = {"loss__name": "l1+l2", "loss__weights__l1": 5.0, "loss__weights__l2": 3.0}
    trainer, batch = tiny_trainer(pairs, mi1(**both, setup__metric_intermediate="l2"))
    plain, _ = tiny_trainer(pairs, mi1(setup__metric_intermediate="l2"))
    ours, theirs = (t.setup.terms(t.student, batch)["layer_1"].item() for t in (trainer, plain))
    assert ours == pytest.approx(theirs, rel=1e-6) and ours > 0
    facts = trainer.setup.facts()
    assert facts["intermediate"] == "l2" and facts["weights"] == {"l1": 5.0, "l2": 3.0}
    weighed = tiny_trainer(pairs, mi1(**both))[0].setup
    assert weighed.inner is weighed.metric and weighed.facts()["intermediate"] == "l1+l2"


def stop(event) -> None:
    if event.done == 8:
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("shared", [False, True])
def test_a_run_learns_resumes_exactly_and_leaves_a_plain_student(pairs, tmp_path, shared):
    options = {"steps": 60, "checkpoint_every": 60, "setup__shared_head": shared, "label_dropout": 0.0}
    train(pairs, tmp_path / "whole", mi1(**options))
    with pytest.raises(Interrupted):
        train(pairs, tmp_path / "parts", mi1(**options, log_every=1), say=stop)
    manifest = train(pairs, tmp_path / "parts", mi1(**options))
    assert same_runs(tmp_path / "whole", tmp_path / "parts")
    assert any(n.startswith("extra.heads.") for n in newest(tmp_path / "whole")) is not shared
    lines = read_metrics(tmp_path / "whole" / METRICS)
    for name in ("loss", "layer_1", "layer_2"):
        assert lines[-1][name] < 0.8 * lines[0][name], name
    model, _, info = load_student(tmp_path / "parts")
    assert sum(p.numel() for p in model.parameters()) == DiTSpec(2, 16, 2, image=8, channels=1, classes=3).parameters
    assert info["setup"] == "mi1" and manifest.info["loss"]["times"] == [0.5, 0.0]


def test_lpips_teaches_inner_layers_too(tmp_path):
    models = pytest.importorskip("torchvision.models")
    pytest.importorskip("lpips")
    torch.manual_seed(0)
    torch.save(models.squeezenet1_1(weights=None).state_dict(), tmp_path / "random.pth")
    data: Path = write_pairs(tmp_path / "pairs", image=20, channels=3)
    trainer, batch = tiny_trainer(data, mi1(loss__name="lpips", loss__lpips__net="squeeze", loss__lpips__resolution="native",
                                            loss__lpips__weights=tmp_path / "random.pth", model__patch=4))
    assert trainer.setup.inner is trainer.setup.metric and trainer.setup.facts()["intermediate"] == "lpips"
    inner = tiny_trainer(data, mi1(loss__name="l1", loss__lpips__net="squeeze", loss__lpips__resolution="native", model__patch=4,
                                   loss__lpips__weights=tmp_path / "random.pth", setup__metric_intermediate="lpips"))[0].setup
    assert inner.facts()["intermediate"] == inner.inner.facts() and inner.facts()["intermediate"].keys() > {"name", "net", "trunk_sha256"}
    loss, logs = trainer.setup.loss(trainer.student, batch)
    loss.backward()
    assert set(logs) == {"layer_1", "layer_2"} and all(v > 0 for v in logs.values())
    for name, p in trainer.trained.items():
        assert torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0, name

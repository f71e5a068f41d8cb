from __future__ import annotations

import pytest

from edgedit.core.errors import UsageError
from edgedit.core.settings import resolve
from edgedit.distill import TrainSettings, preset, presets
from edgedit.learn.settings import OptimizerSettings, changes

TABLE_6 = {  # depth, width, heads, parameters (science.md §4.2)
    "dit-nano-0.42m-wider": (1, 128, 8, 416_652), "dit-nano-0.42m-wide": (2, 96, 8, 415_308),
    "dit-nano-0.42m-lower-heads": (5, 64, 4, 421_068), "dit-nano-0.42m": (5, 64, 8, 421_068),
    "dit-nano-0.42m-deep": (9, 48, 6, 413_148), "dit-nano-0.42m-deeper": (21, 32, 4, 417_900),
    "dit-nano-2.2m-wide": (3, 192, 12, 2_215_884), "dit-nano-2.2m": (7, 128, 8, 2_197_644),
    "dit-nano-2.2m-deep": (13, 96, 8, 2_255_916), "dit-nano-5m-wide": (4, 256, 16, 5_071_884),
    "dit-nano-5m-deep": (16, 128, 8, 4_869_132), "dit-nano-5m": (7, 192, 12, 4_881_612),
    "dit-nano-5m-200ep": (7, 192, 12, 4_881_612),
}

NEEDS = {"ta": {"setup.assistant": "assistant"}, "dmd": {"setup.teacher": "teacher"}}
"""What presets of these setups must be told."""


@pytest.mark.parametrize("name", TABLE_6)
def test_a_preset_is_its_row_of_table_6(name):
    settings = resolve(TrainSettings, base=preset(name))
    spec = settings.model.spec((3, 32, 32), 10)
    assert (spec.depth, spec.width, spec.heads, spec.parameters) == TABLE_6[name]
    assert settings.epochs == (200 if name.endswith("200ep") else 100)
    assert settings.loss.name == "lpips"
    said = presets()[name]["about"]
    assert f"{spec.depth},{spec.width},{spec.heads}" in said
    assert f"{spec.parameters:,}" in said or "200 epochs" in said


def test_every_preset_resolves_and_says_what_it_is():
    assert set(presets()) >= set(TABLE_6) | {"digits"}
    for name, values in presets().items():
        settings = resolve(TrainSettings, base=preset(name), options=NEEDS.get(preset(name).get("setup", {}).get("name")))
        assert f"{settings.model.depth},{settings.model.width},{settings.model.heads}" in values["about"] or name == "digits"
    settings = resolve(TrainSettings, base=preset("digits"))
    assert settings.loss.name == "l1"
    assert "about" not in preset("digits")


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(UsageError, match=r"did you mean 'dit-nano-2.2m'"):
        preset("dit-nano-2.2")


def test_the_defaults_are_the_papers():
    s = TrainSettings()
    assert (s.optimizer.lr, s.optimizer.weight_decay, s.optimizer.schedule) == (1e-4, 0.01, "constant")
    assert (s.batch, s.epochs) == (256, 100)
    assert (s.ema_decay, s.label_dropout, s.loss.name, s.loss.lpips.net, s.model.patch) == (0.9999, 0.1, "lpips", "vgg", 2)
    assert s.total_steps(1_000_000) == 390_625


@pytest.mark.parametrize("sets", [["optimizer.lr=0"], ["ema_decay=1.0"], ["label_dropout=1.5"], ["loss=l3"], ["batch=0"],
                                  ["loss.lpips.resolution=8"], ["steps=0"], ["optimizer.grad_clip=-1"]])
def test_impossible_values_are_refused(sets):
    with pytest.raises(UsageError):
        resolve(TrainSettings, sets=sets)


def test_words_for_nothing_and_the_short_name_of_a_loss():
    s = resolve(TrainSettings, sets=["loss.lpips.resolution=native", "steps=none", "optimizer.grad_clip=off"])
    assert s.loss.lpips.resolution is None and s.steps is None and s.optimizer.grad_clip is None
    assert resolve(TrainSettings, sets=["loss=l2"]).loss.name == "l2"


def test_learning_rate_schedules():
    rise = OptimizerSettings(lr=1.0, warmup_steps=4)
    assert [rise.lr_at(k, 10) for k in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rise.lr_at(9, 10) == 1.0
    for schedule, half in (("cosine", 0.5), ("linear", 0.5)):
        falling = OptimizerSettings(lr=1.0, schedule=schedule)
        rates = [falling.lr_at(k, 100) for k in range(101)]
        assert rates[0] == 1.0 and rates[50] == pytest.approx(half) and rates[100] == pytest.approx(0, abs=1e-12)
        assert rates == sorted(rates, reverse=True)


def test_changes_name_both_values_and_leave_free_settings_out():
    new = resolve(TrainSettings, sets=["optimizer.lr=2e-4", "steps=7", "threads=2", "loss.lpips.weights=x.pth"])
    assert changes(TrainSettings(), new) == ["optimizer.lr: 0.0001 → 0.0002"]


def test_a_setup_is_a_name_or_a_section_with_options_of_its_own():
    assert TrainSettings().setup.name == "get"
    assert resolve(TrainSettings, sets=["setup=get"]).setup == resolve(TrainSettings, sets=["setup.name=get"]).setup
    assert resolve(TrainSettings, base={"setup": "get"}, options={"setup.name": "get"}).setup.name == "get"
    with pytest.raises(UsageError, match="there is no setup 'gett'"):
        resolve(TrainSettings, sets=["setup=gett"])
    with pytest.raises(UsageError, match=r"unknown setting 'setup\.weigth'"):
        resolve(TrainSettings, sets=["setup.name=get", "setup.weigth=1"])
    dumped = TrainSettings().model_dump(mode="json")
    assert dumped["setup"] == {"name": "get"} and TrainSettings.model_validate(dumped) == TrainSettings()


def test_moving_what_a_setup_reads_is_no_other_run():
    old, new = (resolve(TrainSettings, sets=["setup.name=dmd", f"setup.teacher={place}"]) for place in ("here", "there"))
    assert changes(old, new) == []
    assert changes(old, resolve(TrainSettings, sets=["setup.name=dmd", "setup.teacher=here", "setup.regression=1"])) == [
        "setup.regression: 0.25 → 1.0"]
    assert changes(TrainSettings(), old)[0] == "setup.name: get → dmd"


def test_another_setup_drops_the_options_of_the_presets():
    settings = resolve(TrainSettings, base=preset("dmd"), options={"setup.name": "get"})
    assert settings.setup.model_dump() == {"name": "get"}
    kept = resolve(TrainSettings, base=preset("mi1-2"), sets=["setup.name=mi1", "setup.sigma_min=0.02"])
    assert kept.setup.model_dump()["layers"] == (3, 6)
    loss = resolve(TrainSettings, base=preset("digits"), sets=["loss.lpips.net=squeeze"], options={"loss.name": "lpips"})
    assert loss.loss.lpips.net == "squeeze"  # the loss is one section, whatever its name

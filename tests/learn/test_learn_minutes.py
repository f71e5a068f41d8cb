"""A budget of minutes, on a clock that the steps themselves turn: 6 s each, so that a minute is 10 of them."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from learn_kit import Ticking, Toy, learn, toy_settings

from edgedit.core.artifact import read_manifest
from edgedit.core.errors import Interrupted, UsageError
from edgedit.core.say import Event
from edgedit.learn import clock as clock_module
from edgedit.learn.logs import METRICS, read_metrics
from edgedit.learn.settings import LearnSettings, OptimizerSettings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Ticking:
    clock = Ticking()
    monkeypatch.setattr(clock_module, "time", clock)
    return clock


def run(out: Path, clock: Ticking, say: Any = lambda event: None, **options: Any) -> tuple[dict[str, Any], list[float]]:
    """The manifest's facts and the rates of the steps that were taken."""
    settings = toy_settings(**options)
    made: list[Toy] = []

    def make() -> Toy:
        made.append(Toy(settings, clock=clock))
        return made[-1]

    manifest = learn(out, settings, say=say, make=make)
    return manifest.info, made[0].rates if made else []


def test_minutes_end_a_run_as_steps_do(ticking: Ticking, tmp_path: Path) -> None:
    said: list[Event] = []
    info, rates = run(tmp_path / "o", ticking, said.append, minutes=1)
    assert info["complete"] and info["ended_by"] == "minutes" and (info["step"], info["steps"]) == (11, 1000)
    assert info["wall_s"] == 66 and info["images_seen"] == 110
    assert rates[0] == 1 and rates[5] == pytest.approx(0.5, abs=1e-4) and rates[10] == 0  # falls with the clock, not with 1,000 steps
    assert rates == sorted(rates, reverse=True)
    assert [line["step"] for line in read_metrics(tmp_path / "o" / METRICS)][-1] == 11
    shown = [(e.done, e.total) for e in said if e.done]
    assert shown[0] == (1, 11) or shown[0] == (1, 10)  # what the pace promises
    assert shown[-1] == (11, 11)


def test_the_same_command_returns_at_once_and_more_minutes_go_on(ticking: Ticking, tmp_path: Path) -> None:
    out = tmp_path / "o"
    run(out, ticking, minutes=1)
    before = (out / "manifest.json").stat().st_mtime_ns
    said: list[Event] = []
    info, rates = run(out, ticking, said.append, minutes=1)
    assert info["complete"] and not rates and not said and (out / "manifest.json").stat().st_mtime_ns == before
    info, rates = run(out, ticking, said.append, minutes=2)
    assert info["ended_by"] == "minutes" and info["step"] == 21 and info["wall_s"] == 126
    assert rates[0] == pytest.approx(0.5 + 0.5 * math.cos(math.pi * 66 / 120)) and rates[-1] == 0
    assert "going on from step 11 of 1000, 55% of 2 minutes used" in said[0].text
    info, _ = run(out, ticking, minutes=2.01, steps=2000)  # 126 s are more than that: nothing is left to train
    assert info["step"] == 21 and info["complete"]
    info, _ = run(out, ticking, steps=25)
    assert info["step"] == 25 and info["ended_by"] == "steps"


def test_steps_end_a_run_that_has_minutes_left(ticking: Ticking, tmp_path: Path) -> None:
    said: list[Event] = []
    info, rates = run(tmp_path / "o", ticking, said.append, minutes=10, steps=8)
    assert info["ended_by"] == "steps" and info["step"] == 8 and info["complete"]
    assert {e.total for e in said if e.done} == {8}
    plain, same = run(tmp_path / "p", ticking, steps=8)
    assert rates == same and plain["ended_by"] == "steps"  # the steps are further than the minutes all along


def test_fewer_minutes_than_were_trained_are_refused(ticking: Ticking, tmp_path: Path) -> None:
    out = tmp_path / "o"
    run(out, ticking, minutes=1)
    with pytest.raises(UsageError, match=r"trained for 1\.1 minutes already[\s\S]*0\.5 minutes asked for[\s\S]*more minutes"):
        run(out, ticking, minutes=0.5)
    with pytest.raises(UsageError, match="11 steps already"):
        run(out, ticking, minutes=1, steps=5)


def test_time_counts_over_all_starts_and_a_cut_run_is_not_finished(ticking: Ticking, tmp_path: Path) -> None:
    out = tmp_path / "o"

    def stop(event: Event) -> None:
        if event.done == 4:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match="after step 5 of 1000"):
        run(out, ticking, stop, minutes=1)
    before = read_manifest(out).info
    assert before["ended_by"] is None and not before["complete"] and before["wall_s"] == 30
    ticking.now += 10_000  # time between the starts is not training
    info, rates = run(out, ticking, minutes=1)
    assert info["step"] == 11 and info["wall_s"] == 66 and len(rates) == 6


RATES = {"constant": [0.3] * 4,
         "linear": [0.22727272727272727, 0.14545454545454545, 0.07272727272727272, 0.00909090909090909],
         "cosine": [0.2585601057157605, 0.14286271262643865, 0.04143989428423947, 0.0006792116140373117]}
"""Of steps 15, 24, 32 and 39 of 40, of which 7 warm up to 0.3: 8, 17, 25 and 32 of the 33 that fall."""


def test_a_run_stopped_in_the_step_that_uses_up_its_minutes_is_finished_by_the_same_command(ticking: Ticking, tmp_path: Path,
                                                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells all that an unstopped one tells: the loss, a line of metrics, a grid."""
    out, drawn = tmp_path / "o", list[int]()
    monkeypatch.setattr(Toy, "sample", lambda self, folder, step: drawn.append(step))
    options = {"minutes": 1, "log_every": 1000, "sample_every": 1000}

    def stop(event: Event) -> None:
        if event.done == 9:  # heard in the tenth step, whose end is the end of the minute
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(clock_module.Clock, "time_to_say", lambda self: True)
    with pytest.raises(Interrupted, match="after step 10 of 1000"):
        run(out, ticking, stop, **options)
    before = read_manifest(out).info
    assert before["wall_s"] == 60 and not before["complete"] and before["ended_by"] is None and not drawn
    info, rates = run(out, ticking, **options)
    assert info["complete"] and info["ended_by"] == "minutes" and info["step"] == 10 and info["wall_s"] == 60 and not rates
    lines = read_metrics(out / METRICS)
    assert [line["step"] for line in lines] == [10] and lines[0]["loss"] == info["final_loss"] > 0 and drawn == [10]
    stamp = (out / "manifest.json").stat().st_mtime_ns
    assert run(out, ticking, **options)[0] == info and (out / "manifest.json").stat().st_mtime_ns == stamp and drawn == [10]
    (out / "toy.bin").write_bytes(b"damaged")
    assert run(out, ticking, **options)[0] == info and len(read_metrics(out / METRICS)) == 1


def test_without_minutes_rates_are_what_they_were() -> None:
    for schedule in ("constant", "cosine", "linear"):
        o = OptimizerSettings(lr=0.3, schedule=schedule, warmup_steps=7)
        rates = [o.lr_at(k, 40) for k in range(40)]
        assert rates[:7] == [0.3 * (k + 1) / 7 for k in range(7)] and rates[7] == 0.3
        assert [rates[k] for k in (15, 24, 32, 39)] == pytest.approx(RATES[schedule], rel=1e-9)
        assert o.lr_at(39, 40, 0.2) == rates[39]
        assert o.lr_at(8, 40, 0.9) < 0.05 or schedule == "constant"
        assert o.lr_at(3, 40, 1.5) == (0 if schedule != "constant" else rates[3])


@pytest.mark.parametrize("minutes", [0, -1])
def test_minutes_must_be_some(minutes: float) -> None:
    with pytest.raises(ValueError, match="minutes"):
        LearnSettings(minutes=minutes)


TWO = """
import os, sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from pathlib import Path
from learn_kit import Ticking, Toy, learn, toy_settings
from edgedit.learn import clock as clock_module
from edgedit.learn.ranks import joined
with joined("cpu") as ranks:
    clock = clock_module.time = Ticking()
    settings = toy_settings(minutes=1, optimizer={"lr": 0.01, "schedule": "cosine"})
    made = []
    def make():
        made.append(Toy(settings, ranks=ranks, clock=clock, step_s=6.0 if ranks.main else 20.0))
        return made[-1]
    info = learn(Path(sys.argv[3]), settings, ranks=ranks, make=make).info
    weights = [float(p.double().sum()) for p in made[0].model.parameters()]
    told = ranks.gather((info["step"], info["ended_by"], made[0].rates, weights))
    assert told[0] == told[1], told
    assert told[0][:2] == (12, "minutes"), told[0]  # rank 0's clock, a step late
"""


def test_the_first_rank_decides_for_all(tmp_path: Path) -> None:
    """The second rank's clock runs three times as fast: rates, weights and the end are the first one's all the same."""
    (tmp_path / "two.py").write_text(TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path / "two.py"),
               str(ROOT), str(Path(__file__).parent), str(tmp_path / "o")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]

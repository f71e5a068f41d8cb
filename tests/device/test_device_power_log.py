"""The whole power path on the fake board: energy against the exact integral, files, choices, failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from edgedit.core.errors import MissingError, UsageError
from edgedit.core.record import Power
from edgedit.core.say import Event
from edgedit.device import power as power_module
from edgedit.device.power import open_power
from tests.device.rapl_double import RaplDouble
from tests.fake_jetson import Curve, Updater, build_tree, install_tegrastats, tegrastats_environment

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def curve(monkeypatch: pytest.MonkeyPatch) -> Curve:
    curve = Curve(origin_ns=time.monotonic_ns())
    for name, value in tegrastats_environment(curve).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("EDGEDIT_TEGRASTATS", raising=False)
    return curve


@pytest.mark.parametrize(("release", "kind"), [("jp6", "sine"), pytest.param("jp7", "ramps", marks=pytest.mark.slow)])
def test_both_sources_measure_the_curve_within_one_percent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str,
                                                           kind: str) -> None:
    root, folder = build_tree(tmp_path / "root", release), tmp_path / "record"
    folder.mkdir()
    install_tegrastats(root)
    curve = Curve(kind=kind, period_s=1.5, origin_ns=time.monotonic_ns())
    for name, value in tegrastats_environment(curve, release).items():
        monkeypatch.setenv(name, value)
    said: list[Event] = []
    with Updater(root, curve), open_power(root=root, folder=folder) as log:
        log.idle(0.4, say=said.append)
        t0 = time.monotonic_ns()
        time.sleep(1.9)  # not a whole number of periods: the mean is not the curve's mean
        t1 = time.monotonic_ns()
        power, others, clock = log.window(t0, t1, 100), log.others(t0, t1, 100), log.gpu_mhz(t0, t1)
    exact = curve.energy_mj(t0, t1)
    assert power is not None and power.source == "ina3221" and [p.source for p in others] == ["tegrastats"]
    for figure in (power, *others):
        assert figure.total_rail == "VDD_IN" and figure.energy_total_mj == pytest.approx(exact, rel=0.01), figure.source
        assert figure.mj_per_image == pytest.approx(exact / 100, rel=0.01) and figure.idle_mw is not None
        part = next(r for r in figure.rails if r.name == "VDD_SOC")
        assert part.energy_mj == pytest.approx(exact / 4, rel=0.01)
    assert clock == 1020 and said[0].unit == "s" and said[-1].done == said[-1].total
    check_files(folder, power, t0, t1)


def check_files(folder: Path, power: Power, t0: int, t1: int) -> None:
    """Every line of power.jsonl parses; it holds the samples of both sources and both windows."""
    rows = [json.loads(line) for line in (folder / "power.jsonl").read_text().splitlines()]
    windows = {row["window"]: row for row in rows if "window" in row}
    assert set(windows) == {"idle", "run"} and (windows["run"]["t0_ns"], windows["run"]["t1_ns"]) == (t0, t1)
    assert windows["idle"]["t1_ns"] <= t0
    samples = [row for row in rows if "rails_mw" in row]
    assert {row["source"] for row in samples} == {"ina3221", "tegrastats"}
    inside = [row for row in samples if row["source"] == "ina3221" and t0 <= row["t_ns"] <= t1]
    assert len(inside) == power.samples
    assert len((folder / "tegrastats.log").read_text().splitlines()) == sum(row["source"] == "tegrastats" for row in samples)


def test_tegrastats_that_dies_leaves_its_part_and_the_other_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                   curve: Curve) -> None:
    monkeypatch.setenv("FAKE_MODE", "die:4")
    root = build_tree(tmp_path)
    install_tegrastats(root)
    with open_power(root=root, interval_s=0.05, folder=tmp_path) as log:
        time.sleep(0.1)
        t0 = time.monotonic_ns()
        time.sleep(0.5)
        t1 = time.monotonic_ns()
        power, others = log.window(t0, t1, 10), log.others(t0, t1, 10)
    assert power is not None and power.source == "ina3221" and power.window_s == pytest.approx((t1 - t0) / 1e9)
    assert all(p.window_s < 0.5 for p in others)
    codes = {v.code for v in log.verdicts()}
    assert "tegrastats-died" in codes and codes & {"tegrastats-partial", "tegrastats-no-energy"}
    assert "ina3221-partial" not in codes


@pytest.mark.parametrize("mode", ["rubbish", "norails", "stall:0"])
def test_tegrastats_alone_without_a_rail_gives_no_figure_but_a_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                       curve: Curve, mode: str) -> None:
    monkeypatch.setenv("FAKE_MODE", mode)
    executable = install_tegrastats(tmp_path)
    with open_power("tegrastats", interval_s=0.02, folder=tmp_path, tegrastats=executable) as log:
        t0 = time.monotonic_ns()
        time.sleep(0.3)
        assert log.window(t0, time.monotonic_ns(), 1) is None
    assert "tegrastats-no-energy" in {v.code for v in log.verdicts()}


def test_jetson_without_tegrastats_measures_and_says_so(tmp_path: Path, curve: Curve) -> None:
    with open_power(root=build_tree(tmp_path), interval_s=0.02) as log:
        t0 = time.monotonic_ns()
        time.sleep(0.2)
        assert log.window(t0, time.monotonic_ns(), 1) is not None
    absent = next(v for v in log.verdicts() if v.code == "power-source-absent")
    assert "tegrastats" in absent.text and absent.level == "note" and "mount" in absent.fix


def test_no_source_records_nothing_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power_module, "NvmlSource", missing)
    with open_power(root=tmp_path, folder=tmp_path) as log:
        begin = time.monotonic()
        log.idle(30)
        assert time.monotonic() - begin < 5  # there is nothing to wait for
        assert log.window(0, 10, 1) is None and log.others(0, 10, 1) == [] and log.gpu_mhz(0, 10) is None
    (verdict,) = log.verdicts()
    assert verdict.code == "no-power-source" and verdict.text.startswith("no power source: no RAPL") and verdict.fix
    assert not (tmp_path / "power.jsonl").exists()


def missing(interval_s: float) -> None:
    raise MissingError("no NVML", fix="get one")


def test_host_takes_the_figure_of_what_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power_module, "NvmlSource", missing)
    with RaplDouble(tmp_path, watts=20.0) as rapl:
        for compute, expected in (("cpu", "rapl"), ("gpu", None)):
            with open_power(root=rapl.root, interval_s=0.02, compute=compute) as log:  # type: ignore[arg-type]
                time.sleep(0.1)
                t0 = time.monotonic_ns()
                time.sleep(0.3)
                t1 = time.monotonic_ns()
                power, others = log.window(t0, t1, 1), log.others(t0, t1, 1)
            figure = power or others[0]
            assert (power.source if power else None) == expected
            assert figure.energy_total_mj == pytest.approx(20_000 * (t1 - t0) / 1e9, rel=0.1)
            assert ("no-power-source" in {v.code for v in log.verdicts()}) == (expected is None)


def test_choices() -> None:
    with pytest.raises(UsageError, match="tegrastats"):
        open_power("tegrastat")
    with pytest.raises(UsageError):
        open_power("auto", interval_s=0)
    with open_power("none") as log:
        assert [v.code for v in log.verdicts()] == ["power-off"]


def test_a_source_asked_for_by_name_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEDIT_TEGRASTATS", raising=False)
    for choice in ("ina3221", "rapl"):
        with pytest.raises(MissingError):
            open_power(choice, root=tmp_path)
    with pytest.raises(MissingError), open_power("tegrastats", root=tmp_path):
        pass


def test_a_window_needs_images_and_time() -> None:
    with open_power("none") as log, pytest.raises(UsageError):
        log.window(10, 10, 1)


def test_a_full_disk_keeps_the_figures(tmp_path: Path) -> None:
    root = build_tree(tmp_path / "root")
    os.symlink("/dev/full", tmp_path / "power.jsonl")
    with open_power("ina3221", root=root, interval_s=0.02, folder=tmp_path) as log:
        t0 = time.monotonic_ns()
        time.sleep(0.2)
        power = log.window(t0, time.monotonic_ns(), 1)
    assert power is not None and power.samples >= 3
    assert "space" in next(v.text for v in log.verdicts() if v.code == "power-log")


def test_sources_stop_when_the_run_raises(tmp_path: Path, curve: Curve) -> None:
    root = build_tree(tmp_path)
    install_tegrastats(root)
    log = open_power(root=root, interval_s=0.02)
    with pytest.raises(ZeroDivisionError), log:
        time.sleep(0.2)
        assert all(s.alive() for s in log.sources)
        raise ZeroDivisionError
    assert len(log.sources) == 2 and not any(s.alive() for s in log.sources)


def test_kill_9_loses_at_most_the_line_being_written(tmp_path: Path) -> None:
    build_tree(tmp_path)
    script = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from edgedit.device.power import open_power
        with open_power("ina3221", root=Path({str(tmp_path)!r}), interval_s=0.01, folder=Path({str(tmp_path)!r})):
            time.sleep(60)
    """)
    log = tmp_path / "power.jsonl"
    with subprocess.Popen([sys.executable, "-c", script], cwd=REPO) as child:
        give_up = time.monotonic() + 20
        while time.monotonic() < give_up and (not log.exists() or log.read_text().count("\n") < 10):
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
    lines = log.read_text().split("\n")
    assert len(lines) > 10 and all(json.loads(line)["rails_mw"]["VDD_IN"] == 6000 for line in lines[:-1])

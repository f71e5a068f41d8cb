"""Running a tegrastats: the executable double does it well, dies, prints rubbish, stops printing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from edgedit.core.errors import MissingError
from edgedit.device import tegrastats_log
from edgedit.device.power_source import PowerSample
from edgedit.device.tegrastats_log import TegrastatsLog, find_tegrastats
from tests.fake_jetson import Curve, install_tegrastats, tegrastats_environment, write

CURVE = Curve(kind="ramps", period_s=1.0)


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, *, style: str = "jp6", until: int = 8,
        linger_s: float = 0.0) -> tuple[TegrastatsLog, list[PowerSample], Path]:
    """Log until `until` lines came or the child ended (10 s at most), linger, stop."""
    for name, value in tegrastats_environment(CURVE, style, mode).items():
        monkeypatch.setenv(name, value)
    raw, got = tmp_path / "tegrastats.log", []
    log = TegrastatsLog(install_tegrastats(tmp_path), interval_s=0.02, log_file=raw)
    log.start(got.append)
    give_up = time.monotonic() + 10
    while log.lines < until and log.alive() and time.monotonic() < give_up:
        time.sleep(0.01)
    time.sleep(linger_s)
    log.stop()
    return log, got, raw


def codes(log: TegrastatsLog) -> list[str]:
    return [v.code for v in log.verdicts()]


@pytest.mark.parametrize(("style", "rail"), [("jp4", "POM_5V_IN"), ("jp5", "VDD_IN"), ("jp7", "VDD_IN")])
def test_every_release_is_logged_raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, style: str, rail: str) -> None:
    begin = time.monotonic_ns()
    log, got, raw = run(tmp_path, monkeypatch, "normal", style=style)
    end = time.monotonic_ns()
    assert len(got) == log.lines >= 8 and log.unparsed == 0 and codes(log) == []
    assert all(begin < a.t_ns < b.t_ns < end for a, b in pairwise(got))
    assert all(8900 < s.rails_mw[rail] < 12100 for s in got)
    lines = raw.read_text().splitlines()
    assert len(lines) == log.lines and int(lines[0].split("\t")[0]) == got[0].t_ns and "RAM" in lines[0].split("\t")[1]


@pytest.mark.parametrize("style", ["agx5", "agx7"])
def test_an_agx_orin_has_no_total_rail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, style: str) -> None:
    log, got, _ = run(tmp_path, monkeypatch, "normal", style=style)
    total = log.total(got[0].rails_mw)
    assert total is not None and total.known and total.name == "VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0+VDDQ_VDD2_1V8AO" and codes(log) == []
    assert sum(got[-1].rails_mw[part] for part in total.parts) == pytest.approx(CURVE.power_mw(got[-1].t_ns), rel=0.1)


def test_dying_half_way_keeps_what_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, got, raw = run(tmp_path, monkeypatch, "die:3", until=99)
    assert len(got) == 3 and len(raw.read_text().splitlines()) == 3 and not log.alive()
    (verdict,) = log.verdicts()
    assert verdict.code == "tegrastats-died" and "exit status 3" in verdict.text and "3 lines" in verdict.text and verdict.fix


def test_killed_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in tegrastats_environment(CURVE).items():
        monkeypatch.setenv(name, value)
    log, got = TegrastatsLog(install_tegrastats(tmp_path), interval_s=0.02), []
    log.start(got.append)
    while len(got) < 2:
        time.sleep(0.01)
    assert log._process is not None
    os.kill(log._process.pid, 9)
    while log.alive():
        time.sleep(0.01)
    log.stop()
    assert "signal SIGKILL" in log.verdicts()[0].text


def test_rubbish_is_counted_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, got, raw = run(tmp_path, monkeypatch, "rubbish")
    assert got == [] and log.unparsed == log.lines >= 8 and codes(log) == ["tegrastats-rubbish"]
    assert "NVRM" in log.verdicts()[0].text and b"NVRM" in raw.read_bytes()


def test_some_rubbish_between_good_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, got, _ = run(tmp_path, monkeypatch, "mixed", until=9)
    assert log.unparsed == log.lines // 3 and len(got) == log.lines - log.unparsed and codes(log) == ["tegrastats-rubbish"]


def test_stall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tegrastats_log, "_GRACE_S", 0.3)
    log, got, _ = run(tmp_path, monkeypatch, "stall:4", until=4, linger_s=0.5)
    assert len(got) == 4 and codes(log) == ["tegrastats-stalled"]


def test_no_rails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, got, _ = run(tmp_path, monkeypatch, "norails")
    assert got == [] and codes(log) == ["tegrastats-no-rails"] and "root" in log.verdicts()[0].fix


def test_lines_that_come_in_bursts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, _, _ = run(tmp_path, monkeypatch, "burst", until=16)
    assert "tegrastats-bursts" in codes(log)


def test_usage_error_of_the_child_is_told(tmp_path: Path) -> None:
    script = write(tmp_path, "tegrastats", f"#!{sys.executable}\nprint('unknown option --interval')\nraise SystemExit(2)\n")
    script.chmod(0o755)
    log = TegrastatsLog(script, interval_s=0.02)
    log.start(lambda sample: None)
    while log.alive():
        time.sleep(0.01)
    log.stop()
    assert codes(log) == ["tegrastats-died", "tegrastats-rubbish"] and "unknown option" in log.verdicts()[1].text


def test_missing_or_broken_executable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEDIT_TEGRASTATS", raising=False)
    with pytest.raises(MissingError, match="container"):
        TegrastatsLog(root=tmp_path).start(lambda sample: None)
    write(tmp_path, "board/.dockerenv", "")
    with pytest.raises(MissingError, match="not in containers unless mounted") as raised:
        TegrastatsLog(root=tmp_path / "board").start(lambda sample: None)
    assert "-v /usr/bin/tegrastats:/usr/bin/tegrastats:ro" in str(raised.value.fix) and "docker" in str(raised.value.saw)
    broken = write(tmp_path, "tegrastats", "#!/nowhere/python\n")
    broken.chmod(0o755)
    with pytest.raises(MissingError, match="cannot be run"):
        TegrastatsLog(broken).start(lambda sample: None)


def test_a_full_disk_costs_the_raw_log_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in tegrastats_environment(CURVE).items():
        monkeypatch.setenv(name, value)
    log, got = TegrastatsLog(install_tegrastats(tmp_path), interval_s=0.02, log_file=Path("/dev/full")), []
    log.start(got.append)
    while len(got) < 3:
        time.sleep(0.01)
    log.stop()
    assert codes(log) == ["tegrastats-log"] and "space" in log.verdicts()[0].text


def test_look_up_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = install_tegrastats(tmp_path)
    other = write(tmp_path, "other", "#!/bin/sh\n")
    other.chmod(0o755)
    assert find_tegrastats(root=tmp_path, environ={}) == inside
    assert find_tegrastats(root=tmp_path, environ={"EDGEDIT_TEGRASTATS": str(other)}) == other
    assert find_tegrastats(inside, root=tmp_path, environ={"EDGEDIT_TEGRASTATS": str(other)}) == inside
    assert find_tegrastats(tmp_path / "nothing", root=tmp_path, environ={}) is None


def test_only_our_own_process_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tegrastats that somebody else started goes on."""
    executable = install_tegrastats(tmp_path)
    environ = {**os.environ, **tegrastats_environment(CURVE)}
    with subprocess.Popen([executable, "--interval", "50"], stdout=subprocess.DEVNULL, env=environ) as other:
        try:
            run(tmp_path, monkeypatch, "normal", until=2)
            assert other.poll() is None
        finally:
            other.terminate()

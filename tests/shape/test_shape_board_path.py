"""A profile on the fake board, from power logging to the report: what a person with a Jetson would do, end to end."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edgedit.core.record import load_record
from edgedit.device.measure import ProfileSettings
from edgedit.device.profile import profile
from edgedit.report.page import write_report
from tests.device.bundle_kit import make_bundle
from tests.fake_jetson import Curve, Updater, build_tree, install_tegrastats, tegrastats_environment


@pytest.mark.parametrize("release", ["jp6", "jp7"])
def test_energy_of_a_profile_is_the_curves_and_reaches_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    root = build_tree(tmp_path / "board", release)
    install_tegrastats(root)
    curve = Curve(swing_mw=600)  # on a busy machine its writer lags, which a flat curve forgives; test_device_power_log has a steep one
    for key, value in tegrastats_environment(curve, release).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("PATH", f"{root / 'usr/bin'}{os.pathsep}{os.environ['PATH']}")
    bundle = make_bundle(tmp_path / "bundle")
    with Updater(root, curve):
        record = profile(bundle, "ort", tmp_path / "record", ProfileSettings(images=64, min_seconds=2.5, idle_s=0.5), root=root)
    power = record.power
    assert power is not None and power.source == "ina3221" and power.total_rail == "VDD_IN"
    assert [p.source for p in record.power_others] == ["tegrastats"]
    assert record.environment.power_mode == "MAXN_SUPER"
    marks = [json.loads(line) for line in (tmp_path / "record" / "power.jsonl").read_text().splitlines() if '"window"' in line]
    window = next(m for m in marks if m["window"] == "run")
    for seen in (power, *record.power_others):
        assert seen.energy_total_mj == pytest.approx(curve.energy_mj(window["t0_ns"], window["t1_ns"]), rel=0.02)
    write_report([tmp_path / "record"], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "VDD_IN" in page and "power.jsonl" not in page.split("<style")[0]
    assert load_record(tmp_path / "record").power == power
    assert (tmp_path / "record" / "tegrastats.log").stat().st_size > 100

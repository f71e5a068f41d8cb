"""The page in a real browser: no console error, no request, nothing wider than a phone."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgedit import report
from edgedit.report.page import write_report

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, and none is installed")
Make = Callable[..., Path]
FLAGS = (
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--allow-file-access-from-files",
    "--enable-logging=stderr",
    "--virtual-time-budget=2000",
)


def load(file: Path, scratch: Path, *more: str) -> tuple[str, list[str], list[str]]:
    """Open a file; returns its DOM after loading, console lines, and the addresses that the page asked for."""
    log = scratch / "net.json"
    run = subprocess.run([str(CHROMIUM), *FLAGS, *more, f"--user-data-dir={scratch / 'profile'}", f"--log-net-log={log}", "--dump-dom",
                          file.as_uri()], capture_output=True, text=True, timeout=90, check=True)
    events = [e.get("params") for e in json.loads(log.read_text())["events"]]
    asked = [
        p["url"]
        for p in events
        if isinstance(p, dict) and "url" in p and p.get("initiator", "not an origin") != "not an origin"
    ]
    return run.stdout, [line for line in run.stderr.splitlines() if "CONSOLE" in line], asked


def look(page: Path, scratch: Path, *more: str, width: int = 375) -> tuple[dict[str, Any], list[str], list[str]]:
    """What a page looks like in a frame of a phone's width, seen from outside: it has no script of its own.

    Chromium's window is never narrower than 500 pixels, so the phone is a frame in a page that does the measuring.
    """
    frame = scratch / "phone.html"
    frame.write_text(
        f'<!doctype html><meta name="color-scheme" content="light dark"><title>phone</title>'
        f'<iframe src="{page.name}" style="width:{width}px; border:0"></iframe>'
        """<script>onload = () => {
        const d = document.querySelector("iframe").contentDocument, all = s => [...d.querySelectorAll(s)];
        const seen = e => e.getClientRects().length > 0;
        document.title = JSON.stringify({
          shown: d.documentElement.clientWidth, needed: d.documentElement.scrollWidth,
          images: all("img").length, broken: all("img").filter(i => !i.complete || i.naturalWidth < 8).length,
          charts: all("figure.chart").length, visible: all("figure.chart svg").filter(seen).length,
          small: all("figure.chart svg text").filter(seen).filter(t => t.getBoundingClientRect().height < 9).length,
          titles: all("svg title").length, background: getComputedStyle(d.body).backgroundColor, ink: getComputedStyle(d.body).color,
          chart_ink: [...new Set(all("svg text.name").filter(seen).map(t => getComputedStyle(t).fill))]}) }</script>"""
    )
    dom, console, asked = load(frame, scratch, *more)
    told: dict[str, Any] = json.loads(html.unescape(dom.partition("<title>")[2].partition("</title>")[0]))
    return told, console, asked


def test_page_is_quiet_asks_for_nothing_and_fits_a_phone(
    tmp_path: Path, record: Callable[..., Path], parity: Callable[..., Path], student: Callable[..., Path]
) -> None:
    sources = [
        record(tmp_path / "a", images=2000),
        record(tmp_path / "b", images=1000, power=False, guidance=1.0),
        parity(tmp_path / "parity"),
        student(tmp_path / "student", steps=500),
    ]
    page = write_report(sources, tmp_path / "report.html").html
    told, console, asked = look(page, tmp_path)
    assert console == [] and asked == []
    assert told["shown"] <= 375 and told["needed"] <= told["shown"], "the page scrolls sideways on a phone"
    assert page.stat().st_size < 2_000_000


def test_page_of_a_sweep_in_light_and_dark(
    tmp_path: Path, record: Make, sweep: Make, row: Callable[..., dict[str, Any]], real_rows: list[dict[str, Any]]
) -> None:
    rows = [*real_rows, row((4, 96, 8), predicted_s={"floor": 90.0, "corrected": 190.0}), row((4, 128, 8), latency_50k_s=300.0),
            *(row((d, 128, 4), name=f"fig3-{d}", table="fig3", quality={"name": "FID-768-1k", "value": 9.0 - d}) for d in (2, 4, 6))]
    sources = [sweep(tmp_path / "sweep", rows), record(tmp_path / "a", images=3000),
               record(tmp_path / "b", images=3000, precision="fp32", seed=1)]
    page = write_report(sources, tmp_path / "report.html").html
    light, console, asked = look(page, tmp_path)
    assert console == [] and asked == []
    assert light["images"] == 2 and light["broken"] == 0
    assert light["charts"] >= 15 and light["visible"] == light["charts"], "each chart is drawn twice, and one of them is shown"
    assert light["small"] == 0, "text of a chart too small to read on a phone"
    assert light["needed"] <= light["shown"] <= 375, "the page scrolls sideways on a phone"
    assert light["titles"] > 100
    dark, console, _ = look(page, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert console == []
    assert _brightness(light["background"]) > 200 > 80 > _brightness(dark["background"])
    assert _brightness(dark["ink"]) > 180 > 80 > _brightness(light["ink"])
    assert all(_brightness(colour) > 180 for colour in dark["chart_ink"]) and all(_brightness(colour) < 80 for colour in light["chart_ink"])


def test_a_table_that_goes_on_has_a_shadow_at_its_edge(tmp_path: Path) -> None:
    style = (Path(report.__file__).parent / "templates" / "style.css").read_text(encoding="utf-8")
    rows = "<tr><td>x</td></tr>" * 8
    page, shot = tmp_path / "table.html", tmp_path / "table.png"
    page.write_text(f"<!doctype html><style>{style}</style>"
                    f'<body><div class="scroll" style="width:240px; margin:0"><table style="width:900px">{rows}</table></div>'
                    f'<div class="scroll" style="width:240px; margin:0"><table>{rows}</table></div>')
    subprocess.run([str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'shot'}", "--hide-scrollbars", "--window-size=500,600",
                    f"--screenshot={shot}", page.as_uri()], capture_output=True, timeout=90, check=True)
    with Image.open(shot) as picture:
        grey = np.asarray(picture.convert("L"), int)
    shaded = np.flatnonzero(grey[:, 238] < grey[:, 120] - 20)
    assert 200 < len(shaded) < 290 and shaded[0] < 10 and np.ptp(shaded) < 290, "the wide table alone, of the two of some 270 pixels each"


def _brightness(colour: str) -> float:
    """Mean of red, green and blue of "rgb(1, 2, 3)"."""
    values = [float(v) for v in re.findall(r"[\d.]+", colour)[:3]]
    return sum(values) / 3


def test_the_checks_above_can_fail(tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text('<!doctype html><title>x</title><img src="http://127.0.0.1:9/x.png"><div style="width:900px">wide</div>'
                   '<figure class="chart"><svg width="99" height="20"><text y="9" font-size="4">x</text></svg></figure>'
                   '<script>console.error("boom")</script>')
    told, console, asked = look(bad, tmp_path)
    assert any("boom" in line for line in console) and asked == ["http://127.0.0.1:9/x.png"]
    assert told["broken"] == 1 and told["needed"] > told["shown"] and told["small"] == 1

"""The page in a real browser: no console error, no request, nothing wider than a phone."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgedit.report.page import write_report

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, and none is installed")
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


def load(file: Path, scratch: Path) -> tuple[str, list[str], list[str]]:
    """Open a file; returns its DOM after loading, console lines, and the addresses that the page asked for."""
    log = scratch / "net.json"
    run = subprocess.run([str(CHROMIUM), *FLAGS, f"--user-data-dir={scratch / 'profile'}", f"--log-net-log={log}", "--dump-dom",
                          file.as_uri()], capture_output=True, text=True, timeout=90, check=True)
    events = [e.get("params") for e in json.loads(log.read_text())["events"]]
    asked = [
        p["url"]
        for p in events
        if isinstance(p, dict) and "url" in p and p.get("initiator", "not an origin") != "not an origin"
    ]
    return run.stdout, [line for line in run.stderr.splitlines() if "CONSOLE" in line], asked


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
    # Chromium's window is never narrower than 500 pixels: the phone is a frame, and its document is measured from outside.
    phone = tmp_path / "phone.html"
    phone.write_text(
        '<!doctype html><title>phone</title><iframe src="report.html" style="width:375px; border:0"></iframe>'
        "<script>onload = () => { const d = document.querySelector('iframe').contentDocument.documentElement;"
        "document.title = `${d.clientWidth} ${d.scrollWidth}` }</script>"
    )
    dom, console, asked = load(phone, tmp_path)
    assert console == [] and asked == []
    shown, needed = map(int, dom.partition("<title>")[2].partition("</title>")[0].split())
    assert shown <= 375 and needed <= shown, "the page scrolls sideways on a phone"
    assert page.stat().st_size < 2_000_000


def test_the_checks_above_can_fail(tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text('<!doctype html><title>x</title><img src="http://127.0.0.1:9/x.png"><script>console.error("boom")</script>')
    _, console, asked = load(bad, tmp_path)
    assert any("boom" in line for line in console) and asked == ["http://127.0.0.1:9/x.png"]

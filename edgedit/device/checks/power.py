"""Power monitors, tegrastats, and jtop's service; on hosts RAPL and NVML."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from edgedit.core.errors import MissingError
from edgedit.device.finding import Finding
from edgedit.device.host_power import NvmlSource, RaplSource
from edgedit.device.ina3221 import Ina3221Source
from edgedit.device.jetpack import Release
from edgedit.device.power_source import PowerSource
from edgedit.device.python_facts import PythonFacts
from edgedit.device.sysfs import container, processes
from edgedit.device.tegrastats_log import MOUNT, find_tegrastats


def power_findings(root: Path, facts: PythonFacts, release: Release | None, uid: int) -> Iterator[Finding]:
    """What a Jetson's energy can be measured with."""
    readable = True
    try:
        source = Ina3221Source(root)
        source.stop()
        total = source.total([c.label for c in source.channels])
        yield Finding("ok", "power", "power monitor", f"INA3221, total from {total.name if total else 'no rail'}")
    except MissingError as error:
        readable = False
        yield Finding("warning", "no-power-monitor", error.what, error.saw or "", error.fix or "")
    yield _tegrastats(root, facts)
    if not readable and release is not None and release.major <= 35 and uid != 0:
        yield Finding("warning", "rails-need-root", "JetPack 5's tegrastats prints power rails to root only, and nothing else tells them",
                      f"Jetson Linux {release.l4t}", "sudo -E $(which edgedit) profile …")
    if (root / "run/jtop.sock").exists() or "jtop" in processes(root):
        yield Finding("note", "jtop", "jtop's service runs: it reads sensors all the time and may set clocks when the board starts",
                      "/run/jtop.sock", "sudo systemctl stop jtop.service for the measurement")


def host_power_finding(root: Path) -> Finding:
    """What a host's energy can be measured with."""
    makers: dict[str, Callable[[], PowerSource]] = {"RAPL": lambda: RaplSource(root), "NVML": NvmlSource}
    if not (root / "proc/driver/nvidia/version").exists():
        del makers["NVML"]
    readable, reasons = [], []
    for name, maker in makers.items():
        try:
            maker().stop()
            readable.append(name)
        except MissingError as error:
            reasons.append(error)
    if readable:
        return Finding("ok", "power", "power source", ", ".join(readable))
    return Finding("note", "no-power-source", "no power source: profiles will hold times without energy",
                   "; ".join(f"{e.what} ({e.saw})" for e in reasons), next((e.fix for e in reasons if e.fix), ""))


def _tegrastats(root: Path, facts: PythonFacts) -> Finding:
    found, inside = find_tegrastats(root=root, environ=facts.environ), container(root)
    if found is not None:
        return Finding("ok", "tegrastats", "tegrastats", str(found))
    if inside:
        return Finding("warning", "no-tegrastats", "tegrastats is not in containers unless mounted", inside,
                       f"add {MOUNT} --pid=host")
    return Finding("warning", "no-tegrastats", "tegrastats is not there", "not on PATH", "sudo apt install nvidia-l4t-tools")

"""Choose what to read power from: on a Jetson its INA3221 monitor and tegrastats, on hosts RAPL and NVML."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from edgedit.core.errors import MissingError, UsageError, did_you_mean
from edgedit.core.record import TEGRASTATS_FILE
from edgedit.device.host_power import NvmlSource, RaplSource
from edgedit.device.ina3221 import Ina3221Source
from edgedit.device.power_log import PowerLog
from edgedit.device.power_source import PowerSource, verdict
from edgedit.device.sysfs import is_jetson
from edgedit.device.tegrastats_log import TegrastatsLog

PowerChoice = Literal["auto", "none", "ina3221", "tegrastats", "rapl", "nvml"]


def open_power(choice: PowerChoice | str = "auto", *, root: Path = Path("/"), interval_s: float = 0.1,
               folder: Path | None = None, compute: Literal["cpu", "gpu"] = "cpu",
               tegrastats: str | Path | None = None) -> PowerLog:
    """Choose power sources; logging begins when the result is entered as a context manager.

    Args:
        choice: "auto" takes on a Jetson the INA3221 monitor, with tegrastats logged beside it, and on hosts RAPL and NVML,
            whichever can be read; when there is none, nothing is recorded and a verdict says why. "none" records nothing. A
            source by name must be there.
        root: root of the file system that is read (tests give a tree of their own).
        interval_s: time between samples; 0.1 is 10 Hz.
        folder: where `power.jsonl` and `tegrastats.log` are written; None keeps samples in memory only.
        compute: what the network runs on; on hosts it decides whether the processor's or the GPU's figure is the run's. The
            other is only logged.
        tegrastats: its executable, by default `EDGEDIT_TEGRASTATS` or the one on PATH.

    Raises:
        UsageError: unknown choice, or an interval that is not positive.
        MissingError: a source asked for by name is not there.
    """
    if choice not in get_args(PowerChoice):
        raise UsageError(f"unknown power source '{choice}'", fix=did_you_mean(choice, get_args(PowerChoice)))
    if not interval_s > 0:
        raise UsageError("the power interval must be above 0", saw=interval_s)

    log_file = None if folder is None else folder / TEGRASTATS_FILE
    makers: dict[str, Callable[[], PowerSource]] = {
        "ina3221": lambda: Ina3221Source(root, interval_s),
        "tegrastats": lambda: TegrastatsLog(tegrastats, interval_s=interval_s, log_file=log_file, root=root),
        "rapl": lambda: RaplSource(root, interval_s),
        "nvml": lambda: NvmlSource(interval_s),
    }
    if choice == "none":
        return PowerLog([], folder=folder, notes=[verdict("note", "power-off", "power was not measured, as asked")])
    if choice != "auto":
        return PowerLog([makers[choice]()], folder=folder, required=True)
    primaries: tuple[str, ...]
    if is_jetson(root):
        order = ("ina3221", "tegrastats")
        primaries = order
    else:
        order = ("rapl", "nvml") if compute == "cpu" else ("nvml", "rapl")
        primaries = order[:1]
    sources, absent = [], {}
    for name in order:
        try:
            sources.append(makers[name]())
        except MissingError as error:
            absent[name] = error
    return PowerLog(sources, folder=folder, primaries=primaries, absent=absent)

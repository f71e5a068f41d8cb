"""Power on hosts: RAPL counters of the processor, NVML of an NVIDIA GPU. Read only."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from edgedit.core.errors import MissingError
from edgedit.core.record import Verdict
from edgedit.device.power_source import Poller, PowerSample, Sink, Total
from edgedit.device.sysfs import read_number, read_text

_FIX = "check `nvidia-smi`, or use another --power"


def unwrap(old_uj: float, new_uj: float, range_uj: float) -> float:
    """Microjoules counted between two readings of a counter that starts again at 0 after `range_uj`."""
    return new_uj - old_uj if new_uj >= old_uj else new_uj + range_uj - old_uj


class RaplSource:
    """Energy counters of the processor packages and their DRAM (powercap, `/sys/class/powercap/intel-rapl*`; AMD too).

    The total is packages plus DRAM; `core` and `uncore` lie inside their package and `psys` around it, they are logged and
    never added.

    Raises:
        MissingError: no counters, or they are readable by root only.
    """

    name = "rapl"

    def __init__(self, root: Path = Path("/"), interval_s: float = 0.1) -> None:
        self.interval_s = interval_s
        zones = sorted((root / "sys/class/powercap").glob("intel-rapl:*"))
        if not zones:
            raise MissingError("no RAPL counters", saw=f"nothing in {root / 'sys/class/powercap'}",
                               fix="run on the bare machine; virtual machines and most containers hide them")
        parents = {zone.name: read_text(zone / "name") or zone.name for zone in zones}
        self._zones = {_rapl_label(zone, parents): zone for zone in zones if read_number(zone / "energy_uj") is not None}
        if not self._zones:
            raise MissingError("RAPL counters cannot be read", saw=f"{zones[0]}/energy_uj: root only",
                               fix="run as root, or `sudo chmod a+r /sys/class/powercap/*/energy_uj` until the next boot "
                               "(it opens a side channel to other users: CVE-2020-8694)")
        self._range_uj = {label: read_number(zone / "max_energy_range_uj") or 2.0**32 for label, zone in self._zones.items()}
        self._last: dict[str, tuple[int, float]] = {}
        self._count_mj = dict.fromkeys(self._zones, 0.0)
        self._poller = Poller(self.name, interval_s, self.read)

    def read(self) -> PowerSample | None:
        """Unwrapped counters, and the mean power since the reading before; None if nothing could be read."""
        rails, energy = {}, {}
        now = time.monotonic_ns()
        for label, zone in self._zones.items():
            value = read_number(zone / "energy_uj")
            if value is None:
                continue
            if label in self._last:
                then, old = self._last[label]
                step_mj = unwrap(old, value, self._range_uj[label]) / 1e3
                self._count_mj[label] += step_mj
                rails[label] = step_mj / max((now - then) / 1e9, 1e-9)
            self._last[label] = now, value
            energy[label] = self._count_mj[label]
        return PowerSample(now, rails, energy) if energy else None

    def start(self, sink: Sink) -> None:
        self._last.clear()
        self._poller.start(sink)

    def stop(self) -> None:
        self._poller.stop()

    def alive(self) -> bool:
        return self._poller.alive()

    def total(self, rails: Collection[str]) -> Total | None:
        parts = tuple(sorted(r for r in rails if r.startswith("package") and ("/" not in r or r.endswith("/dram"))))
        text = "processor packages" + (" and DRAM" if any("/" in p for p in parts) else "")
        return Total(parts, f"RAPL: {text}; GPU, board, disks and power supply excluded") if parts else None

    def verdicts(self) -> list[Verdict]:
        return self._poller.verdicts()


class NvmlSource:
    """NVIDIA GPUs through nvidia-ml-py: power, and the energy counter where the GPU has one (Volta and newer).

    On most GPUs since Ampere `nvmlDeviceGetPowerUsage` is a mean over one second (NVML API reference), so the energy comes
    from the counter where there is one. The total is the first visible GPU, on which a runner computes; the others are logged.

    Args:
        nvml: a module with pynvml's interface; None imports pynvml.
        environ: where CUDA_VISIBLE_DEVICES is looked up.

    Raises:
        MissingError: no nvidia-ml-py, no driver, or no GPU.
    """

    name = "nvml"

    def __init__(self, interval_s: float = 0.1, *, nvml: Any = None, environ: Mapping[str, str] = os.environ) -> None:
        self.interval_s = interval_s
        self._nvml = nvml if nvml is not None else _import_nvml()
        self._failed: type[Exception] = self._nvml.NVMLError
        try:
            self._nvml.nvmlInit()
        except self._failed as error:
            raise MissingError("the NVIDIA driver does not answer", saw=error, fix=_FIX) from error
        try:
            self._gpus = {f"gpu-{i}": self._nvml.nvmlDeviceGetHandleByIndex(i) for i in self._visible(environ)}
            model = _as_text(self._nvml.nvmlDeviceGetName(next(iter(self._gpus.values())))) if self._gpus else ""
            self._counts = {name for name, gpu in self._gpus.items() if self._counter(gpu) is not None}
        except self._failed as error:
            self._nvml.nvmlShutdown()
            raise MissingError("NVML lists no usable GPU", saw=error, fix=_FIX) from error
        if not self._gpus or self.read() is None:
            self._nvml.nvmlShutdown()
            raise MissingError("NVML shows no GPU whose power can be read", fix="use another --power")
        how = "by its energy counter" if next(iter(self._gpus)) in self._counts else "by its power reading"
        self._boundary = f"NVML: {model} ({next(iter(self._gpus))}), whole GPU board {how}; the rest of the host excluded"
        self._poller = Poller(self.name, interval_s, self.read)
        self._open = True

    def read(self) -> PowerSample | None:
        """Power, counter and clock of each GPU, stamped in the middle of the reading; None if no GPU answered."""
        rails, energy, before = {}, {}, time.monotonic_ns()
        for name, gpu in self._gpus.items():
            try:
                rails[name] = float(self._nvml.nvmlDeviceGetPowerUsage(gpu))
            except self._failed:
                continue
            if name in self._counts and (count := self._counter(gpu)) is not None:
                energy[name] = count
        stamp = (before + time.monotonic_ns()) // 2
        return PowerSample(stamp, rails, energy, self._clock()) if rails else None

    def start(self, sink: Sink) -> None:
        self._poller.start(sink)

    def stop(self) -> None:
        self._poller.stop()
        if self._open:
            self._open = False
            self._nvml.nvmlShutdown()

    def alive(self) -> bool:
        return self._poller.alive()

    def total(self, rails: Collection[str]) -> Total | None:
        first = next(iter(self._gpus))
        return Total((first,), self._boundary) if first in rails else None

    def verdicts(self) -> list[Verdict]:
        return self._poller.verdicts()

    def _visible(self, environ: Mapping[str, str]) -> list[int]:
        indexes = list(range(self._nvml.nvmlDeviceGetCount()))
        chosen = [part.strip() for part in environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
        if not all(part.isdigit() and int(part) in indexes for part in chosen):
            return indexes
        return [int(part) for part in chosen]

    def _counter(self, gpu: Any) -> float | None:
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(gpu))
        except self._failed:
            return None

    def _clock(self) -> float | None:
        try:
            return float(self._nvml.nvmlDeviceGetClockInfo(next(iter(self._gpus.values())), self._nvml.NVML_CLOCK_SM))
        except self._failed:
            return None


def _rapl_label(zone: Path, names: Mapping[str, str]) -> str:
    """`intel-rapl:0` → "package-0"; `intel-rapl:0:1` → "package-0/dram"."""
    prefix, *numbers = zone.name.split(":")
    return "/".join(names.get(":".join([prefix, *numbers[:n]]), zone.name) for n in range(1, len(numbers) + 1))


def _import_nvml() -> Any:
    try:
        return importlib.import_module("pynvml")
    except ImportError as error:
        raise MissingError("NVML needs the package nvidia-ml-py", saw=error, fix="pip install nvidia-ml-py") from error


def _as_text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name

"""Power of a Jetson straight from its INA3221 monitors in sysfs. Read only: nothing here ever writes to such a node."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from edgedit.core.errors import MissingError
from edgedit.core.record import Verdict
from edgedit.device.power_source import Poller, PowerSample, Sink, Total, jetson_total
from edgedit.device.sysfs import NumberFile, container, gpu_devfreq, read_text

_HWMON = ("sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*", "sys/class/hwmon/hwmon*")
_IIO = ("sys/bus/i2c/drivers/ina3221x/*/iio:device*", "sys/bus/i2c/drivers/ina3221x/*/iio_device*")
_SKIP = frozenset({"", "NC", "sum of shunt voltages"})


@dataclass(frozen=True)
class Channel:
    """One rail: its power in mW is the product of the numbers in `files` times `scale`.

    JetPack 5 and newer have a file in mV and one in mA (scale 1/1000), JetPack 4 has one in mW.
    """

    label: str
    files: tuple[Path, ...]
    scale: float = 1.0


def find_channels(root: Path = Path("/")) -> list[Channel]:
    """All rails of all INA3221 chips, by label: the number in `hwmonN` changes from boot to boot.

    Covers the hwmon layout (`in{n}_label`, `in{n}_input`, `curr{n}_input`) and JetPack 4's iio layout (`rail_name_{n}`,
    `in_power{n}_input`). Channels named NC, the "sum of shunt voltages" channel and any without a current are left out.
    """
    found: dict[str, Channel] = {}
    for pattern in _HWMON:
        for chip in sorted(root.glob(pattern)):
            if pattern.startswith("sys/class") and "ina3221" not in (read_text(chip / "name") or ""):
                continue
            for label_file in sorted(chip.glob("in*_label")):
                label, number = read_text(label_file) or "", label_file.name[2:-len("_label")]
                voltage, current = chip / f"in{number}_input", chip / f"curr{number}_input"
                if label not in _SKIP and current.exists():
                    found.setdefault(label, Channel(label, (voltage, current), 1e-3))
    for pattern in _IIO:
        for chip in sorted(root.glob(pattern)):
            for name_file in sorted(chip.glob("rail_name_*")):
                label, number = read_text(name_file) or "", name_file.name[len("rail_name_"):]
                if label not in _SKIP:
                    found.setdefault(label, Channel(label, (chip / f"in_power{number}_input",)))
    return list(found.values())


class Ina3221Source:
    """INA3221 rails, sampled by an own thread. Needs no root on developer kits.

    Raises:
        MissingError: no chip, or none of its channels can be read.
    """

    name = "ina3221"

    def __init__(self, root: Path = Path("/"), interval_s: float = 0.1) -> None:
        self.interval_s = interval_s
        self.channels = find_channels(root)
        if not self.channels:
            inside = container(root)
            raise MissingError("no INA3221 power monitor", saw=f"nothing under {root / 'sys/bus/i2c/drivers/ina3221'}",
                               fix="pass /sys into the container: docker run --privileged, or -v /sys:/sys:ro" if inside else
                               "use a Jetson, or another --power; on JetPack 5 also run as root")
        self._rails = [(c.label, c.scale, [NumberFile(file) for file in c.files]) for c in self.channels]
        node = gpu_devfreq(root)
        self._gpu_clock = None if node is None else NumberFile(node / "cur_freq")
        self._poller = Poller(self.name, interval_s, self.read)
        if self.read() is None:
            self._close()
            raise MissingError("the INA3221 power monitor cannot be read", saw=self.channels[0].files[-1],
                               fix="run as root, or pass /sys into the container")

    def read(self) -> PowerSample | None:
        """One sample of all rails, stamped at the middle of the reading; None if no rail could be read."""
        rails, before = {}, time.monotonic_ns()
        for label, scale, files in self._rails:
            numbers = [number for file in files if (number := file.read()) is not None]
            if len(numbers) == len(files):
                rails[label] = math.prod(numbers) * scale
        stamp = (before + time.monotonic_ns()) // 2
        clock = self._gpu_clock.read() if self._gpu_clock is not None else None
        return PowerSample(stamp, rails, gpu_mhz=None if clock is None else clock / 1e6) if rails else None

    def start(self, sink: Sink) -> None:
        self._poller.start(sink)

    def stop(self) -> None:
        self._poller.stop()
        self._close()

    def alive(self) -> bool:
        return self._poller.alive()

    def total(self, rails: Collection[str]) -> Total | None:
        return jetson_total(rails)

    def verdicts(self) -> list[Verdict]:
        return self._poller.verdicts()

    def _close(self) -> None:
        for file in [self._gpu_clock, *(file for _, _, files in self._rails for file in files)]:
            if file is not None:
                file.close()

"""Was the machine steady? A snapshot before and one after the run, and what their difference says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgedit.core.record import Verdict
from edgedit.device.board import overcurrent_counts, temperatures
from edgedit.device.clocks import clocks_locked
from edgedit.device.jetpack import read_power_modes
from edgedit.device.power_source import verdict
from edgedit.device.sysfs import is_jetson, read_number, read_text

WARM_UP_C = 10.0
"""A zone that warms by more than this over a run says that the run began cold."""


@dataclass(frozen=True)
class Throttle:
    """State of the things that slow a machine down, at one moment.

    Attributes:
        events: counters of over-current and thermal throttling since boot.
        temperature_c: zone → °C.
        limit_c: zone → lowest passive trip point, where the kernel begins to throttle.
        power_mode_id: live nvpmodel mode.
        locked: clocks pinned, not pinned, or unknown.
        jetson: whether `sudo jetson_clocks` is a remedy here.
    """

    events: dict[str, int]
    temperature_c: dict[str, float]
    limit_c: dict[str, float]
    power_mode_id: int | None
    locked: bool | None
    jetson: bool


def snapshot(root: Path = Path("/")) -> Throttle:
    """Read the present state; takes a few milliseconds."""
    return Throttle(overcurrent_counts(root), temperatures(root), passive_trips(root), read_power_modes(root).live_id,
                    clocks_locked(root), is_jetson(root))


def throttle_verdicts(before: Throttle, after: Throttle) -> list[Verdict]:
    """What happened between two snapshots: throttling, a zone at its limit, a cold start, another mode, free clocks."""
    found = []
    risen = {name: n - before.events[name] for name, n in after.events.items() if n > before.events.get(name, n)}
    if risen:
        text = ", ".join(f"{name} +{n}" for name, n in risen.items())
        found.append(verdict("warning", "throttled", f"the machine throttled during the run ({text})",
                             "use a lower power mode or a stronger supply" if after.jetson else "improve the cooling"))
    hot = {z: t for z, t in after.temperature_c.items() if z in after.limit_c and t >= after.limit_c[z] - 1}
    if hot:
        text = ", ".join(f"{zone} {t:.1f} °C of {after.limit_c[zone]:.0f}" for zone, t in hot.items())
        found.append(verdict("warning", "hot", f"at the temperature where clocks are cut: {text}", "improve the cooling"))
    rise = {z: t - before.temperature_c[z] for z, t in after.temperature_c.items() if z in before.temperature_c}
    zone = max(rise, key=rise.__getitem__, default=None)
    if zone is not None and rise[zone] > WARM_UP_C:
        found.append(verdict("note", "not-warm", f"{zone} warmed by {rise[zone]:.1f} °C during the run: it did not begin warm",
                             "run again at once, or with more warm-up"))
    if before.power_mode_id != after.power_mode_id:
        found.append(verdict("warning", "mode-changed", f"the power mode changed during the run, from {before.power_mode_id} "
                             f"to {after.power_mode_id}", "run again, and leave the mode alone"))
    if before.jetson and after.locked is False:
        found.append(verdict("note", "clocks-free", "clocks follow the load: latency is not comparable across runs",
                             "sudo jetson_clocks"))
    return found


def passive_trips(root: Path) -> dict[str, float]:
    """Zone → lowest temperature in °C at which the kernel throttles."""
    limits: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        name = read_text(zone / "type")
        trips = [value / 1000 for kind in zone.glob("trip_point_*_type") if read_text(kind) == "passive"
                 and (value := read_number(kind.with_name(kind.name.replace("_type", "_temp")))) is not None and value > 0]
        if name and trips:
            limits[name if name not in limits else zone.name] = min(trips)
    return limits

"""Power mode, Super configuration, clocks, heat, and what a run that was cut off left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgedit.device.board import overcurrent_counts, temperatures
from edgedit.device.clocks import clocks_locked, governors, gpu_clock
from edgedit.device.finding import Finding
from edgedit.device.jetpack import Release, version_numbers
from edgedit.device.mode_tools import ask_live_id
from edgedit.device.modes import leftover
from edgedit.device.nvpmodel import PowerMode, PowerTable, read_table
from edgedit.device.sysfs import board_model, container, read_text
from edgedit.device.throttle import passive_trips

_FIRST_SUPER = (36, 4, 3)
_STUCK_HZ = 624_750_000
_NEAR_C = 5.0


def mode_findings(root: Path, release: Release | None) -> Iterator[Finding]:
    """All checks of this module."""
    table = read_table(root)
    live = table.modes.get(-1 if (number := ask_live_id(root)) is None else number)
    yield from _left(root)
    yield from _mode(root, table, live)
    yield from _super(root, table, release)
    yield from _caps(root, live)
    yield _clocks(root)
    yield from _heat(root)


_SCRIPT_STATE = "var/tmp/edgedit-power/state"
"""Where jetson/power-mode.sh keeps what it has to put back."""


def _left(root: Path) -> Iterator[Finding]:
    if (script := read_text(root / _SCRIPT_STATE)) is not None:
        yield Finding("note", "script-mode-left", "jetson/power-mode.sh runs a command in another mode, or one was cut off",
                      ", ".join(line for line in script.split() if line.startswith(("mode=", "pid="))),
                      "if nothing runs: jetson/power-mode.sh --restore")
    found = leftover(root)
    if found is None:
        return
    state, fix, running = found
    if running:
        yield Finding("note", "mode-held", "a measurement has set the power mode and will put it back",
                      f"{state.within_name}, before {state.before_name}, process {state.pid}", "wait until it is done")
    else:
        yield Finding("warning", "mode-left", "a measurement that was cut off left the board changed",
                      f"{state.within_name}{', clocks pinned' if state.locked else ''} since {state.since_utc}; before {state.before_name}",
                      fix)


def _mode(root: Path, table: PowerTable, live: PowerMode | None) -> Iterator[Finding]:
    if live is None:
        yield Finding("note", "power-mode-unknown", "the power mode cannot be told",
                      "/etc/nvpmodel.conf or /var/lib/nvpmodel/status is missing or names no mode",
                      "mount both read-only: -v /etc/nvpmodel.conf:/etc/nvpmodel.conf:ro -v /var/lib/nvpmodel:/var/lib/nvpmodel:ro"
                      if container(root) else "sudo nvpmodel -q")
        return
    listed = ", ".join(f"{mode.id} {mode.name}" for mode in table.modes.values())
    yield Finding("ok", "power-mode", "power mode", f"{live.name} (id {live.id}; this board has {listed})")
    widest = min(table.modes.values(), key=_gated)
    if _gated(live) > _gated(widest):
        yield Finding("note", "gpu-parts-off", f"mode {live.name} switches parts of the GPU off: fewer SM, and engines of its own",
                      ", ".join(f"{name} {mask}" for name, mask in live.gates.items()), f"sudo nvpmodel -m {widest.id} (asks for a reboot)")
    fastest = max(table.modes.values(), key=lambda mode: (_gated(mode) == _gated(widest), mode.gpu_max_hz or 1 << 40))
    if fastest.id != 0 and live.id == 0 and live.gpu_max_hz is not None:
        yield Finding("note", "mode-0-is-not-the-fastest", f"mode 0 is not this board's fastest: {live.name} caps the GPU at "
                      f"{live.gpu_max_hz / 1e6:.0f} MHz", f"live: {live.name}, fastest: {fastest.name}",
                      f"sudo nvpmodel -m {fastest.id}, or edgedit profile --power-mode {fastest.name}")


def _super(root: Path, table: PowerTable, release: Release | None) -> Iterator[Finding]:
    names = table.names.values()
    has_super = any("SUPER" in name for name in names)
    knows_super = release is not None and version_numbers(release.l4t) >= _FIRST_SUPER
    model = (board_model(root) or "").lower()
    spec = next((line for line in (read_text(root / "etc/nv_boot_control.conf") or "").splitlines() if line.startswith("TNSPEC")), "")
    if "orin nano" in model and knows_super and names and not has_super:
        fix = ("install JetPack 7.2.1: 7.2's ISO writes the board configuration without -super (known issue 6279443)"
               if release is not None and release.l4t.startswith("39.2.0") else
               "flash the board configuration jetson-orin-nano-devkit-super (NVIDIA SDK Manager)")
        yield Finding("note", "no-super-mode", "the board runs without its Super modes (GPU up to 635 MHz of 1020)",
                      spec or ", ".join(names), fix)
    clock = gpu_clock(root)
    if has_super and spec and "-super" not in spec:
        yield Finding("note", "super-not-flashed", "the modes are those of a Super board, but it was flashed without: they may not take",
                      spec, "flash the board configuration jetson-orin-nano-devkit-super (NVIDIA SDK Manager)")
    if has_super and clock is not None and clock.high == _STUCK_HZ:
        yield Finding("warning", "gpu-stuck-at-625", "the GPU's clock ends at 624.75 MHz although the board has Super modes",
                      f"{clock.high / 1e6:.2f} MHz", "install JetPack 7.2.1 (known issue 6279443 of 7.2's ISO), or flash again with -super")


def _caps(root: Path, live: PowerMode | None) -> Iterator[Finding]:
    clock = gpu_clock(root)
    if live is not None and live.gpu_max_hz is not None and clock is not None and clock.high > 1.02 * live.gpu_max_hz:
        yield Finding("warning", "mode-caps-differ", f"the live mode is {live.name}, but its cap on the GPU is not in force",
                      f"{clock.high / 1e6:.0f} MHz, the mode says {live.gpu_max_hz / 1e6:.0f}", f"sudo nvpmodel -m {live.id}")


def _clocks(root: Path) -> Finding:
    locked = clocks_locked(root)
    if locked is None:
        return Finding("note", "clocks-unknown", "it cannot be told whether clocks are pinned", "no devfreq or cpufreq files",
                       "docker run --runtime nvidia …, which lets /sys show" if container(root) else "sudo jetson_clocks --show")
    if locked:
        return Finding("ok", "clocks", "clocks", "pinned")
    clock = gpu_clock(root)
    told = f"GPU {clock.low / 1e6:.0f} to {clock.high / 1e6:.0f} MHz" if clock is not None else "lowest clock below highest"
    return Finding("note", "clocks-free", "clocks follow the load: latency is not comparable across runs and precisions",
                   f"{told}, governor {'/'.join(governors(root)) or 'unknown'}",
                   "edgedit profile --lock-clocks, or sudo jetson_clocks --store && sudo jetson_clocks "
                   "(undo: sudo jetson_clocks --restore)")


def _heat(root: Path) -> Iterator[Finding]:
    counts = {name: n for name, n in overcurrent_counts(root).items() if n and name.startswith("oc")}
    if counts:
        yield Finding("warning", "over-current", "the board throttled by over-current since it was started",
                      ", ".join(f"{name} {n}" for name, n in counts.items()),
                      "use a lower power mode (edgedit profile --power-mode NAME) or a stronger supply")
    limits = passive_trips(root)
    near = {zone: t for zone, t in temperatures(root).items() if zone in limits and t >= limits[zone] - _NEAR_C}
    if near:
        yield Finding("warning", "near-thermal-limit", "near the temperature where clocks are cut",
                      ", ".join(f"{zone} {t:.1f} °C of {limits[zone]:.0f}" for zone, t in near.items()),
                      "sudo jetson_clocks --fan, let it cool, or use a lower power mode")


def _gated(mode: PowerMode) -> int:
    return sum(mask.bit_count() for mask in mode.gates.values())

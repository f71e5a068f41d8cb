"""Jetsons made of files, with `tegrastats`, `nvpmodel`, `jetson_clocks` and `sudo` to run, for tests on any machine.

They are doubles built from the documented interface (NVIDIA's guides, kernel drivers, public readings of boards), not copies of
boards. What they cannot show: how real nodes fail or block while the I2C bus is busy, how long a real reading takes, the
averaging inside the INA3221, how real tegrastats buffers its output, and any field or spelling that the documentation leaves
out. Of `nvpmodel` and `jetson_clocks` they show the command line, the messages, the files and the order of things, and nothing
of what the hardware does: a cap that the kernel clamps, a mode that half takes, how long a change takes, the governor, the fan,
a reboot. The double of `sudo` knows three answers (a rule without password, a password once given on this terminal, none) and
neither terminals nor logs. A test that passes here says that edgedit is right about the interface; it does not say that a board
behaves as documented.

`build_board` writes any board of `BOARDS` with any JetPack of `RELEASES` (`MATRIX` lists the pairs that exist), `build_tree`
the Orin Nano Super developer kit that most tests want; `install_tegrastats` puts that executable into the tree; `knobs` makes
the board's programs misbehave and `calls` tells what they were asked; `Updater` moves the INA3221 nodes along a `Curve` whose
integral is known exactly.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.fake_jetson.boards import BOARDS, MATRIX, RELEASES, conf_text
from tests.fake_jetson.curve import Curve
from tests.fake_jetson.lines import SHARES, STYLES, line, rail_field, rail_names
from tests.fake_jetson.tree import (
    BUS_MV,
    HWMON,
    build_board,
    calls,
    install,
    install_dmesg,
    install_tegrastats,
    knobs,
    set_power,
    write,
)

__all__ = ["BOARDS", "BUS_MV", "HWMON", "MATRIX", "RELEASES", "SHARES", "STYLES", "Curve", "Ticking", "Updater", "build_board",
           "build_tree", "calls", "conf_text", "install", "install_dmesg", "install_tegrastats", "knobs", "line", "rail_field",
           "rail_names", "set_power", "tegrastats_environment", "write"]


def build_tree(root: Path, release: str = "jp6", *, mode: int = 2, locked: bool = True, power_mw: float = 6000.0) -> Path:
    """An Orin Nano Super developer kit with JetPack 6.2 ("jp6") or 7.2 ("jp7") under `root`; returns `root`."""
    jetpack = {"jp6": "6.2", "jp7": "7.2"}[release]
    return build_board(root, "orin-nano-8gb-super", jetpack, mode=mode, locked=locked, power_mw=power_mw)


def tegrastats_environment(curve: Curve, style: str = "jp6", mode: str = "normal") -> dict[str, str]:
    """What the double reads from its environment."""
    return {"FAKE_CURVE": curve.dumps(), "FAKE_STYLE": style, "FAKE_MODE": mode}


class Ticking:
    """Calls `tick` 200 times a second on a thread, for the length of a `with` block."""

    def __init__(self, tick: Callable[[], object]) -> None:
        self._tick, self._stop = tick, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Ticking:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            self._tick()


class Updater(Ticking):
    """Writes the INA3221 nodes of a tree along a curve."""

    def __init__(self, root: Path, curve: Curve) -> None:
        super().__init__(lambda: set_power(root, curve.power_mw(time.monotonic_ns())))

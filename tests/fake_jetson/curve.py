"""A power curve that is known exactly: the two ends of a measurement are compared with it. Standard library only."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Curve:
    """Milliwatts as a function of `time.monotonic_ns`, which all processes of a Linux machine share.

    kind "sine": base + swing · sin(2π t / period). kind "ramps": straight lines between base and base + swing, up and down
    within a period (a triangle). Both have an exact integral.
    """

    kind: str = "sine"
    base_mw: float = 9000.0
    swing_mw: float = 3000.0
    period_s: float = 2.0
    origin_ns: int = 0

    def power_mw(self, t_ns: int) -> float:
        turns = (t_ns - self.origin_ns) / 1e9 / self.period_s
        if self.kind == "sine":
            return self.base_mw + self.swing_mw * math.sin(2 * math.pi * turns)
        return self.base_mw + self.swing_mw * (1 - abs(2 * (turns % 1) - 1))

    def energy_mj(self, t0_ns: int, t1_ns: int) -> float:
        """The exact integral of the curve, millijoules."""
        return self._primitive(t1_ns) - self._primitive(t0_ns)

    def dumps(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Curve:
        return cls(**json.loads(text))

    def _primitive(self, t_ns: int) -> float:
        seconds = (t_ns - self.origin_ns) / 1e9
        turns = seconds / self.period_s
        if self.kind == "sine":
            return self.base_mw * seconds - self.swing_mw * self.period_s / (2 * math.pi) * math.cos(2 * math.pi * turns)
        whole, part = divmod(turns, 1)
        area = part * part if part <= 0.5 else 0.5 - (1 - part) ** 2     # of the unit triangle up to `part`; 1/2 in all
        return self.base_mw * seconds + self.swing_mw * self.period_s * (whole / 2 + area)

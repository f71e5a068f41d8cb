"""How far a build is: TensorRT's nested phases as one number and the name of the innermost."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


@dataclass
class Phases:
    """The phases that a progress monitor reports. Names it never heard of and odd counts are taken as they come.

    Attributes:
        last: the phase that was entered last and is still open, or the last one at all: what a killed build was doing.
    """

    last: str = ""
    _open: dict[str, _Phase] = field(default_factory=dict)
    _furthest: float = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps begins, inside the current step of its parent."""
        self._open[name] = _Phase(parent or None, max(1, steps))
        self.last = name

    def step(self, name: str, step: int) -> None:
        """Step `step` (from 0) of a phase is complete."""
        if name in self._open:
            phase = self._open[name]
            phase.done = min(phase.steps, max(phase.done, step + 1))

    def finish(self, name: str) -> None:
        """A phase ends."""
        self._open.pop(name, None)
        if self._open:
            self.last = next(reversed(self._open))

    @property
    def fraction(self) -> float:
        """Share of the outermost phase that is done, 0 … 1; never falls."""
        roots = [name for name, phase in self._open.items() if phase.parent not in self._open]
        now = max((self._share(name, 0) for name in roots), default=0.0)
        self._furthest = max(self._furthest, now)
        return self._furthest

    def _share(self, name: str, depth: int) -> float:
        phase = self._open[name]
        inner = [self._share(n, depth + 1) for n, p in self._open.items() if p.parent == name and n != name] if depth < 8 else []
        return min(1.0, (phase.done + max(inner, default=0.0)) / phase.steps)

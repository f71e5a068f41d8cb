"""The timed run of a profile: idle baseline, warm-up, passes, and what ended it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgedit.core.errors import EdgeditError, Interrupted, OutputError, UsageError
from edgedit.core.noise import labels as balanced
from edgedit.core.record import Environment, Power, Verdict
from edgedit.core.say import Event, Say, silent
from edgedit.core.settings import Settings
from edgedit.core.stop import StopRequest
from edgedit.device.bundle import Bundle
from edgedit.device.cuda.facts import GpuFacts
from edgedit.device.pipeline import Indices, Progress, Source, run, split
from edgedit.device.runtime import Runtime
from edgedit.device.tally import Tally
from edgedit.device.throttle import Throttle


class ProfileSettings(Settings):
    """How to measure."""

    images: int = Field(default=50_000, ge=1)
    """Images of one pass."""
    batch: int | None = Field(default=None, ge=1)
    """Images per run of the graph; None takes the bundle's (128 unless exported otherwise)."""
    seed: int = Field(default=0, ge=0, lt=1 << 64)
    """Of the noise."""
    warmup_batches: int = Field(default=10, ge=0)
    """Batches run before, not counted."""
    idle_s: float = Field(default=10.0, ge=0)
    """Length of the idle-power baseline before the run; nothing is waited for when no power source is there."""
    min_seconds: float = Field(default=0.0, ge=0)
    """Repeat whole passes until the run is at least this long; 60 for energy figures (MLPerf Power)."""
    overlap: bool = True
    """Make noise and save while the graph runs; False does one after the other."""
    save: bool = False
    """Keep the images of the first pass in the record (`images.npy`, `labels.npy`); the time is the "save" phase."""
    samples_per_class: int = Field(default=8, ge=1, le=64)
    """Pictures a class in `samples.png`."""
    power: str = "auto"
    """"auto", "none", or one source: "ina3221", "tegrastats", "rapl", "nvml"."""
    power_interval_s: float = Field(default=0.1, gt=0)
    """Time between power samples."""
    power_mode: str | None = None
    """Power mode of the board for the run, by its name ("25W"); None leaves it alone. Put back afterwards, whatever happens."""
    lock_clocks: bool = False
    """Pin clocks at the mode's maximum for the run, with `jetson_clocks`. Put back afterwards, whatever happens."""


class PowerMeter(Protocol):
    """What a profile needs of a power log (`edgedit.device.power.open_power` gives one)."""

    def idle(self, seconds: float, *, say: Say = silent) -> None:
        """Wait `seconds` and keep the mean power as the baseline."""

    def window(self, t0_ns: int, t1_ns: int, images: int) -> Power | None:
        """The run's power between two `time.monotonic_ns` stamps."""

    def others(self, t0_ns: int, t1_ns: int, images: int) -> list[Power]:
        """The same from further sources."""

    def gpu_mhz(self, t0_ns: int, t1_ns: int) -> float | None:
        """Mean GPU clock."""

    def verdicts(self) -> list[Verdict]:
        """What should be known of the power figures."""


@dataclass(frozen=True)
class Setup:
    """What is measured, with what, where."""

    bundle: Bundle
    runtime: Runtime
    batch: int
    settings: ProfileSettings
    environment: Environment
    before: Throttle
    started_utc: str


def with_gpu(environment: Environment, runtime: Runtime) -> Environment:
    """The environment with the GPU and its SM count as the runtime saw them, where it runs on one and tells."""
    facts = getattr(runtime, "gpu", None)
    if not isinstance(facts, GpuFacts):
        return environment
    return environment.model_copy(update={"gpu": f"{facts.name} ({facts.architecture})", "sm_count": facts.sm_count})


def measure(setup: Setup, tally: Tally, meter: PowerMeter, stop: StopRequest, say: Say) -> tuple[int, Verdict | None]:
    """Idle baseline, warm-up and the run, with every batch given to `tally`.

    Returns:
        `time.monotonic_ns` at the start of the run, and, for a run that ended early, the verdict that says why.

    Raises:
        Interrupted, or what the runtime raised, when that was before the first batch was done: there is nothing to keep.
    """
    settings, begin_ns = setup.settings, 0
    cut: Exception
    if setup.runtime.batch not in (None, setup.batch):
        raise UsageError(f"this runtime takes batches of {setup.runtime.batch}; padding would be measured too", saw=f"batch {setup.batch}",
                         fix=f"--batch {setup.runtime.batch}, or build an engine for the other: edgedit build BUNDLE --batch {setup.batch}")
    try:
        meter.idle(settings.idle_s, say=say)
        _warm_up(setup, say)
        stop.deferred = True
        begin_ns = time.monotonic_ns()
        passes = _Passes(settings.images, setup.batch, settings.min_seconds)
        classes = setup.bundle.spec.classes

        def label_of(indices: NDArray[np.int64]) -> NDArray[np.int32]:
            return balanced(settings.seed, indices, classes)

        progress = Progress("profile", settings.images, 0, say)

        def watch(images: int) -> bool:
            progress.at(images, total=passes.begun * settings.images)
            return bool(stop)

        source = Source(settings.seed, setup.bundle.noise_shape, setup.batch, label_of, passes.indices())
        if run(setup.runtime, source, tally, overlap=settings.overlap, watch=watch):
            progress.at(tally.images, total=tally.images, last=True)
            return begin_ns, None
        cut = Interrupted(f"stopped by {stop.reason}")
    except KeyboardInterrupt:
        cut = Interrupted(f"stopped by {stop.reason or 'Ctrl-C'}")
    except Exception as error:  # whatever a runtime raises, the batches before it are worth keeping
        cut = error
    if not tally.images:
        if isinstance(cut, Interrupted):
            raise Interrupted(f"{cut.what} before the first batch; nothing was measured", fix="run the same command again")
        raise cut
    if isinstance(cut, OutputError):
        tally.drop_images()
    return begin_ns, _why(cut, tally.images, settings.images)


class _Passes:
    """Batches of pass after pass over the same images, until `min_seconds` are over; always one whole pass."""

    def __init__(self, images: int, batch: int, min_seconds: float) -> None:
        self._images, self._batch, self._min_seconds = images, batch, min_seconds
        self.begun = 1

    def indices(self) -> Iterator[Indices]:
        begin = time.perf_counter()
        while True:
            yield from split(0, self._images, self._batch)
            if time.perf_counter() - begin >= self._min_seconds:
                return
            self.begun += 1


def _warm_up(setup: Setup, say: Say) -> None:
    """The same path as the run, on the first images."""
    count, batch, classes = setup.settings.warmup_batches, setup.batch, setup.bundle.spec.classes

    def watch(images: int) -> bool:
        say(Event("warm-up", images // batch, count, unit="batches"))
        return False

    source = Source(setup.settings.seed, setup.bundle.noise_shape, batch, lambda indices: balanced(0, indices, classes),
                    split(0, count * batch, batch))
    if count:
        run(setup.runtime, source, lambda _: None, overlap=setup.settings.overlap, watch=watch)
        say(Event("warm-up", count, count, unit="batches"))


def _why(cut: Exception, images: int, wanted: int) -> Verdict:
    kept = f"; the figures cover the {images:,} images before"
    if isinstance(cut, Interrupted):
        return Verdict(level="error", code="interrupted", text=f"{cut.what}{kept} (asked were {wanted:,})",
                       fix="run the same command again for the whole measurement")
    code = "output-failed" if isinstance(cut, OutputError) else "runtime-failed"
    if isinstance(cut, EdgeditError):
        saw = f" ({cut.saw})" if cut.saw else ""
        return Verdict(level="error", code=code, text=f"{cut.what}{saw}{kept}", fix=cut.fix or "")
    return Verdict(level="error", code=code, text=f"{type(cut).__name__}: {cut}{kept}")

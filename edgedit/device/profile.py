"""Measure a bundle: batch-128 latency over 50,000 images with power beside it, and write a record."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgedit.core.artifact import check_output, create, open_artifact
from edgedit.core.errors import ArtifactError, OutputError
from edgedit.core.record import RECORD_FILE, SAMPLES_FILE, Power, Protocol, Record, Verdict, load_record
from edgedit.core.say import Event, Say, silent
from edgedit.core.stop import stop_on_signals
from edgedit.device import timing
from edgedit.device.board import read_environment
from edgedit.device.bundle import Bundle
from edgedit.device.measure import PowerMeter, ProfileSettings, Setup, measure, with_gpu
from edgedit.device.modes import power_mode
from edgedit.device.power import open_power
from edgedit.device.runtime import Runtime, RuntimeChoice, describe, opened, settle
from edgedit.device.tally import Tally
from edgedit.device.throttle import Throttle, snapshot, throttle_verdicts

KIND = "record"
SAMPLE_CLASSES = 20
"""Most classes shown in `samples.png`."""

OpenPower = Callable[..., AbstractContextManager[PowerMeter]]


def profile(bundle_path: str | Path, runtime: Runtime | RuntimeChoice | str, out: str | Path,
            settings: ProfileSettings | None = None, *, power: OpenPower = open_power, root: str | Path = "/",
            again: bool = False, replace: bool = False, say: Say = silent) -> Record:
    """Measure a bundle and write a record (paper, deployment section: batch 128, 50,000 images).

    In order: load, idle power, warm-up, the timed run, power of the run's window. Memory does not grow with the number of
    images. Times go to `batches.jsonl` batch by batch. A run that is cut short by Ctrl-C, SIGTERM, an error of the runtime
    or a full disk still leaves a record of what was measured, with `complete` false and a verdict that says why.

    Args:
        bundle_path: folder of an exported bundle.
        runtime: name or choice of a runtime, or one that already holds this bundle (it is left open).
        out: folder of the record; a cut-short record there is replaced, a whole one of another question only with `replace`.
        settings: how to measure.
        power: opens the power log.
        root: root of the file system where board and power are read.
        again: measure even when `out` holds the complete record of this very measurement.
        replace: let the new record take the place of one that answers another question.

    Returns:
        The record that was written or, without `again`, found.

    Raises:
        UsageError, ArtifactError, MissingError: the bundle, the runtime or the power source asked for are not usable.
        OutputError: the record cannot be written at all, or another whole one is there.
        Interrupted: stopped before the first batch was done, so that there is nothing to keep.
    """
    settings = settings or ProfileSettings()
    bundle, target, tree = Bundle.open(bundle_path), Path(out), Path(root)
    batch = bundle.choose_batch(settings.batch)
    runtime = settle(bundle, runtime, say=say)
    asked = {"profile": settings.model_dump(), "runtime": describe(runtime)}
    found = _existing(target, bundle, asked, replace)
    if found is not None and found.complete and not again:
        say(Event(f"{target} holds this measurement already; nothing was run"))
        return found

    with stop_on_signals() as stop, power_mode(tree, settings.power_mode, lock_clocks=settings.lock_clocks, say=say), \
            opened(bundle, runtime) as ready, create(target, KIND) as draft:
        setup = Setup(bundle, ready, batch, settings, with_gpu(read_environment(tree), ready), snapshot(tree), _now())
        samples = min(settings.images, settings.samples_per_class * min(bundle.spec.classes, SAMPLE_CLASSES))
        timing.reset_peak_memory()
        with Tally(draft.path, bundle, samples=samples, save=settings.images if settings.save else 0) as tally, \
                power(settings.power, root=tree, interval_s=settings.power_interval_s, folder=draft.path,
                      compute="gpu" if _on_gpu(ready) else "cpu") as meter:
            begin_ns, cut_short = measure(setup, tally, meter, stop, say)
            stop.deferred = True  # from here on the record gets written; only a second signal breaks that off
            after = snapshot(tree)
            energy = _energy(meter, begin_ns, tally)
        record = _record(setup, tally, begin_ns, energy, after, cut_short)
        draft.parents, draft.settings, draft.spec = [bundle.artifact.as_parent("bundle")], asked, bundle.spec.to_dict()
        draft.info = {"label": record.subject.label, "images": tally.images, "images_per_s": round(record.images_per_s, 2),
                      "complete": record.complete}
        draft.write(RECORD_FILE, record.model_dump_json(indent=1) + "\n")
        draft.write(SAMPLES_FILE, tally.picture())
    return record


@dataclass(frozen=True)
class _Energy:
    power: Power | None
    others: list[Power]
    gpu_mhz: float | None
    verdicts: list[Verdict]


def _existing(target: Path, bundle: Bundle, asked: dict[str, Any], replace: bool) -> Record | None:
    """The record at `target` if it answers the same question about the same bundle. Only a record is ever replaced, and a whole one
    of another question only with `replace`.
    """
    check_output(target, kind=KIND)
    if not target.is_dir() or not any(target.iterdir()):
        return None
    try:
        manifest, record = open_artifact(target, KIND).manifest, load_record(target)
    except ArtifactError:
        return None  # altered or of another version: measured again
    same = manifest.settings == asked and [p.digest for p in manifest.parents] == [bundle.digest]
    if record.complete and not same and not replace:
        about = f"{record.subject.label} {record.subject.precision} on {record.protocol.provider}"
        raise OutputError(f"{target} holds another measurement; it was left alone",
                          saw=f"{about}, {record.protocol.images:,} images, {record.started_utc}",
                          fix="choose another --out, or --replace it")
    return record if same else None


def _energy(meter: PowerMeter, begin_ns: int, tally: Tally) -> _Energy:
    window = (begin_ns, tally.saved_ns, tally.images)
    power, others = meter.window(*window), meter.others(*window)
    return _Energy(power, others, meter.gpu_mhz(begin_ns, tally.saved_ns), meter.verdicts())


def _record(setup: Setup, tally: Tally, begin_ns: int, energy: _Energy, after: Throttle,
            cut_short: Verdict | None) -> Record:
    settings, runtime, bundle = setup.settings, setup.runtime, setup.bundle
    wall_s = (tally.saved_ns - begin_ns) / 1e9
    compute_ms = tally.compute_ms.tolist()
    options = {
        "runtime_version": runtime.version, "dynamic_graph": bundle.dynamic, "opset": bundle.opset, "idle_s": settings.idle_s,
        "min_seconds": settings.min_seconds, "passes": -(-tally.images // settings.images), "images_measured": tally.images,
        "waited_for_noise_s": round(tally.waited_s, 6), "gpu_mhz_mean": energy.gpu_mhz,
        "temperature_after_c": after.temperature_c, **runtime.options}
    protocol = Protocol(
        images=max(settings.images, tally.images), batch=setup.batch, batches=len(compute_ms), last_batch=tally.last_batch,
        warmup_batches=settings.warmup_batches, seed=settings.seed, runtime=runtime.name, provider=runtime.provider,
        threads=runtime.threads, save=settings.save, overlap=settings.overlap, options=options)
    verdicts = [
        *([cut_short] if cut_short is not None else []),
        *timing.steadiness(compute_ms, on_jetson=after.jetson),
        *throttle_verdicts(setup.before, after), *timing.bottleneck(tally.phases_s, tally.waited_s, wall_s),
        *_elsewhere(runtime), *energy.verdicts]
    return Record(
        started_utc=setup.started_utc, subject=bundle.subject(setup.batch), environment=setup.environment, protocol=protocol,
        wall_s=wall_s, images_per_s=tally.images / wall_s, phases_s=tally.phases_s, batch_ms=timing.distribution(compute_ms),
        period_ms=timing.distribution(tally.period_ms(begin_ns)), peak_memory_mb=round(timing.peak_memory_mb(), 1),
        power=energy.power, power_others=energy.others, verdicts=verdicts, complete=cut_short is None)


def _elsewhere(runtime: Runtime) -> list[Verdict]:
    strays = runtime.options.get("nodes_elsewhere")
    if not strays:
        return []
    return [Verdict(level="note", code="nodes-elsewhere", text=f"{runtime.provider} left operators to another provider: "
                    + ", ".join(f"{op} ×{n}" for op, n in sorted(strays.items())))]


def _on_gpu(runtime: Runtime) -> bool:
    return any(word in runtime.provider.lower() for word in ("cuda", "tensorrt", "rocm"))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")

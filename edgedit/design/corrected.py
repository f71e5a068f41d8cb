"""The floor, corrected by the user's own records: measured = scale · floor + constant, by weighted least squares.

One record gives a scale; from two on, where both come out positive, there is a constant per batch too. Weights make errors relative,
and a record of few batches counts less. The error is leave-one-out by design: all records of one design are left out together, so it
exists from two designs on. A record that is given twice counts once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgedit.core.record import Record, load_record
from edgedit.core.spec import DiTSpec
from edgedit.design.devices import Device
from edgedit.design.paper_model import Error

ENOUGH = 20
"""Batches from which a record has full weight."""
FEWEST = 3
"""Batches below which a record is not used."""


@dataclass(frozen=True)
class Observation:
    """A measured time beside its floor, both milliseconds per batch.

    Attributes:
        power_w: mean power of the run, None when not measured.
        design: what tells designs apart; "" takes the label.
    """

    label: str
    floor_ms: float
    measured_ms: float
    weight: float = 1.0
    power_w: float | None = None
    design: str = ""


@dataclass(frozen=True)
class Corrected:
    """measured = scale · floor + constant_ms.

    Attributes:
        error: leave-one-out by design; None with records of one design.
        labels: the label of every record that it was fitted to.
        power_w: mean power over the records that have it: lowest, highest.
    """

    scale: float
    constant_ms: float
    error: Error | None
    labels: tuple[str, ...]
    power_w: tuple[float, float] | None = None

    def batch_ms(self, floor_ms: float) -> float:
        """Milliseconds per batch of a design with this floor."""
        return self.scale * floor_ms + self.constant_ms

    @property
    def text(self) -> str:
        """The correction in one line, with its error."""
        known = "all of one design: no error known" if self.error is None else (
            f"designs left out one by one: median {self.error.median:.1f} %, worst {self.error.worst:.0f} %")
        count = f"{len(self.labels)} record{'s' if len(self.labels) > 1 else ''}"
        return f"{self.scale:.3g} × floor + {self.constant_ms:.3g} ms per batch, from {count}; {known}"


def correct(seen: Sequence[Observation]) -> Corrected | None:
    """Fit the correction; None without observations."""
    if not seen:
        return None
    scale, constant = _fit(seen)
    error = None
    if len({_design(o) for o in seen}) > 1:
        away = []
        for one in seen:
            k, c = _fit([o for o in seen if _design(o) != _design(one)])
            away.append(abs((k * one.floor_ms + c) / one.measured_ms - 1) * 100)
        error = Error(float(np.median(away)), max(away), len(away))
    watts = [o.power_w for o in seen if o.power_w is not None]
    return Corrected(scale, constant, error, tuple(o.label for o in seen), (min(watts), max(watts)) if watts else None)


def _design(one: Observation) -> str:
    return one.design or one.label


def _fit(seen: Sequence[Observation]) -> tuple[float, float]:
    x, y = np.array([o.floor_ms for o in seen]), np.array([o.measured_ms for o in seen])
    weight = np.sqrt([o.weight for o in seen]) / y                                        # errors relative to what was measured
    alone = float(((weight * x) * (weight * y)).sum() / ((weight * x) ** 2).sum())
    if len(seen) == 1 or np.ptp(x) < 1e-3 * x.max():
        return alone, 0.0
    scale, constant = np.linalg.lstsq(np.stack([weight * x, weight], 1), weight * y, rcond=None)[0]
    return (float(scale), float(constant)) if scale > 0 and constant > 0 else (alone, 0.0)


def observe(records: Iterable[Record | str | Path], spec: DiTSpec, device: Device, precision: str,
            floor_ms: Callable[[DiTSpec, float, int], float]) -> tuple[list[Observation], list[str]]:
    """Records that tell something about a device in a precision, beside their floors; and a sentence for each that does not.

    A record that is given again counts once. Records of another device, power mode, precision or image size are left out: with the
    tokens the shares of attention, products and bytes change, and with them what one scale stands for. Of several runtimes the one with
    most records is kept. What differs within the rest (threads, saving, batch, channels) is flagged.

    Args:
        records: records, or folders with one.
        spec: the design that is predicted.
        device: in the mode that is predicted (`Device.at`).
        floor_ms: (spec, guidance scale, batch) → floor of a batch.
    """
    taken: list[Record] = []
    notes: list[str] = []
    met: set[str] = set()
    for given in records:
        record = given if isinstance(given, Record) else load_record(given)
        same = record.model_dump_json()
        if same in met:
            notes.append(f"record of {record.subject.label} was given more than once: it counts once")
            continue
        met.add(same)
        why = _unlike(record, spec, device, precision)
        if why:
            notes.append(f"record of {record.subject.label} left out: {why}")
        else:
            taken.append(record)
    kinds = Counter((r.protocol.runtime, r.subject.attention) for r in taken)
    if len(kinds) > 1:
        keep = kinds.most_common(1)[0][0]
        notes += [f"record of {r.subject.label} left out: runtime {r.protocol.runtime}, attention {r.subject.attention}; the others ran "
                  f"{keep[0]}, {keep[1]}" for r in taken if (r.protocol.runtime, r.subject.attention) != keep]
        taken = [r for r in taken if (r.protocol.runtime, r.subject.attention) == keep]
    for name, values in (("threads", {r.protocol.threads for r in taken}), ("saving", {r.protocol.save for r in taken}),
                         ("batch", {r.protocol.batch for r in taken}), ("channels", {_spec(r).channels for r in taken})):
        if len(values) > 1:
            notes.append(f"records differ in {name}: {', '.join(sorted(map(str, values)))}; they are fitted together")
    return [_observation(r, floor_ms) for r in taken], notes


def _spec(record: Record) -> DiTSpec:
    return DiTSpec.from_dict(dict(record.subject.spec))


def _unlike(record: Record, spec: DiTSpec, device: Device, precision: str) -> str:
    place = record.environment
    names = " ".join(filter(None, (place.board, place.gpu, place.cpu))).lower()
    if device.match and not any(word in names for word in device.match):
        return f"it is of another device ({place.board or place.gpu or place.cpu})"
    if device.mode and place.power_mode and place.power_mode.lower() != device.mode.lower():
        return f"power mode {place.power_mode}, predicted is {device.mode}"
    if record.subject.precision != precision:
        return f"precision {record.subject.precision}, predicted is {precision}"
    if (size := _spec(record).image) != spec.image:
        return f"its images are {size}×{size}, predicted are {spec.image}×{spec.image}: other shares of attention and bytes"
    if record.protocol.batches < FEWEST:
        return f"{record.protocol.batches} batches are too few"
    return ""


def _observation(record: Record, floor_ms: Callable[[DiTSpec, float, int], float]) -> Observation:
    p, s = record.protocol, record.subject
    measured = 1e3 * record.wall_s / p.batches
    watts = None if record.power is None else record.power.energy_total_mj / record.power.window_s / 1e3
    return Observation(s.label, floor_ms(_spec(record), s.guidance_scale, p.batch), measured,
                       min(1.0, p.batches / ENOUGH), watts, repr(_spec(record)))

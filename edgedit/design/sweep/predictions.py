"""What the latency models say of a sweep's rows, each without having seen the row's own record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from edgedit.core.errors import UsageError
from edgedit.core.record import Record
from edgedit.core.spec import DiTSpec
from edgedit.design.devices import Device, known_devices
from edgedit.design.predict import predict
from edgedit.design.published import BATCH, IMAGES

GUIDANCE = 1.5
"""Inside the graph, as `edgedit export` puts it there by default."""


@dataclass(frozen=True)
class Predicted:
    """Seconds for 50,000 images by model ("paper", "floor", "corrected": the floor after the other rows' records), and for which device."""

    seconds: dict[str, float] = field(default_factory=dict)
    device: str = ""


def predict_rows(specs: Mapping[str, DiTSpec], precisions: Mapping[str, str], records: Mapping[str, Record], device: Device | None = None,
                 guidance: Mapping[str, float] | None = None) -> dict[str, Predicted]:
    """Predictions by row; rows that no model speaks of are missing.

    A row's own record is kept from the models, so what the report shows beside its measurement is a prediction of something unseen.

    Args:
        specs: design by row.
        precisions: "fp32", "fp16" or "int8" by row.
        records: record by row, of the rows that have one.
        device: None takes the known device that the records are of; without one nothing is predicted.
        guidance: scale inside the graph by row, for rows without a record; 1.5 where it is not named.
    """
    place = device or _device_of(records)
    if place is None:
        return {}
    out = {}
    for name, spec in specs.items():
        own = records.get(name)
        others = [record for row, record in records.items() if row != name]
        batch = own.protocol.batch if own else next((r.protocol.batch for r in others), BATCH)
        scale = own.subject.guidance_scale if own else (guidance or {}).get(name, GUIDANCE)
        try:
            told = predict(spec, place, precision=precisions[name], batch=batch, images=IMAGES, guidance_scale=scale, records=others)
        except UsageError:  # a precision or a figure that the device file does not speak of
            continue
        out[name] = Predicted(told.one_a_kind, f"{told.device} {told.mode}".strip())
    return out


def _device_of(records: Mapping[str, Record]) -> Device | None:
    """The known device that the first record was made on, in its power mode."""
    for record in records.values():
        place = record.environment
        names = " ".join(filter(None, (place.board, place.gpu, place.cpu))).lower()
        fits = [d for d in known_devices().values() if any(word in names for word in d.match)]
        mode = (place.power_mode or "").lower()
        exact = [replace(d, default_mode=m.name) for d in fits for m in d.modes if m.name.lower() == mode]
        if found := (exact or fits)[:1]:
            return found[0]
    return None

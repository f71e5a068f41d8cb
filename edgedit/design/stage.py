"""`edgedit design`: from a budget to candidates and a recommendation with its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedit.core.errors import UsageError
from edgedit.core.record import Record, load_record
from edgedit.core.spec import DiTSpec
from edgedit.design.candidates import TOLERANCE, Candidate, candidate, parse_params, shapes
from edgedit.design.devices import Device, find_device
from edgedit.design.predict import MODEL_NAMES, Prediction, predict
from edgedit.design.published import BATCH, IMAGES

ORDER = ("proposed", "lower heads", "wide", "deep", "smaller", "wider", "deeper")
"""Who is taken when the one before is too slow: half the heads cost the paper least quality, then the neighbours in width, then the
proposal of a smaller budget; the far ends of a budget, one or thirty blocks, were the worst of the paper's tables."""
LADDER = (10_000_000, 5_000_000, 3_500_000, 2_200_000, 1_500_000, 1_000_000, 700_000, 420_000, 200_000, 100_000, 50_000, 20_000)
"""Budgets that are tried when nothing under the given one is fast enough."""


@dataclass(frozen=True)
class Designs:
    """Candidates under a budget, and which to take.

    Attributes:
        params: the budget asked for; `limit` what a design may have, tolerance included.
        max_latency_s: limit for the whole run of `images`, None when there is none.
        candidates: in the paper's order, wider to deeper.
        take: name of the recommended one.
        recommendation: the sentence, with its reason.
        notes: what limits all of it.
    """

    params: int
    limit: int
    device: str
    mode: str
    precision: str
    batch: int
    images: int
    max_latency_s: float | None
    candidates: tuple[Candidate, ...]
    take: str
    recommendation: str
    notes: tuple[str, ...]

    def __getitem__(self, name: str) -> Candidate:
        """A candidate by its name."""
        for one in self.candidates:
            if one.name == name:
                return one
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "candidates": [c.to_dict() for c in self.candidates], "notes": list(self.notes)}


def design(params: int | str, device: str | Path | Device = "orin-nano", *, mode: str | None = None, precision: str | None = None,
           max_latency_s: float | None = None, batch: int = BATCH, images: int = IMAGES, guidance_scale: float = 1.5,
           tolerance: float = TOLERANCE, records: Sequence[Record | str | Path] = (), sizes: dict[str, int] | None = None) -> Designs:
    """Candidates under a budget of parameters, and the one to train.

    Args:
        params: budget of the training form, "5M" or a number.
        max_latency_s: seconds for `images`; judged by the best model that there is (`Prediction.best`). What the floor excludes is
            refused; what only the paper's stack excludes is left to a measurement.
        tolerance: share by which a design may exceed the budget; the paper's budgets are round numbers.
        sizes: other sizes of the spec (image, patch, channels, classes, mlp_ratio); the paper's by default.
        others: as in `predict`.

    Raises:
        UsageError: an impossible budget or latency, with the nearest possible; an unknown device, mode or precision; a missing figure.
    """
    wanted, here = parse_params(params), find_device(device)
    if not 0 <= tolerance < 1:
        raise UsageError("tolerance is a share of the budget, from 0 to below 1", saw=tolerance)
    if max_latency_s is not None and not max_latency_s > 0:
        raise UsageError("the latency limit must be above 0 seconds", saw=max_latency_s)
    limit, extra = int(wanted * (1 + tolerance)), sizes or {}
    loaded = [r if isinstance(r, Record) else load_record(r) for r in records]
    common: dict[str, Any] = {"precision": precision, "batch": batch, "images": images, "guidance_scale": guidance_scale, "records": loaded}
    made = []
    for name, spec in shapes(limit, **extra).items():
        first = predict(spec, here, mode=mode, **common)
        made.append(candidate(name, spec, limit, here, first, _modes(spec, here, first, common)))
    if max_latency_s is not None and not any(_seconds(c) <= max_latency_s for c in made if c.name not in ("wider", "deeper")):
        made += _smaller(wanted, max_latency_s, here, mode, common, extra)
    fitting = [c for c in made if max_latency_s is None or _seconds(c) <= max_latency_s]
    open_still = [] if fitting or made[0].prediction.best == "corrected" else [c for c in made if _floor_s(c) <= (max_latency_s or 0.0)]
    if not fitting and not open_still:
        raise _too_slow(made, max_latency_s or 0.0, wanted, here, mode, common, extra)
    taken = min(fitting or open_still, key=lambda c: ORDER.index(c.name))
    reason = _reason(taken, made, max_latency_s) if fitting else _only_a_measurement(taken, made, max_latency_s or 0.0)
    p = made[0].prediction
    return Designs(wanted, limit, here.name, p.mode, p.precision, batch, images, max_latency_s, tuple(made), taken.name, reason,
                   _notes(made, limit, wanted))


def _smaller(wanted: int, limit_s: float, device: Device, mode: str | None, common: dict[str, Any],
             sizes: dict[str, int]) -> list[Candidate]:
    """The proposal of the largest smaller budget that holds the limit, as "smaller"; empty when none of the ladder does."""
    for budget in (b for b in LADDER if b < wanted):
        limit = int(budget * (1 + TOLERANCE))
        try:
            spec = shapes(limit, **sizes)["proposed"]
        except UsageError:
            return []
        first = predict(spec, device, mode=mode, **common)
        if first.seconds[first.best] <= limit_s:
            return [candidate("smaller", spec, limit, device, first, _modes(spec, device, first, common))]
    return []


def _modes(spec: DiTSpec, device: Device, first: Prediction, common: dict[str, Any]) -> dict[str, Prediction]:
    """Predictions by power mode; a mode whose clocks nobody knows has none."""
    found = {}
    for mode in device.modes:
        if device.at(mode.name).predicts:
            found[mode.name] = first if mode.name == first.mode else predict(spec, device, mode=mode.name, **common)
    return found


def _seconds(one: Candidate) -> float:
    return one.prediction.seconds[one.prediction.best]


def _floor_s(one: Candidate) -> float:
    return one.prediction.seconds["floor"]


def _too_slow(made: list[Candidate], limit_s: float, wanted: int, device: Device, mode: str | None, common: dict[str, Any],
              sizes: dict[str, int]) -> UsageError:
    """The error for a latency that nothing can meet: the fastest there is, and the largest smaller budget whose proposal could."""
    by = "corrected" if made[0].prediction.best == "corrected" else "floor"
    fastest = min(made, key=lambda c: c.prediction.seconds[by])
    p = fastest.prediction
    fix = f"the nearest possible under this budget is --max-latency-s {_up(p.seconds[by]):g}"
    for budget in (b for b in LADDER if b < wanted):
        try:
            spec = shapes(int(budget * (1 + TOLERANCE)), **sizes)["proposed"]
        except UsageError:
            break
        seconds = predict(spec, device, mode=mode, **common).seconds[by]
        if seconds <= limit_s:
            fix += f"; or --params {budget}, whose proposed {spec.label} is predicted at {seconds:.3g} s"
            break
    least = "at least " if by == "floor" else ""
    return UsageError(f"no candidate under {wanted:,} parameters makes {p.images:,} images in {limit_s:g} s",
                      saw=f"the fastest, {fastest.name} {fastest.spec.label}, needs {least}{p.seconds[by]:.3g} s by {MODEL_NAMES[by]}",
                      fix=fix)


def _up(value: float) -> float:
    """Rounded up to three digits, so that a limit that is typed from it holds."""
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return round(math.ceil(value / step) * step, 9)


def _only_a_measurement(taken: Candidate, made: list[Candidate], limit_s: float) -> str:
    """No model that predicts holds the limit, and the floor does not exclude it."""
    fastest = min(made, key=_seconds)
    return (f"Only a measurement decides: no candidate makes {limit_s:g} s by {MODEL_NAMES[fastest.prediction.best]} (the fastest, "
            f"{fastest.spec.label}, {_seconds(fastest):.3g} s), and {taken.spec.label} may by the floor "
            f"({_floor_s(taken):.3g} s). Export it, trained or not, run `edgedit profile` on the device, and give its record "
            "with --record.")


def _reason(taken: Candidate, made: list[Candidate], limit_s: float | None) -> str:
    spec, p = taken.spec, taken.prediction
    text = f"Take {spec.label}, {spec.parameters:,} parameters: {taken.verdict.short}."
    if taken.name != "proposed":
        first = next(c for c in made if c.name == "proposed")
        text += f" The proposed {first.spec.label} is predicted at {_seconds(first):.3g} s, above the limit of {limit_s:g} s;"
        text += " a smaller budget's proposal holds it." if taken.name == "smaller" else f" '{taken.name}' is the nearest that holds it."
    else:
        text += " In the paper wider designs of one budget lose quality and deeper ones time."
    if limit_s is not None:
        text += f" Predicted {_seconds(taken):.3g} s for {p.images:,} images by {MODEL_NAMES[p.best]}, against {limit_s:g} s."
        if p.best == "floor":
            text += " That is a lower bound, not a promise: measure one design and give its record."
    for other in made:
        if other.published and taken.published and other.published.fid < taken.published.fid:
            text += (f" {other.spec.label} had the better FID in the paper, {other.published.fid:g} instead of "
                     f"{taken.published.fid:g}, for {other.published.latency_s:g} s instead of {taken.published.latency_s:g} s.")
    return text


def _notes(made: list[Candidate], limit: int, wanted: int) -> tuple[str, ...]:
    notes = [f"designs may have up to {limit:,} parameters: budgets are round numbers"] if limit > wanted else []
    if few := ", ".join(c.spec.label for c in made if c.spec.parameters < 0.8 * wanted and c.name != "smaller"):
        notes.append(f"{few}: one block more would not fit, and less than 80 % of the budget is used")
    seen = dict.fromkeys(note for c in made for note in c.prediction.notes if "outside the fitted" not in note)
    beyond = [c.spec.label for c in made if any("outside the fitted" in note for note in c.prediction.notes)]
    if beyond:
        notes.append(f"the paper's model is outside its data for {', '.join(beyond)}")
    return (*notes, *seen)

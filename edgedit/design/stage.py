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
from edgedit.design.candidates import TOLERANCE, Candidate, candidate, parse_params, shapes, within_rules
from edgedit.design.devices import Device, find_device
from edgedit.design.predict import MODEL_NAMES, Prediction, predict
from edgedit.design.published import BATCH, BOARD, IMAGES
from edgedit.design.rules import LOWERED

_MEASURE = " Export it, trained or not, run `edgedit profile` on the device, and give its record with --record."


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

    Without a limit of latency that is the proposed one. With one it is the largest design within the rules (`within_rules`: depth up to
    two blocks below the rule's, its heads or half of them) that holds the limit, so that a larger budget never gives a smaller design.

    Args:
        params: budget of the training form, "5M" or a number.
        max_latency_s: seconds for `images`; judged by the best model that there is (`Prediction.best`): the paper's own time where it
            measured the very design, else its fit. A limit is refused only where the floor, or the records, exclude every design; which
            larger design only the paper's stack excludes is said, and left to a measurement.
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
    known: dict[str, Prediction] = {}

    def told(spec: DiTSpec) -> Prediction:
        if spec.label not in known:
            known[spec.label] = predict(spec, here, mode=mode, **common)
        return known[spec.label]

    def full(name: str, spec: DiTSpec) -> Candidate:
        return candidate(name, spec, limit, here, told(spec), _modes(spec, here, told(spec), common))

    made = [full(name, spec) for name, spec in shapes(limit, **extra).items()]
    first = next(c for c in made if c.name == "proposed")
    chosen, open_still = first.spec, None
    if max_latency_s is not None:
        pool = within_rules(limit, **extra)
        holds = next((spec for spec in pool if _seconds(told(spec)) <= max_latency_s), None)
        if first.prediction.best != "corrected":
            open_still = next((told(spec) for spec in pool if told(spec).seconds["floor"] <= max_latency_s), None)
        if holds is None and open_still is None:
            raise _too_slow([told(spec) for spec in pool], max_latency_s, wanted)
        chosen = holds or (open_still.spec if open_still else chosen)
    taken = next((c for c in made if c.spec == chosen), None)
    if taken is None:
        made.append(taken := full("smaller", chosen))
    reason = _reason(taken, first, made, here, max_latency_s, open_still)
    p = first.prediction
    return Designs(wanted, limit, here.name, p.mode, p.precision, batch, images, max_latency_s, tuple(made), taken.name, reason,
                   _notes(made, limit, wanted))


def _modes(spec: DiTSpec, device: Device, first: Prediction, common: dict[str, Any]) -> dict[str, Prediction]:
    """Predictions by power mode; a mode whose clocks nobody knows has none."""
    found = {}
    for mode in device.modes:
        if device.at(mode.name).predicts:
            found[mode.name] = first if mode.name == first.mode else predict(spec, device, mode=mode.name, **common)
    return found


def _seconds(p: Prediction) -> float:
    return p.seconds[p.best]


def _s(value: float) -> str:
    return f"{value:.3g} s" if value < 1000 else f"{value:,.0f} s"


def _too_slow(pool: list[Prediction], limit_s: float, wanted: int) -> UsageError:
    """The error for a latency that nothing under the budget can meet, with the nearest that something can."""
    by = "corrected" if pool[0].best == "corrected" else "floor"
    p = min(pool, key=lambda one: one.seconds[by])
    least = "at least " if by == "floor" else ""
    return UsageError(f"no design under {wanted:,} parameters makes {p.images:,} images in {limit_s:g} s",
                      saw=f"the fastest, {p.spec.label}, needs {least}{_s(p.seconds[by])} by {MODEL_NAMES[by]}",
                      fix=f"the nearest possible under this budget is --max-latency-s {_up(p.seconds[by]):g}")


def _up(value: float) -> float:
    """Rounded up to three digits, so that a limit that is typed from it holds."""
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return round(math.ceil(value / step) * step, 9)


def _reason(taken: Candidate, first: Candidate, made: list[Candidate], device: Device, limit_s: float | None,
            open_still: Prediction | None) -> str:
    """The recommendation in words: the design, the limit and what decided, what is still open, what the paper says of others."""
    spec, p = taken.spec, taken.prediction
    text = f"Take {spec.label}, {spec.parameters:,} parameters: {taken.verdict.short}."
    if limit_s is not None and _seconds(p) > limit_s:
        text = (f"Only a measurement decides: nothing within the rules makes {limit_s:g} s by the paper's stack ({spec.label}: "
                f"{_s(_seconds(p))}), and {spec.label}, {spec.parameters:,} parameters, is the largest that may by the floor "
                f"({_s(p.seconds['floor'])}): {taken.verdict.short}.{_unnamed(p)}{_MEASURE}")
    elif limit_s is not None:
        if spec != first.spec:
            text += (f" The proposed {first.spec.label} {_told(first.prediction)}, above the limit of {limit_s:g} s; {spec.label} is the "
                     f"largest within {LOWERED} blocks of the rule's depth, with the rule's heads or half of them, that holds it.")
        text += f" {spec.label} {_told(p)}, against {limit_s:g} s.{_unnamed(p)}"
        if p.best == "floor":
            text += " That is a lower bound, not a promise: measure one design and give its record."
        elif open_still is not None and open_still.spec != spec:
            text += (f" The floor does not exclude {open_still.spec.label}, {open_still.spec.parameters:,} parameters "
                     f"({_s(open_still.seconds['floor'])}): between floor and the paper's stack only a measurement decides.{_MEASURE}")
    if spec == first.spec:
        text += " At the paper's budgets, 0.42M, 2.2M and 5M, designs wider than the proposed one lost quality and deeper ones took longer."
    where = "on its Orin Nano" + ("" if device.board == BOARD else f", which says nothing about seconds on {device.name}")
    better = [c for c in made if c.published and taken.published and c.published.fid < taken.published.fid]
    for i, other in enumerate(better):
        if other.published and taken.published:
            text += (f" {other.spec.label} had the better FID in the paper, {other.published.fid:g} instead of "
                     f"{taken.published.fid:g}, for {other.published.latency_s:g} s "
                     f"instead of {taken.published.latency_s:g} s {where if not i else 'there'}.")
    return text


def _told(p: Prediction) -> str:
    """What is known of a design's time, in words; a published time stands beside the fit."""
    if p.best == "table":
        return f"took {_seconds(p):.4g} s for {p.images:,} images in the paper, on its Orin Nano (its fit B: {_s(p.seconds['paper_b'])})"
    return f"is predicted at {_s(_seconds(p))} for {p.images:,} images by {MODEL_NAMES[p.best]}"


def _unnamed(p: Prediction) -> str:
    if p.best not in ("table", "paper_b"):
        return ""
    return f" The paper's stack is of an unnamed runtime, precision and power mode, not of {p.device} {p.mode} in particular."


def _notes(made: list[Candidate], limit: int, wanted: int) -> tuple[str, ...]:
    notes = [f"designs may have up to {limit:,} parameters: budgets are round numbers"] if limit > wanted else []
    if few := ", ".join(c.spec.label for c in made if c.spec.parameters < 0.8 * wanted and c.name != "smaller"):
        notes.append(f"{few}: one block more would not fit, and less than 80 % of the budget is used")
    seen = dict.fromkeys(note for c in made for note in c.prediction.notes if "outside the fitted" not in note)
    beyond = [c.spec.label for c in made if any("outside the fitted" in note for note in c.prediction.notes)]
    if beyond:
        notes.append(f"the paper's model is outside its data for {', '.join(beyond)}")
    return (*notes, *seen)

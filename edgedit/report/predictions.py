"""Prediction against measurement: what the latency models said of a sweep's designs, and how far off they were."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from markupsafe import Markup

from edgedit.core import paper
from edgedit.report import landscapes
from edgedit.report.sweeps import Row
from edgedit.report.tables import Table
from edgedit.report.words import SPACE, number

NONE = "–"
WORDS = {
    "paper": "paper: the paper's stack, fitted to its Table 6",
    "floor": "floor: bytes and operations of the fused engine, nothing lost",
    "corrected": "corrected: the floor, corrected by records of one's own",
}


def models(rows: Sequence[Row]) -> list[str]:
    """Models that predicted a row, the known ones first."""
    found = dict.fromkeys(name for r in rows for name in r.predicted_s)
    return [m for m in WORDS if m in found] + [m for m in found if m not in WORDS]


def of_its_board(row: Row, model: str) -> bool:
    """Whether a row was measured where the model speaks of: the paper's model knows the paper's board only."""
    return model != "paper" or "orin nano" in row.device.lower()


def error_percent(row: Row, model: str) -> float | None:
    """How far a prediction is from the measurement, percent of the measured; None where one of them is lacking."""
    value, seen = row.predicted_s.get(model), row.latency_50k_s
    return None if value is None or not seen else 100 * (value / seen - 1)


def table(rows: Sequence[Row]) -> Table | None:
    """Measured and predicted seconds side by side, the median and worst error of each model below; None without predictions."""
    shown = [r for r in rows if r.predicted_s]
    if not shown:
        return None
    names = models(shown)
    body = [(r.shown, r.device or NONE, NONE if r.latency_50k_s is None else f"{number(r.latency_50k_s, 4)}{SPACE}s",
             *(_cell(r, m) for m in names)) for r in shown]
    errors = {m: [e for r in shown if of_its_board(r, m) and (e := error_percent(r, m)) is not None] for m in names}
    if any(errors.values()):
        body.append(("Median error", "", "", *(f"{number(statistics.median(map(abs, errors[m])), 2)}{SPACE}% of {len(errors[m])}"
                                               if errors[m] else NONE for m in names)))
        body.append(("Worst error", "", "", *(f"{number(max(errors[m], key=abs), 2)}{SPACE}%" if errors[m] else NONE for m in names)))
    note = "; ".join(WORDS.get(m, m) for m in names) + "."
    if any(not of_its_board(r, m) for r in shown for m in names):
        note += f" The paper's model speaks of the {paper.BOARD}: against another machine its error means nothing and is left out."
    heads = ("Design", "Measured on", "Measured", *(f"Predicted: {m}" for m in names))
    return Table("Predicted and measured seconds for 50,000 images", heads, tuple(body),
                 "llr" + "r" * len(names), note[:1].upper() + note[1:], frozenset({2}))


def figure(rows: Sequence[Row]) -> Markup | None:
    """Predicted over measured; models only against the machine they speak of."""
    styles = dict(zip(models(rows), ("s2", "s6", "s1", "s3", "s4", "s5"), strict=False))
    fair = [r.model_copy(update={"predicted_s": {m: v for m, v in r.predicted_s.items() if m in styles and of_its_board(r, m)}})
            for r in rows]
    used = {m for r in fair if r.latency_50k_s is not None for m in r.predicted_s}
    return landscapes.predicted(fair, {m: s for m, s in styles.items() if m in used})


def _cell(row: Row, model: str) -> str:
    value, error = row.predicted_s.get(model), error_percent(row, model)
    if value is None:
        return NONE
    text = f"{number(value, 4)}{SPACE}s"
    return text if error is None or not of_its_board(row, model) else f"{text} ({'+' if error >= 0 else ''}{number(error, 2)}{SPACE}%)"

"""Two or more records against the first: what was changed, how far the figures moved, and how sure that is.

Records made under other conditions (batch, guidance, images …) are not set against each other: what differs is named instead.
Another design, precision, runtime or machine is what one compares, so it is named as what was changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from edgedit.core.record import Record
from edgedit.report import bootstrap, derived
from edgedit.report.axes import LETTER, Surface, span, tick_text
from edgedit.report.bootstrap import Ratio
from edgedit.report.figures import WIDE, chart
from edgedit.report.sources import RecordSource
from edgedit.report.tables import Table
from edgedit.report.words import SPACE, energy, listing, number, plural, quantity

CONDITIONS = ("image size", "images", "batch", "guidance", "saving", "overlap", "completeness")
"""Fields of `derived.protocol_of` that must agree before figures are set against each other."""

APART = 1.0
"""Percentage points between the rates of the whole runs and those from batch to batch, above which the page says so."""


@dataclass(frozen=True)
class Change:
    """One quantity of two records: both values in words, and the ratio; `better` is -1 where less is better, else 1."""

    quantity: str
    before: str
    after: str
    ratio: Ratio
    better: int

    @property
    def reading(self) -> str:
        """What the interval says, in words."""
        if self.ratio.low is None:
            return "the same" if self.ratio.percent == 0 else "no interval"
        if not self.ratio.clear:
            return "no clear difference"
        return "better" if (self.ratio.percent > 0) == (self.better > 0) else "worse"


@dataclass(frozen=True)
class Comparison:
    """A record against the first: what was changed, the differences, or why there are none (`refused`)."""

    base: str
    name: str
    changed: tuple[str, ...]
    changes: tuple[Change, ...] = ()
    refused: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def title(self) -> str:
        """ "B against A"."""
        return f"{self.name} against {self.base}"

    @property
    def text(self) -> str:
        """What differs, in a sentence."""
        if self.refused:
            return f"Not compared, since the protocols differ: {listing(list(self.refused))}. Profile again with the same settings."
        if not self.changed:
            return "Nothing was changed: the same thing measured twice. A difference here is what varies from run to run."
        several = " Several things were changed: no difference can be put down to one of them." if len(self.changed) > 1 else ""
        return f"What was changed: {listing(list(self.changed))}.{several}"


def compare(names: Sequence[str], sources: Sequence[RecordSource]) -> list[Comparison]:
    """Every record but the first against the first."""
    return [_against(names[0], sources[0], n, s) for n, s in zip(names[1:], sources[1:], strict=True)]


def _against(base: str, a: RecordSource, name: str, b: RecordSource) -> Comparison:
    one, two = derived.protocol_of(a.record), derived.protocol_of(b.record)
    refused = tuple(f"{k} {one[k]} and {two[k]}" for k in CONDITIONS if one[k] != two[k])
    changed = tuple(f"{k} {x} → {y}" for k, (x, y) in _subjects(a.record, b.record).items() if x != y)
    if refused:
        return Comparison(base, name, changed, refused=refused)
    changes, notes = _times(a, b)
    p, q = a.record.power, b.record.power
    if p and q and p.boundary == q.boundary:
        changes += _energy(a, b)
    elif p or q:
        why = f"{one['energy boundary']}; {two['energy boundary']}" if p and q else "one of the two has no power figures"
        notes.append(f"Energy is not compared: {why}.")
    return Comparison(base, name, changed, tuple(changes), notes=tuple(notes))


def _subjects(a: Record, b: Record) -> dict[str, tuple[str, str]]:
    """What one may want to compare: field → its value in both."""
    def of(r: Record) -> dict[str, str]:
        told, p, env = derived.protocol_of(r), r.protocol, r.environment
        locked = {True: "locked", False: "not locked", None: "not recorded"}[env.clocks_locked]
        graph, noise = p.options.get("cuda_graph"), p.options.get("noise")
        return {"design": told["design"], "precision": r.subject.precision, "attention": r.subject.attention,
                "runtime": derived.compute_device(r), "machine": told["machine"], "power mode": told["power mode"], "clocks": locked,
                "threads": told["threads"], "CUDA graph": str(graph), "noise": str(noise)}

    one, two = of(a), of(b)
    return {k: (one[k], two[k]) for k in one}


def _times(a: RecordSource, b: RecordSource) -> tuple[list[Change], list[str]]:
    """Rate of the whole run (its interval from the periods), median and 99 % of the batch times from the raw logs; and notes."""
    found: list[Change] = []
    notes: list[str] = []

    def add(name: str, shown: Callable[[Record], str], ratio: Ratio | None, better: int) -> None:
        if ratio is not None:
            found.append(Change(name, shown(a.record), shown(b.record), ratio, better))

    periods = (a.periods_ms, b.periods_ms) if a.periods_ms and b.periods_ms else (a.batches_ms, b.batches_ms)
    rates = a.record.images_per_s, b.record.images_per_s
    if min(rates) > 0:
        drawn = bootstrap.ratio(*periods, bootstrap.mean, invert=True)
        rate = _centred(100 * (rates[1] / rates[0] - 1), drawn)
        add("Images per second", lambda r: number(r.images_per_s), rate, 1)
        if drawn is not None and abs(rate.percent - drawn.percent) > APART:
            notes.append(f"Images per second are those of the whole run; the times from batch to batch alone differ by "
                         f"{signed(drawn.percent)} in rate. The rest lies outside them, and the interval knows nothing of it.")
    batches = (a.batches_ms, b.batches_ms)
    add("Batch, median", lambda r: f"{number(r.batch_ms.median, 4)}{SPACE}ms", bootstrap.ratio(*batches, bootstrap.median), -1)
    add("Batch, 99 %", lambda r: f"{number(r.batch_ms.p99, 4)}{SPACE}ms", bootstrap.ratio(*batches, bootstrap.p99), -1)
    memory = (a.record.peak_memory_mb, b.record.peak_memory_mb)
    if memory[0] and memory[1]:
        add("Peak memory", lambda r: quantity(r.peak_memory_mb, "MB"), Ratio(100 * (memory[1] / memory[0] - 1)), -1)
    return found, notes


def _centred(percent: float, drawn: Ratio | None) -> Ratio:
    """The difference of the figures shown, with the interval that was drawn around nearly the same ratio."""
    if drawn is None or drawn.low is None or drawn.high is None:
        return Ratio(percent)
    scale = (100 + percent) / (100 + drawn.percent)
    return Ratio(percent, scale * (100 + drawn.low) - 100, scale * (100 + drawn.high) - 100)


def _energy(a: RecordSource, b: RecordSource) -> list[Change]:
    """Energy per image: mean of the power samples times the mean period; without an interval where a counter gave it."""
    p, q = a.record.power, b.record.power
    if p is None or q is None or p.mj_per_image <= 0:
        return []
    samples = [_inside(s) for s in (a, b)]
    drawn = None
    if all(samples) and a.periods_ms and b.periods_ms:
        drawn = bootstrap.ratio(samples[0], samples[1], bootstrap.mean, times=(a.periods_ms, b.periods_ms))
    ratio = _centred(100 * (q.mj_per_image / p.mj_per_image - 1), drawn)
    return [Change("Energy per image", energy(p.mj_per_image), energy(q.mj_per_image), ratio, -1)]


def _inside(source: RecordSource) -> list[float]:
    """Power samples of the run window, of the record's own source; none where a counter measured the energy."""
    window = next(((start, end) for name, start, end in source.windows if name == "run"), None)
    power = source.record.power
    trace = next((t for t in source.traces if power and t.source == power.source and not t.counted), None)
    if window is None or trace is None:
        return []
    return [mw for t, mw in zip(trace.t_s, trace.power_mw, strict=True) if window[0] <= t <= window[1]]


def signed(percent: float) -> str:
    """A difference in percent with its sign, one decimal below ten, never "-0"."""
    text = f"{abs(percent):.0f}" if abs(percent) >= 100 else f"{abs(percent):.1f}" if abs(percent) >= 1 else f"{abs(percent):.2f}"
    return f"{'' if float(text) == 0 else '+' if percent > 0 else '−'}{text}{SPACE}%"


def _interval(ratio: Ratio) -> str:
    if ratio.low is None or ratio.high is None:
        return "–"
    return f"{signed(ratio.low).partition(SPACE)[0]}{SPACE}…{SPACE}{signed(ratio.high)}"


def table(comparison: Comparison) -> Table | None:
    """Differences with their intervals; None when the comparison was refused."""
    if comparison.refused or not comparison.changes:
        return None
    rows = tuple((c.quantity, c.before, c.after, signed(c.ratio.percent), _interval(c.ratio), c.reading) for c in comparison.changes)
    return Table(comparison.title, ("", comparison.base, comparison.name, "Difference", "95 % interval", "Reading"), rows, "lrrrrl",
                 " ".join([comparison.text, *comparison.notes]), frozenset({3, 4, 5}))


def figure(comparisons: Sequence[Comparison]) -> Markup | None:
    """Differences with their intervals around "no difference"; None when no interval is known."""
    rows = [(f"{c.name}: {d.quantity.lower()}", d) for c in comparisons for d in c.changes if d.ratio.low is not None]
    if not rows:
        return None
    alt = "Differences from the first record: " + "; ".join(f"{name} {signed(d.ratio.percent)}" for name, d in rows) + "."
    return chart(lambda width: _whiskers(width, rows, alt),
                 "Differences from the first record with their 95 % intervals. Filled dots: the interval excludes zero.", width=WIDE,
                 legend=[("better", "s3"), ("worse", "s2"), ("no clear difference", "s6")])


def _whiskers(width: int, rows: Sequence[tuple[str, Change]], alt: str) -> Markup:
    values = [v for _, d in rows for v in (d.ratio.percent, d.ratio.low, d.ratio.high) if v is not None]
    axis = span([*values, 0.0], "", pad=0.08)
    step, right = 38, width - 12.0
    surface = Surface(width, step * len(rows) + 36)
    base = step * len(rows) + 4.0
    ticks = axis.ticks(max(4, width // 90))
    for value, text in zip(ticks, tick_text(ticks), strict=True):
        x = axis.at(value) * right
        surface.rule(x, 4, x, base, "axis" if value == 0 else "grid")
        surface.text(min(max(x, LETTER * len(text) / 2), right), base + 14, text, anchor="middle")
    surface.text(right, base + 29, "difference, %", "label", anchor="end")
    for k, (name, d) in enumerate(rows):
        y, low, high = k * step + 28.0, d.ratio.low or 0.0, d.ratio.high or 0.0
        style = {"better": "s3", "worse": "s2"}.get(d.reading, "s6")
        told = f"{signed(d.ratio.percent)}, 95 % interval {signed(low)} to {signed(high)}"
        surface.text(0, y - 12, name, "name")
        surface.text(right, y - 12, signed(d.ratio.percent), "value", anchor="end")
        surface.path([(axis.at(low) * right, y), (axis.at(high) * right, y)], f"whisker {style}")
        surface.dot(axis.at(d.ratio.percent) * right, y, 5, f"{'fill' if d.ratio.clear else 'hollow'} {style}", f"{name}: {told}")
    return surface.svg(alt)


def verdict(comparisons: Sequence[Comparison]) -> str:
    """What was refused, for the page's verdicts; "" when nothing was."""
    refused = [c for c in comparisons if c.refused]
    told = "; ".join(f"{c.name}: {listing(list(c.refused))}" for c in refused)
    return f"{plural(len(refused), 'record')} not compared: {told}" if refused else ""

"""The report's charts: which figure shows what, and in which words."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from edgedit.core import paper
from edgedit.core.record import Record
from edgedit.report import derived, figures
from edgedit.report.figures import HALF, WIDE, Bar, Series, Span, chart
from edgedit.report.scatter import Point, scatter
from edgedit.report.sources import RecordSource, StudentSource
from edgedit.report.words import SPACE, count, energy, number, plural, power, seconds

PHASE_STYLE = {"compute": "s1", "noise": "s2", "upload": "s3", "download": "s4", "save": "s5"}


def phases(record: Record) -> Markup | None:
    """One stacked bar: seconds by phase, the wall time marked."""
    parts = tuple((name, value, PHASE_STYLE.get(name, "s6")) for name, value in record.phases_s.items() if value > 0)
    if not parts:
        return None
    total = sum(value for _, value, _ in parts)
    bar = Bar("Sum of the phases", parts, seconds(total), mark=record.wall_s)
    told = (
        "Time by phase: "
        + ", ".join(f"{name} {seconds(value)}" for name, value, _ in parts)
        + f"; wall {seconds(record.wall_s)}."
    )
    caption = f"Seconds spent in each phase. The upright line marks the wall time, {seconds(record.wall_s)}."
    legend = [(f"{name} {number(100 * value / total, 2)}{SPACE}%", style) for name, value, style in parts]
    return chart(lambda width: figures.bars(width, [bar], "seconds", told), caption, legend=legend)


def distribution(source: RecordSource) -> Markup | None:
    """Histogram of the compute time of a batch, from the raw times."""
    values, d = source.batches_ms, source.record.batch_ms
    if not values:
        return None
    marks = [("median", d.median), ("99 %", d.p99)]
    alt = (
        f"Histogram of {plural(len(values), 'batch time')}, median {number(d.median, 4)} ms, 99 % below {number(d.p99, 4)} ms."
    )
    return chart(
        lambda width: figures.histogram(width, values, "compute of one batch, ms", "batches", alt, marks=marks),
        f"Distribution of the {count(len(values))} raw batch times.",
        width=HALF,
    )


def series(source: RecordSource) -> Markup | None:
    """Compute time of each batch in the order of the run."""
    values = source.batches_ms
    if not values:
        return None
    curve = Series("batch", list(range(1, len(values) + 1)), values)
    alt = f"Compute time of {plural(len(values), 'batch')[:-1] + 'es' if len(values) > 1 else '1 batch'} in order, " \
          f"{number(min(values), 4)} to {number(max(values), 4)} ms."
    return chart(lambda width: figures.line(width, [curve], "batch", "compute of one batch, ms", alt, height=220, zero=False),
                 "The same times in the order of the run: drift means heat or another program; the axis does not begin at 0.",
                 width=HALF)


def power_trace(source: RecordSource) -> Markup | None:
    """Power over time, one curve a source, with idle and run windows shaded and the idle mean drawn."""
    traces = [t for t in source.traces if t.t_s]
    if not traces:
        return None
    curves = [Series(t.source, t.t_s, [mw / 1e3 for mw in t.power_mw], f"s{k + 1}") for k, t in enumerate(traces[:4])]
    spans = [Span(start, end, name, "s3" if name.startswith("run") else "s6") for name, start, end in source.windows]
    p = source.record.power
    told = "" if p is None else f" Idle {power(p.idle_mw)}, total {energy(p.energy_total_mj)} over {seconds(p.window_s)}."
    legend = [(c.name, c.style) for c in curves] + ([("run window", "s3 wash"), ("idle window", "s6 wash")] if spans else [])
    alt = f"Power over time from {', '.join(c.name for c in curves)}.{told}"
    return chart(lambda width: figures.line(width, curves, "time from the start of the run, s", "power, W", alt, spans=spans),
                 f"Raw samples of the total rail, as logged.{told}", legend=legend)


def loss(student: StudentSource) -> Markup | None:
    """Training loss by step, on a logarithmic axis when it falls by more than ten times."""
    if len(student.steps) < 2:
        return None
    low, high = min(student.loss), max(student.loss)
    log = low > 0 and high / low > 10
    curve = Series("loss", student.steps, student.loss)
    steps = count(int(student.steps[-1]))
    alt = f"Training loss from {number(student.loss[0])} to {number(student.loss[-1])} over {steps} steps."
    return chart(lambda width: figures.line(width, [curve], "step", "loss" + (" (logarithmic)" if log else ""), alt, log=log,
                                            zero=False), alt)


def side_by_side(names: Sequence[str], records: Sequence[Record]) -> list[Markup]:
    """Bars of rate, time for 50,000 images and energy per image, one bar a record."""
    charts = []
    rates = [Bar(n, (("images/s", r.images_per_s, "s1"),), number(r.images_per_s))
             for n, r in zip(names, records, strict=True)]
    charts.append(_bars(rates, "images per second", "Rate: longer is faster."))
    times = [(n, t) for n, r in zip(names, records, strict=True) if (t := derived.fifty(r))]
    if times:
        rows = [Bar(n, ((t.how, t.wall_s, "s1"),), f"{number(t.wall_s, 4)}{'' if t.measured else ' (not run)'}",
                    soft=not t.measured) for n, t in times]
        how = "" if all(t.measured for _, t in times) else " Dashed outline: 50,000 images were not run; taken from the rate."
        charts.append(_bars(rows, "seconds for 50,000 images", f"Time: shorter is faster.{how}"))
    powered = [(n, r.power) for n, r in zip(names, records, strict=True) if r.power]
    if powered:
        scale, unit = (1.0, "millijoules") if max(p.mj_per_image for _, p in powered) < 1e3 else (1e-3, "joules")
        rows = [Bar(n, (("total", p.mj_per_image * scale, "s1"),), f"{number(p.mj_per_image * scale)} ({p.source})")
                for n, p in powered]
        same = len({p.boundary for _, p in powered}) == 1
        charts.append(_bars(rows, f"{unit} per image, total", "Energy: shorter is better." if same else
                            "Energy, over different boundaries (see the flags): these bars are not comparable."))
    return charts


def _bars(rows: Sequence[Bar], unit: str, caption: str) -> Markup:
    alt = f"{unit}: " + "; ".join(f"{row.name} {row.text}" for row in rows)
    return chart(lambda width: figures.bars(width, rows, unit, alt), caption, width=HALF)


def landscape(names: Sequence[str], records: Sequence[Record]) -> Markup | None:
    """Parameters against time for 50,000 images: the paper's designs as open diamonds, records as solid dots.

    Only records of the paper's image, patch and class sizes are on it; None when there is none.
    """
    ours = [(n, r, t) for n, r in zip(names, records, strict=True)
            if (t := derived.fifty(r)) and r.subject.parameters > 0 and derived.is_paper_shape(r.subject.spec)]
    if not ours:
        return None
    same = {design for _, r, _ in ours for design in derived.published(r)}
    points, legend = [], [("measured here, 50,000 images run or taken from the rate", "s1")]
    for design in (d for d in paper.TABLE_6 if d.epochs == 100):
        size = derived.parameters_of(design) / 1e6
        name, style = f"{design.label} published", "s2" if design in same else "s6"
        points.append(Point(size, design.latency_s, name, style, hollow=True, label=design in same))
    for n, r, t in ours:
        name = f"{r.subject.label} here" if len(ours) < 4 else n
        points.append(Point(r.subject.parameters / 1e6, t.wall_s, name, "s1", label=len(ours) < 8))
    legend += [("published, same design (Orin Nano)", "s2 open")] if same else []
    legend += [("published, other designs (Orin Nano)", "s6 open")]
    alt = f"Parameters against seconds for 50,000 images: {plural(len(ours), 'record')} here and the paper's 12 designs."
    x_label, y_label = "parameters, training form, millions", "seconds for 50,000 images"
    return chart(lambda width: scatter(width, points, x_label, y_label, alt, log=True),
                 f"Open diamonds are published numbers from a {paper.BOARD} with runtime, precision and power mode not stated; "
                 "solid dots were measured here. Other machine, other conditions: a place on this map is not a ranking.",
                 legend=legend, width=WIDE)

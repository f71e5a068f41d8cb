"""The report's tables, built once from the records and written by both the HTML page and the Markdown file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgedit.core import paper
from edgedit.core.artifact import Manifest, Parent
from edgedit.core.record import Power, Record
from edgedit.report import derived
from edgedit.report.sources import ParitySource
from edgedit.report.words import SPACE, UNKNOWN, count, energy, flops, millions, missing, near, number, power, quantity, seconds

Facts = list[tuple[str, str]]
"""Names and values, one a line."""


@dataclass(frozen=True)
class Table:
    """Cells as text; `align` has one letter a column, "l" or "r"; `marked` are the numbers of columns to draw attention to."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: str
    note: str = ""
    marked: frozenset[int] = frozenset()


def subject(record: Record, digest: str) -> Facts:
    """What was measured."""
    s, p = record.subject, record.protocol
    sizes = ", ".join(f"{name}{SPACE}{value}" for name, value in s.spec.items())
    return [
        ("Design (depth, width, heads)", s.label),
        ("All sizes", sizes or missing("the record holds no spec")),
        ("Parameters, training form", millions(s.parameters)),
        ("Parameters, deployed form", millions(s.deployed_parameters)),
        ("Work per image", f"{flops(s.flops_per_image)}, guidance counted"),
        ("Arithmetic rate", quantity(derived.tflops(record), "TFLOP/s")),
        ("Precision", s.precision),
        ("Attention", s.attention),
        ("Guidance", derived.guidance(record)),
        ("Images", f"{count(derived.images_done(record))} in {count(record.batch_ms.count)} timed batches of {count(p.batch)}"
                   f" (last: {count(p.last_batch)}), after {count(p.warmup_batches)} warm-up batches"),
        ("Seed", str(p.seed)),
        (
            "Results",
            f"{'saved to disk' if p.save else 'not saved'}; stages {'overlapped' if p.overlap else 'one after another'}",
        ),
        (
            "Peak memory",
            quantity(record.peak_memory_mb, "MB") if record.peak_memory_mb is not None else missing("the record holds none"),
        ),
        ("Bundle", s.bundle_digest),
        ("ONNX SHA-256", s.onnx_sha256),
        ("This record", digest),
    ]


def spoken(value: Any) -> str:
    """A plain JSON value in words: "threads 2, folded yes"; what is None or empty is left out."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {spoken(v)}" for k, v in sorted(value.items()) if v is not None and v != {} and v != [])
    if isinstance(value, (list, tuple)):
        return ", ".join(spoken(v) for v in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else "unknown" if value is None else str(value)


def environment(record: Record) -> tuple[Facts, list[str]]:
    """Where it ran: known facts, and the names of those not recorded."""
    env, p = record.environment, record.protocol
    packages = ", ".join(f"{name}{SPACE}{version}" for name, version in sorted(env.packages.items()))
    mode = (
        None if env.power_mode is None else env.power_mode + ("" if env.power_mode_id is None else f" (id {env.power_mode_id})")
    )
    locked = None if env.clocks_locked is None else "yes" if env.clocks_locked else "no"
    heat = ", ".join(f"{name} {number(value)}{SPACE}°C" for name, value in sorted(env.temperature_c.items()))
    rows: list[tuple[str, str | None]] = [
        ("Started", record.started_utc),
        ("Board", env.board),
        ("JetPack", env.jetpack),
        ("Jetson Linux (L4T)", env.l4t),
        ("Power mode", mode),
        ("Clocks locked", locked),
        ("GPU", env.gpu),
        ("Streaming multiprocessors", None if env.sm_count is None else str(env.sm_count)),
        ("GPU clock", None if env.gpu_clock_hz is None else quantity(env.gpu_clock_hz / 1e6, "MHz")),
        ("CPU", f"{env.cpu} ({env.cpu_count} logical)"),
        ("CPU governor", env.cpu_governor),
        ("Temperature", heat or None),
        ("Machine", env.machine),
        ("Operating system", env.os),
        ("Python", env.python),
        ("Runtime", p.runtime),
        ("Provider in use", p.provider),
        ("Threads", "runtime's default" if p.threads is None else str(p.threads)),
        ("Options and side facts", spoken(p.options) or None),
        ("Packages", packages or None),
        *((name.replace("_", " ").capitalize(), spoken(value)) for name, value in sorted(env.extra.items())),
    ]
    return [(name, value) for name, value in rows if value], [name for name, value in rows if not value]


def latency(record: Record) -> Table:
    """Percentiles of batch times, milliseconds."""
    a, b, batch = record.batch_ms, record.period_ms, record.protocol.batch
    names = (("min", "Fastest"), ("mean", "Mean"), ("median", "Median"), ("p90", "90 %"), ("p95", "95 %"), ("p99", "99 %"),
             ("max", "Slowest"))
    rows = [(title, number(getattr(a, key), 4), number(getattr(b, key), 4), number(getattr(a, key) / batch))
            for key, title in names] if a.count else []
    if rows:
        rows += [("Variation (CoV)", f"{number(a.cov_percent, 2)}{SPACE}%", f"{number(b.cov_percent, 2)}{SPACE}%", ""),
                 ("Values", count(a.count), count(b.count), "")]
    note = "Compute: one batch in the runtime. Period: one finished batch to the next. Per image: compute over the batch size."
    return Table("Latency of a batch", ("", "Compute, ms", "Period, ms", "Compute per image, ms"), tuple(rows), "lrrr",
                 note if rows else missing("no batch finished"))


def phases(record: Record) -> Table:
    """Time by phase."""
    total, done = sum(record.phases_s.values()), derived.images_done(record)
    rows = tuple((name, seconds(value), f"{number(100 * value / total, 2)}{SPACE}%" if total else "",
                  quantity(1e3 * value / done, "ms") if done else "") for name, value in record.phases_s.items())
    how = "Phases overlap, so they may add up to more than the wall time." if record.protocol.overlap else "Phases ran in turn."
    return Table("Where the time went", ("Phase", "Sum", "Share of the sum", "Per image"), rows, "lrrr",
                 f"Wall time {seconds(record.wall_s)}; sum of the phases {seconds(total)}. {how}" if rows
                 else missing("the record holds no phases"))


def energies(powers: Sequence[Power]) -> Table:
    """Energy of the run window by source, one column a source."""
    none = missing("no idle baseline")
    rows = [
        ("Total rail", [p.total_rail for p in powers]),
        ("Energy, total", [energy(p.energy_total_mj) for p in powers]),
        ("Energy, net of idle", [none if p.energy_net_mj is None else energy(p.energy_net_mj) for p in powers]),
        ("Per image, total", [energy(p.mj_per_image) for p in powers]),
        ("Per image, net of idle", [none if p.net_mj_per_image is None else energy(p.net_mj_per_image) for p in powers]),
        ("Mean power", [power(p.energy_total_mj / p.window_s if p.window_s > 0 else None) for p in powers]),
        (
            "Idle power",
            [none if p.idle_mw is None else f"{power(p.idle_mw)} over {seconds(p.idle_window_s, 3)}" for p in powers],
        ),
        ("Run window", [seconds(p.window_s) for p in powers]),
        ("Samples", [f"{count(p.samples)} at {number(p.rate_hz)}{SPACE}Hz" for p in powers]),
        ("Largest gap", [seconds(p.largest_gap_s, 3) for p in powers]),
        ("Boundary", [p.boundary for p in powers]),
    ]
    return Table(
        "Energy",
        ("", *(p.source for p in powers)),
        tuple((name, *cells) for name, cells in rows),
        "l" + "r" * len(powers),
        "Trapezoid of the total rail over the run window. Net: total less idle power times the window.",
    )


def rails(power_: Power) -> Table:
    """Energy by rail or domain."""
    rows = tuple((r.name, power(r.mean_mw), power(r.max_mw), energy(r.energy_mj)) for r in power_.rails)
    return Table(f"Rails of {power_.source}", ("Rail", "Mean", "Highest", "Energy"), rows, "lrrr",
                 f"The total is {power_.total_rail}; other rails may be parts of it and are not added to it.")


def beside(names: Sequence[str], records: Sequence[Record]) -> Table:
    """The paper's rows for a design beside the records of that design; `names` are empty when there is one record in all."""
    rows = derived.published(records[0])
    asked = ("50,000 images", "FID", "Inception score", "Machine", "Runtime", "Precision", "Power mode", "Guidance", "Batch")
    theirs = [(f"{r.latency_s:.1f}{SPACE}s", f"{r.fid:.2f}", f"{r.inception:.2f}", paper.BOARD, "not stated", "not stated",
               "not stated", f"scale {paper.GUIDANCE}; whether the doubled batch is counted is not stated", count(paper.BATCH))
              for r in rows]
    ours = [(time50.text if (time50 := derived.fifty(r)) else missing("no batch finished"), missing("a profile takes no FID"),
             missing("a profile takes no inception score"), derived.machine(r), derived.compute_device(r), r.subject.precision,
             r.environment.power_mode or "not recorded", derived.guidance(r), count(r.protocol.batch))
            for r in records]
    heads = [f"Published, {r.table}" + (f", {r.epochs} epochs" if len(rows) > 1 else "") for r in rows]
    heads += [f"Measured here{f': {name}' if name else ''}" for name in names]
    notes = dict.fromkeys(derived.comparability(r) for r in records)
    return Table(f"{records[0].subject.label} in the paper and here", ("", *heads),
                 tuple((name, *(column[k] for column in (*theirs, *ours))) for k, name in enumerate(asked)),
                 "l" * (len(heads) + 1),
                 " ".join(notes), frozenset(range(len(rows) + 1, len(heads) + 1)))


def comparison(names: Sequence[str], records: Sequence[Record]) -> Table:
    """One row a record."""
    rows = []
    for name, r in zip(names, records, strict=True):
        time50, p = derived.fifty(r), r.power
        rows.append((name, f"{r.subject.label} {r.subject.precision}, {r.subject.attention}", derived.compute_device(r),
                     number(r.images_per_s), number(r.batch_ms.median, 4) if r.batch_ms.count else UNKNOWN,
                     number(r.batch_ms.p99, 4) if r.batch_ms.count else UNKNOWN, time50.text if time50 else UNKNOWN,
                     energy(p.mj_per_image) if p else UNKNOWN,
                     energy(p.net_mj_per_image) if p and p.net_mj_per_image is not None else UNKNOWN))
    columns = ("Record", "Design and form", "Runtime", "Images/s", "Median, ms", "99 %, ms", "50,000 images", "Energy/image",
               "Net of idle")
    return Table("Records side by side", columns, tuple(rows), "lllrrrrrr")


def parity(source: ParitySource) -> Table:
    """The ladder: each rung's distance from the one it is compared with."""
    rows = tuple(
        (
            r.name,
            r.against,
            number(r.max_abs),
            number(r.mean_abs),
            ("identical" if r.max_levels == 0 else UNKNOWN) if r.psnr_db is None else f"{number(r.psnr_db)}{SPACE}dB",
            f"{number(r.changed_pixels_percent)}{SPACE}%",
            count(r.max_levels),
            r.note,
        )
        for r in source.rungs
    )
    return Table(
        "Parity ladder",
        ("Rung", "Against", "Largest error", "Mean error", "PSNR", "Changed pixels", "Largest step, levels", "Note"),
        rows,
        "llrrrrrl",
        f"Reference: {source.reference}. {count(source.images, 'images')}, "
        f"seeds {', '.join(map(str, source.seeds)) or 'not recorded'}. "
        "Changed pixels and steps count uint8 levels of the finished images.",
    )


def chain(role: str, manifest: Manifest, path: str) -> list[tuple[int, Parent]]:
    """An artifact and everything it was made from, with the distance from it: record 0, bundle 1, student 2, pairs 3 …"""
    def walk(parents: Sequence[Parent], depth: int) -> Iterator[tuple[int, Parent]]:
        for parent in parents:
            yield depth, replace(parent, path=near(parent.path))
            yield from walk(parent.parents, depth + 1)

    own = Parent(role, manifest.kind, manifest.digest, near(path), str(manifest.info.get("label", "")))
    first: dict[str, tuple[int, Parent]] = {}
    for depth, link in [(0, own), *walk(manifest.parents, 1)]:
        first.setdefault(link.digest or f"{link.role} {link.path}", (depth, link))
    return list(first.values())

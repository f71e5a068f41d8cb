"""Records as flat rows for CSV: one line each, full precision, units in the column names."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from edgedit.core.record import Record
from edgedit.report import derived


def row(name: str, digest: str, record: Record) -> dict[str, Any]:
    """One record as a flat row; unknown values are empty."""
    s, p, env, time50 = record.subject, record.protocol, record.environment, derived.fifty(record)
    flat: dict[str, Any] = {
        "kind": "record", "record": name, "digest": digest,
        "started_utc": record.started_utc, "complete": record.complete, "design": s.label,
        **{name: s.spec.get(name) for name in ("depth", "width", "heads", "patch", "image", "channels", "classes")},
        "precision": s.precision,
        "attention": s.attention,
        "guidance_scale": s.guidance_scale,
        "parameters": s.parameters,
        "deployed_parameters": s.deployed_parameters,
        "flops_per_image": s.flops_per_image,
        "bundle_digest": s.bundle_digest,
        "machine": derived.machine(record),
        "board": env.board,
        "power_mode": env.power_mode,
        "clocks_locked": env.clocks_locked,
        "runtime": p.runtime,
        "provider": p.provider,
        "threads": p.threads,
        "images_asked": p.images,
        "images_done": derived.images_done(record),
        "batch": p.batch,
        "forward_batch": s.forward_batch,
        "seed": p.seed,
        "save": p.save,
        "overlap": p.overlap,
        "wall_s": record.wall_s,
        "images_per_s": record.images_per_s,
        "seconds_for_50000_images": time50.wall_s if time50 else None,
        "seconds_for_50000_images_how": time50.how if time50 else None,
    }
    for prefix, d in (("batch_ms", record.batch_ms), ("period_ms", record.period_ms)):
        flat |= {f"{prefix}_{key}": value for key, value in d.model_dump().items()}
    flat |= {f"phase_{name}_s": value for name, value in record.phases_s.items()}
    flat["peak_memory_mb"] = record.peak_memory_mb
    if record.power is not None:
        flat |= {f"power_{key}": value for key, value in record.power.model_dump(exclude={"rails"}).items()}
    rows = derived.published(record)
    flat |= {
        "paper_seconds_for_50000_images_orin_nano": rows[0].latency_s if rows else None,
        "paper_fid": rows[0].fid if rows else None,
    }
    flat["verdicts"] = "; ".join(f"{v.level}: {v.text}" for v in record.verdicts)
    return flat


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV (RFC 4180) under the union of their columns; text that a spreadsheet would run gets a leading apostrophe."""
    columns = list(dict.fromkeys(key for r in rows for key in r))
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\r\n")
    writer.writeheader()
    for r in rows:
        writer.writerow(
            {key: f"'{v}" if isinstance(v, str) and v[:1] in ("=", "+", "-", "@", "\t", "\r") else v for key, v in r.items()}
        )
    return stream.getvalue()

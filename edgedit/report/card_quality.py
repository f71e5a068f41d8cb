"""Quality as a card shows it: one column for whose images, one row for each number of one name, one reference and one network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgedit.report.card_chain import Evaluation, mapping
from edgedit.report.lines import finite
from edgedit.report.words import number

WHAT = {
    "fid": "Fréchet distance between Gaussians fitted to Inception features of these images and of the reference; lower is better. The "
           "name says the layer and the count: fewer images give a larger number",
    "is": "Inception Score, exp of the mean divergence of p(class given image) from p(class); higher is better",
    "kid": "Kernel distance between Inception features, squared and unbiased; lower is better",
    "precision": "share of these images that lie among real ones (nearest-neighbour balls of the reference's features); higher is better",
    "recall": "share of real images that lie among these; higher is better",
    "accuracy": "share of images that a classifier takes for the class asked for; higher is better",
    "spread": "distance between images of one class over the same in the reference; 1 is alike, towards 0 a class becomes one image",
    "nearest": "median distance to the nearest training image, RMS in grey levels; 0 is a copy",
    "nearest copies": "share of images nearer to a training image than 99 % of held-out real images come; 1 % is normal",
    "nearest nearer_than_real": "chance to be nearer to a training image than a held-out real image is; 0.5 is normal, and blur raises it",
    "teacher-l1": "mean absolute difference from the teacher's images of the same noise and classes, grey levels; lower is better",
    "teacher-rmse": "root mean square difference from the teacher's images of the same noise and classes, grey levels; lower is better",
    "teacher-lpips": "perceptual distance (LPIPS) to the teacher's images of the same noise and classes; lower is better",
}
"""A line on each number; docs/evaluation.md has the whole."""
ORDER = ("fid", "is", "kid", "precision", "recall", "accuracy", "spread", "nearest", "nearest copies", "nearest nearer_than_real",
         "teacher-l1", "teacher-rmse", "teacher-lpips")
SHARES = ("accuracy", "nearest copies")
RANK = {"student": 0, "bundle": 1, "teacher": 8, "real": 9}


def quality(of: str, evaluations: Sequence[Evaluation], names: dict[str, str]) -> dict[str, Any] | None:
    """Columns, rows and notes of all evaluations; None without any.

    Args:
        of: whose card it is, "student" or "teacher".
        names: how folders are called, by digest.

    Numbers stand in one row only if their name, their reference and their network are the same.
    """
    if not evaluations:
        return None
    columns: list[dict[str, Any]] = []
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for evaluation in sorted(evaluations, key=lambda e: (RANK.get(e.who, 5), *map(str, _whose(of, e, names).values()))):
        mine = [(_row(evaluation, m), m) for m in _metrics(evaluation)]
        column = _column(columns, rows, _whose(of, evaluation, names), [key for key, _ in mine])
        for key, metric in mine:
            row = rows.setdefault(key, {"metric": metric["metric"], "name": metric["name"], "what": WHAT.get(metric["metric"]),
                                        "reference": _reference(evaluation, metric), "by": _network(evaluation, metric),
                                        "how": _how(metric), "cells": {}})
            row["cells"][str(column)] = {k: metric.get(k) for k in ("value", "uncertainty", "uncertainty_of", "images")}
        columns[column]["evaluations"].append(evaluation.artifact.manifest.digest)
    ordered = sorted(rows.items(), key=lambda item: (_rank(item[1]["metric"]), item[0]))
    notes = sorted({str(n) for e in evaluations for n in e.body.get("notes") or ()})
    protocols = sorted({str(e.body["protocol"]) for e in evaluations if e.body.get("protocol")})
    return {"columns": columns, "rows": [row for _, row in ordered], "notes": notes, "protocols": protocols}


def measured(shown: dict[str, Any] | None, who: str) -> bool:
    """Whether there is a column of these images."""
    return shown is not None and any(c["who"] == who for c in shown["columns"])


def shown(row: dict[str, Any], cell: dict[str, Any] | None) -> str:
    """A number with its spread: "92.5 % ± 0.8"; "not measured" without one."""
    value = None if cell is None else finite(cell["value"])
    if cell is None or value is None:
        return "not measured"
    scale, unit = (100, " %") if row["metric"] in SHARES else (1, "")
    spread = finite(cell["uncertainty"])
    return f"{number(scale * value)}{unit}" + ("" if spread is None else f" ± {number(scale * spread, 2)}")


def _rank(metric: str) -> int:
    return ORDER.index(metric) if metric in ORDER else len(ORDER)


def _metrics(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Its numbers, and of the nearest neighbours also what tells copies from likeness."""
    found = []
    for m in evaluation.body["metrics"]:
        found.append({**m, "metric": str(m.get("metric", m["name"]))})
        details = mapping(m.get("details"))
        for key in ("copies", "nearer_than_real"):
            if m.get("metric") == "nearest" and finite(details.get(key)) is not None:
                found.append({**m, "metric": f"nearest {key}", "name": f"nearest, {key.replace('_', ' ')}", "value": details[key],
                              "uncertainty": None})
    return found


def _whose(of: str, e: Evaluation, names: dict[str, str]) -> dict[str, Any]:
    """Whose images they are, and how they were made."""
    s, used = e.source, e.source.get("used", e.source.get("count"))
    guidance = s.get("guidance_scale", mapping(s.get("teacher")).get("guidance"))
    title = {"student": "This student", "real": f"Real images ({s.get('name')} {s.get('split')})"}.get(e.who, f"Its {e.who}")
    if e.who == "bundle":
        title = f"Bundle {names.get(str(s.get('digest'))) or s.get('precision', '')}" + ("" if e.own else " (not among the folders)")
    elif of == "teacher" and e.who == "teacher":
        title = "This teacher (pairs of it)"
    elif e.who == "teacher":
        title = "The teacher (the training pairs)" if e.own else "The teacher (other pairs of it)"
    if s.get("weights") == "raw":
        title += f", raw weights of step {s.get('step', 'not recorded')} (no EMA)"
    return {"who": e.who, "title": title, "weights": s.get("weights", "ema"), "pairs": mapping(s.get("pairs")).get("digest"),
            "noise": mapping(e.body.get("training_noise")).get("verdict"),
            "images": used, "guidance": guidance, "seed": s.get("seed"), "start": s.get("start"),
            "labels": s.get("labels"), "digest": s.get("digest") or s.get("sha256")}


def _column(columns: list[dict[str, Any]], rows: dict[tuple[str, ...], dict[str, Any]], whose: dict[str, Any],
            keys: Sequence[tuple[str, ...]]) -> int:
    """The column of these images where none of its numbers is there already, else a new one."""
    for k, column in enumerate(columns):
        free = all(str(k) not in rows[key]["cells"] for key in keys if key in rows)
        if free and {f: v for f, v in column.items() if f != "evaluations"} == whose:
            return k
    columns.append({**whose, "evaluations": []})
    return len(columns) - 1


def _row(evaluation: Evaluation, metric: dict[str, Any]) -> tuple[str, ...]:
    against = _reference(evaluation, metric)
    content = "" if against is None else str(mapping(evaluation.body.get("reference")).get("sha256"))
    if metric["metric"].startswith("teacher-"):
        content = _pairs(evaluation)
    return metric["name"], against or "", content, str(_network(evaluation, metric)), str(_how(metric))


def _pairs(evaluation: Evaluation) -> str:
    """Digest of the pairs that gave noise, classes and the teacher's images."""
    return str(mapping(evaluation.source.get("pairs")).get("digest") or "not recorded")


def _how(metric: dict[str, Any]) -> dict[str, Any]:
    """Choices inside a metric that change its value."""
    details = mapping(metric.get("details"))
    return {k: details[k] for k in ("k", "splits", "subsets", "subset_size") if k in details}


def _reference(evaluation: Evaluation, metric: dict[str, Any]) -> str | None:
    """What the images were compared with, for numbers that compare: "cifar10 train, 1,000 of 50,000 images", "pairs 0123456789ab"."""
    if metric["metric"].startswith("teacher-"):
        return f"pairs {_pairs(evaluation)[:12]}"
    r = mapping(evaluation.body.get("reference"))
    used = metric.get("reference_images")
    if not r or used is None:
        return None
    count = r.get("count")
    of = f"{used:,}" + (f" of {count:,}" if isinstance(count, int) and count != used else "")
    return f"{r.get('name', 'not recorded')} {r.get('split') or ''}".strip() + f", {of} images"


def _network(evaluation: Evaluation, metric: dict[str, Any]) -> dict[str, Any] | None:
    """The network that a number was read with: name, layer, hash of its weights; None for numbers of pixels."""
    kind = metric["metric"]
    told = mapping(evaluation.body.get({"accuracy": "classifier", "teacher-lpips": "perceptual"}.get(kind, "extractor")))
    if not told or kind.startswith(("spread", "nearest", "teacher-l1", "teacher-rmse")):
        return None
    asked = ("name", "kind", "tap", "net", "resolution", "sha256", "trunk_sha256", "heads_sha256")
    return {k: told.get(k) for k in asked if told.get(k) is not None}

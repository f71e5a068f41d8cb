"""How a card begins: what a reader must know first, and what the model is in two sentences."""

from __future__ import annotations

from typing import Any

from edgedit.report.card_quality import shown
from edgedit.report.words import count, number


def warnings(facts: dict[str, Any]) -> list[str]:
    """What a reader must know before anything else."""
    found = []
    teacher = facts["teacher"] or {}
    for whose, t in (("This model", facts["training"]), ("Its teacher", teacher.get("trained"))):
        if t and t["complete"] is False:
            share = f" ({number(100 * t['step'] / t['steps'], 2)} %)" if t["step"] is not None and t["steps"] else ""
            found.append(f"{whose} is not trained to the end: step {t['step'] or 0:,} of {t['steps'] or 0:,}{share}")
    found += [f"Bundle {b['name']} differs from the student by more than its precision allows: {p['note']}"
              for b in facts["bundles"] for p in b["parity"] if p["verdict"] == "differs"]
    return found


def lead(facts: dict[str, Any]) -> str:
    """What it is, in a sentence or two."""
    m, d = facts["model"], facts["data"]
    size = f"{count(m['parameters'])} parameters" if m["parameters"] else "parameters not recorded"
    images = f"{m['image']}×{m['image']} images" if m["image"] else "images"
    data = f" of the data set {d['name']}" if d["name"] else ""
    if facts["of"] == "teacher":
        return f"A diffusion teacher of {size} for {images}{data}, from which noise–image pairs are made."
    by = (facts["teacher"] or {}).get("label") or "not recorded"
    return f"A one-step generator of {size} for {images}{data}, distilled from the teacher {by}.{_judged(facts)}"


def _judged(facts: dict[str, Any]) -> str:
    """Class accuracy in a sentence, beside that of others where they were measured by the same classifier.

    Of several guidances, the bundles'; without bundles, the first.
    """
    found, classes = facts["quality"], facts["model"]["classes"]
    if found is None:
        return " Its quality was not measured."
    usual = {b["guidance"] for b in facts["bundles"]}
    for row in found["rows"]:
        columns = [(found["columns"][int(k)], shown(row, cell)) for k, cell in row["cells"].items()]
        own = [x for who in ("student", "bundle") for x in columns if x[0]["who"] == who]
        own.sort(key=lambda x: (x[0]["weights"] == "raw", bool(usual) and x[0]["guidance"] not in usual))
        if row["metric"] == "accuracy" and own:
            column, value = own[0]
            names = (("teacher", "its teacher's"), ("real", "real images"))
            others = [f"{name} {text}" for who, name in names for text in [t for c, t in columns if c["who"] == who][:1]]
            others += [f"guessing {number(100 / classes)} %"] if classes else []
            images = f" of {count(column['images'])}" if isinstance(column["images"], int) else ""
            guidance = f", made with guidance {number(column['guidance'], 2)}," if isinstance(column["guidance"], (int, float)) else ""
            beside = f" ({', '.join(others)})" if others else ""
            return f" A classifier takes {value}{images} images{guidance} for the class asked for{beside}."
    return ""

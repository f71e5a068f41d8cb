"""A model card as Markdown that GitHub renders, with front matter as Hugging Face's model cards have it, from the card's facts alone."""

from __future__ import annotations

import json
import re
from typing import Any

from edgedit.report import card_quality
from edgedit.report.card_sections import bundle_lines, limit_lines, speed_lines, training_rows
from edgedit.report.card_words import NOT_RECORDED, code, fence, rows_table, table, words
from edgedit.report.markdown import cell
from edgedit.report.words import SPACE, count, flops, millions, number

LICENCES = {"apache-2.0", "mit", "openrail", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-3.0",
            "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0",
            "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "epl-2.0", "gpl-2.0", "gpl-3.0", "agpl-3.0", "lgpl-2.1", "lgpl-3.0", "isc", "mpl-2.0",
            "ms-pl", "odc-by", "odbl", "ofl-1.1", "unlicense", "zlib"}
"""Licences that Hugging Face's front matter knows by name; others are "other" with a name of their own."""
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.()/-]*")
_NOT_TEXT = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


def card_text(facts: dict[str, Any]) -> str:
    """The card; the same facts give the same bytes."""
    lines = [*_front(facts), f"# {cell(facts['title'])}", ""]
    lines += [line for text in facts["warnings"] for line in (f"> **{cell(text)}**", "")]
    lines += [cell(facts["lead"]), ""]
    for sample in facts["samples"]:
        path = sample["path"].replace("<", "%3C").replace(">", "%3E")
        lines += [f"![{cell(sample['alt'])}](<{path}>)", "", f"*{cell(sample['caption'])}*", ""]
    parts = (("What it is", _what(facts)), ("How to run it", _run(facts)), ("Data", _data(facts)), ("Teacher", _teacher(facts)),
             ("Pairs", _pairs(facts)), ("Training", _training(facts)), ("Quality", _quality(facts)),
             ("Bundles", bundle_lines(facts["bundles"]) if facts["of"] == "student" else []),
             ("Speed", speed_lines(facts["speed"]) if facts["of"] == "student" else []), ("Limits", limit_lines(facts)),
             ("Chain of evidence", _chain(facts)))
    for title, part in parts:
        lines += [f"## {title}", "", *part, ""] if part else []
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines).replace(SPACE, " ")).rstrip() + "\n\n"


# --- front matter -----------------------------------------------------------------------------------------------------------


def _scalar(text: str) -> str:
    """A YAML scalar: plain where that cannot be misread, else quoted as JSON, which YAML reads."""
    return text if _PLAIN.fullmatch(text) and text.lower() not in _NOT_TEXT else json.dumps(text, ensure_ascii=False)


def _front(facts: dict[str, Any]) -> list[str]:
    lines, licence = ["---"], facts["licence"]
    if licence and licence.lower() in LICENCES:
        lines.append(f"license: {_scalar(licence.lower())}")
    elif licence:
        lines += ["license: other", f"license_name: {_scalar(licence)}"]
    lines.append("library_name: edgedit")
    lists = {"tags": facts["tags"], "datasets": [facts["data"]["name"]] if facts["data"]["name"] else [],
             "metrics": list(dict.fromkeys(r["name"] for r in (facts["quality"] or {"rows": []})["rows"] if " " not in r["metric"]))}
    for key, values in lists.items():
        lines += [f"{key}:", *(f"- {_scalar(str(v))}" for v in values)] if values else []
    return [*lines, "---", ""]


# --- sections ---------------------------------------------------------------------------------------------------------------


def _what(facts: dict[str, Any]) -> list[str]:
    m, s = facts["model"], facts["model"]["sizes"]
    if facts["of"] == "student":
        design = (f"depth {s['depth']}, width {s['width']}, {s['heads']} heads, patches of {s['patch']}×{s['patch']}, MLP {s['mlp_ratio']}×"
                  if {"depth", "width", "heads", "patch", "mlp_ratio"} <= s.keys() else None)
        rows = [("Kind", "DiT-Nano: a class-conditional diffusion transformer that makes an image from noise in one step"),
                ("Design", f"{m['label']}: {design}" if design else m["label"] or None)]
    else:
        what = facts["teacher_kind"]
        rows = [("Kind", f"{what['kind']}: {what['what']}" if what["what"] else what["kind"]), ("Design", words(s) or None)]
    side, channels = m["image"], m["channels"]
    names = ", ".join(m["class_names"])
    rows += [("Parameters, as trained", millions(m["parameters"]) if m["parameters"] else None)]
    if facts["of"] == "student":
        rows += [("Parameters, deployed (conditioning folded into a table)", millions(m["deployed_parameters"])
                  if m["deployed_parameters"] else None),
                 ("Work for one image", f"{flops(m['flops'])} a pass; guidance other than 1 takes two" if m["flops"] else None)]
        inside = ((facts["training"] or {}).get("loss") or {}).get("distilled_guidance")
        rows += [("Guidance", f"{number(inside, 2)} is in the weights: one pass gives it, asked for with guidance 1")] if inside else []
    rows += [("Images", f"{side}×{side}, {count(channels, 'channel' if channels == 1 else 'channels')}" if side else None),
             ("Classes", f"{m['classes']}: {names}" if names else str(m["classes"] or "") or None),
             ("Licence", facts["licence"] or "not given"), ("Manifest written", m["made"])]
    return rows_table(rows)


def _run(facts: dict[str, Any]) -> list[str]:
    where = "in this folder" if facts["beside"] else "where the folders lie"
    return [f"With edgedit installed, {where}:", "", *fence(facts["run"])]


def _data(facts: dict[str, Any]) -> list[str]:
    d = facts["data"]
    images = count(d["images"]) if d["images"] is not None else None
    return rows_table([("Data set", " ".join(str(x) for x in (d["name"], d["split"]) if x) or None), ("Images", images),
                       ("SHA-256 of images, labels and class names", code(d["sha256"])),
                       ("Licence", facts["data_licence"] or "not given by whoever made this card")], raw=(2,))


def _teacher(facts: dict[str, Any]) -> list[str]:
    t = facts["teacher"]
    if t is None:
        return []
    what, trained = f"{t['kind']}: {t['what']}" if t["what"] else t["kind"], t["trained"]
    rows = [("Kind", what), ("Name", t["label"]), ("Parameters", millions(t["parameters"]) if t["parameters"] else
            "none" if t["kind"] == "ideal" else None)]
    raw: tuple[int, ...] = ()
    if t["kind"] != "ideal":
        rows.append(("SHA-256 of its weights", code(t["weights_sha256"])))
        raw = (3,)
        if trained is None:
            rows.append(("Its training", "its folder was not given: see the chain of evidence"))
        elif trained["converted"]:
            rows.append(("Its training", f"by others; converted from {words(trained['converted'])}"))
        else:
            rows += [(f"Its training: {name[0].lower()}{name[1:]}", value) for name, value in training_rows(trained)
                     if name in ("Steps", "Images seen", "Loss", "Loss at the end", "Wall time", "Began from the weights of")]
        rows += [("Its licence", t["licence"])] if t["licence"] else []
    rows.append(("Its quality", "see Quality" if card_quality.measured(facts["quality"], "teacher") else "not measured"))
    return rows_table(rows, raw=raw)


def _pairs(facts: dict[str, Any]) -> list[str]:
    p = facts["pairs"]
    if p is None:
        return []
    kept = {"seed": "remade from the seed", "stored": "stored with the pairs"}.get(p["noise"])
    guidance = "not used" if p["teacher"] == "ideal" else None if p["guidance"] is None else number(p["guidance"], 2)
    where = ", ".join(str(x) for x in (p["precision"], p["device"]) if x)
    seed = None if p["seed"] is None else f"{p['seed']}, from image {p['start'] or 0:,} on"
    rows = [("Pairs", count(p["count"]) if p["count"] is not None else None), ("Seed", seed), ("Noise", kept),
            ("Sampler", words(p["sampler"]) if p["sampler"] else None), ("Guidance", guidance), ("Precision, device", where or None),
            ("Digest", code(p["digest"]))]
    note = [] if p["given"] else ["", "The folder of the pairs was not given; this is what the student's manifest repeats of it."]
    return rows_table(rows, raw=(6,)) + note


def _training(facts: dict[str, Any]) -> list[str]:
    t = facts["training"]
    if t is None:
        return ["Not recorded here: the student's folder was not among those that this card was made from."]
    lines = [f"Converted, not trained here: {cell(words(t['converted']))}."] if t["converted"] else rows_table(training_rows(t))
    if facts["commands"]:
        lines += ["", "The commands, put together again from the settings in the manifests; names of files and folders stand for where "
                  "these lie:", "", *fence(facts["commands"])]
        trained = [x for x in (t, (facts["teacher"] or {}).get("trained")) if x]
        cut = any(x and x["complete"] is False for x in [*trained, *(x["init"] for x in trained)])
        lines += ["", "A run that is not trained to the end is its command, stopped at the step named above."] if cut else []
    return lines


def _quality(facts: dict[str, Any]) -> list[str]:
    q = facts["quality"]
    if q is None:
        return ["Not measured: no evaluation was given."]
    heads = []
    for c in q["columns"]:
        made = [count(c["images"], "images") if isinstance(c["images"], int) else "",
                f"guidance {number(c['guidance'], 2)}" if isinstance(c["guidance"], (int, float)) else "",
                "noise and classes of pairs" if c["pairs"] else "",
                f"noise {c['noise']}" if c["noise"] in ("held out", "trained on") else ""]
        heads.append(f"{c['title']}: {', '.join(h for h in made if h)}")
    columns = [("Number", "l"), *((h, "r") for h in heads), ("Against", "l")]
    rows = [[r["name"], *(card_quality.shown(r, r["cells"].get(str(k))) for k in range(len(heads))), r["reference"] or "–"]
            for r in q["rows"]]
    lines = [*table(columns, rows), ""]
    guess = facts["model"]["classes"]
    for r in dict((r["name"], r) for r in q["rows"]).values():
        by = f" Read by {words(r['by'])}." if r["by"] else ""
        how = f" With {words(r['how'])}." if r["how"] else ""
        of = sorted({str(c["uncertainty_of"]) for c in r["cells"].values() if c["uncertainty_of"] and c["uncertainty"] is not None})
        spread = f" ±: {'; '.join(of)}." if of else ""
        chance = f" Guessing is right {number(100 / guess)} % of the time." if r["metric"] == "accuracy" and guess else ""
        lines.append(f"- **{cell(r['name'])}**: {cell((r['what'] or 'not defined here') + '.' + chance + by + how + spread)}")
    lines += ["", *(f"Protocol: {code(p)}." for p in q["protocols"])]
    missing = [n for who, n in (("teacher", "the teacher's images"), ("real", "real images")) if not card_quality.measured(q, who)]
    return lines + ([f"Not measured the same way: {' and '.join(missing)}."] if missing else [])


def _chain(facts: dict[str, Any]) -> list[str]:
    rows = []
    for link in facts["chain"]:
        what = link["role"] if link["role"] == link["kind"] else f"{link['role']} ({link['kind']})"
        where = {None: "not given", "": "elsewhere, checked", ".": "this folder"}.get(link["place"], link["place"])
        where = f"its manifest alone: {link['place'] or 'elsewhere'}" if link["bare"] else where
        rows.append([cell(what), cell(link["label"] or NOT_RECORDED),
                     cell("the data set itself" if link["kind"] == "data" else str(where)), code(link["digest"]) or NOT_RECORDED])
    lines = table([("What", "l"), ("Label", "l"), ("Where", "l"), ("Digest", "l")], rows, escaped=True)
    alone = ", of a manifest alone its digest" if any(link["bare"] for link in facts["chain"]) else ""
    lines += ["", "A digest is the SHA-256 of a folder's `manifest.json`, which names the SHA-256 of every file in it and the digests of "
              "what it was made from. All folders that were given were checked to the last byte when this card was "
              f"made{alone}; `edgedit show FOLDER` checks one again, `edgedit card --check README.md` all of them and this text."]
    hashes = [f"- {cell(s['path'])}: {code(s['sha256'])}" for s in facts["samples"]]
    return lines + (["", "Pictures (SHA-256):", "", *hashes] if hashes else [])



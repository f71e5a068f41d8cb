"""Longer sections of a card: training, bundles, speed, limits."""

from __future__ import annotations

from typing import Any

from edgedit.report import card_quality
from edgedit.report.card_words import code, table, words
from edgedit.report.markdown import cell
from edgedit.report.words import SPACE, count, energy, number, quantity, seconds

SETUPS = {
    "get": "get: offline distillation on stored noise–image pairs",
    "dmd": "dmd: distribution matching against the teacher, beside the pairs",
    "ta": "ta: with a larger student as teaching assistant",
    "mi1": "mi1: inner layers are taught points between noise and image",
    "guided": "guided: a student's guided images taught in one pass",
}
LOSSES = {"l1": "L1, mean absolute difference of the images", "l2": "L2, mean squared difference of the images", "lpips": "LPIPS",
          "edm": "EDM's weighted denoising error", "none": "none beside the setup's own"}
PARITY = "distance of its images from the student's (the training form in float64, the same noise and classes)"


def training_rows(t: dict[str, Any]) -> list[tuple[str, str | None]]:
    """How weights were trained, name by name."""
    step, steps = t["step"], t["steps"]
    length = None if step is None else count(step) if step == steps or steps is None else f"{count(step)} of {count(steps)}"
    if length and t["ended_by"] == "minutes":
        length = f"{count(step)}, ended by its {number(t['minutes'])} minutes" if t["minutes"] else f"{count(step)}, ended by its minutes"
    options = f"; {words(t['setup_options'])}" if t["setup_options"] else ""
    setup = None if t["setup"] is None else SETUPS.get(t["setup"], t["setup"]) + options
    loss = dict(t["loss"] or {})
    loss["name"] = " + ".join(LOSSES.get(name, name) for name in str(loss.get("name")).split("+"))
    where = [t["device"], None if t["processes"] in (None, 1) else f"{t['processes']} processes"]
    compiled = {True: ", compiled", False: ""}.get(t["compiled"], "")
    ema = None if t["ema_decay"] is None else f"decay {t['ema_decay']}" + (", with warm-up" if t["ema_warmup"] else "")
    rows = [("Setup", setup), ("Loss", words(loss) if t["loss"] else None),
            ("Loss at the end", None if t["final_loss"] is None else f"{number(t['final_loss'], 4)} (mean of the last logged steps)"),
            ("Optimiser", optimiser(t["optimizer"]) if t["optimizer"] else None),
            ("Batch", None if t["batch"] is None else count(t["batch"], "images")), ("Steps", length),
            ("Images seen", None if t["images_seen"] is None else count(t["images_seen"])),
            ("Wall time", None if t["wall_s"] is None else seconds(t["wall_s"])), ("Device", ", ".join(w for w in where if w) or None),
            ("Machine", t["machine"]),
            ("Precision", None if t["precision"] is None else t["precision"] + compiled), ("EMA of the weights", ema),
            ("Labels dropped", None if t["label_dropout"] is None else f"{number(100 * t['label_dropout'])} %"),
            ("Seed", None if t["seed"] is None else str(t["seed"]))]
    if t["setup"] is None:
        rows = rows[1:]
    if t["flips"] is not None:
        rows.append(("Mirrored images", "every second one" if t["flips"] else "none"))
    return rows + ([("Began from the weights of", _start(t["init"]))] if t["init"] else [])


def _start(init: dict[str, Any]) -> str:
    own = "its own images and time come"
    if init["images_seen"] is not None and init["wall_s"] is not None:
        own = f"its {count(init['images_seen'], 'images')} in {seconds(init['wall_s'])} come"
    at = f" at step {count(init['step'])} of {count(init['steps'])}" if init["complete"] is False and init["step"] is not None else ""
    return f"{init['label']}{at}; {own} on top"


def optimiser(options: dict[str, Any]) -> str:
    """Its name and settings; those of runs from before there was a choice have no name."""
    left = {k: v for k, v in options.items() if k != "name"}
    name = {"muon": "Muon for the matrices inside the network, AdamW for the rest"}.get(options.get("name", "adamw"), "AdamW")
    return f"{name}, {words(left)}"


def bundle_lines(bundles: list[dict[str, Any]]) -> list[str]:
    """The bundles, their bytes, and how far they are from the student."""
    if not bundles:
        return ["None was given."]
    columns = [("Folder", "l"), ("Precision", "l"), ("Attention", "l"), ("Batch", "r"), ("Guidance", "r"), ("Bytes of ONNX", "r"),
               ("Needs", "l"), ("Blocks TensorRT can fuse", "r")]
    rows = []
    for b in bundles:
        batch = "any" if b["dynamic"] else "not recorded" if b["batch"] is None else count(b["batch"])
        guidance = "not recorded" if b["guidance"] is None else number(b["guidance"], 2)
        size = "not recorded" if b["bytes"] is None else count(b["bytes"])
        fused = "–" if b["attention"] == "ort" else "not recorded" if b["fused"] is None else f"{b['fused'][0]} of {b['fused'][1]}"
        rows.append([b["name"], str(b["precision"]), str(b["attention"]), batch, guidance, size, b["needs"] or "not recorded", fused])
    heads = [("Folder", "l"), ("PSNR", "r"), ("Largest step, levels", "r"), ("Values changed", "r"), ("Compared", "l"), ("INT8 gate", "l")]
    lines = [*table(columns, rows), "", f"Parity: {PARITY}.", "",
             *table(heads, [row for b in bundles for row in _parity(b)]), "", "SHA-256 of `model.onnx`:", ""]
    return lines + [f"- {cell(b['name'])}: {code(b['onnx_sha256']) or 'not recorded'}" for b in bundles]


def _parity(b: dict[str, Any]) -> list[list[str]]:
    """A row for each ladder that the bundle is on."""
    gate = "–" if b["precision"] != "int8" else _gate(b["int8"])
    rows = []
    for p in b["parity"]:
        psnr = "identical" if p["psnr_db"] is None else f"{number(p['psnr_db'])} dB"
        seeds = ", ".join(map(str, p["seeds"])) or "not recorded"
        compared = f"{count(p['images'], 'images')}, seed {seeds}" + (f"; {p['note']}" if p["note"] else "")
        rows.append([b["name"], psnr, count(p["max_levels"]), f"{number(p['changed_percent'])} %", compared, gate])
    return rows or [[b["name"], "not measured", "–", "–", "–", gate]]


def _gate(g: dict[str, Any] | None) -> str:
    if not g or (not g["summary"] and g["passed"] is None):
        return "not recorded"
    verdict = {True: "passed", False: "FAILED", None: "verdict not recorded"}[g["passed"]]
    limits = g["limits"] or {}
    told = [f"limits: {words({k: v for k, v in limits.items() if k in ('psnr_db', 'mean_levels', 'perceptual')})}" if limits else "",
            f"{g['images']:,} images" if isinstance(g["images"], int) else "", f"calibrated by {g['method']}" if g["method"] else ""]
    return "; ".join(x for x in (verdict, str(g["summary"] or ""), *told) if x)


def speed_lines(records: list[dict[str, Any]]) -> list[str]:
    """Measurements, each with where and how; no figure without its record."""
    if not records:
        return ["Not measured: no record was given."]
    lines = []
    for r in records:
        of = r["bundle"] or f"a {r['precision']} bundle that is not among the folders ({r['bundle_digest'][:12]})"
        board = ", ".join(x for x in (r["board"], r["power_mode"], r["gpu"]) if x)
        phases = ", ".join(f"{k} {seconds(v)}" for k, v in r["phases_s"].items())
        how = f"{'overlapped' if r['overlapped'] else 'one after another'}, images {'saved' if r['saved'] else 'not saved'}"
        rate = f"{number(r['images_per_s'])} images/s" + ("" if r["complete"] else " (cut short)")
        times = (f"median {number(r['batch_ms_median'], 4)} ms, 99 % within {number(r['batch_ms_p99'], 4)} ms, "
                 f"{count(r['batches'], 'batches')}" if r["batches"] else "no batch finished")
        rows = [("Rate", f"**{cell(rate)}**"), ("Bundle", cell(f"{of}: {r['precision']}")), ("Guidance", cell(r["guidance"])),
                ("Machine", cell(f"{r['cpu']}, {r['cores']} logical cores; {r['os']}" + (f"; {board}" if board else ""))),
                ("Runtime", cell(r["runtime"])), ("Threads", "the runtime's default" if r["threads"] is None else str(r["threads"])),
                ("Images, batch", cell(f"{count(r['images'])}, {count(r['batch'])}")),
                ("Time of a batch", cell(times)), ("Wall time", cell(seconds(r["wall_s"]))), ("Phases (sums)", cell(f"{phases}; {how}")),
                ("Energy for an image", cell("not measured" if r["mj_per_image"] is None
                                             else f"{energy(r['mj_per_image'])}: {r['power_boundary']}")),
                ("Peak memory", cell("not recorded" if r["peak_memory_mb"] is None else quantity(r["peak_memory_mb"], "MB"))),
                ("Measured", cell(r["started"])), ("Record", code(r["digest"]))]
        lines += [*table([("", "l"), ("", "l")], [[n, v] for n, v in rows], escaped=True), ""]
    return lines


def limit_lines(facts: dict[str, Any]) -> list[str]:
    """What the manifests say is cut, missing or doubtful; each point once."""
    points, q = [*facts["warnings"]], facts["quality"]
    if q is None:
        points.append("Quality was not measured")
    else:
        for who, name in (("student", "the student itself"), ("teacher", "the teacher"), ("real", "real images")):
            if not card_quality.measured(q, who) and not (who == "student" and facts["of"] == "teacher"):
                points.append(f"No quality of {name} is given")
        least = [c["images"] for c in q["columns"] if isinstance(c["images"], int)]
        points += [f"Quality is of {count(min(least))} images only" if least and min(least) < 50_000 else "", *q["notes"]]
    if facts["of"] == "student":
        for b in facts["bundles"]:
            points += [f"{b['name']}: not compared with the student"] if not b["parity"] else []
            points += [f"{b['name']}: {p['note']}" for p in b["parity"] if p["note"]]
            points += [f"{b['name']}: INT8 gate not passed"] if b["int8"] and b["int8"]["passed"] is False else []
        points += ["Speed was not measured"] if not facts["speed"] else []
        for r in facts["speed"]:
            points += [f"Speed of {r['bundle'] or r['precision']}: {w}" for w in r["warnings"]]
            points += [f"Speed of {r['bundle'] or r['precision']}: the run was cut short"] if not r["complete"] else []
        if facts["speed"] and all(r["mj_per_image"] is None for r in facts["speed"]):
            points.append("Energy was not measured")
    by = (facts["pairs"] or {}).get("sampler") or {}
    if (facts["teacher"] or {}).get("kind") == "ideal":
        points.append("The teacher's images are training images, so the student is taught to draw these and not new ones")
    points += [f"Of the pairs' sampler: {by['stated_by']}"] if by.get("stated_by") else []
    gone = [link for link in facts["chain"] if (not link["place"] or link["bare"]) and link["kind"] != "data"]
    away = [f"{link['role']} {link['label']}".strip() + (" (its manifest is)" if link["bare"] and link["place"] else "") for link in gone]
    more = f" and {len(away) - 6} more (see the chain)" if len(away) > 6 else ""
    points += [f"Not beside this card: {', '.join(away[:6])}{more}"] if away else []
    lines = [f"- {cell(p[0].upper() + p[1:].rstrip('.'))}." for p in dict.fromkeys(points) if p]
    lines += [f"- Said by whoever made this card, not by a manifest: {cell(n)}" for n in facts["notes"]]
    return [line.replace(SPACE, " ") for line in lines] or ["None that the manifests tell of."]

"""Compare images, noise and the record of the board with those of this machine; exit status 1 when they are too far apart.

Usage: compare.py HERE BOARD (folders with NAME.npz and noise.npz; BOARD also with doctor.json and record-NAME/)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgedit.core.record import load_record

LIMITS = {"fp32": (1, 5e-4, 0.0, 60.0), "fp16": (3, 0.25, 5e-3, 50.0), "int8": (255, 1.0, 1.0, 40.0)}
"""By precision: the largest step in grey levels; the share of values that differ; that differ by more than one; the least PSNR, dB.

FP16 is computed in FP16 by ONNX Runtime on Arm, and in FP32 with roundings between on x86. INT8 rounds the last bits of FP16 to
whole steps, so that single pixels say nothing there: the two machines are no further apart than either is from FP32.
"""
MAX_ULP = 4
POWER_MW = 6000


def levels(here: Path, board: Path, precision: str) -> dict[str, Any]:
    """How far two files of images are apart: shares of changed values, largest step in grey levels, PSNR."""
    if not board.exists():
        return {"ok": False, "why": "no images: the board's command failed"}
    with np.load(here) as a, np.load(board) as b:
        if a["images"].shape != b["images"].shape or not np.array_equal(a["labels"], b["labels"]):
            return {"ok": False, "why": f"{a['images'].shape} here, {b['images'].shape} on the board, or other labels"}
        step = np.abs(a["images"].astype(np.int16) - b["images"])
        inner = float(np.mean((a["images"] > 0) & (a["images"] < 255)))
    largest, share, more = int(step.max()), float(np.mean(step > 0)), float(np.mean(step > 1))
    psnr = float(10 * np.log10(255**2 / np.mean(step.astype(np.float64) ** 2))) if largest else None
    limit = LIMITS[precision]
    ok = largest <= limit[0] and share <= limit[1] and more <= limit[2] and (psnr is None or psnr >= limit[3])
    return {"ok": ok, "values": step.size, "share": share, "share_by_more": more, "largest": largest, "psnr_db": psnr,
            "unsaturated": round(inner, 3)}


def ulps(a: np.ndarray, b: np.ndarray) -> tuple[int, float]:
    """(largest distance in units of the last place, share that differs) of two float32 arrays."""
    x, y = (np.where(v < 0, -(v & 0x7FFFFFFF), v) for v in (k.view(np.int32).astype(np.int64) for k in (a, b)))
    apart = np.abs(x - y)
    return int(apart.max()), float(np.mean(apart > 0))


def noise(here: Path, board: Path) -> dict[str, Any]:
    """Words bit by bit, functions and noise in units of the last place."""
    with np.load(here) as a, np.load(board) as b:
        found: dict[str, Any] = {"machines": [str(a["machine"]), str(b["machine"])], "words": bool(np.array_equal(a["words"], b["words"]))}
        for name in ("log", "cos", "sin", "noise", "far"):
            largest, share = ulps(a[name], b[name])
            found[name] = {"max_ulp": largest, "share": share, "max_abs": float(np.abs(a[name] - b[name]).max())}
    found["ok"] = found["words"] and all(found[k]["max_ulp"] <= MAX_ULP for k in ("log", "cos", "sin", "noise", "far"))
    return found


def record(folder: Path) -> dict[str, Any]:
    """What the board's record says: machine, board, and the power that both monitors saw (the fake board draws 6 W)."""
    r = load_record(folder)
    power = {p.source: next(rail.mean_mw for rail in p.rails if rail.name == p.total_rail)
             for p in [*([r.power] if r.power else []), *r.power_others]}
    ok = r.complete and r.environment.machine == "aarch64" and {"ina3221", "tegrastats"} <= power.keys() \
        and all(abs(mw - POWER_MW) <= 0.01 * POWER_MW for mw in power.values())
    return {"ok": ok, "board": r.environment.board, "cpu": r.environment.cpu, "jetpack": r.environment.jetpack,
            "power_mode": r.environment.power_mode, "images_per_s": round(r.images_per_s, 2), "power_mw": power,
            "verdicts": [v.code for v in r.verdicts]}


def main(here: Path, board: Path) -> int:
    found: dict[str, Any] = {"noise": noise(here / "noise.npz", board / "noise.npz"), "images": {}, "records": {}}
    for file in sorted(here.glob("*-*-*.npz")):
        found["images"][file.stem] = levels(file, board / file.name, file.stem.split("-")[1])
    for folder in sorted(board.glob("record-*")):
        found["records"][folder.name] = record(folder)
    doctor = json.loads((board / "doctor.json").read_text())["findings"]
    found["doctor"] = [f"{f['level']}: {f['title']}: {f['saw']}" for f in doctor]
    (board / "summary.json").write_text(json.dumps(found, indent=1) + "\n")
    show(found)
    parts = [found["noise"], *found["images"].values(), *found["records"].values()]
    bad = sum(not part["ok"] for part in parts)
    print(f"{len(parts) - bad} passed, {bad} failed")
    return 1 if bad or not found["images"] or not found["records"] else 0


def show(found: dict[str, Any]) -> None:
    n = found["noise"]
    print(f"noise: {n['machines'][0]} against {n['machines'][1]}; words {'equal' if n['words'] else 'DIFFER'}")
    for name in ("log", "cos", "sin", "noise", "far"):
        print(f"  {name:6} max {n[name]['max_ulp']} ulp, {n[name]['share']:.3%} differ, at most {n[name]['max_abs']:.1e}")
    for name, r in found["images"].items():
        told = r.get("why") or (
            f"{r['share']:8.4%} of {r['values']:,} values differ, {r['share_by_more']:7.4%} by more than 1, none by more than "
            f"{r['largest']}; " + ("equal" if r["psnr_db"] is None else f"{r['psnr_db']:.1f} dB"))
        print(f"  {name:24} {'ok ' if r['ok'] else 'BAD'} {told}")
    for name, r in found["records"].items():
        print(f"  {name}: {'ok' if r['ok'] else 'BAD'} {r}")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))

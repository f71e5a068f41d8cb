"""Predicted time of 50,000 images on an Orin Nano for every design of the paper's Table 6, by arithmetic and by bytes.

    python benchmarks/predicted.py [--guidance 1.5] [--json]

Nothing here was measured on a board. Four predictions from the exported FP16 graph's counts (`edgedit.design.cost`: formulas that a
test holds equal to the graphs), each a division of work by a figure of
NVIDIA's data (dense FP16 rate, DRAM bandwidth), batch 128, 391 batches, the last one padded:

    arithmetic       all multiply-adds of matrix products and attention at the full dense rate.
    bytes, fused     activations cross memory only at the borders of matrix products and of attention as one kernel; what is done
                     element by element rides along. With the weights once a batch. The floor that no engine of this graph beats
                     unless it fuses across products.
    bytes, attention every operator reads and writes memory, attention is one operator.
    bytes, unfused   every operator reads and writes memory, the attention maps too.

A lower bound on time is the larger of the first two. The paper does not say power mode, precision or runtime, so its figures
stand beside both configurations.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgedit.core.paper import TABLE_6
from edgedit.core.spec import DiTSpec
from edgedit.design.cost import cost

BOARDS = {"15W": (10.0, 68.0), "MAXN_SUPER": (17.0, 102.0)}
"""Orin Nano 8 GB: dense FP16 TFLOP/s and GB/s (NVIDIA's announcement of the Super configuration, 17 December 2024)."""
BATCH, IMAGES = 128, 50_000


def predict(spec: DiTSpec, guidance: float) -> dict[str, Any]:
    """Work per image, and seconds for 50,000 images by board configuration."""
    one, pattern = (cost(spec, "fp16", guidance, dialect=dialect) for dialect in ("onnx", "pattern"))
    batches = math.ceil(IMAGES / BATCH)
    work = {"gflop": one.flops / 1e9, "fused_mb": one.border_bytes / 1e6, "attention_mb": one.operator_bytes / 1e6,
            "unfused_mb": pattern.operator_bytes / 1e6, "weights_mb": one.weight_bytes / 1e6}
    seconds = {}
    for board, (tflops, gb_s) in BOARDS.items():
        def moved(kind: str, gb_s: float = gb_s) -> float:
            return batches * (BATCH * work[f"{kind}_mb"] + work["weights_mb"]) / 1e3 / gb_s

        seconds[board] = {"arithmetic": batches * BATCH * work["gflop"] / 1e3 / tflops, "bytes_fused": moved("fused"),
                          "bytes_attention": moved("attention"), "bytes_unfused": moved("unfused")}
    return {"design": spec.label, "per_image": {k: round(v, 3) for k, v in work.items()},
            "predicted_s": {board: {k: round(v, 2) for k, v in row.items()} for board, row in seconds.items()}}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--guidance", type=float, default=1.5)
    options.add_argument("--json", action="store_true")
    args = options.parse_args()
    rows = [{**predict(DiTSpec(r.depth, r.width, r.heads), args.guidance), "paper_s": r.latency_s}
            for r in TABLE_6 if r.epochs == TABLE_6[0].epochs]
    if args.json:
        print(json.dumps({"guidance_scale": args.guidance, "boards": BOARDS, "rows": rows}, indent=1))
        return 0
    print(f"PREDICTED seconds for 50,000 images, batch 128, guidance {args.guidance}, FP16; nothing measured on a board")
    for board, (tflops, gb_s) in BOARDS.items():
        print(f"\nOrin Nano, {board}: {tflops:g} TFLOP/s dense FP16, {gb_s:g} GB/s")
        print(f"{'design':<12} {'arithmetic':>10} {'bytes, fused':>13} {'attention 1 op':>15} {'unfused':>9} {'floor':>8} "
              f"{'paper':>8} {'paper/floor':>12}")
        for row in rows:
            s = row["predicted_s"][board]
            floor = max(s["arithmetic"], s["bytes_fused"])
            print(f"{row['design']:<12} {s['arithmetic']:>8.1f} s {s['bytes_fused']:>11.1f} s {s['bytes_attention']:>13.1f} s "
                  f"{s['bytes_unfused']:>7.1f} s {floor:>6.1f} s {row['paper_s']:>6.1f} s {row['paper_s'] / floor:>10.1f} ×")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Made-up records for the tests of predictions, through the types that real ones have. Nothing in them was measured."""

from __future__ import annotations

from pathlib import Path

from edgedit.core.record import Power, PowerRail, Record
from edgedit.core.spec import DiTSpec

REPO = Path(__file__).parents[2]


def record(design=(5, 64, 8), *, seconds=0.5, batches=40, board="NVIDIA Jetson Orin Nano", mode="15W", precision="fp16", runtime="trt",
           watts=None, guidance=1.5, threads=None, batch=128) -> Record:
    """A record with the shape of a real one, `seconds` per batch."""
    made = Record.model_validate_json((REPO / "docs" / "records" / "quickstart.record.json").read_bytes())
    spec = DiTSpec(*design)
    power = None if watts is None else Power(
        source="ina3221", boundary="made up", rails=[PowerRail(name="VDD_IN", mean_mw=1e3 * watts, max_mw=1e3 * watts, energy_mj=1.0)],
        total_rail="VDD_IN", window_s=10.0, samples=9, rate_hz=1, largest_gap_s=1, idle_mw=None, idle_window_s=None,
        energy_total_mj=1e4 * watts, energy_net_mj=None, mj_per_image=1, net_mj_per_image=None)
    return made.model_copy(update={
        "subject": made.subject.model_copy(update={"label": spec.label, "spec": spec.to_dict(), "precision": precision,
                                                   "guidance_scale": guidance, "attention": "pattern"}),
        "environment": made.environment.model_copy(update={"board": board, "power_mode": mode, "gpu": None, "cpu": "made up"}),
        "protocol": made.protocol.model_copy(update={"batch": batch, "batches": batches, "runtime": runtime, "threads": threads}),
        "wall_s": seconds * batches, "power": power})

"""How long, how much memory and energy: the paper's stack, the floor and the user's own records, side by side with their errors."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgedit.core.errors import UsageError
from edgedit.core.record import Record
from edgedit.core.spec import DiTSpec
from edgedit.design.corrected import Corrected, correct, observe
from edgedit.design.cost import Work
from edgedit.design.devices import Device, find_device
from edgedit.design.floor import Floor, floor, work_on
from edgedit.design.fuses import Fusion, attention_fuses
from edgedit.design.paper_model import Error, paper_model
from edgedit.design.published import BATCH, BOARD, IMAGES, TOKENS, row_of

MODEL_NAMES = {"table": "the paper's own measurement", "paper_a": "the paper's stack (A)", "paper_b": "the paper's stack (B)",
               "floor": "the floor", "corrected": "your records"}
LANES = 2
"""Batches in flight: noise in and images out are held twice."""


@dataclass(frozen=True)
class Prediction:
    """What to expect of one design on one device.

    Attributes:
        seconds: for `images`, by model: "table" (the paper measured this very design), "paper_a", "paper_b" (fits to the paper's stack,
            its mode unknown), "floor" (full rates, a lower bound), "corrected" (the floor after the user's records). A model that says
            nothing here is missing.
        error_percent: leave-one-out error by model; None where none is known: the table was measured, the floor is a bound, and records
            of one design have no error.
        models: each model in one line.
        best: which one to go by: corrected, else on the paper's board its own measurement or its B, else the floor.
        bound: what the floor is made of: "arithmetic", "bytes", "exponentials" or "launches".
        memory_mb: weights, widest activations of a batch and its buffers (estimate); runtime, CUDA context and system come on top.
        energy_j: (lowest, highest) joules for `images` by "floor" and "corrected": seconds times the watts of the mode; empty where
            those are unknown. The paper's stack has none: its power mode is not known.
        power_source: where the watts come from.
        notes: what limits these figures.
    """

    spec: DiTSpec
    device: str
    mode: str
    precision: str
    batch: int
    images: int
    guidance_scale: float
    work: Work
    fusion: Fusion | None
    seconds: dict[str, float]
    error_percent: dict[str, Error | None]
    models: dict[str, str]
    best: str
    bound: str
    memory_mb: float
    energy_j: dict[str, tuple[float, float]]
    power_source: str
    notes: tuple[str, ...]

    @property
    def one_a_kind(self) -> dict[str, float]:
        """Seconds by kind of model, as reports show them: "paper" (its fit B), "floor", "corrected"."""
        named = {"paper": "paper_b", "floor": "floor", "corrected": "corrected"}
        return {kind: self.seconds[model] for kind, model in named.items() if model in self.seconds}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "label": self.spec.label}


def predict(spec: DiTSpec, device: str | Path | Device = "orin-nano", *, mode: str | None = None, precision: str | None = None,
            batch: int = BATCH, images: int = IMAGES, guidance_scale: float = 1.5, tensorrt: str | None = None,
            records: Iterable[Record | str | Path] = ()) -> Prediction:
    """Predict one design.

    Args:
        device: a known name, a TOML file, or a Device.
        mode: power mode; None takes the device's default.
        precision: "fp32", "fp16" or "int8"; None takes FP16 on a GPU, FP32 on a CPU.
        batch, images: protocol; the paper's by default.
        guidance_scale: inside the graph, which doubles the work; 1.0 is none.
        tensorrt: decides whether attention fuses; None takes the device's newest.
        records: measured records, or their folders; those of this device, mode and precision correct the floor.

    Raises:
        UsageError: unknown device, mode or precision; a device figure that is needed and missing; no images.
    """
    if batch < 1 or images < 1:
        raise UsageError("batch and images must be at least 1", saw=f"batch {batch}, images {images}")
    here = find_device(device).at(mode)
    precision = precision or ("fp32" if here.kind == "cpu" else "fp16")
    if here.kind == "cpu" and precision != "fp32":
        raise UsageError("a CPU is predicted in FP32: ONNX Runtime has no fast FP16 there", saw=precision, fix="--precision fp32")
    work = work_on(spec, here, precision, guidance_scale, tensorrt)
    least = floor(work, here, batch)

    def floor_of(other: DiTSpec, scale: float, size: int) -> float:
        return floor(work_on(other, here, precision, scale, tensorrt), here, size).batch_ms

    seen, notes = observe(records, spec, here, precision, floor_of)
    own = correct(seen)
    seconds, errors, models = _by_model(spec, here, least, own, batch, images)
    energy, source = _energy(here, seconds, own)
    version = tensorrt or (here.tensorrt[-1] if here.tensorrt else None)
    fusion = attention_fuses(spec.head_size, precision, version, tokens=spec.tokens) if version and here.kind == "gpu" else None
    memory = round((work.weight_bytes + batch * (work.live_bytes + LANES * _io_bytes(spec))) / 1e6, 1)
    return Prediction(spec, here.name, here.mode, precision, batch, images, guidance_scale, work, fusion, seconds, errors, models,
                      next(m for m in ("corrected", "table", "paper_b", "floor") if m in seconds), least.bound, memory, energy, source,
                      tuple([*notes, *_notes(spec, here, work, seconds, batch, memory)]))


def _by_model(spec: DiTSpec, device: Device, least: Floor, own: Corrected | None, batch: int,
              images: int) -> tuple[dict[str, float], dict[str, Error | None], dict[str, str]]:
    seconds: dict[str, float] = {}
    errors: dict[str, Error | None] = {}
    models: dict[str, str] = {}
    if device.board == BOARD and spec.tokens == TOKENS:
        if row := row_of(spec):
            share = math.ceil(images / batch) * batch / (math.ceil(IMAGES / BATCH) * BATCH)
            seconds["table"], errors["table"] = row.latency_s * share, None
            models["table"] = (f"the paper's own measurement of this design, {row.latency_s:g} s for {IMAGES:,} images on its Orin Nano: "
                               "runtime, precision and power mode unnamed")
        for name in "AB":
            fit = paper_model(name)
            key = f"paper_{name.lower()}"
            seconds[key], errors[key], models[key] = fit.seconds(spec, images, batch), fit.left_out, f"paper's stack, {fit.text}"
    seconds["floor"], errors["floor"] = least.seconds(images, batch), None
    models["floor"] = f"floor at full rates, {least.bound}: a lower bound, how far a measurement lies above it is unknown without records"
    if own is not None:
        seconds["corrected"] = least.seconds(images, batch) / least.batch_ms * own.batch_ms(least.batch_ms)
        errors["corrected"], models["corrected"] = own.error, f"your records, {own.text}"
    return seconds, errors, models


def _energy(device: Device, seconds: dict[str, float], own: Corrected | None) -> tuple[dict[str, tuple[float, float]], str]:
    """Joules by model; the paper's stack ran in a mode that nobody knows, so its seconds have no watts."""
    mode = device.power()
    if own is not None and own.power_w is not None:
        watts, source = own.power_w, "measured: your records"
    elif mode is not None and mode.load_w is not None:
        watts, source = mode.load_w, mode.source or f"{device.file or 'the device'} names no source"
    else:
        return {}, "no figures of this device's power"
    return {model: (s * watts[0], s * watts[1]) for model, s in seconds.items() if model in ("floor", "corrected")}, source


def _io_bytes(spec: DiTSpec) -> int:
    """Noise float32, label int32 and image uint8 of one image."""
    return 5 * spec.channels * spec.image**2 + 4


def _notes(spec: DiTSpec, device: Device, work: Work, seconds: dict[str, float], batch: int, memory: float) -> list[str]:
    notes = []
    if "paper_b" in seconds:
        notes.append("the paper states neither runtime, precision, power mode nor whether guidance is in its times: its stack's seconds "
                     f"are not of {device.name} {device.mode}".rstrip() + " in particular")
        notes += paper_model("B").beyond(spec)
    elif device.board == BOARD:
        notes.append(f"the paper's latencies are of {TOKENS} tokens, this design has {spec.tokens}: its model is left out")
    if batch != BATCH and "paper_b" in seconds:
        notes.append(f"the paper's times are of batch {BATCH}; here they are scaled by images")
    if len(device.modes) == 1 and not device.mode:
        notes.append(f"mode {device.modes[0].name} leaves out gpu_mhz or emc_mhz, which the device has: it was not taken, and its watts "
                     "are left out")
    elif device.modes and not device.mode:
        notes.append(f"{device.name} has power modes ({', '.join(m.name for m in device.modes)}) and none was taken: name a mode with "
                     "--mode, or their watts and clocks are left out")
    if device.memory_mb is not None and memory > device.memory_mb:
        notes.append(f"needs about {memory:,.0f} MB, the device has {device.memory_mb:,.0f}: take a smaller batch")
    if device.kind == "gpu" and not work.attention_fused:
        notes.append("attention does not fuse: its maps cross memory")
    if device.l2_mb is not None and device.kind == "gpu" and batch * work.largest_bytes < device.l2_mb * 1e6:
        notes.append("a batch's activations fit the L2 cache: fewer bytes may reach memory than the floor counts")
    return notes

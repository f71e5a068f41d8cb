"""The quality gate: are INT8 images close enough to FP32's, and which blocks must go back to FP16 until they are?

All graphs make the same images: the same noise, which the calibration has not seen, and the same classes. A quantised graph is
run in ONNX Runtime on the CPU, where each Q/DQ pair rounds as the board's kernels do; sums differ in the last bits only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgedit.core.errors import NumericsError
from edgedit.core.noise import labels, noise
from edgedit.core.say import Event, Say, silent
from edgedit.export.check import open_session, runtime_version
from edgedit.export.graph import build
from edgedit.export.int8 import GateSettings, block_of
from edgedit.export.plan import Plan
from edgedit.model.deploy import DeployedDiT

Perceptual: TypeAlias = Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]
"""Mean distance of two sets of images, uint8 (N, S, S, C) each; 0 for equal ones."""
BATCH = 32


@dataclass(frozen=True)
class Quality:
    """One graph's images against FP32's.

    Attributes:
        psnr_db: 20·log10(255 / RMS of grey levels); None when they are equal.
        changed_percent: share of uint8 values that differ.
        mean_levels, max_levels: error in grey levels.
        perceptual: distance by the given metric; None without one.
    """

    psnr_db: float | None
    changed_percent: float
    mean_levels: float
    max_levels: int
    perceptual: float | None

    @classmethod
    def of(cls, made: NDArray[np.uint8], reference: NDArray[np.uint8], perceptual: Perceptual | None = None) -> Quality:
        """Compare two sets of images of one shape."""
        away = np.abs(made.astype(np.int16) - reference)
        square = float(np.mean(np.square(away.astype(np.float64))))
        return cls(20 * math.log10(255 / math.sqrt(square)) if square else None, 100 * float((away > 0).mean()), float(away.mean()),
                   int(away.max()), None if perceptual is None else float(perceptual(made, reference)))

    def over(self, limits: GateSettings) -> list[str]:
        """What goes over its limit, in words; empty when all is well."""
        found = []
        if self.psnr_db is not None and self.psnr_db < limits.psnr_db:
            found.append(f"{self.psnr_db:.1f} dB under {limits.psnr_db:g} dB")
        if self.mean_levels > limits.mean_levels:
            found.append(f"mean error {self.mean_levels:.2f} levels over {limits.mean_levels:g}")
        if self.perceptual is not None and not self.perceptual <= limits.perceptual:  # NaN is over, too
            found.append(f"perceptual distance {self.perceptual:.4f} over {limits.perceptual:g}")
        return found

    @property
    def words(self) -> str:
        """"34.1 dB, 40 % of values changed, by 0.74 levels on average, 22 at most"."""
        if self.psnr_db is None:
            return "equal images"
        seen = "" if self.perceptual is None else f", perceptual distance {self.perceptual:.4f}"
        return (f"{self.psnr_db:.1f} dB, {self.changed_percent:.0f} % of values changed, by {self.mean_levels:.2f} levels on average, "
                f"{self.max_levels} at most{seen}")


@dataclass(frozen=True)
class GateResult:
    """What the gate found.

    Attributes:
        blocks: numbers of the blocks that stay INT8; the rest are FP16.
        int8, fp16: their images against FP32's.
        sensitivity: quality with one block alone in INT8, by block; empty when the first measurement passed.
        steps: blocks given back to FP16 in turn, with the quality after each.
        images, seed, limits: what was compared and held against what.
    """

    blocks: tuple[int, ...]
    int8: Quality
    fp16: Quality
    sensitivity: dict[int, Quality]
    steps: tuple[tuple[int, Quality], ...]
    images: int
    seed: int
    limits: dict[str, Any]
    runtime: str
    """What ran both, with its version. What it fuses decides INT8's rounding, so another measures otherwise (1.23: 6 dB worse)."""

    @property
    def words(self) -> str:
        """Both, in one line."""
        return f"from FP32's images ({self.runtime}): INT8 {self.int8.words}; FP16 {self.fp16.words}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        body = asdict(self)
        return {**body, "steps": [{"block": block, **asdict(quality)} for block, quality in self.steps]}


def gate(network: DeployedDiT, plan: Plan, settings: GateSettings, seed: int, *, perceptual: Perceptual | None = None,
         say: Say = silent) -> GateResult:
    """Measure a quantised plan; while it fails, give its most sensitive block back to FP16 and measure again.

    A block's sensitivity is the PSNR with it alone in INT8, measured once: errors of different blocks add up nearly as squares, so
    the order holds, and each step is measured as it is.

    Args:
        network: float32.
        plan: typed FP16 with scales for every block that may be INT8.
        settings: limits and number of images.
        seed: of the noise; the calibration must not have seen it.
        perceptual: a further metric, where there is one.

    Raises:
        NumericsError: the gate fails with every block in FP16 but one, or at once without fallback.
    """
    def measure(scales: dict[str, float]) -> Quality:
        return Quality.of(_images(network, replace(plan, scales=scales), settings.images, seed), reference, perceptual)

    def only(blocks: Sequence[int]) -> dict[str, float]:
        return {site: scale for site, scale in plan.scales.items() if block_of(site) in blocks}

    say(Event("quality gate"))
    wide = Plan.of(network.spec, "fp32", "pattern", batch=None, guidance_scale=plan.guidance_scale)
    reference = _images(network, wide, settings.images, seed)
    blocks = sorted({block_of(site) for site in plan.scales})
    fp16, quality = measure({}), measure(only(blocks))
    sensitivity: dict[int, Quality] = {}
    steps: list[tuple[int, Quality]] = []
    while quality.over(settings):
        if not settings.fallback or len(blocks) == 1:
            _fail(quality, fp16, settings, sensitivity)
        if not sensitivity:
            for i, block in enumerate(blocks):
                say(Event("sensitivity", done=i, total=len(blocks), unit="blocks"))
                sensitivity[block] = measure(only([block]))
            say(Event("sensitivity", done=len(blocks), total=len(blocks), unit="blocks"))
        worst = min(blocks, key=lambda block: _decibels(sensitivity[block]))
        blocks.remove(worst)
        quality = measure(only(blocks))
        steps.append((worst, quality))
        say(Event(f"block {worst} back to FP16: {quality.words}", level="warning"))
    return GateResult(tuple(blocks), quality, fp16, sensitivity, tuple(steps), settings.images, seed,
                      settings.model_dump(include={"psnr_db", "mean_levels", "perceptual"}), runtime_version())


def _decibels(quality: Quality) -> float:
    return math.inf if quality.psnr_db is None else quality.psnr_db


def _fail(quality: Quality, fp16: Quality, settings: GateSettings, sensitivity: dict[int, Quality]) -> None:
    """NumericsError with everything that was measured."""
    alone = "".join(f"; block {block} alone {_decibels(q):.1f} dB" for block, q in sensitivity.items())
    raise NumericsError("INT8 does not keep this student's images" + (", whichever blocks stay in FP16" if sensitivity else ""),
                        saw=f"{', '.join(quality.over(settings))}; INT8: {quality.words}; FP16: {fp16.words}{alone}",
                        fix="export with --precision fp16; or set other limits: --set int8.gate.psnr_db=…")


def _images(network: DeployedDiT, plan: Plan, count: int, seed: int) -> NDArray[np.uint8]:
    """uint8 (count, S, S, C), classes in turn."""
    spec = network.spec
    session = open_session(build(network, replace(plan, batch=None)).SerializeToString())
    made = []
    for start in range(0, count, BATCH):
        indices = range(start, min(start + BATCH, count))
        z, c = noise(seed, indices, (spec.channels, spec.image, spec.image)), labels(seed, indices, spec.classes)
        made.append(session.run(["images"], {"noise": z, "labels": c})[0])
    return np.concatenate(made)

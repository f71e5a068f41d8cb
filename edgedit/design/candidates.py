"""Designs under a budget: wider, wide, proposed, deep, deeper, each with everything that is known before training."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgedit.core.errors import UsageError
from edgedit.core.spec import DiTSpec
from edgedit.design.cost import Work, cost
from edgedit.design.devices import Device
from edgedit.design.fuses import VERSIONS, Fusion, attention_fuses
from edgedit.design.predict import Prediction
from edgedit.design.published import Row, row_of
from edgedit.design.rules import LOWERED, Verdict, deepest, heads_rule, judge, widths

TOLERANCE = 0.03
"""How far above a budget a design may lie. The paper's budgets are round numbers: (13,96,8) has 2,255,916 parameters in its 2.2M group."""
NAMES = ("wider", "wide", "proposed", "lower heads", "deep", "deeper")
_UNITS = {"": 1, "k": 1e3, "m": 1e6, "b": 1e9}


@dataclass(frozen=True)
class Candidate:
    """One design under the budget.

    Attributes:
        name: "wider", "wide", "proposed", "lower heads", "deep" or "deeper", the paper's names; "smaller" for the design that a latency
            limit asks for, where it is none of these.
        verdict: what the principles say.
        works: cost by precision, fused where attention fuses.
        fusions: whether attention fuses, by precision and TensorRT version.
        prediction: on the device, in its default mode or the one asked for.
        by_mode: the same in every power mode whose clocks are known; modes without are missing.
        published: the paper's row for this design.
    """

    name: str
    spec: DiTSpec
    verdict: Verdict
    works: dict[str, Work]
    fusions: tuple[Fusion, ...]
    prediction: Prediction
    by_mode: dict[str, Prediction]
    published: Row | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, sizes and counts first."""
        return {"name": self.name, "label": self.spec.label, "spec": self.spec.to_dict(), "parameters": self.spec.parameters,
                "deployed_parameters": self.spec.deployed_parameters, "head_size": self.spec.head_size,
                "flops_per_image": self.prediction.work.flops, "verdict": {**asdict(self.verdict), "text": self.verdict.text},
                "works": {k: w.to_dict() for k, w in self.works.items()}, "fusions": [asdict(f) for f in self.fusions],
                "prediction": self.prediction.to_dict(), "by_mode": {k: p.to_dict() for k, p in self.by_mode.items()},
                "published": None if self.published is None else asdict(self.published)}


def parse_params(params: int | str) -> int:
    """ "5M", "0.42M", "420k", 5000000 → a number of parameters.

    Raises:
        UsageError: no positive number.
    """
    found = re.fullmatch(r"([0-9][0-9_,]*(?:\.[0-9]+)?|\.[0-9]+)\s*([kmb]?)", str(params).strip().lower())
    value = round(float(found[1].replace(",", "").replace("_", "")) * _UNITS[found[2]]) if found else 0
    if isinstance(params, bool) or value < 1:
        raise UsageError("a budget is a number of parameters", saw=repr(params), fix="for example 5M, 0.42M or 420000")
    return value


def within_rules(limit: int, **sizes: int) -> list[DiTSpec]:
    """Designs under a limit with the rule's depth or up to `LOWERED` blocks less, and the rule's heads or half of them; largest first.

    Which designs these are does not depend on the limit, so what is chosen among them for its size never shrinks as the limit grows.
    The narrowest explored width may have any depth below the rule's.
    """
    made = []
    for width in widths():
        rule, heads = width.bit_length() - 1, heads_rule(width)
        for depth in range(1 if width == widths()[0] else max(1, rule - LOWERED), rule + 1):
            spec = DiTSpec(depth, width, heads, **sizes)
            if spec.parameters <= limit:
                made += [spec, *([lower] if (lower := half_heads(spec)) else [])]
    return sorted(made, key=lambda spec: (-spec.parameters, -spec.heads))


def half_heads(spec: DiTSpec) -> DiTSpec | None:
    """The same design with half the heads, None where that is no design."""
    lower = spec.heads // 2
    return replace(spec, heads=lower) if lower and spec.width % lower == 0 else None


def proposed(limit: int, **sizes: int) -> DiTSpec:
    """The largest design whose depth is the rule's, or lowered by at most `LOWERED` for the limit, with the rule's heads.

    The paper does not say how it picks the width; this reading gives its three designs at 0.42M, 2.2M and 5M.

    Raises:
        UsageError: not even the smallest explored design fits, or the limit is beyond the largest.
    """
    fitting = within_rules(limit, **sizes)
    smallest, largest = widths()[0], widths()[-1]
    if not fitting:
        nearest = DiTSpec(1, smallest, heads_rule(smallest), **sizes)
        raise UsageError(f"no design fits {limit:,} parameters", saw=f"the smallest explored, {nearest.label}, has {nearest.parameters:,}",
                         fix=f"the nearest possible is --params {nearest.parameters}")
    most = DiTSpec(largest.bit_length() - 1, largest, heads_rule(largest), **sizes)
    if limit > 1.2 * most.parameters:
        raise UsageError(f"{limit:,} parameters are beyond the explored designs", saw=f"the largest, {most.label}, has {most.parameters:,}",
                         fix=f"the nearest possible is --params {most.parameters}")
    return fitting[0]


def shapes(limit: int, **sizes: int) -> dict[str, DiTSpec]:
    """The candidates by name: the proposed design, half its heads, two wider and two narrower widths as deep as fits."""
    first, all_widths = proposed(limit, **sizes), widths()
    middle = all_widths.index(first.width)
    made = {"proposed": first}
    if lower := half_heads(first):
        made["lower heads"] = lower
    for name, step in (("wider", 2), ("wide", 1), ("deep", -1), ("deeper", -2)):
        if 0 <= middle + step < len(all_widths) and (depth := deepest(all_widths[middle + step], limit, **sizes)):
            made[name] = DiTSpec(depth, all_widths[middle + step], heads_rule(all_widths[middle + step]), **sizes)
    return {name: made[name] for name in NAMES if name in made}


def fusions(spec: DiTSpec, versions: tuple[str, ...] = VERSIONS) -> tuple[Fusion, ...]:
    """Whether attention fuses, by precision and TensorRT version."""
    return tuple(attention_fuses(spec.head_size, precision, version, tokens=spec.tokens)
                 for precision in ("fp32", "fp16", "int8") for version in versions)


def works(spec: DiTSpec, device: Device, guidance_scale: float) -> dict[str, Work]:
    """Cost by precision: the forms that a GPU gets, or ONNX Runtime's on a CPU."""
    if device.kind == "cpu":
        return {"fp32": cost(spec, "fp32", guidance_scale, dialect="ort")}
    return {p: cost(spec, p, guidance_scale, attention_fused=p != "fp32") for p in ("fp32", "fp16", "int8")}


def candidate(name: str, spec: DiTSpec, limit: int, device: Device, prediction: Prediction, by_mode: dict[str, Prediction]) -> Candidate:
    """Everything about one design."""
    return Candidate(name, spec, judge(spec, limit), works(spec, device, prediction.guidance_scale), fusions(spec), prediction, by_mode,
                     row_of(spec))

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
from edgedit.design.published import Row, find_row
from edgedit.design.rules import Verdict, deepest, depth_rule, heads_rule, judge, widths

TOLERANCE = 0.03
"""How far above a budget a design may lie. The paper's budgets are round numbers: (13,96,8) has 2,255,916 parameters in its 2.2M group."""
NAMES = ("wider", "wide", "proposed", "lower heads", "deep", "deeper")
_UNITS = {"": 1, "k": 1e3, "m": 1e6, "b": 1e9}


@dataclass(frozen=True)
class Candidate:
    """One design under the budget.

    Attributes:
        name: "wider", "wide", "proposed", "lower heads", "deep" or "deeper", the paper's names.
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


def proposed_width(limit: int, **sizes: int) -> int:
    """The width whose rule design gives up least: share of the rule's depth lost plus share of the budget left.

    The paper does not say how it picks the width; this reading gives its three designs at 0.42M, 2.2M and 5M.

    Raises:
        UsageError: not even the smallest explored width fits, or the budget is beyond the largest.
    """
    fitting = [w for w in widths() if deepest(w, limit, **sizes)]
    smallest, largest = widths()[0], widths()[-1]
    if not fitting:
        nearest = DiTSpec(1, smallest, heads_rule(smallest), **sizes)
        raise UsageError(f"no design fits {limit:,} parameters", saw=f"the smallest explored, {nearest.label}, has {nearest.parameters:,}",
                         fix=f"the nearest possible is --params {nearest.parameters}")
    most = DiTSpec(largest.bit_length() - 1, largest, heads_rule(largest), **sizes)
    if limit > 1.2 * most.parameters:
        raise UsageError(f"{limit:,} parameters are beyond the explored designs", saw=f"the largest, {most.label}, has {most.parameters:,}",
                         fix=f"the nearest possible is --params {most.parameters}")

    def given_up(width: int) -> float:
        depth, rule = depth_rule(width, limit, **sizes), width.bit_length() - 1
        return 1 - depth / rule + 1 - DiTSpec(depth, width, heads_rule(width), **sizes).parameters / limit

    return min(fitting, key=given_up)


def shapes(limit: int, **sizes: int) -> dict[str, DiTSpec]:
    """The candidates by name: the proposed width at the rule's depth, two wider and two narrower widths as deep as fits."""
    width = proposed_width(limit, **sizes)
    heads, all_widths = heads_rule(width), widths()
    middle = all_widths.index(width)
    made = {"proposed": DiTSpec(depth_rule(width, limit, **sizes), width, heads, **sizes)}
    lower = heads // 2
    if lower and width % lower == 0:
        made["lower heads"] = replace(made["proposed"], heads=lower)
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
    same_data = (spec.image, spec.patch, spec.channels, spec.classes, spec.mlp_ratio) == (32, 2, 3, 10, 4)
    return Candidate(name, spec, judge(spec, limit), works(spec, device, prediction.guidance_scale), fusions(spec), prediction, by_mode,
                     find_row(spec.depth, spec.width, spec.heads) if same_data else None)

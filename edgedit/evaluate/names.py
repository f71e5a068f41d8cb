"""Which number may be called what."""

from __future__ import annotations

from typing import Any

ENOUGH = 50_000
"""Images below which a number carries its count in its name: few images raise FID and lower the Inception Score."""
LITERATURE = "tf1-compat/train50k/uint8/50k"
"""The protocol of published CIFAR-10 FIDs (science.md §8)."""


def thousands(count: int) -> str:
    """50000 → "50k", 1500 → "1.5k"."""
    return f"{round(count / 1000, 3):.10g}k"


def metric_name(metric: str, count: int, extractor: dict[str, Any] | None = None) -> str:
    """Name of a number: "FID", "FID-5k", "FID-768-1k", "Fréchet-custom-2048-5k", "IS-5k", "precision-2048-5k", "accuracy".

    Args:
        metric: "fid", "is", "kid", "precision", "recall", or one that needs no extractor.
        count: images of the source, or of a reference that was cut to fewer: a distance between means and covariances is biased by both.
        extractor: facts with "kind" and "tap" (`Inception.facts`).
    """
    if extractor is None:
        return metric
    tap, custom = str(extractor["tap"]), extractor["kind"] == "custom"
    head = {"fid": "Fréchet" if custom else "FID", "is": "IS", "kid": "KID"}.get(metric, metric)
    parts = [head]
    if custom:
        parts.append("custom")
    if metric != "is" and (custom or tap != "2048" or metric in ("precision", "recall")):
        parts.append(tap)
    if count < ENOUGH:
        parts.append(thousands(count))
    return "-".join(parts)


def protocol(extractor: dict[str, Any], reference: dict[str, Any] | None, reference_count: int | None, count: int) -> str:
    """"tf1-compat/train50k/uint8/50k": resize / reference / quantisation / images; another extractor stands before it."""
    if reference is None:
        against = "none"
    else:
        split, name = reference.get("split"), str(reference.get("name", "?"))
        set_name = str(split) if name == "cifar10" and split else f"{name}-{split}" if split else name
        against = set_name.replace("/", "-") + (thousands(reference_count) if reference_count else "")
    text = f"tf1-compat/{against}/uint8/{thousands(count)}"
    if extractor["kind"] != "published" or str(extractor["tap"]) != "2048":
        text = f"{extractor['kind']}-{extractor['tap']}/{text}"
    return text

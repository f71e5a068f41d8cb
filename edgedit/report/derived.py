"""What follows from a record: time for 50,000 images and how it was come by, guidance in words, comparability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgedit.core import paper
from edgedit.core.record import Record
from edgedit.core.spec import DiTSpec
from edgedit.report.words import SPACE, count, energy, listing, missing, number, seconds


@dataclass(frozen=True)
class Fifty:
    """Seconds for 50,000 images; `how` is "measured", "extrapolated from N images" or "at the mean rate of N images"."""

    wall_s: float
    how: str

    @property
    def measured(self) -> bool:
        """Whether exactly 50,000 images were run."""
        return self.how == "measured"

    @property
    def text(self) -> str:
        """ "198.7 s, measured"."""
        return f"{seconds(self.wall_s)}, {self.how}"


def images_done(record: Record) -> int:
    """Images that the figures cover: all of them, or for a run cut short its rate times its wall time."""
    if record.complete:
        return record.protocol.images
    made = record.images_per_s * record.wall_s
    return round(made) if math.isfinite(made) else 0


def fifty(record: Record) -> Fifty | None:
    """Time for 50,000 images, at the record's own rate when another number was run; None when nothing finished."""
    done = images_done(record)
    if done < 1 or not (record.images_per_s > 0 and math.isfinite(record.images_per_s)):
        return None
    if done == paper.IMAGES:
        return Fifty(record.wall_s, "measured")
    how = "extrapolated from" if done < paper.IMAGES else "at the mean rate of"
    return Fifty(paper.IMAGES / record.images_per_s, f"{how} {count(done, 'images')}")


def guidance(record: Record) -> str:
    """Guidance scale, and whether its doubled batch is inside the measured time."""
    scale, batch, forward = record.subject.guidance_scale, record.protocol.batch, record.subject.forward_batch
    if forward == 2 * batch:
        return (f"scale {number(scale, 2)}, counted: {count(batch)} images pass the network as a batch of {count(forward)}, "
                "and every time here includes both halves")
    if forward == batch and scale == 1:
        return f"off (scale 1): {count(batch)} images pass the network once"
    return (
        f"scale {number(scale, 2)}, NOT counted as a doubled batch: {count(batch)} images pass the network as {count(forward)}"
    )


def machine(record: Record) -> str:
    """The shortest true name of where it ran."""
    env, provider = record.environment, record.protocol.provider.lower()
    on_gpu = any(word in provider for word in ("cuda", "tensorrt", "gpu"))
    return env.board or (env.gpu if on_gpu and env.gpu else env.cpu) or env.machine


def compute_device(record: Record) -> str:
    """Runtime and provider as the record holds them."""
    version = record.protocol.options.get("runtime_version")
    return f"{record.protocol.runtime}{f' {version}' if version else ''}, {record.protocol.provider}"


def no_power(record: Record) -> str:
    """Why a record has no power figures, from its own verdicts."""
    why = [v.text for v in record.verdicts if "power" in f"{v.code} {v.text}".lower() and v.level != "ok"]
    return missing("; ".join(why) if why else "the record names no power source")


def tflops(record: Record) -> float:
    """Rate of arithmetic, 10¹² operations per second: operations of an image times images per second."""
    return record.subject.flops_per_image * record.images_per_s / 1e12


def is_paper_shape(spec: dict[str, int]) -> bool:
    """Whether a design has the paper's image, patch and class sizes, so that equal (d,w,h) means the same network."""
    return all(spec.get(name, value) == value for name, value in paper.IMAGE_SIZES.items())


def published(record: Record) -> tuple[paper.Design, ...]:
    """The paper's rows for the record's (depth, width, heads)."""
    spec = record.subject.spec
    return paper.published(spec.get("depth", 0), spec.get("width", 0), spec.get("heads", 0))


def parameters_of(design: paper.Design) -> int:
    """Parameters, training form, of one of the paper's designs, which print rounded budgets only."""
    return DiTSpec(design.depth, design.width, design.heads).parameters


def comparability(record: Record) -> str:
    """How far the record may be set beside the paper's latency, in words."""
    spec, parts = record.subject.spec, []
    if not is_paper_shape(spec):
        sizes = ", ".join(f"{k} {spec.get(k, v)} (paper {v})" for k, v in paper.IMAGE_SIZES.items() if spec.get(k, v) != v)
        parts.append(f"Same depth, width and heads, but another network: {sizes}.")
    open_ = listing(list(paper.NOT_STATED))
    if "orin nano" in (record.environment.board or "").lower():
        parts.append(f"Same board by name. The paper does not state {open_}: a difference can come from any of them.")
    else:
        parts.append(f"Not comparable: published on a {paper.BOARD}, measured here on {machine(record)}. "
                     f"The paper does not state {open_}.")
    other = [f"{name} {ours} (paper {theirs})" for name, ours, theirs in (
        ("guidance", number(record.subject.guidance_scale, 2), number(paper.GUIDANCE, 2)),
        ("batch", count(record.protocol.batch), count(paper.BATCH))) if ours != theirs]
    if other:
        parts.append(f"Other settings here: {listing(other)}.")
    return " ".join(parts)


def protocol_of(record: Record) -> dict[str, str]:
    """What must be equal before two records' figures may be set against each other."""
    p, env = record.protocol, record.environment
    return {
        "design": record.subject.label,
        "image size": f"{record.subject.spec.get('image', '?')}×{record.subject.spec.get('channels', '?')}",
        "images": count(images_done(record)),
        "batch": count(p.batch),
        "guidance": f"{number(record.subject.guidance_scale, 2)} (forward batch {count(record.subject.forward_batch)})",
        "machine": machine(record),
        "power mode": env.power_mode or "not recorded",
        "threads": "default" if p.threads is None else count(p.threads),
        "saving": "saved" if p.save else "not saved",
        "overlap": "overlapped" if p.overlap else "in turn",
        "completeness": "whole" if record.complete else "cut short",
        "energy boundary": record.power.boundary if record.power else "not measured",
    }


def differences(records: Sequence[Record]) -> list[tuple[str, list[str]]]:
    """Protocol fields that are not equal in all records: (field, its value in each record)."""
    rows = [protocol_of(r) for r in records]
    return [(name, [row[name] for row in rows]) for name in (rows[0] if rows else {}) if len({row[name] for row in rows}) > 1]


def headline(record: Record) -> str:
    """The result in one line."""
    time50 = fifty(record)
    if time50 is None:
        return f"{record.subject.label}: no batch finished"
    text = (
        f"{record.subject.label} {record.subject.precision}: {number(record.images_per_s)}{SPACE}images/s on "
        f"{machine(record)}, "
        f"50,000 images in {time50.text}"
    )
    if record.power is not None:
        text += f", {energy(record.power.mj_per_image)} per image ({record.power.source})"
    return text if record.complete else f"{text} (cut short)"


def circumstances(record: Record) -> str:
    """The line under the heading: on what it ran, time for 50,000 images, energy."""
    time50, p = fifty(record), record.power
    parts = [f"{record.subject.precision} through {compute_device(record)}, on {machine(record)}",
             f"50,000 images in {time50.text}" if time50 else "No batch finished",
             f"{energy(p.mj_per_image)} per image, {p.source}" if p else "Energy not measured"]
    return ". ".join(parts if record.complete else ["Cut short", *parts]) + "."

"""The verbs `design` and `predict`: which design to train, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedit.cli.console import Console
from edgedit.cli.options import Json

if TYPE_CHECKING:
    from edgedit.design.candidates import Candidate
    from edgedit.design.cost import Work
    from edgedit.design.predict import Prediction
    from edgedit.design.stage import Designs

Device = Annotated[str, typer.Option("--device", help="orin-nano, orin-nano-super, h200, or a TOML file with your device's figures.")]
Mode = Annotated[str | None, typer.Option("--mode", help="Power mode by its name (15W, 25W, MAXN_SUPER); the device's default otherwise.")]
Precision = Annotated[str | None, typer.Option("--precision", help="fp32, fp16 or int8; FP16 on a GPU, FP32 on a CPU by default.")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Images a run (paper: 128).")]
Images = Annotated[int, typer.Option("--images", min=1, help="Images that the seconds and joules are for (paper: 50,000).")]
Guidance = Annotated[float, typer.Option("--guidance", min=0, help="Classifier-free guidance inside the graph; 1.0 is none.")]
Records = Annotated[list[Path] | None, typer.Option("--record", metavar="FOLDER", help="A record of `edgedit profile` on this device: "
                                                    "it corrects the floor. Repeatable.")]


def design(
    params: Annotated[str, typer.Option("--params", help="Budget of parameters: 5M, 0.42M, 420000.")],
    device: Device = "orin-nano",
    mode: Mode = None,
    max_latency_s: Annotated[float | None, typer.Option("--max-latency-s", help="Longest time for all images.")] = None,
    precision: Precision = None,
    batch: Batch = 128,
    images: Images = 50_000,
    guidance: Guidance = 1.5,
    tolerance: Annotated[float, typer.Option(help="Share by which a design may exceed the budget: the paper's budgets are round "
                                                  "numbers.")] = 0.03,
    record: Records = None,
    json: Json = False,
) -> None:
    """From a budget of parameters to designs and the one to train.

    The paper's principles as code, wider and deeper neighbours, parameters before and after folding, whether attention fuses,
    and what time, memory and energy to expect, each with its error or the word that none is known.

    Example: edgedit design --params 5M --device orin-nano-super --max-latency-s 500
    """
    from edgedit.design.stage import design as design_stage

    with Console(json) as ui:
        made = design_stage(params, device, mode=mode, precision=precision, max_latency_s=max_latency_s, batch=batch, images=images,
                            guidance_scale=guidance, tolerance=tolerance, records=record or ())
        spec = made[made.take].spec
        sets = f"--set model.depth={spec.depth} --set model.width={spec.width} --set model.heads={spec.heads}"
        ui.done(_designs_text(made), following=f"edgedit train --pairs runs/pairs --out runs/student {sets}", data=made.to_dict())


def predict(
    spec: Annotated[str, typer.Argument(metavar="D,W,H", help="Depth, width and heads: 5,64,8.")],
    device: Device = "orin-nano",
    mode: Mode = None,
    precision: Precision = None,
    batch: Batch = 128,
    images: Images = 50_000,
    guidance: Guidance = 1.5,
    tensorrt: Annotated[str | None, typer.Option(help="Version that decides whether attention fuses; the device's newest otherwise.",
                                                 metavar="VERSION")] = None,
    record: Records = None,
    json: Json = False,
) -> None:
    """Time, memory and energy of one design, by every model that has something to say, with its error.

    The paper's stack fitted to its Table 6, a floor from bytes and operations, and that floor corrected by your own records.

    Example: edgedit predict 7,192,12 --device orin-nano-super --record runs/record
    """
    from edgedit.core.errors import UsageError
    from edgedit.core.spec import DiTSpec
    from edgedit.design.predict import predict as predict_stage

    try:
        depth, width, heads = (int(part) for part in spec.strip("() ").split(","))
    except ValueError:
        raise UsageError("a design is depth, width, heads", saw=repr(spec), fix="for example edgedit predict 5,64,8") from None
    with Console(json) as ui:
        made = predict_stage(DiTSpec(depth, width, heads), device, mode=mode, precision=precision, batch=batch, images=images,
                             guidance_scale=guidance, tensorrt=tensorrt, records=record or ())
        ui.done(_prediction_text(made), following=f"edgedit design --params {made.spec.parameters} --device {device}", data=made.to_dict())


# --- text -------------------------------------------------------------------------------------------------------------------

_MODEL = {"table": "paper", "paper_a": "paper A", "paper_b": "paper B", "floor": "floor", "corrected": "records"}


def _designs_text(made: Designs) -> str:
    p = made.candidates[0].prediction
    place = f"{made.device} {made.mode}".strip()
    models = [m for m in _MODEL if any(m in c.prediction.seconds for c in made.candidates)]
    lines = [f"{made.params:,} parameters; {made.images:,} images, batch {made.batch}, guidance {p.guidance_scale:g}, "
             f"{made.precision.upper()} on {place}", ""]
    lines += [f"{'':<13}{'(d,w,h)':<11}{'params':>11}{'deployed':>11}{'GFLOP':>7}{'weights':>9}{'acts':>7}{'head':>7}{'fuses':>7}"
              + "".join(f"{_MODEL[m] + ' s':>11}" for m in models) + f"{'MB':>6}{'J':>18}{'paper FID':>11}  principles"]
    lines += [_row(c, models, c.name == made.take) for c in made.candidates]
    own = "your records" if "corrected" in p.seconds else "the floor: at least this"
    lines += ["", "* recommended. GFLOP and acts (MB that cross memory) are for one image, guidance counted; weights are MB.",
              f"MB: weights, activations and buffers of a batch (estimate). J: for all images, lowest to highest watts, by {own}.", ""]
    known = made[made.take].prediction.models
    lines += [f"{_MODEL[m]}: {known[m]}" for m in models if m in known]
    lines += [f"{precision.upper()}: weights {w.weight_bytes / 1e6:.2f} MB, activations {_moved(w):.1f} MB an image, "
              f"largest {w.largest_bytes / 1e6:.2f} MB" for precision, w in made[made.take].works.items()]
    lines += _power_lines(made[made.take])
    lines += [f"attention: {f}" for f in _fusion_lines(made[made.take])]
    lines += [f"note: {note}" for note in made.notes]
    return "\n".join([*lines, "", made.recommendation])


def _row(c: Candidate, models: list[str], taken: bool) -> str:
    p, w = c.prediction, c.prediction.work
    head = str(c.spec.head_size) if w.head_size == c.spec.head_size else f"{c.spec.head_size}→{w.head_size}"
    fuses = "–" if p.fusion is None else "yes" if p.fusion.fuses else "no"
    return (f"{c.name + ('*' if taken else ''):<13}{c.spec.label:<11}{c.spec.parameters:>11,}{c.spec.deployed_parameters:>11,}"
            f"{w.flops / 1e9:>7.2f}{w.weight_bytes / 1e6:>9.2f}{_moved(w):>7.1f}{head:>7}{fuses:>7}"
            + "".join(f"{_s(p.seconds.get(m)):>11}" for m in models)
            + f"{_two(p.memory_mb):>6}{_range(_energy(p)):>18}{c.published.fid if c.published else '–':>11}  "
            + ("yes" if c.verdict.follows else "no"))


def _moved(w: Work) -> float:
    """MB that cross memory for one image: every operator's in ONNX Runtime, what fusing leaves elsewhere."""
    return (w.operator_bytes if w.dialect == "ort" else w.border_bytes) / 1e6


def _energy(p: Prediction) -> tuple[float, float] | None:
    return p.energy_j.get("corrected", p.energy_j.get("floor"))


def _power_lines(c: Candidate) -> list[str]:
    """Seconds and joules of the recommended design by power mode, then where the watts come from."""
    lines, sources = [], []
    for name, p in c.by_mode.items():
        own = "corrected" if "corrected" in p.seconds else "floor"
        least = "at least " if own == "floor" else ""
        lines.append(f"{c.spec.label} in {name}: {least}{_s(p.seconds[own])} s, {_range(_energy(p))} J")
        sources.append(f"watts in {name}: {p.power_source}")
    return [*lines, *sources]


def _fusion_lines(c: Candidate) -> list[str]:
    groups: dict[tuple[str, str], list[str]] = {}
    for f in c.fusions:
        groups.setdefault((f.precision, f"{'fuses' if f.fuses else 'does not fuse'}: {f.why}"), []).append(f.tensorrt)
    return [f"{precision.upper()}, TensorRT {', '.join(versions)}: {why}" for (precision, why), versions in groups.items()]


def _prediction_text(p: Prediction) -> str:
    from edgedit.design.predict import MODEL_NAMES

    w = p.work
    lines = [f"{p.spec.label}, {p.spec.parameters:,} parameters ({p.spec.deployed_parameters:,} deployed), {p.precision.upper()} on "
             f"{p.device} {p.mode}".rstrip() + f": {p.images:,} images, batch {p.batch}, guidance {p.guidance_scale:g}"]
    for model, text in p.models.items():
        error = p.error_percent[model]
        known = f"± {error.median:.0f} % (worst {error.worst:.0f} %)" if error else "measured" if model == "table" else "error unknown"
        lines.append(f"  {_s(p.seconds[model]):>8} s  {_MODEL[model]:<8} {known}; {text}")
    lines.append(f"  {_two(p.memory_mb):>8} MB for weights, activations and buffers (estimate; runtime and system on top)")
    lines.append(f"  {w.flops / 1e9:>8.2f} GFLOP, {_moved(w):.1f} MB across memory and {w.exponentials / 1e6:.1f} M exponentials for one "
                 "image")
    for model, joules in p.energy_j.items():
        lines.append(f"  {_range(joules):>8} J by {MODEL_NAMES[model]}{', at least' if model == 'floor' else ''} ({p.power_source})")
    if p.fusion is not None:
        lines.append(f"  attention {'fuses' if p.fusion.fuses else 'does not fuse'}, TensorRT {p.fusion.tensorrt}: {p.fusion.why}")
    return "\n".join([*lines, *(f"  note: {note}" for note in p.notes)])


def _s(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _two(value: float) -> str:
    """Two significant digits: estimates deserve no more."""
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 10 else f"{value:.2g}"


def _range(pair: tuple[float, float] | None) -> str:
    return "unknown" if pair is None else f"{_two(pair[0])} – {_two(pair[1])}"



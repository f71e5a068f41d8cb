"""Verbs that run anywhere, a board without torch first of all: doctor, generate, profile, report, show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgedit.cli.console import Console
from edgedit.cli.options import (
    BundleDir,
    Config,
    CudaGraph,
    DeviceNoise,
    Engine,
    Fallback,
    Json,
    Out,
    Provider,
    Runtime,
    Seed,
    Sets,
    Threads,
)


def doctor(json: Json = False) -> None:
    """What this machine is, what it can do, and what to type where something is missing.

    Python and packages, runtimes and the providers they really offer, JetPack and its TensorRT, power mode and clocks,
    power rails, memory, disk.
    """
    from dataclasses import asdict

    from edgedit.device.doctor import diagnose

    with Console(json) as ui:
        findings = diagnose()
        marks = {"ok": "ok  ", "note": "note", "warning": "WARN", "error": "FAIL"}
        lines = []
        for f in findings:
            lines.append(f"{marks[f.level]}  {f.title}" + (f": {f.saw}" if f.saw else ""))
            if f.fix:
                lines.append(f"      fix: {f.fix}")
        ui.done("\n".join(lines), data={"findings": [asdict(f) for f in findings]})
    if any(f.level == "error" for f in findings):
        raise typer.Exit(1)


def _choose(bundle: Path, name: str, threads: int | None, **options: Any) -> Any:
    """The runtime that the options ask for; torch comes loaded, since the device's side does not know it."""
    from edgedit.device.runtime import RuntimeChoice

    if name != "torch":
        return RuntimeChoice(name=name, threads=threads, **options)
    from edgedit.cli.host import need_host
    from edgedit.cli.ladder import torch_runtime

    need_host("torch", "safetensors")
    return torch_runtime(bundle, threads)


def generate(
    bundle: BundleDir,
    out: Annotated[Path | None, typer.Option(help="A PNG with all images (at most 1,024).")] = None,
    save_dir: Annotated[Path | None, typer.Option(help="A folder for one PNG an image.")] = None,
    npz: Annotated[Path | None, typer.Option(help="A .npz with images uint8 (N, H, W, C) and labels.")] = None,
    count: Annotated[int, typer.Option(help="Images to make.")] = 64,
    classes: Annotated[list[str] | None, typer.Option("--class", metavar="NAME", help="A class by name or number; repeatable.")] = None,
    all_classes: Annotated[bool, typer.Option("--all-classes", help="All classes in turn (the default without --class).")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the noise. Image i of a seed is the same on every machine.")] = 0,
    start: Annotated[int, typer.Option(help="Number of the first image.")] = 0,
    batch: Annotated[int | None, typer.Option(help="Images a run, for bundles that take any; their own by default.")] = None,
    runtime: Runtime = "auto",
    provider: Provider = None,
    threads: Threads = None,
    fallback: Fallback = False,
    engine: Engine = None,
    cuda_graph: CudaGraph = True,
    device_noise: DeviceNoise = True,
    json: Json = False,
) -> None:
    """Make class-conditional images in one step.

    Example: edgedit generate runs/bundle --count 64 --class cat --seed 0 --out cats.png
    """
    from edgedit.core.errors import UsageError
    from edgedit.core.settings import resolve
    from edgedit.device.generate import GenerateSettings
    from edgedit.device.generate import generate as generate_stage

    if classes and all_classes:
        raise UsageError("--class and --all-classes contradict each other", fix="give one of them")
    settings = resolve(GenerateSettings, options={"count": count, "classes": tuple(classes or ()), "seed": seed, "start": start,
                                                  "batch": batch})
    choice = _choose(bundle, runtime, threads, provider=provider, fallback=fallback, engine=engine, cuda_graph=cuda_graph,
                     device_noise=device_noise)
    with Console(json) as ui:
        made = generate_stage(bundle, choice, settings, out=out, save_dir=save_dir, npz=npz, say=ui)
        where = ", ".join(map(str, made.outputs))
        speed = f" at {made.images_per_s:,.1f} images/s" if made.made else ""
        ui.done(f"{where}: {made.count:,} images of {', '.join(made.classes)}{speed}",
                following=f"edgedit profile {bundle} --images 50000 --out runs/record",
                data={"count": made.count, "made": made.made, "classes": made.classes, "outputs": [str(p) for p in made.outputs],
                      "images_per_s": made.images_per_s, "runtime": made.runtime, "provider": made.provider})


def profile(
    bundle: BundleDir,
    out: Out,
    images: Annotated[int | None, typer.Option(help="Images to make (paper: 50,000).")] = None,
    batch: Annotated[int | None, typer.Option(help="Images a run (paper: 128); the bundle's own by default.")] = None,
    power: Annotated[str | None, typer.Option(help="auto, ina3221, tegrastats, rapl, nvml, none. auto logs what the machine has: on a "
                                                   "Jetson the INA3221 monitor and tegrastats, on a host RAPL and NVML.")] = None,
    power_mode: Annotated[str | None, typer.Option("--power-mode", metavar="NAME", help="Put a Jetson into this power mode for the run, by "
                                                   "its name on this board (25W, maxn_super). Needs root or sudo. Put back "
                                                   "afterwards, also when killed.")] = None,
    lock_clocks: Annotated[bool, typer.Option("--lock-clocks", help="Pin the clocks at the mode's maximum for the run "
                                                     "(jetson_clocks). Put back afterwards, also when killed.")] = False,
    idle_s: Annotated[float | None, typer.Option("--idle", help="Seconds of idle baseline before the run, for net energy.")] = None,
    warmup: Annotated[int | None, typer.Option(help="Batches before the timed run.")] = None,
    min_seconds: Annotated[float | None, typer.Option(help="Make the images again until this long has passed; 60 s is a fair power "
                                                           "window.")] = None,
    seed: Seed = None,
    runtime: Runtime = "auto",
    provider: Provider = None,
    threads: Threads = None,
    fallback: Fallback = False,
    engine: Engine = None,
    cuda_graph: CudaGraph = True,
    device_noise: DeviceNoise = True,
    again: Annotated[bool, typer.Option("--again", help="Measure anew although --out holds this very measurement.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Let the record take the place of another measurement's at --out.")] = False,
    sets: Sets = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Measure latency, throughput, power and energy: the paper's protocol is the default.

    50,000 images at batch 128, phases timed apart, percentiles, steadiness, power over the very window of the run. Everything
    raw is kept. Ctrl-C leaves a record of what was measured.

    Example: edgedit profile runs/bundle --images 50000 --batch 128 --power auto --out runs/record
    """
    from edgedit.core.settings import resolve
    from edgedit.device.profile import ProfileSettings
    from edgedit.device.profile import profile as profile_stage

    options = {"images": images, "batch": batch, "power": power, "idle_s": idle_s, "warmup_batches": warmup,
               "min_seconds": min_seconds, "seed": seed, "power_mode": power_mode, "lock_clocks": lock_clocks or None}
    settings = resolve(ProfileSettings, config=config, sets=sets or (), options=options)
    choice = _choose(bundle, runtime, threads, provider=provider, fallback=fallback, engine=engine, cuda_graph=cuda_graph,
                     device_noise=device_noise)
    with Console(json) as ui:
        record = profile_stage(bundle, choice, out, settings, again=again, replace=replace, say=ui)
        for verdict in record.verdicts:
            if verdict.level in ("warning", "error"):
                ui.note(f"{verdict.level}: {verdict.text}" + (f"\n  fix: {verdict.fix}" if verdict.fix else ""))
        energy = f", {record.power.mj_per_image / 1000:.3f} J/image" if record.power else ", power not measured"
        cut = "" if record.complete else " (cut short)"
        ui.done(f"{out}: {record.images_per_s:,.1f} images/s, {record.batch_ms.median:.1f} ms a batch of {record.protocol.batch}{energy}"
                f"{cut}", following=f"edgedit report {out} --out report.html", data=record.model_dump(mode="json"))
    if not record.complete:
        raise typer.Exit(130 if any(v.code == "interrupted" for v in record.verdicts) else 1)


def report(
    sources: Annotated[list[Path], typer.Argument(metavar="SWEEP|RECORD…", help="Folders made by sweep or profile; "
                                                                                                   "also by compare and train.")],
    out: Annotated[Path, typer.Option(help="The HTML file; .md, .csv and .json are written beside it.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Heading.")] = "",
    json: Json = False,
) -> None:
    """One self-contained HTML page from sweeps and records, with the paper's tables and figures beside them.

    A sweep rebuilds the paper's tables and Figures 3 and 4. Two records or more are compared with the first: differences with
    95 % intervals where the protocol is the same, what differs where it is not.

    Example: edgedit report runs/record runs/parity runs/student --out report.html
    """
    from dataclasses import asdict

    from edgedit.report.page import ReportSettings, write_report

    with Console(json) as ui:
        result = write_report(sources, out, ReportSettings(title=title), say=ui)
        ui.done(f"{result.html}: {result.summary}", following=f"open {result.html} in a browser", data=asdict(result))


def show(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Any folder that edgedit made.")],
    json: Json = False,
) -> None:
    """The chain of evidence of an artifact: what it was made from, back to the teacher, every hash checked again.

    Exit status 3 when something at hand is damaged or was replaced. Ancestors that are elsewhere are listed as absent.
    """
    from dataclasses import asdict

    from edgedit.core.chain import chain

    with Console(json) as ui:
        links = chain(path)
        lines = [f"{'  ' * k.depth}{k.kind} {k.label or k.role}  {k.digest[:12]}  {k.status}  {k.path}"
                 + (f"  ({k.detail})" if k.detail else "") for k in links]
        ui.done("\n".join(lines), data={"links": [asdict(k) for k in links]})
    if any(k.status in ("damaged", "changed") for k in links):
        raise typer.Exit(3)

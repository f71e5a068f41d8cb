"""Verbs of the host: train, export, compare, quickstart. They need `pip install 'edgedit[host]'`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgedit.cli.console import Console, dotted, duration
from edgedit.cli.options import Config, Json, Out, Sets
from edgedit.core.errors import MissingError


def need_host(*packages: str) -> None:
    """Raise MissingError, naming the extra, unless `packages` can be imported."""
    from importlib.util import find_spec

    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise MissingError(f"this command needs {', '.join(missing)}", saw="the base installation, which is the device side",
                           fix="pip install 'edgedit[host]'")


def train(
    pairs: Annotated[Path, typer.Option(help="Folder made by `edgedit pairs`.")],
    out: Out,
    preset: Annotated[str | None, typer.Option(help="dit-nano-0.42m, dit-nano-2.2m, dit-nano-5m, their -wide and -deep kin (all "
                                                    "rows of the paper's Table 6), dmd, ta-assistant, ta-row1 to -row4, mi1-2, mi1-3 "
                                                    "(Tables 1, 3, 4), digits.")] = None,
    setup: Annotated[str | None, typer.Option(help="get (offline pairs, the default), dmd (distribution matching; needs a teacher), ta "
                                                   "(teaching assistant), mi1 (layers as steps), guided (guidance in one pass). Their "
                                                   "options: --set setup.KEY=VALUE.")] = None,
    loss: Annotated[str | None, typer.Option(help="lpips (the paper's best), l1, l2, or a sum: l1+lpips, with --set "
                                                  "loss.weights.l1=0.5. LPIPS compares at 224 pixels by default, as the paper's "
                                                  "sources do; that costs 50 to 450 times the student. --set "
                                                  "loss.lpips.resolution=64 costs a twelfth.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps; overrides epochs.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the pairs (paper: 100).")] = None,
    minutes: Annotated[float | None, typer.Option(help="Train for so long at most, over all starts; a falling rate ends with it.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images a step (paper: 256).")] = None,
    lpips_weights: Annotated[Path | None, typer.Option(help="ImageNet weights of the LPIPS trunk, torchvision's state dict, "
                                                            "where they cannot be downloaded.")] = None,
    init: Annotated[Path | None, typer.Option(help="Start from another student's weights.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = None,
    sets: Sets = None,
    config: Config = None,
    restart: Annotated[bool, typer.Option("--restart", help="Forget what --out holds and begin anew.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and how long it would take.")] = False,
    json: Json = False,
) -> None:
    """Distil a one-step DiT-Nano from teacher pairs.

    The defaults are the paper's setup: AdamW, rate 1e-4, weight decay 0.01, batch 256, EMA 0.9999, 100 epochs, label
    dropout 0.1, LPIPS. Ctrl-C and SIGTERM save; the same command goes on exactly where it stopped; more --steps or --minutes
    train further. A batch that memory does not hold is taken in pieces. Settings: defaults < --preset < --config < --set <
    options; --dry-run prints them all by name.

    Example: edgedit train --preset dit-nano-0.42m --pairs runs/pairs --out runs/student --loss l1 --set optimizer.lr=2e-4
    """
    need_host("torch", "safetensors")
    from edgedit.core.settings import resolve
    from edgedit.distill.dryrun import plan
    from edgedit.distill.settings import TrainSettings
    from edgedit.distill.settings import preset as preset_settings
    from edgedit.distill.training import train as train_stage

    options = {"setup.name": setup, "loss.name": loss, "steps": steps, "epochs": epochs, "minutes": minutes, "batch": batch,
               "device": device, "loss.lpips.weights": str(lpips_weights) if lpips_weights else None}
    settings = resolve(TrainSettings, base=preset_settings(preset) if preset else None, config=config, sets=sets or (),
                       options=options)
    with Console(json) as ui:
        if dry_run:
            facts = plan(pairs, settings)
            text = [
                *dotted(facts["settings"]), "",
                f"{facts['label']}: {facts['parameters']:,} parameters, {facts['deployed_parameters']:,} deployed",
                f"{facts['steps']:,} steps, {facts['epochs']:g} passes over {facts['pairs']:,} pairs, {facts['images']:,} images, "
                f"{facts['student_flops']:.2e} floating-point operations in the student",
                f"on {facts['device']} in {facts['precision']}: {facts['step_ms']:.0f} ms a step, {facts['images_per_s']:,.0f} images/s, "
                f"about {duration(facts['wall_s'])} (measured over a few steps)"]
            ui.done("\n".join(text), data=facts, following="the same command without --dry-run")
            return
        manifest = train_stage(pairs, out, settings, say=ui, init=init, restart=restart)
        info = manifest.info
        ui.done(f"{out}: {info['label']} of {info['parameters']:,} parameters, {info['images_seen']:,} images in "
                f"{duration(info['wall_s'])}, loss {info['final_loss']:.4f}",
                following=f"edgedit export {out} --out runs/bundle", data={"out": str(out), "digest": manifest.digest, **info})


def export(
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="Folder made by `edgedit train`.")],
    out: Out,
    precision: Annotated[str | None, typer.Option(help="fp32; fp16: typed in the graph, LayerNormalization kept in fp32; int8: fp16 with "
                                                       "Q/DQ in the blocks, which needs --calibrate. Often slower than fp16 for "
                                                       "small transformers: profile both.")] = None,
    calibrate: Annotated[Path | None, typer.Option(metavar="PAIRS", help="Folder of teacher pairs that int8 is calibrated on; made-up data "
                                                                         "is not taken.")] = None,
    lpips_weights: Annotated[Path | None, typer.Option(help="Let int8's quality gate measure LPIPS too, with torchvision's state dict of "
                                                            "SqueezeNet 1.1, AlexNet or VGG-16 (by default where one is cached).")] = None,
    trt: Annotated[bool, typer.Option("--trt", help="Build the TensorRT engine too where TensorRT and its GPU are here; elsewhere say how "
                                                    "to build it on the board.")] = False,
    attention: Annotated[str | None, typer.Option(help="pattern: MatMul–Softmax–MatMul that TensorRT fuses; onnx: the Attention "
                                                       "operator (opset 23); ort: ONNX Runtime's fused operator.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images a run (default 128).")] = None,
    dynamic: Annotated[bool | None, typer.Option("--dynamic/--fixed", help="Take any batch, or --batch only (default).")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="Classifier-free guidance inside the graph (1.5 as in the paper, by "
                                                               "default; none where it is in the weights); 1.0 is none and costs "
                                                               "half.")] = None,
    sets: Sets = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Turn a student into an ONNX bundle with fused attention.

    Conditioning is folded into a table (24–41 % fewer parameters, exactly), guidance and uint8 conversion go into the graph,
    head sizes that no kernel fuses are padded. Every block is checked against TensorRT's fusion conditions. INT8 passes a gate on
    its images; blocks go back to FP16 until it does (settings: --set int8.KEY=VALUE).

    Example: edgedit export runs/student --out runs/bundle --precision fp16 --attention pattern --batch 128
    """
    need_host("torch", "onnx", "safetensors")
    from edgedit.core.settings import resolve
    from edgedit.export.bundle import ExportSettings
    from edgedit.export.bundle import export as export_stage

    options = {"precision": precision, "attention": attention, "batch": batch, "dynamic": dynamic, "guidance_scale": guidance}
    settings = resolve(ExportSettings, config=config, sets=sets or (), options=options)
    with Console(json) as ui:
        perceptual = None
        if settings.precision == "int8":
            need_host("onnxruntime")
            from edgedit.cli.perceptual import find_lpips

            perceptual = find_lpips(lpips_weights, ui)
        manifest = export_stage(student, out, settings, pairs=calibrate, perceptual=perceptual, say=ui)
        info, size = manifest.info, manifest.files["model.onnx"]["bytes"]
        lines = [f"{out}: {info['label']} {manifest.settings['precision']} {manifest.settings['attention']}, "
                 f"{info['deployed_parameters']:,} deployed parameters, {size / 1e6:.2f} MB"]
        if "int8" in info:
            lines.append(f"{info['int8']['summary']}\nwhether it is faster only profiles of both tell: small transformers are often slower "
                         "in INT8")
        engine = _engine(out, ui, lines) if trt else {}
        ui.done("\n".join(lines), following=engine.get("next", f"edgedit generate {out} --count 64 --all-classes --out samples.png"),
                data={"out": str(out), "digest": manifest.digest, "settings": manifest.settings, **info, **engine})


def _engine(bundle: Path, ui: Console, lines: list[str]) -> dict[str, str]:
    """Build a bundle's engine where TensorRT and its GPU are; elsewhere add to `lines` why not. Returns the next command."""
    from edgedit.device.trt.build import build

    try:
        engine = build(bundle, say=ui)
    except MissingError as error:
        lines.append(f"no engine was built here: {error.what}. Engines run where they were built: build on the board")
        return {"next": f"edgedit deploy USER@BOARD {bundle}, or on the board: edgedit build {bundle.name}"}
    lines.append(f"engine: {engine.path}")
    return {"engine": str(engine.path), "next": f"edgedit profile {bundle} --runtime trt --images 50000 --out runs/record"}


def compare(
    paths: Annotated[list[Path], typer.Argument(metavar="STUDENT BUNDLE…", help="A student, then the bundles made from it.")],
    out: Annotated[Path | None, typer.Option(help="Keep the ladder in this folder, for the report.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Images compared, balanced over the classes.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    records: Annotated[list[Path] | None, typer.Option(metavar="RECORD", help="Records of an FP16 and an INT8 bundle: says whether INT8 is "
                                                                             "worth it. Repeatable.")] = None,
    json: Json = False,
) -> None:
    """How far each step from training to deployment moves the images: the parity ladder.

    The same seeds and classes through float64, float32, the folded form, and every bundle: largest and mean error, PSNR,
    share of changed uint8 pixels. With --records of both, whether INT8 pays.

    Example: edgedit compare runs/student runs/bundle-fp32 runs/bundle-fp16 --out runs/parity
    """
    need_host("torch", "safetensors")
    from edgedit.cli.ladder import compare_forms

    with Console(json) as ui:
        parity = compare_forms(paths[0], paths[1:], out, images=images, seed=seed, say=ui, records=records or ())
        rows = [f"{'':<52} {'largest':>9} {'mean':>9} {'PSNR dB':>8} {'changed':>9} {'levels':>6}", f"against {parity['reference']}:"]
        for rung in parity["rungs"]:
            if rung["against"] != parity["reference"]:
                continue
            psnr = "equal" if rung["psnr_db"] is None else f"{rung['psnr_db']:.1f}"
            rows.append(f"{rung['name']:<52} {rung['max_abs']:>9.2e} {rung['mean_abs']:>9.2e} {psnr:>8} "
                        f"{rung['changed_pixels_percent']:>8.4f}% {rung['max_levels']:>6}  {rung['verdict']} {rung['note']}".rstrip())
        rows += [v["text"] + (f"\n  fix: {v['fix']}" if v["fix"] else "") for v in parity["verdicts"]]
        if records and not parity["verdicts"]:
            ui.note("warning: whether INT8 pays is told from records of an FP16 and an INT8 bundle; one of the two was not given")
        following = f"profile {paths[-1]} --images 50000 --out runs/record" if paths[1:] else f"export {paths[0]} --out runs/bundle"
        ui.done("\n".join(rows), following=f"edgedit {following}", data=parity)
    if not parity["ok"]:
        raise typer.Exit(1)


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for everything that is made.")] = Path("runs/quickstart"),
    data: Annotated[str | None, typer.Option(
        help="digits (comes with scikit-learn), cifar10 (pairs that come with a checkout, else a download), or a path: a CIFAR-10 "
             "folder or archive, a folder of images by class. By default cifar10 in a checkout, else digits; both offline.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; the preset's by default.")] = None,
    json: Json = False,
) -> None:
    """Everything once, on a CPU, in minutes: a trained model's images, then pairs, training, ONNX, parity, images, profile, report.

    Run again, it goes on where it stopped. Each step is a verb of its own; the commands are printed as they run.

    Example: edgedit quickstart --data path/to/cifar-10-batches-py --out runs/cifar
    """
    need_host("torch", "onnx", "onnxruntime", "safetensors", "sklearn")
    from edgedit.cli.quickstart import run, usual_data

    with Console(json) as ui:
        made = run(out, data=data or usual_data(out), steps=steps, ui=ui)
        trained = [f"trained: {made['samples_shipped']}  (the model that comes with edgedit)"] if "samples_shipped" in made else []
        here = f"here:    {made['samples']}  (the student of this run, after a minute or two of training)"
        lines = [*trained, here, f"report:  {made['report']}"]
        ui.done("\n".join(lines), following=f"edgedit show {made['record']}", data=made)

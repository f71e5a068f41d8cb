"""The verb `evaluate`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from edgedit.cli.console import Console
from edgedit.cli.host import need_host
from edgedit.cli.options import Config, Json, Provider, Sets, Threads
from edgedit.cli.sources import Made, Sources, data_set, find_perceptual
from edgedit.core.errors import UsageError


def evaluate(
    source: Annotated[str | None, typer.Argument(metavar="SOURCE", help="A student, a bundle, pairs, a folder of images, an .npz of "
                                                 "images, or cifar10-test, cifar10-train … (real images, scored the same way).")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write. The same command again resumes, or returns at once.")] = None,
    metrics: Annotated[str | None, typer.Option(help="Of fid, is, kid, pr (precision and recall), accuracy, spread, nearest, teacher; "
                                                      "fid,is by default.")] = None,
    pairs: Annotated[Path | None, typer.Option(help="Teacher pairs whose noise and classes a student or bundle gets, instead of --seed and "
                                                    "--labels; teacher needs them.")] = None,
    reference: Annotated[str, typer.Option(help="What images should be like: cifar10-train, cifar10-test, a folder, pairs, or an .npz of "
                                                "statistics (mu, sigma).")] = "cifar10-train",
    count: Annotated[int | None, typer.Option(min=2, help="Images of the source; default 50,000 made ones, all stored ones.")] = None,
    reference_count: Annotated[int | None, typer.Option(min=2, help="Images of the reference; all by default.")] = None,
    data: Annotated[str | None, typer.Option(help="Where CIFAR-10 lies when it is not to be downloaded; or another data set, for "
                                                  "data-train and data-test.")] = None,
    extractor_weights: Annotated[Path | None, typer.Option(help="Inception weights; the published file by default, downloaded "
                                                                "once.")] = None,
    tap: Annotated[str | None, typer.Option(help="Layer of the extractor: 2048 (FID), 768, 192, 64.")] = None,
    classifier: Annotated[Path | None, typer.Option(help="Weights of a CIFAR ResNet, for accuracy.")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="Guidance of a student (default 1.5, none where it is in the weights); a "
                                                               "bundle has its own.")] = None,
    weights: Annotated[str, typer.Option(help="Of a student: ema, the average that is exported, or raw, as the last step left "
                                              "them.")] = "ema",
    lpips_weights: Annotated[Path | None, typer.Option(help="For teacher: torchvision's SqueezeNet 1.1, AlexNet or VGG-16 (by default "
                                                            "one that is cached).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise of made images.")] = 0,
    start: Annotated[int, typer.Option(help="Index of the first made image; with --pairs the first pair, -1000 for the last "
                                            "1,000.")] = 0,
    labels: Annotated[str, typer.Option(help="Classes of made images: balanced (in turn) or random.")] = "balanced",
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = None,
    provider: Provider = None,
    threads: Threads = None,
    self_test: Annotated[bool, typer.Option("--self-test", help="Inception Score of CIFAR-10 train by the published extractor: it "
                                                                "must be 11.2368.")] = False,
    sets: Sets = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Score images: FID, Inception Score, KID, precision and recall, class accuracy, spread, nearness to training images, distance to
    the teacher.

    Images are made as they are needed and nothing is written but the record. A number is called FID only with the published
    extractor and 50,000 images; with fewer it is FID-5k and so on, at another layer FID-768, by other weights never FID. The
    record names all that decides it: reference and split, counts, hashes, seed, labels, guidance, resize, quantisation.
    torchrun --nproc-per-node 4 -m edgedit evaluate … shares the work.

    Example: edgedit evaluate runs/student --metrics fid,is --reference cifar10-train --count 50000 --out runs/evaluation
    """
    need_host("torch", "torch_fidelity", "safetensors")
    from edgedit.learn.ranks import joined

    with joined(device or "auto") as ranks, Console(json) as ui, ExitStack() as stack:
        asked = None if metrics is None else tuple(m.strip() for m in metrics.split(",") if m.strip())
        options = {"metrics": asked, "count": count, "reference_count": reference_count, "tap": tap, "device": device,
                   "extractor_weights": str(extractor_weights) if extractor_weights else None,
                   "classifier": str(classifier) if classifier else None,
                   "lpips.weights": str(lpips_weights) if lpips_weights else None}
        if self_test:
            body = _self_test(data, out or Path("runs/self-test"), _settings({**options, "metrics": ("is",)}, sets, config), ui, ranks)
        else:
            if source is None or out is None:
                raise UsageError("evaluate needs a SOURCE and --out", fix="edgedit evaluate runs/student --out runs/evaluation")
            made = Made(count, seed, start, labels, pairs, guidance, weights)
            sources = Sources(made, data, device or "auto", provider, threads, ranks, stack, ui)
            body = _evaluate(sources, source, reference, out, _settings(options, sets, config))
        if ranks.main:
            ui.done("\n".join(_lines(body)), following=None if self_test else f"edgedit show {out}", data=body)
    if self_test and not body["ok"]:
        raise typer.Exit(1)


def _settings(options: dict[str, Any], sets: list[str] | None, config: Path | None) -> Any:
    from edgedit.core.errors import did_you_mean
    from edgedit.core.settings import resolve
    from edgedit.evaluate.settings import METRICS, EvaluateSettings

    if unknown := [m for m in options["metrics"] or () if m not in METRICS]:
        raise UsageError(f"unknown metric '{unknown[0]}'", fix=did_you_mean(unknown[0], METRICS))
    return resolve(EvaluateSettings, config=config, sets=sets or (), options=options)


def _evaluate(sources: Sources, source: str, reference: str, out: Path, settings: Any) -> dict[str, Any]:
    import json

    import torch

    from edgedit.core.cache import cache_folder
    from edgedit.evaluate.settings import AGAINST
    from edgedit.evaluate.stage import EVALUATION_FILE
    from edgedit.evaluate.stage import evaluate as evaluate_stage
    from edgedit.evaluate.statistics import holds_statistics, load_statistics

    if sources.threads:
        torch.set_num_threads(sources.threads)
    images = sources.source(source)
    against = held_out = perceptual = None
    if settings.wants(*AGAINST):
        file = Path(reference).expanduser()
        against = load_statistics(file) if holds_statistics(file) else sources.stored(reference)
        held_out = sources.held_out(reference) if settings.wants("nearest") else None
    if settings.wants("teacher") and sources.made.pairs is not None:
        perceptual = find_perceptual(settings, images.noise_shape[1], sources.ranks, sources.say)
    manifest = evaluate_stage(images, against, out, settings, held_out=held_out, perceptual=perceptual, cache=cache_folder(),
                              say=sources.say, ranks=sources.ranks)
    if not sources.ranks.main:
        return {}
    return {"out": str(out), "digest": manifest.digest, **json.loads((out / EVALUATION_FILE).read_bytes())}


def _self_test(data: str | None, out: Path, settings: Any, say: Any, ranks: Any) -> dict[str, Any]:
    from edgedit.evaluate.selftest import EXPECTED, TOLERANCE, self_test

    found = self_test(data_set("cifar10", "train", data, say, ranks), out, settings, say=say, ranks=ranks)
    return {"out": str(out), "inception_score": found.value, "expected": EXPECTED, "tolerance": TOLERANCE, "ok": found.ok}


def _lines(body: dict[str, Any]) -> list[str]:
    if "expected" in body:
        verdict = "as it should be" if body["ok"] else "NOT as it should be: numbers of this installation are not comparable"
        return [f"Inception Score of CIFAR-10 train {body['inception_score']:.4f}, torch-fidelity states {body['expected']:.4f}: {verdict}"]
    made_of = " ".join(str(body["source"][k]) for k in ("name", "split") if k in body["source"])
    by = f", protocol {body['protocol']}" if body["protocol"] else ""
    lines = [f"{body['out']}: {made_of}, {body['source']['used']:,} images{by}"]
    for m in body["metrics"]:
        spread = "" if m["uncertainty"] is None else f" ± {m['uncertainty']:.4g} ({m['uncertainty_of']})"
        lines.append(f"  {m['name']:<18} {m['value']:.6g}{spread}")
        shown = {k: v for k, v in m["details"].items() if k in ("copies", "nearer_than_real", "exact_copies", "held_out_median")}
        if shown:
            lines.append("    " + ", ".join(f"{k.replace('_', ' ')} {v:.4g}" for k, v in shown.items()))
        if m["metric"] == "nearest" and "shown" in m["details"]:
            lines.append(f"    {body['out']}/nearest.png shows those that come nearest")
        if m["metric"] == "teacher-rmse" and m["details"]["psnr_db"] is not None:
            lines.append(f"    PSNR {m['details']['psnr_db']:.2f} dB")
    if body["source"].get("pairs"):
        noise = body.get("training_noise") or {}
        part = f" ({noise['seen']:,} of {noise['images']:,})" if noise.get("seen") else ""
        lines.append(f"  these pairs: {noise.get('verdict', 'unknown')}{part}")
    return lines

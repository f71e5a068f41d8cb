"""Every setup and loss at one small budget, on pairs of one teacher: do they run, does each term fall, what comes out?

All stages are `edgedit` commands, printed as they run; the same command again goes on where it stopped. This is a smoke test at
the scale of minutes: it ranks nothing (docs/setups.md).

    python benchmarks/setups.py --teacher runs/teacher --lpips-weights squeezenet1_1.pth --classifier resnet56.th --work runs/setups

Without --teacher, `unet-tiny` is trained for --teacher-steps on --data first.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgedit.core.artifact import open_artifact
from edgedit.core.pairset import PairSet, to_float, to_uint8
from edgedit.core.picture import grid, png
from edgedit.distill.losses import make_loss
from edgedit.distill.settings import LossSettings
from edgedit.learn.logs import METRICS, read_metrics
from edgedit.model.checkpoint import load_student, usual_guidance

RESULTS = Path(__file__).parent / "results" / "setups.json"
HELD_OUT = 1_000_000
"""Number of the first held-out pair: the same teacher's, of noise that no run has seen."""


def edgedit(*arguments: str) -> None:
    print(f"\n$ edgedit {shlex.join(arguments)}", flush=True)
    if status := subprocess.run([sys.executable, "-m", "edgedit", *arguments], check=False).returncode:
        raise SystemExit(status)


def runs(work: Path, teacher: Path, lpips: list[str]) -> dict[str, list[str]]:
    """Name → what `edgedit train` is told beside the budget, in an order in which each finds what it needs."""
    get, assistant = str(work / "get-lpips"), f"setup.assistant={work / 'assistant'}"
    rows = {f"ta-row{row}": ["--setup", "ta", *(part for k, v in enumerate(weights) for part in ("--set", f"setup.lambda{k}={v}")),
                             "--set", assistant, *lpips]
            for row, weights in ((2, (0, 1, 0)), (3, (0, 1, 1)), (4, (1, 1, 1)))}
    return {
        "get-l1": ["--loss", "l1"], "get-l2": ["--loss", "l2"], "get-lpips": lpips,
        "assistant": [*lpips, "--set", "model.width=128"], **rows,
        "mi1-2": ["--setup", "mi1", "--set", "setup.layers=[3,6]", "--set", "setup.times=[0.5,0]", *lpips],
        "mi1-3": ["--setup", "mi1", "--set", "setup.layers=[2,4,6]", "--set", "setup.times=[0.66,0.33,0]", *lpips],
        "dmd": ["--setup", "dmd", "--set", f"setup.teacher={teacher}", "--init", get, "--set", "optimizer.lr=1e-4", "--set",
                "setup.fake_lr=1e-4", *lpips],
        "guided": ["--setup", "guided", "--set", f"setup.student={get}", "--init", get, *lpips],
    }


@torch.no_grad()
def held_out(run: Path, pairs: PairSet, metrics: dict[str, Any]) -> dict[str, float]:
    """Mean distances between one pass of the averaged student and the teacher's images of the same noise and class."""
    model, _, _ = load_student(run)
    sums = dict.fromkeys(metrics, 0.0)
    for part in np.array_split(np.arange(len(pairs)), -(-len(pairs) // 50)):
        noise, labels, images = (torch.from_numpy(a) for a in (pairs.noise(part), pairs.labels(part), to_float(pairs.images(part))))
        made = model(noise, labels)
        for name, metric in metrics.items():
            sums[name] += float(metric(made, images)) * len(part)
    return {name: total / len(pairs) for name, total in sums.items()}


@torch.no_grad()
def draw(work: Path, pairs: PairSet) -> None:
    """`setups.png`: ten held-out noises, the teacher's images and what some students make of them in one pass."""
    some = np.arange(10)
    noise, labels = (torch.from_numpy(a) for a in (pairs.noise(some), pairs.labels(some)))
    names = ["get-l1", "get-l2", "get-lpips", "ta-row4", "mi1-3", "dmd"]
    rows = [pairs.images(some), *(to_uint8(load_student(work / name)[0](noise, labels).numpy()) for name in names)]
    (work / "setups.png").write_bytes(png(grid(np.concatenate(rows), columns=len(some), names=["teacher", *names])))


def terms(run: Path) -> dict[str, list[float]]:
    """Each logged term: its mean over the first and the last tenth of the lines."""
    lines = read_metrics(run / METRICS)
    some = max(1, len(lines) // 10)
    names = [n for n in lines[0] if n not in ("step", "lr", "images_per_s", "grad_norm", "wall_s")]
    return {n: [float(np.mean([line[n] for line in part])) for part in (lines[:some], lines[-some:])] for n in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/setups"))
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--teacher-steps", type=int, default=2000)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--images", type=int, default=500, help="judged by the classifier, a run")
    parser.add_argument("--lpips-weights", help="trunk of LPIPS 'squeeze'")
    parser.add_argument("--classifier", help="CIFAR ResNet for class accuracy")
    parser.add_argument("--results", type=Path, default=RESULTS)
    a = parser.parse_args()
    teacher = a.teacher or a.work / "teacher"
    if a.teacher is None:
        edgedit("teacher", "train", "--preset", "unet-tiny", "--data", a.data, "--steps", str(a.teacher_steps), "--out", str(teacher))
    pairs, test = a.work / "pairs", a.work / "pairs-held-out"
    edgedit("pairs", "--teacher", str(teacher), "--count", str(a.pairs), "--set", "shard_size=500", "--out", str(pairs))
    edgedit("pairs", "--teacher", str(teacher), "--count", "200", "--set", f"start={HELD_OUT}", "--set", "shard_size=100",
            "--out", str(test))
    weights = ["--lpips-weights", a.lpips_weights] if a.lpips_weights else []
    lpips = ["--loss", "lpips", "--set", "loss.lpips.net=squeeze", "--set", "loss.lpips.resolution=native", *weights]
    sets = {"model.depth": 6, "model.width": 64, "model.heads": 8, "optimizer.lr": 1e-3, "optimizer.schedule": "cosine", "ema_decay": 0.99,
            "log_every": 5, "sample_every": 0, "checkpoint_every": 100}
    budget = ["--steps", str(a.steps), "--batch", str(a.batch), *(part for k, v in sets.items() for part in ("--set", f"{k}={v}"))]
    data = PairSet.open(test)
    spec = load_spec(data)
    perceptual = {"net": "squeeze", "resolution": None, "weights": a.lpips_weights}
    losses = {"l1": LossSettings(name="l1"), "l2": LossSettings(name="l2"), "lpips": LossSettings(name="lpips", lpips=perceptual)}
    metrics = {name: make_loss(settings, spec, torch.device("cpu")) for name, settings in losses.items()}
    rows = []
    for name, told in runs(a.work, teacher, lpips).items():
        out = a.work / name
        command = ["train", "--pairs", str(pairs), *budget, *told, "--out", str(out)]
        edgedit(*command)
        info = open_artifact(out).manifest.info
        named = [Path(word).name if word == a.lpips_weights else word for word in command]
        row = {"run": name, "command": shlex.join(["edgedit", *named]), "parameters": info["parameters"],
               "wall_s": round(info["wall_s"], 1), "images_seen": info["images_seen"], "terms": terms(out),
               "held_out": held_out(out, data, metrics), "guidance": usual_guidance(info)}
        if a.classifier:
            judged = a.work / f"judged-{name}"
            edgedit("evaluate", str(out), "--metrics", "accuracy", "--count", str(a.images), "--classifier", a.classifier,
                    "--guidance", str(row["guidance"]), "--out", str(judged))
            scores = json.loads((judged / "evaluation.json").read_text())["metrics"]
            row["accuracy"] = next({k: m[k] for k in ("value", "uncertainty", "images")} for m in scores if m["metric"] == "accuracy")
        rows.append(row)
        print(json.dumps({k: v for k, v in row.items() if k != "command"}), flush=True)
    draw(a.work, data)
    facts = open_artifact(teacher).manifest.info
    teaching = {k: facts.get(k) for k in ("label", "parameters", "step", "images_seen", "wall_s", "final_loss")}
    body = {"teacher": teaching, "pairs": a.pairs, "steps": a.steps, "batch": a.batch, "torch": torch.__version__, "rows": rows}
    a.results.write_text(json.dumps(body, indent=1) + "\n")
    print(f"\nwrote {a.results}")


def load_spec(data: PairSet) -> Any:
    """A design for the loss to know the images by."""
    from edgedit.distill.settings import ModelSettings

    return ModelSettings().spec(data.shape, data.classes)


if __name__ == "__main__":
    main()

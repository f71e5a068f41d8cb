"""What LPIPS at 64 or 32 pixels, in bf16, or with average pooling does to its ranking of distortions, against 224 as GET trains.

    python benchmarks/lpips_ranking.py --images PATH --weights FILE [--net squeeze] [--count 256] > ranking.json

Each image is distorted in 18 ways; a metric gives each distortion a distance. Three figures compare a metric with LPIPS at 224,
max pooling, fp32: `ranks_of_means`, Spearman's correlation of the distortions' mean distances; `ranks_per_image`, the same for
each image, averaged; `order_agrees`, the share of (image, two distortions) that both order alike. `gradient_cosine` is the mean
cosine between the two metrics' gradients at the distorted images: what a student would be told. L1 and L2 stand beside them as
a scale. --images: a folder as for `edgedit pairs --data`, its test split (CIFAR-10's `cifar-10-batches-py`, say). Prints one JSON
object, and that nothing was measured without --images and --weights.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from edgedit.core.pairset import to_float, to_uint8
from edgedit.distill.losses import Loss, Pixel
from edgedit.distill.lpips import Lpips
from edgedit.distill.settings import LpipsSettings
from edgedit.teach.data import load_data

REFERENCE = "224"
BATCH = 32


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, borders reflected."""
    reach = max(1, round(3 * sigma))
    k = torch.exp(-torch.arange(-reach, reach + 1).float().square() / (2 * sigma**2))
    k = (k / k.sum()).expand(x.shape[1], 1, -1)
    x = F.conv2d(F.pad(x, (reach, reach, 0, 0), "reflect"), k.unsqueeze(2), groups=x.shape[1])
    return F.conv2d(F.pad(x, (0, 0, reach, reach), "reflect"), k.unsqueeze(3), groups=x.shape[1])


def jpeg(x: Tensor, quality: int) -> Tensor:
    """Through JPEG."""
    out = []
    for picture in to_uint8(x.numpy()):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
        out.append(np.asarray(Image.open(file)))
    return torch.from_numpy(to_float(np.stack(out)))


def noisy(x: Tensor, sigma: float) -> Tensor:
    """Gaussian noise; σ in units of [-1, 1]."""
    return x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def shifted(x: Tensor, pixels: int) -> Tensor:
    """To the right and down, borders repeated."""
    return F.pad(x, (pixels, 0, pixels, 0), "replicate")[..., : x.shape[-2], : x.shape[-1]]


def distortions() -> dict[str, Callable[[Tensor], Tensor]]:
    """(N, C, S, S) in [-1, 1] → the same, distorted, by name."""
    out: dict[str, Callable[[Tensor], Tensor]] = {}
    out |= {f"noise {s}": lambda x, s=s: noisy(x, s) for s in (0.02, 0.05, 0.1, 0.2)}
    out |= {f"blur {s}": lambda x, s=s: blur(x, s) for s in (0.5, 1.0, 2.0)}
    out |= {f"shift {n} px": lambda x, n=n: shifted(x, n) for n in (1, 2, 4)}
    out |= {f"contrast ×{k}": lambda x, k=k: (x - x.mean((1, 2, 3), keepdim=True)) * k + x.mean((1, 2, 3), keepdim=True)
            for k in (0.5, 0.8, 1.25)}
    out |= {f"JPEG {q}": lambda x, q=q: jpeg(x, q) for q in (10, 50)}
    return out | {"flip": lambda x: x.flip(3), "pixels ×2": lambda x: F.interpolate(F.avg_pool2d(x, 2), scale_factor=2),
                  "other image": lambda x: x.roll(1, 0)}


def ranks(x: np.ndarray) -> np.ndarray:
    """Ranks along the last axis (distances have no ties)."""
    return x.argsort(-1).argsort(-1)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation along the last axis, averaged over the others."""
    x, y = (r - r.mean(-1, keepdims=True) for r in (ranks(a).astype(float), ranks(b).astype(float)))
    return float(np.mean((x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1))))


def judge(metric: Loss, images: Tensor, distorted: dict[str, Tensor]) -> tuple[np.ndarray, Tensor]:
    """Distances (N, K), and their gradients at the first batch's distorted images (K·BATCH, pixels)."""
    out, gradients = np.empty((len(images), len(distorted))), []
    for start in range(0, len(images), BATCH):
        rows = slice(start, start + BATCH)
        target = metric.features(images[rows])
        for k, there in enumerate(distorted.values()):
            x = there[rows].clone().requires_grad_(start == 0)
            found = metric.distances(x, target)
            if start == 0:
                gradients.append(torch.autograd.grad(found.sum(), x)[0].flatten(1))
            out[rows, k] = found.detach().numpy()
    return out, torch.cat(gradients)


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Distances of all distortions by all metrics, and the figures of the module's text."""
    data = load_data(args.images, split="test", download=False)
    chosen = np.random.default_rng(0).choice(len(data), min(args.count, len(data)), replace=False)
    images = torch.from_numpy(to_float(data.images[np.sort(chosen)]))
    distorted = {name: change(images) for name, change in distortions().items()}

    def lpips(**options: Any) -> Lpips:
        return Lpips.load(LpipsSettings(net=args.net, weights=args.weights, **options))

    metrics: dict[str, Callable[[], Loss]] = {
        "224": lambda: lpips(resolution=224), "64": lambda: lpips(resolution=64), "32": lambda: lpips(resolution=32),
        "224, avg": lambda: lpips(resolution=224, pooling="avg"), "64, avg": lambda: lpips(resolution=64, pooling="avg"),
        "224, bf16": lambda: lpips(resolution=224, precision="bf16"), "64, bf16": lambda: lpips(resolution=64, precision="bf16"),
        "32, bf16": lambda: lpips(resolution=32, precision="bf16"), "l1": lambda: Pixel("l1"), "l2": lambda: Pixel("l2")}
    judged: dict[str, tuple[np.ndarray, Tensor]] = {}
    for name, make in metrics.items():
        metric = make()
        judged[name] = judge(metric, images, distorted)
        if name == REFERENCE:
            facts = metric.facts()
        print(f"{name}: done", file=sys.stderr)
    reference, gradient = judged[REFERENCE]
    pairs = list(itertools.combinations(range(len(distorted)), 2))
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    ahead = reference[:, first] > reference[:, second]
    return {
        "images": len(images), "data": data.name, "split": "test", "reference": facts, "distortions": list(distorted),
        "metrics": {name: {
            "ranks_of_means": round(spearman(d.mean(0), reference.mean(0)), 4), "ranks_per_image": round(spearman(d, reference), 4),
            "order_agrees": round(float(np.mean((d[:, first] > d[:, second]) == ahead)), 4),
            "gradient_cosine": round(F.cosine_similarity(g, gradient).mean().item(), 4)} for name, (d, g) in judged.items()},
        "mean_distance": {name: {k: float(f"{v:.4g}") for k, v in zip(distorted, d.mean(0), strict=True)}
                          for name, (d, _) in judged.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--net", default="squeeze", choices=("vgg", "alex", "squeeze"))
    parser.add_argument("--count", type=int, default=256)
    args = parser.parse_args()
    missing = args.images is None or args.weights is None
    result = {"not_measured": "give --images PATH and --weights FILE"} if missing else compare(args)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

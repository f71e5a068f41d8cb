"""What setup `guided` buys: its student's one pass against the two passes of its source, on noise that neither saw.

    python benchmarks/guided.py SOURCE STUDENT [--scale 1.5] [--images 1000] [--threads 1] [--out FILE]

SOURCE is the folder given to it as setup.student, STUDENT the one it made. Distances are to the source's guided image, all clipped
to [-1, 1]; times are of whole batches of 128, two passes and one in turn, as the median ratio of 20 rounds and the best of each.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from edgedit.core.noise import noise
from edgedit.model.checkpoint import load_student

RESULTS = Path(__file__).parent / "results" / "guided.json"
SEED, BATCH, ROUNDS = 1 << 41, 128, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("student", type=Path)
    parser.add_argument("--scale", type=float, default=1.5)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    (source, _, _), (student, _, facts) = load_student(a.source), load_student(a.student)
    s = source.spec
    z = torch.from_numpy(noise(SEED, range(a.images), (s.channels, s.image, s.image)))
    classes = torch.arange(a.images) % s.classes
    nothing = torch.full_like(classes, s.null_class)

    def all_of(images: Callable[[Tensor, Tensor], Tensor], labels: Tensor) -> Tensor:
        with torch.inference_mode():
            parts = [images(x, y).clamp(-1, 1) for x, y in zip(z.split(BATCH), labels.split(BATCH), strict=True)]
        return torch.cat(parts)

    def apart(one: Tensor, two: Tensor) -> dict[str, float]:
        mse = float((one - two).square().mean())
        return {"l1": float((one - two).abs().mean()), "mse": mse, "psnr_db": 10 * math.log10(4 / mse)}

    def seconds(images: Callable[[], Tensor]) -> float:
        with torch.inference_mode():
            start = time.perf_counter()
            images()
        return time.perf_counter() - start

    target = all_of(lambda x, y: source.guided(x, y, a.scale), classes)
    x, y = z[:BATCH], classes[:BATCH]
    rounds = [(seconds(lambda: source.guided(x, y, a.scale)), seconds(lambda: student(x, y))) for _ in range(ROUNDS + 4)][4:]
    body = {
        "design": s.label, "scale": a.scale, "images": a.images, "steps": facts["step"], "images_seen": facts["images_seen"],
        "source_one_pass": apart(all_of(source, classes), target), "student_one_pass": apart(all_of(student, classes), target),
        "without_class": apart(all_of(student, nothing), all_of(source, nothing)),
        "two_passes_over_one": {"median": statistics.median(two / one for two, one in rounds),
                                "best_ms_per_image": [1e3 * min(r[k] for r in rounds) / BATCH for k in (0, 1)]},
        "threads": a.threads, "torch": torch.__version__,
    }
    a.out.write_text(json.dumps(body, indent=1) + "\n")
    print(json.dumps(body, indent=1))


if __name__ == "__main__":
    main()

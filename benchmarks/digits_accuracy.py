"""Are the quickstart's digits of the class asked for, and do they differ from one another?

    python benchmarks/digits_accuracy.py runs/quickstart/bundle-fp32 [--count 1000] [--seed 5]

A support vector machine learns scikit-learn's training digits and reads the generated ones; its accuracy on held-out real digits
stands beside. `spread` is the mean distance between two digits of a class, generated over real: 1 is as varied as the data. Prints
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numpy.typing import NDArray
from sklearn.svm import SVC

from edgedit.core.noise import labels, noise
from edgedit.device.bundle import Bundle
from edgedit.device.runtime import open_runtime
from edgedit.teach.data import load_data


def _flat(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images.reshape(len(images), -1).astype(np.float32) / 255


def _spread(images: NDArray[np.float32], classes: NDArray[np.integer]) -> float:
    """Mean distance of two images of a class, over all classes."""
    means = []
    for k in np.unique(classes):
        x = images[classes == k][:100]
        squares = (x**2).sum(1)
        d = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * x @ x.T, 0))
        means.append(d.sum() / (len(x) * (len(x) - 1)))
    return float(np.mean(means))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", nargs="?", default="runs/quickstart/bundle-fp32")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=5)
    asked = parser.parse_args()
    bundle = Bundle.open(asked.bundle)
    side = bundle.spec.image
    real, held_out = load_data("digits", image=side), load_data("digits", image=side, split="test")
    reader = SVC(C=10).fit(_flat(real.images), real.labels)
    runtime = open_runtime(bundle)
    made, wanted = [], []
    for start in range(0, asked.count, bundle.batch):
        indices = np.arange(start, start + bundle.batch)
        classes = labels(asked.seed, indices, bundle.spec.classes)
        made.append(runtime.infer(noise(asked.seed, indices, bundle.noise_shape), classes))
        wanted.append(classes)
    runtime.close()
    images, classes = _flat(np.concatenate(made)[: asked.count]), np.concatenate(wanted)[: asked.count]
    print(json.dumps({
        "bundle": bundle.digest, "count": asked.count, "seed": asked.seed,
        "accuracy_generated": float((reader.predict(images) == classes).mean()),
        "accuracy_real_held_out": float(reader.score(_flat(held_out.images), held_out.labels)),
        "spread": round(_spread(images, classes) / _spread(_flat(real.images), real.labels), 3)}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

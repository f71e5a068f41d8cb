"""The first pairs of a set as a set of their own: `python -m edgedit.design.sweep.subset PAIRS --count N --out FOLDER`."""

from __future__ import annotations

import argparse
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedit.core.artifact import Manifest, create
from edgedit.core.errors import EdgeditError, UsageError
from edgedit.core.pairset import KIND, PairSet, image_file, label_file, noise_file


def first_pairs(source: str | Path, out: str | Path, count: int) -> Manifest:
    """Write the first `count` pairs of a set; teacher, sampler and seed stay those of the whole, which is the parent.

    Raises:
        UsageError: the set has fewer.
        ArtifactError: `source` is not a set of pairs, or a damaged one.
        OutputError: `out` cannot be written.
    """
    pairs = PairSet.open(source)
    if not 1 <= count <= len(pairs):
        raise UsageError(f"{source} cannot give {count} pairs", saw=f"it holds {len(pairs)}")
    size = int(pairs.info["shard_size"])
    with create(out, KIND) as draft:
        for shard, start in enumerate(range(0, count, size)):
            rows = np.arange(start, min(count, start + size))
            kept = pairs.artifact.file(label_file(shard))
            labels = pairs.labels(rows).astype(np.load(kept, mmap_mode="r", allow_pickle=False).dtype)
            draft.write(image_file(shard), _npy(pairs.images(rows)))
            draft.write(label_file(shard), _npy(labels))
            if pairs.info["noise"] == "stored":
                draft.write(noise_file(shard), _npy(pairs.noise(rows)))
        draft.info = {**pairs.info, "count": count}
        draft.parents, draft.settings = [pairs.artifact.as_parent("pairs")], {"first": count}
    if draft.manifest is None:
        raise EdgeditError(f"{out} was not written")
    return draft.manifest


def _npy(array: NDArray[Any]) -> bytes:
    stream = BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def main() -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m edgedit.design.sweep.subset", description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    try:
        first_pairs(given.pairs, given.out, given.count)
    except EdgeditError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

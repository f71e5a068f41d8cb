"""The first pairs of a set as a set of their own."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedit.core.artifact import MANIFEST, Manifest, create, open_artifact
from edgedit.core.errors import EdgeditError, OutputError, UsageError
from edgedit.core.pairset import KIND, PairSet, image_file, label_file, noise_file


def first_pairs(source: str | Path, out: str | Path, count: int) -> Manifest:
    """Write the first `count` pairs of a set; teacher, sampler and seed stay those of the whole, which is the parent.

    Returns the manifest; at once, checked, where `out` holds these very pairs.

    Raises:
        UsageError: the set has fewer.
        ArtifactError: `source` is not a set of pairs, or a damaged one.
        OutputError: `out` holds something else, or cannot be written.
    """
    pairs = PairSet.open(source)
    if (Path(out) / MANIFEST).is_file():
        there = open_artifact(out, KIND).manifest
        if there.settings == {"first": count} and [p.digest for p in there.parents] == [pairs.artifact.manifest.digest]:
            return there
        raise OutputError(f"{out} holds other pairs", saw=f"{there.info.get('count')} of {there.info.get('label')}",
                          fix="choose another --out")
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

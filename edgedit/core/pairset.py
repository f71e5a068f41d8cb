"""The format of teacher pairs on disk, read by training, calibration and evaluation.

An artifact of kind "pairs". Shard k holds images k·S … of the set: `images-00000.npy` uint8 (n, H, W, C) and
`labels-00000.npy` uint8 or uint16 (n,). Noise is not stored: pair i has `noise.noise(seed, [start + i], (C, H, W))`, or, for
imported pairs, `noise-00000.npy` float32 (n, C, H, W), unit Gaussian. `info` in the manifest:
`count, shard_size, image, channels, classes, class_names, noise ("seed" | "stored"), teacher, sampler`, and, of noise by seed,
`seed, start`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedit.core.artifact import Artifact, open_artifact
from edgedit.core.errors import ArtifactError
from edgedit.core.noise import noise

KIND = "pairs"
MAKE = "edgedit pairs --teacher ideal --data digits --count 4096 --out FOLDER"


def image_file(shard: int) -> str:
    """Name of a shard's images."""
    return f"images-{shard:05d}.npy"


def label_file(shard: int) -> str:
    """Name of a shard's labels."""
    return f"labels-{shard:05d}.npy"


def noise_file(shard: int) -> str:
    """Name of a shard's stored noise (imported pairs only)."""
    return f"noise-{shard:05d}.npy"


def to_float(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 (..., H, W, C) → float32 (..., C, H, W) in [-1, 1]: x/127.5 - 1, the inverse of `to_uint8` at its levels."""
    planes = np.moveaxis(images, -1, -3).astype(np.float32)
    planes *= np.float32(1 / 127.5)
    planes -= np.float32(1)
    return np.ascontiguousarray(planes)


def to_uint8(images: NDArray[np.floating]) -> NDArray[np.uint8]:
    """float (..., C, H, W) about [-1, 1] → uint8 (..., H, W, C): truncation of x·127.5 + 128, clipped (science.md §6)."""
    levels = np.clip(np.asarray(images, np.float32) * np.float32(127.5) + np.float32(128), 0, 255)
    return np.ascontiguousarray(np.moveaxis(levels.astype(np.uint8), -3, -1))


@dataclass(frozen=True)
class PairSet:
    """Noise–image pairs, memory-mapped. Open with `PairSet.open`."""

    artifact: Artifact

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True) -> PairSet:
        """Open and check a folder of pairs; `verify=False` skips the hashes (sizes, dtypes and shapes are always checked)."""
        pairs = cls(open_artifact(path, KIND, verify=verify, fix=MAKE))
        parts = [pairs._images, pairs._labels, *([pairs._noise] if pairs.info["noise"] == "stored" else [])]
        if sum(len(x) for x in pairs._images) != pairs.count or any(len({len(x) for x in shard}) > 1 for shard in zip(*parts, strict=True)):
            raise ArtifactError(f"{path}: the shards do not hold the {pairs.count} pairs that the manifest states", fix=MAKE)
        return pairs

    @property
    def info(self) -> dict[str, Any]:
        """Facts from the manifest."""
        return self.artifact.manifest.info

    @property
    def count(self) -> int:
        """Number of pairs."""
        return int(self.info["count"])

    def __len__(self) -> int:
        return self.count

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one noise sample, (C, H, W)."""
        return (self.info["channels"], self.info["image"], self.info["image"])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.info["classes"])

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in label order."""
        return list(self.info["class_names"])

    @cached_property
    def _images(self) -> list[NDArray[np.uint8]]:
        c, h, w = self.shape
        return [self._load(image_file(k), "u1", (h, w, c)) for k in range(self.shards)]

    @cached_property
    def _labels(self) -> list[NDArray[np.integer]]:
        return [self._load(label_file(k), "u", ()) for k in range(self.shards)]

    @cached_property
    def _noise(self) -> list[NDArray[np.float32]]:
        return [self._load(noise_file(k), "f4", self.shape) for k in range(self.shards)]

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.count // int(self.info["shard_size"]))

    def _load(self, name: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        file = self.artifact.file(name)
        try:
            array = np.load(file, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ArtifactError(f"{file} cannot be read as a .npy array", saw=error, fix=MAKE) from error
        if array.dtype.kind + str(array.dtype.itemsize) not in (dtype, dtype + "1", dtype + "2") or array.shape[1:] != shape:
            raise ArtifactError(f"{file} has the wrong dtype or shape", saw=f"{array.dtype} {array.shape}", fix=MAKE)
        return array

    def _gather(self, parts: list[NDArray[Any]], indices: NDArray[np.int64]) -> NDArray[Any]:
        size = int(self.info["shard_size"])
        out = np.empty((len(indices), *parts[0].shape[1:]), parts[0].dtype)
        shard = indices // size
        for k in np.unique(shard):
            rows = np.flatnonzero(shard == k)
            out[rows] = parts[k][indices[rows] - k * size]
        return out

    def images(self, indices: Any) -> NDArray[np.uint8]:
        """uint8 (N, H, W, C) of the pairs `indices`."""
        return self._gather(self._images, np.asarray(indices, np.int64))

    def labels(self, indices: Any) -> NDArray[np.int64]:
        """int64 (N,) of the pairs `indices`."""
        return self._gather(self._labels, np.asarray(indices, np.int64)).astype(np.int64)

    def noise(self, indices: Any) -> NDArray[np.float32]:
        """float32 (N, C, H, W), unit Gaussian, of the pairs `indices`."""
        indices = np.asarray(indices, np.int64)
        if self.info["noise"] == "stored":
            return self._gather(self._noise, indices)
        return noise(int(self.info["seed"]), indices + int(self.info["start"]), self.shape)

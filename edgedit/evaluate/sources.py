"""Where the images of an evaluation come from: arrays, pairs, folders; `generated` has the source that makes them.

Every source gives uint8 (n, H, W, C) by index, quantised once, by whoever made the images. Nothing is written, and memory
does not grow with the number of images.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgedit.core.artifact import Parent
from edgedit.core.errors import ArtifactError, UsageError
from edgedit.core.pairset import PairSet

ONCE = "uint8, once: trunc(x·127.5 + 128), clipped (science.md §6)"
IMAGE_FILES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm")
LOSSY = (".jpg", ".jpeg", ".webp")
ARRAYS = ("images", "arr_0", "samples")
"""Names under which an .npz may hold images: this tool's, ADM's, others'."""
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_NUMBERED = re.compile(r"\d+-(.+)")


class Source(Protocol):
    """Images by index.

    Attributes:
        name: for messages and names of protocols.
        count: how many there are.
        class_names: in label order; () where images have no labels.
        parents: artifacts that the images come from.
        stored: whether the images lie somewhere, perhaps sorted by class, and are not made from their index.
        identity: plain facts that tell this source from any other; part of the record.
    """

    name: str
    count: int
    class_names: tuple[str, ...]
    parents: tuple[Parent, ...]
    stored: bool

    @property
    def identity(self) -> dict[str, Any]: ...

    def labels(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 (n,); only of sources with class names."""

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 (n, H, W, C), C = 1 or 3."""


@dataclass(frozen=True)
class ArraySource:
    """Images in memory: a data set, or a .npz file of images.

    Attributes:
        array: uint8 (N, H, W, C).
        targets: integers (N,), or None.
        facts: where they are from: "origin", "split", "sha256" …
    """

    name: str
    array: NDArray[np.uint8]
    targets: NDArray[np.integer] | None = None
    class_names: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    parents: tuple[Parent, ...] = ()
    stored: bool = True

    def __post_init__(self) -> None:
        if self.array.dtype != np.uint8 or self.array.ndim != 4 or self.array.shape[3] not in (1, 3) or not len(self.array):
            raise UsageError(f"'{self.name}' does not hold images", saw=f"{self.array.dtype} {self.array.shape}",
                             fix="needed is uint8 (N, H, W, C) with C = 1 or 3")
        if self.targets is not None and (self.targets.shape != (self.count,) or self.targets.dtype.kind not in "iu"):
            raise UsageError(f"'{self.name}' needs one whole number for each image as its label", saw=self.targets.shape)

    @property
    def count(self) -> int:  # type: ignore[override]
        """Number of images."""
        return len(self.array)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Facts, with a hash of the images where the facts have none."""
        facts = {"kind": "images", "name": self.name, "count": self.count, **self.facts}
        if "sha256" not in facts:
            digest = hashlib.sha256(repr(self.array.shape).encode())
            digest.update(np.ascontiguousarray(self.array).data)
            facts["sha256"] = digest.hexdigest()
        return facts

    def labels(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 (n,)."""
        if self.targets is None:
            raise UsageError(f"'{self.name}' has no labels")
        return self.targets[indices].astype(np.int64)

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 (n, H, W, C)."""
        return self.array[indices]


class PairSource:
    """The images of a teacher: those of a set of pairs."""

    stored = True

    def __init__(self, pairs: PairSet) -> None:
        self.pairs, self.count, self.class_names = pairs, pairs.count, tuple(pairs.class_names)
        self.name = f"pairs of {pairs.info.get('label', 'a teacher')}"
        self.parents = (pairs.artifact.as_parent("pairs"),)

    @property
    def identity(self) -> dict[str, Any]:
        """Digest of the pairs, and who made them how."""
        info = {k: self.pairs.info.get(k) for k in ("label", "seed", "start", "teacher", "sampler")}
        return {"kind": "pairs", "name": self.name, "count": self.count, "digest": self.pairs.artifact.manifest.digest,
                "quantisation": ONCE, **info}

    def labels(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 (n,)."""
        return self.pairs.labels(indices)

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 (n, H, W, C)."""
        return self.pairs.images(indices)


class FolderSource:
    """A folder of images of one size: loose files, or one subfolder per class; names such as `generate --save-dir` writes
    ("000017-cat.png") give classes too.

    Args:
        path: the folder.
        class_names: the label order that is wanted, if it has all classes found; else these, sorted.

    Raises:
        UsageError: no images there.
    """

    stored = True

    def __init__(self, path: str | Path, class_names: Sequence[str] = ()) -> None:
        self.path = Path(path)
        self.name, self.parents = self.path.resolve().name, ()
        self.files = sorted(f for f in self.path.rglob("*") if f.suffix.lower() in IMAGE_FILES and not f.name.startswith("."))
        if not self.files:
            raise UsageError(f"{self.path} holds no images", saw=sorted(p.name for p in self.path.iterdir())[:6],
                             fix=f"files of type {', '.join(IMAGE_FILES)}")
        self.count = len(self.files)
        self.lossy = sum(f.suffix.lower() in LOSSY for f in self.files)
        words = [self._class(f) for f in self.files]
        found = tuple(sorted({w for w in words if w is not None})) if None not in words else ()
        self.class_names = tuple(class_names) if found and set(found) <= set(class_names) else found
        self._targets = np.array([self.class_names.index(str(w)) for w in words], np.int64) if found else None

    def _class(self, file: Path) -> str | None:
        if file.parent != self.path:
            return file.relative_to(self.path).parts[0]
        match = _NUMBERED.fullmatch(file.stem)
        return match[1] if match else None

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Hash of all names and bytes: each file is read once for it."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{file.relative_to(self.path).as_posix()}\0{file.stat().st_size}\0".encode())
            digest.update(file.read_bytes())
        return {"kind": "folder", "name": self.name, "count": self.count, "sha256": digest.hexdigest(), "lossy_files": self.lossy}

    def labels(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 (n,)."""
        if self._targets is None:
            raise UsageError(f"the images of {self.path} have no labels",
                             fix="one subfolder per class, or names such as 000017-cat.png")
        return self._targets[indices]

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 (n, H, W, C); ArtifactError for a file that is no image, UsageError for one of another size."""
        made = [_read(self.files[i]) for i in indices.tolist()]
        channels = max(x.shape[2] for x in made)
        made = [np.repeat(x, 3, axis=2) if x.shape[2] < channels else x for x in made]
        odd = next((i for i, x in enumerate(made) if x.shape != made[0].shape), None)
        if odd is not None:
            first, other = self.files[indices[0]].name, self.files[indices[odd]].name
            raise UsageError(f"the images of {self.path} differ in size", fix="bring them to one size first: it is part of the protocol",
                             saw=f"{first}: {made[0].shape[:2]}, {other}: {made[odd].shape[:2]}")
        return np.stack(made)


def _read(file: Path) -> NDArray[np.uint8]:
    """uint8 (H, W, 1 or 3), as stored: no resize, no rotation; transparency is refused."""
    from PIL import Image

    try:
        with Image.open(file) as picture:
            if "A" in picture.getbands() or "transparency" in picture.info or picture.mode.startswith(("I", "F")):
                raise ArtifactError(f"{file} is not an image of 8 bits a channel without transparency", saw=f"mode {picture.mode}")
            array = np.asarray(picture if picture.mode in ("L", "RGB") else picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ArtifactError(f"{file} cannot be read as an image", saw=error, fix="replace it or take it out of the folder") from error
    return array[..., None] if array.ndim == 2 else array


def npz_source(file: Path, class_names: Sequence[str] = ()) -> ArraySource:
    """Images, and labels if there are some, of an .npz such as `generate --npz` writes.

    Args:
        file: with an array of one of the names `ARRAYS`, and perhaps "labels".
        class_names: used where the labels fit into them; else they are called by their numbers.

    Raises:
        ArtifactError: no .npz, or none of images.
    """
    try:
        with np.load(file, allow_pickle=False) as body:
            key = next((k for k in ARRAYS if k in body.files), None)
            if key is None:
                raise ArtifactError(f"{file} holds no images", saw=body.files, fix="needed is an array 'images', uint8 (N, H, W, C)")
            images, labels = body[key], body.get("labels")
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{file} cannot be read as an .npz of images", saw=error) from error
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu" or not labels.size:
        return ArraySource(file.name, images)
    classes = int(labels.max()) + 1
    return ArraySource(file.name, images, labels, tuple(class_names) if classes <= len(class_names) else tuple(map(str, range(classes))))


def choose(source: Source, count: int | None, seed: int) -> NDArray[np.int64]:
    """int64 (n,), rising: all indices of a source, or `count` of them.

    A generator's are its first; of stored images a random subset, because those may be sorted by class.

    Raises:
        UsageError: the source holds fewer.
    """
    if count is not None and count > source.count:
        raise UsageError(f"{source.name} holds {source.count:,} images", saw=f"{count:,} asked for", fix=f"--count {source.count}")
    if count is None or count == source.count or not source.stored:
        return np.arange(source.count if count is None else count)
    return np.sort(np.random.RandomState(seed).permutation(source.count)[:count]).astype(np.int64)


def rgb(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (n, H, W, 1 or 3) → (n, H, W, 3): grey repeated."""
    return np.repeat(images, 3, axis=3) if images.shape[3] == 1 else images

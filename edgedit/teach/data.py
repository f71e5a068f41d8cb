"""Image data sets that a teacher can teach: digits, CIFAR-10, or a folder of images by class."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedit.core.errors import ArtifactError, MissingError, UsageError, did_you_mean
from edgedit.core.say import Event, Say, silent
from edgedit.teach import cifar

NAMES = ("digits", "cifar10")
SPLITS = ("train", "test")
IMAGE_FILES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm")
_DIGITS_TEST = 360  # the last fifth of scikit-learn's 1,797 digits


@dataclass(frozen=True)
class ImageSet:
    """Labelled images in memory.

    Attributes:
        name: "digits", "cifar10" or the folder's name.
        images: uint8 (N, H, W, C), H = W, C = 1 or 3.
        labels: int64 (N,), 0 … len(class_names) - 1; every class has at least one image.
        class_names: names in label order.
        source: where it came from: "origin" (a path, address or package) and "split".
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    source: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, classes = len(self.images), len(self.class_names)
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[1] != self.images.shape[2]:
            raise UsageError("an ImageSet needs square images, uint8 (N, H, W, C)", saw=(self.images.dtype, self.images.shape))
        good = self.labels.shape == (n,) and self.labels.dtype == np.int64
        if not good or (n and not 0 <= self.labels.min() <= self.labels.max() < classes):
            raise UsageError(f"an ImageSet of {n} images needs as many int64 labels of 0 … {classes - 1}", saw=self.labels)
        if empty := [self.class_names[k] for k in np.flatnonzero(np.bincount(self.labels, minlength=classes) == 0)]:
            raise UsageError(f"data set '{self.name}' has no image of: {', '.join(empty)}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image as networks see it, (C, H, W)."""
        _, h, w, c = self.images.shape
        return (c, h, w)

    @cached_property
    def sha256(self) -> str:
        """Hash of shape, images, labels and class names: the identity of the content, wherever it lies."""
        digest = hashlib.sha256(repr((self.images.shape, self.class_names)).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()


def load_data(source: str | Path, *, image: int | None = None, split: str = "train", cache: Path | None = None,
              download: bool = True, say: Say = silent) -> ImageSet:
    """Load an image data set.

    Args:
        source: "digits" (scikit-learn's 8×8 digits), "cifar10" (cache, or download), or a path: the unpacked folder
            `cifar-10-batches-py`, its .tar.gz, or a folder with one subfolder of images per class (in `train/` and `test/`
            if there is a split).
        image: side to bring the images to; default 16 for digits, 32 for the rest.
        split: "train" or "test".
        cache: where downloads are kept; default the platform's cache folder or $EDGEDIT_CACHE.
        download: False never touches the network.

    Raises:
        UsageError: unknown name or split, a folder without classes.
        MissingError: not downloadable, or scikit-learn is not installed.
        ArtifactError: a file is truncated, malformed, or not an image.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split '{split}'", fix=did_you_mean(split, SPLITS))
    if image is not None and not 4 <= image <= 1024:
        raise UsageError("the image side must be in 4 … 1024 pixels", saw=image)
    if source == "digits":
        return _digits(image or 16, split)
    if source == "cifar10":
        return _cifar10(cifar.download_cifar10(cache, download=download, say=say), cifar.URL, image or 32, split)
    path = Path(source).expanduser()
    if not path.exists():
        raise UsageError(f"no data set '{source}'", saw="neither a known name nor a path that exists",
                         fix=did_you_mean(str(source), NAMES) + ", or the path of a folder of images by class")
    if (found := cifar.find_cifar10(path)) is not None:
        return _cifar10(found, str(found), image or 32, split)
    if not path.is_dir():
        raise UsageError(f"{path} is not a data set",
                         fix="pass digits, cifar10, cifar-10-python.tar.gz, or a folder of images by class")
    return _folder(path, image or 32, split, say)


def _digits(side: int, split: str) -> ImageSet:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingError("the digits come with scikit-learn, which is not installed",
                           fix="pip install 'edgedit[host]', or --data PATH with images of your own") from error
    values, labels = load_digits(return_X_y=True)
    part = slice(None, -_DIGITS_TEST) if split == "train" else slice(-_DIGITS_TEST, None)
    grey = values[part].reshape(-1, 8, 8) * (255 / 16)  # values 0 … 16
    images = np.stack([_resize_grey(x, side) for x in grey])[..., None]
    return ImageSet("digits", images, labels[part].astype(np.int64), tuple("0123456789"),
                    {"origin": "scikit-learn load_digits (UCI optical recognition of handwritten digits)", "split": split})


def _resize_grey(grey: NDArray[np.float64], side: int) -> NDArray[np.uint8]:
    """float (h, w) of 0 … 255 → uint8 (side, side): bicubic in floating point, its overshoot clipped, rounded once."""
    from PIL import Image

    larger = Image.fromarray(grey.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    return np.clip(np.rint(np.asarray(larger)), 0, 255).astype(np.uint8)


def _cifar10(path: Path, origin: str, side: int, split: str) -> ImageSet:
    images, labels, names = cifar.read_cifar10(path, split)
    if side != images.shape[1]:
        from PIL import Image

        images = np.stack([np.asarray(Image.fromarray(x).resize((side, side), Image.Resampling.LANCZOS)) for x in images])
    return ImageSet("cifar10", np.ascontiguousarray(images), labels, tuple(names), {"origin": origin, "split": split})


def _folder(path: Path, side: int, split: str, say: Say) -> ImageSet:
    """One subfolder per class, names sorted; other files are left alone."""
    root = path / split if (path / "train").is_dir() else path
    if not root.is_dir() or (root is path and split == "test"):
        raise UsageError(f"{path} has no test split", fix=f"put its images into {path / 'train'} and {path / 'test'}, by class")
    classes = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    files = [(k, f) for k, folder in enumerate(classes) for f in sorted(folder.iterdir())
             if f.suffix.lower() in IMAGE_FILES and not f.name.startswith(".")]
    if not files:
        raise UsageError(f"{root} holds no images by class", saw=sorted(p.name for p in root.iterdir())[:6],
                         fix=f"one subfolder per class with {', '.join(IMAGE_FILES)} files, such as {root / 'cat' / '001.png'}")
    images = np.empty((len(files), side, side, 3), np.uint8)
    for i, (_, file) in enumerate(files):
        images[i] = _read_image(file, side)
        if i % 1000 == 999:
            say(Event(f"read {path.name}", i + 1, len(files), unit="images"))
    labels = np.array([k for k, _ in files], np.int64)
    names = tuple(p.name for p in classes)
    return ImageSet(path.resolve().name, images, labels, names, {"origin": os.fspath(path), "split": split})


def _read_image(file: Path, side: int) -> NDArray[np.uint8]:
    """uint8 (side, side, 3): upright, transparency over white, the middle square, Lanczos."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as opened:
            picture = ImageOps.exif_transpose(opened)
            if "A" in picture.getbands() or "transparency" in picture.info:
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            square = ImageOps.fit(picture.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ArtifactError(f"{file} cannot be read as an image", saw=error,
                            fix="replace it or take it out of the folder") from error
    return np.asarray(square)

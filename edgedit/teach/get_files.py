"""GET's pair files, read and checked: `latent/*.pkl` and `image/*.pkl` of torch.save (science.md §5).

A latent file is the list [z, one-hot classes], the image file of the same name the sampler's raw output. They are pickles, so they
are read with `weights_only=True`, which builds tensors and lists and refuses everything else. Before torch 2.6 a tar archive could
get round that (CVE-2025-32434): only the two formats that torch.save has written since 2018 are let through to it.
"""

from __future__ import annotations

import math
import pickle
import re
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgedit.core.errors import ArtifactError, NumericsError
from edgedit.core.files import sha256_file

LATENT, IMAGE = "latent", "image"
_ZIP, _LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the second: torch's magic number, pickled
_MALFORMED = (RuntimeError, EOFError, OSError, ValueError, TypeError, LookupError, AttributeError, AssertionError, OverflowError,
              MemoryError, struct.error, zipfile.BadZipFile)
_ROWS = 512  # looked at together: 6 MB of noise, so that a check needs little memory beside the file
_REACH, _FAR, _SHARE = 1.2, 2.0, 1e-3  # images: at most this share of values beyond ±1.2, none beyond ±2
_AGAIN = "fetch it again from where it is published"
LAYOUT = "needed is a folder with latent/ and image/, files of the same names in both, such as latent/000012499.pkl and image/000012499.pkl"


@dataclass(frozen=True)
class Block:
    """A latent file and its image file: `rows` pairs, checked.

    Attributes:
        latent, image: the files.
        shape: (C, H, W) of one image and of its noise.
        classes: length of the one-hot rows.
        sha256: of the two files.
    """

    latent: Path
    image: Path
    rows: int
    shape: tuple[int, int, int]
    classes: int
    sha256: tuple[str, str]

    def load(self) -> tuple[Tensor, Tensor, Tensor]:
        """(noise (N, C, H, W) as stored, one-hot classes (N, K), images (N, C, H, W)); from zip files mapped, not read."""
        z, classes = _latent(self.latent)
        return z, classes, _tensor(read_saved(self.image), self.image, "images")


def find_blocks(folder: Path) -> list[tuple[Path, Path]]:
    """(latent file, image file) in the order of the numbers in their names.

    Raises:
        ArtifactError: no such folders, no files, a name that is no number, or a file without its partner.
    """
    if lacking := [name for name in (LATENT, IMAGE) if not (folder / name).is_dir()]:
        raise ArtifactError(f"{folder} holds no pair files as GET publishes them", fix=LAYOUT, saw=f"no folder {' or '.join(lacking)}")
    files = {name: {f.name: f for f in (folder / name).iterdir() if f.suffix == ".pkl"} for name in (LATENT, IMAGE)}
    if alone := sorted(files[LATENT].keys() ^ files[IMAGE].keys()):
        first = alone[0]
        where, other = (LATENT, IMAGE) if first in files[LATENT] else (IMAGE, LATENT)
        raise ArtifactError(f"{folder / where / first} has no partner {folder / other / first}", fix="fetch the missing files",
                            saw=f"{len(alone)} of {len(files[LATENT].keys() | files[IMAGE].keys())} files alone")
    if not files[LATENT]:
        raise ArtifactError(f"{folder / LATENT} holds no .pkl files", fix=LAYOUT)
    if strange := sorted(name for name in files[LATENT] if not re.fullmatch("[0-9]+", Path(name).stem)):
        raise ArtifactError(f"{folder / LATENT / strange[0]} has a name that is no number", fix=LAYOUT,
                            saw="pair files are numbered by their last seed, which is their order")
    names = sorted(files[LATENT], key=lambda name: int(Path(name).stem))
    for name, following in pairwise(names):
        if int(Path(name).stem) == int(Path(following).stem):
            raise ArtifactError(f"{folder / LATENT} holds one number twice", saw=f"{name} and {following}", fix="remove one of them")
    return [(files[LATENT][name], files[IMAGE][name]) for name in names]


def check_block(latent: Path, image: Path, noise_scale: float) -> Block:
    """Hash and read two files, and check every value of them.

    Raises:
        ArtifactError: damaged, refused, of other content or shapes, noise of another scale, images outside about [-1, 1], rows
            that are not one-hot.
        NumericsError: NaN or infinity.
    """
    z, classes = _latent(latent)
    images = _tensor(read_saved(image), image, "images")
    n = len(z)
    if z.ndim != 4 or not n or 0 in z.shape or z.shape[2] != z.shape[3]:
        raise ArtifactError(f"{latent}: the noise has no shape of images", saw=tuple(z.shape), fix="needed is (N, C, S, S)")
    if images.shape != z.shape:
        raise ArtifactError(f"{image} does not fit its noise", saw=f"images {tuple(images.shape)}, noise {tuple(z.shape)}", fix=_AGAIN)
    if classes.ndim != 2 or len(classes) != n or not 1 <= classes.shape[1] <= 1 << 16:
        raise ArtifactError(f"{latent}: the classes do not fit the noise", fix="needed is one-hot (N, classes)",
                            saw=f"classes {tuple(classes.shape)}, noise {tuple(z.shape)}")
    _check_noise(z, latent, noise_scale)
    _check_classes(classes, latent)
    _check_images(images, image)
    c, h, w = z.shape[1:]
    return Block(latent, image, n, (c, h, w), classes.shape[1], (sha256_file(latent), sha256_file(image)))


# --- reading ----------------------------------------------------------------------------------------------------------------


def read_saved(file: Path) -> Any:
    """What torch.save put into a file, if it is tensors, lists and numbers; nothing in the file is run.

    Zip files are mapped, not read; older ones are read whole.

    Raises:
        ArtifactError: not there, truncated, another format, or asking for more than tensors (what for is named).
    """
    try:
        with file.open("rb") as stream:
            head = stream.read(len(_LEGACY))
        if head[:4] == _ZIP:
            _check_zip(file)
        elif head != _LEGACY:
            raise ArtifactError(f"{file} is not a file of torch.save", saw=f"it begins with {head[:8]!a}", fix=_AGAIN)
        return torch.load(str(file), map_location="cpu", weights_only=True, mmap=head[:4] == _ZIP)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)|Unsupported (?:class|operand) ([\w.]+)", str(error))
        raise ArtifactError(f"{file} is refused: it asks for more than tensors and lists",
                            saw=f"'{wanted[1] or wanted[2]}'" if wanted else str(error)[:200],
                            fix="do not open it with other tools; fetch it again from where it is published") from None
    except _MALFORMED as error:
        raise ArtifactError(f"{file} cannot be read as a file of torch.save", fix=f"it is truncated or damaged; {_AGAIN}",
                            saw=f"{type(error).__name__}: {str(error)[:200]}".partition("\n")[0]) from error


def _check_zip(file: Path) -> None:
    """A truncated archive has no directory; packed entries, which torch never writes, could be of any size."""
    with zipfile.ZipFile(file) as archive:
        if packed := [e.filename for e in archive.infolist() if e.compress_type != zipfile.ZIP_STORED or e.file_size != e.compress_size]:
            raise ValueError(f"{len(packed)} compressed entries")


def _latent(file: Path) -> tuple[Tensor, Tensor]:
    content = read_saved(file)
    if isinstance(content, Tensor):
        raise ArtifactError(f"{file} holds noise without classes: the unconditional pairs", saw=f"a tensor of shape {tuple(content.shape)}",
                            fix="students here are told a class; needed are the pairs of GET's conditional generator, [z, one-hot]")
    if not isinstance(content, (list, tuple)) or len(content) != 2:
        raise ArtifactError(f"{file} holds something else than [z, one-hot classes]", fix=LAYOUT,
                            saw=f"a {type(content).__name__}" + (f" of {len(content)}" if isinstance(content, (list, tuple)) else ""))
    z, classes = content
    return _tensor(z, file, "noise"), _tensor(classes, file, "classes", (*_FLOATS, torch.int64, torch.uint8))


_FLOATS = (torch.float32, torch.float64)


def _tensor(value: Any, file: Path, what: str, types: tuple[torch.dtype, ...] = _FLOATS) -> Tensor:
    """A plain tensor that names no number of its file twice: with strides of 0, a small file could be of any size in memory."""
    if type(value) is not Tensor or value.layout != torch.strided or value.device.type != "cpu":
        raise ArtifactError(f"{file} holds no plain tensor of {what}", saw=f"a {type(value).__name__}", fix=LAYOUT)
    if value.dtype not in types:
        raise ArtifactError(f"{file} holds {what} of another type", saw=value.dtype, fix=f"needed is {' or '.join(map(str, types[:2]))}")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ArtifactError(f"{file} is refused: it holds fewer numbers than it makes {what} of", fix=_AGAIN,
                            saw=f"shape {tuple(value.shape)}, strides {value.stride()}")
    return value.detach()


# --- values -----------------------------------------------------------------------------------------------------------------


def _pieces(values: Tensor) -> Iterator[NDArray[Any]]:
    for rows in values.split(_ROWS):
        yield rows.numpy()


def _check_finite(piece: NDArray[Any], file: Path, what: str) -> None:
    if not np.isfinite(piece).all():
        raise NumericsError(f"{file}: the {what} hold NaN or infinity", saw=f"{int((~np.isfinite(piece)).sum())} such values",
                            fix=_AGAIN)


def _check_noise(z: Tensor, file: Path, scale: float) -> None:
    """Mean 0 and standard deviation `scale`, within 2 % and five standard errors."""
    total = squares = 0.0
    for piece in _pieces(z):
        _check_finite(piece, file, "noise")
        total += float(piece.sum(dtype=np.float64))
        squares += float(np.square(piece, dtype=np.float64).sum())
    n = z.numel()
    mean, deviation = total / n, math.sqrt(max(0.0, squares / n - (total / n) ** 2))
    near = 0.02 + 5 / math.sqrt(n)
    if abs(deviation / scale - 1) <= near and abs(mean / scale) <= near:
        return
    fix = f"needed is noise of mean 0 and standard deviation {scale:g}"
    if scale == 1 and abs(deviation / 80 - 1) <= near:
        fix = "these files keep the noise times sigma_max = 80, as KDM's do and GET's do not: --noise-scale 80"
    elif scale != 1 and abs(deviation - 1) <= near:
        fix = "these files keep unit Gaussians, as GET does: leave out --noise-scale"
    raise ArtifactError(f"{file}: the noise has another scale", saw=f"standard deviation {deviation:.4g}, mean {mean:.3g}", fix=fix)


def _check_classes(classes: Tensor, file: Path) -> None:
    for piece in _pieces(classes):
        good = ((piece == 0) | (piece == 1)).all(1) & (piece.sum(1) == 1)
        if not good.all():
            row = piece[int(np.flatnonzero(~good)[0])]
            raise ArtifactError(f"{file}: {int((~good).sum())} rows of the classes are not one-hot", fix=_AGAIN,
                                saw=np.array2string(row[:12], precision=3))


def _check_images(images: Tensor, file: Path) -> None:
    low, high, outside = math.inf, -math.inf, 0
    for piece in _pieces(images):
        _check_finite(piece, file, "images")
        low, high = min(low, float(piece.min())), max(high, float(piece.max()))
        outside += int((np.abs(piece) > _REACH).sum())
    if max(-low, high) > _FAR or outside > _SHARE * images.numel():
        raise ArtifactError(f"{file}: the images are not about [-1, 1]", fix="needed is the sampler's raw output",
                            saw=f"{low:.3g} … {high:.3g}, {outside} values beyond ±{_REACH}")
    if low >= 0:
        raise ArtifactError(f"{file}: the images have no value below 0", saw=f"{low:.3g} … {high:.3g}: [0, 1], it seems",
                            fix="needed is the sampler's raw output, about [-1, 1]")

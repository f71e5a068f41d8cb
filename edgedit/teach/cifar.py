"""CIFAR-10 in its published form: the "python version" batches, from a folder, from the archive, or downloaded.

Source: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009;
https://www.cs.toronto.edu/~kriz/cifar.html states the layout and the archive's MD5.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgedit.core.cache import cache_folder
from edgedit.core.errors import ArtifactError, MissingError
from edgedit.core.say import Say, silent
from edgedit.teach.fetch import fetch
from edgedit.teach.unpickle import read_pickle

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"
ARCHIVE = "cifar-10-python.tar.gz"
FOLDER = "cifar-10-batches-py"
BATCHES = {"train": tuple(f"data_batch_{k}" for k in range(1, 6)), "test": ("test_batch",)}
_META = "batches.meta"
_LIMIT = 64 << 20  # bytes of one batch; the published ones have 31 MB
_AGAIN = f"download {URL} (md5 {MD5}) and pass its path"


def find_cifar10(path: Path) -> Path | None:
    """The batches' folder or archive that `path` names, or None if it is something else."""
    if path.is_file() and path.name.endswith((".tar.gz", ".tgz", ".tar")):
        return path
    return next((folder for folder in (path, path / FOLDER) if (folder / _META).is_file()), None)


def download_cifar10(cache: Path | None, *, download: bool = True, say: Say = silent) -> Path:
    """The archive in the cache, downloaded if it is not there (170 MB); MissingError without network."""
    file = (cache or cache_folder()) / ARCHIVE
    if not download and not file.is_file():
        raise MissingError(f"CIFAR-10 is not in the cache ({file})", fix=_AGAIN)
    fix = f"{_AGAIN}: --data PATH/{ARCHIVE}, or the unpacked folder: --data PATH/{FOLDER}"
    return fetch(URL, file, md5=MD5, fix=fix, say=say)


def read_cifar10(path: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    """Read one split, in the published order.

    Args:
        path: the folder `cifar-10-batches-py` or the archive.
        split: "train" (five batches) or "test".

    Returns:
        Images uint8 (N, 32, 32, 3), RGB; labels int64 (N,); the ten class names.

    Raises:
        ArtifactError: a batch is missing, truncated, malformed, or asks for code to be run.
    """
    names = BATCHES[split]
    files = _from_folder(path, [_META, *names]) if path.is_dir() else _from_archive(path, [_META, *names])
    classes = _class_names(files[_META], f"{path}/{_META}")
    images, labels = zip(*(_batch(files[n], f"{path}/{n}", len(classes)) for n in names), strict=True)
    return np.concatenate(images), np.concatenate(labels), classes


def _batch(raw: bytes, name: str, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    body = read_pickle(raw, name)
    data, labels = body.get("data"), body.get("labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072 or not len(data):
        raise ArtifactError(f"{name} holds no CIFAR images", saw=f"data: {getattr(data, 'dtype', type(data).__name__)} "
                            f"{getattr(data, 'shape', '')}, needed is uint8 (N, 3072)", fix=_AGAIN)
    if not isinstance(labels, list) or len(labels) != len(data) or not all(type(x) is int and 0 <= x < classes for x in labels):
        raise ArtifactError(f"{name} does not hold one label of 0 … {classes - 1} for each of its {len(data)} images",
                            fix=_AGAIN)
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(labels, np.int64)


def _class_names(raw: bytes, name: str) -> list[str]:
    names = read_pickle(raw, name).get("label_names")
    if not isinstance(names, list) or len(names) != 10 or not all(isinstance(n, (str, bytes)) for n in names):
        raise ArtifactError(f"{name} does not hold CIFAR-10's ten class names", saw=str(names)[:200], fix=_AGAIN)
    return [n.decode("utf-8", "replace") if isinstance(n, bytes) else n for n in names]


def _from_folder(folder: Path, names: list[str]) -> dict[str, bytes]:
    files = {}
    for name in names:
        file = folder / name
        if not file.is_file():
            raise ArtifactError(f"{folder} lacks '{name}'", saw=sorted(p.name for p in folder.iterdir())[:10], fix=_AGAIN)
        if file.stat().st_size > _LIMIT:
            raise ArtifactError(f"{file} is too large for a CIFAR-10 batch", saw=f"{file.stat().st_size} bytes", fix=_AGAIN)
        files[name] = file.read_bytes()
    return files


def _from_archive(archive: Path, names: list[str]) -> dict[str, bytes]:
    """The named members, read in one pass and never written to disk."""
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r|*") as tar:
            for member in tar:
                name = Path(member.name).name
                if member.isfile() and name in names and member.size <= _LIMIT and (stream := tar.extractfile(member)):
                    files[name] = stream.read()
                if len(files) == len(names):
                    break
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, OSError) as error:
        raise ArtifactError(f"{archive} cannot be read as an archive", saw=error, fix=_AGAIN) from error
    if missing := [n for n in names if n not in files]:
        raise ArtifactError(f"{archive} lacks {', '.join(missing)}", fix=_AGAIN)
    return files

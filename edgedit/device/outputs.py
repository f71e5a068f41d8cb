"""Where images go: a picture, a folder of PNG files, a .npz or .npy file; each takes batches as they come and holds little."""

from __future__ import annotations

import contextlib
import os
import re
import zipfile
from collections.abc import Sequence
from io import RawIOBase
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgedit.core.errors import OutputError
from edgedit.core.files import output_error, sha256_file, write_atomic
from edgedit.core.picture import grid, png
from edgedit.device.pipeline import Batch

GRID_LIMIT = 1024
"""Most images in one picture."""
FOLDER_NOTE = "generate.json"


def file_note(file: Path) -> Path:
    """The note of an output that is one file."""
    return file.with_name(file.name + ".json")


class Output(Protocol):
    """A place for images. `add` each batch, then `finish`; or `discard` when the run fails.

    Attributes:
        path: what the user asked for.
        note: the JSON file beside it that says how the images were made.
    """

    path: Path
    note: Path

    def add(self, batch: Batch) -> None:
        """Take one batch; batches come in order."""

    def finish(self) -> dict[str, Any]:
        """Complete the file; facts by which a later run sees that it is whole."""

    def discard(self) -> None:
        """Remove what is not whole."""


class _FileOutput:
    def __init__(self, path: Path) -> None:
        self.path, self.note = path, file_note(path)
        if path.exists() and not path.is_file():
            raise OutputError(f"{path} is not a regular file", fix="choose another name")
        prepare_folder(path.parent, path)


class GridOutput(_FileOutput):
    """One PNG with the first `GRID_LIMIT` images; a row for each class when there are several."""

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        super().__init__(path)
        self._names = class_names
        self._images: list[NDArray[np.uint8]] = []
        self._labels: list[int] = []

    def add(self, batch: Batch) -> None:
        room = GRID_LIMIT - len(self._images)
        self._images.extend(image.copy() for image in batch.images[:room])
        self._labels.extend(batch.labels[: min(room, len(batch.indices))].tolist())

    def finish(self) -> dict[str, Any]:
        write_atomic(self.path, class_picture(np.stack(self._images), self._labels, self._names))
        return file_facts(self.path)

    def discard(self) -> None:
        self._images.clear()


class FolderOutput:
    """A PNG a file, "000017-cat.png": image index and class. Files appear whole or not at all."""

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        self.path, self.note = path, path / FOLDER_NOTE
        self._names = [re.sub(r"[^\w.+-]+", "_", name) for name in class_names]
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path} is a file; --save-dir needs a folder", fix="choose another --save-dir")
        prepare_folder(path, path)

    def file(self, index: int, label: int) -> Path:
        """Where the image of this index and class goes."""
        return self.path / f"{index:06d}-{self._names[label]}.png"

    def done(self, first: int, labels: NDArray[np.int32]) -> int:
        """How many of the images first, first + 1, … with these labels are there already, without a gap."""
        return next((k for k, label in enumerate(labels) if not self.file(first + k, int(label)).is_file()), len(labels))

    def add(self, batch: Batch) -> None:
        from PIL import Image

        for index, label, image in zip(batch.indices.tolist(), batch.labels.tolist(), batch.images, strict=False):
            file = self.file(index, label)
            part = file.with_suffix(".part")
            try:
                picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
                picture.save(part, "PNG", compress_level=1)
                os.replace(part, file)
            except OSError:
                part.unlink(missing_ok=True)
                raise

    def finish(self) -> dict[str, Any]:
        return {}

    def discard(self) -> None:
        """Keep the files: each is whole, and the next run goes on after them."""


class NpzOutput(_FileOutput):
    """`images` uint8 (N, H, W, C) and `labels` int32 (N,) in an uncompressed .npz, streamed: memory does not grow with N."""

    def __init__(self, path: Path, count: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__(path)
        self._count, self._shape = count, image_shape
        self._labels: list[NDArray[np.int32]] = []
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._zip = zipfile.ZipFile(self._part, "w", zipfile.ZIP_STORED, allowZip64=True)
        self._member: IO[bytes] = self._zip.open("images.npy", "w", force_zip64=True)
        self._member.write(npy_header((count, *image_shape), "|u1"))

    def add(self, batch: Batch) -> None:
        self._member.write(np.ascontiguousarray(batch.images).data)
        self._labels.append(batch.labels[: len(batch.indices)])

    def finish(self) -> dict[str, Any]:
        self._member.close()
        with self._zip.open("labels.npy", "w") as member:
            member.write(npy_header((self._count,), "<i4"))
            member.write(np.concatenate(self._labels).astype("<i4").data)
        self._zip.close()
        with self._part.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(self._part, self.path)
        return file_facts(self.path)

    def discard(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # the disk may be full, the member half-written
            self._member.close()
        with contextlib.suppress(OSError, ValueError):
            self._zip.close()
        self._part.unlink(missing_ok=True)


class NpyStream:
    """A .npy file that grows along its first axis; its header always fits what `close` finds in it."""

    def __init__(self, file: Path, row_shape: tuple[int, ...], dtype: str) -> None:
        self._stream, self._shape, self._dtype = file.open("wb", buffering=0), row_shape, dtype
        self.rows = 0
        write_all(self._stream, npy_header((0, *row_shape), dtype))

    def add(self, rows: NDArray[Any]) -> None:
        """Append rows of the stream's dtype."""
        write_all(self._stream, np.ascontiguousarray(rows).tobytes())
        self.rows += len(rows)

    def close(self) -> None:
        """Write the true number of rows into the header."""
        self._stream.seek(0)
        write_all(self._stream, npy_header((self.rows, *self._shape), self._dtype))
        self._stream.close()


def write_all(stream: RawIOBase, data: bytes) -> int:
    """Write all of `data` to an unbuffered file, which may take it in parts; OSError as soon as the disk refuses."""
    view = memoryview(data)
    while view:
        view = view[stream.write(view) or 0 :]
    return len(data)


def npy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    """Header of a .npy file, format 1.0, always 128 bytes (the format allows padding), so that it can be rewritten in place."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape!r}, }}"
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text.ljust(117).encode("latin1") + b"\n"


def class_picture(images: NDArray[np.uint8], labels: Sequence[int], class_names: Sequence[str]) -> bytes:
    """PNG of images uint8 (N, H, W, C): near square for one class, else a named row for each class, white where it has less."""
    present = sorted(set(labels))
    if len(present) == 1:
        return png(grid(images))
    members = {label: [i for i, seen in enumerate(labels) if seen == label] for label in present}
    columns = max(map(len, members.values()))
    cells = np.full((len(present) * columns, *images.shape[1:]), 255, np.uint8)
    for row, label in enumerate(present):
        cells[row * columns : row * columns + len(members[label])] = images[members[label]]
    return png(grid(cells, columns=columns, names=[class_names[label] for label in present]))


def file_facts(file: Path) -> dict[str, Any]:
    """Size and hash of a finished file, for its note."""
    return {"bytes": file.stat().st_size, "sha256": sha256_file(file)}


def prepare_folder(folder: Path, target: Path) -> None:
    """Make `folder` and check that files can be made in it; OutputError naming `target` when not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(target, error) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{target} cannot be written", saw=f"no permission in {folder}", fix="choose another place")

"""A picture for metric `nearest`: images beside the training images that they come nearest to. Copies would show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedit.core.picture import png
from edgedit.evaluate.sources import Source, rgb

SHOWN = 16
"""Images in each half: those that come nearest, and some at random."""
_COLUMNS, _GAP, _MARGIN, _LINE = 4, 2, 14, 15
_SIDE = 96
"""About so many pixels a side has in the picture."""
_INK, _PALE = (30, 30, 30), (120, 120, 120)


@dataclass(frozen=True)
class Found:
    """What the nearest training image of each image is.

    Attributes:
        distances: float64 (n,), in levels.
        indices: int64 (n,), of training images.
        bound: distance that 1 % of held-out real images come within; None where it was not measured.
    """

    distances: NDArray[np.float64]
    indices: NDArray[np.int64]
    bound: float | None = None

    def nearest(self) -> NDArray[np.int64]:
        """int64 (≤ SHOWN,): the images that come nearest, in order."""
        return np.argsort(self.distances, kind="stable")[:SHOWN]

    def some(self, seed: int) -> NDArray[np.int64]:
        """int64 (≤ SHOWN,): images at random, rising."""
        return np.sort(np.random.RandomState(seed).permutation(len(self.distances))[:SHOWN])

    def listed(self, chosen: NDArray[np.int64], rows: NDArray[np.int64]) -> list[dict[str, Any]]:
        """The rows as plain facts; `chosen` are the source's numbers of all images."""
        return [{"image": int(chosen[i]), "training_image": int(self.indices[i]), "distance": float(self.distances[i])} for i in rows]


def nearest_picture(source: Source, train: Source, chosen: NDArray[np.int64], found: Found, seed: int) -> bytes:
    """PNG: the images that come nearest to training images, then some at random, each with its nearest training image at its right.

    Args:
        source, chosen: the images in question; they are made or read again.
        train: where the training images are.
        seed: of the random ones.
    """
    bound = "" if found.bound is None else f"; 1 % of held-out real images come nearer than {found.bound:.1f}"
    parts = [(f"the {{}} of {len(chosen):,} images that come nearest to a training image{bound}", found.nearest()),
             ("{} at random", found.some(seed))]
    sheets = [_sheet(title.format(len(rows)), *_tiles(source, train, chosen, found, rows)) for title, rows in parts]
    return png(_stacked(sheets))


def _tiles(source: Source, train: Source, chosen: NDArray[np.int64], found: Found,
           rows: NDArray[np.int64]) -> tuple[NDArray[np.uint8], list[tuple[str, str, str]]]:
    """uint8 (n, 2, H, W, 3) of images and their neighbours, and what is written under each: both names, and the distance."""
    ours, theirs = chosen[rows], found.indices[rows]
    tiles = np.stack([rgb(source.images(ours)), rgb(train.images(theirs))], 1)
    names = list(zip(_names(source, ours, "image"), _names(train, theirs, "training"), strict=True))
    return tiles, [(a, b, f"{found.distances[i]:.1f}") for (a, b), i in zip(names, rows, strict=True)]


def _names(source: Source, indices: NDArray[np.int64], word: str) -> list[str]:
    """ "frog 4711", or the number after a word where there are no classes."""
    if not source.class_names:
        return [f"{word} {i}" for i in indices]
    return [f"{source.class_names[label][:10]} {i}" for label, i in zip(source.labels(indices), indices, strict=True)]


def _sheet(title: str, tiles: NDArray[np.uint8], captions: Sequence[tuple[str, str, str]]) -> NDArray[np.uint8]:
    """uint8 (H, W, 3): a title over rows of pairs."""
    from PIL import Image, ImageDraw

    n, _, h, w, _ = tiles.shape
    scale = max(1, round(_SIDE / h))
    side_h, side_w = h * scale, max(w * scale, _SIDE)
    cell_h, cell_w = side_h + 2 * _LINE + _MARGIN, 2 * side_w + _GAP + _MARGIN
    canvas = np.full((_MARGIN + 2 * _LINE + -(-n // _COLUMNS) * cell_h, _MARGIN + _COLUMNS * cell_w, 3), 255, np.uint8)
    corners = [(_MARGIN + 2 * _LINE + (k // _COLUMNS) * cell_h, _MARGIN + (k % _COLUMNS) * cell_w) for k in range(n)]
    for pair, (y, x) in zip(tiles, corners, strict=True):
        for tile, left in zip(pair, (x, x + side_w + _GAP), strict=True):
            canvas[y : y + side_h, left : left + w * scale] = tile.repeat(scale, 0).repeat(scale, 1)
    picture = Image.fromarray(canvas)
    draw: Any = ImageDraw.Draw(picture)
    draw.text((_MARGIN, _MARGIN // 2), title, fill=_INK)
    draw.text((_MARGIN, _MARGIN // 2 + _LINE), fill=_PALE,
              text="left: the image; right: its nearest training image; below: their distance, RMS in levels of 255")
    for (ours, theirs, distance), (y, x) in zip(captions, corners, strict=True):
        draw.text((x, y + side_h + 2), ours, fill=_PALE)
        draw.text((x + side_w + _GAP, y + side_h + 2), theirs, fill=_PALE)
        draw.text((x + side_w + _GAP // 2, y + side_h + 2 + _LINE), distance, fill=_INK, anchor="ma")
    return np.asarray(picture)


def _stacked(sheets: Sequence[NDArray[np.uint8]]) -> Any:
    """One picture of sheets under each other."""
    from PIL import Image

    return Image.fromarray(np.concatenate(sheets))

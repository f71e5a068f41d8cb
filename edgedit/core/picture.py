"""Pictures of many small images: a grid, optionally with row names, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image


def grid(images: NDArray[np.uint8], *, columns: int | None = None, scale: int | None = None, gap: int = 1,
         names: Sequence[str] | None = None) -> Image:
    """Arrange images row by row.

    Args:
        images: uint8 (N, H, W, C), C = 1 or 3.
        columns: images a row; default near square.
        scale: whole-number enlargement (nearest pixel); default brings a side to about 64 pixels.
        gap: white pixels between images, before enlargement of the text only.
        names: a name for each row, written at its left.
    """
    from PIL import Image as pil
    from PIL import ImageDraw

    n, h, w, c = images.shape
    columns = columns or max(1, round(n**0.5))
    scale = scale or max(1, round(64 / h))
    rows = -(-n // columns)
    if c == 1:
        images = np.repeat(images, 3, axis=3)
    cell_h, cell_w = h * scale + gap, w * scale + gap
    left = 8 + 7 * max(map(len, names)) if names else 0
    canvas = np.full((rows * cell_h + gap, left + columns * cell_w + gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = gap + (i // columns) * cell_h, left + gap + (i % columns) * cell_w
        canvas[y : y + h * scale, x : x + w * scale] = image.repeat(scale, 0).repeat(scale, 1)
    picture = pil.fromarray(canvas)
    if names:
        draw: Any = ImageDraw.Draw(picture)
        for row, name in enumerate(names[:rows]):
            draw.text((4, gap + row * cell_h + h * scale // 2 - 6), name, fill=(60, 60, 60))
    return picture


def png(picture: Image) -> bytes:
    """The picture as PNG bytes."""
    from io import BytesIO

    stream = BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()

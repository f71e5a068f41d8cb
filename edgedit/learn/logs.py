"""What a run tells while it lasts: metrics.jsonl, TensorBoard events, sample grids. None of it is needed to go on."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedit.core.files import output_error, write_atomic
from edgedit.core.noise import noise
from edgedit.core.picture import grid, png
from edgedit.core.say import Event, Say

METRICS = "metrics.jsonl"
SAMPLE_SEED = 1 << 40
"""Noise seed of sample grids: away from the small seeds that pairs are made with."""
SAMPLE_COLUMNS, SAMPLE_ROWS = 8, 20


class Logs:
    """Metrics of a run, as JSON lines and TensorBoard events. Lines of steps after `step` are cut off first."""

    def __init__(self, out: Path, step: int, say: Say) -> None:
        self.file = out / METRICS
        _cut(self.file, step)
        try:
            self._stream = self.file.open("a", encoding="utf-8")
        except OSError as error:
            raise output_error(self.file, error) from error
        self._board = _board(out / "tb", step, say)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line after `step` steps."""
        try:
            self._stream.write(json.dumps({"step": step, **values}) + "\n")
            self._stream.flush()
        except OSError as error:
            raise output_error(self.file, error) from error
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"train/{name}", value, step)

    def __enter__(self) -> Logs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stream.close()
        if self._board is not None:
            self._board.close()


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """All whole lines; a last one that was cut short by a crash is left out."""
    if not file.is_file():
        return []
    lines = []
    for text in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


def _cut(file: Path, step: int) -> None:
    lines = [line for line in read_metrics(file) if line["step"] <= step]
    write_atomic(file, "".join(json.dumps(line) + "\n" for line in lines))


def _board(folder: Path, step: int, say: Say) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        say(Event("TensorBoard is not installed; metrics go to metrics.jsonl alone (pip install tensorboard adds them)"))
        return None
    try:
        return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
    except OSError as error:
        raise output_error(folder, error) from error


def save_grid(out: Path, step: int, pictures: NDArray[np.uint8], names: list[str]) -> Path:
    """Write `samples/step-….png`: uint8 (rows · columns, H, W, C), a row for each name."""
    file = out / "samples" / f"step-{step:07d}.png"
    try:
        file.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise output_error(file, error) from error
    write_atomic(file, png(grid(pictures, columns=len(pictures) // len(names), names=names)))
    return file


def sample_inputs(shape: tuple[int, int, int], classes: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Noise float32 (N, C, H, W) and labels int64 (N,) of a grid: a row for each class (the first 20), eight a row, the same
    at every step of every run."""
    rows = min(classes, SAMPLE_ROWS)
    count = rows * SAMPLE_COLUMNS
    return noise(SAMPLE_SEED, range(count), shape), np.repeat(np.arange(rows), SAMPLE_COLUMNS)

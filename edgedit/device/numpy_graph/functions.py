"""Softmax, normalisation and GELU on float32 arrays, in place and in blocks that stay in the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
BLOCK = 1 << 15
"""Numbers worked on at a time: 128 KiB, which fits a core's own cache with a temporary of the same size."""
SCORES = 1 << 18
"""Attention scores held at a time, 1 MiB: at 8 heads of 64 tokens those of 8 images."""


def blocks(array: Floats) -> Iterator[Floats]:
    """Views of a contiguous array that cover it once, in whole rows (last dimension)."""
    rows = array.reshape(-1, array.shape[-1] if array.ndim else 1)
    step = max(1, BLOCK // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def softmax(rows: Floats) -> None:
    """Over the last dimension, in place."""
    rows -= rows.max(axis=-1, keepdims=True)
    np.exp(rows, out=rows)
    rows /= rows.sum(axis=-1, keepdims=True)


def gelu_tanh(x: Floats) -> None:
    """x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³))) in place, as x / (1 + exp(-2·…)), which is the same."""
    root = -2 * (2 / np.pi) ** 0.5
    bend = x * x
    bend *= np.float32(root * 0.044715)
    bend += np.float32(root)
    bend *= x
    np.exp(bend, out=bend)  # infinite far below 0, where x / infinity is the right 0
    bend += np.float32(1)
    x /= bend


def gelu_erf(x: Floats) -> None:
    """x/2·(1 + erf(x/√2)) in place. erf by Abramowitz and Stegun 7.1.26, whose error is below 1.5e-7: two units of float32 at 1."""
    z = np.abs(x) * np.float32(0.5**0.5)
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = np.zeros_like(t)
    for factor in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series += np.float32(factor)
        series *= t
    z *= -z
    series *= np.exp(z, out=z)  # 1 - erf(|x|/√2)
    np.copysign(1 - series, x, out=series)
    series += np.float32(1)
    x *= series
    x *= np.float32(0.5)


def in_blocks(function: Callable[[Floats], None], array: Floats) -> Floats:
    """Apply a function that works in place; returns the array, which must be contiguous."""
    for block in blocks(array):
        function(block)
    return array


def normalise(x: Floats, axes: tuple[int, ...], epsilon: float) -> Floats:
    """(x - mean) / √(variance + epsilon) over `axes`, as a new array."""
    y: Floats = x - x.mean(axis=axes, keepdims=True)
    y *= 1 / np.sqrt(np.square(y).mean(axis=axes, keepdims=True) + np.float32(epsilon))
    return y


def attend(query: NDArray[np.floating], key: NDArray[np.floating], value: NDArray[np.floating], scale: float) -> NDArray[np.floating]:
    """softmax(scale·query @ key) @ value, some images at a time, so that memory does not grow with the batch.

    FP16 inputs are multiplied in float32; scores and shares are rounded to FP16, as a typed graph has them.

    Args:
        query: (B, h, T, H).
        key: (B, h, H, S), transposed.
        value: (B, h, S, V).

    Returns:
        (B, h, T, V) in the type of `query`; heads lie behind tokens in memory.
    """
    batch, heads, tokens, _ = query.shape
    half = query.dtype == np.float16
    out = np.empty((batch, tokens, heads, value.shape[3]), query.dtype).transpose(0, 2, 1, 3)
    step = max(1, SCORES // max(1, heads * tokens * key.shape[3]))
    for start in range(0, batch, step):
        part = slice(start, start + step)
        q, k, v = ((x[part].astype(np.float32) if half else x[part]) for x in (query, key, value))
        scores = np.matmul(q, k)
        if scale != 1:
            scores *= scores.dtype.type(scale)
        if half:
            scores[...] = scores.astype(np.float16)
        in_blocks(softmax, scores)
        if half:
            scores[...] = scores.astype(np.float16)
        out[part] = np.matmul(scores, v)
    return out

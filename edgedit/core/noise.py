"""Seed and image index to noise: the same numbers on every machine, in any order, by any number of workers.

Image i of a seed owns its own stretch of one Philox4x64-10 stream (Salmon et al. 2011, "Parallel random numbers: as easy
as 1, 2, 3"), keyed by the seed. With V values an image takes B = ceil(V / 8) counter blocks of 8 uint32 each, so image i
starts at counter i·B and any image can be made without the ones before it. The words become unit Gaussians by a float32
Box–Muller transform; the only machine-dependent step is the last bit of log, sin and cos.

Layout, for those who re-implement it (a CUDA kernel, say): block b of image i is Philox(counter = i·B + b + 1, key =
(seed, 0)), numpy's convention of counting before drawing. Its four uint64 words, low half first, are eight uint32
u[0..7]; the image's n = 8·B words are the concatenation over b. The first n/2 words give radii
r = sqrt(-2 ln((u + ½)·2⁻³²)), the last n/2 angles a = 2π·(u >> 8)·2⁻²⁴; the values are r·cos(a) then r·sin(a), cut to V.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgedit.core.errors import UsageError

_WORDS = 8  # uint32 words in one Philox4x64 block
_CHUNK = 1 << 15  # words drawn and transformed at a time: words and scratch, 320 KB, stay in the L2 or L3 cache
_TURN = np.float32(2 * math.pi / (1 << 24))


def noise(seed: int, indices: Sequence[int] | NDArray[np.integer] | range, shape: tuple[int, ...], *,
          out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Unit Gaussian noise of the images `indices` of `seed`.

    Args:
        seed: 0 ≤ seed < 2⁶⁴.
        indices: N image numbers, 0 ≤ i < 2⁴⁸, in any order, repeats allowed; consecutive numbers are a little faster.
        shape: shape of one image, usually (channels, height, width).
        out: float32 (N, *shape), contiguous, to write into (a pinned or reused buffer); a new array without it.

    Returns:
        float32 (N, *shape), contiguous. Row n depends on (seed, indices[n], shape) alone, never on the batch.

    Raises:
        UsageError: a seed or index out of range or not a whole number, an empty shape, an `out` that does not fit.
    """
    where = _whole_numbers(indices)
    if not 0 <= seed < 1 << 64:
        raise UsageError("a noise seed must be in 0 … 2^64-1", saw=seed)
    if where.size and (int(where.min()) < 0 or int(where.max()) >= 1 << 48):
        raise UsageError("a noise index must be in 0 … 2^48-1", saw=f"{where.min()} … {where.max()}")
    if not shape or min(shape) < 1:
        raise UsageError("noise needs a shape with at least one value", saw=shape)
    values = math.prod(shape)
    if out is None:
        out = np.empty((where.size, *shape), np.float32)
    elif out.shape != (where.size, *shape) or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise UsageError(f"noise: out must be contiguous float32 {(where.size, *shape)}", saw=f"{out.dtype} {out.shape}")
    rows = out.reshape(where.size, values)

    blocks = -(-values // _WORDS)
    per_chunk = max(1, min(where.size, _CHUNK // (blocks * _WORDS)))
    words = np.empty((per_chunk, blocks * _WORDS // 2), np.uint64)  # (R, 4·blocks)
    scratch = np.empty((3, per_chunk * blocks * _WORDS // 2), np.float32)  # radius; angle; cosine, then sine
    bits = np.random.Philox(key=seed)
    state = bits.state
    for first, count in _runs(where, per_chunk):
        state["state"]["counter"] = _counter(int(where[first]) * blocks)
        state["buffer_pos"] = 4
        bits.state = state
        at = first % per_chunk
        words[at : at + count] = bits.random_raw(count * words.shape[1]).reshape(count, -1)
        end = first + count
        if at + count == per_chunk or end == where.size:
            drawn = words[: at + count].astype("<u8", copy=False).view("<u4")  # (≤ R, 8·blocks)
            _box_muller(drawn, rows[end - len(drawn) : end], scratch)
    return out


def labels(seed: int, indices: Sequence[int] | NDArray[np.integer] | range, classes: int) -> NDArray[np.int32]:
    """Balanced labels: image i has class i mod `classes`, the same for every seed.

    Returns:
        int32 (N,). Any stretch of `classes` consecutive images holds each class once.
    """
    return (np.asarray(indices, dtype=np.int64).reshape(-1) % classes).astype(np.int32)


def _whole_numbers(indices: Sequence[int] | NDArray[np.integer] | range) -> NDArray[np.int64]:
    """`indices` as a flat int64 array; UsageError for fractions and for numbers that 64 bits do not hold."""
    try:
        where = np.asarray(indices)
        if where.size and where.dtype.kind not in "iu":
            raise UsageError("a noise index must be a whole number in 0 … 2^48-1", saw=f"{where.dtype} values")
        if where.dtype == np.uint64 and where.size and int(where.max()) >= 1 << 63:
            raise OverflowError
    except OverflowError:
        raise UsageError("a noise index must be in 0 … 2^48-1", saw="a number beyond 64 bits") from None
    return where.astype(np.int64, copy=False).reshape(-1)


def _runs(where: NDArray[np.int64], longest: int) -> list[tuple[int, int]]:
    """(first position, length) of each stretch of consecutive indices, cut at multiples of `longest`."""
    if not where.size:
        return []
    cut = np.concatenate(([True], np.diff(where) != 1))
    cut[::longest] = True
    starts = np.flatnonzero(cut)
    return list(zip(starts.tolist(), np.diff(np.append(starts, where.size)).tolist(), strict=True))


def _counter(value: int) -> NDArray[np.uint64]:
    return np.array([value & 0xFFFFFFFFFFFFFFFF, value >> 64, 0, 0], dtype=np.uint64)


def _box_muller(words: NDArray[np.uint32], out: NDArray[np.float32], scratch: NDArray[np.float32]) -> None:
    """uint32 (N, n) → unit Gaussians into float32 (N, V), V ≤ n, n even; the module's text gives the layout.

    Overwrites `words`; every step writes into it or `scratch` (3, ≥ N·n/2), so that nothing is allocated per chunk.
    """
    n, half = words.shape[0], words.shape[1] // 2
    radius, angle, wave = (part[: n * half].reshape(n, half) for part in scratch)
    values = out.shape[1]
    low = min(half, values)
    radius[...] = words[:, :half]
    radius += np.float32(0.5)
    radius *= np.float32(2.0**-32)
    np.log(radius, out=radius)
    radius *= np.float32(-2.0)
    np.sqrt(radius, out=radius)
    turns = words[:, half:]
    np.right_shift(turns, np.uint32(8), out=turns)
    angle[...] = turns
    angle *= _TURN
    np.cos(angle, out=wave)
    np.multiply(radius[:, :low], wave[:, :low], out=out[:, :low])
    high = values - low
    if high:
        np.sin(angle, out=wave)
        np.multiply(radius[:, :high], wave[:, :high], out=out[:, low:])

"""Write what the machine makes of fixed seeds: random words, the three functions of Box–Muller, noise. numpy alone.

Usage: noise_bits.py SEED FILE.npz
"""

from __future__ import annotations

import platform
import sys

import numpy as np

from edgedit.core.noise import noise

SHAPE, IMAGES = (3, 32, 32), 256

if __name__ == "__main__":
    seed, file = int(sys.argv[1]), sys.argv[2]
    words = np.random.Philox(key=seed).random_raw(1 << 17).astype("<u8").view("<u4")
    uniform = (words.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
    angle = (words >> np.uint32(8)).astype(np.float32) * np.float32(2 * np.pi / (1 << 24))
    np.savez(file, words=words, log=np.log(uniform), cos=np.cos(angle), sin=np.sin(angle), noise=noise(seed, range(IMAGES), SHAPE),
             far=noise(2**64 - 1, [2**48 - 1, 12345678901, 0], SHAPE), machine=f"{platform.machine()}, numpy {np.__version__}")

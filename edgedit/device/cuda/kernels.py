"""Our CUDA source, compiled on the machine that runs it: noise on the GPU, grey levels from float images.

pycuda calls nvcc once and keeps the result (`~/.cache/pycuda`), so only the first load on a board takes seconds.
"""

from __future__ import annotations

import os
import shutil
import warnings
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgedit.core.errors import EdgeditError, MissingError
from edgedit.device.cuda.device import Device

SOURCE_FILE = "kernels.cu"
THREADS = 128


def kernel_source() -> str:
    """The text of `kernels.cu`."""
    return files("edgedit.device.cuda").joinpath(SOURCE_FILE).read_text(encoding="utf-8")


def find_nvcc() -> str | None:
    """CUDA's compiler: on PATH, in $CUDA_HOME or $CUDA_ROOT, or where JetPack puts it without adding it to PATH."""
    roots = [os.environ[name] for name in ("CUDA_HOME", "CUDA_ROOT") if os.environ.get(name)]
    places = [Path(root, "bin/nvcc") for root in [*roots, "/usr/local/cuda"]]
    return shutil.which("nvcc") or next((str(place) for place in places if os.access(place, os.X_OK)), None)


def noise_grid(rows: int, values: int) -> tuple[int, int]:
    """Blocks of `THREADS` threads for the kernel `noise`: each thread makes eight values of either half of a row."""
    threads = (values + 15) // 16
    return (threads + THREADS - 1) // THREADS, rows


class Kernels:
    """The compiled kernels of one device; launches are queued on a stream and return at once.

    Raises:
        MissingError: nvcc is not installed.
        EdgeditError: nvcc does not compile the source; its first words are shown.
    """

    def __init__(self, device: Device) -> None:
        nvcc = find_nvcc()
        if nvcc is None:
            raise MissingError("nvcc not found", fix="sudo apt install cuda-nvcc-12-6 (JetPack 6), cuda-nvcc-13-2 (JetPack 7.2)")
        from pycuda.compiler import SourceModule

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pycuda repeats whatever nvcc said of its own environment
                self._module = SourceModule(kernel_source(), nvcc=nvcc, options=["-O3"], no_extern_c=True,
                                            arch=device.facts.architecture)
        except device.cuda.CompileError as error:
            raise EdgeditError("nvcc does not compile edgedit's kernels", saw=_first_words(error),
                               fix="check that nvcc and its g++ are JetPack's own: nvcc --version") from error
        except OSError as error:
            raise EdgeditError("nvcc cannot be run", saw=error, fix=f"check {nvcc}") from error
        self._noise = self._module.get_function("noise").prepare("PPQI")
        self._levels = self._module.get_function("levels").prepare("PPIIIIf")

    def noise(self, stream: Any, out: int, indices: int, rows: int, seed: int, values: int) -> None:
        """Unit Gaussian noise of `seed`, the numbers of `edgedit.core.noise`, to the last bits of log, sin and cos.

        Args:
            out: address of float32 (rows, values).
            indices: address of int64 (rows,), the images; a negative one gives a row of zeros.
        """
        self._noise.prepared_async_call(noise_grid(rows, values), (THREADS, 1, 1), stream, out, indices, seed, values)

    def levels(self, stream: Any, out: int, images: int, rows: int, channels: int, pixels: int, guidance_scale: float | None) -> None:
        """uint8 (rows, pixels, channels) from float32 (rows, channels, pixels) in -1 … 1, clipped and rounded as the exported graph does.

        Args:
            guidance_scale: not None: `images` holds 2·rows images, with class and then without, and is combined first.
        """
        guided, scale = (0, 1.0) if guidance_scale is None else (1, guidance_scale)
        blocks = -(-rows * channels * pixels // THREADS)
        self._levels.prepared_async_call((blocks, 1), (THREADS, 1, 1), stream, out, images, rows, channels, pixels, guided, scale)


def _first_words(error: Any) -> str:
    said = [line.strip() for line in str(error.stderr or error.stdout or error).splitlines() if line.strip()]
    return next((line for line in said if "error" in line.lower()), said[0] if said else str(error))[:300]

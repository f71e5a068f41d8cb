"""The device of a run, and torch set as the run is told."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from edgedit.core.errors import MissingError, UsageError
from edgedit.core.machine import processor
from edgedit.learn.ranks import ALONE, Ranks
from edgedit.learn.settings import LearnSettings


def find_device(name: str, ranks: Ranks = ALONE) -> torch.device:
    """The device that a setting names; "auto" is the first CUDA device (of several processes each its own), else the CPU.

    Raises:
        UsageError: no such device.
        MissingError: a CUDA device was asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and ranks.world > 1:
        name = f"cuda:{ranks.local}"
    elif name.startswith("cuda:") and ranks.world > 1:
        raise UsageError(f"{ranks.world} processes cannot share one GPU", saw=f"device {name}", fix="--device cuda: each takes its own")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"'{name}' is not a device", fix="auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise MissingError("there is no CUDA device here", saw=f"torch {torch.__version__}", fix="--device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MissingError(f"there is no GPU '{name}' here", saw=f"{torch.cuda.device_count()} GPUs", fix="--device cuda")
    if device.type not in ("cuda", "cpu"):
        raise UsageError(f"work on '{device.type}' is not supported", fix="auto, cpu, cuda or cuda:N")
    if device.type == "cpu":
        keep_freed_memory()
    return device


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep what torch frees for what it allocates next; True if it was told so.

    It would give blocks of some MB back to the system at once, which hands them out again as pages that it clears one by one: 70,000
    a step of (5,64,8) with LPIPS, a third of the step's time. Other C libraries and allocators, and whoever has set glibc's own variables
    for this, are left alone (https://man7.org/linux/man-pages/man3/mallopt.3.html).
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ) or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    return all(mallopt(option, size) for option, size in ((trim_threshold, 2**31 - 1), (top_pad, 2**26), (mmap_threshold, 2**30)))


def pick_device(settings: LearnSettings, ranks: Ranks = ALONE) -> torch.device:
    """`find_device` of the settings; UsageError also for a precision that the device lacks."""
    device = find_device(settings.device, ranks)
    if settings.precision == "tf32" and (device.type != "cuda" or torch.cuda.get_device_capability(device)[0] < 8):
        raise UsageError("tf32 needs an NVIDIA GPU of compute capability 8.0 or later", saw=device, fix="--set precision=fp32")
    return device


def machine(device: torch.device) -> str:
    """What does the work, by name: the GPU, or the processor and its logical cores."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{processor()}, {os.cpu_count()} logical cores"


def autocast(settings: LearnSettings, device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 where torch's autocast allows it, if the settings say so."""
    return torch.autocast(device.type, torch.bfloat16) if settings.precision == "bf16" else nullcontext()


@contextmanager
def torch_as_told(settings: LearnSettings) -> Iterator[None]:
    """Threads and float32 matmul precision of torch while a run lasts; all are put back after it."""
    threads, precision, convolutions = (torch.get_num_threads(), torch.get_float32_matmul_precision(),
                                        torch.backends.cudnn.allow_tf32)
    try:
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        torch.set_float32_matmul_precision("high" if settings.precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = settings.precision == "tf32"
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = convolutions

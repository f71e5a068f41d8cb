from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from edgedit.core.errors import MissingError, UsageError
from edgedit.learn.device import find_device
from edgedit.learn.ranks import Ranks


def test_a_device_that_is_not_there_is_named(monkeypatch):
    with pytest.raises(UsageError, match="'gpu' is not a device"):
        find_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == torch.device("cpu")
    with pytest.raises(MissingError, match=r"no CUDA device(.|\n)*--device cpu"):
        find_device("cuda")


def test_each_process_takes_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("auto", Ranks(1, 2, 1)) == torch.device("cuda:1")
    assert find_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UsageError, match="cannot share one GPU"):
        find_device("cuda:1", Ranks(0, 2, 0))
    with pytest.raises(MissingError, match=r"no GPU 'cuda:7'(.|\n)*2 GPUs"):
        find_device("cuda:7")


FAULTS = """
import resource, torch
from edgedit.learn.device import find_device, keep_freed_memory
find_device("cpu")
def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        held = [torch.ones(3 << 20) for _ in range(5)]
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(3)
print(keep_freed_memory(), faults(20))
"""


def kept(**environment: str) -> tuple[bool, int]:
    clean = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES" and not k.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, env=clean | environment)
    said, count = done.stdout.split()
    return said == "True", int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is about glibc")
def test_freed_memory_is_used_again_instead_of_asked_for_again():
    told, faults = kept()
    assert told and faults < 3000  # of 20 × 60 MB in pages of 4 kB: 307,200
    assert not kept(GLIBC_TUNABLES="glibc.malloc.mmap_max=1")[0], "who has chosen is left alone"
    assert not kept(MALLOC_MMAP_THRESHOLD_="1000000")[0]

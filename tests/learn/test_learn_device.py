from __future__ import annotations

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

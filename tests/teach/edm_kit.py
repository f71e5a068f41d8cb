"""Pickles in the layout that NVIDIA publishes networks in (science.md §6.3), made by Python and torch themselves.

The persistence protocol is written anew: an object is pickled as a call of `torch_utils.persistence._reconstruct_persistent_obj`
with a record of its class's name, its attributes and source code. The function exists here only while pickles are made; called,
it would execute the source code, as NVIDIA's does.
"""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PERSISTENCE = "torch_utils.persistence"
TINY = {"model.map_label.weight": (4, 3), "model.map_label.bias": (4,), "model.enc.8x8_conv.weight": (4, 1, 3, 3),
        "model.enc.4x4_down.conv0.weight": (4, 4, 3, 3), "model.enc.4x4_down.conv0.resample_filter": (1, 1, 2, 2),
        "model.enc.4x4_down.norm0.weight": (4,), "model.dec.8x8_aux_conv.bias": (1,)}


@contextmanager
def persistence() -> Iterator[Any]:
    """The module of the persistence protocol, importable while the block runs."""
    parent, module = types.ModuleType("torch_utils"), types.ModuleType(PERSISTENCE)

    def _reconstruct_persistent_obj(meta: dict[str, Any]) -> Any:
        exec(meta["module_src"], {})
        return meta

    _reconstruct_persistent_obj.__module__ = PERSISTENCE
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    parent.persistence = module  # type: ignore[attr-defined]
    before = {name: sys.modules.get(name) for name in ("torch_utils", PERSISTENCE)}
    sys.modules.update({"torch_utils": parent, PERSISTENCE: module})
    try:
        yield module
    finally:
        for name, old in before.items():
            if old is None:
                del sys.modules[name]
            else:
                sys.modules[name] = old


class Persistent:
    """An object pickled by the persistence protocol."""

    source = "raise RuntimeError('the source code in the file was executed')"
    _is_a = "Thing"

    def __reduce__(self) -> Any:
        state = {key: value for key, value in self.__dict__.items() if key != "_is_a"}
        meta = {"type": "class", "version": 6, "module_src": self.source, "class_name": self._is_a, "state": state}
        return sys.modules[PERSISTENCE]._reconstruct_persistent_obj, (meta,), None

    def named(self, class_name: str, **attributes: Any) -> Any:
        self.__dict__.update(attributes, _is_a=class_name)
        return self


class Values(Persistent):
    """A plain persistent object, as loss functions are."""


class Module(Persistent, nn.Module):
    """A persistent torch module."""


def network(tensors: Mapping[str, Tensor], *, class_name: str = "EDMPrecond", inner: str = "SongUNet", **attributes: Any) -> Module:
    """A tree of modules with these tensors; "enc" and "dec" are torch's ModuleDict, as EDM has them."""
    root = Module().named(class_name)
    for name, tensor in tensors.items():
        *path, leaf = name.split(".")
        at: nn.Module = root
        for part in path:
            if part not in at._modules:
                # block attributes of every kind that EDM's carry: None, lists, numpy's scalars
                child = nn.ModuleDict() if part in ("enc", "dec") else Module().named(
                    inner if part == "model" else "UNetBlock", skip_scale=np.sqrt(0.5), num_heads=0, emb=None,
                    _init_kwargs={"resample_filter": [1, 1], "init": {"init_weight": np.sqrt(0.2)}})
                at.add_module(part, child)
            at = at._modules[part]
        if leaf == "resample_filter":
            at.register_buffer(leaf, tensor)
        else:
            at.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
    first = next(iter(root._modules.values()), root)
    first.register_buffer("absent", None)
    first.register_parameter("nothing", None)
    facts = {"img_resolution": 32, "img_channels": 3, "label_dim": 10, "use_fp16": False, "sigma_min": 0, "sigma_max": float("inf"),
             "sigma_data": 0.5}
    return root.named(class_name, **{**facts, **attributes}, _init_args=(), _init_kwargs={"model_type": inner, "channel_mult": [2, 2, 2]})


def numbers(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Random float32 tensors; resampling filters are what they must be."""
    chance = torch.Generator().manual_seed(seed)
    return {name: torch.full(shape, 0.25) if name.endswith("resample_filter") else torch.randn(shape, generator=chance)
            for name, shape in shapes.items()}


def snapshot(ema: Any) -> dict[str, Any]:
    """What EDM's training loop pickles around a network."""
    return {"ema": ema, "loss_fn": Values().named("EDMLoss", P_mean=-1.2, P_std=1.2, sigma_data=0.5),
            "augment_pipe": Values().named("AugmentPipe", p=0.12, xflip=1e8, yflip=1, scale=1, rotate_frac=0),
            "dataset_kwargs": {"class_name": "training.dataset.ImageFolderDataset", "use_labels": True, "max_size": np.int64(50_000)}}


def dumped(top: Any, protocol: int = 4) -> bytes:
    """The pickle; 4 is the protocol of Python 3.8 and later, which wrote the published files."""
    with persistence():
        return pickle.dumps(top, protocol)


def edm_shapes() -> dict[str, tuple[int, ...]]:
    """The 427 names and shapes of edm-cifar10-32x32-cond-vp, by the rules of science.md §6.2, apart from the package's network."""
    shapes: dict[str, tuple[int, ...]] = {}

    def put(name: str, *shape: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    def block(name: str, channels_in: int, *, resample: bool = False, attends: bool = False) -> None:
        put(f"{name}.norm0", channels_in)
        put(f"{name}.conv0", 256, channels_in, 3, 3)
        put(f"{name}.affine", 256, 512)
        put(f"{name}.norm1", 256)
        put(f"{name}.conv1", 256, 256, 3, 3)
        if channels_in != 256 or resample:
            put(f"{name}.skip", 256, channels_in, 1, 1)
        if resample:
            shapes.update({f"{name}.{part}.resample_filter": (1, 1, 2, 2) for part in ("conv0", "skip")})
        if attends:
            put(f"{name}.norm2", 256)
            put(f"{name}.qkv", 768, 256, 1, 1)
            put(f"{name}.proj", 256, 256, 1, 1)

    put("model.map_label", 128, 10)
    put("model.map_augment", 128, 9, bias=False)
    put("model.map_layer0", 512, 128)
    put("model.map_layer1", 512, 512)
    put("model.enc.32x32_conv", 128, 3, 3, 3)
    for k in range(4):
        block(f"model.enc.32x32_block{k}", 256 if k else 128)
    for side in (16, 8):
        block(f"model.enc.{side}x{side}_down", 256, resample=True)
        for k in range(4):
            block(f"model.enc.{side}x{side}_block{k}", 256, attends=side == 16)
    block("model.dec.8x8_in0", 256, attends=True)
    block("model.dec.8x8_in1", 256)
    for side in (8, 16, 32):
        if side > 8:
            block(f"model.dec.{side}x{side}_up", 256, resample=True)
        for k in range(5):
            block(f"model.dec.{side}x{side}_block{k}", 384 if (side, k) == (32, 4) else 512, attends=(side, k) == (16, 4))
    put("model.dec.32x32_aux_norm", 256)
    put("model.dec.32x32_aux_conv", 3, 256, 3, 3)
    return shapes

"""NVIDIA's network pickles (EDM and its kin), read without running them.

Their classes are pickled by `torch_utils.persistence`: beside its attributes an object carries the source code of its module,
and unpickling executes it. Here the pickle's instructions are carried out by `pickle_machine`, which imports and calls
nothing; objects, containers and tensors become descriptions, the source code is dropped unread, and a name outside the exact
list below is refused. Source of the layout: science.md §6.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from edgedit.core.errors import ArtifactError
from edgedit.teach.pickle_machine import Name, Refused, brief, keys, reading, run
from edgedit.teach.torch_storage import Storage, StoredTensor, read_storage, view
from edgedit.teach.unpickle import DTYPE, Dtype, NumpyRules

_OBJECT = "torch_utils.persistence _reconstruct_persistent_obj"
_CONTAINERS = frozenset(f"torch.nn.modules.container {name}" for name in ("ModuleDict", "ModuleList", "Sequential"))
_TENSOR, _PARAMETER = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"
_STORAGE = "torch.storage _load_from_bytes"
_SCALARS = frozenset({"numpy.core.multiarray scalar", "numpy._core.multiarray scalar"})
_SETS = frozenset({"builtins set", "__builtin__ set"})
_ORDERED, _ENCODE = "collections OrderedDict", "_codecs encode"

_LIMIT = 1 << 30  # bytes of a file; CIFAR-10's have 223 MB
_STORAGES, _ENTRIES, _DEPTH = 10_000, 100_000, 32


@dataclass(eq=False)
class Thing:
    """An object of the file: the name of its class and its attributes. Its code was never looked at."""

    name: str
    state: dict[str, Any] | None


class NetworkRules(NumpyRules):
    """What a network's pickle may ask for, and the description that each stands for.

    The content of texts turned to bytes, and of storages, is counted: together neither can exceed the file, however often the
    file refers to one of them.
    """

    names = frozenset({_OBJECT, *_CONTAINERS, _TENSOR, _PARAMETER, _STORAGE, *_SCALARS, *_SETS, _ORDERED, _ENCODE, DTYPE})

    def __init__(self, size: int) -> None:
        self._texts = self._content = size
        self._storages = _STORAGES

    def call(self, name: Name, args: tuple[Any, ...]) -> Any:
        one = args[0] if len(args) == 1 else None
        if name == _OBJECT and isinstance(one, dict):
            return _object(one)
        if name in _CONTAINERS and not args:
            return Thing(name.rpartition(" ")[2], None)
        if name == _ORDERED and not args:
            return {}
        if name == _TENSOR and (len(args) == 6 or (len(args) == 7 and args[6] is None)):
            return view(*args[:4])
        if name == _PARAMETER and len(args) == 3 and isinstance(args[0], StoredTensor):
            return args[0]
        if name == _STORAGE and isinstance(one, bytes):
            return self._storage(one)
        if name in _SCALARS and len(args) == 2:
            return _scalar(*args)
        if name in _SETS and isinstance(one, list):
            return set(keys(one))
        if name == _ENCODE and len(args) == 2 and isinstance(args[0], str) and isinstance(args[1], str) and args[1] == "latin1":
            self._texts -= len(args[0])
            if self._texts < 0:
                raise Refused("more bytes in texts than the file has")
            return args[0].encode("latin-1")
        return super().call(name, args)

    def build(self, target: Any, state: Any) -> None:
        """Containers get their attributes, number types their byte order."""
        if isinstance(target, Thing) and target.state is None and isinstance(state, dict):
            target.state = state
        else:
            super().build(target, state)

    def _storage(self, data: bytes) -> Storage:
        self._content -= len(data)
        self._storages -= 1
        if self._content < 0 or self._storages < 0:
            raise Refused("more tensors than the file has bytes for" if self._content < 0 else f"more than {_STORAGES} storages")
        return read_storage(data)


def file_bytes(file: Path) -> bytes:
    """The content of a network file; ArtifactError if it is not there, or far larger than one."""
    try:
        if (size := file.stat().st_size) > _LIMIT:
            raise ArtifactError(f"{file} is too large for a CIFAR-10 network", saw=f"{size} bytes; NVIDIA's have about 223 MB")
        return file.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{file} cannot be read", saw=error.strerror,
                            fix="give the path of edm-cifar10-32x32-cond-vp.pkl, as NVIDIA publishes it") from error


def read_network(data: bytes | Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the network under `ema` in one of NVIDIA's pickles.

    Args:
        data: the file or its content.
        name: what to call it in an error.

    Returns:
        Dotted name → tensor of its own memory, parameters and buffers alike ("model.enc.32x32_conv.weight", as state_dict has
        them); and facts in plain JSON values: `class_name` of the network and `network` inside it, the classes of all `modules`, plain
        attributes (`state`) and constructor arguments (`init`), and those of `loss_fn` and `augment_pipe` where the file has them.

    Raises:
        ArtifactError: truncated, malformed, of another kind, or asking for anything outside the list; the error names it.
    """
    raw = data if isinstance(data, bytes) else file_bytes(data)
    if raw[:2] == b"PK":
        raise ArtifactError(f"{name} is a zip archive, such as torch.save writes", fix="needed is the .pkl that NVIDIA published")
    if raw[:1] != b"\x80":
        raise ArtifactError(f"{name} is not a pickle", saw=f"it begins with {raw[:16]!a}",
                            fix="the download may have saved an error page; fetch it again")
    with reading(name, "a network"):
        top = run(raw, NetworkRules(len(raw)))
        if not isinstance(top, dict) or not isinstance(ema := top.get("ema"), Thing):
            raise ValueError("no network under 'ema'")
        things, stored = _collect(ema)
        if sum(tensor.nbytes for tensor in stored.values()) > len(raw):
            raise Refused("tensors that share their numbers and would be larger than the file")
        facts: dict[str, Any] = {**_facts(ema), "modules": sorted({thing.name for thing in things})}
        model = _part(ema, "_modules").get("model")
        facts["network"] = model.name if isinstance(model, Thing) else None
        facts.update({key: _facts(top[key]) for key in ("loss_fn", "augment_pipe") if isinstance(top.get(key), Thing)})
        return {key: tensor.read() for key, tensor in stored.items()}, facts


def _object(meta: dict[str, Any]) -> Thing:
    """A persistent object from its record (type, version, module_src, class_name, state)."""
    kind, name, state = meta.get("type"), meta.get("class_name"), meta.get("state")
    if type(kind) is not str or kind != "class" or type(name) is not str or not name.isidentifier() or not isinstance(state, dict):
        raise Refused(f"a persistent object of type {brief(kind)}, class {brief(name)} and state {brief(state)}")
    return Thing(name[:100], state)


def _scalar(kind: Any, content: Any) -> Any:
    """A numpy number as Python's."""
    if not isinstance(kind, Dtype) or not isinstance(content, bytes) or len(content) != kind.numpy.itemsize:
        raise Refused(f"a numpy number made of {brief(kind)} and {brief(content)}")
    return np.frombuffer(content, kind.numpy)[0].item()


def _collect(root: Thing) -> tuple[list[Thing], dict[str, StoredTensor]]:
    """The modules under `root`, and their tensors by dotted name, in state_dict's order."""
    things: list[Thing] = []
    tensors: dict[str, StoredTensor] = {}
    entries = 0

    def visit(module: Thing, prefix: str, above: tuple[Thing, ...]) -> None:
        nonlocal entries
        if any(module is other for other in above):
            raise Refused(f"a module inside itself: {prefix[:-1]!a}")
        parts = {part: _part(module, part) for part in ("_parameters", "_buffers", "_modules")}
        entries += sum(map(len, parts.values()))
        if entries > _ENTRIES or len(above) >= _DEPTH:
            raise Refused(f"modules more than {_DEPTH} deep, or more than {_ENTRIES:,} of them and their tensors")
        things.append(module)
        for part, values in parts.items():
            for key, value in values.items():
                if type(key) is not str or not 0 < len(key) <= 100 or "." in key or not (key.isascii() and key.isprintable()):
                    raise ValueError(f"{brief(key)} as a name in {part} of a {module.name}")
                if isinstance(value, StoredTensor) and part != "_modules":
                    tensors[prefix + key] = value
                elif isinstance(value, Thing) and part == "_modules":
                    visit(value, f"{prefix}{key}.", (*above, module))
                elif value is not None:
                    raise ValueError(f"{brief(value)} in {part} of a {module.name}, under {prefix + key!a}")

    visit(root, "", ())
    return things, tensors


def _part(thing: Thing, part: str) -> dict[Any, Any]:
    values = (thing.state or {}).get(part)
    if not isinstance(values, dict):
        raise ValueError(f"a {thing.name} without {part}: it is no torch module")
    return values


def _facts(thing: Thing) -> dict[str, Any]:
    state = thing.state or {}
    return {"class_name": thing.name, "state": _plain(state), "init": _plain(state.get("_init_kwargs"))}


def _plain(values: Any) -> dict[str, Any]:
    """What JSON and a reader can hold of some attributes: texts, numbers, and short lists of them."""
    if not isinstance(values, dict):
        return {}
    mine = {key: value for key, value in values.items() if type(key) is str and key.isidentifier() and not key.startswith("_")}
    short = {key: list(value) if isinstance(value, (list, tuple)) else value for key, value in mine.items()
             if _is_plain(value) or (isinstance(value, (list, tuple)) and len(value) <= 16 and all(map(_is_plain, value)))}
    return dict(list(short.items())[:100])


def _is_plain(value: Any) -> bool:
    if type(value) is float:
        return math.isfinite(value)
    if type(value) is str:
        return len(value) <= 200 and value.isprintable()
    return type(value) in (bool, int)

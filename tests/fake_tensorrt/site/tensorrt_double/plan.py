"""Plans, timing caches and the host memory that carries them: a line of magic, a JSON header, the ONNX bytes."""

from __future__ import annotations

import json
from typing import Any

from tensorrt_double.strict import Part, classes
from tensorrt_double.world import gpu, real

PLAN, CACHE = b"edgedit test double: plan\n", b"edgedit test double: timing cache\n"


def where() -> dict[str, Any]:
    """What a plan is tied to: TensorRT's version and the GPU."""
    return {"tensorrt": real.__version__, "gpu": gpu()}


def pack(magic: bytes, header: dict[str, Any], body: bytes = b"") -> bytes:
    """Magic, length of the header, header, body."""
    text = json.dumps(header).encode()
    return magic + len(text).to_bytes(8, "little") + len(body).to_bytes(8, "little") + text + body


def unpack(magic: bytes, data: bytes) -> tuple[dict[str, Any], bytes] | None:
    """Header and body, or None where the bytes are not whole."""
    start = len(magic) + 16
    if not data.startswith(magic) or len(data) < start:
        return None
    lengths = [int.from_bytes(data[i : i + 8], "little") for i in (len(magic), len(magic) + 8)]
    if len(data) != start + sum(lengths):
        return None
    try:
        return json.loads(data[start : start + lengths[0]]), data[start + lengths[0] :]
    except ValueError:
        return None


def host_memory(data: bytes) -> Any:
    """IHostMemory around bytes: a buffer with nbytes and dtype, and nothing else of what bytes can do."""
    return _memory_class()(data)


_made: list[type] = []


def _memory_class() -> type:
    """A subclass of bytes (before Python 3.12 only C types give buffers) whose other abilities are taken away."""
    if not _made:
        gone = {name: None for name in ("__len__", "__getitem__", "__iter__", "__contains__", "__add__", "__mul__", "__rmul__", "__mod__",
                                        "__lt__", "__le__", "__gt__", "__ge__")}
        kept = {"nbytes", "dtype"}

        def look_up(self: Any, name: str) -> Any:
            if name == "nbytes":
                return memoryview(self).nbytes
            if name == "dtype":
                return real.DataType.INT8
            if not name.startswith("__") and name not in kept:
                raise AttributeError(f"'tensorrt.tensorrt.IHostMemory' object has no attribute '{name}'")
            return bytes.__getattribute__(self, name)

        _made.append(type("IHostMemory", (bytes,), {**gone, "__getattribute__": look_up, "__eq__": object.__eq__,
                                                    "__hash__": object.__hash__, "__module__": "tensorrt.tensorrt",
                                                    "__repr__": object.__repr__}))
    return _made[0]


def install_host_memory() -> None:
    """Put the class where the strict one would be."""
    classes["IHostMemory"] = _memory_class()


class TimingCache(Part):
    """ITimingCache: which layers were timed, on what."""

    strict_class = "ITimingCache"

    def __init__(self, made_on: dict[str, Any], entries: set[str]) -> None:
        self.made_on, self.entries = made_on, entries

    def serialize(self) -> Any:
        return host_memory(pack(CACHE, {**self.made_on, "entries": sorted(self.entries)}))

    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        other: TimingCache = object.__getattribute__(input_cache, "_part")
        if other.made_on != self.made_on and not ignore_mismatch:
            return False
        self.entries |= other.entries
        return True

    def reset(self) -> bool:
        self.entries.clear()
        return True


def read_cache(data: bytes) -> TimingCache | None:
    """A cache from its bytes; empty bytes give an empty one, broken ones or another version's None."""
    if not data:
        return TimingCache(where(), set())
    read = unpack(CACHE, data)
    if read is None or read[0]["tensorrt"] != real.__version__:
        return None
    return TimingCache({key: read[0][key] for key in ("tensorrt", "gpu")}, set(read[0]["entries"]))



"""The process that builds one engine: `python -m edgedit.device.trt.child FD`, started by `edgedit.device.trt.process`.

It reads one line of JSON from standard input, the request; the pipe then stays open as a leash: when it closes, because the
parent wants the build to stop or is no longer there, the next step that TensorRT completes is the last. Messages go as JSON
lines to descriptor FD; TensorRT's log goes to standard error, which the parent has turned into build.log.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgedit.core.errors import EdgeditError
from edgedit.device.trt.failures import Failure
from edgedit.device.trt.module import import_tensorrt, tensorrt_version

GRACE_S = 20.0
"""How long a build may go on after the leash was let go before the process ends itself."""
_STOPPED = 75
Send = Callable[[dict[str, Any]], None]


def main(arguments: list[str]) -> int:
    """Build what standard input asks for; exit status 0 after "done", 1 after "failed"."""
    descriptor = int(arguments[0])
    request = json.loads(sys.stdin.buffer.readline())
    stop = threading.Event()
    threading.Thread(target=_leash, args=(stop,), daemon=True).start()

    def send(message: dict[str, Any]) -> None:
        # A descriptor without buffer: what is said is said, even when the process is killed a moment later.
        try:
            os.write(descriptor, json.dumps(message).encode() + b"\n")
        except OSError:
            stop.set()  # nobody listens any more

    try:
        send({"say": "done", **_build(request, send, stop)})
        return 0
    except Failure as failure:
        kind = "stopped" if stop.is_set() else failure.kind
        send({"say": "failed", "kind": kind, "problems": failure.problems, **failure.facts})
    except EdgeditError as error:
        send({"say": "failed", "kind": "error", "what": error.what, "saw": error.saw, "fix": error.fix})
    except OSError as error:
        send({"say": "failed", "kind": "disk", "errno": error.errno, "text": error.strerror or str(error)})
    except MemoryError:
        send({"say": "failed", "kind": "null", "problems": ["Python: out of memory"]})
    return 1


def _leash(stop: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    stop.set()
    time.sleep(GRACE_S)
    os._exit(_STOPPED)


def _build(request: dict[str, Any], send: Send, stop: threading.Event) -> dict[str, Any]:
    module = import_tensorrt()
    from edgedit.device.trt.log import Log
    from edgedit.device.trt.monitor import Monitor
    from edgedit.device.trt.network import (
        Wish,
        configure,
        inspect_plan,
        keep_timing_cache,
        make_builder,
        parse,
        use_timing_cache,
    )

    log, folder = Log(sys.stderr), Path(request["folder"])
    model = Path(request["model"]).read_bytes()
    if (seen := hashlib.sha256(model).hexdigest()) != request["onnx_sha256"]:
        raise Failure("changed", text=f"sha256 {seen[:16]}…, the bundle's manifest says {request['onnx_sha256'][:16]}…")
    monitor = Monitor(send, stop)
    builder = make_builder(log)
    network = parse(builder, log, model)
    replaced: list[str] = []
    if request["attention"] == "iattention":
        from edgedit.device.trt.attention import replace_attention

        replaced = replace_attention(network)
        if not replaced:
            raise Failure("attention", problems=["no MatMul–Softmax–MatMul of the exported form was found"])
    wish = Wish(request["workspace_mb"], request["optimization_level"],
                {name: tuple(shape) for name, shape in request["largest"].items()})
    config = configure(builder, wish, monitor)
    timing = Path(request["timing_cache"])
    known = use_timing_cache(config, timing)
    plan = builder.build_serialized_network(network, config)
    if stop.is_set():
        raise Failure("stopped")
    if plan is None:
        raise Failure("null", problems=log.problems())
    data, level = bytes(plan), int(config.builder_optimization_level)
    _write(folder / "engine.plan", data)
    unkept = keep_timing_cache(config, timing)
    del plan, network, config, builder  # the engine needs the memory
    _write(folder / "layers.json", inspect_plan(log, data).encode())
    return {"tensorrt": tensorrt_version(module), "optimization_level": level, "timing_cache_known": known,
            "timing_cache_unkept": unkept, "replaced": replaced, "plan_bytes": len(data), "problems": log.problems()}


def _write(file: Path, data: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""Small pairs, tables and stand-in jobs for the sweep's tests.

A stand-in job is a command of its own that writes an artifact of the right kind in a moment: it knows nothing of training. What it
stands for is the contract between a sweep and its commands: an artifact in --out and exit status 0; 130 after saving on SIGTERM;
"error: …" otherwise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgedit.core.artifact import create
from edgedit.core.pairset import KIND as PAIRS
from edgedit.core.pairset import image_file, label_file
from edgedit.design.sweep.plan import KINDS, PYTHON, SWEEP, Job, Plan, PlannedRow
from edgedit.design.sweep.state import Folder

SCRIPT = '''
import signal, sys, time
from pathlib import Path
from edgedit.core.artifact import create
kind, out, text, behave = sys.argv[1:5]
Path(out + ".ran").open("a").write("x")
def put(**info):
    with create(out, kind) as draft:
        draft.write("text", text)
        draft.info = info
def save(*_):
    put(saved=True)
    print("error: stopped; everything is saved", flush=True)
    raise SystemExit(130)
if behave == "fail":
    print("train  50% 1/2 steps\\nerror: the loss is not finite\\n  saw: nan\\n  fix: none", file=sys.stderr)
    raise SystemExit(5)
if behave == "crash":
    raise RuntimeError("no such luck")
if behave == "long":
    signal.signal(signal.SIGTERM, save)
    print("train          37% 37/100 steps", flush=True)
    Path(out + ".began").touch()
    for _ in range(600):
        time.sleep(0.1)  # a handler that comes just too late to break one off runs after it
if behave == "deaf":
    time.sleep(60)
if behave == "nothing":
    raise SystemExit(0)
put(saved=False)
'''


def fake(name: str, kind: str = "train", behave: str = "well", after: tuple[str, ...] = (), text: str = "") -> Job:
    """A stand-in job; `text` makes its command another one."""
    out = f"rows/{name}"
    return Job(name, kind, (PYTHON, "-c", SCRIPT, KINDS[kind], f"{SWEEP}/{out}", text, behave), out, after, {})


def fake_plan(*jobs: Job, table: str = "fakes") -> Plan:
    """A plan of stand-in jobs, a row for each."""
    rows = tuple(PlannedRow(j.name, None, "get", "l1", "fp32", None, {j.kind: j.name}, 10, 2, 5, None, "the table's", ()) for j in jobs)
    return Plan(table, "", {"path": "/nowhere", "digest": "0" * 64, "count": 10, "label": ""}, rows, {j.name: j for j in jobs}, {})


def runs(folder: Folder, name: str) -> int:
    """How often a stand-in job's command was begun."""
    file = folder.path / f"rows/{name}.ran"
    return len(file.read_text()) if file.exists() else 0


def write_pairs(out: Path, count: int = 40, shard: int = 16, image: int = 8, channels: int = 1) -> Path:
    """Pairs of random images, in several shards."""
    rng = np.random.default_rng(0)
    with create(out, PAIRS) as draft:
        for k, start in enumerate(range(0, count, shard)):
            n = min(shard, count - start)
            np.save(draft.path / image_file(k), rng.integers(0, 256, (n, image, image, channels), np.uint8))
            np.save(draft.path / label_file(k), (np.arange(start, start + n) % 10).astype(np.uint8))
        draft.info = {"count": count, "shard_size": shard, "image": image, "channels": channels, "classes": 10, "start": 0, "seed": 0,
                      "class_names": [str(k) for k in range(10)], "noise": "seed", "teacher": {"kind": "test"}, "sampler": {},
                      "label": "test"}
    return out


TINY: dict[str, Any] = {"loss": "l1", "batch": 16, "threads": 1, "model": {"patch": 4}, "optimizer": {"lr": 1e-3}}

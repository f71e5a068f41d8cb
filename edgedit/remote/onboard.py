"""What runs on the board for `edgedit deploy`. Its source goes through ssh to `python3 -` with one request at the end.

Standard library only, Python 3.8 and newer: it must be able to say what a board lacks. Nothing of it stays on the board, and no
part of a request passes through a shell there. Each answer is one line, `MARK` and JSON, so that greetings of a login shell do
no harm. Long work is a *job*: a process of its own session under a small supervisor that outlives the ssh connection and notes
the exit status. The files of a job are `job.json` (who runs), `log` (stderr), `out` (stdout) and `status.json` (how it ended).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MARK = "@edgedit "
HEARTBEAT_S = 5.0
GRACE_S = 30.0
"""Seconds between SIGTERM and SIGKILL when a job is stopped; profile writes its record in that time."""


def emit(value: object) -> None:
    sys.stdout.write(MARK + json.dumps(value) + "\n")
    sys.stdout.flush()


def write_atomic(file: Path, value: object) -> None:
    part = file.with_name("." + file.name + ".part")
    with part.open("w") as stream:
        json.dump(value, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(str(part), str(file))


def read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return {}


def read_line(file: Path) -> str | None:
    try:
        return file.read_text(errors="replace").split("\n")[0].strip("\0 ")
    except OSError:
        return None


def environment(extra: dict[str, str]) -> dict[str, str]:
    """The environment of what is run: CUDA's tools on PATH, where JetPack does not put them."""
    known = dict(os.environ, PYTHONUNBUFFERED="1", **extra)
    if os.path.isdir("/usr/local/cuda/bin") and "/usr/local/cuda/bin" not in known.get("PATH", "").split(":"):
        known["PATH"] = "/usr/local/cuda/bin:" + known.get("PATH", "")
    return known


# --- single questions ---------------------------------------------------------------------------------------------------------


def facts(folder: str, root: str) -> dict[str, Any]:
    """What a deployment needs to know before it changes anything."""
    place, tree = Path(folder).expanduser().absolute(), Path(root)
    there = next(p for p in [place, *place.parents] if p.exists())
    return {"folder": str(place), "writable": os.access(str(there), os.W_OK), "free_mb": shutil.disk_usage(str(there)).free // 10**6,
            "machine": platform.machine(), "python": platform.python_version(), "ensurepip": has_module("ensurepip"),
            "tensorrt": has_module("tensorrt"), "pycuda": has_module("pycuda"),
            "nvcc": shutil.which("nvcc", path=environment({}).get("PATH")), "rsync": shutil.which("rsync"),
            "release": read_line(tree / "etc/nv_tegra_release"), "model": read_line(tree / "proc/device-tree/model")}


def has_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def recall(folder: str) -> dict[str, Any]:
    return read_json(Path(folder) / "deploy.json")


def remember(folder: str, step: str, value: Any) -> dict[str, Any]:
    known = recall(folder)
    known[step] = value
    write_atomic(Path(folder) / "deploy.json", known)
    return known


def make(folders: list[str]) -> dict[str, Any]:
    for folder in folders:
        Path(folder).mkdir(parents=True, exist_ok=True)
    return {}


def hashes(files: list[str]) -> dict[str, str | None]:
    """SHA-256 of each file, None where there is none."""
    found: dict[str, str | None] = {}
    for name in files:
        try:
            found[name] = hashlib.sha256(Path(name).read_bytes()).hexdigest()
        except OSError:
            found[name] = None
    return found


def run(argv: list[str], cwd: str, env: dict[str, str], timeout_s: float) -> dict[str, Any]:
    """Run a short command to its end."""
    try:
        done = subprocess.run(argv, cwd=cwd, env=environment(env), stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=timeout_s, errors="replace", check=False)
    except FileNotFoundError as error:
        return {"rc": 127, "out": "", "err": str(error)}
    except subprocess.TimeoutExpired:
        return {"rc": 124, "out": "", "err": f"no end after {timeout_s} s"}
    return {"rc": done.returncode, "out": done.stdout, "err": done.stderr}


# --- jobs ---------------------------------------------------------------------------------------------------------------------


def started_at(pid: int) -> str | None:
    """When a process began, in clock ticks since boot; with the boot's id it names a process for good. None: no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def boot_id() -> str | None:
    return read_line(Path("/proc/sys/kernel/random/boot_id"))


def alive(job: dict[str, Any], who: str) -> bool:
    if job.get("boot") != boot_id() or who not in job:
        return False
    began = started_at(job[who][0])
    return began is not None and began == job[who][1]


def status(folder: str, name: str) -> dict[str, Any]:
    """How a job stands: "none", "running", "ended" (with rc and stdout) or "lost" (its supervisor is gone without a word)."""
    place = Path(folder) / "jobs" / name
    job, end = read_json(place / "job.json"), read_json(place / "status.json")
    if not job:
        return {"state": "none", "attempt": 0}
    about = {"key": job["key"], "attempt": job["attempt"], "pid": job["pid"][0]}
    if end:
        return dict(about, state="ended", out=(place / "out").read_text(errors="replace"), **end)
    if alive(job, "pid"):
        return dict(about, state="running")
    return dict(about, state="lost", rebooted=job.get("boot") != boot_id())


def start(folder: str, name: str, key: str, commands: list[list[str]], cwd: str, env: dict[str, str],
          merge: bool) -> dict[str, Any]:
    """Start a job, unless this very one runs already; another one that runs is named and left alone.

    `merge` puts what the commands write to stdout into the log too.
    """
    jobs = Path(folder) / "jobs"
    place = jobs / name
    place.mkdir(parents=True, exist_ok=True)
    with (jobs / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for other in sorted(p.name for p in jobs.iterdir() if p.is_dir()):
            there = status(folder, other)
            if there["state"] == "running":
                return {"attached": True} if (other, there["key"]) == (name, key) else {"busy": other}
        before = status(folder, name)
        attempt = before["attempt"] + 1 if before["state"] == "lost" and before["key"] == key else 1
        orphan = read_json(place / "job.json")
        if alive(orphan, "child"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(orphan["child"][0], signal.SIGKILL)
        for stale in ("status.json", "stop"):
            with contextlib.suppress(FileNotFoundError):
                (place / stale).unlink()
        job = {"key": key, "attempt": attempt, "boot": boot_id(), "commands": commands, "merge": merge}
        detach(place, job, commands, cwd, environment(env))
    return {"attached": False}


def detach(place: Path, job: dict[str, Any], commands: list[list[str]], cwd: str, env: dict[str, str]) -> None:
    """Fork the supervisor into a session of its own and wait until it has signed in."""
    ready, signed = os.pipe()
    if os.fork():
        os.close(signed)
        said = os.read(ready, 1)
        if said != b"+":
            raise OSError(said[0] if said else 0, os.strerror(said[0]) if said else "the supervisor did not start", str(place))
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os.closerange(3, signed)  # among them the lock, which would stay taken
        os.closerange(signed + 1, 256)
        job["pid"] = [os.getpid(), started_at(os.getpid())]
        try:
            (place / "log").write_bytes(b"")
            write_atomic(place / "job.json", job)
        except OSError as error:
            os.write(signed, bytes([error.errno or 0]))
            raise
        os.write(signed, b"+")
        os.close(signed)
        write_atomic(place / "status.json", {"rc": supervise(place, job, commands, cwd, env), "stopped": (place / "stop").exists()})
    finally:
        os._exit(0)


def supervise(place: Path, job: dict[str, Any], commands: list[list[str]], cwd: str, env: dict[str, str]) -> int:
    """Run the commands in turn up to the first that fails; the exit status of the last one run."""
    rc = 0
    for argv in commands:
        with (place / "out").open("wb") as out, (place / "log").open("ab", buffering=0) as log:
            try:
                child = subprocess.Popen(argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=log if job["merge"] else out, stderr=log,
                                         start_new_session=True)
            except OSError as error:
                log.write(f"{error}\n".encode())
                return 127
            job["child"] = [child.pid, started_at(child.pid)]
            write_atomic(place / "job.json", job)
            rc = child.wait()
        if rc or (place / "stop").exists():
            break
    return rc


def stop(folder: str, name: str) -> dict[str, Any]:
    """End a job: SIGTERM, so that it saves what it has, then SIGKILL to all of it."""
    place = Path(folder) / "jobs" / name
    if status(folder, name)["state"] != "running":
        return status(folder, name)
    (place / "stop").touch()
    until = time.monotonic() + GRACE_S
    for number in (signal.SIGTERM, signal.SIGKILL):
        job = read_json(place / "job.json")
        if alive(job, "child"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(job["child"][0], number) if number == signal.SIGTERM else os.killpg(job["child"][0], number)
        while status(folder, name)["state"] == "running" and time.monotonic() < until:
            time.sleep(0.05)
        until += 5.0
    return status(folder, name)


def follow(folder: str, name: str, at: int) -> dict[str, Any]:
    """Tell the lines of a job's log from byte `at` as they come, then how it ended. A beat now and then shows that the link holds."""
    log, beat = Path(folder) / "jobs" / name / "log", time.monotonic()
    while True:
        now = status(folder, name)
        with log.open("rb") as stream:
            stream.seek(at)
            lines = stream.read(1 << 20).splitlines(True)
        for line in lines:
            if not line.endswith(b"\n") and now["state"] == "running":
                break
            at += len(line)
            emit({"line": line.decode(errors="replace").rstrip("\r\n"), "at": at})
        if now["state"] != "running" and at >= log.stat().st_size:
            return now
        if time.monotonic() - beat > HEARTBEAT_S:
            beat = time.monotonic()
            emit({"beat": at})
        if not lines:
            time.sleep(0.1)


VERBS: Any = {f.__name__: f for f in (facts, recall, remember, make, hashes, run, status, start, stop, follow)}


def main(request: dict[str, Any]) -> None:
    """Answer one request, {"verb": name, …arguments}."""
    verb = VERBS[request.pop("verb")]
    try:
        emit({"answer": verb(**request)})
    except BrokenPipeError:
        os._exit(1)
    except OSError as error:
        emit({"error": {"errno": error.errno, "text": error.strerror or str(error), "file": str(error.filename or "")}})

"""Jobs on a Ray cluster. Ray decides where each runs and tells when a node is lost; all files travel through a shared folder.

A job asks for a whole GPU, or on nodes without one for a whole node's processors, so that none disturbs another; profiles ask for the
largest node alone. Ray retries nothing: a job whose node went away is handed over again, and goes on from what it saved.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from edgedit import __version__
from edgedit.core.errors import MissingError, OutputError
from edgedit.core.files import write_atomic
from edgedit.core.say import Event, Say
from edgedit.design.sweep.plan import Job, Plan
from edgedit.design.sweep.settings import ClusterSettings
from edgedit.design.sweep.state import Folder
from edgedit.design.sweep.task import attempt_task, look_task

ANSWER_S = 3.0
"""How long a head may take to answer a knock."""
KNOCK_EVERY_S, KNOCKS = 2.0, 3
"""A head that does not answer so many knocks in a row has gone away."""
PROBE_S = 60.0
"""How long a node may take to look at the shared folder; its first Python worker is started for that."""
_AGAIN = "start it again, then the same command: what is done stays done"


class Cluster:
    """Jobs handed to Ray. `address` is where the head is knocked at, "" where Ray was begun here for this sweep."""

    def __init__(self, ray: ModuleType, address: str, folder: Folder, settings: ClusterSettings, say: Say) -> None:
        self.ray, self.address, self.folder, self.settings, self.say = ray, address, folder, settings, say
        self.retries = settings.retries
        self.tasks: dict[Any, tuple[Job, dict[str, float]]] = {}
        self.knocked, self.unanswered = time.monotonic(), 0

    def room(self) -> bool:
        """Always: Ray queues."""
        return True

    def start(self, job: Job) -> None:
        """Hand a job over."""
        needs = self.needs(job)
        remote = self.ray.remote(attempt_task()).options(max_retries=0, **needs)
        self.tasks[remote.remote(str(self.folder.path), job.name)] = job, needs

    def ended(self, wait_s: float) -> list[tuple[str, str]]:
        """Jobs that came back, and those whose node or worker did not.

        Raises:
            MissingError: the head went away.
        """
        self._knock()
        if not self.tasks:
            time.sleep(wait_s)
            return []
        try:
            ready, _ = self.ray.wait(list(self.tasks), num_returns=1, timeout=wait_s)
            return [self._result(ref) for ref in ready]
        except (ConnectionError, self.ray.exceptions.RaySystemError) as error:
            raise MissingError("the Ray head went away", saw=str(error).splitlines()[0], fix=_AGAIN) from error

    def _result(self, ref: Any) -> tuple[str, str]:
        job, _ = self.tasks.pop(ref)
        try:
            self.ray.get(ref)
        except self.ray.exceptions.TaskCancelledError:
            return job.name, "cancelled"
        except self.ray.exceptions.RayTaskError as error:  # the attempt could not even be started
            return job.name, f"it could not be started: {str(error).strip().splitlines()[-1]}"
        except (self.ray.exceptions.WorkerCrashedError, self.ray.exceptions.RayError) as error:
            return job.name, str(error).strip().splitlines()[0]
        return job.name, ""

    def stop(self) -> None:
        """Tell running jobs to save, and take back queued ones."""
        for ref in self.tasks:
            self.ray.cancel(ref, force=False)

    def running(self) -> int:
        """Jobs that have not come back."""
        return len(self.tasks)

    def needs(self, job: Job) -> dict[str, float]:
        """What a job asks Ray for."""
        nodes = [n["Resources"] for n in self.ray.nodes() if n["Alive"] and n["Resources"].get("CPU")] or [{"CPU": 1.0}]
        cpus, gpus = [float(n["CPU"]) for n in nodes], [float(n.get("GPU", 0)) for n in nodes]
        if job.kind in ("subset", "export"):
            return {"num_cpus": 1, "num_gpus": 0}
        gpu = (1.0 if max(gpus) else 0.0) if self.settings.gpus is None else self.settings.gpus
        if self.settings.cpus is not None:
            cpu = float(self.settings.cpus)
        elif job.kind == "profile":
            cpu = max(c for c, g in zip(cpus, gpus, strict=True) if g >= gpu)
        elif gpu:
            cpu = min(max(1.0, c // g) for c, g in zip(cpus, gpus, strict=True) if g)
        else:
            cpu = min(cpus)
        return {"num_cpus": cpu, "num_gpus": gpu}

    def _knock(self) -> None:
        """Every few seconds: is the head still there? And do queued jobs still ask for what some node has?"""
        if time.monotonic() - self.knocked < KNOCK_EVERY_S:
            return
        self.unanswered = 0 if not self.address or answers(self.address) else self.unanswered + 1
        self.knocked = time.monotonic()
        if self.unanswered >= KNOCKS:
            raise MissingError(f"the Ray head at {self.address} went away", saw=f"no answer for {KNOCKS * KNOCK_EVERY_S:.0f} s", fix=_AGAIN)
        if not self.unanswered:
            for ref, (job, needs) in list(self.tasks.items()):
                if self.folder.status(job.name).state == "queued" and self.needs(job) != needs:
                    self.say(Event(f"the nodes changed: {job.name} asks for {self.needs(job)['num_cpus']:g} processors now"))
                    self.ray.cancel(ref, force=False)
                    self.tasks.pop(ref)
                    self.start(job)


@contextmanager
def cluster(where: str, folder: Folder, plan: Plan, settings: ClusterSettings, say: Say) -> Iterator[Cluster]:
    """Connect to Ray and check every node.

    Args:
        where: "ray" or "ray://HEAD:10001".

    Raises:
        MissingError: no Ray here, no answer from the head, no edgedit on a node.
        OutputError: a node does not see the sweep's folder or the pairs.
    """
    address = find_head(where)
    with own_token() if not address else nullcontext():
        ray = import_ray()
        connect(ray, where, address)
        try:
            workers = Cluster(ray, address, folder, settings, say)
            check_nodes(ray, folder, plan, say)
            yield workers
        finally:
            if not address or answers(address):
                with suppress(ConnectionError, RuntimeError):
                    ray.shutdown()


@contextmanager
def own_token() -> Iterator[None]:
    """A token of its own for a Ray that is begun for this sweep: only its own processes are let in.

    Else Ray 2.60 writes one to the user's home, and every head that is started afterwards asks its clients for it. Ray reads
    these variables when it is imported: a process that has it loaded already, or a user who chose, is left alone.
    """
    if "ray" in sys.modules or "RAY_AUTH_MODE" in os.environ:
        yield
        return
    mine = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ.update(mine)
    try:
        yield
    finally:
        for name in mine:
            os.environ.pop(name, None)


def import_ray() -> ModuleType:
    """Ray; MissingError where it is not installed."""
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise MissingError("a sweep on a cluster needs Ray", saw=error, fix="pip install 'edgedit[cluster]', on every node") from error
    found: ModuleType = ray
    return found


def find_head(where: str) -> str:
    """HOST:PORT of the head; "" where none runs on this machine and `where` is "ray".

    Raises:
        MissingError: the head that was named does not answer.
    """
    if where != "ray":
        address = where.removeprefix("ray://")
        address = address if ":" in address else f"{address}:10001"
        if not answers(address):
            raise MissingError(f"no Ray head answers at {address}", saw=f"no connection within {ANSWER_S:g} s",
                               fix="on the head: ray start --head; it listens for clients at port 10001. What is done stays done")
        return address
    if named := os.environ.get("RAY_ADDRESS", "").removeprefix("ray://"):
        if named not in ("auto", "local") and not answers(named):
            raise MissingError(f"no Ray head answers at {named}", saw="the environment variable RAY_ADDRESS", fix=_AGAIN)
        if named not in ("auto", "local"):
            return named
    with suppress(OSError):
        last = (Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster").read_text().strip()
        return last if answers(last) else ""
    return ""


def answers(address: str) -> bool:
    """Whether something listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_S):
            return True
    except (OSError, ValueError):
        return False


def connect(ray: ModuleType, where: str, address: str) -> None:
    """Join the cluster, or begin one here; MissingError where Ray refuses.

    A head that was started a moment ago answers and may yet fail to let a client in: it is asked once more.
    """
    if not address:
        place: dict[str, Any] = {"address": "local", "include_dashboard": False}
    else:
        place = {"address": address if where == "ray" else f"ray://{address}"}
    for again in (True, False):
        try:
            ray.init(**place, log_to_driver=False, logging_level="ERROR")
            return
        except (ConnectionError, RuntimeError, TimeoutError, OSError, ValueError) as error:
            if again and "Initialization failure" in str(error):
                time.sleep(KNOCK_EVERY_S)
                continue
            raise MissingError(f"Ray at {address or 'this machine'} cannot be used", saw=_short(error),
                               fix="the same Ray and the same Python 3.x on the head, the nodes and here; a head that asks for a "
                                   "token needs RAY_AUTH_MODE=token and its token here (docs.ray.io, token authentication); or "
                                   "--where local") from error


def check_nodes(ray: ModuleType, folder: Folder, plan: Plan, say: Say) -> None:
    """Let every node that can run jobs look at the sweep's folder and the pairs.

    Raises:
        OutputError, MissingError: what is missing, and on which node.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU")]
    if not nodes:
        raise MissingError("the Ray cluster has no node that runs jobs", fix="ray start --address HEAD:6379, on each node")
    token = folder.path / f".visible-{secrets.token_hex(8)}"
    write_atomic(token, token.name)
    look = ray.remote(look_task())
    try:
        asked = {}
        for n in nodes:
            there = look.options(num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(n["NodeID"], soft=False))
            asked[there.remote(str(token), plan.pairs["path"], __version__)] = n
        ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=PROBE_S)
        seen = [(asked[ref], _answer(ray, ref)) for ref in ready] + [(asked[ref], f"no answer within {PROBE_S:g} s") for ref in late]
    finally:
        token.unlink(missing_ok=True)
    bad = [f"{n['NodeManagerHostname']} ({n['NodeManagerAddress']}): {problem}" for n, problem in seen if problem]
    if bad:
        kind = MissingError if "edgedit" in bad[0] else OutputError
        raise kind("not every node of the cluster can run this sweep", saw="; ".join(bad),
                   fix="put --out and --pairs where every node sees them under the same path (NFS, say), with the same edgedit installed")
    say(Event(f"Ray: {len(nodes)} nodes, {sum(n['Resources']['CPU'] for n in nodes):g} processors, "
              f"{sum(n['Resources'].get('GPU', 0) for n in nodes):g} GPUs; all see {folder.path}"))


def _short(error: BaseException) -> str:
    """First and last line of what Ray says, which may be a page."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0] if len(lines) == 1 else f"{lines[0]} … {lines[-1]}"


def _answer(ray: ModuleType, ref: Any) -> str:
    try:
        return str(ray.get(ref))
    except ray.exceptions.RayError as error:
        return str(error).strip().splitlines()[-1]

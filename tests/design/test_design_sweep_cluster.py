"""A sweep on Ray: what can be said without a cluster, then a real one of two nodes on this machine, of which one is killed half-way."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgedit.core.errors import MissingError, UsageError
from edgedit.design.sweep import cluster
from edgedit.design.sweep.commands import flat
from edgedit.design.sweep.run import sweep
from edgedit.design.sweep.state import Folder
from tests.design.sweep_kit import TINY, write_pairs

STEPS = 1200


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_a_head_that_is_away_is_told_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    begin, port = time.monotonic(), free_port()
    with pytest.raises(MissingError, match=f"no Ray head answers at 127.0.0.1:{port}"):
        cluster.find_head(f"ray://127.0.0.1:{port}")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(MissingError, match="RAY_ADDRESS"):
        cluster.find_head("ray")
    assert time.monotonic() - begin < 3 * cluster.ANSWER_S


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingError, match="edgedit\\[cluster\\]"):
        cluster.import_ray()


def test_where_is_checked(tmp_path: Path) -> None:
    for where in ("cloud", "ray://", "http://x"):
        with pytest.raises(UsageError, match="this machine or on a Ray cluster"):
            sweep("table6", tmp_path, tmp_path / "s", where=where)


# --- a real cluster ---------------------------------------------------------------------------------------------------------


@dataclass
class RayNodes:
    """A head and further nodes on this machine, each a process tree of its own, one processor each."""

    folder: Path
    port: int = field(default_factory=free_port)
    client: int = field(default_factory=free_port)
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    token: str = field(default_factory=lambda: secrets.token_hex(32))

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "RAY_TMPDIR": str(self.folder), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token,
                "RAY_health_check_period_ms": "1000", "PYTHONPATH": str(Path(__file__).parents[2])}

    def start(self) -> None:
        """Start the head first, then another node; returns when it takes part."""
        head = [f"--port={self.port}", f"--ray-client-server-port={self.client}", "--head", "--include-dashboard=false"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", "--disable-usage-stats",
                   "--object-store-memory=80000000", *([f"--address=127.0.0.1:{self.port}"] if self.nodes else head)]
        log = (self.folder / f"node-{len(self.nodes)}.log").open("wb")
        self.nodes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment,
                                           start_new_session=True))
        end = time.monotonic() + 60
        while b"Ray runtime started" not in (self.folder / f"node-{len(self.nodes) - 1}.log").read_bytes():
            assert self.nodes[-1].poll() is None and time.monotonic() < end, Path(log.name).read_text()
            time.sleep(0.2)
        while not cluster.answers(f"127.0.0.1:{self.client}"):
            assert time.monotonic() < end, "the head never listened to clients"
            time.sleep(0.2)

    def kill(self, k: int) -> None:
        """The node's power goes off: SIGKILL to its raylet, its workers and all that they started, at once."""
        family = descendants(self.nodes[k].pid)
        for pid in family:
            os.kill(pid, signal.SIGSTOP)  # so that none of them sees another die first
        for pid in family:
            os.kill(pid, signal.SIGKILL)
        self.nodes[k].wait()


def descendants(pid: int) -> list[int]:
    """A process and all below it."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(after[1]), []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


@pytest.fixture
def ray_nodes() -> Iterator[RayNodes]:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'edgedit[cluster]'")
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:  # sockets need short paths
        nodes = RayNodes(Path(folder))
        try:
            nodes.start()
            yield nodes
        finally:
            for k, node in enumerate(nodes.nodes):
                if node.poll() is None:
                    nodes.kill(k)


def begin(nodes: RayNodes, folder: Path, where: str, steps: int = STEPS,
          environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """A sweep of two trainings, in a process of its own."""
    train = [f"train.{item}" for item in flat(TINY | {"steps": steps, "checkpoint_every": 25, "log_every": 25})]
    rows = [f"[[row]]\nname = 'r{k}'\ndesign = [1, {16 + 4 * k}, 2]" for k in range(2)]
    text = "\n".join([*train, *rows]).replace("=l1", "='l1'")
    (folder / "two.toml").write_text(text)
    code = ("import sys; from edgedit.design.sweep.run import sweep; from edgedit.design.sweep.settings import SweepSettings\n"
            "from edgedit.core.errors import EdgeditError\n"
            "def say(event): print(event.text, event.values, flush=True)\n"
            "try: sweep(*sys.argv[1:4], SweepSettings(stages=('train',)), where=sys.argv[4], say=say)\n"
            "except EdgeditError as error: print('error:', error, flush=True); raise SystemExit(error.code)")
    log = (folder / "sweep.log").open("a")
    command = [sys.executable, "-c", code, str(folder / "two.toml"), str(folder / "pairs"), str(folder / "s"), where]
    return subprocess.Popen(command, text=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                            env=environment or nodes.environment)


def until(what: str, found: Callable[[], object], run: subprocess.Popen[str], folder: Path) -> None:
    """Wait while the sweep runs, until something is true."""
    end = time.monotonic() + 120
    while not found():
        assert run.poll() is None and time.monotonic() < end, f"{what}: {(folder / 'sweep.log').read_text()[-3000:]}"
        time.sleep(0.1)


def saved(folder: Path, row: str) -> int:
    """Newest checkpoint's step of a training; 0 without one."""
    return max((int(p.name[5:]) for p in (folder / f"s/rows/{row}/student/state").glob("step-???????")), default=0)


@pytest.mark.slow
def test_a_node_that_is_killed_half_way_loses_nothing(ray_nodes: RayNodes, tmp_path: Path) -> None:
    ray_nodes.start()
    write_pairs(tmp_path / "pairs", 200)
    run = begin(ray_nodes, tmp_path, f"ray://127.0.0.1:{ray_nodes.client}")
    folder = Folder(tmp_path / "s")
    rows = ("r0", "r1")
    until("both train", lambda: all(saved(tmp_path, row) for row in rows), run, tmp_path)
    assert len({folder.status(f"train-{row}").node for row in rows}) == 2, "one on each node"
    tree = descendants(ray_nodes.nodes[1].pid)
    there = next(row for row in rows if any(f"rows/{row}/student" in Path(f"/proc/{p}/cmdline").read_text() for p in tree))
    ray_nodes.kill(1)
    kept = saved(tmp_path, there)
    assert 0 < kept < STEPS, "it was in the middle"
    assert run.wait(240) == 0, (tmp_path / "sweep.log").read_text()[-3000:]
    status = folder.status(f"train-{there}")
    assert [end for _, end in status.attempts] == ["lost", "done"] and status.attempts[0][0] != status.attempts[1][0]
    log = (folder.job_folder(f"train-{there}") / "log").read_text()
    assert f"going on from step {kept} of {STEPS}" in log
    for row in json.loads((folder.path / "rows.json").read_text()):
        assert row["status"] == "done" and row["budget"]["steps"] == STEPS


@pytest.mark.slow
def test_a_head_that_goes_away_is_told_and_nothing_is_lost(ray_nodes: RayNodes, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs", 200)
    run = begin(ray_nodes, tmp_path, f"ray://127.0.0.1:{ray_nodes.client}")
    until("it trains", lambda: saved(tmp_path, "r0"), run, tmp_path)
    ray_nodes.kill(0)
    assert run.wait(60) == MissingError.code, (tmp_path / "sweep.log").read_text()[-3000:]
    assert "went away" in (tmp_path / "sweep.log").read_text()
    kept = saved(tmp_path, "r0")
    again = begin(ray_nodes, tmp_path, "local")
    assert again.wait(240) == 0, (tmp_path / "sweep.log").read_text()[-3000:]
    assert f"going on from step {kept} of {STEPS}" in (tmp_path / "s/jobs/train-r0/log").read_text()


@pytest.mark.slow
def test_a_stop_lets_jobs_on_the_nodes_save(ray_nodes: RayNodes, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs", 200)
    run = begin(ray_nodes, tmp_path, f"ray://127.0.0.1:{ray_nodes.client}", steps=100_000)
    until("it trains", lambda: saved(tmp_path, "r0"), run, tmp_path)
    run.send_signal(signal.SIGTERM)
    assert run.wait(120) == 130, (tmp_path / "sweep.log").read_text()[-3000:]
    states = {row["name"]: (row["status"], row["why"]) for row in json.loads((tmp_path / "s/rows.json").read_text())}
    assert states["r0"][0] == states["r1"][0] == "stopped" and "not begun" in states["r1"][1]
    assert "everything is saved" in (tmp_path / "s/jobs/train-r0/log").read_text()


@pytest.mark.slow
def test_a_folder_that_a_node_does_not_see_is_named(ray_nodes: RayNodes) -> None:
    """The look that every node takes, asked for a place that is not there."""
    code = ("import ray, sys; from edgedit.design.sweep.task import look_task\n"
            "ray.init(sys.argv[1], log_to_driver=False); look = ray.remote(look_task())\n"
            "print(ray.get([look.remote('/nowhere/s/.visible', '/', v) for v in ('0.1.0', '9')]))")
    command = [sys.executable, "-c", code, f"ray://127.0.0.1:{ray_nodes.client}"]
    done = subprocess.run(command, env=ray_nodes.environment, capture_output=True, text=True, timeout=120)
    assert "it does not see the folder of the sweep, --out: /nowhere/s" in done.stdout, done.stderr
    assert "is installed there, 9 here" in done.stdout


@pytest.mark.slow
def test_ray_is_begun_here_where_none_runs(tmp_path: Path) -> None:
    """One Ray for one sweep; it leaves nothing in the user's home."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'edgedit[cluster]'")
    write_pairs(tmp_path / "pairs", 40)
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:
        (tmp_path / "home").mkdir()
        nodes = RayNodes(Path(folder))
        home = {k: v for k, v in nodes.environment.items() if not k.startswith("RAY_AUTH")} | {"HOME": str(tmp_path / "home")}
        run = begin(nodes, tmp_path, "ray", steps=3, environment=home)
        assert run.wait(180) == 0, (tmp_path / "sweep.log").read_text()[-3000:]
    assert [row["status"] for row in json.loads((tmp_path / "s/rows.json").read_text())] == ["done", "done"]
    assert not (tmp_path / "home/.ray").exists()

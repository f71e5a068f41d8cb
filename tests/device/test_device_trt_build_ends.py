"""Builds that end badly: killed, crashed, out of memory, stopped, no space. Real processes and real signals."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from edgedit.core.errors import EdgeditError, Interrupted, OutputError
from edgedit.core.say import Event, silent
from edgedit.core.settings import resolve
from edgedit.core.stop import StopRequest
from edgedit.device.bundle import Bundle
from edgedit.device.trt import memory, process
from edgedit.device.trt.build import BuildSettings, build
from edgedit.device.trt.engine import engines_folder
from edgedit.device.trt.failures import Attempt, Outcome, explain
from edgedit.device.trt.process import run_child
from tests import fake_tensorrt
from tests.device.engine_kit import ORIN, attention_bundle

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bundle(tmp_path):
    return attention_bundle(tmp_path / "bundle")


def left() -> list[str]:
    """What a failed build left in the cache of engines, logs apart."""
    return [path.name for path in engines_folder().iterdir() if not path.name.endswith(".failed.log")]


def children(cache: Path) -> list[str]:
    """Command lines of live builders that use this cache: others may build on the same machine."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if f"-m {process.CHILD}" in command and f"EDGEDIT_CACHE={cache}".encode() in (folder / "environ").read_bytes():
                found.append(command)
    return found


def test_a_child_killed_by_signal_9_is_explained(bundle, monkeypatch):
    fake_tensorrt.install(monkeypatch, build="kill")
    with pytest.raises(EdgeditError, match="signal 9") as died:
        build(bundle, resolve(BuildSettings, options={"workspace_mb": 700}), gpu=ORIN)
    saw, fix = died.value.saw or "", died.value.fix or ""
    assert "last phase '" in saw and "last phase 'none'" not in saw and "5,000 MB free for CUDA" in saw and "workspace 700 MB" in saw
    for advice in ("isolate multi-user.target", "drop_caches", "--workspace-mb 256", "--set optimization_level=2"):
        assert advice in fix
    assert left() == [] and list(engines_folder().glob("*.failed.log"))
    fake_tensorrt.install(monkeypatch)
    build(bundle, resolve(BuildSettings, options={"workspace_mb": 700}), gpu=ORIN)
    assert not list(engines_folder().glob("*.failed.log"))


@pytest.mark.parametrize("counted, words", [
    (True, "out-of-memory killer ended"), (False, "counts no out-of-memory kill"), (None, "usually the kernel out of memory")])
def test_who_killed_it_is_said_as_far_as_it_is_known(bundle, tmp_path, counted, words):
    attempt = Attempt(Bundle.open(bundle), "10.3.0", memory.Memory(400, None, 0, 3), 64, tmp_path / "no.log", tmp_path)
    error = explain(attempt, Outcome(-9, phase="", wall_s=3.2, killed_by_kernel=counted))
    assert words in error.what and "last phase 'none' after 3 s" in (error.saw or "") and "add swap" in (error.fix or "")


def test_a_gpu_without_memory_is_told_from_other_failures(bundle, monkeypatch):
    fake_tensorrt.install(monkeypatch, build="memory")
    with pytest.raises(EdgeditError, match="memory was not enough") as full:
        build(bundle, gpu=ORIN)
    assert "--workspace-mb 256" in (full.value.fix or "") and "emory" in (full.value.saw or "")


def test_no_engine_shows_what_tensorrt_said(bundle, monkeypatch):
    fake_tensorrt.install(monkeypatch, build="null")
    with pytest.raises(EdgeditError, match="built no engine") as nothing:
        build(bundle, gpu=ORIN)
    assert "Could not find any implementation" in (nothing.value.saw or "")
    log = next(engines_folder().glob("*.failed.log"))
    assert str(log) in (nothing.value.fix or "") and "Could not find any implementation" in log.read_text()


# --- asked to stop ------------------------------------------------------------------------------------------------------------

BUILD = """
import sys
from tests.device.engine_kit import ORIN
from edgedit.core.errors import EdgeditError
from edgedit.device.trt.build import build
def say(event):
    if event.total == 100:
        print("building", flush=True)
try:
    print(build(sys.argv[1], gpu=ORIN, say=say).path)
except EdgeditError as error:
    print(error, file=sys.stderr)
    raise SystemExit(error.code)
"""


def start(bundle: Path, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ['PYTHONPATH']}"}
    return subprocess.Popen([sys.executable, "-c", BUILD, str(bundle)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=environment, cwd=ROOT, **options)


@pytest.mark.parametrize("number, name", [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_build_that_is_asked_to_stop_leaves_nothing(bundle, cache, monkeypatch, number, name):
    fake_tensorrt.install(monkeypatch, build="slow")
    running = start(bundle)
    assert running.stdout is not None and running.stdout.readline() == "building\n"
    running.send_signal(number)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130 and f"stopped by {name}" in err and "Traceback" not in err
    assert left() == [] and children(cache) == []


def test_the_builder_does_not_outlive_a_parent_that_was_killed(bundle, cache, monkeypatch):
    fake_tensorrt.install(monkeypatch, build="slow")
    running = start(bundle)
    assert running.stdout is not None and running.stdout.readline() == "building\n"
    running.kill()
    running.communicate(timeout=30)
    until = time.monotonic() + 20
    while children(cache) and time.monotonic() < until:
        time.sleep(0.05)
    assert children(cache) == []
    rests = list(engines_folder().glob(".*.part"))
    assert len(rests) == 1  # nobody was left to remove it
    fake_tensorrt.install(monkeypatch)
    engine = build(bundle, gpu=ORIN)
    assert left() == [engine.path.name]  # the next build did


# --- a child that misbehaves --------------------------------------------------------------------------------------------------


def child(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """Run this code instead of the real child; `say(…)` sends a message."""
    (folder / "stand_in.py").write_text(textwrap.dedent("""\
        import json, os, signal, sys, time
        request = json.loads(sys.stdin.buffer.readline())
        def say(**message): os.write(int(sys.argv[1]), json.dumps(message).encode() + b"\\n")
        """) + textwrap.dedent(code))
    monkeypatch.setattr(process, "CHILD", "stand_in")
    monkeypatch.setenv("PYTHONPATH", str(folder))


def run(folder: Path, stop: StopRequest | None = None, say: Any = silent) -> Outcome:
    (folder / "work").mkdir(exist_ok=True)
    return run_child({"a": 1}, folder / "work", text="build", say=say, stop=StopRequest() if stop is None else stop)


def test_messages_become_an_outcome(tmp_path, monkeypatch):
    child(monkeypatch, tmp_path, """
        say(say="start", name="Building Engine", parent=None, steps=4)
        say(say="step", name="Building Engine", step=1)
        print("to the log"); print("errors too", file=sys.stderr)
        say(say="done", got=request)
        """)
    heard: list[Event] = []
    outcome = run(tmp_path, say=heard.append)
    assert outcome.code == 0 and outcome.done == {"got": {"a": 1}} and outcome.phase == "Building Engine" and not outcome.stopped
    assert heard[-1].done == 100 and (tmp_path / "work" / "build.log").read_text().splitlines() in (
        ["errors too", "to the log"], ["to the log", "errors too"])


def test_a_crash_names_the_signal_and_the_phase(bundle, tmp_path, monkeypatch):
    fake_tensorrt.install(monkeypatch)
    site = os.environ["PYTHONPATH"]
    child(monkeypatch, tmp_path, """
        say(say="start", name="Timing graph nodes", parent=None, steps=4)
        import faulthandler
        os.kill(os.getpid(), signal.SIGSEGV)
        """)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{site}")
    with pytest.raises(EdgeditError, match=r"crashed while building \(SIGSEGV\) during 'Timing graph nodes'") as died:
        build(bundle, gpu=ORIN)
    assert "Fatal Python error: Segmentation fault" in next(engines_folder().glob("*.failed.log")).read_text()
    assert "edgedit doctor" in (died.value.fix or "") and left() == []


def test_an_exit_without_a_word_is_told(bundle, tmp_path, monkeypatch):
    fake_tensorrt.install(monkeypatch)
    site = os.environ["PYTHONPATH"]
    child(monkeypatch, tmp_path, "sys.exit('it did not like it')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{site}")
    with pytest.raises(EdgeditError, match=r"before its first phase without a result \(exit status 1\)") as died:
        build(bundle, gpu=ORIN)
    assert "it did not like it" in (died.value.saw or "")


@pytest.mark.parametrize("deaf, ended_by", [("", -signal.SIGTERM), ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", -signal.SIGKILL)])
def test_a_child_that_does_not_stop_is_made_to(tmp_path, monkeypatch, deaf, ended_by):
    monkeypatch.setattr(process, "ASK_S", 0.2)
    monkeypatch.setattr(process, "TERMINATE_S", 0.2)
    child(monkeypatch, tmp_path, f"{deaf}\nsay(say='start', name='x', parent=None, steps=1)\ntime.sleep(60)")
    stop = StopRequest(deferred=True)

    def say(event: Event) -> None:
        stop.reason = "Ctrl-C" if event.values["phase"] else ""

    outcome = run(tmp_path, stop, say)
    assert outcome.code == ended_by and outcome.stopped == "Ctrl-C"


def test_a_listener_that_raises_leaves_no_child(tmp_path, cache, monkeypatch):
    child(monkeypatch, tmp_path, "say(say='start', name='x', parent=None, steps=1)\ntime.sleep(60)")

    def say(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, say=say)
    assert children(cache) == []


# --- disks --------------------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_told_and_leaves_nothing(bundle, monkeypatch):
    """A limit on file sizes in the building process stands for the disk: the write fails in the same place."""
    fake_tensorrt.install(monkeypatch)
    running = start(bundle, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)))
    _, err = running.communicate(timeout=60)
    assert running.returncode == OutputError.code and "could not be written" in err and "File too large" in err
    assert "Traceback" not in err and left() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_may_not_be_written(bundle, cache, monkeypatch):
    fake_tensorrt.install(monkeypatch)
    cache.mkdir(mode=0o500)
    with pytest.raises(OutputError):
        build(bundle, gpu=ORIN)


def test_something_in_the_way_of_the_cache(bundle, cache, monkeypatch):
    fake_tensorrt.install(monkeypatch)
    cache.write_text("a file")
    with pytest.raises(OutputError):
        build(bundle, gpu=ORIN)


def test_a_timing_cache_that_cannot_be_used_is_replaced(bundle, monkeypatch):
    from edgedit.device.trt.make import timing_cache_file

    fake_tensorrt.install(monkeypatch)
    file = timing_cache_file("10.3.0", ORIN)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"rubbish")
    assert build(bundle, gpu=ORIN).info["build"]["timing_cache_known"] is False
    assert build(bundle, gpu=ORIN, again=True).info["build"]["timing_cache_known"] is True and len(file.read_bytes()) > 20


def test_a_bundle_that_changes_while_it_is_built(bundle, monkeypatch):
    fake_tensorrt.install(monkeypatch)

    def say(event: Event) -> None:
        (bundle / "model.onnx").write_bytes(b"changed")

    with pytest.raises(EdgeditError, match="changed while it was being built"):
        build(bundle, gpu=ORIN, say=say)


def test_waiting_for_another_build_can_be_stopped(bundle, monkeypatch):
    from edgedit.core.files import held

    fake_tensorrt.install(monkeypatch)
    engines_folder().mkdir(parents=True)

    def say(event: Event) -> None:
        if "another build" in event.text:
            os.kill(os.getpid(), signal.SIGINT)

    with held(engines_folder(), "testing in"), pytest.raises(Interrupted, match="stopped by Ctrl-C"):
        build(bundle, gpu=ORIN, say=say)


# --- memory -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("total, free, asked, workspace, words", [
    (7620, 5000, None, 1024, "cap"), (7620, 1200, None, 688, "less 512"), (3900, 400, None, 64, "less 512"),
    (7620, 5000, 256, 256, "asked"), (16000, 9000, None, 8488, "less 512"), (80000, 70000, None, 69488, "less 512")])
def test_the_workspace_follows_from_free_memory(total, free, asked, workspace, words):
    from dataclasses import replace

    chosen, why = memory.choose_workspace(replace(ORIN, memory_mb=total, free_mb=free), asked)
    assert chosen == workspace and words in why


def test_kills_are_counted_for_the_machine_and_the_control_group(tmp_path):
    assert memory.oom_kills(tmp_path) is None and memory.peak_mb(1, tmp_path) is None and memory.available_mb(tmp_path) is None
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/vmstat").write_text("nr_free_pages 1\noom_kill 2\n")
    assert memory.oom_kills(tmp_path) == 2
    (tmp_path / "proc/self/cgroup").write_text("0::/docker/x\n")
    (tmp_path / "sys/fs/cgroup/docker/x").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/docker/x/memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    assert memory.oom_kills(tmp_path) == 3
    (tmp_path / "proc/meminfo").write_text("MemTotal: 7802880 kB\nMemAvailable: 4096000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n")
    text = memory.read_memory(ORIN, tmp_path).text()
    assert "4,000 MB available to the system" in text and "no swap" in text

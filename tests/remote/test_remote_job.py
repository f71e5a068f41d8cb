"""Jobs on the board: followed through broken connections, attached to, restarted after a power cut, stopped, and their failures."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from edgedit.core.errors import EdgeditError, Interrupted, OutputError
from edgedit.remote import onboard
from edgedit.remote.board import Board
from edgedit.remote.failures import Unreachable
from edgedit.remote.job import ATTEMPTS, Job, run_job, stop_jobs
from edgedit.remote.ssh import Connection

SLOW = """
import os, sys, time
open(sys.argv[1], 'a').write('x')
for i in range(20):
    print(f'line {i}', file=sys.stderr, flush=True)
    time.sleep(0.08)
while not all(os.path.exists(name) for name in sys.argv[2:]):  # goes on for as long as the test wants it to
    time.sleep(0.02)
print('end')
"""


@pytest.fixture
def place(fake, tmp_path):
    folder = fake.home / tmp_path.name
    folder.mkdir(parents=True)
    yield str(folder)
    for job in (folder / "jobs").glob("*/job.json"):
        for who in ("child", "pid"):
            with contextlib.suppress(ProcessLookupError, KeyError):
                os.kill(json.loads(job.read_text())[who][0], signal.SIGKILL)


@pytest.fixture
def talk(fake):
    said = []
    with Connection(fake.target) as connection:
        board = Board(connection, patience_s=20, say=said.append)
        board.said = said
        yield board


def python(code, *arguments, name="profile", key="k1"):
    return Job(name, key, ((sys.executable, "-c", code, *arguments),))


def texts(board):
    return [event.text for event in board.said]


def once(action, when):
    """A `say` that does something the first time an event satisfies `when`."""
    done = []

    def hear(event):
        if when(event) and not done:
            done.append(True)
            action()
    return hear


def listen(board, hear):
    said = board.said
    board.say = lambda event: (said.append(event), hear(event))


def job_file(place, name="profile"):
    return json.loads((Path(place) / "jobs" / name / "job.json").read_text())


def test_a_job_outlives_a_cut_connection_and_no_line_is_lost(fake, talk, place, tmp_path):
    listen(talk, once(fake.cut, lambda event: event.text == "board: line 5"))
    out = run_job(talk, place, python(SLOW, str(tmp_path / "runs")))
    assert out == "end\n"
    assert [t for t in texts(talk) if "line" in t] == [f"board: line {i}" for i in range(20)]
    assert (tmp_path / "runs").read_text() == "x", "it must not be started twice"
    assert any(event.level == "warning" and "trying again" in event.text for event in talk.said)


def test_a_board_that_is_away_for_a_while_is_waited_for(fake, talk, place, tmp_path):
    def leave():
        fake.stop()
        threading.Timer(1.0, fake.start).start()
    listen(talk, once(leave, lambda event: event.text == "board: line 3"))
    assert run_job(talk, place, python(SLOW, str(tmp_path / "runs"))) == "end\n"
    assert (tmp_path / "runs").read_text() == "x"
    assert any("refuse" in text for text in texts(talk))


def test_a_board_that_stays_away_is_given_up_and_the_job_goes_on(fake, talk, place, tmp_path):
    talk._patience_s = 0.5
    job = python(SLOW, str(tmp_path / "runs"), str(tmp_path / "go"))
    listen(talk, once(fake.stop, lambda event: event.text == "board: line 1"))
    try:
        with pytest.raises(Unreachable):
            run_job(talk, place, job)
    finally:
        fake.start()
    talk._patience_s = 20
    listen(talk, once((tmp_path / "go").touch, lambda event: "runs already" in event.text))
    assert run_job(talk, place, job) == "end\n"
    assert (tmp_path / "runs").read_text() == "x"
    assert any("runs already" in text for text in texts(talk))


@pytest.mark.parametrize("rebooted", [False, True])
def test_a_power_cut_on_the_board_starts_the_step_again(rebooted, talk, place, tmp_path):
    def cut():
        job = job_file(place)
        if rebooted:  # first and whole, so that nobody finds the dead processes in the old boot
            part = tmp_path / "job.json"
            part.write_text(json.dumps({**job, "boot": "another"}))
            part.replace(Path(place) / "jobs/profile/job.json")
        os.kill(job["pid"][0], signal.SIGKILL)
        os.kill(job["child"][0], signal.SIGKILL)
    listen(talk, once(cut, lambda event: event.text == "board: line 4"))
    assert run_job(talk, place, python(SLOW, str(tmp_path / "runs"))) == "end\n"
    assert (tmp_path / "runs").read_text() == "xx"
    assert any(("started again meanwhile" if rebooted else "process is gone") in text for text in texts(talk))


def test_a_job_that_keeps_vanishing_is_given_up(talk, place):
    vanish = "import os, signal, sys; print('power', file=sys.stderr, flush=True); os.kill(os.getppid(), signal.SIGKILL)"
    with pytest.raises(EdgeditError, match=f"{ATTEMPTS} times without a word") as caught:
        run_job(talk, place, python(vanish))
    assert "power supply" in str(caught.value.fix)


def test_one_job_at_a_time_and_stopping_it(talk, place, tmp_path):
    saves = ("import signal, sys, time\ndef save(*a):\n    open(sys.argv[1], 'w').write('saved'); sys.exit(130)\n"
             "signal.signal(signal.SIGTERM, save)\nprint('up', file=sys.stderr, flush=True)\n"
             "for _ in range(600):\n    time.sleep(0.1)")  # a handler that comes just too late to break one off runs after it
    job = python(saves, str(tmp_path / "saved"), name="generate")
    talk.ask("start", folder=place, name=job.name, key=job.key, commands=job.commands, cwd=place, env={}, merge=False)
    until = time.monotonic() + 10
    while "up" not in (Path(place) / "jobs/generate/log").read_text() and time.monotonic() < until:
        time.sleep(0.02)
    with pytest.raises(EdgeditError, match="another job runs on the board: generate"):
        run_job(talk, place, python("pass"))
    with pytest.raises(EdgeditError, match="another job runs"):
        run_job(talk, place, python("pass", name="generate", key="other"))
    assert stop_jobs(talk, place, ("profile", "generate")) == ["generate"]
    assert (tmp_path / "saved").read_text() == "saved"
    assert talk.ask("status", folder=place, name="generate")["stopped"] is True
    assert run_job(talk, place, python("print(1)")) == "1\n"


def test_a_host_that_follows_learns_that_the_job_was_stopped(fake, talk, place, tmp_path):
    def stop():
        onboard.stop(place, "profile")
    listen(talk, once(lambda: threading.Thread(target=stop).start(), lambda event: event.text == "board: line 2"))
    with pytest.raises(Interrupted, match="stopped on the board"):
        run_job(talk, place, python(SLOW, str(tmp_path / "runs")))


def test_a_job_that_ignores_sigterm_is_killed(place, monkeypatch):
    monkeypatch.setattr(onboard, "GRACE_S", 0.3)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    onboard.start(place, "build", "k", [[sys.executable, "-c", code]], place, {}, False)
    time.sleep(0.5)
    assert onboard.stop(place, "build")["rc"] == -signal.SIGKILL


FAILURES = {
    "json": ("import json, sys; print(json.dumps({'error': {'what': 'the plan is corrupt', 'saw': 'x', 'fix': 'y'}})); sys.exit(3)",
             EdgeditError, "the plan is corrupt"),
    "plain": ("import sys; sys.exit('some words')", EdgeditError, "some words"),
    "killed": ("import os; os.kill(os.getpid(), 9)", EdgeditError, "memory was full"),
    "disk": ("import sys; sys.exit('OSError: [Errno 28] No space left on device')", OutputError, "disk is full"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures_keep_the_boards_words(case, talk, place):
    code, kind, words = FAILURES[case]
    with pytest.raises(kind) as caught:
        run_job(talk, place, python(code))
    assert words in str(caught.value)


def test_a_command_that_is_not_there(talk, place):
    with pytest.raises(EdgeditError, match="exit code 127") as caught:
        run_job(talk, place, Job("build", "k", (("/no/such/edgedit", "build"),)))
    assert "/no/such/edgedit" in str(caught.value.saw)


def test_commands_run_in_turn_up_to_the_first_that_fails(talk, place, tmp_path):
    touch = "import sys; open(sys.argv[1], 'w'); sys.exit(int(sys.argv[2]))"
    commands = tuple((sys.executable, "-c", touch, str(tmp_path / name), code) for name, code in (("a", "0"), ("b", "5"), ("c", "0")))
    with pytest.raises(EdgeditError, match="exit code 5"):
        run_job(talk, place, Job("install", "k", commands))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_process_that_was_gone_before_it_was_looked_at_is_not_alive():
    assert not onboard.alive({"boot": onboard.boot_id(), "child": [2**22 + 1, None]}, "child")
    assert onboard.alive({"boot": onboard.boot_id(), "child": [os.getpid(), onboard.started_at(os.getpid())]}, "child")


def test_the_lock_is_free_after_a_start(place):
    """The supervisor must not inherit it: else the next start would wait for the job's end."""
    onboard.start(place, "build", "k", [[sys.executable, "-c", "import time; time.sleep(5)"]], place, {}, False)
    assert onboard.start(place, "build", "k", [["x"]], place, {}, False) == {"attached": True}
    assert onboard.status(place, "build")["state"] == "running"

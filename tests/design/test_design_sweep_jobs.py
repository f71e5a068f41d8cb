"""Jobs one after another: what is done stays done, what fails stops only its own, a stop saves. With stand-in commands (sweep_kit)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgedit.core.errors import ArtifactError, OutputError, UsageError
from edgedit.core.say import Event
from edgedit.core.stop import StopRequest
from edgedit.design.sweep import attempt
from edgedit.design.sweep.local import Local, close, start_attempt
from edgedit.design.sweep.plan import Job, Plan
from edgedit.design.sweep.results import load_sweep, seal_sweep
from edgedit.design.sweep.schedule import Run
from edgedit.design.sweep.state import SWEEP_FILE, Folder, Status, open_folder
from edgedit.design.sweep.view import View
from tests.design.sweep_kit import fake, fake_plan, runs


def carry_out(out: Path, *jobs: Job, stop: StopRequest | None = None,
              heard: list[Event] | None = None) -> tuple[Folder, dict[str, str], Plan]:
    """Run stand-in jobs locally; (folder, states, plan)."""
    plan = fake_plan(*jobs)
    folder = open_folder(out, plan)
    run = Run(plan, folder, Local(folder), (heard if heard is not None else []).append, lambda: None)
    run.go(StopRequest(deferred=True) if stop is None else stop)
    return folder, run.states, plan


def wait_for(file: Path, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < end, f"{file} never came"
        time.sleep(0.05)


def hold_on(folder: Folder, *jobs: Job) -> None:
    for job in jobs:
        folder.put_job(job, job.identity({a: "" for a in job.after}))


def test_what_is_done_is_not_run_again_and_what_changed_is(tmp_path: Path) -> None:
    first, second = fake("a"), fake("b", "export", after=("a",))
    folder, states, _ = carry_out(tmp_path / "s", first, second)
    assert states == {"a": "done", "b": "done"}
    carry_out(tmp_path / "s", first, second)
    assert (runs(folder, "a"), runs(folder, "b")) == (1, 1)
    carry_out(tmp_path / "s", first, fake("b", "export", after=("a",), text="otherwise"))
    assert (runs(folder, "a"), runs(folder, "b")) == (1, 2), "another command makes it anew"
    carry_out(tmp_path / "s", fake("a", text="new"), fake("b", "export", after=("a",), text="otherwise"))
    assert (runs(folder, "a"), runs(folder, "b")) == (2, 3), "what it was made from is another"


def test_an_output_that_went_away_is_made_again(tmp_path: Path) -> None:
    folder, _, _ = carry_out(tmp_path / "s", fake("a"))
    (folder.path / "rows/a/manifest.json").unlink()
    (folder.path / "rows/a/text").unlink()
    assert carry_out(tmp_path / "s", fake("a"))[1] == {"a": "done"} and runs(folder, "a") == 2


def test_a_moved_sweep_is_the_same(tmp_path: Path) -> None:
    carry_out(tmp_path / "s", fake("a"))
    (tmp_path / "s").rename(tmp_path / "moved")
    folder, states, _ = carry_out(tmp_path / "moved", fake("a"))
    assert states == {"a": "done"} and runs(folder, "a") == 1


def test_a_job_that_fails_stops_only_what_needs_it(tmp_path: Path) -> None:
    heard: list[Event] = []
    bundle, record = fake("bundle", "export", after=("bad",)), fake("record", "profile", after=("bundle",))
    jobs = (fake("bad", behave="fail"), bundle, record, fake("good"))
    folder, states, plan = carry_out(tmp_path / "s", *jobs, heard=heard)
    assert states == {"bad": "failed", "bundle": "waiting", "record": "waiting", "good": "done"}
    assert folder.status("bad").why == "the loss is not finite; saw: nan"
    assert folder.status("record").why == "waiting: bad failed"
    rows = {row.name: row for row in seal_sweep(plan, folder)}
    assert rows["bad"].status == "failed" and rows["bad"].why == "train: the loss is not finite; saw: nan"
    assert rows["record"].status == "waiting" and rows["good"].status == "done"
    assert any(e.level == "warning" and e.text.startswith("bad failed") for e in heard)
    folder, states, _ = carry_out(tmp_path / "s", fake("bad"), *jobs[1:])
    assert set(states.values()) == {"done"} and runs(folder, "good") == 1, "mended, the others follow"


@pytest.mark.parametrize(("behave", "why"), [("crash", "RuntimeError: no such luck"),
                                            ("nothing", "the command ended well and left no train")])
def test_why_is_the_last_word(tmp_path: Path, behave: str, why: str) -> None:
    folder, states, _ = carry_out(tmp_path / "s", fake("a", behave=behave))
    assert states == {"a": "failed"} and why in folder.status("a").why


def test_a_command_that_is_killed_says_by_what(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "s", fake_plan(fake("a", behave="long")))
    hold_on(folder, fake("a", behave="long"))

    def kill(wait_s: float) -> bool:
        if (folder.path / "rows/a.began").exists():
            children = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children").read_text().split()
            os.kill(int(children[-1]), signal.SIGKILL)
        time.sleep(wait_s)
        return False

    assert "killed by SIGKILL" in attempt.run(folder, "a", kill).why


def test_a_stop_lets_the_running_job_save_and_the_same_command_goes_on(tmp_path: Path) -> None:
    stop = StopRequest(deferred=True)
    began = tmp_path / "s/rows/a.began"
    asker = threading.Thread(target=lambda: (wait_for(began), setattr(stop, "reason", "SIGTERM")))
    asker.start()
    folder, states, plan = carry_out(tmp_path / "s", fake("a", behave="long"), fake("b"), stop=stop)
    asker.join()
    assert states == {"a": "stopped", "b": "new"}
    assert json.loads((folder.path / "rows/a/manifest.json").read_text())["info"] == {"saved": True}
    rows = seal_sweep(plan, folder)
    assert [row.status for row in rows] == ["stopped", "waiting"] and "goes on" in rows[0].why
    assert carry_out(tmp_path / "s", fake("a"), fake("b"))[1] == {"a": "done", "b": "done"}


def test_a_sweep_that_is_killed_leaves_no_job_behind(tmp_path: Path) -> None:
    job = fake("a", behave="long")
    folder = open_folder(tmp_path / "s", fake_plan(job))
    hold_on(folder, job)
    code = (f"from pathlib import Path; import time; from edgedit.design.sweep.local import start_attempt; from edgedit.design.sweep.state "
            f"import Folder; p = start_attempt(Folder(Path({str(folder.path)!r})), 'a'); time.sleep(60)")
    sweep = subprocess.Popen([sys.executable, "-c", code])
    wait_for(folder.path / "rows/a.began")
    sweep.kill()
    sweep.wait()
    wait_for(folder.path / "rows/a/manifest.json")
    end = time.monotonic() + 20
    while folder.status("a").state != "stopped":
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_second_start_waits_for_the_first_to_let_go(tmp_path: Path) -> None:
    job = fake("a", behave="long")
    folder = open_folder(tmp_path / "s", fake_plan(job))
    hold_on(folder, job)
    first = start_attempt(folder, "a", "one")
    wait_for(folder.path / "rows/a.began")
    folder.put_job(fake("a"), job.identity({}))
    second = start_attempt(folder, "a", "two")
    time.sleep(1.0)
    assert folder.status("a").node == "one"
    close(first)
    assert (first.wait(30), second.wait(30)) == (1, 0)
    close(second)
    assert folder.status("a").attempts == [["one", "stopped"], ["two", "done"]]


def test_an_evaluation_of_something_else_is_put_aside(tmp_path: Path) -> None:
    folder, _, _ = carry_out(tmp_path / "s", fake("e", "evaluate"))
    (folder.path / "rows/e.partial").mkdir()
    carry_out(tmp_path / "s", fake("e", "evaluate", text="other"))
    assert (folder.path / "rows/e/text").read_text() == "other"
    assert not (folder.path / "rows/e.partial").exists() and not (folder.path / "rows/e.stale").exists()


def test_folders_that_are_something_else(tmp_path: Path) -> None:
    plan = fake_plan(fake("a"))
    open_folder(tmp_path / "s", plan)
    with pytest.raises(UsageError, match="holds another sweep"):
        open_folder(tmp_path / "s", fake_plan(fake("a"), table="others"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    with pytest.raises(OutputError, match="no sweep made"):
        open_folder(tmp_path / "mine", plan)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file"):
        open_folder(tmp_path / "file", plan)
    (tmp_path / "s" / SWEEP_FILE).write_text("{")
    with pytest.raises(ArtifactError, match="cannot be read"):
        open_folder(tmp_path / "s", plan)


def test_rows_are_sealed_and_read_back(tmp_path: Path) -> None:
    folder, _, plan = carry_out(tmp_path / "s", fake("a"))
    rows = seal_sweep(plan, folder)
    assert load_sweep(folder.path) == rows
    (folder.path / "rows.json").write_text("[]")
    with pytest.raises(ArtifactError):
        load_sweep(folder.path)


def test_the_view_names_running_jobs_and_counts_the_rest(tmp_path: Path) -> None:
    jobs = [fake(f"j{k}") for k in range(8)]
    heard: list[Event] = []
    folder = open_folder(tmp_path / "s", fake_plan(*jobs))
    hold_on(folder, *jobs)
    for k in range(6):
        folder.set_status(f"j{k}", Status("running" if k < 5 else "queued"))
    said = b"$ x\ntrain           5% 1/20 steps\rtrain          45% 9/20 steps  loss 0.1\nsaved 100% of it\n"
    (folder.job_folder("j0") / "log").write_bytes(said)
    View(fake_plan(*jobs), folder, heard.append).show({f"j{k}": "running" if k < 6 else ("failed", "done")[k - 6] for k in range(8)})
    event = heard[0]
    assert (event.text, event.done, event.total, event.unit) == ("sweep", 2, 8, "jobs")
    assert event.values == {"j0": "45%", "j1": "begins", "j2": "begins", "j3": "begins", "others": "1", "queued": "1", "failed": "1"}

"""The stage: format, resuming after every kind of stop with the same bytes, workers, refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from teacher_kit import SLOW_PAIRS

from edgedit.core.artifact import open_artifact
from edgedit.core.errors import ArtifactError, EdgeditError, Interrupted, OutputError, UsageError
from edgedit.core.noise import noise
from edgedit.core.pairset import PairSet
from edgedit.core.say import Event
from edgedit.core.settings import resolve
from edgedit.teach import workers
from edgedit.teach.data import load_data
from edgedit.teach.pairs import make_pairs
from edgedit.teach.settings import PairSettings

SMALL = PairSettings(data="digits", image=8, count=230, shard_size=50, batch=16, seed=7, workers=1)

@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Pairs of a run that was never stopped."""
    out = tmp_path_factory.mktemp("whole") / "pairs"
    make_pairs(out, SMALL)
    return out


def payload(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "manifest.json"}


def start(out: Path, settings: PairSettings, delay_s: float, tmp_path: Path) -> subprocess.Popen:
    script = tmp_path / "run.py"
    script.write_text(SLOW_PAIRS)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(script), str(out), settings.model_dump_json(), str(delay_s)], env=env,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen, file: Path) -> None:
    deadline = time.monotonic() + 60
    while not file.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_format(whole) -> None:
    pairs = PairSet.open(whole)
    assert len(pairs) == 230 and pairs.shards == 5 and pairs.shape == (1, 8, 8) and pairs.classes == 10
    assert pairs.labels(range(12)).tolist() == [*range(10), 0, 1]
    assert np.array_equal(pairs.noise([3, 200]), noise(7, [3, 200], (1, 8, 8)))
    info = pairs.info
    assert info["label"] == "ideal/digits" and info["noise"] == "seed" and info["sampler"]["evaluations"] == 35
    data = load_data("digits", image=8)
    assert info["teacher"]["data_sha256"] == data.sha256
    real = sum(bool((data.images[data.labels == k] == x).all((1, 2, 3)).any())
               for x, k in zip(pairs.images(range(230)), pairs.labels(range(230)), strict=True))
    assert real > 220  # the ideal teacher ends on an image of the class, but for rare mixtures
    assert {p.name.split("-")[0] for p in whole.iterdir()} == {"images", "labels", "manifest.json"}
    assert os.listdir(whole.parent) == ["pairs"]


def test_a_finished_artifact_returns_at_once(whole, monkeypatch) -> None:
    before = (whole / "manifest.json").stat().st_mtime_ns
    monkeypatch.setattr("edgedit.teach.pairs.prepare", None)
    assert make_pairs(whole, SMALL.model_copy(update={"workers": 3})).info["count"] == 230
    assert (whole / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="seed: 7 there, 8 now"):
        make_pairs(whole, SMALL.model_copy(update={"seed": 8}))


@pytest.mark.parametrize("count, workers", [(1, 1), pytest.param(2, 2, marks=pytest.mark.slow)])
def test_kill_and_resume_give_the_same_bytes(whole, tmp_path, count: int, workers: int) -> None:
    """kill -9 after `count` shards, in the middle of the next; no process is left behind."""
    out = tmp_path / "pairs"
    settings = SMALL.model_copy(update={"workers": workers})
    process = start(out, settings, 0.4, tmp_path)
    wait_for(process, out.with_name("pairs.partial") / f"done-{count - 1:05d}.json")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split() if sys.platform == "linux" else []
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)
    partial = out.with_name("pairs.partial")
    (partial / ".images-00004.npy.123.part").write_bytes(b"half")
    events: list[Event] = []
    make_pairs(out, SMALL, say=events.append)
    assert events[0].done == events[0].started >= 50 and events[-1].done == 230
    assert payload(out) == payload(whole)
    assert not partial.exists()


def test_bytes_do_not_depend_on_workers(whole, tmp_path) -> None:
    make_pairs(tmp_path / "p", SMALL.model_copy(update={"workers": 2}))
    assert payload(tmp_path / "p") == payload(whole)
    mine, other = (open_artifact(p).manifest for p in (tmp_path / "p", whole))
    assert mine.settings == other.settings and mine.info == other.info and mine.files == other.files


def test_parts_of_one_seed_fit_together(whole, tmp_path) -> None:
    make_pairs(tmp_path / "p", SMALL.model_copy(update={"start": 100, "count": 50}))
    part, all_ = PairSet.open(tmp_path / "p"), PairSet.open(whole)
    assert np.array_equal(part.images(range(50)), all_.images(range(100, 150)))
    assert np.array_equal(part.noise([0, 49]), all_.noise([100, 149]))
    assert np.array_equal(part.labels(range(50)), all_.labels(range(100, 150)))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_clean(tmp_path, number: int) -> None:
    out = tmp_path / "pairs"
    process = start(out, SMALL.model_copy(update={"workers": 2}), 0.4, tmp_path)
    wait_for(process, out.with_name("pairs.partial") / "done-00000.json")
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    said = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    assert f"Interrupted: pairs: stopped by {said}" in error and process.returncode == 1
    assert out.with_name("pairs.partial").is_dir() and not out.exists()


def test_handlers_are_given_back(tmp_path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted):
        make_pairs(tmp_path / "p", SMALL, say=lambda event: os.kill(os.getpid(), signal.SIGTERM))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def _begun(tmp_path: Path, monkeypatch, shards: int = 2) -> Path:
    """A run stopped after some shards."""
    real, seen = workers.write_shard, []

    def stop(teacher, job, shard, progress):
        if len(seen) == shards:
            raise Interrupted("stopped")
        seen.append(shard)
        real(teacher, job, shard, progress)

    monkeypatch.setattr(workers, "write_shard", stop)
    with pytest.raises(Interrupted):
        make_pairs(tmp_path / "p", SMALL)
    monkeypatch.setattr(workers, "write_shard", real)
    return tmp_path / "p.partial"


@pytest.mark.parametrize("harm", ["cut", "bit", "gone", "receipt"])
def test_a_damaged_shard_is_made_again(whole, tmp_path, monkeypatch, harm: str) -> None:
    partial = _begun(tmp_path, monkeypatch)
    file = partial / "images-00001.npy"
    raw = bytearray(file.read_bytes())
    raw[-5] ^= 1
    if harm == "gone":
        file.unlink()
    elif harm == "receipt":
        (partial / "done-00001.json").write_text("{")
    else:
        file.write_bytes(raw[:-100] if harm == "cut" else raw)
    events: list[Event] = []
    make_pairs(tmp_path / "p", SMALL, say=events.append)
    assert [e.text for e in events if e.level == "warning"] == ["shard 1 was damaged since it was made; it is made again"]
    assert payload(tmp_path / "p") == payload(whole)


def test_a_partial_of_other_settings_is_left_alone(tmp_path, monkeypatch) -> None:
    partial = _begun(tmp_path, monkeypatch)
    before = payload(partial)
    for change in ({"count": 231}, {"steps": 17}, {"image": 16}):
        with pytest.raises(UsageError, match=next(iter(change))):
            make_pairs(tmp_path / "p", SMALL.model_copy(update=change))
    assert payload(partial) == before


def test_a_stop_between_sealing_and_naming(whole, tmp_path, monkeypatch) -> None:
    def stop(partial):
        raise Interrupted("stopped")

    real = os.replace
    monkeypatch.setattr("edgedit.teach.pairs.Partial.publish", stop)
    with pytest.raises(Interrupted):
        make_pairs(tmp_path / "p", SMALL)
    monkeypatch.undo()
    assert os.replace is real and (tmp_path / "p.partial" / "manifest.json").exists()
    make_pairs(tmp_path / "p", SMALL)
    assert payload(tmp_path / "p") == payload(whole)


def test_changed_data_are_noticed(tmp_path) -> None:
    from PIL import Image

    for k in ("a", "b"):
        (tmp_path / "set" / k).mkdir(parents=True)
        Image.new("RGB", (8, 8), "red").save(tmp_path / "set" / k / "1.png")
    settings = PairSettings(data=str(tmp_path / "set"), image=8, count=9, shard_size=3, workers=1)

    def stop_after_a_shard(event: Event) -> None:
        if event.done == 6:  # told before its receipt is written: the shard before it is whole
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        make_pairs(tmp_path / "p", settings, say=stop_after_a_shard)
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "set" / "a" / "1.png")
    with pytest.raises(UsageError, match="sha256"):
        make_pairs(tmp_path / "p", settings)


def test_what_is_refused(whole, tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match="did not make"):
        make_pairs(tmp_path / "mine", SMALL)
    (tmp_path / "p.partial").mkdir()
    (tmp_path / "p.partial" / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match="did not make"):
        make_pairs(tmp_path / "p", SMALL)
    assert os.listdir(tmp_path / "p.partial") != [] and (tmp_path / "p.partial" / "thesis.tex").exists()
    with pytest.raises(UsageError, match="sigma_min"):
        make_pairs(tmp_path / "q", PairSettings(sigma_min=90))
    with pytest.raises(UsageError, match="device"):
        make_pairs(tmp_path / "q", PairSettings(device="cdua"))
    with pytest.raises(UsageError, match="no data set"):
        make_pairs(tmp_path / "q", PairSettings(data="digitz"))
    with pytest.raises(UsageError, match="count"):
        resolve(PairSettings, options={"count": 0})


def test_one_writer_at_a_time(tmp_path) -> None:
    inside, errors = threading.Event(), []

    def second(event: Event) -> None:
        if not inside.is_set():
            inside.set()
            try:
                make_pairs(tmp_path / "p", SMALL)
            except OutputError as error:
                errors.append(error)

    make_pairs(tmp_path / "p", SMALL, say=second)
    assert len(errors) == 1 and "another process is writing" in str(errors[0])


def test_truncated_pairs_are_an_error(whole, tmp_path) -> None:
    import shutil

    shutil.copytree(whole, tmp_path / "p")
    file = tmp_path / "p" / "images-00002.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="truncated"):
        make_pairs(tmp_path / "p", SMALL)


def _dies(*args: object) -> None:
    os._exit(9)


@pytest.mark.slow
def test_a_dead_worker_is_reported(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(workers, "_worker", _dies)
    with pytest.raises(EdgeditError, match="worker process died"):
        make_pairs(tmp_path / "p", SMALL.model_copy(update={"workers": 2}))


@pytest.mark.slow
def test_a_workers_error_reaches_the_caller(tmp_path, monkeypatch) -> None:
    (tmp_path / "empty").mkdir()
    job = workers.Job(tmp_path / "empty", 4, 0, 0, 2, 2, "cpu", 18, 0.002, 80.0, 7.0)
    with pytest.raises(RuntimeError, match="FileNotFoundError"):
        workers.run_processes(job, [0, 1], 2, lambda n: None)


def test_size_on_disk(whole) -> None:
    """Pixels, one byte of label, and a header of 128 bytes a file: 3,073.1 bytes an image for CIFAR-10."""
    assert sum(map(len, payload(whole).values())) == 230 * (8 * 8 + 1) + 5 * 2 * 128


def test_a_run_that_never_made_a_shard_gives_way_to_other_settings(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        make_pairs(tmp_path / "p", PairSettings(data=str(tmp_path / "no-such-folder"), count=4))
    assert (tmp_path / "p.partial").is_dir()
    manifest = make_pairs(tmp_path / "p", PairSettings(data="digits", count=4, workers=1))
    assert manifest.info["count"] == 4


def test_a_path_is_kept_as_given_and_known_again_in_another_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    (tmp_path / "set" / "red").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "set" / "red" / "1.png")
    monkeypatch.chdir(tmp_path)
    first = make_pairs(tmp_path / "p", PairSettings(data="set", image=8, count=2, workers=1))
    assert str(tmp_path) not in (tmp_path / "p" / "manifest.json").read_text()
    again = make_pairs(tmp_path / "p", PairSettings(data=str(tmp_path / "set"), image=8, count=2, workers=1))
    assert again.digest == first.digest

"""Several processes as one run: real processes, started by torchrun, over gloo on the CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from distill_kit import TINY, tiny, write_pairs
from safetensors.torch import load_file

from edgedit.core.artifact import open_artifact
from edgedit.distill import train
from edgedit.learn.logs import METRICS, read_metrics
from edgedit.learn.ranks import ALONE, joined
from edgedit.learn.state import load_state

ROOT = Path(__file__).parents[2]


def command(pairs: Path, out: Path, *more: str, processes: int = 2) -> list[str]:
    flat = {**{f"model.{k}": v for k, v in TINY["model"].items()}, "optimizer.lr": 3e-3,
            **{k: v for k, v in TINY.items() if k not in ("model", "loss", "optimizer")}}
    sets = [part for key, value in flat.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "edgedit", "train",
            "--pairs", str(pairs), "--out", str(out), "--loss", "l1", *sets, *more]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(arguments, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def workers(torchrun: int) -> list[int]:
    children = Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split()
    return [int(pid) for pid in children if "edgedit" in Path(f"/proc/{pid}/cmdline").read_text()]


def largest_difference(a: Path, b: Path) -> float:
    one, two = (load_file(p / "student.safetensors") for p in (a, b))
    assert one.keys() == two.keys()
    return max(float((one[n] - two[n]).abs().max()) for n in one)


@pytest.fixture(scope="module")
def two(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes, to the end."""
    out = tmp_path_factory.mktemp("ranks") / "two"
    run = start(command(pairs, out))
    said, errors = run.communicate(timeout=240)
    assert run.returncode == 0, errors
    assert said.count("next: edgedit export") == 1  # one process speaks
    return out


def test_two_half_batches_follow_one_whole_batch(pairs, two, tmp_path):
    train(pairs, tmp_path / "one", tiny())
    assert open_artifact(two).manifest.info["processes"] == 2
    assert largest_difference(two, tmp_path / "one") < 2e-5
    one = [line["loss"] for line in read_metrics(tmp_path / "one" / METRICS)]
    both = [line["loss"] for line in read_metrics(two / METRICS)]
    assert both == pytest.approx(one, rel=1e-5)
    other = tmp_path / "other"  # the comparison can fail: another order of pairs is far outside it
    train(pairs, other, tiny(seed=4))
    assert largest_difference(two, other) > 1e-3


def test_another_number_of_processes_goes_on(pairs, two, tmp_path):
    out = tmp_path / "student"
    half = start(command(pairs, out, "--steps", "10"))
    assert half.wait(240) == 0
    train(pairs, out, tiny())
    assert open_artifact(out).manifest.info["complete"]
    assert largest_difference(two, out) < 2e-5


def test_a_killed_process_ends_the_job_and_the_same_command_goes_on(pairs, tmp_path):
    out = tmp_path / "student"
    arguments = command(pairs, out, "--steps", "4000", "--set", "checkpoint_every=5")
    job = start(arguments)
    deadline = time.monotonic() + 200
    while not (out / "state" / "step-0000010").is_dir():
        assert job.poll() is None and time.monotonic() < deadline, job.communicate()[1]
        time.sleep(0.01)
    os.kill(workers(job.pid)[1], signal.SIGKILL)
    _, errors = job.communicate(timeout=120)
    assert job.returncode != 0
    assert "another process of this run ended" in errors or "Signal 9" in errors
    found = load_state(out, lambda event: None)
    assert found is not None and 10 <= found[1].step < 4000
    again = start(command(pairs, out, "--steps", str(found[1].step + 5)))
    _, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors
    assert f"going on from step {found[1].step}" in errors
    assert open_artifact(out).manifest.info["step"] == found[1].step + 5


@pytest.mark.slow
def test_a_setup_with_a_network_of_its_own_follows_too(tmp_path):
    """DMD: the fake network learns beside the student, from the images of all processes."""
    from edgedit.core.artifact import create
    from edgedit.model.denoiser import Denoiser
    from edgedit.model.teacher import save_teacher
    from edgedit.model.unet import UNetSpec

    pairs, teacher = write_pairs(tmp_path / "pairs"), tmp_path / "teacher"
    spec = UNetSpec(width=8, multipliers=(1,), blocks=1, attention=(), image=8, channels=1, classes=3)
    with create(teacher, "teacher") as draft:
        save_teacher(draft.path / "teacher.safetensors", spec, Denoiser(spec).network.state_dict(), {})
    sets = {"setup.name": "dmd", "setup.teacher": str(teacher), "setup.any_teacher": "true"}
    more = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    assert start(command(pairs, tmp_path / "two", *more)).wait(240) == 0
    train(pairs, tmp_path / "one", tiny(setup__name="dmd", setup__teacher=str(teacher), setup__any_teacher=True))
    assert largest_difference(tmp_path / "one", tmp_path / "two") < 1e-4
    states = [load_state(tmp_path / name, lambda event: None) for name in ("one", "two")]
    fakes = [{n: t for n, t in found[0].items() if n.startswith("own.fake.")} for found in states if found is not None]
    assert len(fakes) == 2 and fakes[0] and max(float((fakes[0][n] - fakes[1][n]).abs().max()) for n in fakes[0]) < 1e-4


@pytest.mark.slow
def test_a_teacher_learns_by_torchrun(tmp_path):
    words = ["teacher", "train", "--preset", "unet-digits", "--image", "8", "--steps", "6", "--batch", "8", "--device", "cpu"]
    sets = {"unet.width": 16, "unet.multipliers": [1], "unet.patch": 1, "unet.attention": [], "sample_every": 0, "log_every": 2}
    words += [part for key, value in sets.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "edgedit"]
    assert start([*launch, *words, "--out", str(tmp_path / "two")]).wait(240) == 0
    assert start([sys.executable, "-m", "edgedit", *words, "--out", str(tmp_path / "one")]).wait(240) == 0
    one, two = (load_file(tmp_path / name / "teacher.safetensors") for name in ("one", "two"))
    assert max(float((one[n] - two[n]).abs().max()) for n in one) < 1e-4


def test_averages_go_over_all_tensors_at_once() -> None:
    tensors = [torch.ones(3), torch.zeros(2, 2)]
    ALONE.average(tensors)
    assert tensors[0].tolist() == [1, 1, 1] and ALONE.gather(5) == [5] and ALONE.lead(lambda: 7) == 7


def test_one_rank_alone_is_an_ordinary_run() -> None:
    assert ALONE.main and ALONE.rows(8) == range(8)
    with joined("cpu") as ranks:
        assert ranks == ALONE

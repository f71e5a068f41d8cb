"""Pairs from networks: the same images as the network itself gives, guidance, identity, several processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from teacher_kit import SLOW_PAIRS, SPEC, write_teacher

from edgedit.core.artifact import open_artifact
from edgedit.core.chain import chain
from edgedit.core.errors import ArtifactError, Interrupted, NumericsError, UsageError
from edgedit.core.noise import noise
from edgedit.core.pairset import PairSet, to_uint8
from edgedit.core.say import Event
from edgedit.model.denoiser import NO_CLASS, Denoiser
from edgedit.model.unet import UNetSpec
from edgedit.teach import workers
from edgedit.teach.network import PIECE, NetworkTeacher
from edgedit.teach.pairs import make_pairs
from edgedit.teach.sampler import heun, sigmas
from edgedit.teach.settings import PairSettings

FACTS = {"shape": [1, 8, 8], "class_names": ["a", "b", "c"], "identity": {"teacher": "unet"}}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A teacher trained with label dropout."""
    out = tmp_path_factory.mktemp("teachers") / "unet"
    write_teacher(out, label_dropout=0.1)
    return out


def settings(teacher: Path, **changes: object) -> PairSettings:
    values = {"teacher": str(teacher), "count": 50, "shard_size": 20, "batch": 8, "steps": 4, "seed": 7, "workers": 1, "device": "cpu"}
    return PairSettings.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "pairs"
    make_pairs(out, settings(folder))
    return out


def payload(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "manifest.json"}


def test_the_images_are_the_networks(folder, whole) -> None:
    """Against the plain network in one batch without pieces, layouts or mapped files."""
    pairs, model = PairSet.open(whole), write_teacher(folder.parent / "again", label_dropout=0.1)
    z, labels = torch.from_numpy(noise(7, range(50), (1, 8, 8))), torch.arange(50) % 3
    wanted = heun(lambda x, s, c: model(x, torch.full((len(x),), s), c), z, sigmas(4), labels)
    seen = pairs.images(range(50)).astype(int)
    assert np.abs(seen - to_uint8(wanted.numpy())).max() <= 1 and pairs.labels(range(50)).tolist() == labels.tolist()
    assert seen.std() > 10 and not np.array_equal(seen[0], seen[3])


def test_the_facts_and_the_chain(folder, whole) -> None:
    teacher, pairs = open_artifact(folder), open_artifact(whole)
    info, mine = pairs.manifest.info, pairs.manifest.info["teacher"]
    assert info["label"] == "unet/tests" and info["class_names"] == ["class 0", "class 1", "class 2"] and info["image"] == 8
    assert mine["teacher"] == "unet" and mine["digest"] == teacher.manifest.digest and mine["guidance"] == 1
    assert mine["weights_sha256"] == teacher.manifest.files["teacher.safetensors"]["sha256"]
    assert mine["parameters"] == SPEC.parameters and info["sampler"]["evaluations"] == 7
    assert [(link.role, link.kind, link.status) for link in chain(whole)] == [("this", "pairs", "verified"),
                                                                              ("teacher", "teacher", "verified")]
    assert {p.name.split("-")[0] for p in whole.iterdir()} == {"images", "labels", "manifest.json"}
    assert "data" not in pairs.manifest.settings and pairs.manifest.settings["precision"] == "fp32"


@pytest.mark.parametrize("rows", [1, PIECE, PIECE + 1, 40])
@pytest.mark.parametrize("guidance", [1.0, 0.0, 1.5])
def test_guidance_and_pieces(rows: int, guidance: float, tmp_path) -> None:
    model = write_teacher(tmp_path / "t")
    teacher = NetworkTeacher(model, FACTS, guidance=guidance)
    x, labels, level = torch.randn(rows, 1, 8, 8, dtype=torch.float64) * 3, torch.arange(rows) % 3, torch.full((rows,), 2.5)
    known, unknown = model(x, level, labels), model(x, level, torch.full_like(labels, NO_CLASS))
    assert (known - unknown).abs().max() > 1e-2
    torch.testing.assert_close(teacher.denoise(x, 2.5, labels), unknown + guidance * (known - unknown), rtol=1e-4, atol=1e-5)


def test_guidance_costs_one_pass(tmp_path) -> None:
    model, seen = write_teacher(tmp_path / "t"), []
    model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    NetworkTeacher(model, FACTS, guidance=2.0).denoise(torch.zeros(5, 1, 8, 8), 1.0, torch.zeros(5, dtype=torch.long))
    assert seen == [10]


def test_guidance_changes_the_pairs_and_needs_its_training(folder, whole, tmp_path) -> None:
    make_pairs(tmp_path / "p", settings(folder, guidance=3.0))
    assert payload(tmp_path / "p") != payload(whole)
    write_teacher(tmp_path / "edm", name="edm")
    with pytest.raises(UsageError, match="never asked without a class"):
        make_pairs(tmp_path / "q", settings(tmp_path / "edm", guidance=1.5))


def test_bf16_is_near_and_another_identity(folder, whole, tmp_path) -> None:
    make_pairs(tmp_path / "p", settings(folder, precision="bf16"))
    near, exact = (PairSet.open(p).images(range(50)).astype(int) for p in (tmp_path / "p", whole))
    assert 0 < np.abs(near - exact).mean() < 6
    with pytest.raises(UsageError, match="precision: bf16 there, fp32 now"):
        make_pairs(tmp_path / "p", settings(folder))
    with pytest.raises(UsageError, match="tf32"):
        make_pairs(tmp_path / "q", settings(folder, precision="tf32"))


@pytest.mark.slow
def test_bytes_do_not_depend_on_workers(folder, whole, tmp_path) -> None:
    make_pairs(tmp_path / "p", settings(folder, workers=2))
    assert payload(tmp_path / "p") == payload(whole)


def test_torch_is_as_it_was(folder, tmp_path) -> None:
    threads = torch.get_num_threads()
    make_pairs(tmp_path / "p", settings(folder, count=1))
    assert torch.get_num_threads() == threads


def stopped(tmp_path: Path, teacher: Path, monkeypatch) -> Path:
    """A run stopped after its first shard; its folder to be."""
    real, seen = workers.write_shard, []

    def stop(of, job, shard, progress):
        if seen:
            raise Interrupted("stopped")
        seen.append(shard)
        real(of, job, shard, progress)

    monkeypatch.setattr(workers, "write_shard", stop)
    with pytest.raises(Interrupted):
        make_pairs(tmp_path / "p", settings(teacher))
    monkeypatch.setattr(workers, "write_shard", real)
    return tmp_path / "p"


def test_another_teacher_under_the_same_path(tmp_path, monkeypatch) -> None:
    """Half-way, and when all is done; both weights are named. Turned back, the run goes on."""
    teacher, other = tmp_path / "t", tmp_path / "other"
    write_teacher(teacher, seed=1)
    write_teacher(other, seed=2)
    first, second = (open_artifact(t).manifest.files["teacher.safetensors"]["sha256"] for t in (teacher, other))

    def swap() -> None:
        teacher.rename(tmp_path / "aside")
        other.rename(teacher)
        (tmp_path / "aside").rename(other)

    out = stopped(tmp_path, teacher, monkeypatch)
    swap()
    with pytest.raises(UsageError, match=f"another teacher\n.*{first} there, {second} now"):
        make_pairs(out, settings(teacher))
    swap()
    make_pairs(out, settings(teacher))
    swap()
    with pytest.raises(UsageError, match=f"another teacher\n.*{first} there, .* {second} now"):
        make_pairs(out, settings(teacher))


def test_altered_weights(tmp_path, monkeypatch) -> None:
    teacher = tmp_path / "t"
    write_teacher(teacher)
    out = stopped(tmp_path, teacher, monkeypatch)
    raw = bytearray((teacher / "teacher.safetensors").read_bytes())
    raw[-3] ^= 1
    (teacher / "teacher.safetensors").write_bytes(raw)
    with pytest.raises(ArtifactError, match=r"altered after it was made\n.*sha256 .*manifest says"):
        make_pairs(out, settings(teacher))
    assert (tmp_path / "p.partial" / "done-00000.json").exists()


def test_a_finished_set_outlives_its_teacher(tmp_path) -> None:
    write_teacher(tmp_path / "t")
    made = make_pairs(tmp_path / "p", settings(tmp_path / "t", count=2))
    (tmp_path / "t").rename(tmp_path / "elsewhere")
    events: list[Event] = []
    assert make_pairs(tmp_path / "p", settings(tmp_path / "t", count=2), say=events.append).digest == made.digest
    assert "was not compared" in events[-1].text
    with pytest.raises(UsageError, match="teacher"):
        make_pairs(tmp_path / "p", settings(tmp_path / "elsewhere", count=2))


def test_two_spellings_of_one_teacher(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(folder.parent)
    first = make_pairs(tmp_path / "p", settings(Path(folder.name), count=2))
    assert make_pairs(tmp_path / "p", settings(folder, count=2)).digest == first.digest
    assert str(folder.parent) not in (tmp_path / "p" / "manifest.json").read_text()


def test_what_is_refused(folder, whole, tmp_path) -> None:
    with pytest.raises(UsageError, match="no teacher 'ideel'"):
        make_pairs(tmp_path / "q", settings(Path("ideel")))
    with pytest.raises(ArtifactError, match="'pairs', needed is 'teacher'"):
        make_pairs(tmp_path / "q", settings(whole))
    with pytest.raises(UsageError, match="guidance and compile: only networks"):
        make_pairs(tmp_path / "q", PairSettings(guidance=2, compile=True))
    write_teacher(tmp_path / "t", class_names=["one"])
    with pytest.raises(ArtifactError, match="1 names, 3 classes"):
        make_pairs(tmp_path / "q", settings(tmp_path / "t"))
    assert not (tmp_path / "q").exists()


def test_what_is_said(folder, tmp_path) -> None:
    events: list[Event] = []
    write_teacher(tmp_path / "t", complete=False, step=10, steps=100, data={"name": "mine", "sha256": "0"})
    make_pairs(tmp_path / "p", settings(tmp_path / "t", data="cifar10", image=32, count=2, workers=4), say=events.append)
    assert open_artifact(tmp_path / "p").manifest.info["label"] == "unet/mine"
    warnings = [e.text for e in events if e.level == "warning"]
    assert warnings[0].startswith("data and image: of no use here") and "not finished (step 10 of 100)" in warnings[1]
    assert any("3 of 4 processes have nothing to do (shard_size = 1" in e.text for e in events)


def test_nan_is_an_error(tmp_path, monkeypatch) -> None:
    write_teacher(tmp_path / "t")
    monkeypatch.setattr(Denoiser, "forward", lambda self, x, sigma, labels: x * float("nan"))
    with pytest.raises(NumericsError, match="NaN or infinity"):
        make_pairs(tmp_path / "p", settings(tmp_path / "t"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_weights_are_mapped(tmp_path) -> None:
    """The network's numbers lie in the file's pages, which all processes share, and not in memory of its own."""
    write_teacher(tmp_path / "t", UNetSpec(width=64, multipliers=(1, 2), blocks=1, attention=(), image=8, channels=3, classes=3))
    file = tmp_path / "t" / "teacher.safetensors"
    teacher = NetworkTeacher.mapped(file, {**FACTS, "shape": [3, 8, 8]})
    teacher.denoise(torch.zeros(2, 3, 8, 8), 1.0, torch.zeros(2, dtype=torch.long))
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(file))]
    ranges = [tuple(int(x, 16) for x in line[0].split("-")) for line in maps]
    model = teacher._model
    assert ranges and all(any(a <= p.data_ptr() < b for a, b in ranges) for p in model.parameters())


@pytest.mark.gpu
@pytest.mark.parametrize("changes", [{}, {"precision": "tf32"}, {"precision": "bf16"}, {"precision": "bf16", "compile": True}])
def test_a_gpu_gives_nearly_the_same(folder, whole, tmp_path, changes: dict[str, Any]) -> None:
    make_pairs(tmp_path / "p", settings(folder, device="cuda", **changes))
    near, exact = (PairSet.open(p).images(range(50)).astype(int) for p in (tmp_path / "p", whole))
    assert np.abs(near - exact).mean() < (6 if changes else 0.1)
    assert open_artifact(tmp_path / "p").manifest.settings["device"] == "cuda"


# --- several processes ------------------------------------------------------------------------------------------------------


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def start(command: list[str], **more: str) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **more}
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)


def torchrun(*command: str) -> subprocess.Popen:
    return start([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port(), *command])


def rank(number: int, port: str, out: Path, what: PairSettings, said: Any) -> None:
    """Body of one of two processes, with what torchrun would tell it."""
    os.environ.update(RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=port)
    make_pairs(out, what, say=lambda event: said.put((number, event.done)))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")
def test_two_ranks_give_the_same_bytes(folder, whole, tmp_path) -> None:
    context, port = multiprocessing.get_context("fork"), free_port()
    said: Any = context.SimpleQueue()
    processes = [context.Process(target=rank, args=(r, port, tmp_path / "p", settings(folder), said), daemon=True) for r in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [p.exitcode for p in processes] == [0, 0]
    assert payload(tmp_path / "p") == payload(whole) and not (tmp_path / "p.partial").exists()
    events = []
    while not said.empty():
        events.append(said.get())
    assert {number for number, _ in events} == {0}  # rank 0 speaks for all
    counts = [done for _, done in events]
    assert counts[0] == 0 and counts == sorted(counts) and counts[-1] == 50


@pytest.mark.slow
def test_torchrun_gives_the_same_bytes(folder, whole, tmp_path) -> None:
    sets = [f"--set={k}={v}" for k, v in {"shard_size": 20, "batch": 8, "steps": 4, "device": "cpu"}.items()]
    process = torchrun("-m", "edgedit", "pairs", "--teacher", str(folder), "--count", "50", "--seed", "7", "--workers", "1", "--out",
                       str(tmp_path / "p"), *sets)
    _, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    assert payload(tmp_path / "p") == payload(whole)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_job_and_the_same_command_goes_on(folder, whole, tmp_path, victim: int) -> None:
    """kill -9 of one of two; torchrun ends the other, which says so. One rank alone then finishes with the same bytes."""
    partial, script = tmp_path / "p.partial", tmp_path / "run.py"
    pid = f"import os\nopen({str(tmp_path)!r} + '/pid' + os.environ['RANK'], 'w').write(str(os.getpid()))\n"
    script.write_text(SLOW_PAIRS.replace("if __name__", pid + "if __name__"))
    process = torchrun(str(script), str(tmp_path / "p"), settings(folder, shard_size=4).model_dump_json(), "0.5")
    deadline = time.monotonic() + 100
    while len(list(partial.glob("done-*.json"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(int((tmp_path / f"pid{victim}").read_text()), signal.SIGKILL)
    _, error = process.communicate(timeout=100)
    assert process.returncode != 0 and ("when one of them ends" in error or "another process of this run ended" in error), error
    assert not (tmp_path / "p").exists() and 2 <= len(list(partial.glob("done-*.json"))) < 13
    events: list[Event] = []
    make_pairs(tmp_path / "p", settings(folder, shard_size=4), say=events.append)
    assert events[0].started >= 8
    pairs, all_ = PairSet.open(tmp_path / "p"), PairSet.open(whole)
    assert np.abs(pairs.images(range(50)).astype(int) - all_.images(range(50))).max() <= 1  # other shards, other batches
    assert json.loads((tmp_path / "p" / "manifest.json").read_text())["info"]["count"] == 50


def test_a_mistyped_teacher_leaves_nothing_behind(tmp_path) -> None:
    with pytest.raises(UsageError, match="no teacher"):
        make_pairs(tmp_path / "p", settings(tmp_path / "nope"))
    assert list(tmp_path.iterdir()) == []

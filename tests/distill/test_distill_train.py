from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from distill_kit import TINY, tiny, write_pairs
from PIL import Image
from safetensors.torch import load_file

from edgedit.core.artifact import open_artifact, seal
from edgedit.core.errors import ArtifactError, Interrupted, MissingError, NumericsError, OutputError, UsageError
from edgedit.core.files import held
from edgedit.core.pairset import PairSet, to_float
from edgedit.core.say import Event
from edgedit.distill import plan, train
from edgedit.learn.logs import METRICS, read_metrics
from edgedit.learn.order import batch_indices, chosen
from edgedit.learn.state import load_state
from edgedit.model.checkpoint import load_student
from edgedit.model.dit import DiT

ROOT = Path(__file__).parents[2]


def tensors(out: Path) -> dict[str, torch.Tensor]:
    """Everything of the newest checkpoint, and the exported weights."""
    last = sorted((out / "state").glob("step-*"))[-1]
    student = load_file(out / "student.safetensors")
    return {**load_file(last / "state.safetensors"), **{f"student.{n}": t for n, t in student.items()}}


def same(a: Path, b: Path) -> bool:
    x, y = tensors(a), tensors(b)
    return x.keys() == y.keys() and all(torch.equal(x[n], y[n]) for n in x)


def losses(out: Path) -> list[tuple[int, float, float]]:
    return [(line["step"], line["loss"], line["grad_norm"]) for line in read_metrics(out / METRICS)]


def stop_at(step: int, number: signal.Signals = signal.SIGTERM):
    def say(event: Event) -> None:
        if event.done is not None and event.done == step:
            signal.raise_signal(number)

    return say


@pytest.fixture(scope="module")
def whole(pairs, tmp_path_factory) -> Path:
    """An uninterrupted run of 20 steps."""
    out = tmp_path_factory.mktemp("whole") / "student"
    train(pairs, out, tiny(sample_every=10))
    return out


def test_a_run_leaves_what_it_promises(pairs, whole):
    model, artifact, info = load_student(whole)
    m = artifact.manifest
    assert m.kind == "student"
    assert [m.info[k] for k in ("step", "steps", "complete", "images_seen")] == [20, 20, True, 160]
    assert m.info["parameters"] == sum(p.numel() for p in model.parameters())
    assert m.info["class_names"] == ["class 0", "class 1", "class 2"] and m.info["label"] == "(2,16,2)"
    assert m.info["wall_s"] > 0 and m.info["loss"] == {"name": "l1"} and m.info["final_loss"] == losses(whole)[-1][1]
    assert [(p.role, p.digest) for p in m.parents] == [("pairs", open_artifact(pairs).manifest.digest)]
    assert set(m.files) == {"student.safetensors", "settings.json"}
    assert json.loads((whole / "settings.json").read_text()) == m.settings == tiny(sample_every=10).model_dump(mode="json")
    assert info["step"] == 20
    assert [step for step, *_ in losses(whole)] == [4, 8, 12, 16, 20]
    assert sorted(p.name for p in (whole / "state").iterdir()) == ["step-0000010", "step-0000015", "step-0000020"]
    assert sorted(p.name for p in (whole / "samples").iterdir()) == ["step-0000010.png", "step-0000020.png"]
    with Image.open(whole / "samples" / "step-0000020.png") as picture:
        assert picture.width > 8 * 64 and 3 * 64 < picture.height < 4 * 64
    assert not [p for p in whole.rglob("*") if p.suffix in (".pt", ".pth", ".pkl")]


def test_the_result_is_that_of_the_plain_algorithm(pairs, whole):
    data, s = PairSet.open(pairs), tiny()
    model = DiT(s.model.spec(data.shape, data.classes), seed=s.seed)
    average = {n: t.clone() for n, t in model.state_dict().items()}
    adamw = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3, weight_decay=0.01)
    seen = []
    for t in range(20):
        indices = batch_indices(s.seed, t, 8, len(data))
        labels = torch.from_numpy(np.where(chosen(s.seed, t, 8, 0.1), 3, data.labels(indices)))
        images = torch.from_numpy(to_float(data.images(indices)))
        loss = (model(torch.from_numpy(data.noise(indices)), labels) - images).abs().mean()
        seen.append(loss.item())
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        decay = (1 + t) / (10 + t)
        average = {n: decay * average[n] + (1 - decay) * value.detach() for n, value in model.state_dict().items()}
    result = load_student(whole)[0].state_dict()
    for name, expected in average.items():
        assert torch.allclose(result[name], expected, atol=1e-5), name
    means = np.reshape(seen, (5, 4)).mean(1)
    assert [value for _, value, _ in losses(whole)] == pytest.approx(means.tolist(), rel=1e-5)


def test_tensorboard_holds_the_metrics(whole):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = accumulator.EventAccumulator(str(whole / "tb"))
    board.Reload()
    seen = [(e.step, e.value) for e in board.Scalars("train/loss")]
    assert seen == [(step, pytest.approx(value, rel=1e-6)) for step, value, _ in losses(whole)]


def test_the_same_seed_gives_the_same_weights_and_another_does_not(pairs, whole, tmp_path):
    train(pairs, tmp_path / "again", tiny(loaders=3, checkpoint_every=7, log_every=3))
    train(pairs, tmp_path / "other", tiny(seed=4))
    assert same(whole, tmp_path / "again")
    assert not same(whole, tmp_path / "other")


def test_a_finished_run_returns_at_once(pairs, whole):
    before = (whole / "manifest.json").stat().st_mtime_ns
    said: list[Event] = []
    assert train(pairs, whole, tiny(sample_every=10), say=said.append).info["complete"]
    assert (whole / "manifest.json").stat().st_mtime_ns == before and not said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_same_command_goes_on_exactly(pairs, whole, tmp_path, number):
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    out = tmp_path / "student"
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    with pytest.raises(Interrupted, match=rf"stopped by {name} after step 9 of 20[\s\S]*same command") as caught:
        train(pairs, out, tiny(log_every=1), say=stop_at(8, number))
    assert caught.value.code == 130
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    manifest = open_artifact(out, "student").manifest
    assert manifest.info["step"] == 9 and manifest.info["complete"] is False
    said: list[Event] = []
    train(pairs, out, tiny(), say=said.append)
    assert any("from step 9 of 20" in e.text for e in said)
    assert {e.started for e in said if e.done} == {9}
    assert same(whole, out)


def test_metrics_after_a_stop_inside_a_window_are_those_of_a_whole_run(pairs, whole, tmp_path):
    out = tmp_path / "student"
    with pytest.raises(Interrupted):
        train(pairs, out, tiny(), say=stop_at(8))  # stops after step 9, with log_every=4
    with (out / METRICS).open("a") as stream:  # a killed run leaves lines past its checkpoint, the last one cut
        stream.write('{"step": 12, "loss": 7}\n{"step": 16, "lo')
    train(pairs, out, tiny())
    assert losses(out) == losses(whole)


CHILD = """
import json, sys
sys.path.insert(0, sys.argv[1])
from distill_kit import tiny
from edgedit.distill import train
train(sys.argv[2], sys.argv[3], tiny(**json.loads(sys.argv[4])))
"""


def test_killed_at_a_random_step_and_resumed_equals_uninterrupted_bit_for_bit(pairs, tmp_path):
    options = {"steps": 200, "checkpoint_every": 25, "log_every": 1}
    out, straight = tmp_path / "killed", tmp_path / "straight"
    arguments = [str(Path(__file__).parent), str(pairs), str(out), json.dumps(options)]
    child = subprocess.Popen([sys.executable, "-c", CHILD, *arguments], cwd=ROOT, stderr=subprocess.PIPE,
                             env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 120
        aim = 30 + time.time_ns() % 80
        while len(read_metrics(out / METRICS)) < aim:
            assert child.poll() is None and time.monotonic() < deadline, child.communicate()[1].decode()
            time.sleep(0.002)
    finally:
        child.kill()
        child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert 25 <= open_artifact(out).manifest.info["step"] < 200
    said: list[Event] = []
    train(pairs, out, tiny(**options), say=said.append)
    assert any("going on from step" in e.text for e in said)
    train(pairs, straight, tiny(**options))
    assert same(out, straight)
    assert losses(out) == losses(straight)
    assert not [p for p in out.rglob(".*")]


def test_killed_before_the_first_checkpoint_begins_anew_without_complaint(pairs, whole, tmp_path):
    out = tmp_path / "student"

    def die(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(pairs, out, tiny(), say=die)
    assert not (out / "state").exists() and open_artifact(out).manifest.info["step"] == 0
    train(pairs, out, tiny())
    assert same(whole, out)


def test_a_trained_student_without_checkpoints_is_not_begun_anew_silently(pairs, tmp_path):
    out = tmp_path / "student"
    train(pairs, out, tiny(steps=5))
    shutil.rmtree(out / "state")
    assert train(pairs, out, tiny(steps=5)).info["complete"]
    with pytest.raises(ArtifactError, match=r"the weights of step 5, and no checkpoint[\s\S]*--init"):
        train(pairs, out, tiny())
    assert load_student(out)[2]["step"] == 5


def test_more_steps_go_on_from_a_finished_run(pairs, whole, tmp_path):
    out = tmp_path / "student"
    train(pairs, out, tiny(steps=11))
    assert train(pairs, out, tiny()).info["steps"] == 20
    assert same(whole, out)
    with pytest.raises(UsageError, match=r"trained for 20 steps already[\s\S]*15 steps asked"):
        train(pairs, out, tiny(steps=15))


def test_other_settings_or_pairs_are_refused_by_name_unless_restarted(pairs, whole, tmp_path):
    out = tmp_path / "student"
    train(pairs, out, tiny(steps=6))
    kept = (out / "manifest.json").read_bytes()
    with pytest.raises(UsageError, match=r"optimizer.lr: 0.003 → 0.001; batch: 8 → 4[\s\S]*--restart"):
        train(pairs, out, tiny(optimizer__lr=1e-3, batch=4))
    with pytest.raises(UsageError, match="other pairs"):
        train(write_pairs(tmp_path / "other", seed=8), out, tiny())
    assert (out / "manifest.json").read_bytes() == kept
    train(pairs, out, tiny(), restart=True)
    assert same(whole, out)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(pairs, whole, tmp_path):
    out = tmp_path / "student"
    train(pairs, out, tiny(steps=15))
    file = out / "state" / "step-0000015" / "state.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    said: list[Event] = []
    train(pairs, out, tiny(), say=said.append)
    warnings = [e.text for e in said if e.level == "warning"]
    assert len(warnings) == 1 and "step-0000015" in warnings[0]
    assert any("from step 10 of 20" in e.text for e in said)
    assert same(whole, out)
    assert (out / "state" / "step-0000015.damaged").is_dir()


def test_when_no_checkpoint_is_good_nothing_is_begun_silently(pairs, tmp_path):
    out = tmp_path / "student"
    train(pairs, out, tiny(steps=6, keep_last=1))
    (out / "state" / "step-0000006" / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="no checkpoint"):
        train(pairs, out, tiny())


def test_a_damaged_student_is_written_again_from_the_checkpoint(pairs, whole, tmp_path):
    out = tmp_path / "student"
    train(pairs, out, tiny())
    (out / "student.safetensors").write_bytes(b"short")
    said: list[Event] = []
    train(pairs, out, tiny(), say=said.append)
    assert said[0].level == "warning"
    assert same(whole, out) and open_artifact(out).manifest.info["complete"]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(pairs, tmp_path):
    out = tmp_path / "student"
    train(pairs, out, tiny(steps=5))
    m = open_artifact(out).manifest
    wild = tiny(optimizer__lr=1e30)
    seal(out, "student", m.files, parents=m.parents, info=m.info, spec=m.spec, settings=wild.model_dump(mode="json"))
    with pytest.raises(NumericsError, match=r"not finite at step 7\b[\s\S]*step-0000005") as caught:
        train(pairs, out, wild)
    assert "--init" in caught.value.fix
    found = load_state(out, lambda e: None)
    assert found is not None and found[1].step == 5
    assert all(torch.isfinite(t).all() for t in load_student(out)[0].state_dict().values())


def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_one(pairs, whole, tmp_path):
    out = tmp_path / "student"
    train(pairs, out, tiny(steps=7))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(OutputError, match="could not be written"):
            train(pairs, out, tiny())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert open_artifact(out).manifest.info["step"] == 7
    train(pairs, out, tiny())
    assert same(whole, out)


def test_outputs_that_are_not_a_run_are_left_alone(pairs, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep me")
    with pytest.raises(OutputError, match="did not make"):
        train(pairs, tmp_path / "mine", tiny())
    for restart in (False, True):
        with pytest.raises(OutputError, match="kind 'pairs'"):
            train(pairs, write_pairs(tmp_path / "p"), tiny(), restart=restart)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "keep me"


def test_two_processes_do_not_train_in_one_folder(pairs, tmp_path):
    out = tmp_path / "student"
    train(pairs, out, tiny(steps=4))
    with held(out, "training in"):
        with pytest.raises(OutputError, match="another process"):
            train(pairs, out, tiny())
        with pytest.raises(OutputError, match="another process"):
            train(pairs, out, tiny(), restart=True)
    train(pairs, out, tiny())


def test_a_warm_start_takes_the_weights_and_names_them(pairs, whole, tmp_path):
    manifest = train(pairs, tmp_path / "warm", tiny(steps=1, optimizer__lr=1e-9), init=whole)
    assert [(p.role, p.digest) for p in manifest.parents][1] == ("init", open_artifact(whole).manifest.digest)
    start, warm = load_student(whole)[0].state_dict(), load_student(tmp_path / "warm")[0].state_dict()
    assert all(torch.allclose(start[n], warm[n], atol=1e-7) for n in start)
    bare = train(pairs, tmp_path / "bare", tiny(steps=1, optimizer__lr=1e-9), init=whole / "student.safetensors")
    assert bare.parents[1].kind == "weights"
    with pytest.raises(UsageError, match="other init"):
        train(pairs, tmp_path / "warm", tiny(steps=2, optimizer__lr=1e-9))
    with pytest.raises(UsageError, match="another design"):
        train(pairs, tmp_path / "deep", tiny(model__depth=3), init=whole)


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_a_small_problem_is_learned(pairs, tmp_path, loss):
    out = tmp_path / "student"
    train(pairs, out, tiny(loss__name=loss, steps=300, log_every=50, checkpoint_every=300, label_dropout=0.0))
    values = [value for _, value, _ in losses(out)]
    assert values[-1] < values[0] * (0.4 if loss == "l1" else 0.2)


def test_lpips_is_learned_and_its_weights_are_recorded(tmp_path):
    weights = ROOT.parent / "shared" / "data" / "squeezenet1_1_from_ncnn_fp16.pth"
    if not weights.is_file():
        pytest.skip("../shared/data is not here")
    out = tmp_path / "student"
    settings = tiny(loss__name="lpips", loss__lpips__net="squeeze", loss__lpips__weights=weights,
                    loss__lpips__resolution="native", model__patch=4, steps=60, log_every=10,
                    optimizer__lr=5e-3, label_dropout=0.0)
    pairs = write_pairs(tmp_path / "p", image=20, channels=3)
    manifest = train(pairs, out, settings)
    values = [value for _, value, _ in losses(out)]
    assert values[-1] < 0.7 * values[0]
    assert manifest.info["loss"]["net"] == "squeeze" and len(manifest.info["loss"]["trunk_sha256"]) == 64


def test_other_weights_of_lpips_are_refused_and_the_same_under_another_name_are_not(tmp_path):
    models = pytest.importorskip("torchvision.models")
    pairs = write_pairs(tmp_path / "p", image=20, channels=3)
    for name in ("a.pth", "b.pth"):
        torch.save(models.squeezenet1_1(weights=None).state_dict(), tmp_path / name)
    (tmp_path / "a again.pth").write_bytes((tmp_path / "a.pth").read_bytes())

    def run(weights: str, steps: int) -> None:
        lpips = {"loss__lpips__net": "squeeze", "loss__lpips__resolution": "native", "loss__lpips__weights": tmp_path / weights}
        train(pairs, tmp_path / "student", tiny(loss__name="lpips", model__patch=4, steps=steps, **lpips))

    run("a.pth", 1)
    with pytest.raises(UsageError, match=r"another loss[\s\S]*trunk_sha256"):
        run("b.pth", 2)
    run("a again.pth", 2)


@pytest.mark.parametrize("options", [{"optimizer__grad_clip": 1e-3}, {"precision": "bf16"}, {"optimizer__name": "muon"},
                                     {"optimizer__schedule": "cosine", "optimizer__warmup_steps": 6}])
def test_options_resume_exactly_too(pairs, tmp_path, options):
    train(pairs, tmp_path / "a", tiny(**options))
    with pytest.raises(Interrupted):
        train(pairs, tmp_path / "b", tiny(**options), say=stop_at(8))
    train(pairs, tmp_path / "b", tiny(**options))
    assert same(tmp_path / "a", tmp_path / "b")


def test_devices_and_precisions_that_are_not_there(pairs, tmp_path):
    with pytest.raises(UsageError, match="is not a device"):
        train(pairs, tmp_path / "o", tiny(device="gpu9"))
    with pytest.raises(UsageError, match="tf32 needs"):
        train(pairs, tmp_path / "o", tiny(precision="tf32"))
    if not torch.cuda.is_available():
        with pytest.raises(MissingError, match="no CUDA device"):
            train(pairs, tmp_path / "o", tiny(device="cuda"))
    assert not (tmp_path / "o").exists()


def test_settings_of_torch_are_put_back(pairs, tmp_path):
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    train(pairs, tmp_path / "o", tiny(steps=1, threads=before[0] + 1))
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before


def test_plan_writes_nothing_and_reckons_the_run(pairs, tmp_path):
    before = sorted(pairs.parent.rglob("*"))
    result = plan(pairs, tiny(steps="none", epochs=10))
    assert (result["steps"], result["images"], result["pairs"], result["epochs"]) == (60, 480, 48, 10)
    assert result["parameters"] == 15_092 and result["student_flops"] > 0
    assert result["wall_s"] == pytest.approx(result["step_ms"] * 60 / 1e3)
    assert result["settings"]["model"]["depth"] == TINY["model"]["depth"]
    json.dumps(result)
    assert sorted(pairs.parent.rglob("*")) == before


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 1.6 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1600k", "tmpfs", str(disk)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no right to mount a small file system: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_keeps_the_last_checkpoint_and_the_same_command_goes_on(pairs, whole, small_disk):
    out, filler = small_disk / "student", small_disk / "filler"
    filler.write_bytes(bytes(800_000))
    with pytest.raises(OutputError, match=r"No space left(.|\n)*free some space"):
        train(pairs, out, tiny())
    kept = open_artifact(out).manifest.info["step"]
    found = load_state(out, lambda event: None)
    assert found is not None and 0 < found[1].step < 20 and kept <= found[1].step
    filler.unlink()
    train(pairs, out, tiny(keep_last=1))
    assert same(whole, out)
